# SPDX-License-Identifier: GPL-2.0
"""report.html, one self-contained page made of results.json, and the check of results.json
against bench/results.schema.json. Called by run.py; to draw a page again:
python3 bench/report.py results.json > report.html"""
import html as escape
import json
import sys
from pathlib import Path

try:
    import jsonschema
except ImportError:     # another python3 ahead of Debian's in PATH
    sys.path.append("/usr/lib/python3/dist-packages")
    import jsonschema

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "lab"))
import apf  # noqa: E402
import charts  # noqa: E402
import latency  # noqa: E402
import picture  # noqa: E402
import posts  # noqa: E402
import scaling  # noqa: E402
from variants import VARIANTS  # noqa: E402

Invalid = jsonschema.ValidationError
FORMAT = 2                  # of results.json, see the schema
SCHEMA = Path(__file__).resolve().parent / "results.schema.json"
CDFS = ("ipi", "ipi-exits", "ipi-fastpath", "ipi-hlt", "exit", "kick-plain-exits",
        "kick-request-exits", "kick-wait-exits")
ORDER = "vmx avic host svm"
STYLE = """
body{font:15px/1.5 system-ui,"DejaVu Sans",sans-serif;color:#222;max-width:66em;margin:0 auto;
padding:1em}
h1{font-size:1.5em}h2{font-size:1.2em;margin-top:2em;border-bottom:1px solid #ccc}
h3{font-size:1em;margin:1.5em 0 .3em}
.wide{overflow-x:auto}table{border-collapse:collapse;font-size:.8em;
font-variant-numeric:tabular-nums}
th,td{padding:2px 7px;text-align:right;border-bottom:1px solid #e2e2e2;white-space:nowrap}
th{border-bottom:1px solid #888;vertical-align:bottom}
td:nth-child(-n+2),th:nth-child(-n+2){text-align:left}
tr.first td{border-top:1px solid #999}.patched{background:#eef5fb}
.missed{color:#a00;font-weight:bold}.note{color:#555;font-size:.9em}
svg{max-width:100%;height:auto}.pair{display:flex;flex-wrap:wrap;gap:1em}
.pair svg{flex:1 1 22em;min-width:0;max-width:32em}
.env td{white-space:normal;overflow-wrap:anywhere;text-align:left}
@media print{body{max-width:none;padding:0;font-size:11px}.wide{overflow:visible}
h2{break-after:avoid}svg,tr{break-inside:avoid}table{font-size:.68em}}
"""


def validate(results):
    """Raises Invalid, which names the place."""
    jsonschema.validate(results, json.loads(SCHEMA.read_text()))


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


def verdicts(bounds):
    items = "".join(f'<li{"" if bound["holds"] else " class=missed"}>{text(posts.verdict(bound))}'
                    for bound in bounds)
    return f"<ul>{items}</ul>" if items else ""


def pairs(entry, base, metric):
    """Patched to stock, per post."""
    low = posts.per_million(base, metric)
    high = posts.per_million(entry, metric)
    return high / low if low else None


def account(entry):
    """(posts lost, late or doubled, posts) of stock and of the series"""
    cells = [cell for by in entry["workloads"].values() if {"stock", "patched"} <= set(by)
             for variant, cell in by.items() if variant not in posts.PEERS]
    return (sum(cell[m] for cell in cells for m in ("lost", "late", "doubled")),
            sum(cell["posted"] for cell in cells))


def windows(entry):
    """{variant: ticks that senders see the vCPU in the guest after an exit}, or None"""
    window = entry.get("latency", {}).get("window", {})
    if all(v in window and window[v]["window"]["watched"] for v in ("stock", "patched")):
        return {v: window[v]["window"]["after_exit_p50"] for v in ("stock", "patched")}
    return None


def bounds(entry):
    return entry["bounds"] + entry.get("apf_bounds", [])


def bounds_line(results):
    """[text]: how many bounds hold, and which are missed."""
    found = [(name, bound) for name, entry in results["labs"].items() for bound in bounds(entry)]
    missed = [f"{name} lab, {posts.Bound(**bound)}" for name, bound in found if not bound["holds"]]
    holds = f"{len(found) - len(missed)} of {len(found)} bounds of the comparison hold"
    return [holds + (f"; missed: {'; '.join(missed)}." if missed else ".")] if found else []


def ordered(results):
    """The labs, those with something to notify first."""
    labs = results["labs"]
    names = sorted(labs, key=lambda name: (not picture.shown(labs[name]), ORDER.find(name), name))
    return {name: labs[name] for name in names}


def command(results):
    """What makes such results; peers come with FULL=1."""
    full = any(peer in by for entry in results["labs"].values()
               for by in entry["workloads"].values() for peer in posts.PEERS)
    return "make bench FULL=1" if full else "make bench"


def summary(results):
    """One sentence a lab: what a reader in a hurry should know."""
    found = []
    for name, entry in results["labs"].items():
        parts = []
        gains = {w: pairs(by["patched"], by["stock"], "notify_spurious")
                 for w, by in entry["workloads"].items() if {"stock", "patched"} <= set(by)
                 and w in posts.SPURIOUS_WORKLOADS and by["stock"]["notify_spurious"]}
        if gains:
            parts.append("spurious notifications per post fall to " + " and ".join(
                f"{gain:.3f} of stock's in {w}" for w, gain in gains.items()))
        seen = windows(entry)
        if seen:
            parts.append(f"senders see the vCPU in the guest for {seen['patched']} ticks after an "
                         f"exit, {seen['stock']} on stock")
        bad, count = account(entry)
        parts.append(f"{bad or 'none'} of {count:,} posts lost, late or doubled")
        found.append(f"{name}: " + "; ".join(parts) + ".")
    return found


