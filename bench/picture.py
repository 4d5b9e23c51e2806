# SPDX-License-Identifier: GPL-2.0
"""The answer in one picture: spurious notifications per 100 posts, of the baseline and of the series, in
each workload of the labs that have any. SVG text, the same wherever it is made: docs/results.svg, and
the top of report.html."""
import html

from bench import posts

BASE, SERIES = "#777777", "#1f6fb2"
WIDTH, LEFT, RIGHT = 560, 108, 64       # of the labels on both sides of the bars
BAR, STEP, HEAD = 13, 38, 34            # heights: a bar, a workload, a lab's name
STYLE = ('.answer text{font:15px "DejaVu Sans",system-ui,sans-serif;fill:#222}'
         ".answer .small{font-size:13px;fill:#444}.answer .bold{font-weight:bold}")
TITLE = "Spurious notifications per 100 posted interrupts"


def per_hundred(cell):
    return cell["notify_spurious"] * 100 / cell["posted"]


def base_of(name, entry):
    """The variant that the series is held against, of those that were run."""
    return posts.baseline(name, next(iter(entry["workloads"].values())))


def shown(name, entry):
    """{workload: {variant: per 100 posts}}, the base first; nothing where nobody could be notified"""
    pair = (base_of(name, entry), "patched")
    found = {workload: {v: per_hundred(by[v]) for v in pair}
             for workload, by in entry["workloads"].items()
             if all(by.get(v, {}).get("notify_spurious") is not None for v in pair)}
    return found if any(any(by.values()) for by in found.values()) else {}


def notified_by(entry):
    """What tells a CPU in the guest of a posted interrupt."""
    cell = next(iter(next(iter(entry["workloads"].values())).values()))
    if cell.get("apicv") == "N":
        return "none, without APICv"
    return "AVIC doorbells" if cell.get("vendor") == "amd" else "posted-interrupt IPIs"


def number(value):
    return "0" if not value else "< 0.1" if value < 0.05 else f"{value:.1f}"


def words(x, y, text, more=""):
    return f'<text x="{x}" y="{y}"{more}>{html.escape(text)}</text>'


def bars(y, by, scale):
    """One workload's two."""
    for colour, value in zip((BASE, SERIES), by.values()):
        length = round(value * scale, 1)
        yield (f'<rect x="{LEFT}" y="{y}" width="{max(length, 1)}" height="{BAR}" '
               f'fill="{colour}"/>')
        yield words(LEFT + max(length, 1) + 6, y + BAR - 2, number(value), ' class="small"')
        y += BAR + 1


def lab(name, entry, by_workload, y, scale):
    yield words(14, y + 21, name if name == "host" else f"{name} lab", ' class="bold"')
    yield words(LEFT, y + 21, f"{notified_by(entry)}; baseline: {base_of(name, entry)}", ' class="small"')
    y += HEAD
    for workload, by in by_workload.items():
        yield words(14, y + BAR + 4, workload)
        yield from bars(y, by, scale)
        y += STEP


def key(y):
    x = 14
    for colour, what in ((BASE, "baseline"), (SERIES, "series")):
        yield f'<rect x="{x}" y="{y - 11}" width="12" height="12" fill="{colour}"/>'
        yield words(x + 18, y, what)
        x += 180


def svg(results, order=("vmx", "avic")):
    """None without anything to show."""
    known = sorted(results["labs"], key=lambda name: (name not in order, name == "avic", name))
    labs = {name: found for name in known if (found := shown(name, results["labs"][name]))}
    if not labs:
        return None
    most = max(value for by_workload in labs.values() for by in by_workload.values()
               for value in by.values())
    scale, y = (WIDTH - LEFT - RIGHT) / most, 60
    parts = [words(14, 26, TITLE, ' class="bold"'), *key(50)]
    for name, by_workload in labs.items():
        parts += lab(name, results["labs"][name], by_workload, y, scale)
        y += HEAD + STEP * len(by_workload)
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" class="answer" role="img" '
        f'viewBox="0 0 {WIDTH} {y}" width="{WIDTH}">',
        "<!-- SPDX-License-Identifier: GPL-2.0 -->",
        f"<title>{TITLE}, baseline and series</title>",
        f"<style>{STYLE}</style>",
        f'<rect x="0.5" y="0.5" width="{WIDTH - 1}" height="{y - 1}" rx="6" fill="#fff" stroke="#ccc"/>',
        *parts, "</svg>"]) + "\n"
