#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Rehearses the life of an installation in a root of Debian's own, from nothing: the package is
installed with apt, the machine is booted (QEMU with SVM, as in the svm lab) and a VM run, kernel,
package and Debian are upgraded, the machine sleeps, modules are tampered with, the package is
removed. apt, dpkg and DKMS run in a chroot, on this machine's own CPUs; what is booted is the same
disk, and does what rehearsal.sh says. Called by `make check-install`; ends with "N passed, N failed".

exit status: 0 all passed, 1 some failed, 2 wrong usage, 130 interrupted"""
import argparse
import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)     # the packages
from lab import bases
from selftests.project import Failed, need

START = int(os.environ.get("KVM_MODE_START", time.time()))
BOOT_SECONDS = 420
# Linux measures its clock by QEMU's timers, in two ways, and takes the first. On a busy machine that was an order of
# magnitude off, and all that waits for so many seconds gives up too soon.
CLOCK = re.compile(rb"PIT calibration deviates from PMTIMER: (\d+) (\d+)")
CLOCK_FACTOR = 1.5
CLOCK_TRIES = 5
READY_MINUTES = 10      # from a fresh root to a VM on patched KVM
MODULES = ("kvm", "kvm-intel", "kvm-amd")
NEXT = {"bookworm": "trixie"}   # releases of Debian that both have a base
UNIT = """[Unit]
After=multi-user.target
[Service]
Type=oneshot
ExecStart=/rehearsal/rehearsal.sh
[Install]
WantedBy=graphical.target multi-user.target
"""


# The kernel's packages as a revision would be; the module is another file, and works.
# RELEASE VERSION MODULE PACKAGE...
REVISE = """
release=$1 version=$2 module=$3
shift 3
mkdir -p /rehearsal/revised
cd /rehearsal/revised
for package; do
	apt-get -q download "$package=$version"
	dpkg-deb -R "$package"_*.deb tree
	rm "$package"_*.deb
	sed -i -e "s/^Version: .*/&+revised/" tree/DEBIAN/control
	for other; do
		sed -i "s/\\b$other (= $version)/$other (= $version+revised)/g" tree/DEBIAN/control
	done
	file=tree/lib/modules/$release/kernel/arch/x86/kvm/$module
	[ -e "$file" ] || file=tree/usr/${file#tree/}
	if [ -e "$file" ]; then
		case $module in
		*.xz) xz -d "$file"; strip -g "${file%.xz}"; xz --check=crc32 "${file%.xz}" ;;
		*) strip -g "$file" ;;
		esac
		sed -i "\\#kvm/$module\$#d" tree/DEBIAN/md5sums
		cp "$file" .
	fi
	dpkg-deb -Znone -b tree "$package.deb" >/dev/null
	rm -rf tree
