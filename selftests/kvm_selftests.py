#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Runs the base kernel's own KVM selftests (tools/testing/selftests/kvm) in the labs, on
stock and on patched KVM, and prints a table: test, result on each, and, where stock does
not pass, why; or KTAP. Called by `make kvm-selftests`; check.py runs the quick form.

A test that differs is run again on both. Where stock passed, patched may fail once in all
its runs, which is printed; otherwise it may not give a result that stock never gave.
Results are also in BUILD/kvm-selftests/results.json.

exit status: 0 no difference, 1 some test is different on patched, 125 the lab
failed, 130 interrupted"""
import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)     # the packages
from bench import ktap
from lab import emulators, lab, program, side_by_side

VARIANTS = ("stock", "patched")
AGAIN = 3                   # more runs of a test that differs

# seconds: what one test may take, on L1's clock. hang: on this machine's clock; L1 is started
# anew then. at_once: how many L1s run side by side.
LABS = emulators.amounts("kvm-selftests")
# The quick form leaves out tests that were seen to take longer on stock (svm), and takes
# only tests that were seen to end in seconds (vmx), by the names of all bases. The full form's
# table has all.
SLOW = {"dirty_log_perf_test", "dirty_log_test", "hardware_disable_test",
        "kvm_page_table_test", "max_guest_memory_test", "memslot_modification_stress_test",
        "memslot_perf_test", "mmu_stress_test", "rseq_test", "set_memory_region_test"}
FAST_VMX = {"amx_test", "coalesced_io_test", "cpuid_test", "cr4_cpuid_sync_test", "debug_regs",
            "exit_on_emulation_failure_test", "fix_hypercall_test", "get_msr_index_features",
            "guest_print_test", "kvm_pv_test", "nested_close_kvm_test", "nested_dirty_log_test",
            "nested_exceptions_test", "nested_invalid_cr3_test", "nested_set_state_test",
            "nested_tsc_adjust_test", "set_boot_cpu_id",
            "set_sregs_test", "smm_test", "state_test", "triple_fault_event_test",
            "userspace_io_test", "vmx_apic_access_test", "vmx_close_while_nested_test",
            "vmx_dirty_log_test", "vmx_exception_with_invalid_guest_state",
            "vmx_invalid_nested_guest_state", "vmx_msrs_test", "vmx_set_nested_state_test",
            "vmx_tsc_adjust_test", "xapic_state_test"}

PASS, SKIP, TIMEOUT = "pass", "skip", "timeout"
STATUS = {0: PASS, 4: SKIP, 137: TIMEOUT}


def say(text):
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


def all_tests(build):
    """Every selftest that was built."""
    folder = Path(build) / "bin/selftests"
    return sorted(p.name for p in folder.iterdir() if p.is_file() and os.access(p, os.X_OK))


def quick_tests(where, build):
    return [name for name in all_tests(build)
            if (name in FAST_VMX if where == "vmx" else name not in SLOW)]


def image(build, base, names):
    """An initramfs with stock, patched and the tests."""
    build = Path(build)
    out = build / "kvm-selftests" / "lab.cpio"
    out.parent.mkdir(exist_ok=True)
    argv = [ROOT / "lab/mkinitramfs.py", "--out", out, "--kernel",
            build / "kernel" / base / "image"]
    for variant in VARIANTS:
        argv += ["--kvm", f"{variant}={build}/modules/{variant}"]
    for name in names:
        argv += ["--add", f"{build}/bin/selftests/{name}:/selftests/{name}"]
    subprocess.run(argv, check=True)
    return out


class Boot:
    """One L1 that runs tests one after the other; what each of them gave."""

    def __init__(self, where, names, seconds):
        self.where, self.names, self.seconds = where, names, seconds
        self.found, self.why, self.now = {}, {}, None
        self.began, self.took = 0, {}

    def script(self):
        return "\n".join([
            f"cd /selftests; for t in {' '.join(map(shlex.quote, self.names))}; do",
            # Not timeout(1): busybox's counts whole seconds. A session of its own: a test
            # that forks (hardware_disable_test) would leave busy children to the others.
            "echo BEGIN $t; setsid ./$t > /tmp/out 2>&1 & test=$!",
            f"(sleep {self.seconds}; kill -9 -$test) 2>/dev/null & limit=$!",
            "wait $test 2>/dev/null; s=$?; kill $limit 2>/dev/null; kill -9 -$test 2>/dev/null",
            # The assertion that failed, or what a skipped test needs.
            "[ $s = 0 ] || { grep -A1 'Test Assertion Failure' /tmp/out || "
            "grep -iE 'skip|not ok|not supported' /tmp/out; } | tail -n 1 | sed 's/^/WHY /'",
            "echo END $t $s; done"])

    def line(self, text):
        word, _, rest = text.partition(" ")
        if word == "BEGIN":
            self.now, self.began = rest, time.time()
        elif word == "WHY" and self.now:
            self.why[self.now] = rest.strip()
        elif word == "END":
            name, status = rest.split()
            self.found[name] = STATUS.get(int(status), f"fail {status}")
            self.now = None
            self.took[name] = time.time() - self.began


def run_tests(build, where, variant, names, path, seconds=None):
    """({test: result}, {test: why}). A test that takes L1 down is a crash or a hang."""
    setup, left, found, why = LABS[where], list(names), {}, {}
    while left:
        boot = Boot(where, left, seconds or setup["seconds"])
        log = Path(build) / "log" / f"kvm-selftests-{where}-{variant}.log"
        try:
            lab.run(where, variant, boot.script(), boot.line, build=build, mem=setup["mem"],
                    hang=setup["hang"], initramfs=path, log=str(log))
        except lab.LabError as error:
            if boot.now is None:
                raise
            hung = isinstance(error, lab.Watchdog)
            boot.found[boot.now] = "hang" if hung else "crash"
            boot.why[boot.now] = str(error).splitlines()[0]
            log.rename(log.with_name(f"{log.stem}-{boot.now}.log"))
        found.update(boot.found)
        why.update(boot.why)
        longest = sorted(boot.took, key=boot.took.get)[-3:]
        say(f"{where}, {variant}: {len(found)} of {len(names)} tests; the longest: "
            + ", ".join(f"{name} {boot.took[name]:.0f} s" for name in longest))
        left = [name for name in left if name not in found]
    return found, why


def run_both(build, where, names, path, seconds):
    """What run_tests() gave on each variant."""
    jobs = [(build, where, variant, names, path, seconds) for variant in VARIANTS]
    return dict(zip(VARIANTS, side_by_side.run(run_tests, jobs, LABS[where]["at_once"])))


def compare(build, where, names, path, seconds=None):
    """{test: {"stock": [results], "patched": [results], "why": text}}"""
    rows = {name: {"stock": [], "patched": [], "why": ""} for name in names}
    chosen = names
    for turn in range(1 + AGAIN):
        for variant, (found, why) in run_both(build, where, chosen, path, seconds).items():
            for name, result in found.items():
                rows[name][variant].append(result)
                rows[name]["why"] = rows[name]["why"] or why.get(name, "")
        if not turn:
            chosen = [n for n in names if rows[n]["stock"] != rows[n]["patched"]]
        if not chosen:
            break
        say(f"{where}: again, {turn + 1} of {AGAIN}: {' '.join(chosen)}" if turn < AGAIN else
            f"{where}: done")
    return rows


def is_different(stock, patched):
    if not (stock and patched):
        return True
    if stock[0] == PASS:
        return sum(result != PASS for result in patched) > 1
    return bool(set(patched) - set(stock))


def different(rows):
    return sorted(n for n, row in rows.items() if is_different(row["stock"], row["patched"]))


def count(rows, variant):
    firsts = [row[variant][0] for row in rows.values()]
    return {r: firsts.count(r) for r in sorted(set(firsts))}


def table(where, rows):
    width = max(map(len, rows))
    text = [f"{where} lab: stock {count(rows, 'stock')}, patched {count(rows, 'patched')}"]
    for name, row in rows.items():
        why = row["why"] if row["stock"][0] != PASS else ""
        text.append(f"  {name:<{width}}  {' '.join(row['stock']):<8}  "
                    f"{' '.join(row['patched']):<8}  {why}".rstrip())
    return "\n".join(text)


def markdown(cells):
    """The same as a page for docs/, all labs in one table."""
    names = sorted({name for rows in cells.values() for name in rows})
    text = ["| test | " + " | ".join(f"{w}: stock | {w}: patched" for w in cells) + " | why |",
            "|---|" + "---|" * (2 * len(cells) + 1)]
    for name in names:
        line, why = [name], []
        for where, rows in cells.items():
            row = rows.get(name, {"stock": ["-"], "patched": ["-"], "why": ""})
            line += [", ".join(row["stock"]), ", ".join(row["patched"])]
            if row["stock"][0] != PASS and row["why"]:
                why.append(f"{where}: {row['why']}")
        text.append("| " + " | ".join([*line, "; ".join(dict.fromkeys(why)).replace("|", "/")]) + " |")
    counts = [f"- {where} lab: stock {count(rows, 'stock')}, patched {count(rows, 'patched')}"
              for where, rows in cells.items()]
    return "\n".join([*counts, "", *text])


def case(where, name, row):
    """ktap.Case: the same on patched as on stock"""
    ok = not is_different(row["stock"], row["patched"])
    if ok and row["stock"][0] == SKIP:
        return ktap.Case(None, f"{where} {name}", row["why"])
    return ktap.Case(ok, f"{where} {name}", ", ".join(
        f"{v} {' '.join(result.replace(' ', '-') for result in row[v])}" for v in VARIANTS))


def main():
    args = program.options(__doc__, base=True)
    args.add_argument("--labs", default="svm vmx")
    args.add_argument("--tests", default="", help="only these (default: all)")
    args.add_argument("--markdown", nargs="+", metavar="FILE",
                      help="run nothing; print the table of earlier results.json files")
    args.add_argument("--ktap", action="store_true",
                      help="KTAP on stdout; the tables go to stderr")
    args = program.parse(args)
    if args.markdown:
        print(markdown({where: rows for file in args.markdown
                        for where, rows in json.loads(Path(file).read_text()).items()}))
        return 0
    with ktap.instead(args.ktap):
        results, worse = run(args)
    if args.ktap:
        print(ktap.text([case(where, *item) for where, rows in results.items()
                         for item in rows.items()]))
    return 1 if worse else 0


def run(args):
    """({lab: rows}, what is different), printed"""
    build = Path(args.build).resolve()
    there = all_tests(build)
    names = args.tests.split() or there
    unknown = sorted(set(names) - set(there))
    if unknown:
        raise lab.LabError(f"no test called {', '.join(unknown)}; there are: {' '.join(there)}")
    path, results, worse = image(build, args.base, names), {}, []
    for where in args.labs.split():
        say(f"{where}: {len(names)} tests on stock and on patched")
        rows = results[where] = compare(build, where, names, path)
        print(table(where, rows), flush=True)
        worse += [f"{where}: {name}: {rows[name]}" for name in different(rows)]
        out = build / "kvm-selftests" / "results.json"
        out.with_suffix(".new").write_text(json.dumps(results, indent=1) + "\n")
        out.with_suffix(".new").rename(out)
    for text in worse:
        print(f"DIFFERENT: {text}")
    return results, worse


if __name__ == "__main__":
    program.start(main, name="kvm-selftests")
