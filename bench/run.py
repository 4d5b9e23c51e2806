#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Runs the posting benchmark in the labs on stock KVM, on patched KVM, and on
patched KVM with precise_notify off, all three in one boot of L1; prints one
table a lab and writes results.json.  Called by `make bench`, and by the tests
through run_lab().

exit status: 0 done and the guarantees hold, 1 an interrupt was lost, late or
delivered twice, or a bound of the comparison is missed, 125 a lab failed"""
import argparse
import json
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "lab"))
import emulators  # noqa: E402
import lab  # noqa: E402

VARIANTS = ("stock", "patched", "patched_off")
WORKLOADS = ("compute", "exits", "fastpath", "hlt", "mixed")
# posts: per workload and variant.  extra: options for kvm-mode-bench post.
# expect: seconds for the whole lab.  hang: seconds of silence that mean a hang.
LABS = {
    # An exit costs QEMU hundreds of microseconds; shorter gaps would only queue.
    "svm": {"posts": 4000, "extra": "--gap 0:4000000 --exit-gap 200000",
            "expect": 120, "hang": 120},
    "vmx": {"posts": 60000, "extra": "--lab-counters 0x8a20", "expect": 420, "hang": 300},
}

# Bounds of the comparison in the vmx lab, where notifications are IPIs.
SPURIOUS_RATIO = 0.25       # patched to stock, per posted interrupt
SPURIOUS_WORKLOADS = ("exits", "mixed")
OFF_TOLERANCE = 0.10        # patched_off to stock
RATE_TOLERANCE = 0.001      # posts per tick, ticks per post: patched to stock


START = float(os.environ.get("KVM_MODE_START", time.time()))


def clock(seconds):
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def say(text):
    print(f"[{clock(time.time() - START)}] {text}", file=sys.stderr, flush=True)


def l1_script(name, workloads, variants, posts, seed):
    """What L1 runs; a line "CELL variant" precedes each workload's JSON."""
    toggle = "/sys/module/kvm/parameters/precise_notify"
    bench = (f"kvm-mode-bench post --json {LABS[name]['extra']} --posts {posts} "
             f"--seed {seed}")
    lines, loaded = ["failed=0"], None
    for variant in variants:
        module_set = "stock" if variant == "stock" else "patched"
        if module_set != loaded:
            lines.append(f"load-kvm {module_set} || exit 1")
            loaded = module_set
        if module_set == "patched":
            lines.append(f"echo {'N' if variant == 'patched_off' else 'Y'} > {toggle}")
        for workload in workloads:
            lines.append(f"echo CELL {variant} {workload}")
            lines.append(f"{bench} --workload {shlex.quote(workload)} || failed=1")
    return "\n".join(lines + ["exit $failed"])


class Collector:
    """Takes L1's output apart and reports progress."""

    def __init__(self, name, total):
        self.name, self.total = name, total
        self.cells, self.variant, self.other = {}, None, []
        self.count, self.last, self.begun = 0, 0.0, None

    def __call__(self, line):
        if line.startswith("CELL "):
            self.variant, workload = line.split()[1:]
            self.begun = self.begun or time.time()
            say(f"  {self.name}: {self.count + 1}/{self.total} {workload}, "
                f"{self.variant}{self.remaining()}")
            self.count += 1
        elif line.startswith("{"):
            cell = json.loads(line)
            self.cells.setdefault(cell["workload"], {})[self.variant] = cell
        else:
            self.other.append(line)
            if time.time() - self.last > 20:
                self.last = time.time()
                say(f"    {line}")

    def remaining(self):
        if not self.count:
            return ""
        each = (time.time() - self.begun) / self.count
        return f", about {clock(each * (self.total - self.count))} to go"


def run_lab(name, build, workloads=WORKLOADS, variants=VARIANTS, posts=None, seed=1,
            log=None, **options):
    """One boot of L1.  Returns ({workload: {variant: cell}}, lab.Result)."""
    setup = LABS[name]
    script = l1_script(name, workloads, variants, posts or setup["posts"], seed)
    collector = Collector(name, len(workloads) * len(variants))
    say(f"{name} lab: boot, then {collector.total} runs"
        + (f" (about {clock(setup['expect'])})" if posts is None else ""))
    options.setdefault("timeout", setup["expect"] * 6)
    result = lab.run(name, variants[0].split("_")[0], script, output=collector,
                     build=build, hang=setup["hang"], log=log, **options)
    if result.status and not collector.cells:
        raise lab.LabError("\n".join([f"{name}: the benchmark did not run:"] +
                                     collector.other[-10:]))
    for workload in workloads:
        for variant in variants:
            cell = collector.cells.get(workload, {}).get(variant)
            if cell is None:
                raise lab.LabError("\n".join(
                    [f"{name}: no result for {workload}, {variant}:"] +
                    collector.other[-10:]))
            fill_in(cell)
    return collector.cells, result


