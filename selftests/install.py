#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Rehearses the life of an installation in a root of Debian's own, from nothing: the package is
installed with apt, the machine is booted (QEMU with SVM, as in the svm lab) and a VM run, the
kernel is upgraded, modules are tampered with, the package is removed. apt, dpkg and DKMS run
in a chroot, on this machine's own CPUs; what is booted is the same disk. Called by
`make check-install`; ends with "N passed, N failed".

exit status: 0 all passed, 1 some failed, 2 wrong usage, 130 interrupted"""
import argparse
import contextlib
import hashlib
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
from selftests.project import Failed, need

START = int(os.environ.get("KVM_MODE_START", time.time()))
BOOT_SECONDS = 420
READY_MINUTES = 10      # from a fresh root to a VM on patched KVM
MODULES = ("kvm", "kvm-intel", "kvm-amd")
# What the machine does when it is booted, before it powers off.
UNIT = """[Unit]
After=multi-user.target
[Service]
Type=oneshot
ExecStart=/rehearsal/run
StandardOutput=tty
TTYPath=/dev/ttyS0
[Install]
WantedBy=graphical.target multi-user.target
"""
# Statuses and outputs are read from a serial port of their own: the console's getty throws
# away what is still to be sent when it starts.
RUN = """#!/bin/bash
say() { cat >/dev/ttyS1; }
exec </dev/null
[ -e /rehearsal/unwanted ] || for _ in $(seq 60); do [ ! -e /dev/kvm ] || break; sleep 1; done
echo "kernel $(uname -r)" | say
cat /sys/module/kvm/version 2>/dev/null | say
{ kvm-mode status; echo "status $?"; } 2>&1 | say
# With gaps in which the target computes on a slow machine, too.
vm() {
	/rehearsal/kvm-mode-bench post --json --posts 300 --workload exits --gap 0:1000000
	echo "vm $?"
}
# What both kinds of modules have.
parameters() {
	echo "parameters $1: $(cd /sys/module && grep -H . kvm/parameters/* kvm_amd/parameters/* |
		grep -v -E 'precise_notify|elide_kicks' | sha256sum | cut -c1-16)" \
		"$(cat /sys/module/kvm/parameters/ignore_msrs)" "$(cat /sys/module/kvm_amd/parameters/nested)"
}
if [ -e /rehearsal/unwanted ]; then
	{
		systemctl is-active kvm-mode-dkms
		echo install kvm_amd /bin/false >/etc/modprobe.d/unwanted.conf
		for command in ensure load stock; do kvm-mode $command; echo "$command $?"; done
		rm /etc/modprobe.d/unwanted.conf
		[ -e /dev/kvm ] && echo "KVM is loaded" || echo "no KVM is loaded"
		kvm-mode load; echo "load $?"
	} 2>&1 | say
fi
vm 2>&1 | say
{ parameters booted; } 2>&1 | say
if [ -d /rehearsal/tree ]; then
	{
		kvm-mode stock; echo "stock $?"
		/rehearsal/tree/dkms/install /rehearsal/kvm-mode-dkms_*.deb; echo "install $?"
		vm
		/rehearsal/tree/dkms/install --remove; echo "uninstall $?"
		cat /sys/module/kvm/version || echo "no version"
		vm
	} 2>&1 | say
elif command -v kvm-mode >/dev/null && kvm-mode status >/dev/null; then
	/rehearsal/kvm-mode-bench post --posts 1000000 --workload exits >/dev/null 2>&1 & vm=$!
	sleep 4
	{ kvm-mode status | grep -E '^(used by|counters)'; kvm-mode load; echo "in use $?"; } 2>&1 | say
	kill $vm; wait $vm 2>/dev/null
	{ kvm-mode stock; echo "stock $?"; kvm-mode status | grep -E '^(kvm|patched)'; parameters stock; } 2>&1 | say
	# A module besides the vendor's that uses KVM.
	if modprobe -q kvmgt; then
		{ kvm-mode load; echo "held $?"; echo "kvm-amd $(cat /sys/module/kvm_amd/initstate)"; } 2>&1 | say
		modprobe -r kvmgt
	fi
	{ kvm-mode load; echo "load $?"; kvm-mode status | grep -E '^(kvm|patched)'; parameters load; } 2>&1 | say
