# SPDX-License-Identifier: GPL-2.0
"""Spurious notifications per post over seeds: an emulator repeats, so that the seeds are the sample, and
variants are paired by them (paired.py).  One boot of L1.  Called by run.py."""
from bench import latency, paired, posts
from bench.variants import Switcher
from lab import emulators

LABS = tuple(name for name, cls in emulators.EMULATORS.items() if cls.notifies)
POSTS = 3000                # of each workload, variant and seed
OFF_TOLERANCE = 0.10        # patched_off to what it is as


def variants_of(name):
    """The series, and what it and its switched-off form are held against"""
    return tuple(dict.fromkeys([*posts.variants_of(name), *posts.SERIES]))


def workloads_of(name):
    return [w for w in posts.workloads_of(name) if w in posts.SPURIOUS_WORKLOADS]


def script(name, seed, switch):
    """Shell text; a line "CELL workload variant seed" precedes each run's JSON."""
    lines = ["failed=0"]
    for variant in variants_of(name):       # an emulator's runs do not depend on when they are
        lines += switch.lines(variant)
        for turn in paired.seeds(seed):
            for workload in workloads_of(name):
                lines += [f"echo CELL {workload} {variant} {turn}",
                          f"kvm-mode-bench post --json {posts.LABS[name]['extra']} --posts {POSTS} "
                          f"--seed {turn} {posts.options_of(workload)} || failed=1"]
    return "\n".join([*lines, "exit $failed"])


def run_lab(name, build, seed=1, log=None):
    """{workload: {variant: [spurious notifications per million posts, of each seed]}}, what was lost as
    "bad" and posted as "posted" beside them"""
    wanted = len(workloads_of(name)) * len(variants_of(name)) * paired.ROUNDS
    cells = latency.run_cells(name, build, script(name, seed, Switcher()), "runs over seeds", wanted, "stock",
                              hang=posts.LABS[name]["hang"], log=log)
    found = {}
    for (workload, variant, _), cell in sorted(cells.items(), key=lambda item: int(item[0][2])):
        posts.fill_in(cell)
        entry = found.setdefault(workload, {}).setdefault(variant, {"spurious": [], "posted": 0, "bad": 0})
        entry["spurious"].append(round(posts.per_million(cell, "notify_spurious")))
        entry["posted"] += cell["posted"]
        entry["bad"] += sum(cell[key] for key in posts.BAD)
    return found


def ratio(by_variant, variant, base):
    base = [max(n, 1) for n in by_variant[base]["spurious"]]        # as posts.wasted_to()
    return paired.compared(by_variant[variant]["spurious"], base)


def bounds(name, found):
    """[posts.Bound], of the middle ratio"""
    made, limits = [], posts.LABS.get(name, {})
    for workload, by_variant in found.items():
        base = posts.base_of(limits, by_variant)
        for variant in posts.SERIES:
            middle = ratio(by_variant, variant, base).middle
            made.append(posts.Bound(middle <= limits["wasted_ratio"], f"{workload}, over seeds: spurious "
                                    f"notifications per post, {variant}/{base}", middle,
                                    f"at most {limits['wasted_ratio']}"))
        base = base if base != "patched_off" else "stock"
        middle = ratio(by_variant, "patched_off", base).middle
        made.append(posts.Bound(abs(middle - 1) <= OFF_TOLERANCE, f"{workload}, over seeds: the same, "
                                f"patched_off/{base}", middle, f"within {OFF_TOLERANCE:.0%} of 1"))
    return made


def broken(name, found):
    """What was lost, late or doubled, and bounds that do not hold"""
    lost = [f"{name} {workload} {variant}, over seeds: {entry['bad']} of {entry['posted']:,} posts lost, late "
            "or doubled"
            for workload, by in found.items() for variant, entry in by.items() if entry["bad"]]
    return lost + [f"{name} {b}" for b in bounds(name, found) if not b.holds]


def rows(name, found):
    """Of a table; the first row has the columns' names."""
    made = [("workload", "variant", "posted", "spurious per 100 posts, of each seed", "to stock",
             "to " + posts.base_of(posts.LABS[name], variants_of(name)))]
    for workload, by_variant in found.items():
        base = posts.base_of(posts.LABS[name], by_variant)
        for variant, entry in by_variant.items():
            made.append((workload, variant, f"{entry['posted']:,}",
                         " ".join(f"{n / 1e4:.2f}" for n in entry["spurious"]),
                         *("" if variant == other else str(ratio(by_variant, variant, other))
                           for other in ("stock", base))))
    return made


def said(found, variant, base):
    """[text]: the series' ratios and their intervals"""
    ratios = [f"{ratio(by, variant, base)} in {workload}" for workload, by in found.items()
              if {variant, base} <= set(by)]
    return [f"over {paired.ROUNDS} seeds to " + ", ".join(ratios)] if ratios else []


def family(name, found):
    """[text] on all comparisons of rows()"""
    return paired.family([ratio(by, variant, other) for by in found.values() for variant in by
                          for other in {"stock", posts.base_of(posts.LABS[name], by)} - {variant}])
