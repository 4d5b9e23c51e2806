# SPDX-License-Identifier: GPL-2.0
"""A whole VM as L2: QEMU with -accel kvm boots a distribution's kernel on L1's KVM, and runs
an IPI benchmark and hackbench in it (boot.sh). What is run, and the runs in the form that
latency.py summarizes. In the svm lab; in the vmx lab one boot of L2 takes too long. Called by
run.py."""
from pathlib import Path

from bench import latency, paired
from bench.variants import Switcher

LABS = ("svm",)
COMPARED = ("stock", "patched")
ROUNDS = 3
VCPUS = 2
CALLS = 200                     # of membarrier()
LOOPS = 20                      # of hackbench
SECONDS = 200                   # for one VM; 10 are enough on an idle machine
FORMS = ("vm-ipi", "vm-hackbench")
CLOCK = "CLOCK_MONOTONIC, ns"


def script(variants, seed, switch, rounds):
    """Shell text; a line "CELL form variant seed" precedes each result's JSON."""
    lines = []
    for turn in paired.seeds(seed, rounds):
        for variant in variants:
            lines += switch.lines(variant)
            key = f"{variant} {turn}\\n"
            lines.append(f"boot.sh /guest {CALLS} {LOOPS} {VCPUS} {SECONDS} | sed -n "
                         f"-e 's/^membarrier /CELL vm-ipi {key}/p' "
                         f"-e 's/^hackbench /CELL vm-hackbench {key}/p'")
    return "\n".join(lines)


def run_of(cell, seed):
    if "seconds" in cell:
        return latency.run_of([round(cell["seconds"] * 1e9)], CLOCK, VCPUS, seed)
    return latency.run_of(cell["samples"], CLOCK, VCPUS, seed, ipis=cell["ipis"],
                          skipped=cell["skipped"])


def run_lab(name, build, seed=1, rounds=ROUNDS, log=None):
    """One boot of L1. Returns {form: {variant: summary}}."""
    cells = latency.run_cells(name, build, script(COMPARED, seed, Switcher(), rounds),
                              "results of whole VMs", len(FORMS) * len(COMPARED) * rounds,
                              COMPARED[0], hang=SECONDS + 30, log=log,
                              overlay=[Path(build) / "lab/guest.cpio"])
    return latency.summarize({key: run_of(cell, key[2]) for key, cell in cells.items()})