fi
# udev, too, tries the vendor's module while ensure loads the kernel's own: for each CPU.
if [ -e /rehearsal/collide ]; then
	for i in $(seq 10); do
		modprobe -r kvm-amd kvm
		while :; do modprobe -q kvm-amd; done & others=$!
		kvm-mode ensure; echo "ensure $?: $(cat /sys/module/kvm_amd/initstate)"
		kill $others; wait $others
	done 2>&1 | say
fi
journalctl --no-pager -b -u kvm-mode-dkms 2>/dev/null | grep -F 'kvm-mode[' | say
echo end | say
systemctl --no-block poweroff
"""


# Packages of an image and headers as a revision would be; the module is another file, and works.
REVISE = """
mkdir -p /rehearsal/revised
cd /rehearsal/revised
for what in image headers; do
	package=linux-$what-$1
	apt-get -q download "$package=$2"
	dpkg-deb -R "$package"_*.deb tree
	rm "$package"_*.deb
	sed -i -e "s/^Version: .*/&+revised/" -e "s/(= $2)/(= $2+revised)/g" tree/DEBIAN/control
	sed -i -E "s/(linux-(headers-[^ ]*-common|kbuild|libc-dev|base)[^,(]*\\(= [^)]*)\\+revised/\\1/g" \
		tree/DEBIAN/control
	module=tree/lib/modules/$1/kernel/arch/x86/kvm/$3
	[ -e "$module" ] || module=tree/usr/${module#tree/}
	if [ -e "$module" ]; then
		case $3 in
		*.xz) xz -d "$module"; strip -g "${module%.xz}"; xz --check=crc32 "${module%.xz}" ;;
		*) strip -g "$module" ;;
		esac
		sed -i "\\#kvm/$3\$#d" tree/DEBIAN/md5sums
		cp "$module" .
	fi
	dpkg-deb -Znone -b tree "$package.deb" >/dev/null
	rm -rf tree
done
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
                 self.suite, new, *self.sources())
            new.rename(base)
        self.disk.unlink(missing_ok=True)
        with self.disk.open("wb") as file:
            file.truncate(8 << 30)
        must("mke2fs", "-q", "-t", "ext4", self.disk)
        with self.mounted() as root:
            must("tar", "xf", base, "-C", root)
            (root / "rehearsal").mkdir()
            shutil.copy(self.build / "bin/kvm-mode-bench", root / "rehearsal")
            (root / "rehearsal/run").write_text(RUN)
            (root / "rehearsal/run").chmod(0o755)
            (root / "etc/systemd/system/rehearsal.service").write_text(UNIT)
            (root / "etc/modprobe.d/rehearsal.conf").write_text("options kvm ignore_msrs=1\n")
            (root / "etc/fstab").write_text("/dev/vda / ext4 defaults 0 1\n")
            self.chroot("systemctl", "enable", "rehearsal.service")
            self.chroot("apt-get", "update", "-q")

    def sources(self):
        """The host's mirrors, with this suite."""
        listed = must("apt-get", "indextargets", "--format", "$(REPO_URI) $(ORIGIN)")
        uris = {uri for uri, origin in map(str.split, listed.splitlines()) if origin == "Debian"}
        main = next(uri for uri in sorted(uris) if "security" not in uri)
        security = next(uri for uri in sorted(uris) if "security" in uri)
        return [f"deb {main} {self.suite} main", f"deb {security} {self.suite}-security main"]

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

    def boot(self, release, what, *parameters):
        """Boots the disk with a kernel of its own; the lines that the machine said."""
        say(f"{self.suite}: booting {release}, {what} (about a minute)")
        with self.mounted() as root:
            for name in ("vmlinuz", "initrd.img"):
                shutil.copy(root / f"boot/{name}-{release}", self.work / name)
        serial, said = self.serial(what), self.said(what)
        qemu = self.build / "qemu-mended"
        emulator = subprocess.Popen(
            [qemu / "qemu-system-x86_64", "-L", qemu / "share", "-M", "q35", "-accel",
             "tcg,thread=multi", "-cpu", "EPYC,+svm,+npt", "-smp", "4", "-m", "2048", "-nodefaults",
             "-display", "none", "-no-reboot", "-serial", f"file:{serial}", "-serial", f"file:{said}",
             "-drive", f"file={self.disk},format=raw,if=none,id=disk,cache=unsafe",
             "-device", "virtio-blk-pci,drive=disk", "-kernel", self.work / "vmlinuz",
             "-initrd", self.work / "initrd.img", "-append",
             " ".join(("root=/dev/vda rw console=ttyS0,115200 mitigations=off tsc=reliable panic=-1",
                       "random.trust_cpu=on systemd.show_status=0 loglevel=5 kvm_amd.nested=0",
                       *parameters))],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=(self.work / "qemu.log").open("w"))
        try:
            emulator.wait(BOOT_SECONDS)
        except subprocess.TimeoutExpired:
            raise Failed(f"{what}: the machine did not power off in {BOOT_SECONDS} s, see {serial}") \
                from None
        finally:
            emulator.kill()
            emulator.wait()
        lines = self.lines(what)
        need(lines and lines[-1] == "end", f"{what}: did not come to its end, see {serial}, {said}")
        need(lines[0] == f"kernel {release}", f"{what}: booted another kernel: {lines[:1]}")
        return "\n".join(lines)

    def serial(self, what):
        """The console of a boot, a file."""
        return self.work / f"{self.suite}-{what}.serial"

    def said(self, what):
        """What RUN said in a boot, a file."""
        return self.serial(what).with_suffix(".said")

    def lines(self, what):
        return self.said(what).read_text(errors="replace").replace("\r", "").splitlines()

    def hashes(self, release):
        """Of all files that the kernel's package brought, and of what else there is."""
        folder = self.mount / "lib/modules" / release
        return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
                for path in sorted(folder.rglob("*")) if path.is_file() and not path.is_symlink()}

    def version(self, package):
        return self.chroot("dpkg-query", "-W", "-f", "${Version}", package).strip()


