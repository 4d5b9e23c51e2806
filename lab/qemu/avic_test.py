#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Builds avic-test, which asks QEMU's emulated AVIC what the APM says of it, case by case,
and runs it. Called by check.py, or by hand: avic_test.py --build build

exit status: 0 all passed, 1 not, 125 it could not run"""
import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
SECONDS = 300
FLAGS = ["-O2", "-Wall", "-Wextra", "-Werror", "-std=gnu11", "-ffreestanding", "-fno-pie",
         "-fno-stack-protector", "-mno-red-zone", "-mgeneral-regs-only", "-fcf-protection=none",
         "-no-pie", "-nostdlib", "-static", "-Wl,--build-id=none", "-Wl,-z,noexecstack",
         "-Wl,--no-warn-rwx-segments"]
EXIT_PASSED = 1                 # isa-debug-exit: twice the guest's word, and 1
EXIT_LAB = 125


def make(out):
    source = HERE / "avic-test"
    subprocess.run(["gcc", *FLAGS, "-T", source / "test.ld", "-o", out,
                    source / "start.S", source / "test.c"], check=True)


def run(folder, kernel, cpu):
    """(QEMU's status, the test's lines)."""
    done = subprocess.run(
        [folder / "qemu-system-x86_64", "-L", folder / "share", "-M", "q35", "-accel",
         "tcg,thread=multi", "-cpu", cpu, "-smp", "2", "-m", "256", "-nodefaults",
         "-display", "none", "-no-reboot", "-device", "avic-counters",
         "-device", "isa-debug-exit,iobase=0x501", "-chardev", "stdio,id=out",
         "-device", "isa-debugcon,iobase=0xe9,chardev=out", "-kernel", kernel],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, timeout=SECONDS,
        check=False)
    return done.returncode, done.stdout.splitlines()


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--build", type=Path, default=Path("build"))
    parser.add_argument("--cpu", default="EPYC,+svm,+npt,+avic")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as work:
        try:
            make(Path(work) / "test")
            status, lines = run(args.build.resolve() / "qemu-mended", Path(work) / "test",
                                args.cpu)
        except (OSError, subprocess.SubprocessError) as error:
            print(f"avic_test: {error}", file=sys.stderr)
            return EXIT_LAB
    print("\n".join(["TAP version 13", *lines]))
    return 0 if status == EXIT_PASSED and lines and lines[-1].startswith("1..") else 1


if __name__ == "__main__":
    sys.exit(main())