done
"""

# This package as a newer one would be: PACKAGE VERSION NEWER
NEWER = """
mkdir -p /rehearsal/newer
cd /rehearsal/newer
dpkg-deb -R "$1" tree
mv "tree/usr/src/kvm-mode-$2" "tree/usr/src/kvm-mode-$3"
grep -rlF "$2" tree | xargs sed -i "s/${2//./\\.}/$3/g"
rm tree/DEBIAN/md5sums
dpkg-deb -Znone -b tree "kvm-mode-dkms_$3_all.deb" >/dev/null
rm -r tree
"""


def say(text):
    passed = int(time.time()) - START
    print(f"[{passed // 60}:{passed % 60:02d}] {text}", file=sys.stderr, flush=True)


def run(*command, **options):
    done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, text=True,
                          stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, errors="replace",
                          check=False, **options)
    return done.returncode, done.stdout


def must(*command, **options):
    status, out = run(*command, **options)
    need(status == 0, f"{' '.join(str(w) for w in command[:4])}: status {status}: {out[-1500:]}")
    return out


class Machine:
    """A disk with a Debian root: worked on in a chroot, booted in QEMU."""

    def __init__(self, suite, work, build):
        self.suite, self.work, self.build = suite, work, build
        self.debian = suite.removesuffix("-backports")
        self.base = None    # of the kernels that this is about
        self.disk, self.mount = work / f"{suite}.img", work / "mnt"
        self.log = work / f"{suite}.log"
        self.log.write_text("")

    def create(self):
        """mmdebstrap with the host's mirrors; kept, since it is the same each time."""
        base = self.work / f"{self.suite}.tar"
        if not base.exists():
            say(f"a root of {self.suite} (about a minute)")
            new = base.with_suffix(".new.tar")
            must("mmdebstrap", "--variant=apt", "--aptopt=Acquire::Check-Valid-Until \"false\"",
                 "--include=systemd-sysv,dbus,udev,kmod,ca-certificates,debian-archive-keyring,zstd",
                 self.debian, new, *self.sources(self.debian))
            new.rename(base)
        self.disk.unlink(missing_ok=True)
        with self.disk.open("wb") as file:
            file.truncate(8 << 30)
        must("mke2fs", "-q", "-t", "ext4", self.disk)
        with self.mounted() as root:
            must("tar", "xf", base, "-C", root)
            (root / "rehearsal").mkdir()
            shutil.copy(self.build / "bin/kvm-mode-bench", root / "rehearsal")
            shutil.copy(ROOT / "selftests/rehearsal.sh", root / "rehearsal")
            (root / "rehearsal/rehearsal.sh").chmod(0o755)
            (root / "etc/systemd/system/rehearsal.service").write_text(UNIT)
            (root / "etc/modprobe.d/rehearsal.conf").write_text("options kvm ignore_msrs=1\n")
            # As whoever has options needs it where dracut takes KVM into the initramfs.
            (root / "etc/dracut.conf.d").mkdir()
            (root / "etc/dracut.conf.d/rehearsal.conf").write_text(
                'install_items+=" /etc/modprobe.d/rehearsal.conf "\n')
            (root / "etc/fstab").write_text("/dev/vda / ext4 defaults 0 1\n")
            self.chroot("systemctl", "enable", "rehearsal.service")
            self.chroot("apt-get", "update", "-q")
            self.base = next((base for base in reversed(bases.names()) if kernels(self, base)), None)
        need(self.base, f"{self.suite} has no kernel that there are patches for")

    def sources(self, debian):
        """The host's mirrors, with this release of Debian, and its backports if the suite is these."""
        listed = must("apt-get", "indextargets", "--format", "$(REPO_URI) $(ORIGIN)")
        uris = {uri for uri, origin in map(str.split, listed.splitlines()) if origin == "Debian"}
        main = next(uri for uri in sorted(uris) if "security" not in uri)
        security = next(uri for uri in sorted(uris) if "security" in uri)
        suites = [debian] + [self.suite] * (self.suite != self.debian)
        return [*(f"deb {main} {suite} main" for suite in suites), f"deb {security} {debian}-security main"]

    @contextlib.contextmanager
    def mounted(self):
        self.mount.mkdir(exist_ok=True)
        while self.mount.is_mount():    # of a run that was killed
            self.unmount()
        must("mount", "-o", "loop", self.disk, self.mount)
        try:
            yield self.mount
        finally:
            self.unmount()

    def unmount(self):
        """What was killed in the chroot may take a moment to be gone."""
        for _ in range(20):
            status, out = run("umount", self.mount)
            if not status:
                return
            time.sleep(0.5)
        raise Failed(f"umount {self.mount}: {out}")

    def chroot(self, *command, ok=True):
        """In a mount namespace of its own, so that nothing stays mounted whatever happens."""
        script = ('mount -t proc proc "$0/proc"; mount --bind /dev "$0/dev"; '
                  'mount -t devpts pts "$0/dev/pts"; cat /etc/hosts >"$0/etc/hosts"; '
                  'cat /etc/resolv.conf >"$0/etc/resolv.conf"; '
                  'exec chroot "$0" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root '
                  'DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8 "$@"')
        status, out = run("unshare", "--mount", "--pid", "--fork", "--kill-child", "bash", "-c",
                          script, self.mount, *command)
        with self.log.open("a") as log:
            log.write(f"$ {' '.join(str(w) for w in command)}\n{out}")
        need(status == 0 or not ok, f"{' '.join(map(str, command[:5]))}: status {status}: {out[-1500:]}")
        return out if ok else (status, out)

    def apt(self, *words, ok=True):
        return self.chroot("apt-get", "-q", "-y", *words, ok=ok)

    def install(self, *packages):
        """From backports, if the suite is these."""
        target = ("-t", self.suite) if self.suite != self.debian else ()
        self.apt("install", "--no-install-recommends", *target, *packages)

    def boot(self, release, what, *parameters, seconds=BOOT_SECONDS):
        """Boots the disk with a kernel of its own; the lines that the machine said."""
        say(f"{self.suite}: booting {release}, {what} (about a minute)")
        with self.mounted() as root:
            for name in ("vmlinuz", "initrd.img"):
                shutil.copy(root / f"boot/{name}-{release}", self.work / name)
        for tried in range(1, CLOCK_TRIES + 1):
            if self.powers_off(what, parameters, seconds, tried < CLOCK_TRIES):
                break
            say(f"{self.suite}: this machine is busy, and the one that boots has its clock wrong: again")
        lines = self.lines(what)
        need(lines and lines[-1] == "end",
             f"{what}: did not come to its end, see {self.serial(what)}, {self.said(what)}")
        need(lines[0] == f"kernel {release}", f"{what}: booted another kernel: {lines[:1]}")
        return "\n".join(lines)

    def powers_off(self, what, parameters, seconds, gives_up):
        """Runs the machine.  False, if it @gives_up: its clock is wrong, it has done nothing yet."""
        serial, said = self.serial(what), self.said(what)
        for file in (serial, said):
            file.unlink(missing_ok=True)
        qemu = self.build / "qemu-mended"
        emulator = subprocess.Popen(
            [qemu / "qemu-system-x86_64", "-L", qemu / "share", "-M", "q35", "-accel",
             "tcg,thread=multi", "-cpu", "EPYC,+svm,+npt", "-smp", "4", "-m", "2048", "-nodefaults",
             "-display", "none", "-no-reboot", "-serial", f"file:{serial}", "-serial", f"file:{said}",
             "-drive", f"file={self.disk},format=raw,if=none,id=disk,cache=unsafe",
             "-device", "virtio-blk-pci,drive=disk", "-kernel", self.work / "vmlinuz",
             "-initrd", self.work / "initrd.img", "-append",
             " ".join(("root=/dev/vda rw console=ttyS0,115200 mitigations=off tsc=reliable panic=-1",
                       "no_timer_check random.trust_cpu=on systemd.show_status=0 loglevel=5 kvm_amd.nested=0",
                       f"rehearsal={what}", *parameters))],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=(self.work / "qemu.log").open("w"))
        end = time.time() + seconds
        try:
            while emulator.poll() is None:
                if gives_up and not self.lines(what) and self.clock_is_wrong(serial):
                    return False
                need(time.time() < end, f"{what}: the machine did not power off in {seconds} s, see {serial}")
                time.sleep(1)
        finally:
            emulator.kill()
            emulator.wait()
        return True

    @staticmethod
    def clock_is_wrong(serial):
        found = serial.exists() and CLOCK.search(serial.read_bytes())
        return found and not 1 / CLOCK_FACTOR < int(found[1]) / int(found[2]) < CLOCK_FACTOR

    def serial(self, what):
        """The console of a boot, a file."""
        return self.work / f"{self.suite}-{what}.serial"

    def said(self, what):
        """What rehearsal.sh said in a boot, a file."""
        return self.serial(what).with_suffix(".said")

    def lines(self, what):
        said = self.said(what)
        return said.read_text(errors="replace").replace("\r", "").splitlines() if said.exists() else []

    def hashes(self, release):
        """Of all files that the kernel's package brought, and of what else there is."""
        folder = self.mount / "lib/modules" / release
        return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
                for path in sorted(folder.rglob("*")) if path.is_file() and not path.is_symlink()}

    def with_dracut(self):
        return "installed dracut" in self.packages("dracut*")

    def packages(self, pattern):
        """A line "STATUS NAME" for each."""
        return self.chroot("dpkg-query", "-W", "-f", "${db:Status-Status} ${Package}\n", pattern,
                           ok=False)[1].splitlines()

    def module_version(self, release):
        """Of the modules that are installed for a kernel: DKMS's"""
        files = [f"/lib/modules/{release}/updates/dkms/{name}" for name in modules_of(self.mount, release)]
        found = {self.chroot("modinfo", "-F", "version", file).strip() for file in files}
        return found.pop() if len(files) == len(MODULES) and len(found) == 1 else None

    def make_initramfs(self, release):
        """By hand, with what is installed now"""
        if self.with_dracut():
            self.chroot("dracut", "--quiet", "--force", f"/boot/initrd.img-{release}", release)
        else:
            self.chroot("update-initramfs", "-u", "-k", release)


