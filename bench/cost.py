#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Which instructions the series adds to one VM-Exit and takes away: the svm lab's emulator logs
every instruction of KVM's modules while a guest executes CPUID over and over, on stock and on
patched. Those executed once for each VMRUN are the round trip. Prints the functions that differ,
and the difference by instruction; writes cost.txt. Called by `make cost`.

Registers, displacements and constants are left out of the comparison: a structure that
grew moves them. Inlining moves instructions between functions; the sum is what counts.

exit status: 0, 1 a failure, 125 the lab failed, 130 interrupted"""
import re
import subprocess
import sys
import tempfile
from bisect import bisect_right
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)     # the packages
from bench.progress import align, say
from lab import lab, program

VARIANTS = ("stock", "patched")
MODULES = {"kvm": "kvm.ko", "kvm_amd": "kvm-amd.ko"}
SAMPLES = 1000              # what setting up a VM executes falls below one in two of these
SCRIPT = f"""sed -n 's/^\\([0-9a-f]*\\) [tT] \\(.*\\)\\t\\[\\(kvm.*\\)\\]/SYM \\1 \\2 \\3/p' /proc/kallsyms
kvm-mode-bench exit --samples {SAMPLES} --warmup 0 --exit-gap 100"""
EXECUTED = re.compile(r"^Trace \d+: \S+ \[[0-9a-f]+/([0-9a-f]{16})/")


def traced(build, variant, log):
    """(symbols, {address: how often executed}) of one boot of L1."""
    say(f"{variant}: boot and trace (about 2:00)")
    done = lab.run("svm", variant, SCRIPT, build=build, icount=True, trace=str(log), hang=600)
    symbols = sorted((int(address, 16), name, module) for address, name, module in
                     re.findall(r"^SYM (\S+) (\S+) (\S+)$", "\n".join(done.lines), re.MULTILINE))
    with open(log, encoding="ascii", errors="replace") as lines:
        found = (EXECUTED.match(line) for line in lines)
        return symbols, Counter(int(m[1], 16) for m in found if m)


def listing(modules):
    """{(module, function, offset): instruction}"""
    found = {}
    for module, file in MODULES.items():
        text = subprocess.run(["objdump", "-dr", "--no-show-raw-insn", modules / file],
                              capture_output=True, text=True, check=True).stdout
        start = function = None
        for line in text.splitlines():
            head = re.match(r"^([0-9a-f]+) <(.*)>:$", line)
            code = re.match(r"^ *([0-9a-f]+):\t(\S.*)$", line)
            target = re.match(r"^\t+[0-9a-f]+: R_X86_64_(?:PLT|PC)32\t([\w.]+)", line)
            if head:
                start, function = int(head[1], 16), head[2]
            elif code and function:
                last = module, function, int(code[1], 16) - start
                found[last] = code[2]
            elif target and found.get(last, "").startswith("call"):
                found[last] = f"call {target[1]}"
    return found


def plain(text):
    """Without what differs between two compilations of the same."""
    call = re.match(r"call\s+(?:[0-9a-f]+ <)?([\w.]+)", text)
    if call:
        return f"call {call[1]}"
    text = re.sub(r"\s*[#<].*", "", text)
    text = re.sub(r"-?0x[0-9a-f]+", "N", re.sub(r"%\w+", "%r", text))
    text = re.sub(r"^jmp\s.*", "jmp", " ".join(text.split()))
    return re.sub(r"^j(?!mp)\w+\s.*", "jcc", text)


def round_trip(build, variant, log):
    """{function: Counter of its instructions} of one exit and entry."""
    symbols, counts = traced(build, variant, log)
    code = listing(Path(build) / "modules" / variant)
    starts, trips, found = [s[0] for s in symbols], 0, {}
    where = {}
    for address, count in counts.items():
        at = bisect_right(starts, address) - 1
        if at < 0:
            continue
        start, name, module = symbols[at]
        text = code.get((module, name, address - start))
        where[address] = (name, text) if text else ("static calls, thunks", "jmp or ret")
        if where[address][1].startswith("vmrun"):
            trips += count
    if trips < SAMPLES:
        raise lab.LabError(f"{variant}: {trips} VMRUNs in the trace, not {SAMPLES}")
    for address, (name, text) in where.items():
        times = round(counts[address] / trips)
        if times:
            found.setdefault(name, Counter())[plain(text)] += times
    return found


def report(found):
    old, new = (found[v] for v in VARIANTS)
    total = [sum(sum(c.values()) for c in found[v].values()) for v in VARIANTS]
    rows = [("function", *VARIANTS, "difference")]
    lines = []
    for name in sorted(old.keys() | new.keys()):
        a, b = old.get(name, Counter()), new.get(name, Counter())
        if a != b:
            n = [sum(a.values()), sum(b.values())]
            rows.append((name, *map(str, n), f"{n[1] - n[0]:+d}"))
    rows.append(("all of KVM's modules", *map(str, total), f"{total[1] - total[0]:+d}"))
    a, b = (sum(found[v].values(), Counter()) for v in VARIANTS)
    lines += [f"  +{count} {text}" for text, count in sorted((b - a).items())]
    lines += [f"  -{count} {text}" for text, count in sorted((a - b).items())]
    return "\n".join([align("instructions of one exit by CPUID and entry, svm lab; functions that "
                            "differ", rows, 1), "",
                      "by instruction, wherever it is (jcc: any conditional jump):", *lines])


def main():
    args = program.options(__doc__)
    args = args.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        text = report({v: round_trip(args.build, v, Path(folder) / v) for v in VARIANTS})
    print(text)
    out = Path(args.build) / "bench"
    out.mkdir(parents=True, exist_ok=True)
    (out / "cost.txt").write_text(text + "\n")
    return 0


if __name__ == "__main__":
    program.start(main)
