#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Writes the figures of docs/results.md and the few of README.md from a results.json, between
their markers, and the picture of both, docs/results.svg; and keeps the file that they came from,
without single runs, as docs/results.json. `make readme` does it; --check says whether the three
are what docs/results.json makes of them.

exit status: 0 written, or as it should be; 1 a file differs (--check); 2 wrong usage, or
results that are not of all labs and variants"""
import argparse
import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)     # the packages
from bench import apf, flight, latency, picture, plan, posts, report, scaling, seeds
from bench.progress import align
from lab import emulators

README, TABLES = ROOT / "README.md", ROOT / "docs/results.md"
PICTURE, KEPT = ROOT / "docs/results.svg", ROOT / "docs/results.json"
BEGIN, END = "<!-- make readme: begin -->\n", "<!-- make readme: end -->\n"
FORMS = ("exit", "exit-fastpath", "ipi", "ipi-exits", "ipi-fastpath", "ipi-hlt",
         "kick-plain-exits", "kick-request-exits", "kick-wait")
VARIANTS = ("stock", "ipi", "s4", "patched")
APF_TIMES = ("access-ready p50", "p99", "#PF-ready p50", "given-ready p50", "events/Mtick")
TIMES = ("p50", "p99", "max", "send", "posts/Mtick")


def indented(text):
    return "".join(f"    {line}\n" if line else "\n" for line in text.splitlines())


def post_table(name, cells):
    """The columns of the posts that a lab has figures for that mean something."""
    rows = posts.rows_of(cells)
    kept = [i for i, column in enumerate(rows[0])
            if column != "spur/M" and any(row[i] not in ("-", "0") for row in rows[1:])
            or column in ("lost", "late")]
    kept = [i for i in kept if emulators.of(name).repeats or rows[0][i] not in TIMES]
    return align("", [[row[i] for i in kept] for row in rows], 2)


def latency_table(forms):
    rows = [row for i, row in enumerate(latency.rows(forms))
            if not i or (row[0] in FORMS and row[1] in VARIANTS and row[4] != "-")]
    return align("", [[row[i] for i in (0, 1, 4, 6, 7, 8, 9)] for row in rows], 2)


def apf_table(name, variants):
    rows = apf.rows(variants)
    kept = [i for i, column in enumerate(rows[0])
            if emulators.of(name).repeats or column not in APF_TIMES]
    return align("", [[row[i] for i in kept] for row in rows], 2)


def lab_text(name, entry):
    parts = [f"## {name} lab\n\n{entry['emulator']}.\n\n", indented(post_table(name, entry["workloads"]))]
    if entry.get("seeds"):
        parts += [f"\nSpurious notifications over seeds, {seeds.POSTS:,} posts each.\n\n",
                  indented(align("", seeds.rows(name, entry["seeds"]), 2)),
                  *(f"\n{text}.\n" for text in seeds.family(name, entry["seeds"]))]
    forms = entry.get("latency", {})
    if forms:
        parts += [f"\nLatencies in ticks, {latency.method(forms)}.\n\n",
                  indented(latency_table(forms)),
                  *(f"\nOf all forms and variants: {text}.\n" for text in latency.family(forms))]
    rows = [row for i, row in enumerate(latency.window_rows(forms))
            if not i or row[1] in VARIANTS]
    if rows:
        parts += ["\nHow long a sender on another CPU sees the vCPU in the guest, in ticks.\n\n",
                  indented(align("", rows, 2))]
    paged = entry.get("apf", {})
    if paged:
        parts += ["\nAsynchronous page faults, 1, 8 and 64 at once ([apf.md](apf.md))"
                  + (", times in ticks.\n\n" if emulators.of(name).repeats else ".\n\n"),
                  indented(apf_table(name, paged))]
    if entry.get("flight"):
        parts += [f"\nThe {flight.WORKLOAD} workload, when notifications and VM entries take so many "
                  "ticks.\n\n", indented(align("", flight.rows(entry["flight"]), 3))]
    if entry.get("scaling"):
        parts += [f"\nThe {scaling.WORKLOAD} workload, posted to by all the other vCPUs. {scaling.NOTE}\n\n",
                  indented(align("", scaling.rows(name, entry["scaling"]), 2))]
    bounds = "".join(f"- {posts.verdict(bound).removeprefix('holds: ')}\n" for bound in report.bounds(entry))
    bounds += "".join(f"- {text}\n" for text in entry["remainder"]
                      if text.split(":")[0].endswith((" stock", " patched")))
    return "".join(parts) + (f"\n{bounds}" if bounds else "")


def took(results):
    """What the run cost; nothing where an older file does not say."""
    memory = [f"{entry['memory_mib']:,} MiB in the {name} lab"
              for name, entry in results["labs"].items() if "memory_mib" in entry]
    if not memory:
        return []
    kept = report.kept(results)
    time = f"{kept} of its runs are from before it was interrupted" if kept else \
        f"The run took {results['seconds'] / 60:.0f} minutes"
    return [f"- {time}; an emulator used up to {' and '.join(memory)}.\n"]


def said(results, link=""):
    """Where the figures are from."""
    return (f"`{report.command(results)}` at commit {results['versions']['kvm_mode']} on Linux "
            f"{results['versions']['kernel']}, seed {results['seed']}{link}:\n\n")


def tables(results):
    """The block of docs/results.md."""
    made = [said(results)]
    made += [f"- {line}\n" for line in [*report.summary(results), *report.bounds_line(results)]]
    made += took(results)
    return "".join(made) + "\n" + "\n".join(lab_text(*item) for item in results["labs"].items())


def under_way(results):
    """[text]: what is left of the gain when notifications take time"""
    return [flight.sentence(name, entry["flight"]) for name, entry in results["labs"].items()
            if entry.get("flight")]


def answer(results):
    """README's block."""
    head, *labs = report.answer(results)
    rows = [head, ("---",) * len(head), *labs]
    return (said(results, "; [docs/results.md](docs/results.md) has the tables")
            + "".join(f"| {' | '.join(row)} |\n" for row in rows)
            + "".join(f"\n{line}\n" for line in [*report.bounds_line(results), *under_way(results)])
            + f"\n![{picture.TITLE}, baseline and series](docs/results.svg)\n")


