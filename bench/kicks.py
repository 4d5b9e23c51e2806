#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""How many IPIs of kicks kick elision leaves out, by what makes KVM kick: the series in the avic
lab, with AVIC off, so that an interrupt is a kick, and in the vmx lab, which has fastpath exits.  Of
each kick that would send an IPI and need not wait, KVM counts whether it was left out
(kvm/mode/measure.h).  Kicks that wait for their target are not among them.  Prints a table, writes
BUILD/bench/kicks.json.  Called by `make kicks`.

exit status: 0 done, 1 a workload failed, 125 the lab failed, 130 interrupted"""
import json
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)     # the packages
from bench.progress import align, say
from lab import lab, program, side_by_side

POST = "kvm-mode-bench post --no-trace-kicks --stall 20000 --posts 3000 --workload"
SELFTESTS = ("memslot_modification_stress_test",)
KICK = "kvm-mode-bench kick --json --warmup 20 --samples 300 --how"
AVIC = {
    "interrupts, the target computes": f"{POST} compute",
    "interrupts, it exits": f"{POST} exits",
    "interrupts, it halts": f"{POST} hlt",
    "kicks without a request": "/stress/lost_kick_test -d 1000 -n 1500 -c 'without request, several'",
    "kicks with a request": "/stress/lost_kick_test -d 1000 -n 1500 -c 'with request, several'",
    "NMIs": "/stress/lost_kick_test -d 1000 -n 1500 -c NMI",
    "vCPUs come and go": "/stress/lifecycle_test -d 1000 -n 2",
    "memslots change": "/selftests/memslot_modification_stress_test -v 2 -b 16M -i 100",
}
VMX = {
    "kicks without a request, the target computes": f"{KICK} plain",
    "it exits": f"{KICK} plain --target exits",
    "fastpath exits": f"{KICK} plain --target fastpath",
    "kicks with a request, the target computes": f"{KICK} request",
    "with a request, it exits": f"{KICK} request --target exits",
    "with a request, fastpath exits": f"{KICK} request --target fastpath",
    "dirty logging": "/stress/lost_kick_test -d 1000 -n 300 -c 'dirty log'",
}
# lab: its cases, parameters for load-kvm, L1
LABS = {"avic": (AVIC, "avic=0", {"mem": 4096}), "vmx": (VMX, "", {})}
HEAD = ("what", "IPIs due", "left out", "share")

SCRIPT = r"""
load-kvm patched PARAMETERS || exit 9
cd /sys/kernel/debug/kvm_mode || exit 9
run()
{
	sent=$(cat kick_ipi_sent) elided=$(cat kick_ipi_elided)
	"$@" > /tmp/out 2>&1
	echo "STATUS $? $(tail -n 1 /tmp/out)"
	echo "KICKS $(($(cat kick_ipi_sent) - sent)) $(($(cat kick_ipi_elided) - elided))"
}
"""


def script(cases, parameters):
    return SCRIPT.replace("PARAMETERS", parameters) + "\n".join(
        f"echo {shlex.quote('CASE ' + case)}; run {command}" for case, command in cases.items())


class Counts:
    """What L1 prints, by case."""

    def __init__(self):
        self.found, self.failed, self.case = {}, [], None

    def line(self, text):
        word, _, rest = text.partition(" ")
        if word == "CASE":
            self.case = rest
            say(f"kicks: {rest}")
        elif word == "STATUS" and not rest.startswith("0 "):
            self.failed.append(f"{self.case}: status {rest}")
        elif word == "KICKS":
            sent, left_out = map(int, rest.split())
            self.found[self.case] = {"due": sent + left_out, "left_out": left_out}


def rows(found):
    return [HEAD] + [(case, f"{n['due']:,}", f"{n['left_out']:,}",
                      f"{n['left_out'] / n['due']:.2f}" if n["due"] else "-")
                     for case, n in found.items()]


def run_lab(name, args, overlay, out):
    """(counts, what failed)"""
    cases, parameters, machine = LABS[name]
    counts = Counts()
    done = lab.run(name, "patched", script(cases, parameters), counts.line, build=args.build,
                   overlay=[overlay], hang=400, log=str(out / f"{name}-kicks.log"), **machine)
    if done.status:
        raise lab.LabError(f"status {done.status} in L1; see {out}/{name}-kicks.log")
    missing = [f"{case}: not run" for case in cases if case not in counts.found]
    return counts.found, counts.failed + missing + [str(text) for text in done.warnings]


def run(args):
    """What failed."""
    out = Path(args.build) / "bench"
    out.mkdir(parents=True, exist_ok=True)
    overlay = out / "kicks.cpio"
    add = [arg for name in SELFTESTS
           for arg in ("--add", f"{args.build}/bin/selftests/{name}:/selftests/{name}")]
    if subprocess.run([ROOT / "lab/mkoverlay.py", "--out", overlay, *add], check=False).returncode:
        raise lab.LabError("the selftests' overlay could not be made")
    names = args.labs.split()
    kinds = sum(len(LABS[name][0]) for name in names)
    say(f"{kinds} kinds of kicks in the labs {args.labs}: about 5 minutes")
    done = side_by_side.run(run_lab, [(name, args, overlay, out) for name in names], len(names))
    for name, (found, _) in zip(names, done):
        print(align(f"{name} lab{', AVIC off' if name == 'avic' else ''}: IPIs of kicks that do not wait",
                    rows(found), 1), "", sep="\n", flush=True)
    results = dict(zip(names, [found for found, _ in done]))
    (out / "kicks.json").write_text(json.dumps(results, indent=1) + "\n")
    return [f"{name}: {text}" for name, (_, failed) in zip(names, done) for text in failed]


def main():
    args = program.options(__doc__)
    args.add_argument("--labs", default=" ".join(LABS))
    failed = run(args.parse_args())
    for text in failed:
        print(f"FAILED: {text}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    program.start(main)
