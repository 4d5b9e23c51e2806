# SPDX-License-Identifier: GPL-2.0
"""How much `make bench` measures: the quick form answers whether the series helps, what it costs
and whether anything is lost; the full one has every lab, variant, workload, round and tool."""
from typing import NamedTuple

from bench import apf, latency, posts

QUICK_LATENCIES = ("exit", "exit-fastpath", "window", "window-fastpath", "ipi", "ipi-exits", "ipi-hlt",
                   "kick-signal", "kick-plain-exits", "kick-request-exits")


class Plan(NamedTuple):
    labs: tuple             # unless others are named
    posts: dict             # lab: posts per workload and variant
    variants: tuple         # that are posted to
    share: int              # one in so many posts for variants that no bound compares
    latencies: tuple        # forms of latency.py
    latency_variants: tuple
    rounds: int             # runs of each latency, at most; 0: only the posts
    apf_variants: tuple
    apf_rounds: int
    others: bool            # run.py's OTHERS: other tools and clocks
    scaling: bool           # up to 16 vCPUs; over seeds
    flight: bool            # IPIs and VM entries that take time
    timers: bool            # posts by the target's own timer
    minutes: int            # on two CPUs


FULL = Plan(labs=("svm", "avic", "vmx"), posts={name: lab["posts"] for name, lab in posts.LABS.items()},
            variants=("stock", "ipi", *posts.PEERS, "bare", "patched", "patched_off"), share=3,
            latencies=tuple(latency.FORMS), latency_variants=latency.SHOWN, rounds=latency.ROUNDS,
            apf_variants=apf.VARIANTS, apf_rounds=apf.ROUNDS, others=True, scaling=True, flight=True,
            timers=True, minutes=70)
QUICK = Plan(labs=("avic", "vmx"), posts={name: lab["quick"] for name, lab in posts.LABS.items()},
             variants=("stock", "ipi", "patched"), share=1,
             latencies=QUICK_LATENCIES, latency_variants=("stock", "patched"), rounds=2,
             apf_variants=("stock", "patched"), apf_rounds=2, others=False, scaling=False, flight=False,
             timers=False, minutes=6)


def left_out(labs):
    """What the quick form, run in @labs, says at its end."""
    others = ", ".join(f"the {name} lab" for name in FULL.labs if name not in labs)
    return (f"left out: {others}{', ' if others else ''}the peers and the series with its parts "
            "switched off, posted timers, most latencies, rt-tests, a whole VM, up to 16 vCPUs, six "
            "seeds, IPIs that take time; and few rounds are few. All of it: make bench FULL=1")
