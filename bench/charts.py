# SPDX-License-Identifier: GPL-2.0
"""The report's pictures: SVG text drawn by gnuplot from results.json. Used by report.py."""
import math
import subprocess

from bench import flight

COLOURS = {"stock": "#777777", "ipi": "#aaaaaa", "s4": "#d98e04", "patched": "#1f6fb2",
           "patched_kicks": "#7fb3dd", "patched_off": "#b04a5a"}
STATES = {"guest": "#1f6fb2", "host": "#e4e4e4"}
FONT = "DejaVu Sans,12"


def gnuplot(name, size, text):
    """One SVG element; @name keeps the ids of several in one page apart."""
    head = (f"set terminal svg size {size[0]},{size[1]} dynamic font '{FONT}' name '{name}' "
            "background '#ffffff'\nset encoding utf8\nset border 3 lc rgb '#666666'\n"
            "set tics nomirror textcolor rgb '#333333'\n")
    done = subprocess.run(["gnuplot"], input=head + text, capture_output=True, text=True)
    if done.returncode or "<svg" not in done.stdout:
        raise RuntimeError(f"gnuplot could not draw {name}: {done.stderr.strip()}")
    svg = done.stdout[done.stdout.index("<svg"):]
    return svg.replace("<svg", '<svg role="img"', 1)


def plain(text):
    """gnuplot would take the underscore for a subscript."""
    return text.replace("_", " ")


def block(name, rows):
    return f"${name} << EOD\n" + "\n".join(rows) + "\nEOD\n"


def spurious(lab, cells, per_million):
    """Bars: spurious notifications per million posts; None without any."""
    variants = [v for v in COLOURS if all(v in by for by in cells.values())]
    rows = [f'"{plain(workload)}" ' + " ".join(str(per_million(by[v], "notify_spurious") or 0)
                                               for v in variants)
            for workload, by in cells.items()]
    if not any(per_million(by[v], "notify_spurious") for by in cells.values() for v in variants):
        return None
    parts = [f"$bars using {i}:xtic(1) title '{plain(v)}' lc rgb '{COLOURS[v]}'"
             for i, v in enumerate(variants, 2)]
    return gnuplot(f"{lab}_spurious", (720, 300), block("bars", rows) + (
        "set style data histograms\nset style histogram clustered gap 1.5\n"
        "set style fill solid noborder\nset boxwidth 0.9\nset yrange [0:*]\n"
        "set ylabel 'per million posts'\nset grid ytics lc rgb '#dddddd'\n"
        "set key top right samplen 1\nset format y \"%'.0f\"\n"
        "plot " + ", ".join(parts) + "\n"))


def under_way(lab, runs):
    """Lines: notifications wasted of 100 posts, by what takes how long, and the series' floor."""
    shown = ("stock", "patched")
    rows = []
    for i, one in enumerate(runs):
        if i and (one["entry"] == 1) != (runs[i - 1]["entry"] == 1):
            rows.append("")             # no line from one kind to the other
        what = f"{one['flight']:,} on the way" if one["entry"] == 1 else f"entry takes {one['entry']:,}"
        counts = [count * 100 / one["cells"][v]["posted"]
                  for v in shown for count in flight.wasted(one["cells"][v])]
        rows.append(f'"{what}" ' + " ".join(f"{n:.2f}" for n in counts))
    parts = [f"$w using 0:{i}:xtic(1) with linespoints lw 2 pt 7 lc rgb '{COLOURS[v]}' title '{v}'"
             for v, i in zip(shown, (2, 4))]
    parts.append(f"$w using 0:5 with lines dt 2 lc rgb '{COLOURS['patched']}' title 'patched, the floor'")
    return gnuplot(f"{lab}_flight", (720, 300), block("w", rows) + (
        "set yrange [0:*]\nset xrange [-0.3:*]\nset ylabel 'wasted, of 100 posts'\n"
        "set grid ytics lc rgb '#dddddd'\nset key outside top horizontal samplen 2\n"
        "plot " + ", ".join(parts) + "\n"))


