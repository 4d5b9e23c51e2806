#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Runs the benchmarks, in the labs at once: stock KVM, patched KVM and, with --full, peers in one
boot of L1. Posts (posts.py), latencies (latency.py), asynchronous page faults (apf.py); with --full
the cost of an exit in instructions, the host's scheduling (rt/), a whole VM (guest/), more vCPUs
(scaling.py), more seeds (seeds.py), IPIs and VM entries that take time (flight.py) as well. Or on
this machine's own KVM: posts and latencies. Prints the tables, or KTAP, writes results.json and report.html. Called by
`make bench`.

exit status: 0 done and the guarantees hold, 1 an interrupt was lost, late or
delivered twice, or a bound of the comparison is missed, 4 no usable KVM on this
machine (--labs host), 125 a lab failed"""
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)     # the packages
from bench import (apf, environment, flight, host, instructions, kept, ktap, latency, plan, posts,
                   report, scaling, seeds)
from bench.guest import whole_vm
from bench.progress import align, say
from bench.rt import scheduling
from lab import emulators, program, side_by_side

# key in results.json: who runs it in L1, and what it is
OTHERS = {
    "instructions": (instructions, "one exit, in instructions"),
    "scheduling": (scheduling, "scheduling of the host beside a guest that is posted to, in ns"),
    "whole_vm": (whole_vm, "IPIs and hackbench inside a whole VM, in ns"),
}


def commit():
    """What was measured; "+" when the work tree has changes."""
    done = subprocess.run(["git", "-C", ROOT, "describe", "--always", "--dirty=+"],
                          capture_output=True, text=True)
    return done.stdout.strip() or None


def parse():
    args = program.options(__doc__, base=True)
    args.add_argument("--out", help="folder of results.json and report.html; default: BUILD/bench")
    args.add_argument("--full", action="store_true",
                      help=f"everything, about {plan.FULL.minutes} minutes; else about {plan.QUICK.minutes}")
    args.add_argument("--labs", help="labs, or host; default: " + " ".join(plan.QUICK.labs)
                      + ", with --full " + " ".join(plan.FULL.labs))
    args.add_argument("--posts", type=int, help="per workload and variant; default, with --full: "
                      + ", ".join(f"{n} {s['posts']}" for n, s in posts.LABS.items()))
    args.add_argument("--seed", type=int, default=1)
    args.add_argument("--workloads", help="default: " + " ".join(posts.WORKLOADS)
                      + ", and in the vmx lab and on a host " + " ".join(posts.IRQFD_WORKLOADS))
    args.add_argument("--variants", help="of those that are posted to and timed, only these")
    args.add_argument("--rounds", type=int, help="runs of each latency, at most; 0: only the posts")
    args.add_argument("--no-scaling", action="store_true",
                      help="leave out the runs with up to 16 vCPUs, and those over seeds")
    args.add_argument("--no-flight", action="store_true",
                      help="leave out the runs in which IPIs and VM entries take time")
    args.add_argument("--ktap", action="store_true",
                      help="KTAP on stdout: what must hold; the tables go to stderr")
    args = program.parse(args)
    if args.seed < 1:
        sys.exit("bench: --seed is 1 or more")
    args.full |= args.labs == "host"        # where a second is a second
    chosen = plan.FULL if args.full else plan.QUICK
    args.labs = args.labs.split() if args.labs else chosen.labs
    if args.rounds is not None:
        chosen = chosen._replace(rounds=args.rounds, apf_rounds=chosen.apf_rounds
                                 if args.rounds >= latency.ROUNDS else args.rounds)
    if args.variants:
        some = args.variants.split()
        unknown = set(some) - set(chosen.variants + chosen.latency_variants)
        if unknown:
            sys.exit(f"bench: no variant called {', '.join(unknown)}")
        chosen = chosen._replace(variants=tuple(v for v in chosen.variants if v in some),
                                 latency_variants=tuple(v for v in chosen.latency_variants if v in some))
    args.plan = chosen._replace(scaling=chosen.scaling and not args.no_scaling,
                                flight=chosen.flight and not args.no_flight)
    unknown = set(args.labs) - set(posts.LABS) - {"host"}
    if unknown:
        sys.exit(f"bench: no lab called {', '.join(unknown)}; there are: {', '.join(posts.LABS)}, host")
    return args


def meant_for(name, variants):
    """Those of @variants that mean something in a lab: where no IPI is sent ipi is the same as stock."""
    return tuple(v for v in variants if v != "ipi" or v in posts.variants_of(name))


def posted(name, args, out):
    """The posts' part of a lab's entry in results.json."""
    workloads = args.workloads.split() if args.workloads else posts.workloads_of(name)
    if name == "host":
        cells, result = host.posts(args, workloads)
    else:
        cells, result = posts.run_lab(name, args.build, workloads, meant_for(name, args.plan.variants),
                                      args.posts or args.plan.posts[name], args.seed,
                                      log=str(out / f"{name}.log"), share=args.plan.share)
    if args.plan.timers and name in posts.TIMER_LABS and not args.workloads:
        cells.update(posts.run_timers(name, args.build, meant_for(name, args.plan.variants), args.posts,
                                      args.seed, log=str(out / f"{name}-timers.log"),
                                      share=args.plan.share)[0])
    bounds = posts.bounds(name, cells)
    entry = {"emulator": emulators.of(name).described(args.build),
             "environment": result.environment,
             "doubts": environment.doubts(result.environment, name != "host"),
             "posts": args.posts or args.plan.posts.get(name, args.plan.posts["svm"]),
             "workloads": cells,
             "bounds": [b.data() for b in bounds],
             "remainder": posts.remainder(cells)}
    print("\n".join([posts.table(name, cells), *map(posts.verdict, entry["bounds"]),
                     *entry["remainder"], ""]), flush=True)
    return entry


def timed(name, args, out):
    if not args.plan.rounds:
        return {}
    if name == "host":
        forms = host.latencies(args)
    else:
        forms = latency.run_lab(name, args.build, args.plan.latencies,
                                meant_for(name, args.plan.latency_variants), args.seed, args.plan.rounds,
                                log=str(out / f"{name}-latency.log"))
    print(align(f"{name}: latencies in ticks, {latency.method(forms)}", latency.rows(forms), 2),
          *latency.family(forms), "", sep="\n")
    print(align(f"{name}: how long a sender sees the vCPU in the guest, in ticks",
                latency.window_rows(forms), 2), "", sep="\n", flush=True)
    return {"latency": forms}


def others(name, args, out):
    """The same of other tools and clocks."""
    entry = {}
    for key, (module, what) in OTHERS.items():
        if not args.plan.rounds or not args.plan.others or name not in module.LABS:
            continue
        entry[key] = module.run_lab(name, args.build, args.seed, min(args.plan.rounds, module.ROUNDS),
                                    log=str(out / f"{name}-{key}.log"))
        print(align(f"{name}: {what}, {latency.method(entry[key])}", latency.rows(entry[key]), 2),
              *latency.family(entry[key]), "", sep="\n", flush=True)
    return entry


def grown(name, args, out):
    if not args.plan.scaling or name not in scaling.LABS:
        return {}
    cells = scaling.run_lab(name, args.build, args.seed, str(out / f"{name}-scaling.log"))
    print(align(f"{name}: {scaling.WORKLOAD}, posted to from more vCPUs", scaling.rows(name, cells), 2),
          "", sep="\n", flush=True)
    print("\n".join(posts.verdict(b.data()) for b in scaling.bounds(name, cells)), "", sep="\n", flush=True)
    return {"scaling": cells, "scaling_bounds": [b.data() for b in scaling.bounds(name, cells)]}


def sampled(name, args, out):
    if not args.plan.scaling or name not in seeds.LABS:
        return {}
    found = seeds.run_lab(name, args.build, args.seed, str(out / f"{name}-seeds.log"))
    print(align(f"{name}: spurious notifications over seeds", seeds.rows(name, found), 2),
          *(posts.verdict(b.data()) for b in seeds.bounds(name, found)), "", sep="\n", flush=True)
    return {"seeds": found, "seeds_bounds": [b.data() for b in seeds.bounds(name, found)]}


def paged(name, args, out):
    if not args.plan.rounds or name not in apf.LABS:
        return {}
    variants = apf.run_lab(name, args.build, args.seed, args.plan.apf_rounds,
                           str(out / f"{name}-apf.log"), args.plan.apf_variants)
    print(align(f"{name}: asynchronous page faults, times in ticks", apf.rows(variants), 2),
          *apf.verdicts(name, variants), "", sep="\n", flush=True)
    return {"apf": variants, "apf_bounds": [b.data() for b in apf.bounds(name, variants)]}


def under_way(name, args, out):
    if not args.plan.flight or name not in flight.LABS:
        return {}
    runs = flight.run_lab(name, args.build, args.seed, out / f"{name}-flight")
    print(flight.text(name, runs), "", sep="\n", flush=True)
    return {"flight": runs, "flight_bounds": [b.data() for b in flight.bounds(name, runs)]}


# What runs beside what: the emulators of the vmx and avic labs have one thread.
JOBS = {"vmx": ((timed,), (posted, sampled, grown, paged), (others, under_way)),
        "svm": ((posted, timed, others, paged),), "avic": ((posted, sampled, paged, under_way),),
        "host": ((posted, timed),)}


def peak_mib():
    """Resident memory of the largest process that this one has run and waited for, or theirs:
    the emulator, in a lab."""
    return round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)


def measure(name, parts, args, out):
    """Some parts of a lab's entry in results.json."""
    entry, start, kept.count = {}, time.time(), 0
    for part in parts:
        entry.update(part(name, args, out))
    return {**entry, "seconds": round(time.time() - start), "memory_mib": peak_mib(), "kept": kept.count}


