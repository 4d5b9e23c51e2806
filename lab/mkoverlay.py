#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Make an overlay for L1: an archive of this machine's own programs with the libraries
they need, which lab.py --overlay gives to L1 on top of its initramfs. For perf,
rt-tests and QEMU, which nothing builds here.
"""

import argparse
import re
import shutil
import subprocess
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])     # the packages
from lab.mkinitramfs import add_extra, add_root, BuildError, Cpio, write_whole


PYTHON = "/usr/bin/python3"
# The files of the modules that a program imports, and of those that the interpreter does
IMPORTS = """
import modulefinder, sys
found = modulefinder.ModuleFinder(excludes=["test", "unittest", "pydoc", "doctest", "pdb", "asyncio"])
found.run_script(sys.argv[1])
for name in ("encodings.utf_8", "encodings.ascii", "encodings.latin_1", "site", "codecs", "io", "abc", "stat"):
    found.import_hook(name)
print("\\n".join(sorted({m.__file__ for m in found.modules.values() if m.__file__} - {sys.argv[1]})))
"""


def libraries(program):
    """The shared libraries of @program and its loader, by the loader's word."""
    done = subprocess.run(["ldd", program], capture_output=True, text=True)
    if "not a dynamic executable" in done.stderr + done.stdout:
        return []
    missing = re.findall(r"^\s*(\S+) => not found", done.stdout, re.MULTILINE)
    if done.returncode or missing:
        raise BuildError(f"{program}: {', '.join(missing) or done.stderr.strip()}: not found")
    return re.findall(r"(/\S+) \(0x", done.stdout)


def add_program(archive, name):
    path = shutil.which(name)
    if not path:
        raise BuildError(f"{name} is not installed")
    path = str(Path(path).resolve())
    archive.file(f"bin/{Path(name).name}", Path(path).read_bytes(), 0o100755)
    for library in libraries(path):
        archive.file(library.lstrip("/"), Path(library).read_bytes(), 0o100755)


def add_python(archive, name):
    """With the distribution's own python3, which has one home"""
    modules = subprocess.run([PYTHON, "-c", IMPORTS, name], capture_output=True, text=True, check=False)
    if modules.returncode:
        raise BuildError(f"{name}: {modules.stderr.strip()[-300:]}")
    archive.file(f"bin/{Path(name).name}", Path(name).read_bytes(), 0o100755)
    archive.file(PYTHON.lstrip("/"), Path(PYTHON).read_bytes(), 0o100755)
    for library in libraries(PYTHON):
        archive.file(library.lstrip("/"), Path(library).read_bytes(), 0o100755)
    for path in modules.stdout.splitlines():
        archive.file(path.lstrip("/"), Path(path).read_bytes(), 0o100644)
        for library in libraries(path) if path.endswith(".so") else ():
            archive.file(library.lstrip("/"), Path(library).read_bytes(), 0o100755)


def parse(argv):
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--program", action="append", default=[], metavar="NAME",
                        help="a program of this machine's, to /bin")
    parser.add_argument("--python", action="append", default=[], metavar="PROGRAM",
                        help="a program in Python, to /bin, with python3 and the modules that it imports")
    parser.add_argument("--busybox", action="store_true",
                        help="busybox, /dev/console and mount points: an initramfs of its own")
    parser.add_argument("--add", action="append", default=[], metavar="SRC:/DST",
                        help="a further file or directory")
    return parser.parse_args(argv)


def main(argv=None):
    args, archive = parse(argv), Cpio()
    try:
        if args.busybox:
            add_root(archive)
        for name in args.program:
            add_program(archive, name)
        for name in args.python:
            add_python(archive, name)
        for spec in args.add:
            add_extra(archive, spec)
        write_whole(args.out, archive.bytes())
    except (BuildError, OSError) as error:
        print(f"mkoverlay: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
