#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Runs the stress tests on debug kernels in the svm lab (KASAN and lockdep; KCSAN) and
lists what those kernels reported, sorted by whether our code is in the report. Called by
`make debug-kernel`, which has built them below BUILD/debug.

exit status: 0 no report names our code and no test failed, 1 otherwise, 125 the lab failed,
130 interrupted"""
import re
import sys
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[0] = str(ROOT)     # the packages
from lab import lab, program
from selftests import stress_tests

REPORT = re.compile(r"(BUG: (?:KASAN|KCSAN|sleeping|scheduling|spinlock)|WARNING: |"
                    r"possible (?:recursive locking|circular locking)|INFO: |ODEBUG)")
OURS = re.compile(r"kvm_mode|execution_mode|kvm_arch_elide_kick|kvm_vcpu_exit_request|"
                  r"kvm_vcpu_kick|kvm_make_vcpu_request|trigger_posted_interrupt|"
                  r"svm_complete_interrupt_delivery|vcpu_enter_guest|"
                  r"async_pf|kvm_apf_|apf_(?:try_)?send|apf_(?:due|next|unmapped|interrupt)")
# Of a data race those count that are at its two ends, not those that called them.
RACE_END = re.compile(r"(?:read|write)[^\n]* to 0x[^\n]*:\n(?:[^\n]*\n){1,2}")

def say(text):
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


def reports(log):
    """Blocks of the console log that begin like a report, to the line that ends it, or 60."""
    lines, found = log.read_text(errors="replace").splitlines(), []
    for n, line in enumerate(lines):
        if re.match(lab.KERNEL_LINE, line) and REPORT.search(line):
            length = next((i for i, text in enumerate(lines[n:n + 60]) if "=====" in text), 60)
            found.append("\n".join(lines[n:n + length]))
    return found


def is_ours(block):
    ends = "".join(RACE_END.findall(block)) if "KCSAN" in block else block
    return OURS.search(ends)


def run_one(name, args):
    folder = Path(args.build) / "debug" / name
    log = Path(args.build) / "log" / f"debug-{name}.log"
    script = "\n".join(f"echo TEST {t}; /stress/{t} -s {args.seed}; echo STATUS $?"
                       for t in stress_tests.debug_commands(args.duration))
    failed, now = [], ""

    def line(text):
        nonlocal now
        if text.startswith("TEST "):
            now = text[5:]
            say(f"{name}: {now}")
        if re.match(r"(not ok|Bail out)", text):
            failed.append(f"{now}: {text}")
    error = None
    try:
        lab.run("svm", "patched", script, line, build=args.build, mem=4096, hang=600,
                kernel=str(folder), initramfs=str(folder / "lab.cpio"), log=str(log))
    except lab.LabError as problem:
        error = str(problem).splitlines()[0]
    found = reports(log)
    ours = [block for block in found if is_ours(block)]
    print(f"{name}: {len(found)} reports, {len(ours)} with our code in them; "
          f"{len(failed)} tests failed" + (f"; {error}" if error else ""))
    kinds = Counter(("OURS  " if block in ours else "others",
                     re.sub(lab.KERNEL_LINE, "", block.splitlines()[0])) for block in found)
    for (whose, title), n in sorted(kinds.items()):
        print(f"  {whose} {n:4} {title}")
    for text in failed:
        print(f"  failed: {text}")
    for block in ours:
        print(block)
    sys.stdout.flush()
    return not ours and not failed and not error


def main():
    args = program.options(__doc__)
    args.add_argument("--duration", type=int, default=1600, help="seconds for each kernel")
    args.add_argument("--seed", type=int, default=1)
    args.add_argument("kernels", nargs="+", metavar="kasan|kcsan")
    args = args.parse_args()
    return 0 if all([run_one(name, args) for name in args.kernels]) else 1


if __name__ == "__main__":
    program.start(main, name="debug-kernel")