def kernels(machine, base):
    """The newest kernel of a base, and the one before it, by their releases and package versions."""
    prefix = f"linux-image-{base}."
    names = [name for name in machine.chroot("apt-cache", "pkgnames", prefix).split()
             if re.fullmatch(rf"{re.escape(prefix)}\d+\+deb\d+(\+\d+)?-amd64", name)]
    shown = machine.chroot("apt-cache", "show", *names) if names else ""
    found = dict(reversed(re.findall(r"^Package: linux-image-(\S+)\n(?:.*\n)*?Version: (.*)$", shown,
                                     re.MULTILINE)))
    return sorted(found.items(), key=lambda item: [int(n) for n in re.findall(r"\d+", item[0])],
                  reverse=True)[:2]


def foreign(machine):
    """A kernel of a version that there are no patches for, or None: bookworm's own, 6.1."""
    names = re.findall(r"^linux-image-(6\.1\.0-(\d+)-amd64)$",
                       machine.chroot("apt-cache", "pkgnames", "linux-image-6.1.0-"), re.MULTILINE)
    return max(names, key=lambda found: int(found[1]))[0] if names else None


def install_kernel(machine, base, kernel):
    """With its headers, and its source unless @base is None."""
    release, version = kernel
    exactly = f"={version}" if version else ""
    machine.install(f"linux-image-{release}{exactly}", f"linux-headers-{release}{exactly}",
                    *([f"linux-source-{base}{exactly}"] if base else []))


