# SPDX-License-Identifier: GPL-2.0
"""How the spurious rate and the sender's cost grow with the number of vCPUs that post to one:
the `exits` workload with 1, 3, 7 and 15 senders, in one boot of a large L1. Called by run.py."""
import math

from bench import latency, posts
from bench.variants import Switcher
from lab import emulators

LABS = emulators.amounts("scaling")     # where a tick is worth something with more CPUs than the machine's
VCPUS = (2, 4, 8, 16)
VARIANTS = ("stock", "ipi", "patched")
POSTS = 8000
WORKLOAD = "exits"


def script(extra, seed, switch):
    lines = ["failed=0"]
    for variant in VARIANTS:
        lines += switch.lines(variant)
        for vcpus in VCPUS:
            lines += [f"echo CELL {vcpus} {variant}",
                      f"kvm-mode-bench post --json --workload {WORKLOAD} --posts {POSTS} --seed "
                      f"{seed} --senders {vcpus - 1} {extra} || failed=1"]
    return "\n".join([*lines, "exit $failed"])


def run_lab(name, build, seed=1, log=None):
    """One boot of L1. Returns {vCPUs: {variant: cell}}."""
    cells = latency.run_cells(name, build, script(LABS[name]["extra"], seed, Switcher()),
                              "runs with more vCPUs", len(VCPUS) * len(VARIANTS), VARIANTS[0],
                              cpus=max(VCPUS), hang=LABS[name]["hang"], log=log)
    for cell in cells.values():
        posts.fill_in(cell)
    return {str(vcpus): {variant: cells[str(vcpus), variant] for variant in VARIANTS}
            for vcpus in VCPUS}


def bounds(name, cells):
    """[posts.Bound]: as with one sender"""
    return [bound._replace(what=f"{vcpus} vCPUs, {bound.what}")
            for vcpus, by_variant in cells.items()
            for bound in posts.wasted(WORKLOAD, by_variant, posts.LABS[name])]


NOTE = ("An exit wastes one notification at most, as the posts that follow find it outstanding: the more posts, "
        "the less a longer window shows per post. The window is what posts at random would need to waste "
        "as many: -ln(1 - spurious per exit of the target), to that of the baseline.")


def per_exit(cell):
    return cell["notify_spurious"] / cell["target"]["exits"]


def window_ratio(cell, base):
    """Of the times, behind an exit, in which a post is wasted; None where that is not to be told."""
    if not 0 <= per_exit(cell) < 1 or not 0 < per_exit(base) < 1:
        return None
    return math.log1p(-per_exit(cell)) / math.log1p(-per_exit(base))


def rows(name, cells):
    """Of a table; the first row has the columns' names."""
    found = [("vCPUs", "variant", "posted", "lost", "late", "notify", "spurious", "spur/M",
              "ticks of a post", "waits of senders", "target's exits", "spurious per exit", "window")]
    for vcpus, by_variant in cells.items():
        base = by_variant[posts.base_of(posts.LABS[name], by_variant)]
        for variant, cell in by_variant.items():
            window = window_ratio(cell, base)
            found.append((vcpus, variant, f"{cell['posted']:,}", f"{cell['lost']:,}",
                          f"{cell['late']:,}", f"{cell['notify_sent']:,}",
                          f"{cell['notify_spurious']:,}",
                          f"{posts.per_million(cell, 'notify_spurious'):,.0f}",
                          f"{cell['send_mean']:,.1f}", f"{cell['sender_waits']:,}",
                          f"{cell['target']['exits']:,}", f"{per_exit(cell):.3f}",
                          "-" if window is None else f"{window:.3f}"))
    return found
