# SPDX-License-Identifier: GPL-2.0
"""One run of the posting benchmark in turns, each with a seed of its own: its cell, as of one run, with
the figures of each turn beside it, which a variant is compared by (paired.py). Used by posts.py.

Of posts to a vCPU that halts the ratio of two variants differs from seed to seed by more than the bound
allows: a bound of one seed shows what that seed does."""
import statistics

from bench import paired

# Of a cell: what does not add up.  The rest is counted, or is what all turns have alike.
GREATEST = ("latency_max", "late_max_wait", "exit_to_send_max")
MIDDLE = ("latency_p50", "latency_p99")
ALIKE = ("seed", "senders", "gap_min", "gap_max", "exit_gap_max", "late_bound", "long_ticks", "long_every",
         "gap_cap", "stall_ms", "halt_poll_ns", "cpus", "version")


def sum_of(values, key=None):
    first = values[0]
    if isinstance(first, dict):
        return {key: sum_of([value[key] for value in values], key) for key in first}
    if isinstance(first, list):
        return [sum(at) for at in zip(*values)]
    if None in values:
        return None
    if key in ALIKE or isinstance(first, (str, bool)):
        return first
    if key in GREATEST:
        return max(values)
    return statistics.median_low(values) if key in MIDDLE else sum(values)


def merged(cells):
    """The cell of these turns' cells, in the order of their seeds"""
    whole = sum_of(cells)
    if whole.get("emulator"):       # its clock
        whole["emulator"]["ticks"] = cells[-1]["emulator"]["ticks"]
    whole["turns"] = [{"seed": cell["seed"], "posts": cell["posts"], "posts_per_mtick": cell["posts_per_mtick"],
                       "send_mean": cell["send_mean"]} for cell in cells]
    whole["send_mean"] = sum(cell["send_mean"] * cell["posted"] for cell in cells) / whole["posted"]
    whole["posts_per_mtick"] = whole["posted"] * 1e6 / whole["ticks"]
    return whole


def compared(cell, base, figure):
    """paired.Compared of a figure's ratio, or None if one of them was not run in turns"""
    if not {"turns"} <= cell.keys() & base.keys():
        return None
    return paired.compared(*([turn[figure] for turn in one["turns"]] for one in (cell, base)))
