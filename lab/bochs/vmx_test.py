#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Builds vmx-test, which asks the vmx lab's Bochs what the SDM says of virtual and posted interrupts, case by
case, and runs it. Called by check.py, or by hand: vmx_test.py --build build

exit status: 0 all passed, 1 not, 125 it could not run"""
import argparse
import re
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[0] = str(HERE.parent.parent)      # the packages
from lab import bare_metal, emulators, lab

SECONDS = 120
EXIT_LAB = 125
ENTRIES = (1, 3000)             # ticks of a VM entry
SAID = re.compile(r"# VM entry and what follows, ticks 0x([0-9a-f]+)")
TAP = ("ok ", "not ok ", "#", "1..", "Bail out!")


def run(build, kernel, entry, quantum):
    """The test's lines. It ends by saying so: Bochs goes on."""
    with tempfile.TemporaryDirectory() as folder:
        options = lab.Options(lab="vmx", kvm="none", build=build, cpus=2, mem=256, entry=entry, quantum=quantum)
        argv = emulators.Vmx(options, Path(folder)).prepare_program(kernel)
        lines = []
        with subprocess.Popen(argv, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.DEVNULL, text=True, errors="replace") as job:
            timer = threading.Timer(SECONDS, job.kill)
            timer.start()
            for line in job.stdout:
                if line.startswith(TAP):
                    lines.append(line.rstrip("\n"))
                if line.startswith(("1..", "Bail out!")):
                    break
            timer.cancel()
            job.kill()
    return lines


def passed(lines):
    done = sum(line.startswith("ok ") for line in lines)
    return bool(lines) and done > 0 and lines[-1] == f"1..{done}"


def entry_wrong(outputs):
    """Whether the lengths of a VM entry are not as ENTRIES has them"""
    said = [[int(m[1], 16) for m in map(SAID.match, lines) if m] for lines in outputs]
    if any(len(numbers) != 1 for numbers in said) or said[1][0] - said[0][0] != ENTRIES[1] - ENTRIES[0]:
        return [f"# WRONG: VM entries take {said} ticks"]
    return []


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--build", type=Path, default=Path("build"))
    parser.add_argument("--quantum", type=int, default=16, help="instructions of a turn (default: 16)")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as work:
        kernel = Path(work) / "test"
        try:
            bare_metal.build(HERE / "vmx-test", kernel)
            runs = [run(args.build, kernel, entry, args.quantum) for entry in ENTRIES]
        except (OSError, subprocess.SubprocessError, lab.LabError) as error:
            print(f"vmx_test: {error}", file=sys.stderr)
            return EXIT_LAB
    wrong = entry_wrong(runs)
    print("\n".join(["TAP version 13", *runs[0], *(f"# long entries, {line}" for line in runs[1]), *wrong]))
    return 0 if not wrong and all(map(passed, runs)) else 1


if __name__ == "__main__":
    sys.exit(main())
