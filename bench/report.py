#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Draws report.html, one self-contained page, from a results.json that `make bench` has written.

exit status: 0, 2 wrong usage or a file that cannot be used"""
import argparse
import html as escape
import json
import sys
from pathlib import Path

try:
    import jsonschema
except ImportError:     # another python3 ahead of Debian's in PATH
    sys.path.append("/usr/lib/python3/dist-packages")
    import jsonschema

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)     # the packages
from bench import apf, charts, flight, latency, limits, picture, posts, scaling, seeds
from bench.variants import VARIANTS

Invalid = jsonschema.ValidationError
FORMAT = 2                  # of results.json, see the schema
SCHEMA = ROOT / "bench/results.schema.json"
CDFS = ("ipi", "ipi-exits", "ipi-fastpath", "ipi-hlt", "exit", "kick-plain-exits",
        "kick-request-exits", "kick-wait-exits")
ORDER = "vmx avic host svm"
FULL = "make bench FULL=1"
STYLE = """
body{font:16px/1.5 system-ui,"DejaVu Sans",sans-serif;color:#222;background:#fff;max-width:66em;
margin:0 auto;padding:1em}
h1{font-size:1.5em;line-height:1.25}h2{font-size:1.25em;margin-top:2.5em;border-bottom:1px solid #ccc}
h3{font-size:1em;margin:1.8em 0 .4em}
.wide{overflow-x:auto;margin:.5em 0}table{border-collapse:collapse;font-size:.8em;
font-variant-numeric:tabular-nums}
th,td{padding:2px 7px;text-align:right;border-bottom:1px solid #e2e2e2;white-space:nowrap}
th{border-bottom:1px solid #888;vertical-align:bottom}
td:nth-child(-n+2),th:nth-child(-n+2){text-align:left}
tr.first td{border-top:1px solid #999}.patched{background:#eef5fb}
.answer td,.env td,.bounds td:first-child,.answer th{white-space:normal;text-align:left}
.answer td:nth-child(n+2){min-width:7.5em;vertical-align:top}
.bounds td:first-child{min-width:11em}
.env td+td{overflow-wrap:anywhere}.env td:first-child{white-space:nowrap}
.bounds td:nth-child(2),.bounds th:nth-child(2){text-align:right}
.bounds td:nth-child(3),.bounds th:nth-child(3){text-align:left}
.missed,.missed td{color:#a00;font-weight:bold}.note{color:#555;font-size:.9em}
nav a{margin-right:1em}ul{padding-left:1.3em}summary{cursor:pointer;color:#1f6fb2}
svg{width:100%;max-width:44em;height:auto;display:block}svg.answer{max-width:35em;margin:1em 0}
.pair{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(24em,100%),1fr));gap:1em}
pre{overflow-x:auto}
@media print{body{max-width:none;padding:0;font-size:11px}.wide{overflow:visible}
h2{break-after:avoid}svg,tr{break-inside:avoid}table{font-size:.68em}}
"""


class BadFile(Exception):
    """Its text names the file and what is wrong."""


def validate(results):
    """Raises Invalid, which names the place."""
    jsonschema.validate(results, json.loads(SCHEMA.read_text()))


def live(found, tool):
    """Is it what kvm-mode-live says it prints, as @tool? Raises Invalid."""
    schema = json.loads(SCHEMA.read_text())
    jsonschema.validate(found, {"$schema": schema["$schema"], "definitions": schema["definitions"],
                                "$ref": f"#/definitions/{tool}"})


def load(path):
    try:
        results = json.loads(Path(path).read_text())
        validate(results)
    except OSError as error:
        raise BadFile(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise BadFile(f"{path}: no JSON: {error}") from error
    except Invalid as error:
        place = "/".join(map(str, error.absolute_path)) or "the top"
        raise BadFile(f"{path}: not of this format: at {place}: {error.message[:200]}") from error
    return results


def text(value):
    return escape.escape(str(value))


def table(rows, name=""):
    """HTML; the first row is the head, a new word in the first column starts a group."""
    if not rows:
        return ""
    head = "".join(f"<th>{text(col)}" for col in rows[0])
    lines, last = [], None
    for row in rows[1:]:
        marks = [mark for mark, on in (("first", row[0] != last), ("patched", row[1] == "patched"))
                 if on]
        last = row[0]
        lines.append(f'<tr class="{" ".join(marks)}">' + "".join(f"<td>{text(c)}" for c in row))
    return (f'<div class="wide"><table class="{name}"><thead><tr>{head}</thead><tbody>'
            f'{"".join(lines)}</tbody></table></div>')


def bullets(lines):
    items = "".join(f"<li>{text(line)}" for line in lines)
    return f"<ul>{items}</ul>" if items else ""


def bound_table(found):
    rows = "".join(f'<tr{"" if bound["holds"] else " class=missed"}><td>{text(bound["what"])}'
                   f'<td>{bound["ratio"]:.3f}<td>{text(bound["limit"])}'
                   f'<td>{"holds" if bound["holds"] else "MISSED"}' for bound in found)
    return ('<div class="wide"><table class="bounds"><thead><tr><th>bound<th>ratio<th>limit<th></thead>'
            f"<tbody>{rows}</tbody></table></div>") if rows else ""


def verdicts(found):
    """Bounds: those that are missed, and behind a click those that hold."""
    missed, held = ([b for b in found if b["holds"] is holds] for holds in (False, True))
    return bound_table(missed) + (f"<details><summary>{len(held)} of {len(found)} bounds hold</summary>"
                                  f"{bound_table(held)}</details>" if held else "")


def pairs(entry, base, metric):
    """@entry to @base, per post"""
    low = posts.per_million(base, metric)
    high = posts.per_million(entry, metric)
    return high / low if low else None


def account(entry, known=("patched",)):
    """(posts lost, late or doubled, posts), by default of the series as it comes"""
    cells = [cell for by in entry["workloads"].values() for variant, cell in by.items() if variant in known]
    return (sum(cell[m] for cell in cells for m in ("lost", "late", "doubled")),
            sum(cell["posted"] for cell in cells))


def windows(entry):
    """{variant: ticks that senders see the vCPU in the guest after an exit}, or None"""
    window = entry.get("latency", {}).get("window", {})
    if all(v in window and window[v]["window"]["watched"] for v in ("stock", "patched")):
        return {v: window[v]["window"]["after_exit_p50"] for v in ("stock", "patched")}
    return None


def bounds(entry):
    more = ("seeds_bounds", "apf_bounds", "scaling_bounds", "flight_bounds")
    return entry["bounds"] + [bound for key in more for bound in entry.get(key, [])]


def bounds_line(results):
    """[text]: how many bounds hold, and which are missed."""
    found = [(name, bound) for name, entry in results["labs"].items() for bound in bounds(entry)]
    missed = [f"{name} lab, {posts.Bound(**bound)}" for name, bound in found if not bound["holds"]]
    holds = f"{len(found) - len(missed)} of {len(found)} bounds of the comparison hold"
    return [holds + (f"; missed: {'; '.join(missed)}." if missed else ".")] if found else []


def ordered(results):
    """The labs, those with something to notify first."""
    labs = results["labs"]
    names = sorted(labs, key=lambda name: (not picture.shown(name, labs[name]), ORDER.find(name), name))
    return {name: labs[name] for name in names}


def command(results):
    """What makes such results; peers come with FULL=1."""
    full = any(peer in by for entry in results["labs"].values()
               for by in entry["workloads"].values() for peer in posts.PEERS)
    return FULL if full else "make bench"


def summary(results, series=lambda entry: "patched", bases=None):
    """One sentence a lab: what a reader in a hurry should know.  @series: the variant of a lab's entry;
    @bases: the first of these that was run is what it is compared with; else the lab's own."""
    found = []
    for name, entry in results["labs"].items():
        parts, variant = [], series(entry)
        known = next(iter(entry["workloads"].values()))
        base = next((v for v in bases if v in known), "stock") if bases else picture.base_of(name, entry)
        gains = {w: pairs(by[variant], by[base], "notify_spurious")
                 for w, by in entry["workloads"].items() if {base, variant} <= set(by)
                 and w in posts.SPURIOUS_WORKLOADS and by[base]["notify_spurious"]}
        if gains:
            parts.append("spurious notifications per post fall to " + " and ".join(
                f"{gain:.3f} of {base}'s in {w}" for w, gain in gains.items()))
        parts += seeds.said(entry.get("seeds", {}), variant, base)
        parts += senders(entry, variant)
        seen = windows(entry)
        if seen:
            parts.append(f"senders see the vCPU in the guest for {seen['patched']} ticks after an "
                         f"exit, {seen['stock']} on stock")
        bad, count = account(entry, (variant,))
        if count:
            parts.append(f"of {count:,} posts with the series {bad or 'none'} lost, late or doubled")
        found.append(f"{name}: " + "; ".join(parts) + ".")
    return found


def senders(entry, variant):
    """[text]: ticks that a sender spends in one post, the part of the IPI to a CPU told apart"""
    cells = entry["workloads"].get("compute", {})
    if not {"stock", "ipi", variant} <= set(cells):
        return []
    took = {v: cells[v]["send_mean"] for v in ("stock", "ipi", variant)}
    return [f"a post takes its sender {took['ipi'] / took['stock']:.3f} of stock's ticks in compute with the "
            f"IPI to a CPU alone, and {took[variant] / took['ipi']:.3f} of that with the rest"]


def fall(by_workload):
    return "; ".join(f"{workload} " + " to ".join(f"{value:.1f}" for value in by.values())
                     for workload, by in by_workload.items() if workload in posts.SPURIOUS_WORKLOADS)


def answer(results):
    """Rows, one a lab: what came out."""
    rows = [("lab", "notifications", "baseline", "spurious per 100 posts, baseline to series",
             "seen in the guest after a VM-Exit, for", "posts lost, late or doubled", "bounds that hold")]
    for name, entry in results["labs"].items():
        found, seen, judged = picture.shown(name, entry), windows(entry), bounds(entry)
        bad, count = account(entry)
        rows.append((name, picture.notified_by(entry), picture.base_of(name, entry),
                     fall(found) or "-", "{stock} to {patched} ticks".format(**seen) if seen else "-",
                     f"{bad or 'none'} of {count:,}" if count else "-",
                     f"{sum(b['holds'] for b in judged)} of {len(judged)}" if judged else "-"))
    return rows


def pictures(name, forms):
    windows = [charts.timeline(name, form, by) for form, by in forms.items()
               if form.startswith("window")]
    drawn = [charts.cdf(name, form, forms[form]) for form in CDFS if form in forms
             and not any(latency.is_void(e) for e in forms[form].values())]
    return "".join(filter(None, windows)), "".join(drawn)


def drawn_part(name, entry):
    """What can be seen at a glance."""
    bars = charts.spurious(name, entry["workloads"], posts.per_million)
    lines, cdfs = pictures(name, entry.get("latency", {}))
    part = f"<h3>Spurious notifications</h3>{bars}" if bars else ""
    if lines:
        part += ("<h3>What a sender sees of one VM-Exit</h3><p class=note>CPUID first, then an "
                 "exit that KVM handles in its fastpath and re-enters from. Blue: it would "
                 f"notify.</p>{lines}")
    return part + (f'<h3>Latencies</h3><div class="pair">{cdfs}</div>' if cdfs else "")


def latency_part(forms):
    rows = latency.window_rows(forms)
    part = "" if len(rows) < 2 else (
        f"<h3>How long a sender sees the vCPU in the guest</h3>{table(rows)}"
        "<p class=note>Ticks. The limit is one instruction on either side.</p>")
    return part + (f"<h3>Latencies</h3><p class=note>Ticks, {latency.method(forms)}. Each run has "
                   f"another seed, and the variants alternate.</p>{table(latency.rows(forms))}"
                   f"{bullets(latency.family(forms))}")


OTHERS = {
    "instructions": ("One exit in instructions", "QEMU with -icount, where the TSC counts them; "
                     "instructions"),
    "scheduling": ("The host's scheduling", "cyclictest at FIFO 80 on the CPU of a vCPU that is "
                   "posted interrupts without pause (storm), with hackbench on all CPUs as well "
                   "(busy); and the time that one hackbench takes. Nanoseconds of the host's clock"),
    "whole_vm": ("A whole VM", "A distribution's kernel as L2: membarrier(), which sends an IPI "
                 "to the other vCPU and waits, and the time that one hackbench takes. Nanoseconds "
                 "of L2's clock"),
}


def scaling_part(name, cells):
    if not cells:
        return ""
    return (f"<h3>More vCPUs</h3><p class=note>The {scaling.WORKLOAD} workload, posted to by all "
            f"the other vCPUs. {scaling.NOTE}</p>{table(scaling.rows(name, cells))}")


def seeds_part(name, found):
    if not found:
        return ""
    return (f"<h3>Over seeds</h3><p class=note>Spurious notifications of {seeds.POSTS:,} posts for each seed, "
            "and the middle ratio with its interval, seed by seed.</p>"
            + table(seeds.rows(name, found)) + bullets(seeds.family(name, found)))


def flight_part(name, runs):
    if not runs:
        return ""
    return ("<h3>When notifications take time</h3><p class=note>Ticks that a notification is on its "
            "way, and ticks of a VM entry. Floor: what no flag can avoid, the target was in the guest on "
            "the way and has left, or, with doorbells, is in VMRUN.</p>"
            + charts.under_way(name, runs)
            + table([(f"{way}, {entry}", *row) for way, entry, *row in flight.rows(runs)]))


def apf_part(variants):
    if not variants:
        return ""
    return ("<h3>Asynchronous page faults</h3><p class=note>Events at once: 1, 8, 64; while it "
            "waits the vCPU computes or halts. Forced exits: by reschedule IPIs, KVM's and the "
            "scheduler's. Sent: without the vCPU; asked: it had to. Ticks from the fault, and "
            "from the giving of the page, to the interrupt's handler.</p>"
            + table(apf.rows(variants)))


def other_parts(entry):
    return "".join(f"<h3>{head}</h3><p class=note>{what}, "
                   f"{latency.method(entry[key])}.</p>{table(latency.rows(entry[key]))}"
                   f"{bullets(latency.family(entry[key]))}"
                   for key, (head, what) in OTHERS.items() if key in entry)


def lab_part(name, entry):
    """Verdicts, pictures, tables."""
    warned = "".join(f"<li>{text(doubt)}" for doubt in entry["doubts"])
    part = [f'<h2 id="lab-{name}">{name if name == "host" else name + " lab"}</h2>',
            f"<p>{text(entry['emulator'])}</p><ul class=note>{warned}</ul>",
            verdicts(bounds(entry)),
            drawn_part(name, entry),
            "<h3>Posted without waiting</h3>", table(posts.rows_of(entry["workloads"])),
            bullets(entry["remainder"]),
            seeds_part(name, entry.get("seeds")),
            latency_part(entry["latency"]) if entry.get("latency") else "",
            apf_part(entry.get("apf")),
            scaling_part(name, entry.get("scaling")),
            flight_part(name, entry.get("flight")),
            other_parts(entry),
            "<details><summary>Environment</summary>",
            table([("", ""), *entry["environment"].items()], "env"), "</details>"]
    return "".join(part)


def kept(results):
    """How many runs of all are from before it was interrupted."""
    return sum(entry.get("kept", 0) for entry in results["labs"].values())


def spent(results):
    """What the run took: nothing where an older file does not say."""
    rows = [(name, f"{entry['seconds'] / 60:.1f}", entry["memory_mib"])
            for name, entry in results["labs"].items() if "memory_mib" in entry]
    if not rows:
        return ""
    return (f"<h2>What it took</h2><p class=note>{results['seconds'] / 60:.1f} minutes in all, "
            "with runs beside each other; a lab's own are added up. Memory: the largest process, "
            "of which two may run at once in the vmx lab.</p>"
            + (f"<p class=note>{kept(results)} runs are from before it was interrupted, which the "
               "minutes do not count.</p>" if kept(results) else "")
            + table([("lab", "minutes", "MiB"), *rows]))


def reproduce(results):
    hosts = "host" in results["labs"]
    where = "WHERE=host" if hosts else f'LABS="{" ".join(results["labs"])}"'
    return (f"<h2>Again</h2><p>At commit {text(results['versions']['kvm_mode'])}:</p>"
            f"<pre>{command(results)} {where} SEED={results['seed']}</pre>")


def lead(results):
    """What holds, what does not, and the picture."""
    missed = [(name, bound) for name, entry in results["labs"].items() for bound in bounds(entry)
              if not bound["holds"]]
    lines = "".join(f"<li class=missed>MISSED, {name} lab: {text(posts.Bound(**bound))}"
                    for name, bound in missed)
    everything = [v for v in VARIANTS if v not in posts.PEERS]
    lost = sum(account(entry, everything)[0] for entry in results["labs"].values())
    lines = (f"<li class=missed>{lost} posts lost, late or doubled" if lost else
             "<li>No post was lost, late or doubled.") + "".join(
                 f"<li>{text(line.split(';')[0].rstrip('.'))}." for line in bounds_line(results)) + lines
    names = "".join(f'<a href="#lab-{name}">{name}</a>' for name in results["labs"])
    return (f"<ul>{lines}</ul>{table(answer(results), 'answer')}{picture.svg(results) or ''}"
            f'<nav>{names}<a href="#limits">what was not tested</a></nav>')


def untested():
    return ("<h2 id=limits>What was not tested</h2><p class=note>docs/limits.md.</p>"
            + bullets(limits.items()))


def html(results):
    """The page."""
    results = {**results, "labs": ordered(results)}
    used = {variant for entry in results["labs"].values()
            for by in (*entry["workloads"].values(), *entry.get("latency", {}).values(),
                       entry.get("apf", {})) for variant in by}
    variants = "".join(f"<tr><td>{name}<td>{text(what)}" for name, (_, _, what) in
                       VARIANTS.items() if name in used)
    labs = "".join(lab_part(*item) for item in results["labs"].items())
    kernel = results["versions"]["kernel"] or "as loaded"
    return (f"<!doctype html><html lang=en><meta charset=utf-8><!-- SPDX-License-Identifier: "
            f"GPL-2.0 --><meta name=viewport content='width=device-width'>"
            f"<title>kvm-mode: stock against patched</title><style>{STYLE}</style>"
            f"<h1>kvm-mode: stock against patched KVM</h1>{lead(results)}"
            f"<p class=note>Linux {text(kernel)}, seed {results['seed']}. Counts and ratios of "
            "an emulated machine mean something, its times do not. A tick is the guest's TSC; in "
            "the vmx lab one instruction of every emulated CPU.</p>"
            f'<div class="wide"><table class=env>{variants}</table></div>'
            f"{labs}{spent(results)}{untested()}{reproduce(results)}</html>")


def main():
    args = argparse.ArgumentParser(description=__doc__,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("results", type=Path)
    args.add_argument("-o", "--out", type=Path, help="file of the page; default: stdout")
    args = args.parse_args()
    try:
        page = html(load(args.results)) + "\n"
    except BadFile as error:
        print(f"report: {error}", file=sys.stderr)
        return 2
    if args.out:
        args.out.write_text(page)
    else:
        print(page, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
