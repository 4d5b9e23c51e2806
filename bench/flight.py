#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""What notifications are wasted when IPIs and doorbells take time, and when VM entries do: the
`exits` workload of the posting benchmark on stock, on the series, and on the series notifying by
the run-loop mode, with several lengths of each.  The floor is what no flag can avoid, as far as the
emulators can tell: the target was in the guest when the notification was sent, or (vmx) entered it
afterwards, and had left when it arrived; or a doorbell arrived in VMRUN, which looks at the IRR
anyway.  Prints a table, writes BUILD/bench/flight.json.  Called by `make flight`, and by run.py for
`make bench FULL=1`.

exit status: 0 done and the bounds hold, 1 an interrupt was lost, late or delivered twice, or a
bound is missed, 125 a lab failed, 130 interrupted"""
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)     # the packages
from bench import kept, posts
from bench.progress import align, say
from lab import emulators, program, side_by_side

LABS = emulators.amounts("flight")      # posts: for each pair of times, and variant
# (on the way, VM entry), ticks of L1's TSC
TIMES = ((0, 1), (64, 1), (256, 1), (1024, 1), (0, 64), (0, 256))
WORKLOAD = "exits"
HEAD = ("on the way", "entry", "variant", "posted", "sent", "wasted", "floor",
        "above, per 1,000 posts", "wasted, to stock", "above, to stock")


def run_lab(name, build, seed=1, log=None, count=None, times=TIMES):
    """[{flight, entry, cells: {variant: cell}}]: one boot of L1 for each pair of times."""
    found = []
    for flight, entry in times:
        cells, _ = posts.run_lab(name, build, (WORKLOAD,), posts.variants_of(name),
                                 count or LABS[name]["posts"], seed, log=f"{log}-{flight}-{entry}.log",
                                 flight=flight, entry=entry)
        found.append({"flight": flight, "entry": entry, "cells": cells[WORKLOAD]})
    return found


def wasted(cell):
    """(all, of these the floor).  An IPI that arrives in a VM entry is not wasted."""
    seen = posts.notifications(cell)
    late = seen["recv_entry"] if "doorbell" in cell["emulator"] else seen["recv_host_after_entry"]
    return seen["recv_host"], seen["recv_host_sent_in_guest"] + late


def above_floor(cell):
    """Per post."""
    everything, floor = wasted(cell)
    return (everything - floor) / cell["posted"]


def to_stock(cells, variant="patched"):
    """Of all that is wasted."""
    return wasted(cells[variant])[0] / max(wasted(cells["stock"])[0], 1)


def above_floor_to(cells, variant="patched", base="stock"):
    return above_floor(cells[variant]) / max(above_floor(cells[base]), 1e-6)


def said(one):
    """A pair of times, in words."""
    return f"{one['flight']} ticks on the way, {one['entry']} of an entry"


def bounds(name, runs):
    """[posts.Bound]"""
    found, limits = [], posts.LABS.get(name, {})
    for one in runs:
        most, base = limits["wasted_ratio"], posts.base_of(limits, one["cells"])
        ratio = above_floor_to(one["cells"], base=base)
        found.append(posts.Bound(ratio <= most, f"{said(one)}: wasted above the floor, per post, "
                                 f"patched/{base}", ratio, f"at most {most}"))
    return found


def broken(name, runs):
    """What does not hold."""
    return [f"{said(one)}: {text}" for one in runs
            for text in posts.guarantees(name, {WORKLOAD: one["cells"]})] + \
        [f"{name} {bound}" for bound in bounds(name, runs) if not bound.holds]


def rows(runs):
    found = [HEAD]
    for one in runs:
        for variant, cell in one["cells"].items():
            everything, floor = wasted(cell)
            found.append((f"{one['flight']:,}", f"{one['entry']:,}", variant, f"{cell['posted']:,}",
                          f"{posts.notifications(cell)['sent']:,}", f"{everything:,}", f"{floor:,}",
                          f"{above_floor(cell) * 1000:.1f}", f"{to_stock(one['cells'], variant):.3f}",
                          f"{above_floor_to(one['cells'], variant):.3f}"))
    return found


def text(name, runs):
    return "\n".join([align(f"{name}: {WORKLOAD}, notifications wasted when they and VM entries take time",
                            rows(runs), 3), *(posts.verdict(b.data()) for b in bounds(name, runs))])


def listed(words):
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last


def sentence(name, runs):
    """What README says of a lab: all that is wasted, the series to stock."""
    def of(key, some):
        return (listed([f"{one[key]:,}" for one in some]),
                listed([f"{to_stock(one['cells']):.3f}" for one in some]))
    ways, on_way = of("flight", [one for one in runs if one["flight"]])
    entries, in_entry = of("entry", [one for one in runs if one["entry"] > 1])
    return (f"{name}: the series wastes {on_way} of what stock does in {WORKLOAD} when a notification is "
            f"on its way for {ways} ticks, and {in_entry} when a VM entry takes {entries}.")


def run(args):
    """[what does not hold]"""
    out = Path(args.build) / "bench"
    out.mkdir(parents=True, exist_ok=True)
    kept.use(out / "kept-flight")
    names = args.labs.split()
    say(f"{len(TIMES)} pairs of times in the labs {args.labs}: about 8 minutes on two CPUs")
    jobs = [(name, args.build, args.seed, out / f"{name}-flight", args.posts) for name in names]
    results = dict(zip(names, side_by_side.run(run_lab, jobs, len(jobs))))
    print("\n\n".join(text(name, results[name]) for name in names), flush=True)
    (out / "flight.json").write_text(json.dumps(results, indent=1) + "\n")
    kept.forget()
    return sum((broken(name, results[name]) for name in names), [])


def main():
    args = program.options(__doc__)
    args.add_argument("--labs", default=" ".join(LABS))
    args.add_argument("--posts", type=int, help="default: "
                      + ", ".join(f"{name} {amounts['posts']}" for name, amounts in LABS.items()))
    args.add_argument("--seed", type=int, default=1)
    wrong = run(args.parse_args())
    for line in wrong:
        print(f"FAILED: {line}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    program.start(main)
