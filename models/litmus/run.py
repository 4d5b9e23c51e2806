#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Run the litmus tests with herd7 and the kernel's memory model.

NAME.litmus is a proof: herd7 has to find that its outcome never happens.
NAME+WHAT.litmus is a control of it, with one thing wrong: herd7 has to find
that its outcome can happen.  Every proof needs a control with the same outcome,
else it might hold only because it asks for something impossible.

Exit status: 0 all as expected, 1 something is not, 2 the tests could not run.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

CONF = "linux-kernel.cfg"
TIMEOUT = 120   # seconds a test may take; the slowest takes less than one


class CannotRun(Exception):
    """The tests cannot be run at all; the message says what to do."""


class Test:
    """One litmus file: what it says of itself."""

    def __init__(self, path):
        self.path = path
        self.name = path.stem
        self.proof, _, self.what = self.name.partition("+")
        text = path.read_text(encoding="utf-8")
        self.title = text.partition("\n")[0]
        self.results = re.findall(r"^ \* Result: (\w+)$", text, re.M)
        self.flags = re.findall(r"^ \* (Flag: [\w-]+)$", text, re.M)
        self.clause = " ".join(text.rpartition("\nexists")[2].split())

    @property
    def expected(self):
        """The verdict that the file's kind asks for."""
        return "Sometimes" if self.what else "Never"

    def complaints(self):
        """What is wrong with the file itself."""
        if self.title != f"C {self.name}":
            yield f"the first line is not 'C {self.name}'"
        if self.results != [self.expected]:
            yield f"needs one line 'Result: {self.expected}'"
        if self.flags and not self.what:
            yield "a proof may not expect a flag"
        if not self.clause:
            yield "has no exists clause"


def complaints_of_set(tests):
    """Yield (name, complaint) for proofs without control, and the reverse."""
    clauses = {test.name: test.clause for test in tests}
    controlled = {t.proof for t in tests if t.what and clauses.get(t.proof) == t.clause}
    for test in tests:
        if test.what and test.proof not in clauses:
            yield test.name, f"is a control of {test.proof}, which does not exist"
        if not test.what and test.name not in controlled:
            yield test.name, "has no control with the same exists clause"


def judge(test, stdout, stderr, status):
    """Return (number of states, what is wrong or None) from herd7's output."""
    noise = re.findall(r"^(?:Flag|Warning).*", stdout, re.M) + stderr.split("\n")
    noise = [line for line in noise if line.strip()]
    for flag in (flag.replace(":", "") for flag in test.flags):
        if flag not in noise:
            return 0, f"herd7 does not say: {flag}"
        noise.remove(flag)
    if status or noise:
        return 0, f"herd7 says: {noise[0] if noise else f'exit status {status}'}"
    verdict = re.search(rf"^Observation {re.escape(test.name)} (\w+)", stdout, re.M)
    states = re.search(r"^States (\d+)", stdout, re.M)
    if not verdict or not states:
        return 0, "herd7 gives no verdict"
    if verdict[1] != test.expected:
        return 0, f"is {verdict[1]}, expected {test.expected}"
    return int(states[1]), None


def run_one(test, herd7, model):
    """Run one test; return as judge() does."""
    command = [herd7, "-conf", CONF, str(test.path)]
    try:
        done = subprocess.run(command, cwd=model, capture_output=True, text=True,
                              timeout=TIMEOUT, check=False)
    except subprocess.TimeoutExpired:
        return 0, f"herd7 takes more than {TIMEOUT} seconds"
    except OSError as error:
        raise CannotRun(f"cannot run {herd7}: {error.strerror}") from error
    return judge(test, done.stdout, done.stderr, done.returncode)


def load(folder):
    """All tests of a folder, proofs before their controls."""
    tests = [Test(path) for path in Path(folder).resolve().glob("*.litmus")]
    if not tests:
        raise CannotRun(f"no *.litmus in {folder}")
    return sorted(tests, key=lambda test: (test.proof, test.what))


def select(tests, names):
    """The tests named; a proof's name stands for its controls as well."""
    unknown = set(names) - {test.name for test in tests}
    if unknown:
        raise CannotRun(f"no such test: {' '.join(sorted(unknown))}; see --list")
    return [t for t in tests if not names or t.name in names or t.proof in names]


def find_tools(args):
    """Return herd7 and the model's folder, as absolute paths."""
    herd7 = shutil.which(args.herd7)
    if not herd7:
        raise CannotRun(f"no {args.herd7}; models/herd7/fetch.sh provides it, "
                        "then use --herd7")
    if not args.memory_model:
        raise CannotRun("use --memory-model with the kernel's tools/memory-model")
    if not Path(args.memory_model, CONF).is_file():
        raise CannotRun(f"no {CONF} in {args.memory_model}; it has to be the "
                        "kernel's tools/memory-model")
    return os.path.abspath(herd7), args.memory_model


def run_all(tests, everything, herd7, model):
    """Run @tests, print a line for each, return how many are not as expected."""
    wrong = {}
    chosen = {test.name for test in tests}
    for name, complaint in complaints_of_set(everything):
        if name in chosen:
            wrong.setdefault(name, complaint)
    for test in tests:
        states, complaint = run_one(test, herd7, model)
        complaint = next(test.complaints(), None) or complaint or wrong.get(test.name)
        if complaint:
            wrong[test.name] = complaint
            print(f"FAIL {test.name}: {complaint}", flush=True)
        else:
            print(f"ok {test.name} {test.expected} ({states} states)", flush=True)
    return len(wrong)


def parse():
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME",
                        help="a proof, with its controls, or one control; default: all")
    parser.add_argument("--memory-model", metavar="DIR",
                        help="tools/memory-model of a kernel source")
    parser.add_argument("--herd7", default="herd7", metavar="FILE",
                        help="default: the one in PATH")
    parser.add_argument("--tests", default=Path(__file__).parent, metavar="DIR",
                        help="where the tests are; default: next to this file")
    parser.add_argument("--list", action="store_true",
                        help="print the names of the proofs and exit")
    return parser.parse_args()


def main():
    """Return the exit status."""
    args = parse()
    try:
        everything = load(args.tests)
        tests = select(everything, args.names)
        if args.list:
            print("\n".join(test.name for test in tests if not test.what))
            return 0
        failed = run_all(tests, everything, *find_tools(args))
    except CannotRun as error:
        print(f"run.py: {error}", file=sys.stderr)
        return 2
    proofs = sum(not test.what for test in tests)
    print(f"{proofs} proofs, {len(tests) - proofs} controls: "
          f"{len(tests) - failed} ok, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
