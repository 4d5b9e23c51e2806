#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Runs the stress tests (selftests/stress) for a long time: in the labs, each on a
patched KVM, or on this machine's own KVM. They come in rounds, each with a seed of its
own, until the time is up; the round that runs then is finished. Called by `make stress`.

Counts of all rounds are added up in the table, or in KTAP, and in
BUILD/stress/results.json.

exit status: 0 nothing lost, late or failed, 1 something was, 4 no usable /dev/kvm on
this machine, 125 the lab failed, 130 interrupted"""
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)     # the packages
from bench import ktap
from lab import emulators, lab, program
from selftests import stress_tests

PLACES = (*emulators.EMULATORS, "host")

BAD = ("lost", "late", "doubled", "wrong", "stalled", "missing", "never", "stale", "unfinished",
       "stale_flag", "exposed", "written", "dead", "misread")
CASE = re.compile(r"^(not )?ok \d+ (.*)$")
COUNT = re.compile(r"\b([a-z_]+) (\d+)\b")


class Unusable(Exception):
    """No KVM on this machine."""


class TimeUp(Exception):
    """The duration is over and a round just ended."""


class Tally:
    """Adds up the KTAP of all tests and rounds."""

    def __init__(self):
        self.cases, self.failures, self.test, self.rounds = {}, [], "", 0

    def line(self, text):
        if text.startswith("STRESS "):
            self.test = text.split()[1]
        if text.startswith("Bail out!"):
            self.failures.append(f"{self.test}: {text}")
        case = CASE.match(text)
        if not case:
            return
        name, _, data = case.group(2).partition(" # ")
        skipped = data.startswith("SKIP")
        found = [("skipped" if skipped else "runs", 1)]
        if case.group(1):
            self.failures.append(f"{self.test}: {text}")
            found.append(("failed", 1))
        if not skipped:
            found += COUNT.findall(data)
        entry = self.cases.setdefault(f"{self.test}: {name}", {})
        for key, value in found:
            entry[key] = entry.get(key, 0) + int(value)

    def total(self, key):
        return sum(entry.get(key, 0) for entry in self.cases.values())

    def bad(self):
        return {key: self.total(key) for key in BAD}

    def table(self):
        rows = []
        for name, entry in self.cases.items():
            counts = " ".join(f"{key} {value:,}" for key, value in entry.items()
                              if key != "runs")
            rows.append(f"  {name}: {counts}")
        return "\n".join(rows)


def say(text):
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


def script(where, kvm, seed, base, folder="/stress", job="soak"):
    """Shell text: rounds of @job without end; the reader of its output ends them."""
    lines = [f"seed={seed}", "while :; do"]
    # A machine's own KVM has what the svm lab has: time is time there.
    for text, on, reloads in stress_tests.commands(job, "svm" if where == "host" else where, base):
        test = text.split()[0]
        if on:
            lines.append(f"load-kvm {kvm} {on} || exit 9")
        lines.append(f"echo STRESS {test} seed $seed; {folder}/{text} -s $seed; s=$?")
        lines.append(f"case $s in 0|4) ;; *) echo STRESS-FAILED {test} status $s seed $seed ;; esac")
        if on or (reloads and where != "host"):
            lines.append(f"load-kvm {kvm} || exit 9")
    lines += ["echo ROUND $seed", "seed=$((seed + 1)); done"]
    return "\n".join(lines)


def reader(tally, where, end, started):
    """What is called with each line of the tests' output."""
    def line(text):
        tally.line(text)
        if text.startswith("STRESS-FAILED"):
            tally.failures.append(text)
        if not text.startswith("ROUND "):
            return
        tally.rounds += 1
        say(f"{where}: {time.time() - started:.0f} s, {tally.rounds} rounds, posted "
            f"{tally.total('posted'):,}, kicks {tally.total('kicks'):,}, "
            + ", ".join(f"{k} {v}" for k, v in tally.bad().items() if k in ("lost", "late")))
        if time.time() >= end or tally.failures:
            raise TimeUp
    return line


def turns_of(where, args):
    """Options of the lab: how long its CPUs' turns are and IPIs on their way; none where CPUs
    are threads."""
    quanta = emulators.of(where).quanta
    if quanta == (0,):
        return {}
    return {"quantum": args.quantum or quanta[(args.seed - 1) % len(quanta)], "flight": args.flight}


def turns_text(turns):
    """So that a run can be repeated."""
    return " ".join(f"{name.upper()}={value}" for name, value in turns.items())


