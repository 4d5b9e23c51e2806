#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Runs the stress tests and the mutants of the vmx and avic labs with other turns of the emulated
CPUs, and with IPIs and doorbells that take time: each of three lengths of a turn with each of two
delays. A window that one schedule never opens another may, and a stress test must neither fail on
the product nor pass on a mutant because of them. Called by `make turns`.

Prints a table, and writes BUILD/turns/results.json. A run that was interrupted goes on where it
stopped; what is kept is under a hash of the modules, programs and options that it depends on.

exit status: 0 the product passes each time and each mutant is caught at least once, 1 not so,
125 the lab failed, 130 interrupted"""
import argparse
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)     # the packages
from bench import kept
from bench.progress import align, say
from lab import lab, program, side_by_side
from selftests import mutants, stress
from selftests.project import Project

# Instructions of a turn: shorter than, as long as, and longer than the lab's own.
QUANTA = {"vmx": (7, 16, 32), "avic": (16, 32, 128)}
# Ticks on the way. Without any is what all other runs have.
FLIGHTS = (256, 1024)


def folder(build):
    return Path(build) / "turns"


def key(quantum, flight):
    return f"quantum {quantum}, flight {flight}"


def log_name(name, turns):
    return f"{name}-turns-{turns['quantum']}-{turns['flight']}"


def stressed(name, build, image, turns):
    """One round of the stress tests on the product: what it counted."""
    args = argparse.Namespace(build=build, kvm="patched", seed=1, duration=0, initramfs=image,
                              rounds="turns", **turns)
    tally = stress.Tally()
    stress.run_lab(name, args, tally, Path(build) / "log" / f"{log_name(name, turns)}-stress.log")
    return {"posted": tally.total("posted"), "kicks": tally.total("kicks"), "bad": tally.bad(),
            "failures": tally.failures}


def run_one(project, name, image, turns):
    options = lab.Options(build=project.build, lab=name, kvm="patched", initramfs=image, **turns)
    say(f"{name}: {key(**turns)}")
    path = folder(project.build) / f"kept-{kept.digest('turns', options)}.json"
    if path.exists():
        say(f"{name}: {key(**turns)}: kept from the run that was interrupted")
        return json.loads(path.read_text())
    product = stressed(name, project.build, image, turns)
    # The stress tests above are what has to pass on the product.
    rows = mutants.verdicts(project, lambda text: None, name, mutants.DYNAMIC[name], image,
                            log_name(name, turns), control=False, **turns)
    found = {"stress": product, "mutants": {mutant: by or "" for mutant, by, _ in rows}}
    path.write_text(json.dumps(found) + "\n")
    say(f"{name}: {key(**turns)}: {outcome(found)}")
    return found


def missed(entry):
    return [mutant for mutant, by in entry["mutants"].items() if not by]


def outcome(entry):
    left = missed(entry)
    return f"{len(entry['mutants']) - len(left)} of {len(entry['mutants'])} mutants caught" + \
        (f", not {', '.join(left)}" if left else "")


def rows(results):
    found = [("lab", "turns", "posted", "kicks", "wrong", "mutants")]
    for name, runs in results.items():
        for turns, entry in runs.items():
            seen = entry["stress"]
            wrong = sum(seen["bad"].values()) + len(seen["failures"])
            found.append((name, turns, f"{seen['posted']:,}", f"{seen['kicks']:,}", str(wrong),
                          outcome(entry)))
    return found


def broken(results):
    """What does not hold."""
    found = []
    for name, runs in results.items():
        for turns, entry in runs.items():
            found += [f"{name}, {turns}: {text}" for text in entry["stress"]["failures"]]
            found += [f"{name}, {turns}: {what} {count}"
                      for what, count in entry["stress"]["bad"].items() if count]
        never = set.intersection(*(set(missed(entry)) for entry in runs.values()))
        found += [f"{name}: mutant {mutant} was never caught" for mutant in sorted(never)]
    return found


def main():
    args = program.options(__doc__, base=True)
    args.add_argument("--labs", default=" ".join(QUANTA))
    args = program.parse(args)
    names = args.labs.split()
    unknown = [name for name in names if name not in QUANTA]
    if unknown:
        sys.exit(f"turns: no turns in the lab {unknown[0]}; there are {', '.join(QUANTA)}")
    project = Project(args)
    folder(project.build).mkdir(exist_ok=True)
    say(f"{len(FLIGHTS)} delays and 3 lengths of a turn in the labs {args.labs}, about an hour")
    # Their modules are built in one tree.
    images = [mutants.dynamic_image(project, say, name, mutants.DYNAMIC[name]) for name in names]
    jobs = [(project, name, image, {"quantum": quantum, "flight": flight})
            for name, image in zip(names, images) for quantum in QUANTA[name] for flight in FLIGHTS]
    found = side_by_side.run(run_one, jobs, 2)
    results = {name: {key(**job[3]): entry for job, entry in zip(jobs, found) if job[1] == name}
               for name in names}
    print(align("", rows(results), 2))
    (folder(project.build) / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    for path in folder(project.build).glob("kept-*.json"):
        path.unlink()
    wrong = broken(results)
    for text in wrong:
        print(f"FAILED: {text}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    program.start(main, [(RuntimeError, 1)])
