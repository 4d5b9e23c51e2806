#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Compares two results.json, such as before and after the series was installed on a host:
each metric that both have, B against A. Called by `make compare A=... B=...`.

Latencies are compared run by run (the same seeds), as the benchmark does within one file.
Counts of posts are compared per post. A figure that is missing or void on one side is left
out. What A and B were not alike in, machine, emulator, kernel or seed, is said first.

exit status: 0 compared, 1 B has lost, late or doubled interrupts, 2 a file cannot be used"""
import argparse
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])     # the packages
from bench import ktap, latency, posts, report
from bench.progress import align

PER_POST = ("notify_sent", "notify_spurious", "kick_ipi_sent", "exits")


def pairs(a, b, *keys):
    """(names, entry of A, entry of B) for what both have, @keys levels down."""
    if not keys:
        yield (), a, b
        return
    left, right = (x if keys[0] is None else x.get(keys[0], {}) for x in (a, b))
    if keys[0] is not None:
        yield from pairs(left, right, *keys[1:])
        return
    for name in left:
        if name in right:
            for names, x, y in pairs(left[name], right[name], *keys[1:]):
                yield (name, *names), x, y


def either(a, b, variant):
    """The same variant of both, or stock of A against patched of B: before and after."""
    if variant in a and variant in b:
        return a[variant], b[variant], variant
    if variant == "patched" and "stock" in a and "patched" in b:
        return a["stock"], b["patched"], "stock, patched"
    return None


def variants(a, b):
    return [v for v in dict.fromkeys([*a, *b]) if either(a, b, v)]


def post_rows(a, b):
    for (lab, workload), x, y in pairs(a, b, "labs", None, "workloads", None):
        for variant in variants(x, y):
            old, new, name = either(x, y, variant)
            for metric in PER_POST:
                first, second = (posts.per_million(cell, metric) for cell in (old, new))
                if first is None or second is None:
                    continue
                yield (lab, workload, name, f"{metric} per million posts", f"{first:,.0f}",
                       f"{second:,.0f}", f"{second / first:.3f}" if first else "-")
            for metric in ("latency_p50", "latency_p99", "send_mean"):
                yield (lab, workload, name, metric, f"{old[metric]:,}", f"{new[metric]:,}",
                       f"{new[metric] / old[metric]:.3f}" if old[metric] else "-")


def latency_rows(a, b):
    for (lab, form), x, y in pairs(a, b, "labs", None, "latency", None):
        for variant in variants(x, y):
            old, new, name = either(x, y, variant)
            yield (lab, form, name, "latency p50", f"{old['p50']:,}", f"{new['p50']:,}",
                   latency.verdict(new, old))


# Of what a lab, or a host, says of itself: what has to be alike for a comparison of the KVMs alone.
ALIKE = ("kernel", "cpu", "cpus", "hypervisor", "governor", "smt", "clocksource", "mitigations", "isolated")


def unlike(a, b):
    """[text]: what a difference may come from, besides KVM"""
    found = [] if a["seed"] == b["seed"] else [f"seed {a['seed']} and {b['seed']}"]
    for (lab,), x, y in pairs(a, b, "labs", None):
        known = [("emulator", x["emulator"], y["emulator"])] + [
            (key, x["environment"].get(key, ""), y["environment"].get(key, "")) for key in ALIKE]
        found += [f"{lab}: {key} {old or 'unknown'} and {new or 'unknown'}"
                  for key, old, new in known if old != new]
    return found


def faults(results):
    return [text for lab, entry in results["labs"].items()
            for text in posts.guarantees(lab, entry["workloads"]) +
            latency.broken(lab, entry.get("latency", {}))]


def cases(rows, bad):
    """[ktap.Case]: each run that was compared, with B against A; then all of B."""
    found = {}
    for lab, run, variant, metric, _, _, ratio in rows:
        number = ratio.split()[0]
        found.setdefault((lab, run, variant), []).append(
            (metric.replace(" ", "_"), number if number[0].isdigit() else None, "B/A"))
    cases = []
    for (lab, run, variant), figures in found.items():
        here = [text for text in bad if text.startswith(f"{lab} {run} {variant.split()[-1]}:")]
        cases.append(ktap.Case(not here, f"{lab} {run} {variant}", "; ".join(here),
                               tuple(figures)))
    return cases + [ktap.Case(not bad, "nothing lost, late or doubled in B", "; ".join(bad))]


def compare(args):
    """Prints the tables; (rows, faults of B)"""
    a, b = report.load(args.a), report.load(args.b)
    rows = [*post_rows(a, b), *latency_rows(a, b)]
    if not rows:
        raise report.BadFile(f"{args.a} and {args.b} have no lab, workload and variant in common")
    for which, path, results in (("A", args.a, a), ("B", args.b, b)):
        print(f"{which}: {path}: kvm-mode {results['versions']['kvm_mode']}, Linux "
              f"{results['versions']['kernel']}, seed {results['seed']}")
    for text in unlike(a, b):
        print(f"not alike: {text}")
    head = ("lab", "run", "variant", "metric", "A", "B", "B against A")
    print(align("", [head, *rows], 4))
    bad = faults(b)
    for text in bad:
        print(f"B: {text}")
    return rows, bad


def main():
    args = argparse.ArgumentParser(description=__doc__,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("a", metavar="A")
    args.add_argument("b", metavar="B")
    args.add_argument("--ktap", action="store_true",
                      help="KTAP on stdout; the table goes to stderr")
    args = args.parse_args()
    with ktap.instead(args.ktap):
        rows, bad = compare(args)
    if args.ktap:
        print(ktap.text(cases(rows, bad)))
    return 1 if bad else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except report.BadFile as error:
        print(f"compare: {error}", file=sys.stderr)
        sys.exit(2)