def fill_in(cell):
    """On stock KVM, which counts no notifications, take the emulator's count."""
    emulator = cell.get("emulator")
    if cell.get("notify_sent") is None and emulator:
        cell["notify_sent"] = emulator["vectors"]["0xf2"]["sent"]


def per_million(cell, metric):
    return cell[metric] * 1e6 / cell["posted"] if cell[metric] is not None else None


def guarantees(name, cells):
    """Nothing lost, late or doubled, in any workload and variant."""
    return [f"{name} {workload} {variant}: {metric} {cell[metric]}"
            for workload, by_variant in cells.items()
            for variant, cell in by_variant.items()
            for metric in ("lost", "late", "doubled") if cell[metric]]


def comparison(cells):
    """[(holds, text)] for the bounds that the vmx lab has to show."""
    found = []
    for workload, cell in cells.items():
        if not set(VARIANTS) <= set(cell):
            continue
        spurious = {v: per_million(cell[v], "notify_spurious") for v in VARIANTS}
        rate = {v: cell[v]["posted"] / cell[v]["ticks"] for v in VARIANTS}
        if workload in SPURIOUS_WORKLOADS:
            ratio = spurious["patched"] / max(spurious["stock"], 1)
            found.append((ratio <= SPURIOUS_RATIO,
                          f"{workload}: spurious notifications per post, patched/stock "
                          f"{ratio:.3f} (at most {SPURIOUS_RATIO})"))
            off = spurious["patched_off"] / max(spurious["stock"], 1)
            found.append((abs(off - 1) <= OFF_TOLERANCE,
                          f"{workload}: the same, patched_off/stock {off:.3f} "
                          f"(within {OFF_TOLERANCE:.0%} of 1)"))
        speed = rate["patched"] / rate["stock"]
        found.append((speed >= 1 - RATE_TOLERANCE,
                      f"{workload}: posts per tick, patched/stock {speed:.3f} "
                      f"(at least {1 - RATE_TOLERANCE})"))
        cost = cell["patched"]["send_mean"] / cell["stock"]["send_mean"]
        found.append((cost <= 1 + RATE_TOLERANCE,
                      f"{workload}: ticks that a sender spends in its ICR write, "
                      f"patched/stock {cost:.3f} (at most {1 + RATE_TOLERANCE})"))
    return found


def remainder(cells):
    """[text]: where the notifications that were wasted went to, by the emulator's
    count.  "In flight": the target had left the guest when the ICR was written,
    but so shortly before that the sender had read the flag already."""
    found = []
    for workload, by_variant in cells.items():
        for variant, cell in by_variant.items():
            ipi = (cell.get("emulator") or {}).get("vectors", {}).get("0xf2")
            if not ipi or not ipi["recv_host"]:
                continue
            found.append(f"{workload} {variant}: {ipi['recv_host']:,} of {ipi['sent']:,} taken "
                         f"by the host: {ipi['recv_host_sent_in_guest']:,} sent while the "
                         f"target was in the guest, {ipi['recv_host_sent_in_host']:,} sent up "
                         f"to {ipi['exit_to_send_max']:,} ticks after it had left")
    return found


def number(value):
    return "-" if value is None else f"{value:,}"


def rows_of(cells):
    head = ("workload", "variant", "posted", "lost", "late", "notify", "elided",
            "spurious", "spur/M", "kick IPIs", "exits", "p50", "p99", "max", "send",
            "posts/Mtick")
    rows = [head]
    for workload, by_variant in cells.items():
        for variant, cell in by_variant.items():
            per_m = per_million(cell, "notify_spurious")
            rows.append((workload, variant, number(cell["posted"]), number(cell["lost"]),
                         number(cell["late"]), number(cell["notify_sent"]),
                         number(cell["notify_elided"]), number(cell["notify_spurious"]),
                         "-" if per_m is None else f"{per_m:,.0f}",
                         number(cell["kick_ipi_sent"]), number(cell["exits"]),
                         number(cell["latency_p50"]), number(cell["latency_p99"]),
                         number(cell["latency_max"]), f"{cell['send_mean']:,.1f}",
                         f"{cell['posted'] * 1e6 / cell['ticks']:.4g}"))
    return rows


def table(name, cells):
    rows = rows_of(cells)
    width = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    text = [f"{name} lab"]
    for row in rows:
        text.append("  ".join(col.ljust(w) if i < 2 else col.rjust(w)
                              for i, (col, w) in enumerate(zip(row, width))).rstrip())
    return "\n".join(text)