def few_tics(low, high):
    """A round distance between tics, so that their labels fit next to each other."""
    least = (high - low) / (5 if high < 1e6 else 3)
    scale = 10 ** math.floor(math.log10(least))
    return next(n * scale for n in (1, 2, 5, 10) if n * scale >= least)


def cdf(lab, form, by_variant):
    """Cumulated latencies, from the 101 percentiles of each variant."""
    blocks, parts = "", []
    for i, (variant, entry) in enumerate(by_variant.items()):
        blocks += block(f"v{i}", [f"{ticks} {percent}" for percent, ticks in
                                  enumerate(entry["percentiles"])])
        parts.append(f"$v{i} using 1:2 with steps lw 2 lc rgb '{COLOURS[variant]}' "
                     f"title '{plain(variant)}'")
    high = max(entry["percentiles"][99] for entry in by_variant.values())
    low = min(entry["percentiles"][0] for entry in by_variant.values())
    room = max((high - low) * 0.1, 5)
    tics = few_tics(max(low - room, 0), high + room)
    return gnuplot(f"{lab}_{form.replace('-', '_')}", (480, 280), blocks + (
        f"set title '{form}'\nset xlabel 'ticks'\nset ylabel '% of operations'\n"
        f"set xrange [{max(low - room, 0)}:{high + room}]\nset yrange [0:100]\n"
        "set grid lc rgb '#dddddd'\nset key outside bottom center horizontal samplen 1\n"
        f"set format x \"%'.0f\"\nset xtics {tics:g}\nset samples 2\n"
        "plot " + ", ".join(parts) + "\n"))


def seen_as(variant, mode, flag):
    """What a sender makes of the states: values as in selftests/probe/kvm-mode-probe.h."""
    if flag < 0 or variant == "patched_off":
        return "guest" if mode == 1 else "host"
    return "guest" if flag else "host"


def segments(variant, window):
    """[(from, to, state)] of the round trip that was drawn"""
    found, begin, state = [], 0, "guest"
    for ticks, mode, flag in window["drawn"]:
        now = seen_as(variant, mode, flag)
        if now != state:
            found.append((begin, ticks, state))
            begin, state = ticks, now
    return found + [(begin, window["drawn_ticks"], state)]


def timeline(lab, form, by_variant):
    """One round trip of each variant, as a sender sees it."""
    shown = [v for v in COLOURS
             if by_variant.get(v, {}).get("window", {}).get("watched")]
    if not shown:
        return None
    boxes = {state: [] for state in STATES}
    for y, variant in enumerate(reversed(shown)):
        for begin, end, state in segments(variant, by_variant[variant]["window"]):
            boxes[state].append(f"{begin} {y} {begin} {end} {y - 0.32} {y + 0.32}")
    blocks = "".join(block(state, rows or ["0 0 0 0 0 0"]) for state, rows in boxes.items())
    tics = ", ".join(f"'{plain(v)}' {y}" for y, v in enumerate(reversed(shown)))
    longest = max(by_variant[v]["window"]["drawn_ticks"] for v in shown)
    label = {"guest": "in the guest", "host": "in the host"}
    return gnuplot(f"{lab}_{form.replace('-', '_')}_line", (720, 90 + 40 * len(shown)), blocks + (
        f"set ytics ({tics})\nset yrange [-0.6:{len(shown) - 0.4}]\n"
        "set xlabel 'ticks since the instruction that exits'\n"
        f"set xrange [0:{longest * 1.02}]\n"
        "set style fill solid noborder\nset key outside top horizontal samplen 1\n"
        "set format x \"%'.0f\"\n"
        "plot " + ", ".join(f"${s} using 1:2:3:4:5:6 with boxxyerror lc rgb '{c}' "
                            f"title '{label[s]}'" for s, c in STATES.items()) + "\n"))
