#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Runs the project's tests, in KTAP, and ends with "N passed, N failed": those of what a change
is most likely to break, or, with --full, all of them.  Called by `make check`, which has
built what the tests look at.  Mutants of the series (mutants/) show that the tests can fail.

exit status: 0 all passed, 1 some failed, 130 interrupted"""
import subprocess
import sys
import time
from pathlib import Path
from typing import Callable, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)     # the packages
from bench import ktap
from lab import lab, program, side_by_side
from selftests.checks import (bad_input, farm, guests, interrupts, labs, machine_code, measuring, models,
                              schedules, series, sources)
from selftests.project import Failed, Project


class Test(NamedTuple):
    """A row of TESTS."""
    function: Callable
    lab: str = ""
    quick: bool = False         # also without --full
    seconds: int = 5            # full form, on two CPUs: long ones start first
    alone: bool = False         # uses both CPUs, or wants a machine on which nothing else runs

    @property
    def name(self):
        return "-".join(filter(None, (self.function.__name__.removeprefix("test_"), self.lab)))

    @property
    def label(self):
        return self.function.__doc__.splitlines()[0] + (f" ({self.lab} lab)" if self.lab else "")


# The emulators of the vmx and avic labs have one thread, and their results do not depend on the
# machine's load; that of the svm lab has a thread for each CPU of L1.
TESTS = (
    Test(interrupts.test_posted, "vmx", quick=True, seconds=350),
    Test(interrupts.test_stress, "vmx", quick=True, seconds=500),
    Test(interrupts.test_posted, "avic", quick=True, seconds=200),
    Test(interrupts.test_stress, "avic", seconds=400),
    Test(interrupts.test_x2avic, seconds=120),
    Test(interrupts.test_posted_timers, seconds=150),
    Test(labs.test_lab_status, "vmx", seconds=90),
    Test(interrupts.test_toggle, "vmx", seconds=200),
    Test(interrupts.test_tracepoint, seconds=60),
    Test(interrupts.test_perf, seconds=340),
    Test(schedules.test_explore, seconds=250),
    Test(interrupts.test_late_mutant, seconds=150),
    Test(interrupts.test_remainder, seconds=150),
    Test(labs.test_repeats, "avic", seconds=100),
    Test(labs.test_repeats, "vmx", seconds=100),
    Test(interrupts.test_kvm_selftests, "vmx", seconds=200),
    Test(labs.test_avic, seconds=150),
    Test(labs.test_posted_interrupts, quick=True),
    Test(measuring.test_flight, seconds=150),
    Test(labs.test_hang, seconds=25),
    Test(labs.test_killed_emulator, seconds=20),
    Test(machine_code.test_build_is_clean, quick=True),
    Test(machine_code.test_own_files_w1, seconds=30),
    Test(machine_code.test_machine_code, quick=True),
    Test(machine_code.test_machine_code_stock, quick=True),
    Test(machine_code.test_old_names, seconds=60),
    Test(machine_code.test_static_mutants, seconds=200),
    Test(sources.test_help, quick=True),
    Test(sources.test_style, quick=True, seconds=30),
    Test(models.test_litmus, quick=True, seconds=40),
    Test(models.test_litmus_named, quick=True),
    Test(sources.test_tables, quick=True),
    Test(models.test_spin, seconds=100),
    Test(sources.test_users, quick=True),
    Test(sources.test_rename),
    Test(series.test_series, quick=True, seconds=200),
    Test(series.test_series_refused, seconds=150),
    Test(bad_input.test_bad_base, quick=True),
    Test(machine_code.test_check_modules, quick=True),
    Test(bad_input.test_make_variables, quick=True),
    Test(bad_input.test_full_disk, quick=True),
    Test(bad_input.test_no_network, quick=True),
    Test(labs.test_missing_image, quick=True),
    Test(machine_code.test_i386, seconds=200),
    Test(measuring.test_readme, quick=True),
    Test(measuring.test_paired, quick=True),
    Test(measuring.test_turns, quick=True),
    Test(measuring.test_compare, quick=True, seconds=10),
    Test(measuring.test_interrupted, seconds=60),
    Test(measuring.test_no_kvm, quick=True),
    Test(measuring.test_latency_reader, quick=True),
    Test(measuring.test_latency_two_vms, quick=True),
    Test(measuring.test_live, seconds=150),
    Test(measuring.test_tasks, seconds=40),
    Test(measuring.test_live_interval, quick=True),
    Test(farm.test_ktap, quick=True),
    Test(farm.test_ci_kit, quick=True),
    Test(labs.test_deaf_cpu, quick=True),
    Test(interrupts.test_stress, "svm", quick=True, alone=True, seconds=270),
    Test(labs.test_lab_status, "svm", alone=True, seconds=20),
    Test(interrupts.test_posted, "svm", alone=True, seconds=50),
    Test(interrupts.test_toggle, "svm", alone=True, seconds=25),
    Test(labs.test_whole_vm, alone=True, seconds=40),
    Test(labs.test_pressure, alone=True, seconds=60),
    Test(guests.test_linux_guest, alone=True, seconds=150),
    Test(guests.test_guest_waits, alone=True, seconds=50),
    Test(guests.test_guest_disturbed, alone=True, seconds=60),
    Test(guests.test_guest_storm, alone=True, seconds=60),
    Test(guests.test_guest_served, alone=True, seconds=60),
    Test(guests.test_guest_moved, alone=True, seconds=60),
    Test(guests.test_lost_page, "svm", alone=True, seconds=60),
    Test(guests.test_lost_page, "vmx", seconds=300),
    Test(interrupts.test_kvm_selftests, "svm", alone=True, seconds=250),
    Test(measuring.test_measuring, alone=True, seconds=400),
    Test(interrupts.test_base_warnings, alone=True),
    Test(labs.test_dead_timer, alone=True, seconds=30),
)


def run_one(project, number):
    """(ktap.Case, notes) of the test that is TESTS[number]."""
    test = TESTS[number]
    project.full = project.all or not test.quick        # such a test has no other form
    start, project.notes = time.time(), []
    try:
        test.function(project, *filter(None, [test.lab]))
    except (Failed, lab.LabError, OSError, subprocess.SubprocessError, RuntimeError, ValueError,
            LookupError, StopIteration) as error:
        project.notes += f"{type(error).__name__}: {error}".splitlines()[:40]
        return ktap.Case(False, test.label), project.notes
    return ktap.Case(True, test.label, f"{time.time() - start:.0f} s"), project.notes


def run_all(project, numbers):
    """Yields what run_one returns, for each of the tests."""
    beside = sorted((n for n in numbers if not TESTS[n].alone), key=lambda n: -TESTS[n].seconds)
    yield from side_by_side.unordered(run_one, [(project, n) for n in beside], 2)
    for n in numbers:
        if TESTS[n].alone:
            yield run_one(project, n)


def about(numbers):
    """Seconds that these tests take, full form."""
    return sum(TESTS[n].seconds / (1 if TESTS[n].alone else 2) for n in numbers)


def parse():
    args = program.options(__doc__, base=True)
    args.add_argument("--full", action="store_true", help="every test, in its longer form")
    args.add_argument("--only", default="", help="run tests whose name contains this")
    args.add_argument("--list", action="store_true", help="the tests' names and what they show")
    return program.parse(args)


def main():
    args = parse()
    numbers = [n for n, test in enumerate(TESTS) if args.only in test.name and
               (args.full or args.only or test.quick)]
    if args.list:
        print("\n".join(f"{TESTS[n].name:24} {TESTS[n].label}" for n in numbers))
        return 0
    took = f"about {about(numbers) / 60:.0f} minutes" if args.full else "short forms"
    print(f"# {len(numbers)} of {len(TESTS)} tests, {took} on two CPUs", file=sys.stderr)
    print(f"{ktap.HEAD}\n1..{len(numbers)}", flush=True)
    passed = 0
    for i, (case, notes) in enumerate(run_all(Project(args), numbers), 1):
        print("".join(f"# {note}\n" for note in notes) + ktap.result(i, case), flush=True)
        passed += case.ok
    left = len(TESTS) - len(numbers)
    if left and not args.only:
        print(f"# {left} tests are left out, others are short: make check FULL=1 has all")
    print(f"{passed} passed, {len(numbers) - passed} failed")
    return 0 if passed == len(numbers) else 1


if __name__ == "__main__":
    program.start(main)