def broken_in(name, entry):
    """What does not hold."""
    found = posts.guarantees(name, {**entry["workloads"], **entry.get("scaling", {})})
    found += latency.broken(name, entry.get("latency", {}))
    found += apf.broken(name, entry.get("apf", {})) + flight.broken(name, entry.get("flight", ()))
    found += seeds.broken(name, entry.get("seeds", {}))
    found += [f"{name} {b}" for b in scaling.bounds(name, entry.get("scaling", {})) if not b.holds]
    return found + [f"{name} {b}" for b in posts.bounds(name, entry["workloads"]) if not b.holds]


def run(args):
    """(results, what does not hold)"""
    out = Path(args.out or Path(args.build) / "bench")
    out.mkdir(parents=True, exist_ok=True)
    kept.use(out / "kept")
    start = time.time()
    version = Path(args.build) / "kernel" / args.base / "version"
    results = {"format": report.FORMAT, "base": args.base, "seed": args.seed,
               "versions": {"kernel": version.read_text().strip() if version.exists() else None,
                            "kvm_mode": commit()},
               "labs": {}}
    say(f"{'everything' if args.full else 'the quick form'}, {' '.join(args.labs)}"
        + ("" if "host" in args.labs else f": about {args.plan.minutes} minutes on two CPUs"))
    jobs = [(name, parts, args, out) for name in args.labs for parts in JOBS[name]]
    for (name, *_), entry in zip(jobs, side_by_side.run(measure, jobs, len(jobs))):
        known = results["labs"].setdefault(name, {"seconds": 0, "memory_mib": 0, "kept": 0})
        known.update({**entry, "seconds": known["seconds"] + entry["seconds"],
                      "kept": known["kept"] + entry["kept"],
                      "memory_mib": max(known["memory_mib"], entry["memory_mib"])})
    results["seconds"] = round(time.time() - start)
    broken = [text for item in results["labs"].items() for text in broken_in(*item)]
    report.validate(results)
    for file, text in (("results.json", json.dumps(results, indent=1) + "\n"),
                       ("report.html", report.html(results) + "\n")):
        (out / (file + ".new")).write_text(text)
        (out / (file + ".new")).rename(out / file)
        say(f"written: {out / file}")
    kept.forget()
    return results, broken


def main():
    args = parse()
    with ktap.instead(args.ktap, host.Unusable):
        results, broken = run(args)
    if args.ktap:
        print(ktap.text([case for name, entry in results["labs"].items()
                         for case in posts.cases(name, entry["workloads"]) +
                         posts.cases(f"{name} vCPUs", entry.get("scaling", {})) +
                         posts.bound_cases(name, seeds.bounds(name, entry.get("seeds", {}))) +
                         posts.bound_cases(name, scaling.bounds(name, entry.get("scaling", {}))) +
                         posts.bound_cases(name, flight.bounds(name, entry.get("flight", ()))) +
                         latency.cases(name, entry.get("latency", {})) +
                         apf.cases(name, entry.get("apf", {}))]))
    for text in broken:
        print(f"FAILED: {text}", file=sys.stderr)
    if not args.full:
        say(plan.left_out(args.labs))
    return 1 if broken else 0


if __name__ == "__main__":
    program.start(main, [(host.Unusable, 4)], "bench")
