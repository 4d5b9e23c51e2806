#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Builds avic-test, which asks QEMU's emulated AVIC what the APM says of it, case by case,
and runs it. Called by check.py, or by hand: avic_test.py --build build

exit status: 0 all passed, 1 not, 125 it could not run"""
import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[0] = str(HERE.parent.parent)      # the packages
from lab import bare_metal

SECONDS = 300
EXIT_PASSED = 1                 # isa-debug-exit: twice the guest's word, and 1
EXIT_LAB = 125
ENTRIES = (1, 3000)             # ticks of a VMRUN
SAID = re.compile(r"# (VMRUN|doorbells).* 0x([0-9a-f]+)")


def run(folder, kernel, cpu, machine=("-accel", "tcg,thread=multi")):
    """(QEMU's status, the test's lines)."""
    done = subprocess.run(
        [folder / "qemu-system-x86_64", "-L", folder / "share", "-M", "q35", *machine, "-cpu", cpu,
         "-smp", "2", "-m", "256", "-nodefaults",
         "-display", "none", "-no-reboot", "-device", "avic-counters",
         "-device", "isa-debug-exit,iobase=0x501", "-chardev", "stdio,id=out",
         "-device", "isa-debugcon,iobase=0xe9,chardev=out", "-kernel", kernel],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, timeout=SECONDS,
        check=False)
    return done.returncode, done.stdout.splitlines()


def turns(entry):
    """A machine whose CPUs take turns, and whose VMRUN takes @entry ticks"""
    return ("-icount", "shift=0,sleep=off", "-accel", "tcg,thread=single",
            "-device", f"cpu-turns,quantum=16,entry={entry}")


def passed(one):
    status, lines = one
    done = sum(line.startswith("ok ") for line in lines)
    return status == EXIT_PASSED and done > 0 and lines[-1] == f"1..{done}"


def entry_wrong(outputs):
    """What is not as ENTRIES has it: the ticks, and what a doorbell found on its way in."""
    said = [[int(m[2], 16) for m in map(SAID.match, lines) if m] for lines in outputs]
    if any(len(numbers) != 2 for numbers in said):
        return [f"# WRONG: test_entry() says {said}"]
    (short, outside), (long, inside) = said
    found = []
    if long - short != ENTRIES[1] - ENTRIES[0]:
        found.append(f"# WRONG: VMRUN takes {long} ticks, and {short}")
    if (outside, inside) != (0, 1):
        found.append(f"# WRONG: {outside} doorbells came in a short VMRUN, {inside} in a long one")
    return found


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--build", type=Path, default=Path("build"))
    parser.add_argument("--cpu", default="EPYC,+svm,+npt,+avic,+x2avic")
    args = parser.parse_args(argv)
    folder = args.build.resolve() / "qemu-mended"
    with tempfile.TemporaryDirectory() as work:
        kernel = Path(work) / "test"
        try:
            bare_metal.build(HERE / "avic-test", kernel)
            runs = [run(folder, kernel, args.cpu), *(run(folder, kernel, args.cpu, turns(entry))
                                                     for entry in ENTRIES)]
        except (OSError, subprocess.SubprocessError) as error:
            print(f"avic_test: {error}", file=sys.stderr)
            return EXIT_LAB
    wrong = entry_wrong([lines for _, lines in runs[1:]])
    print("\n".join(["TAP version 13", *runs[0][1],
                     *(f"# turns, {line}" for _, lines in runs[1:] for line in lines), *wrong]))
    return 0 if not wrong and all(map(passed, runs)) else 1


if __name__ == "__main__":
    sys.exit(main())