def with_block(text, block):
    head, rest = text.split(BEGIN)
    return head + BEGIN + block + END + rest.split(END)[1]


def files(results):
    """{file: its text}"""
    results = {**results, "labs": report.ordered(results)}
    return {README: with_block(README.read_text(), answer(results)),
            TABLES: with_block(TABLES.read_text(), tables(results)),
            PICTURE: picture.svg(results) or ""}


def slim(results):
    """Without what the tables do not need: a file that a person can look through."""
    for name, entry in results["labs"].items():
        if not emulators.of(name).repeats:
            entry.pop("latency", None)
        for by_variant in entry.get("latency", {}).values():
            for summary in by_variant.values():
                summary["runs"] = [{key: run[key] for key in ("seed", "count", "lost", "p50")}
                                   for run in summary["runs"]]
    return results


def written(results):
    """JSON with a value, or a list of numbers, in each line: what changed can be seen in a diff."""
    return re.sub(r"\[[-\d.,\s]+\]", lambda found: f"[{' '.join(found[0][1:-1].split())}]",
                  json.dumps(results, indent=1)) + "\n"


def main():
    args = argparse.ArgumentParser(description=__doc__,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--check", action="store_true")
    args.add_argument("results", nargs="?", default=str(KEPT))
    args = args.parse_args()
    results = slim(json.loads(Path(args.results).read_text()))
    report.validate(results)
    wanted = files(results)
    if args.check:
        differs = [str(file.relative_to(ROOT)) for file, text in wanted.items()
                   if not file.exists() or file.read_text() != text]
        if differs:
            print(f"not what {args.results} makes of it: {', '.join(differs)}: make readme", file=sys.stderr)
        return 1 if differs else 0
    whole = {name: entry["posts"] for name, entry in results["labs"].items()} == plan.FULL.posts
    if report.command(results) != report.FULL or not whole:
        print(f"readme: {args.results} is not of {report.FULL}", file=sys.stderr)
        return 2
    KEPT.write_text(written(results))
    for file, text in wanted.items():
        file.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