def pictures(name, forms):
    windows = [charts.timeline(name, form, by) for form, by in forms.items()
               if form.startswith("window")]
    drawn = [charts.cdf(name, form, forms[form]) for form in CDFS if form in forms
             and not any(latency.is_void(e) for e in forms[form].values())]
    return "".join(filter(None, windows)), "".join(drawn)


def latency_part(name, forms):
    lines, cdfs = pictures(name, forms)
    part = ""
    if lines:
        part += ("<h3>What a sender sees of one VM-Exit</h3><p class=note>CPUID first, then an "
                 "exit that KVM handles in its fastpath and re-enters from. Blue: it would "
                 f"notify.</p>{lines}{table(latency.window_rows(forms))}"
                 "<p class=note>The limit is one instruction on either side.</p>")
    part += (f"<h3>Latencies</h3><p class=note>Ticks, {latency.method(forms)}. Each run has "
             f"another seed, and the variants alternate.</p>{table(latency.rows(forms))}")
    return part + (f'<div class="pair">{cdfs}</div>' if cdfs else "")


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


def scaling_part(cells):
    if not cells:
        return ""
    return (f"<h3>More vCPUs</h3><p class=note>The {scaling.WORKLOAD} workload, posted to by all "
            f"the other vCPUs.</p>{table(scaling.rows(cells))}")


def apf_part(variants, bounds):
    if not variants:
        return ""
    return ("<h3>Asynchronous page faults</h3><p class=note>Events at once: 1, 8, 64; while it "
            "waits the vCPU computes or halts. Forced exits: by reschedule IPIs, KVM's and the "
            "scheduler's. Sent: without the vCPU; asked: it had to. Ticks from the fault, and "
            "from the giving of the page, to the interrupt's handler.</p>"
            + table(apf.rows(variants)) + verdicts(bounds))


def other_parts(entry):
    return "".join(f"<h3>{head}</h3><p class=note>{what}, "
                   f"{latency.method(entry[key])}.</p>{table(latency.rows(entry[key]))}"
                   for key, (head, what) in OTHERS.items() if key in entry)


def lab_part(name, entry):
    bars = charts.spurious(name, entry["workloads"], posts.per_million)
    warned = "".join(f"<li>{text(doubt)}" for doubt in entry["doubts"])
    part = [f"<h2>{name}: {text(entry['emulator'])}</h2>", f"<ul class=note>{warned}</ul>",
            "<h3>Posted without waiting</h3>", table(posts.rows_of(entry["workloads"])),
            "<h3>Spurious notifications</h3>" + bars if bars else "",
            verdicts(entry["bounds"]), bullets(entry["remainder"]),
            latency_part(name, entry["latency"]) if entry.get("latency") else "",
            apf_part(entry.get("apf"), entry.get("apf_bounds", [])),
            scaling_part(entry.get("scaling")),
            other_parts(entry),
            "<h3>Environment</h3>",
            table([("", ""), *entry["environment"].items()], "env")]
    return "".join(part)


def spent(results):
    """What the run took: nothing where an older file does not say."""
    rows = [(name, f"{entry['seconds'] / 60:.1f}", entry["memory_mib"])
            for name, entry in results["labs"].items() if "memory_mib" in entry]
    if not rows:
        return ""
    return (f"<h2>What it took</h2><p class=note>{results['seconds'] / 60:.1f} minutes in all, "
            "with runs beside each other; a lab's own are added up. Memory: the largest process, "
            "of which two may run at once in the vmx lab.</p>"
            + table([("lab", "minutes", "MiB"), *rows]))


def reproduce(results):
    hosts = "host" in results["labs"]
    where = "WHERE=host" if hosts else f'LABS="{" ".join(results["labs"])}"'
    return (f"<h2>Again</h2><p>At commit {text(results['versions']['kvm_mode'])}:</p>"
            f"<pre>make bench {where} SEED={results['seed']}</pre>")


def html(results):
    """The page."""
    variants = "".join(f"<tr><td>{name}<td>{text(what)}" for name, (_, _, what) in
                       VARIANTS.items())
    lead = "".join(f"<p><b>{text(line)}</b></p>" for line in summary(results))
    labs = "".join(lab_part(*item) for item in results["labs"].items())
    kernel = results["versions"]["kernel"] or "as loaded"
    return (f"<!doctype html><html lang=en><meta charset=utf-8><!-- SPDX-License-Identifier: "
            f"GPL-2.0 --><meta name=viewport content='width=device-width'>"
            f"<title>kvm-mode: stock against patched</title><style>{STYLE}</style>"
            f"<h1>kvm-mode: stock against patched KVM</h1>{lead}"
            f"<p class=note>Linux {text(kernel)}, seed {results['seed']}. Counts and ratios of "
            "an emulated machine mean something, its times do not. A tick is the guest's TSC; in "
            "the vmx lab one instruction of every emulated CPU.</p>"
            f'<div class="wide"><table class=env>{variants}</table></div>'
            f"{labs}{spent(results)}{reproduce(results)}</html>")


if __name__ == "__main__":
    print(html(json.loads(Path(sys.argv[1]).read_text())))
