#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Build the L1 initramfs that the labs boot: busybox, l1/init, the modules of the
packaged kernel that KVM needs, and one directory of KVM modules per --kvm.
"""

import argparse
import lzma
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
KVM_FILES = ("kvm.ko", "kvm-intel.ko", "kvm-amd.ko")
PROBE = "kvm-mode-probe.ko"     # in sets that were built with it
EXTRA_MODULES = ("msr", "cpuid")
DIRECTORIES = ("bin", "dev", "proc", "sys", "tmp", "root", "etc",
               "lab/bin", "lab/kvm", "lab/modules")


class BuildError(Exception):
    """Something the caller can mend; its text is the whole message."""


class Cpio:
    """A newc archive whose bytes depend on nothing but the entries added."""

    def __init__(self):
        self.entries = {}

    def directory(self, path):
        parts = Path(path).parts
        for depth in range(1, len(parts) + 1):
            self.entries.setdefault("/".join(parts[:depth]), (0o040755, b"", (0, 0)))

    def file(self, path, data, mode=0o100644):
        self.directory(str(Path(path).parent))
        self.entries[path] = (mode, data, (0, 0))

    def symlink(self, path, target):
        self.directory(str(Path(path).parent))
        self.entries[path] = (0o120777, target.encode(), (0, 0))

    def device(self, path, major, minor):
        self.directory(str(Path(path).parent))
        self.entries[path] = (0o020600, b"", (major, minor))

    @staticmethod
    def _record(inode, name, mode, data, rdev):
        fields = (inode, mode, 0, 0, 2 if mode & 0o040000 else 1, 0, len(data),
                  0, 0, rdev[0], rdev[1], len(name) + 1, 0)
        head = b"070701" + b"".join(b"%08x" % f for f in fields) + name + b"\0"
        return pad4(head) + pad4(data)

    def bytes(self):
        names = sorted(n for n in self.entries if n not in ("", "."))
        out = [self._record(i, n.encode(), *self.entries[n])
               for i, n in enumerate(names, 1)]
        out.append(self._record(0, b"TRAILER!!!", 0, b"", (0, 0)))
        return pad4(b"".join(out))


def pad4(data):
    return data + b"\0" * (-len(data) % 4)


def small_cpio(files):
    """Bytes of an archive with just @files, {path: (data, mode)}; for lab.py."""
    archive = Cpio()
    for path, (data, mode) in files.items():
        archive.file(path, data, 0o100000 | mode)
    return archive.bytes()


def read_module(path):
    data = path.read_bytes()
    if path.suffix == ".xz":
        data = lzma.decompress(data)
    elif path.suffix != ".ko":
        raise BuildError(f"{path}: only .ko and .ko.xz modules are understood")
    return strip_debug(data)


def strip_debug(data):
    with tempfile.NamedTemporaryFile(suffix=".ko") as tmp:
        tmp.write(data)
        tmp.flush()
        subprocess.run(["strip", "--strip-debug", "-R", ".BTF", "-R", ".BTF.base", tmp.name], check=True)
        return Path(tmp.name).read_bytes()


def depends(data):
    """Module names from the .modinfo section, without asking modules.dep: a package
    that was unpacked and not installed has none."""
    match = re.search(rb"\0depends=([^\0]*)\0", data)
    return [n for n in match.group(1).decode().split(",") if n] if match else []


def parameters(data):
    """Names of a module's parameters, one a line."""
    names = re.findall(rb"\0parmtype=([^:\0]*):", data)
    return b"".join(name + b"\n" for name in sorted(names))


def module_key(name):
    return name.replace("-", "_")


class KernelPackage:
    """An unpacked linux-image package."""

    def __init__(self, root):
        roots = sorted(root.glob("lib/modules/*/kernel")) or \
                sorted(root.glob("usr/lib/modules/*/kernel"))
        if len(roots) != 1:
            raise BuildError(f"{root}: expected one lib/modules/VERSION/kernel, "
                             f"found {len(roots)}; is it an unpacked linux-image?")
        self.paths = {module_key(p.name.split(".ko")[0]): p
                      for p in roots[0].rglob("*.ko*")}
        builtin = roots[0].parent / "modules.builtin"
        self.builtin = {module_key(Path(line).stem)
                        for line in builtin.read_text().split()}

    def closure(self, names):
        """[(file name, bytes)] of @names and what they need, in loading order."""
        done, order = set(), []

        def visit(name):
            key = module_key(name)
            if key in done or key in self.builtin:
                return
            done.add(key)
            if key not in self.paths:
                raise BuildError(f"the kernel package has no module '{name}'")
            data = read_module(self.paths[key])
            for needed in depends(data):
                visit(needed)
            order.append((key + ".ko", data))

        for name in names:
            visit(name)
        return order


