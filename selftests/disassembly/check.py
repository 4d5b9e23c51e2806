#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Checks in the machine code of built modules, or of objects of them, that the in-guest flag
is written where it has to be (entry_assembly.py), and that barriers and accesses keep the
order that models/litmus proves (entry_order.py).  The product has to pass, mutants of it
must not.  Prints "ok NAME" or "FAIL NAME: what" for each check.

FILE is kvm.ko, kvm-intel.ko, kvm-amd.ko or one of the objects that the checks are
about: vmx/vmenter.o, svm/vmenter.o, x86.o, kvm_main.o, elide.o, vmx.o, svm.o.  Offsets come
from their debug info, constants from the headers in TREE, which they were built from.
64-bit only.

exit status: 0 all in place, 1 violations, 2 usage or nothing to look at"""
import argparse
import subprocess
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[2])     # the packages
from selftests.disassembly import entry_assembly, entry_order
from selftests.disassembly.build import Build, Wrong
from selftests.disassembly.graph import Program

CHECKS = {**entry_assembly.CHECKS, **entry_order.CHECKS}
MODULES = {"kvm.ko": ("x86.o", "kvm_main.o", "elide.o"),
           "kvm-intel.ko": ("vmx/vmenter.o", "vmx.o"), "kvm-amd.ko": ("svm/vmenter.o", "svm.o")}


def objects_of(path):
    """The keys of CHECKS that a file is for."""
    if path.name in MODULES:
        return MODULES[path.name]
    return [name for name in (path.name, "/".join(path.parts[-2:])) if name in CHECKS]


def check_file(tree, path, types):
    """Runs the checks of one file; returns how many failed."""
    build, program, failed = Build(tree, [types or path]), Program([path]), 0
    for check in (check for name in objects_of(path) for check in CHECKS[name]):
        label = check.__name__.replace("_", "-")
        try:
            check(build, program)
            print(f"ok {label}")
        except Wrong as error:
            failed += 1
            print(f"FAIL {label}: {error}; wanted: {check.__doc__}")
    return failed


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tree", required=True, type=Path, help="made by prepare-tree, built")
    parser.add_argument("--types", type=Path, metavar="OBJECT",
                        help="whose debug info to take for the structures; default: FILE's own")
    parser.add_argument("files", metavar="FILE", nargs="+", type=Path)
    args = parser.parse_args()
    for path in args.files:
        if not objects_of(path):
            parser.error(f"no checks for {path.name}")
        if not path.is_file():
            parser.error(f"no {path}")
    try:
        failed = sum([check_file(args.tree, path, args.types) for path in args.files])
    except (OSError, subprocess.SubprocessError) as error:
        print(f"disassembly: {error}", file=sys.stderr)
        return 2
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
