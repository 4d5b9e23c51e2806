#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""How many IPIs of kicks kick elision leaves out, by what makes KVM kick: the series in the avic
lab, with AVIC off, so that an interrupt is a kick.  Of each kick that would send an IPI and need
not wait, KVM asks whether to leave it out: a return probe counts the answers.  Kicks that wait for
their target never ask.  Prints a table, writes BUILD/bench/kicks.json.  Called by `make kicks`.

exit status: 0 done, 1 a workload failed, 125 the lab failed, 130 interrupted"""
import argparse
import json
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)     # the packages
from bench.progress import align, say
from lab import lab

POST = "kvm-mode-bench post --no-trace-kicks --stall 20000 --posts 3000 --workload"
SELFTESTS = ("memslot_modification_stress_test",)
CASES = {
    "interrupts, the target computes": f"{POST} compute",
    "interrupts, it exits": f"{POST} exits",
    "interrupts, it halts": f"{POST} hlt",
    "kicks without a request": "/stress/lost_kick_test -d 1000 -n 1500 -c 'without request, several'",
    "kicks with a request": "/stress/lost_kick_test -d 1000 -n 1500 -c 'with request, several'",
    "NMIs": "/stress/lost_kick_test -d 1000 -n 1500 -c NMI",
    "vCPUs come and go": "/stress/lifecycle_test -d 1000 -n 2",
    "memslots change": "/selftests/memslot_modification_stress_test -v 2 -b 16M -i 100",
}
HEAD = ("what", "IPIs due", "left out", "share")

SCRIPT = r"""
load-kvm patched avic=0 || exit 9
t=/sys/kernel/tracing
echo 'r:elide kvm_arch_elide_kick answer=$retval:u8' > $t/kprobe_events || exit 9
count()
{
	echo "${2}hist:keys=answer" > $t/events/kprobes/elide/trigger || exit 9
	echo "$1" > $t/events/kprobes/elide/enable
}
run()
{
	count 1
	"$@" > /tmp/out 2>&1
	echo "STATUS $? $(tail -n 1 /tmp/out)"
	grep hitcount $t/events/kprobes/elide/hist
	echo "MISSED $(sed 's/.* //' $t/kprobe_profile)"
	count 0 '!'
}
"""


def script():
    return SCRIPT + "\n".join(f"echo {shlex.quote('CASE ' + case)}; run {command}"
                              for case, command in CASES.items())


class Counts:
    """What L1 prints, by case."""

    def __init__(self):
        self.found, self.failed, self.case = {}, [], None

    def line(self, text):
        word, _, rest = text.partition(" ")
        if word == "CASE":
            self.case = rest
            self.found[rest] = {"due": 0, "left_out": 0}
            say(f"kicks: {rest}")
        elif word == "STATUS" and not rest.startswith("0 "):
            self.failed.append(f"{self.case}: status {rest}")
        elif word == "MISSED" and rest != "0":
            self.failed.append(f"{self.case}: {rest} answers were missed")
        self.hit(text)

    def hit(self, text):
        found = re.search(r"^\{ answer: +(\d+) \} hitcount: +(\d+)", text)
        if found:
            self.found[self.case]["due"] += int(found[2])
            self.found[self.case]["left_out"] += int(found[2]) if int(found[1]) else 0


def rows(found):
    return [HEAD] + [(case, f"{n['due']:,}", f"{n['left_out']:,}",
                      f"{n['left_out'] / n['due']:.2f}" if n["due"] else "-")
                     for case, n in found.items()]


def run(args):
    """What failed."""
    out = Path(args.build) / "bench"
    out.mkdir(parents=True, exist_ok=True)
    overlay = out / "kicks.cpio"
    add = [arg for name in SELFTESTS
           for arg in ("--add", f"{args.build}/bin/selftests/{name}:/selftests/{name}")]
    if subprocess.run([ROOT / "lab/mkoverlay.py", "--out", overlay, *add], check=False).returncode:
        raise lab.LabError("the selftests' overlay could not be made")
    say(f"{len(CASES)} kinds of kicks in the avic lab: about 3 minutes")
    counts = Counts()
    done = lab.run("avic", "patched", script(), counts.line, build=args.build, overlay=[overlay], mem=4096,
                   hang=400, log=str(out / "kicks.log"))
    if done.status:
        raise lab.LabError(f"status {done.status} in L1; see {out}/kicks.log")
    print(align("avic lab, AVIC off: IPIs of kicks that do not wait", rows(counts.found), 1), flush=True)
    (out / "kicks.json").write_text(json.dumps(counts.found, indent=1) + "\n")
    missing = [f"{case}: not run" for case in CASES if case not in counts.found]
    return counts.failed + missing + [str(text) for text in done.warnings]


def main():
    args = argparse.ArgumentParser(description=__doc__,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--build", default="build")
    failed = run(args.parse_args())
    for text in failed:
        print(f"FAILED: {text}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        sys.exit(main())
    except lab.LabError as error:
        print(f"kicks: {error}", file=sys.stderr)
        sys.exit(125)
    except KeyboardInterrupt:
        sys.exit(130)
