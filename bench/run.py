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
import lab  # noqa: E402

VARIANTS = ("stock", "patched", "patched_off")
WORKLOADS = ("compute", "exits", "fastpath", "hlt", "mixed")
METRICS = ("posted", "delivered", "lost", "late", "notify_sent", "notify_elided",
           "notify_spurious", "kick_ipi_sent", "exits", "latency_p50",
           "latency_p99", "latency_max")

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
RATE_TOLERANCE = 0.01       # posts per tick, patched to stock: run-to-run spread


def say(text):
    start = int(os.environ.get("KVM_MODE_START", time.time()))
    spent = int(time.time() - start)
    print(f"[{spent // 60}:{spent % 60:02d}] {text}", file=sys.stderr, flush=True)


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
        self.count, self.last = 0, 0.0

    def __call__(self, line):
        if line.startswith("CELL "):
            self.variant, workload = line.split()[1:]
            self.count += 1
            say(f"  {self.name}: {self.count}/{self.total} {workload}, {self.variant}")
        elif line.startswith("{"):
            cell = json.loads(line)
            self.cells.setdefault(cell["workload"], {})[self.variant] = cell
        else:
            self.other.append(line)
            if time.time() - self.last > 20:
                self.last = time.time()
                say(f"    {line}")


def run_lab(name, build, workloads=WORKLOADS, variants=VARIANTS, posts=None, seed=1,
            log=None, **options):
    """One boot of L1.  Returns ({workload: {variant: cell}}, lab.Result)."""
    setup = LABS[name]
    script = l1_script(name, workloads, variants, posts or setup["posts"], seed)
    collector = Collector(name, len(workloads) * len(variants))
    say(f"{name} lab: boot, then {collector.total} runs "
        f"(about {setup['expect'] // 60}:{setup['expect'] % 60:02d})")
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
    return found


def number(value):
    return "-" if value is None else f"{value:,}"


def table(name, cells):
    head = ("workload", "variant", "posted", "lost", "late", "notify", "elided",
            "spurious", "spur/M", "kick IPIs", "exits", "p50", "p99", "max", "posts/Mtick")
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
                         number(cell["latency_max"]),
                         f"{cell['posted'] * 1e6 / cell['ticks']:.1f}"))
    width = [max(len(row[i]) for row in rows) for i in range(len(head))]
    text = [f"{name} lab"]
    for row in rows:
        text.append("  ".join(col.ljust(w) if i < 2 else col.rjust(w)
                              for i, (col, w) in enumerate(zip(row, width))).rstrip())
    return "\n".join(text)


def emulator_name(name, build):
    if name == "svm":
        text = subprocess.run([f"{build}/qemu/qemu-system-x86_64", "--version"],
                              capture_output=True, text=True).stdout
        version = re.search(r"version (\S+)", text)
        return f"QEMU {version[1] if version else '?'}, TCG, SVM without AVIC"
    patches = len(list((ROOT / "lab/bochs/patches").glob("*.patch")))
    return f"Bochs 3.0 with {patches} patches, VMX with posted interrupts"


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
                                       "version").read_text().strip()},
               "labs": {}}
    broken = []
    for name in args.labs.split():
        cells, result = run_lab(name, args.build, args.workloads.split(),
                                posts=args.posts, seed=args.seed,
                                log=str(out / f"{name}.log"))
        results["labs"][name] = {"emulator": emulator_name(name, args.build),
                                 "posts": args.posts or LABS[name]["posts"],
                                 "seconds": round(result.seconds), "workloads": cells}
        print(table(name, cells), flush=True)
        broken += guarantees(name, cells)
        if name == "vmx":
            for holds, text in comparison(cells):
                print(("holds   " if holds else "MISSED  ") + text)
                if not holds:
                    broken.append(f"{name} {text}")
        print()
    new = out / "results.json.new"
    new.write_text(json.dumps(results, indent=1) + "\n")
    new.rename(out / "results.json")
    say(f"results in {out / 'results.json'}")
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
