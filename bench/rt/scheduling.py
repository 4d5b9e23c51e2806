# SPDX-License-Identifier: GPL-2.0
"""Scheduling latency of the host (L1, in a lab) while one of its guests is posted interrupts,
by rt-tests: cyclictest on the CPU of the vCPU, and the time that hackbench takes. What is run,
and the runs in the form that latency.py summarizes. Called by run.py."""
from pathlib import Path

from bench import latency, paired
from bench.variants import Switcher
from lab import emulators

COMPARED = ("stock", "patched")
ROUNDS = 6
CLOCK = "CLOCK_MONOTONIC, ns"

# form: under-storm.sh's tool and load
FORMS = {
    "cyclictest-idle": ("cyclictest", "idle"),
    "cyclictest-storm": ("cyclictest", "storm"),
    "cyclictest-busy": ("cyclictest", "busy"),
    "hackbench-storm": ("hackbench", "storm"),
}
# cyclictest: loops, us between two, ns of its histogram. hackbench: loops. storm: options of
# kvm-mode-bench post; more posts than can happen meanwhile, each needs guest memory. rounds: at
# most.
LABS = emulators.amounts("rt")


def forms(name):
    return [form for form in FORMS if form not in LABS[name]["without"]]


def script(name, variants, seed, switch, rounds):
    """Shell text; a line "CELL form variant seed" precedes each measurement's JSON."""
    setup, lines = LABS[name], ["failed=0"]
    for turn in paired.seeds(seed, rounds):
        for variant in variants:
            lines += switch.lines(variant)
            for form in forms(name):
                tool, load = FORMS[form]
                lines += [f"echo CELL {form} {variant} {turn}",
                          f"SEED={turn} STORM='{setup['storm']}' under-storm.sh {tool} {load} "
                          f"{setup[tool]} || failed=1"]
    return "\n".join([*lines, "exit $failed"])


def run_of(cell, seed):
    """cyclictest's histogram has one line a nanosecond, and no more than it was told to."""
    found = cell["found"]
    if "seconds" in found:
        values = [round(found["seconds"] * 1e9)]
    else:
        thread = found["thread"]["0"]
        values = [int(ns) for ns, count in thread["histogram"].items() for _ in range(count)]
        values += [thread["max"]] * (thread["cycles"] - len(values))
    return latency.run_of(values, CLOCK, 2, seed, exits=cell["exits"],
                          notify_spurious=cell["notify_spurious"])


def run_lab(name, build, seed=1, rounds=ROUNDS, log=None):
    """One boot of L1. Returns {form: {variant: summary}}."""
    rounds = min(rounds, LABS[name]["rounds"])
    cells = latency.run_cells(name, build, script(name, COMPARED, seed, Switcher(), rounds),
                              "runs of cyclictest and hackbench",
                              len(forms(name)) * len(COMPARED) * rounds, COMPARED[0],
                              hang=LABS[name]["hang"], log=log,
                              overlay=[Path(build) / "lab/rt.cpio"])
    return latency.summarize({key: run_of(cell, key[2]) for key, cell in cells.items()})