def kernels(machine):
    """The newest 6.12 kernel, and the one before it, by their releases and package versions."""
    names = [name for name in machine.chroot("apt-cache", "pkgnames", "linux-image-6.12.").split()
             if re.fullmatch(r"linux-image-6\.12\.\d+\+deb\d+(\+\d+)?-amd64", name)]
    found = {}
    for name, version in re.findall(r"^Package: linux-image-(\S+)\n(?:.*\n)*?Version: (.*)$",
                                    machine.chroot("apt-cache", "show", *names), re.MULTILINE):
        found.setdefault(int(re.match(r"6\.12\.(\d+)", name)[1]), (name, version))
    need(found, f"{machine.suite} has no kernel 6.12")
    order = sorted(found)
    return found[order[-1]], found[order[-2]] if len(order) > 1 else None


def foreign(machine):
    """A kernel of a version that there are no patches for, or None: bookworm's own, 6.1."""
    names = re.findall(r"^linux-image-(6\.1\.0-(\d+)-amd64)$",
                       machine.chroot("apt-cache", "pkgnames", "linux-image-6.1.0-"), re.MULTILINE)
    return max(names, key=lambda found: int(found[1]))[0] if names else None


def install_kernel(machine, release, version=None):
    exactly = f"={version}" if version else ""
    machine.apt("install", "--no-install-recommends", f"linux-image-{release}{exactly}",
                f"linux-headers-{release}{exactly}")


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
            self.new, self.old = kernels(m)
            if not self.old:
                return "this suite has one 6.12 kernel only"
            install_kernel(m, *self.old)
            self.before[self.old[0]] = m.hashes(self.old[0])
            shutil.copy(self.package, m.mount / "rehearsal")
            out = m.apt("install", "--no-install-recommends", f"/rehearsal/{self.package.name}")
            need(f"no source of {self.old[0]}" in out or "do not fit" in out,
                 f"no reason given: {out[-800:]}")
            # Its source comes after the headers and after the package.
            m.apt("install", "--allow-downgrades", f"linux-source-6.12={self.old[1]}")
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
                return "this suite has none"
            install_kernel(m, release)
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
            self.new = self.new or kernels(m)[0]
            release, version = self.new
            if not (m.mount / "rehearsal" / self.package.name).exists():
                shutil.copy(self.package, m.mount / "rehearsal")
                m.apt("install", "--no-install-recommends", f"/rehearsal/{self.package.name}")
            m.apt("install", "--no-install-recommends", f"linux-image-{release}={version}",
                  f"linux-headers-{release}={version}", f"linux-source-6.12={version}")
            there = m.hashes(release)
            for module in MODULES:
                need(any(name.startswith(f"updates/dkms/{module}.ko") for name in there),
                     f"DKMS has built no {module} for {release}")
            self.before[release] = {name: value for name, value in there.items()
                                    if name.startswith("kernel/")}
        said = m.boot(release, "patched")
        ran_a_vm(said, True, "patched")
        need("status 0" in said.splitlines(), said)
        upgrade, whole = (time.time() - start) / 60, (time.time() - self.start) / 60
        need(whole < READY_MINUTES, f"{whole:.1f} minutes from a fresh root to a VM on patched KVM")
        return (f"{upgrade:.1f} minutes from the upgrade to a VM on patched KVM, "
                f"{whole:.1f} from the fresh root")

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
        return "" if held else "this kernel has no kvmgt"

    def reinstalled(self):
        """the package is upgraded: the kernel to roll back to keeps modules, as its source was kept"""
        m = self.machine
        releases = [self.new[0]] + [self.old[0]] * self.built_old
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
            (root / "rehearsal/collide").touch()
        try:
            said = m.boot(release, "tampered")
        finally:
            with m.mounted():
                module.write_bytes(kept)
                (root / "rehearsal/collide").unlink()
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
        m = self.machine
        with m.mounted() as root:
            (root / "rehearsal/unwanted").touch()
        try:
            said = m.boot(self.new[0], "unwanted", "modprobe.blacklist=kvm_amd")
        finally:
            with m.mounted() as root:
                (root / "rehearsal/unwanted").unlink()
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
            modules = root / "etc/initramfs-tools/modules"
            kept, module = modules.read_text(), f"kvm-mode/{self.dkms_version()}"
            m.chroot("dkms", "uninstall", module, "-k", release)
            modules.write_text(kept + "kvm_amd\n")
            m.chroot("update-initramfs", "-u", "-k", release)
            m.chroot("kvm-mode", "build")
        ran_a_vm(m.boot(release, "initramfs"), True, "initramfs")
        with m.mounted() as root:
            m.chroot("sh", "/var/lib/dpkg/info/kvm-mode-dkms.prerm", "remove")
        ran_a_vm(m.boot(release, "initramfs-removed"), False, "initramfs-removed")
        with m.mounted() as root:
            modules.write_text(kept)
            m.chroot("update-initramfs", "-u", "-k", release)
            m.chroot("dkms", "add", module)

    def interrupted(self):
        """a build that is killed, or finds no space, leaves no module and apt content; the next one works"""
        m, release = self.machine, self.new[0]
        with m.mounted() as root:
            installed = root / "lib/modules" / release / "updates/dkms"
            need(not modules_of(root, release), "in_initramfs has left some")
            status, _ = m.chroot("timeout", "-s", "KILL", "8", "kvm-mode", "build", ok=False)
            need(status != 0, "the build was over before it was killed")
            need(not list(installed.glob("*.ko*")), "killed: half installed")
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
            m.chroot("bash", "-euc", REVISE, "bash", release, version, name)
            own = hashlib.sha256((root / "rehearsal/revised" / name).read_bytes()).hexdigest()
            m.apt("install", *(f"/rehearsal/revised/linux-{what}-{release}.deb"
                               for what in ("image", "headers")))
            need(not modules_of(root, release), f"modules of another revision: {modules_of(root, release)}")
            now = hashlib.sha256((kernel / name).read_bytes()).hexdigest()
            need(now == own, "the kernel's own KVM is not the revised one")
            m.apt("install", "--allow-downgrades", f"linux-image-{release}={version}",
                  f"linux-headers-{release}={version}")
            need(modules_of(root, release), "not built when the kernel was the source's again")
            shutil.rmtree(root / "rehearsal/revised")

    def by_make(self):
        """make install and make uninstall where the kernel runs: loaded, and back, without a reboot"""
        m, release = self.machine, self.new[0]
        with m.mounted() as root:
            tree = root / "rehearsal/tree"
            (tree / "patches/6.12").mkdir(parents=True)
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
                _, out = m.chroot("dpkg", "--verify", f"linux-image-{release}", ok=False)
                need("/lib/modules/" not in out, f"{release}: {out}")
            need(not (root / "var/lib/dkms/kvm-mode").exists(), "DKMS has kept something")
            need(not list(root.glob("usr/src/kvm-mode-*")) and not (root / "var/cache/kvm-mode").exists()
                 and not (root / "var/lib/kvm-mode").exists() and not (root / "usr/sbin/kvm-mode").exists(),
                 "files of the package are left")
        ran_a_vm(m.boot(self.new[0], "removed"), False, "removed")

    def steps(self):
        return (self.refused, self.upgraded, self.used, self.reinstalled, self.other_base, self.tampered,
                self.unsigned, self.unwanted, self.in_initramfs, self.interrupted, self.revised,
                self.by_make, self.removed)


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
        except (Failed, LookupError, ValueError, OSError) as err:
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
    args.add_argument("--suites", default="bookworm trixie")
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