HTML = """<!doctype html><meta charset="utf-8"><title>kvm-mode</title>
<!-- SPDX-License-Identifier: GPL-2.0 -->
<style>body{{font:14px sans-serif;margin:2em}}table{{border-collapse:collapse}}
td,th{{padding:2px 8px;text-align:right;border-bottom:1px solid #ddd}}
td:nth-child(-n+2),th:nth-child(-n+2){{text-align:left}}.bar{{background:#48c;height:10px}}</style>
<h1>kvm-mode: stock against patched</h1><p>Linux {kernel}, seed {seed}. Emulated: counts
and ratios mean something, times do not. Ticks are the guest's TSC. The bars show spurious
notifications per million posts.</p>{labs}"""


def html(results):
    labs = []
    for name, entry in results["labs"].items():
        rows = []
        worst = max([per_million(c, "notify_spurious") or 0 for by in
                     entry["workloads"].values() for c in by.values()] + [1])
        for row in rows_of(entry["workloads"]):
            tag = "td" if rows else "th"
            bar = ""
            if rows and row[8] != "-":
                width = 200 * float(row[8].replace(",", "")) / worst
                bar = f'<td><div class="bar" style="width:{width:.0f}px"></div>'
            rows.append("<tr>" + "".join(f"<{tag}>{col}" for col in row) + bar)
        notes = "".join(f"<li>{text}" for text in entry["bounds"] + entry["remainder"])
        labs.append(f"<h2>{name}: {entry['emulator']}</h2><table>{''.join(rows)}</table>"
                    f"<ul>{notes}</ul>")
    return HTML.format(kernel=results["versions"]["kernel"], seed=results["seed"],
                       labs="".join(labs))


def emulator_name(name, build):
    if name == "svm":
        folder = emulators.qemu_folder(build)
        text = subprocess.run([folder / "qemu-system-x86_64", "--version"],
                              capture_output=True, text=True).stdout
        version = re.search(r"version (\S+)", text)
        mended = ", mended" if folder.name == "qemu-mended" else ""
        return f"QEMU {version[1] if version else '?'}{mended}, TCG, SVM without AVIC"
    patches = len(list((ROOT / "lab/bochs/patches").glob("*.patch")))
    return f"Bochs 3.0 with {patches} patches, VMX with posted interrupts"


def commit():
    """What was measured; "+" when the work tree has changes."""
    done = subprocess.run(["git", "-C", ROOT, "describe", "--always", "--dirty=+"],
                          capture_output=True, text=True)
    return done.stdout.strip() or None


def parse():
    args = argparse.ArgumentParser(description=__doc__,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--build", default="build")
    args.add_argument("--base", default="6.12")
    args.add_argument("--labs", default="svm vmx", help="default: both")
    args.add_argument("--posts", type=int, help="per workload and variant; default: "
                      + ", ".join(f"{n} {s['posts']}" for n, s in LABS.items()))
    args.add_argument("--seed", type=int, default=1)
    args.add_argument("--workloads", default=" ".join(WORKLOADS))
    args = args.parse_args()
    unknown = set(args.labs.split()) - set(LABS)
    if unknown:
        sys.exit(f"bench: no lab called {', '.join(unknown)}; there are: {', '.join(LABS)}")
    return args


def main():
    args = parse()
    out = Path(args.build) / "bench"
    out.mkdir(parents=True, exist_ok=True)
    results = {"base": args.base, "seed": args.seed,
               "versions": {"kernel": (Path(args.build) / "kernel" / args.base /
                                       "version").read_text().strip(),
                            "kvm_mode": commit()},
               "labs": {}}
    broken = []
    for name in args.labs.split():
        cells, result = run_lab(name, args.build, args.workloads.split(),
                                posts=args.posts, seed=args.seed,
                                log=str(out / f"{name}.log"))
        bounds = comparison(cells) if name == "vmx" else []
        entry = {"emulator": emulator_name(name, args.build),
                 "posts": args.posts or LABS[name]["posts"],
                 "seconds": round(result.seconds), "workloads": cells,
                 "bounds": [("holds: " if holds else "MISSED: ") + text
                            for holds, text in bounds],
                 "remainder": remainder(cells)}
        results["labs"][name] = entry
        print("\n".join([table(name, cells), *entry["bounds"], *entry["remainder"], ""]),
              flush=True)
        broken += guarantees(name, cells)
        broken += [f"{name} {text}" for holds, text in bounds if not holds]
    for file, text in (("results.json", json.dumps(results, indent=1) + "\n"),
                       ("report.html", html(results) + "\n")):
        (out / (file + ".new")).write_text(text)
        (out / (file + ".new")).rename(out / file)
        say(f"written: {out / file}")
    for text in broken:
        print(f"FAILED: {text}", file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except lab.LabError as error:
        print(f"bench: {error}", file=sys.stderr)
        sys.exit(125)
    except KeyboardInterrupt:
        sys.exit(130)
