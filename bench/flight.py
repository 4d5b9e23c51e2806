#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""What notifications are wasted when IPIs and doorbells take time, and when VM entries do: the
`exits` workload of the posting benchmark on stock, on the series, and on the series notifying by
the run-loop mode, with several lengths of each.  The floor is what no flag can avoid: the target
was in the guest when the notification was sent, and had left when it arrived; or a doorbell
arrived in VMRUN, which looks at the IRR anyway.  The emulators count it.  Prints a table, writes
BUILD/bench/flight.json.  Called by `make flight`.

exit status: 0 done and the bounds hold, 1 an interrupt was lost, late or delivered twice, or a
bound is missed, 125 a lab failed, 130 interrupted"""
import argparse
import json
import signal
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)     # the packages
from bench import kept, posts
from bench.progress import align, say
from lab import lab, side_by_side

LABS = ("vmx", "avic")
# (on the way, VM entry), ticks of L1's TSC
TIMES = ((0, 1), (64, 1), (256, 1), (1024, 1), (0, 64), (0, 256))
POSTS = 3000                    # per lab, time and variant
WORKLOAD = "exits"


def run_lab(name, build, count, seed, log):
    """[{flight, entry, cells: {variant: cell}}]: one boot of L1 for each of TIMES."""
    found = []
    for flight, entry in TIMES:
        cells, _ = posts.run_lab(name, build, (WORKLOAD,), posts.VARIANTS, count, seed,
                                 log=f"{log}/{name}-flight-{flight}-{entry}.log",
                                 flight=flight, entry=entry)
        found.append({"flight": flight, "entry": entry, "cells": cells[WORKLOAD]})
    return found


def wasted(cell):
    """(all, of these the floor).  An IPI that arrives in a VM entry is not wasted."""
    seen = posts.notifications(cell)
    in_entry = seen["recv_entry"] if "doorbell" in cell["emulator"] else 0
    return seen["recv_host"], seen["recv_host_sent_in_guest"] + in_entry


def above_floor(cell):
    """Per post."""
    everything, floor = wasted(cell)
    return (everything - floor) / cell["posted"]


def bounds(name, runs):
    """[posts.Bound]"""
    found = []
    for one in runs:
        cells = one["cells"]
        ratio = above_floor(cells["patched"]) / max(above_floor(cells["stock"]), 1e-6)
        found.append(posts.Bound(ratio <= posts.SPURIOUS_RATIO,
                                 f"{name}, {one['flight']} ticks on the way, {one['entry']} of an "
                                 "entry: wasted above the floor, per post, patched/stock",
                                 ratio, f"at most {posts.SPURIOUS_RATIO}"))
    return found


def rows(results):
    found = [("lab", "on the way", "entry", "variant", "posted", "sent", "wasted", "floor",
              "above, per 1,000 posts", "wasted, to stock", "above, to stock")]
    for name, runs in results.items():
        for one in runs:
            cells = one["cells"]
            stock, _ = wasted(cells["stock"])
            for variant, cell in cells.items():
                everything, floor = wasted(cell)
                found.append((name, f"{one['flight']:,}", f"{one['entry']:,}", variant, f"{cell['posted']:,}",
                              f"{posts.notifications(cell)['sent']:,}", f"{everything:,}", f"{floor:,}",
                              f"{above_floor(cell) * 1000:.1f}", f"{everything / max(stock, 1):.3f}",
                              f"{above_floor(cell) / max(above_floor(cells['stock']), 1e-6):.3f}"))
    return found


def run(args):
    """[what does not hold]"""
    out = Path(args.build) / "bench"
    out.mkdir(parents=True, exist_ok=True)
    kept.use(out / "kept-flight")
    names = args.labs.split()
    say(f"{len(TIMES)} kinds of times in the labs {args.labs}: about 8 minutes on two CPUs")
    jobs = [(name, args.build, args.posts, args.seed, str(out)) for name in names]
    results = dict(zip(names, side_by_side.run(run_lab, jobs, len(jobs))))
    print(align("notifications wasted when they take time", rows(results), 4))
    checked = [bound for name in names for bound in bounds(name, results[name])]
    print("\n".join(posts.verdict(bound.data()) for bound in checked), flush=True)
    (out / "flight.json").write_text(json.dumps(results, indent=1) + "\n")
    kept.forget()
    return [f"{name}: {text}" for name in names for one in results[name]
            for text in posts.guarantees(name, {WORKLOAD: one["cells"]})] + \
        [str(bound) for bound in checked if not bound.holds]


def main():
    args = argparse.ArgumentParser(description=__doc__,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--build", default="build")
    args.add_argument("--labs", default=" ".join(LABS))
    args.add_argument("--posts", type=int, default=POSTS, help=f"default: {POSTS}")
    args.add_argument("--seed", type=int, default=1)
    broken = run(args.parse_args())
    for text in broken:
        print(f"FAILED: {text}", file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        sys.exit(main())
    except lab.LabError as error:
        print(f"flight: {error}", file=sys.stderr)
        sys.exit(125)
    except KeyboardInterrupt:
        sys.exit(130)
