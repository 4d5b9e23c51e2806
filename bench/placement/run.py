#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Where the in-guest flag is, and what other places would cost; and where senders count. Prints the
members of struct kvm_vcpu that share the flag's cache line, from the patched module's debug
information, then builds placement.c and runs it, and compares the places. Writes placement.json.
Called by `make placement`.

exit status: 0, 1 a failure, 4 this machine has not two CPUs"""
import argparse
import json
import re
import statistics
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[0] = str(Path(__file__).resolve().parents[2])     # the packages
from bench.progress import align

FLAG, LINE = "execution_mode", 64
GAPS = (1, 4000)            # iterations between two posts: without pause; some 2 us
# The experiment: option, title and columns, what the others are compared with, the two sides.
FLAG_PLACES = ((), ("flag", "vCPU: entry and exit", "sender: post"), "own line", ("vcpu", "sender"))
COUNT_PLACES = (("--senders",), ("count", "one sender: post", "the other"), "no count", ("other", "sender"))
MEMBER = re.compile(r"^\s*(.*\S)\s+(\S+);\s*/\*\s*(\d+)(?::\s*\d+)?\s+(\d+)\s*\*/")


def members(module):
    """[(name, offset, bytes)] of struct kvm_vcpu, those of its parts included."""
    text = subprocess.run(["pahole", "-E", "-C", "kvm_vcpu", module], capture_output=True,
                          text=True, check=True).stdout
    found = [(m[2], int(m[3]), int(m[4])) for m in map(MEMBER.match, text.splitlines()) if m]
    if not any(name == FLAG for name, _, _ in found):
        raise ValueError(f"{module}: pahole shows no {FLAG}")
    return found


def neighbours(found):
    """The members in the flag's cache line."""
    line = next(offset for name, offset, _ in found if name == FLAG) // LINE * LINE
    return line, [m for m in found if m[1] < line + LINE and m[1] + m[2] > line
                  and not m[0].startswith("__")]


def measure(program, options, gap, args):
    done = subprocess.run([program, *options, "--gap", str(gap), "--rounds", str(args.rounds), "--cpus",
                           args.cpus], capture_output=True, text=True)
    if done.returncode:
        print(done.stderr, end="", file=sys.stderr)
        sys.exit(done.returncode)
    return json.loads(done.stdout)


def rows(result, experiment):
    """Middle round's ticks of an operation, and its ratio to the base as bench/latency.py has it."""
    _, (what, one, two), base, sides = experiment
    found = [(what, one, f"against {base}", two, f"against {base}")]
    for name in result["rounds"][0]:
        row = [name]
        for side in sides:
            ticks = [r[name][side] for r in result["rounds"]]
            ratios = [r[name][side] / r[base][side] for r in result["rounds"]]
            low, high = min(ratios), max(ratios)
            seen = "" if low > 1 or high < 1 or name == base else ": no difference seen"
            row += [f"{statistics.median(ticks):.1f}",
                    f"{statistics.median(ratios):.3f} ({low:.3f} to {high:.3f}){seen}"]
        found.append(tuple(row))
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=Path, default=Path("build"))
    parser.add_argument("--cpus", default="0,1", help="of the vCPU and of the sender")
    parser.add_argument("--rounds", type=int, default=6)
    args = parser.parse_args()
    try:
        line, near = neighbours(members(args.build / "types.o"))
    except (OSError, ValueError, subprocess.CalledProcessError) as error:
        sys.exit(f"placement: {error}: make placement builds it, package dwarves has pahole")
    print(align(f"struct kvm_vcpu, bytes {line} to {line + LINE - 1}",
                [("member", "offset", "bytes")] + [(n, str(o), str(b)) for n, o, b in near], 1), "",
          sep="\n")
    out = args.build / "bench"
    out.mkdir(parents=True, exist_ok=True)
    program = out / "placement"
    subprocess.run(["gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-pthread", "-o", program,
                    HERE / "placement.c"], check=True)
    cpu = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    results = {"cpu": cpu[1] if cpu else None, "near": near}
    for key, experiment in (("flag", FLAG_PLACES), ("count", COUNT_PLACES)):
        results[key] = [measure(program, experiment[0], gap, args) for gap in GAPS]
        for result in results[key]:
            print(align(f"{results['cpu']}: ticks of its TSC, {result['gap']} iterations between posts; "
                        f"{result['dropped']} slices were disturbed and left out",
                        rows(result, experiment), 1), "", sep="\n")
    (out / "placement.json").write_text(json.dumps(results, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
