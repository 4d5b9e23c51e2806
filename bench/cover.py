#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Prints the cover letter of one of the sets of mails: patches/covers/SET, with the figures of a
results.json and what docs/limits.md says was not tested. The first paragraph is the subject.
Called by scripts/make-series.

exit status: 0, 2 wrong usage or a file that is not what it should be"""
import argparse
import json
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)     # the packages
from bench import apf, limits, posts, report
from bench.progress import align
from lab import emulators

COVERS = ROOT / "patches/covers"
WIDTH = 72
VARIANTS = ("stock", "patched")         # of page-ready events
NOTIFIED = ("workload", "variant", "posted", "lost", "notify", "elided", "spurious")
KICKED = ("workload", "variant", "posted", "lost", "late", "kick IPIs")
APF = ("target, at once", "variant", "events", "lost", "exits/event", "forced exits")


def table(rows, columns, variants):
    """The columns and the variants that a mail has room for."""
    kept = [i for i, column in enumerate(rows[0]) if column in columns]
    rows = [row for n, row in enumerate(rows) if not n or row[1] in variants]
    return align("", [[row[i] for i in kept] for row in rows], 2)


def lab_text(name, entry, rows, columns, variants):
    return "\n".join([textwrap.fill(f"{name} lab: {entry['emulator']}", WIDTH), "",
                      textwrap.indent(table(rows, columns, variants), "  ")])


def merged(entry):
    """The variant of the results that a lab has of the first set."""
    first = next(iter(entry["workloads"].values()))
    return "bare" if "bare" in first else "patched"


def posts_text(results):
    """What is said of the posts of the first set, and a table of each lab."""
    said = [textwrap.fill(line, WIDTH) for line in report.summary(results, merged, ("ipi", "stock"))]
    return said + [lab_text(name, entry, posts.rows_of(entry["workloads"]),
                            NOTIFIED if emulators.of(name).notifies else KICKED,
                            ("stock", "ipi", merged(entry)))
                   for name, entry in results["labs"].items()]


def pages_text(results):
    """A table of the asynchronous page faults of each lab."""
    return [lab_text(name, entry, apf.rows(entry["apf"]), APF, VARIANTS)
            for name, entry in results["labs"].items() if entry.get("apf")]


def figures(results, base, text):
    kernel = results["versions"]["kernel"]
    other = "" if kernel.startswith(f"{base}.") else \
        f" That is another base than the one of these patches (make bench BASE={base})."
    made = textwrap.fill(
        f"make bench of kvm-mode {results['versions']['kvm_mode']}, Linux {kernel}, seed "
        f"{results['seed']}.{other}", WIDTH)
    return "\n\n".join([made, *text(results)])


def untested():
    return "\n".join(textwrap.fill(item, WIDTH, initial_indent=" - ", subsequent_indent="   ",
                                   break_long_words=False, break_on_hyphens=False)
                     for item in limits.items())


def main():
    args = argparse.ArgumentParser(description=__doc__,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("base")
    args.add_argument("set", choices=sorted(file.name for file in COVERS.iterdir()))
    args.add_argument("results", type=Path)
    args = args.parse_args()
    try:
        results = json.loads(args.results.read_text())
        report.validate(results)
    except (OSError, ValueError) as err:
        print(f"cover: {args.results}: {err}", file=sys.stderr)
        return 2
    lines = (COVERS / args.set).read_text().splitlines(keepends=True)
    text = "".join(line for line in lines if not line.startswith("#")).lstrip("\n")
    print(text.replace("@POSTS@", figures(results, args.base, posts_text))
          .replace("@PAGES@", figures(results, args.base, pages_text))
          .replace("@UNTESTED@", untested()), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
