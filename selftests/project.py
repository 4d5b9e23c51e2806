# SPDX-License-Identifier: GPL-2.0
"""What tests look at: where things are, and how variants of the modules are built."""
import subprocess
from pathlib import Path

from lab import bases

ROOT = Path(__file__).resolve().parents[1]


class Failed(Exception):
    """A test's finding, in words."""


def need(condition, text):
    if not condition:
        raise Failed(text)


def command(*argv, **options):
    """Runs a command; returns (status, output with errors)."""
    done = subprocess.run([str(a) for a in argv], text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                          cwd=ROOT, errors="replace", **options)
    return done.returncode, done.stdout


class Project:
    """Where things are, and how to build variants of the modules."""

    def __init__(self, args):
        self.build, self.base = Path(args.build).resolve(), args.base
        self.version = bases.version(args.base)
        self.all = self.full = getattr(args, "full", True)
        self.kernel = self.build / "kernel" / args.base
        self.source = self.kernel / f"linux-source-{self.version}"
        self.release = (self.kernel / "version").read_text().strip()
        root = self.kernel / "root"
        self.root = ["--root", root] if root.is_dir() else []
        self.work = self.build / "check"
        self.work.mkdir(exist_ok=True)
        self.notes = []

    def patch_file(self, mutant):
        """A base whose code around the fault differs has its own patch, to the same effect."""
        own = bases.FOLDER / self.version / f"mutants/{mutant}.patch"
        return own if own.exists() else bases.FOLDER / f"common/mutants/{mutant}.patch"

    def kvm(self, variant):
        return self.build / "tree" / variant / "arch/x86/kvm"

    def tree(self, name, patch=None):
        """A patched tree of its own, with a mutation if @patch names one."""
        tree = self.work / name
        built = self.build / "tree/patched"
        # Its build starts from what is built there, or from its own state of the run before.
        for argv in ((("scripts/copy-tree", built, tree),) if not tree.is_dir() else ()) + (
                ("scripts/prepare-tree", "--with-probe", "patched", self.version, self.source, tree),):
            status, out = command(*argv)
            need(status == 0, out)
        if patch:
            with open(self.patch_file(patch)) as file:
                done = subprocess.run(["patch", "-p1", "--fuzz=0", "--batch", "-d", tree],
                                      stdin=file, capture_output=True, text=True)
            need(done.returncode == 0, f"mutant {patch} does not apply: {done.stdout}")
        return tree

    def kbuild(self, tree, *targets):
        """As the labs' modules were built, but for variables among @targets."""
        flags = (ROOT / "scripts/lab-flags").read_text().splitlines()
        targets = [*(flag for flag in flags if not flag.startswith("#")), *targets]
        if not self.root:
            return command("make", "-C", f"/lib/modules/{self.release}/build",
                           f"M={tree}/arch/x86/kvm", "-j2", *targets)
        return command("scripts/in-root", self.kernel / "root", tree, "make", "-C",
                       f"/lib/modules/{self.release}/build", "M=/mnt/tree/arch/x86/kvm", "-j2",
                       *targets)

    def modules(self, name, tree):
        out = self.work / f"modules-{name}"
        status, text = command("scripts/build-modules", *self.root, tree, self.release, out)
        need(status == 0, text[-2000:])
        return out

    def initramfs(self, name, sets, add=()):
        out = self.work / f"{name}.cpio"
        argv = ["lab/mkinitramfs.py", "--out", out, "--kernel", self.kernel / "image"]
        for set_name, path in sets.items():
            argv += ["--kvm", f"{set_name}={path}"]
        for source, target in add:
            argv += ["--add", f"{source}:{target}"]
        status, text = command(*argv)
        need(status == 0, text)
        return out

    def sets(self):
        return {v: self.build / "modules" / v for v in ("stock", "patched")}

    command = staticmethod(command)

    def log(self, name):
        return str(self.build / "log" / f"check-{name}.log")


def leftovers(folder):
    return [p.name for p in folder.iterdir()] if folder.exists() else []


# Needs root. A command behind it finds no /dev/kvm.
WITHOUT_KVM = ("unshare", "-m", "sh", "-c", "mount -t tmpfs tmpfs /dev && "
               'mknod -m 666 /dev/null c 1 3 && exec "$@"', "sh")
