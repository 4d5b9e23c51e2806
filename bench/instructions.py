# SPDX-License-Identifier: GPL-2.0
"""A second opinion on what an exit costs: the svm lab's emulator with -icount, where the TSC
counts instructions, as the vmx lab's does always. One boot of L1 of its own. Called by run.py."""
from bench import latency

LABS = ("svm",)
ROUNDS = latency.ROUNDS
SAMPLES = 200
FORMS = ("exit",)               # QEMU has no NRIPS, so no fastpath
VARIANTS = ("stock", "s4", "patched", "patched_off")


def run_lab(name, build, seed=1, rounds=ROUNDS, log=None):
    """Returns {form: {variant: summary}}."""
    return latency.run_lab(name, build, FORMS, VARIANTS, seed, rounds, SAMPLES, log, icount=True)