def packages_of(machine, release):
    """All that the kernel is in."""
    return [line.split()[1] for line in machine.packages(f"linux-*-{release}") if line.startswith("installed ")]


def ran_a_vm(said, patched, what):
    need("vm 0" in said.splitlines() and '"lost":0' in said, f"{what}: no VM ran:\n{said}")
    # The kernel's own have no version, and kvm-mode may be gone.
    need(bool(re.search(r"^kvm-mode-\S+\+\S+$", said, re.MULTILINE)) == patched,
         f"{what}: patched {not patched}:\n{said}")


def parameters(said):
    """{when: (digest of all, ignore_msrs, nested)}: the options of modprobe.d and of the command line."""
    return {when: (digest, ignore, nested) for when, digest, ignore, nested in
            re.findall(r"^parameters (\w+): (\w+) (\w+) (\w+)$", said, re.MULTILINE)}


def modules_of(root, release):
    return sorted(path.name for path in (root / "lib/modules" / release / "updates/dkms").glob("kvm*.ko*"))


class Skipped(Exception):
    """What a suite has nothing for."""


class Rehearsal:
    """The steps, in order; each rests upon those before it."""

    def __init__(self, machine, package):
        self.machine, self.package = machine, package
        self.new = self.old = None
        self.built_old = False
        self.before = {}
        self.start = time.time()

    def refused(self):
        """a kernel that the patches are not for: said why, apt content, its own KVM works"""
        m = self.machine
        with m.mounted():
            self.new, *others = kernels(m, m.base)
            if not others:
                raise Skipped(f"this suite has one {m.base} kernel only")
            self.old = others[0]
            install_kernel(m, None, self.old)
            self.before[self.old[0]] = m.hashes(self.old[0])
            shutil.copy(self.package, m.mount / "rehearsal")
            out = m.apt("install", "--no-install-recommends", f"/rehearsal/{self.package.name}")
            need(f"no source of {self.old[0]}" in out or "do not fit" in out,
                 f"no reason given: {out[-800:]}")
            # Its source comes after the headers and after the package.
            m.apt("install", "--allow-downgrades", f"linux-source-{m.base}={self.old[1]}")
            why = m.chroot("sh", "-c", f"sh /usr/src/kvm-mode-*/dkms/supported {self.old[0]} --why",
                           ok=False)
            need(why[0] == 0 or "do not fit" in why[1], f"{why}")
            need(bool(modules_of(m.mount, self.old[0])) == (why[0] == 0), "not built when its source came")
        self.built_old = why[0] == 0
        ran_a_vm(m.boot(self.old[0], "unsupported"), self.built_old, "unsupported")
        return why[1].strip() if why[0] else "supported as well"

    def other_base(self):
        """a kernel of a version without patches: apt content, no module built, said why"""
        m = self.machine
        with m.mounted():
            release = foreign(m)
            if not release:
                raise Skipped("this suite has none")
            install_kernel(m, None, (release, None))
            self.before[release] = there = m.hashes(release)
            built = [name for name in there if name.startswith("updates/")]
            need(not built, f"{release}: {built}")
            status, why = m.chroot("sh", "-c", "sh /usr/src/kvm-mode-*/dkms/supported "
                                   f"{release} --why", ok=False)
            need(status == 1 and f"no patches for Linux {release}" in why, f"status {status}: {why}")
        return why.strip()

    def upgraded(self):
        """the kernel's package is upgraded: DKMS builds, and the modules are the patched ones"""
        m = self.machine
        start = time.time()
        with m.mounted():
            release, _ = self.new
            if not (m.mount / "rehearsal" / self.package.name).exists():
                shutil.copy(self.package, m.mount / "rehearsal")
                m.apt("install", "--no-install-recommends", f"/rehearsal/{self.package.name}")
            self.with_modules(m.base, self.new)
        said = m.boot(release, "patched")
        ran_a_vm(said, True, "patched")
        need("status 0" in said.splitlines(), said)
        upgrade, whole = (time.time() - start) / 60, (time.time() - self.start) / 60
        need(whole < READY_MINUTES, f"{whole:.1f} minutes from a fresh root to a VM on patched KVM")
        return (f"{upgrade:.1f} minutes from the upgrade to a VM on patched KVM, "
                f"{whole:.1f} from the fresh root")

    def with_modules(self, base, kernel):
        """A kernel is installed, for which there have to be modules then."""
        install_kernel(self.machine, base, kernel)
        there = self.machine.hashes(kernel[0])
        for module in MODULES:
            need(any(name.startswith(f"updates/dkms/{module}.ko") for name in there),
                 f"DKMS has built no {module} for {kernel[0]}")
        self.before[kernel[0]] = {name: value for name, value in there.items() if name.startswith("kernel/")}

    def two_bases(self):
        """a kernel of another base beside: modules for both, and its own boots with its own"""
        m = self.machine
        with m.mounted():
            others = [(base, kernels(m, base)) for base in bases.names() if base != m.base]
            base, found = next(((base, found) for base, found in others if found), (None, None))
            if not base:
                raise Skipped(f"this suite has {m.base} only")
            self.with_modules(base, found[0])
            need(modules_of(m.mount, self.new[0]), f"{self.new[0]} has lost its modules")
        ran_a_vm(m.boot(found[0][0], "two-bases"), True, "two-bases")
        return f"{found[0][0]} beside {self.new[0]}"

    def used(self):
        """a VM that runs is named and left alone; stock and back without a reboot"""
        lines = self.machine.lines("patched")
        need("in use 3" in lines, f"not refused: {lines}")
        need(any(re.match(r"kvm-mode: KVM is in use by kvm-mode-bench \(pid \d+\)", line)
                 for line in lines), f"user not named: {lines}")
        need(any(re.match(r"counters +moving.*exits \+", line) for line in lines), f"{lines}")
        stock, load = lines.index("stock 0"), lines.index("load 0")
        need(any(re.match("patched +no", line) for line in lines[stock:load]) and
             any(re.match("patched +yes", line) for line in lines[load:]), f"{lines}")
        seen = parameters("\n".join(lines))
        need(set(seen) == {"booted", "stock", "load"} and len(set(seen.values())) == 1, f"parameters: {seen}")
        need(seen["booted"][1:] == ("Y", "0"), f"options lost: {seen}")
        held = [line for line in lines[stock:load] if line.startswith("held ")]
        need(not held or held == ["held 3"] and "kvm-amd live" in lines and
             any("in use by the modules kvmgt" in line for line in lines),
             f"another importer: {lines[stock:load]}")
        self.live(lines)
        return "" if held else "this kernel has no kvmgt"

    def live(self, lines):
        """kvm-mode estimate and compare, of a CPU that does not count what they are about"""
        need("compare 0" in lines and "estimate 0" in lines, f"estimate, compare: {lines}")
        compared = json.loads(next(line for line in lines if line.startswith('{"kvm"')))
        need(compared["pairs"] >= 5 and compared["rows"], f"compare: {compared}")

    def reinstalled(self):
        """the package is upgraded: the kernel to roll back to keeps modules, as its source was kept"""
        m = self.machine
        releases = [self.new[0]] + ([self.old[0]] if self.built_old else [])
        with m.mounted() as root:
            m.apt("install", "--reinstall", f"/rehearsal/{self.package.name}")
            for release in releases:
                need(modules_of(root, release), f"{release} has lost its modules")
            need("building" not in m.chroot("kvm-mode", "build"), "built again, for nothing")
        return f"{len(releases)} kernels"

    def tampered(self):
        """a module that was tampered with: the kernel's own is loaded, whoever else tries, and it is said"""
        m, release = self.machine, self.new[0]
        with m.mounted() as root:
            module = next(root.glob(f"lib/modules/{release}/updates/dkms/kvm.ko*"))
            kept = module.read_bytes()
            module.write_bytes(kept[:len(kept) // 2])
            m.make_initramfs(release)
        try:
            said = m.boot(release, "tampered")
        finally:
            with m.mounted():
                module.write_bytes(kept)
                m.make_initramfs(release)
        ran_a_vm(said, False, "tampered")
        tries = re.findall("^ensure .*", said, re.MULTILINE)
        need(tries == ["ensure 1: live"] * 10, f"beside others that load modules: {said}")
        need(parameters(said)["booted"][1:] == ("Y", "0"), f"options lost: {parameters(said)}")
        # At the boot; the tries say the same, without the journal's mark.
        need(re.search(r"kvm-mode\[\d+\]: .*kernel's own are loaded instead", said), f"not said: {said}")

    def unsigned(self):
        """modules whose key is not enrolled, where the kernel wants one: the kernel's own are loaded"""
        said = self.machine.boot(self.new[0], "unsigned", "module.sig_enforce=1")
        ran_a_vm(said, False, "unsigned")
        need("kernel's own are loaded instead" in said, f"not said: {said}")

    def unwanted(self):
        """where modprobe's blacklist has KVM, or a command instead, nothing loads it but by hand"""
        said = self.machine.boot(self.new[0], "unwanted", "modprobe.blacklist=kvm_amd")
        lines = said.splitlines()
        need(lines.index("no KVM is loaded") < lines.index("load 0"), f"loaded: {said}")
        need(all(mark in lines for mark in ("ensure 0", "load 1", "stock 1")), said)
        need("modprobe is told to run '/bin/false' for kvm-amd" in said, f"not said: {said}")
        need(re.search(r"kvm-mode\[\d+\]: .*kvm-amd is on modprobe's blacklist", said),
             f"not in the journal: {said}")

    def in_initramfs(self):
        """KVM in the initramfs: the patched one once it is installed, none of it once it is not"""
        m, release = self.machine, self.new[0]
        with m.mounted() as root:
            # dracut has it in any case.
            listed = root / "etc/initramfs-tools/modules"
            kept, module = "" if m.with_dracut() else listed.read_text(), f"kvm-mode/{self.dkms_version()}"
            m.chroot("dkms", "uninstall", module, "-k", release)
            if not m.with_dracut():
                listed.write_text(kept + "kvm_amd\n")
            m.make_initramfs(release)
            m.chroot("sh", "-c", f"sh /usr/src/kvm-mode-*/dkms/initramfs --has-own {release}")
            m.chroot("kvm-mode", "build")
        ran_a_vm(m.boot(release, "initramfs"), True, "initramfs")
        with m.mounted() as root:
            m.chroot("sh", "/var/lib/dpkg/info/kvm-mode-dkms.prerm", "remove")
        ran_a_vm(m.boot(release, "initramfs-removed"), False, "initramfs-removed")
        with m.mounted() as root:
            if not m.with_dracut():
                listed.write_text(kept)
            m.make_initramfs(release)
            m.chroot("dkms", "add", module)

    def interrupted(self):
        """a build that is killed, or finds no space, leaves no module and apt content; the next one works"""
        m, release = self.machine, self.new[0]
        with m.mounted() as root:
            installed = root / "lib/modules" / release / "updates/dkms"
            need(not modules_of(root, release), "in_initramfs has left some")
            status, _ = m.chroot("timeout", "-s", "KILL", "8", "kvm-mode", "build", ok=False)
            need(status != 0, "the build was over before it was killed")
            for other in self.before:
                need(not modules_of(root, other) or m.module_version(other), f"killed: half installed: {other}")
            status, out = m.chroot(
                "bash", "-c", "cp -a /var/lib/dkms /rehearsal/ && mount -t tmpfs -o size=24m small "
                "/var/lib/dkms && cp -a /rehearsal/dkms/. /var/lib/dkms && "
                f"apt-get -q -y install --reinstall linux-headers-{release}; "
                "status=$?; cat /var/lib/dkms/kvm-mode/*/build/make.log; exit $status", ok=False)
            need(status == 0 and "No space left" in out, f"no space: status {status}: {out[-800:]}")
            need(f"no modules for {release}, which keeps its own" in out, f"not said: {out[-800:]}")
            need(not list(installed.glob("*.ko*")), "no space: half installed")
            need("install ok installed" in m.chroot("dpkg-query", "-W", "-f", "${Status}", "kvm-mode-dkms"),
                 "half configured")
            m.chroot("kvm-mode", "build")
            found = {path.name.split(".")[0] for path in installed.iterdir()}
            need(found == set(MODULES), f"{found}")

    def dkms_version(self):
        return self.package.name.split("_")[1]

    def revised(self):
        """the kernel's package is revised under its release: its own KVM, until there is its source"""
        m, (release, version) = self.machine, self.new
        kernel = m.mount / "lib/modules" / release / "kernel/arch/x86/kvm"
        with m.mounted() as root:
            moved = root / f"var/lib/dkms/kvm-mode/original_module/{release}/x86_64"
            name = next(path.name for folder in (kernel, moved) for path in folder.glob("kvm.ko*"))
            packages = packages_of(m, release)
            m.chroot("bash", "-euc", REVISE, "bash", release, version, name, *packages)
            own = hashlib.sha256((root / "rehearsal/revised" / name).read_bytes()).hexdigest()
            m.apt("install", *(f"/rehearsal/revised/{package}.deb" for package in packages))
            need(not modules_of(root, release), f"modules of another revision: {modules_of(root, release)}")
            now = hashlib.sha256((kernel / name).read_bytes()).hexdigest()
            need(now == own, "the kernel's own KVM is not the revised one")
            m.apt("install", "--allow-downgrades", *(f"{package}={version}" for package in packages))
            need(modules_of(root, release), "not built when the kernel was the source's again")
            shutil.rmtree(root / "rehearsal/revised")

    def disturbed(self):
        """CPUs go and come, the machine sleeps, the package is upgraded, a VM goes on: nothing is unloaded"""
        m, release = self.machine, self.new[0]
        package, newer = f"/rehearsal/{self.package.name}", self.dkms_version() + ".1"
        with m.mounted() as root:
            m.chroot("bash", "-euc", NEWER, "bash", package, self.dkms_version(), newer)
            m.apt("install", f"/rehearsal/newer/kvm-mode-dkms_{newer}_all.deb")
            for other in self.before:
                if m.module_version(other):
                    shutil.copytree(root / "lib/modules" / other / "updates/dkms", root / "rehearsal/newer" / other)
            m.apt("install", "--allow-downgrades", package)
        said = m.boot(release, "disturbed", seconds=1200)
        with m.mounted() as root:
            m.apt("install", "--allow-downgrades", package)
            m.chroot("kvm-mode", "build")
            shutil.rmtree(root / "rehearsal/newer")
            need(f"{self.dkms_version()}+" in (m.module_version(release) or ""), "not the older package's again")
        ran_a_vm(said, True, "disturbed")
        lines = said.splitlines()
        for what in ("CPUs went and came", "the machine slept", "the package was upgraded"):
            need(f"VM goes on: {what}" in lines, f"the VM did not go on: {what}: {said}")
        need(said.count("offline and back: ") == 3 and "slept: 1 of s2idle [deep]" in lines, said)
        need(said.count("vm 0") == 3 and said.count('"lost":0') == 3, f"a VM lost something: {said}")
        beside = re.search(r"^VMs beside: (\d+), of these right: (\d+)$", said, re.MULTILINE)
        need(int(beside[1]) == int(beside[2]) > 0, f"a VM beside lost something: {said}")
        upgraded, load = lines.index("upgraded 0"), lines.index("load 0")
        need("in use 3" in lines[upgraded:load], f"loaded beside a VM: {said}")
        need(any(re.match(rf"kvm .*{re.escape(newer)}\+.* waits", line) for line in lines[upgraded:load]),
             f"not said that a newer one waits: {said}")
        need(any(line.startswith("patched") and newer in line for line in lines[load:]), f"not loaded: {said}")

    def by_kexec(self):
        """another kernel is started by kexec in the midst of a VM: patched KVM, and a VM, there"""
        m, release = self.machine, self.new[0]
        with m.mounted():
            m.apt("install", "--no-install-recommends", "kexec-tools")
        said = m.boot(release, "kexec")
        lines = said.splitlines()
        need("kexec 0" in lines and "VM goes on: until the other kernel" in lines, said)
        again = lines.index(f"kernel {release}", lines.index("kexec 0"))
        ran_a_vm("\n".join(lines[again:]), True, "kexec")

    def debian_upgraded(self):
        """the next release of Debian in place: the old kernel keeps its modules, the new one has some"""
        m = self.machine
        following = NEXT.get(m.suite)
        if not following:
            raise Skipped("tried from bookworm")
        old = self.new[0]
        with m.mounted() as root:
            (root / "etc/apt/sources.list").write_text("\n".join(m.sources(following)) + "\n")
            m.chroot("apt-get", "-q", "update")
            m.apt("full-upgrade")
            need(modules_of(root, old), f"{old} has lost its modules")
            self.new = kernels(m, m.base)[0]
            need(self.new[0] != old, f"{following} has the same kernel")
            self.with_modules(m.base, self.new)
            # Built anew, with the compiler that there is now, the old one of the source that was kept.
            m.apt("install", "--reinstall", f"/rehearsal/{self.package.name}")
            need(m.module_version(old) and m.module_version(self.new[0]), "modules are missing")
        for release in (old, self.new[0]):
            said = m.boot(release, f"upgraded-{release}")
            ran_a_vm(said, True, f"upgraded, {release}")
        return f"{old} and {self.new[0]}"

    def by_make(self):
        """make install and make uninstall where the kernel runs: loaded, and back, without a reboot"""
        m, release = self.machine, self.new[0]
        with m.mounted() as root:
            tree = root / "rehearsal/tree"
            (tree / f"patches/{m.base}").mkdir(parents=True)
            for name in ("dkms/install", "scripts/help.sh"):
                (tree / name).parent.mkdir()
                shutil.copy(ROOT / name, tree / name)
        m.boot(release, "make")
        lines = m.lines("make")
        marks = ["stock 0", "install 0", "uninstall 0"]
        need(all(mark in lines for mark in marks), f"{lines}")
        stock, install, uninstall = map(lines.index, marks)
        need(any(re.match("patched +yes", line) for line in lines[stock:install]),
             f"not loaded: {lines[stock:]}")
        need("vm 0" in lines[install:uninstall] and "vm 0" in lines[uninstall:], f"no VM: {lines[stock:]}")
        need("no version" in lines[uninstall:], f"not the kernel's own: {lines[uninstall:]}")

    def removed(self):
        """after make uninstall every file of the kernels' is as it was, KVM is the kernel's at the boot"""
        m = self.machine
        with m.mounted() as root:
            shutil.rmtree(root / "rehearsal/tree")
            for release, before in self.before.items():
                now = m.hashes(release)
                changed = [name for name in before if now.get(name) != before[name]
                           and not name.startswith("modules.")]
                left = [name for name in now if name.startswith("updates/")]
                need(not changed and not left, f"{release}: changed {changed}, left {left}")
                # By the package's checksums: what is in before, DKMS had seen already.
                _, out = m.chroot("dpkg", "--verify", *packages_of(m, release), ok=False)
                need("/lib/modules/" not in out, f"{release}: {out}")
            need(not (root / "var/lib/dkms/kvm-mode").exists(), "DKMS has kept something")
            need(not list(root.glob("usr/src/kvm-mode-*")) and not (root / "var/cache/kvm-mode").exists()
                 and not (root / "var/lib/kvm-mode").exists() and not (root / "usr/sbin/kvm-mode").exists(),
                 "files of the package are left")
        ran_a_vm(m.boot(self.new[0], "removed"), False, "removed")

    def steps(self):
        return (self.refused, self.upgraded, self.used, self.reinstalled, self.other_base, self.two_bases,
                self.disturbed, self.by_kexec, self.tampered, self.unsigned, self.unwanted,
                self.in_initramfs, self.interrupted, self.revised, self.debian_upgraded, self.by_make,
                self.removed)


def rehearse(machine, package):
    """(passed, failed); nothing after a step that failed, as the rest is built upon it."""
    try:
        machine.create()
    except Failed as err:
        print(f"not ok {machine.suite}: a root\n# {err}", flush=True)
        return 0, 1
    rehearsal, passed = Rehearsal(machine, package), 0
    for step in rehearsal.steps():
        start = time.time()
        try:
            note = step()
        except Skipped as why:
            print(f"ok {machine.suite}: {step.__doc__} # SKIP {why}", flush=True)
            continue
        except (Failed, LookupError, ValueError, OSError, StopIteration) as err:
            print(f"not ok {machine.suite}: {step.__doc__}")
            print("# " + str(err).replace("\n", "\n# "), flush=True)
            return passed, 1
        passed += 1
        print(f"ok {machine.suite}: {step.__doc__} # {time.time() - start:.0f} s"
              + (f", {note}" if note else ""), flush=True)
    machine.disk.unlink()
    return passed, 0


def main():
    args = argparse.ArgumentParser(description=__doc__,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--build", default="build", type=Path)
    args.add_argument("--suites", default="bookworm trixie trixie-backports")
    args.add_argument("package", type=Path, help="kvm-mode-dkms_VERSION_all.deb")
    args = args.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if os.geteuid():
        print("install.py: needs root, to mount a disk and to chroot", file=sys.stderr)
        return 2
    work = args.build.resolve() / "install"
    work.mkdir(parents=True, exist_ok=True)
    passed = failed = 0
    try:
        for suite in args.suites.split():
            good, bad = rehearse(Machine(suite, work, args.build.resolve()), args.package)
            passed, failed = passed + good, failed + bad
    except KeyboardInterrupt:
        return 130
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