def kvm_set(kernel, name, directory):
    """{file: bytes} of one module set; a set that is not built yet is left out."""
    found = {}
    for file in (*KVM_FILES, PROBE):
        path = Path(directory) / file
        if path.exists():
            found[file] = read_module(path)
    if not found:
        print(f"mkinitramfs: {directory}: no KVM modules, '{name}' left out",
              file=sys.stderr)
    return found


def distribution_set(kernel):
    return {file: read_module(kernel.paths[module_key(file[:-3])])
            for file in KVM_FILES}


def add_modules(archive, kernel, sets):
    own = {module_key(f[:-3]) for f in KVM_FILES}
    needed = list(EXTRA_MODULES)
    for name, files in sets.items():
        for file, data in files.items():
            archive.file(f"lab/kvm/{name}/{file}", data)
            archive.file(f"lab/kvm/{name}/{file}.params", parameters(data))
            needed += [d for d in depends(data) if module_key(d) not in own]
    order = kernel.closure(needed)
    for file, data in order:
        archive.file(f"lab/modules/{file}", data)
    archive.file("lab/modules.list", "".join(f + "\n" for f, _ in order).encode())


def add_busybox(archive):
    path = Path("/bin/busybox")
    if not path.exists():
        raise BuildError("/bin/busybox is missing: install busybox-static")
    archive.file("bin/busybox", path.read_bytes(), 0o100755)
    applets = subprocess.run([path, "--list"], check=True, capture_output=True,
                             text=True).stdout.split()
    for applet in applets:
        if applet != "busybox":
            archive.symlink(f"bin/{applet}", "busybox")


def add_root(archive):
    """busybox, and what the kernel and it expect."""
    for directory in DIRECTORIES:
        archive.directory(directory)
    archive.device("dev/console", 5, 1)
    archive.device("dev/null", 1, 3)
    add_busybox(archive)


def add_extra(archive, spec):
    source, sep, target = spec.rpartition(":")
    if not sep or not target.startswith("/"):
        raise BuildError(f"--add {spec}: expected SOURCE:/TARGET")
    source = Path(source)
    if not source.exists():
        raise BuildError(f"--add {spec}: {source} does not exist")
    files = sorted(p for p in source.rglob("*") if p.is_file()) \
        if source.is_dir() else [source]
    for file in files:
        inner = file.relative_to(source) if source.is_dir() else Path()
        mode = 0o100755 if os.access(file, os.X_OK) else 0o100644
        archive.file(str(Path(target.lstrip("/")) / inner), file.read_bytes(), mode)


def build(args):
    kernel = KernelPackage(args.kernel)
    sets = {}
    for spec in args.kvm:
        name, sep, directory = spec.partition("=")
        if not sep:
            raise BuildError(f"--kvm {spec}: expected NAME=DIRECTORY")
        sets[name] = kvm_set(kernel, name, directory)
    sets = {n: f for n, f in sets.items() if f} or {"stock": distribution_set(kernel)}
    archive = Cpio()
    add_root(archive)
    archive.file("init", (HERE / "l1/init").read_bytes(), 0o100755)
    archive.file("lab/bin/load-kvm", (HERE / "l1/load-kvm").read_bytes(), 0o100755)
    archive.file("etc/passwd", b"root::0:0:root:/root:/bin/sh\n")
    archive.file("etc/group", b"root:x:0:\n")
    add_modules(archive, kernel, sets)
    for spec in args.add:
        add_extra(archive, spec)
    return archive.bytes()


def write_whole(path, data):
    """@path has either its old content or all of @data."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + f".part{os.getpid()}")
    try:
        part.write_bytes(data)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def parse(argv):
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--kernel", type=Path, required=True,
                        help="unpacked linux-image package")
    parser.add_argument("--kvm", action="append", default=[], metavar="NAME=DIR",
                        help="a set of KVM modules; none at all: the package's own, as 'stock'")
    parser.add_argument("--add", action="append", default=[], metavar="SRC:/DST",
                        help="a further file or directory")
    return parser.parse_args(argv)


def main(argv=None):
    args = parse(argv)
    try:
        write_whole(args.out, build(args))
    except (BuildError, OSError, subprocess.CalledProcessError) as error:
        print(f"mkinitramfs: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