def run_lab(where, args, tally, log=None):
    started = time.time()
    log = log or Path(args.build) / "log" / f"stress-{where}.log"
    turns = turns_of(where, args)
    if turns:
        say(f"{where}: {turns_text(turns)}")
    elif args.quantum or args.flight:
        say(f"{where}: its CPUs are threads, without turns and without time on the way")
    read = reader(tally, where, started + args.duration, started)
    try:
        rounds = script(where, args.kvm, args.seed, lab.base_of(args.build), job=args.rounds)
        done = lab.run(where, args.kvm, rounds, read, build=args.build, log=str(log),
                       hang=400 * emulators.slower(where, turns), initramfs=args.initramfs, **turns)
        tally.failures.append(f"the rounds ended by themselves: status {done.status}")
    except TimeUp:
        pass
    lines = filter(lab.WARNED.match, log.read_text(errors="replace").splitlines())
    tally.failures += [f"L1's kernel warned: {text}"
                       for text in lab.sort_warnings(lines, args.build)[0]]


def run_host(args, tally):
    started = time.time()
    read = reader(tally, "host", started + args.duration, started)
    job = subprocess.Popen(["sh", "-c", script("host", "", args.seed, "",
                                               f"{args.build}/bin/stress", args.rounds)],
                           stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        for line in job.stdout:
            read(line.rstrip("\n"))
    except TimeUp:
        pass
    finally:
        os.killpg(job.pid, signal.SIGKILL)
        job.wait()


def report(where, args, tally, seconds):
    turns = turns_of(where, args)
    print(f"{where}: {tally.rounds} rounds in {seconds:.0f} s, seeds {args.seed} to "
          f"{args.seed + max(tally.rounds, 1) - 1} {turns_text(turns)}".rstrip())
    print(tally.table())
    print(f"{where}: posted interrupts {tally.total('posted'):,}, kicks "
          f"{tally.total('kicks'):,}; " +
          ", ".join(f"{key} {value}" for key, value in tally.bad().items()))
    for text in tally.failures:
        print(f"{where}: FAILED: {text} {turns_text(turns)}".rstrip())
    sys.stdout.flush()
    return {**turns, "rounds": tally.rounds, "seconds": round(seconds), "seed": args.seed,
            "kvm": args.kvm, "posted": tally.total("posted"), "kicks": tally.total("kicks"),
            "bad": tally.bad(), "failures": tally.failures, "cases": tally.cases}


def cases(where, entry):
    """[ktap.Case]: each test's case, all its rounds together; then the rounds themselves."""
    found = []
    for name, case in entry["cases"].items():
        ok = not any(case.get(key) for key in ("failed", *BAD)) if "runs" in case else None
        found.append(ktap.Case(ok, f"{where} {name}",
                               ktap.counts(case, case) if "runs" in case else "in all rounds"))
    return found + [ktap.Case(not entry["failures"], f"{where} all rounds",
                              "; ".join([f"rounds {entry['rounds']}", *entry["failures"]]))]


def write(results, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    new.write_text(json.dumps(results, indent=1) + "\n")
    new.rename(path)
    say(f"written: {path}")


def main():
    args = program.options(__doc__)
    args.add_argument("--where", default="svm avic vmx",
                      help="labs, or host (default: svm avic vmx)")
    args.add_argument("--duration", type=int, default=600, help="seconds for each")
    args.set_defaults(rounds="soak")        # of stress/tests.toml
    args.add_argument("--seed", type=int, default=1)
    args.add_argument("--kvm", default="patched", help="module set of the labs")
    args.add_argument("--quantum", type=int, help="instructions of a CPU's turn (vmx, avic); "
                      "default: by the run's first seed, the lab's own with seed 1")
    args.add_argument("--flight", type=int, default=0, metavar="TICKS",
                      help="how long IPIs and doorbells are on their way (vmx, avic; default: 0)")
    args.add_argument("--initramfs", help="another image for the labs")
    args.add_argument("--ktap", action="store_true",
                      help="KTAP on stdout; the tables go to stderr")
    args = args.parse_args()
    with ktap.instead(args.ktap, Unusable):
        results, failed = run(args)
    if args.ktap:
        print(ktap.text([case for item in results.items() for case in cases(*item)]))
    return 1 if failed else 0


def run(args):
    """(results, did anything fail?)"""
    results, failed = {}, False
    for where in args.where.split():
        if where not in PLACES:
            sys.exit(f"stress: no such place: {where}; there are {', '.join(PLACES)}")
        if where == "host" and not os.access("/dev/kvm", os.R_OK | os.W_OK):
            raise Unusable("no usable /dev/kvm on this machine: load KVM, run as root")
        say(f"{where}: {args.duration} s of rounds, seeds from {args.seed}")
        tally, started = Tally(), time.time()
        try:
            if where == "host":
                run_host(args, tally)
            else:
                run_lab(where, args, tally)
        except lab.LabError as error:
            tally.failures.append(f"lab: {error}")
        results[where] = report(where, args, tally, time.time() - started)
        failed |= bool(tally.failures) or any(tally.bad().values())
    write(results, Path(args.build) / "stress" / "results.json")
    return results, failed


if __name__ == "__main__":
    program.start(main, [(Unusable, 4)])
