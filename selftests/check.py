#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Runs the project's tests, in KTAP, and ends with "N passed, N failed": those of what a change
is most likely to break, or, with --full, all of them.  Called by `make check`, which has
built what the tests look at.  Mutants of the series (mutants/) show that the tests can fail.

exit status: 0 all passed, 1 some failed, 130 interrupted"""
import argparse
import contextlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Callable, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "lab"), str(ROOT / "bench")]
import base_warnings  # noqa: E402
import emulators  # noqa: E402
import lab  # noqa: E402
import ktap  # noqa: E402
import kvm_selftests  # noqa: E402
import latency  # noqa: E402
import monitor  # noqa: E402
import mutants  # noqa: E402
import posts as bench  # noqa: E402
import report  # noqa: E402
import side_by_side  # noqa: E402
import stress  # noqa: E402
import stress_tests  # noqa: E402

FULL_POSTS = {"svm": 1500, "avic": 10000, "vmx": 30000}
QUICK_POSTS = {"avic": 2500, "vmx": 4000}
MUTANT_POSTS = 60000
LATE_MUTANT = "no-entering"

# From the read of the flag to the write of the ICR, in ticks of the vmx lab (one
# is an instruction of every CPU), with the lab's granularity; and what the probe adds.
RACE_TICKS = 150
GAP_PROBE, GAP_PROBE_TICKS = "widen-gap", 200

# KVM selftests of the quick form that pass on stock, at least (seen: 46, 24).
SELFTESTS_PASS = {"svm": 40, "vmx": 20}


class Failed(Exception):
    """A test's finding, in words."""


def need(condition, text):
    if not condition:
        raise Failed(text)


def command(*argv, **options):
    """Runs a command; returns (status, output with errors)."""
    done = subprocess.run([str(a) for a in argv], text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                          cwd=ROOT, errors="replace", **options)
    return done.returncode, done.stdout


class Project:
    """Where things are, and how to build variants of the modules."""

    def __init__(self, args):
        self.build, self.base = Path(args.build).resolve(), args.base
        self.all = self.full = getattr(args, "full", True)
        self.kernel = self.build / "kernel" / args.base
        self.source = self.kernel / f"linux-source-{args.base}"
        self.release = (self.kernel / "version").read_text().strip()
        root = self.kernel / "root"
        self.root = ["--root", root] if root.is_dir() else []
        self.work = self.build / "check"
        self.work.mkdir(exist_ok=True)
        self.notes = []

    def kvm(self, variant):
        return self.build / "tree" / variant / "arch/x86/kvm"

    def tree(self, name, patch=None):
        """A patched tree of its own, with a mutation if @patch names one."""
        tree = self.work / name
        built = self.build / "tree/patched"
        # Its build starts from what is built there, or from its own state of the run before.
        for argv in ((("scripts/copy-tree", built, tree),) if not tree.is_dir() else ()) + (
                ("scripts/prepare-tree", "--with-probe", "patched", self.base, self.source, tree),):
            status, out = command(*argv)
            need(status == 0, out)
        if patch:
            with open(mutants.patch_file(self.base, patch)) as file:
                done = subprocess.run(["patch", "-p1", "--fuzz=0", "--batch", "-d", tree],
                                      stdin=file, capture_output=True, text=True)
            need(done.returncode == 0, f"mutant {patch} does not apply: {done.stdout}")
        return tree

    def kbuild(self, tree, *targets):
        """As the labs' modules were built, but for variables among @targets."""
        flags = (ROOT / "scripts/lab-flags").read_text().splitlines()
        targets = [*(flag for flag in flags if not flag.startswith("#")), *targets]
        if not self.root:
            return command("make", "-C", f"/lib/modules/{self.release}/build",
                           f"M={tree}/arch/x86/kvm", "-j2", *targets)
        return command("scripts/in-root", self.kernel / "root", tree, "make", "-C",
                       f"/lib/modules/{self.release}/build", "M=/mnt/tree/arch/x86/kvm", "-j2",
                       *targets)

    def modules(self, name, tree):
        out = self.work / f"modules-{name}"
        status, text = command("scripts/build-modules", *self.root, tree, self.release, out)
        need(status == 0, text[-2000:])
        return out

    def initramfs(self, name, sets, add=()):
        out = self.work / f"{name}.cpio"
        argv = ["lab/mkinitramfs.py", "--out", out, "--kernel", self.kernel / "image"]
        for set_name, path in sets.items():
            argv += ["--kvm", f"{set_name}={path}"]
        for source, target in add:
            argv += ["--add", f"{source}:{target}"]
        status, text = command(*argv)
        need(status == 0, text)
        return out

    def sets(self):
        return {v: self.build / "modules" / v for v in ("stock", "patched")}

    command = staticmethod(command)

    def log(self, name):
        return str(self.build / "log" / f"check-{name}.log")


# --- what was built -----------------------------------------------------------

def test_build_is_clean(project):
    """stock and patched modules build without a warning, objtool's included"""
    for variant in ("stock", "patched"):
        text = (project.build / f"log/modules-{variant}.log").read_text()
        need("LD [M]" in text, f"{variant}: the log shows no build")
        bad = [line for line in text.splitlines()
               if re.search(r"\bwarning\b|objtool:", line, re.I)]
        need(not bad, f"{variant}: " + "\n".join(bad[:5]))


def test_own_files_w1(project):
    """our files build with W=1 without a warning"""
    tree = project.tree("w1")
    for built in (*tree.glob("arch/x86/kvm/mode/*.o"), *tree.glob("arch/x86/kvm/*/vmenter.o")):
        built.unlink()      # what kbuild does not build again it does not warn of
    status, out = project.kbuild(tree, "W=1", "mode/mode.o", "vmx/vmenter.o", "svm/vmenter.o")
    need(status == 0, out[-2000:])
    bad = [line for line in out.splitlines() if "warning" in line and "/kvm/mode/" in line]
    need(not bad, "\n".join(bad[:5]))
    # Can it fail?  An unused static function must be reported.
    mode = tree / "arch/x86/kvm/mode/mode.c"
    mode.write_text(mode.read_text() + "static int unused_probe(void)\n{\n\treturn 0;\n}\n")
    status, out = project.kbuild(tree, "W=1", "mode/mode.o")
    need("unused_probe" in out, "an unused function was not reported")


def test_entry_assembly(project):
    """disassembly: the flag is written next to VM-Enter and VM-Exit"""
    status, out = entry_asm(project.kvm("patched"), "kvm-intel.ko", "kvm-amd.ko")
    need(status == 0, out)


def test_entry_assembly_stock(project):
    """disassembly: the check fails on stock"""
    status, out = entry_asm(project.kvm("stock"), "kvm-intel.ko", "kvm-amd.ko")
    need(status == 1 and "IN_GUEST_MODE" in out, f"status {status}: {out}")


def entry_asm(kvm, intel, amd):
    return command("selftests/entry-asm.py", "--offsets", kvm / "kvm-asm-offsets.h",
                   "--intel", kvm / intel, "--amd", kvm / amd)


def entry_order(project, tree, kvm):
    return command("selftests/entry-order.py", "--tree", tree, "--types", project.build / "types.o",
                   *(kvm / f"{m}.ko" for m in ("kvm", "kvm-intel", "kvm-amd")))


def test_entry_order(project):
    """disassembly: the barriers are where the litmus tests have them, on all paths"""
    status, out = entry_order(project, project.build / "tree/patched", project.kvm("patched"))
    need(status == 0, out)
    need(len(re.findall(r"^ok ", out, re.M)) >= 25, f"checks are missing: {out}")


def test_static_mutants(project):
    """disassembly: every mutant that it can show is caught"""
    rows = mutants.static_rows(project, lambda text: print(f"# {text}", file=sys.stderr))
    missed = [mutant for mutant, found, _ in rows if not found]
    need(not missed, f"not caught: {', '.join(missed)}")
    files = {p.stem for p in ROOT.glob("selftests/mutants/**/*.patch")}
    unlisted = files - set(mutants.STATIC).union(*mutants.DYNAMIC.values()) - {GAP_PROBE}
    need(not unlisted, f"in no table of mutants.py: {', '.join(sorted(unlisted))}")
    tree = project.tree("mutants-apply")
    for name in sorted(files):
        status, out = command("patch", "-p1", "--fuzz=0", "--batch", "--dry-run", "-d", tree, "-i",
                              mutants.patch_file(project.base, name))
        need(status == 0, f"mutant {name} does not apply: {out}")
    project.notes.append(f"mutants caught in the machine code: {len(rows)}")


# --- models -------------------------------------------------------------------

def test_litmus(project):
    """litmus tests: herd7's verdicts are the expected ones"""
    status, out = command("models/litmus/run.py", "--herd7", project.build / "herd7/herd7",
                          "--memory-model", project.source / "tools/memory-model")
    need(status == 0, out[-3000:])
    project.notes.append(out.splitlines()[-1])


def test_tables(_project):
    """every stress test is in the table, and the farm's list and the mutants' tests are from it"""
    names = {test["name"] for test in stress_tests.TABLE}
    files = {p.name.removesuffix(".c") for pattern in ("*_test.c", "*_test.sh")
             for p in stress_tests.FOLDER.glob(pattern)}
    need(names == files, f"not in both: {sorted(names ^ files)}")
    farm = re.search(r"for test in ([a-z_ \n]+);", (ROOT / "bench/ci/kvm-mode.yaml").read_text())
    need(sorted(f"{name}_test" for name in farm[1].split()) == sorted(set(stress_tests.farm())),
         f"the farm runs {farm[1]}")
    unknown = {row[1].split()[0] for rows in mutants.DYNAMIC.values() for row in rows.values()} - names
    need(not unknown, f"mutants are given to {sorted(unknown)}")
    for job in ("full", "soak"):
        run = {test["name"] for test in stress_tests.TABLE if {*emulators.EMULATORS} & {*test.get(job, {})}}
        need(run == names, f"not in {job}: {sorted(names - run)}")


def test_litmus_named(project):
    """the code names a litmus test at each barrier, and each named test exists"""
    status, out = command("models/litmus/run.py", "--list")
    need(status == 0, out)
    proofs, named = set(out.split()), {}
    for file in (*ROOT.glob("kvm/*/*"), *ROOT.glob("patches/*/*")):
        # A list may go on over lines of the comment, to the first full stop.
        text = re.sub(r"\n[+ ]?\s*\*\s?", " ", file.read_text())
        for names in re.findall(r"Litmus: ([a-z0-9, -]+)", text):
            named.update((name.strip(), file.name) for name in names.split(",") if name.strip())
    need(named, "no litmus test is named in the code")
    unknown = sorted(f"{name} ({named[name]})" for name in set(named) - proofs)
    need(not unknown, f"named, but do not exist: {', '.join(unknown)}")
    need(not proofs - set(named), f"named nowhere: {', '.join(sorted(proofs - set(named)))}")


def test_spin(project):
    """Spin: the protocol holds in all configurations, every seeded fault is found"""
    done = subprocess.run(["models/spin/run.py", "--quick"], cwd=ROOT, text=True,
                          stdout=subprocess.PIPE)
    need(done.returncode == 0, done.stdout[-3000:])
    project.notes.append(f"Spin: {done.stdout.splitlines()[-1]}")


def test_i386(project):
    """the 32-bit build compiles"""
    out = project.work / "i386"
    make = ["make", "-C", project.source, f"O={out}", "ARCH=i386"]
    if not (out / "include/config/auto.conf").exists():
        status, text = command(*make, "i386_defconfig")
        need(status == 0, text[-2000:])
        command(project.source / "scripts/config", "--file", out / ".config",
                "-m", "KVM", "-m", "KVM_INTEL", "-m", "KVM_AMD", "-e", "VIRTUALIZATION",
                "-d", "MODVERSIONS", "-e", "KVM_WERROR")
        status, text = command(*make, "olddefconfig", "modules_prepare", "-j2")
        need(status == 0, text[-2000:])
    tree = project.tree("tree-i386")
    for built in tree.glob("arch/x86/kvm/*.ko"):
        built.unlink()
    status, text = command(*make, f"M={tree}/arch/x86/kvm", "KBUILD_MODPOST_WARN=1",
                           "-j2", "modules")
    need(status == 0, text[-3000:])
    for module in ("kvm", "kvm-intel", "kvm-amd"):
        need((tree / f"arch/x86/kvm/{module}.ko").exists(), f"{module}.ko was not built")


def test_style(project):
    """checkpatch, shellcheck, pyflakes and SPDX lines"""
    checkpatch = ["perl", project.source / "scripts/checkpatch.pl", "--no-tree", "--strict",
                  "--terse", "--no-summary", "--max-line-length=100"]
    files = [*ROOT.glob("kvm/*/*"), *ROOT.glob("kvm-asm-offsets/*"),
             *ROOT.glob("bench/**/*.[ch]"), *ROOT.glob("selftests/*/*.[ch]")]
    macros = [f for f in files if f.name == "trace.h"]
    for ignore, some in ((CHECKPATCH_EVENTS, macros),
                         (CHECKPATCH_IGNORE, [f for f in files if f not in macros])):
        status, out = command(*checkpatch, f"--ignore={','.join(ignore)}", "-f", *some)
        need(status == 0, out)
    status, out = command("git", "ls-files", "-z")
    names = out.split("\0")[:-1]
    first = {n: (ROOT / n).open(errors="replace").readline() for n in names if (ROOT / n).is_file()}
    for linter, wanted in ((("shellcheck", "-x"), r"#!(/bin/|/usr/bin/env )(ba)?sh"),
                           (("pyflakes3",), r"#!.*python3")):
        some = [n for n, line in first.items() if re.match(wanted, line) or
                (linter[0] == "pyflakes3" and n.endswith(".py"))]
        status, out = command(*linter, *some)
        need(len(some) > 10 and status == 0, out)
    for name in names:
        if name.endswith((".md", ".json", ".patch", ".gitignore", "COPYING")):
            continue
        with (ROOT / name).open(errors="replace") as file:
            head = "".join(file.readline() for _ in range(3))
        need("SPDX-License-Identifier: GPL-2.0" in head, f"{name}: no SPDX line")


# What checkpatch cannot know: guests use the selftests library's names and
# types; the layout of event macros, and their include path, is the kernel's.
CHECKPATCH_IGNORE = ("PREFER_DEFINED_ATTRIBUTE_MACRO", "PREFER_KERNEL_TYPES", "CAMELCASE")
CHECKPATCH_EVENTS = ("PARENTHESIS_ALIGNMENT", "OPEN_ENDED_LINE", "SPACING")


# --- the labs -----------------------------------------------------------------

# Of the kernel's, about the local APIC; they pass without AVIC as well
APIC_SELFTESTS = ("apic_bus_clock_test", "xapic_ipi_test", "xapic_state_test")


def test_avic(project):
    """the emulated AVIC does what the APM says; stock KVM and a Linux guest use it, in that lab only"""
    status, out = command("lab/qemu/avic_test.py", "--build", project.build)
    need(status == 0, out[-3000:])
    has = "grep -qw avic /proc/cpuinfo"
    status, out = command("lab/lab.py", "--build", project.build, "--lab", "svm", "--timeout",
                          "300", "--run", f"! {has}")
    need(status == 0, f"an AVIC that nobody asked for: status {status}: {out[-1000:]}")
    image = kvm_selftests.image(project.build, project.base, APIC_SELFTESTS)
    tests = "; ".join(f"/selftests/{name}; echo STATUS $?" for name in APIC_SELFTESTS)
    done = lab.run("avic", "stock", f"{has} && dmesg | grep 'AVIC enabled' && "
                   f"cat /sys/module/kvm_amd/parameters/avic && {{ {tests}; }}", quantum=0,
                   build=project.build, timeout=400, hang=200, mem=4096, initramfs=image,
                   log=project.log("avic-selftests"))
    text = "\n".join(done.lines)
    need(done.status == 0 and "AVIC enabled" in text and "\nY\n" in text, text[-1500:])
    need(re.findall(r"STATUS (\d+)", text) == ["0"] * len(APIC_SELFTESTS), text[-1500:])
    done = lab.run("avic", "stock", "boot.sh /guest 50 5 2 200", quantum=0, build=project.build,
                   timeout=400, hang=200, overlay=[project.build / "lab/guest.cpio"],
                   log=project.log("avic-linux"))
    need(done.status == 0 and any(line.startswith("membarrier {") for line in done.lines),
         "Linux as a guest: " + "\n".join(done.lines[-20:]))


def test_lab_status(project, name):
    """L1 boots on stock and on patched, and a command's status comes back"""
    for variant in ("stock", "patched"):
        done = lab.run(name, variant, "test -c /dev/kvm && exit 7", build=project.build,
                       timeout=400, hang=200, log=project.log(f"{name}-{variant}"))
        need(done.status == 7, f"{variant}: status {done.status}, not 7")
        need(not done.warnings, f"{variant}: {done.warnings}")


def test_posted(project, name):
    """nothing lost, late or doubled in any workload and variant; the bounds hold"""
    # In the vmx lab as many as `make bench FULL=1` posts: the comparison's bounds are tight.
    posts = None if name == "vmx" else FULL_POSTS[name]
    cells, done = bench.run_lab(name, project.build, posts=posts if project.full else QUICK_POSTS[name],
                                variants=bench.VARIANTS if project.full else ("stock", "patched"),
                                log=project.log(f"{name}-posted"))
    print(bench.table(name, cells), file=sys.stderr)
    bad = bench.guarantees(name, cells)
    bad += [str(bound) for bound in bench.bounds(name, cells) if not bound.holds]
    if name == "avic":
        bad += [f"not by AVIC: {cell}" for by_variant in cells.values() for cell in by_variant.values()
                if cell["apicv"] != "Y" or cell["emulator"]["delivered"] < cell["posted"] or
                not cell["emulator"]["doorbell"]["sent"]]
    need(not bad, "\n".join(bad))
    need(not done.warnings, str(done.warnings))


def test_late_mutant(project):
    """without ENTERING_GUEST_MODE interrupts are late, and the test sees it"""
    tree = project.tree("mutant-late", LATE_MUTANT)
    image = project.initramfs("mutant", {"stock": project.build / "modules/stock",
                                         "patched": project.modules(LATE_MUTANT, tree)},
                              bench_program(project))
    cells, _ = bench.run_lab("vmx", project.build, ("exits",), ("patched",),
                             posts=MUTANT_POSTS, log=project.log("vmx-mutant"),
                             initramfs=image)
    cell = cells["exits"]["patched"]
    need(cell["late"] > 0, f"the mutant passed: {json.dumps(cell)}")
    project.notes.append(f"mutant {LATE_MUTANT}: {cell['late']} of {cell['posted']} late, "
                         f"longest {cell['late_max_wait']} ticks")


def test_remainder(project):
    """what is still wasted is the race in flight: it grows with the race's window"""
    tree = project.tree("mutant-gap", GAP_PROBE)
    image = project.initramfs("gap", {"patched": project.build / "modules/patched",
                                      "widened": project.modules(GAP_PROBE, tree)},
                              bench_program(project))
    script = "\n".join(f"load-kvm {name} && kvm-mode-bench post --json --workload exits "
                       f"--posts {FULL_POSTS['vmx']} --lab-counters 0x8a20 || exit 1"
                       for name in ("patched", "widened"))
    done = lab.run("vmx", "patched", script, build=project.build, timeout=900, hang=300,
                   initramfs=image, log=project.log("vmx-remainder"))
    need(done.status == 0, f"status {done.status}: " + "\n".join(done.lines[-5:]))
    cells = [json.loads(line) for line in done.lines if line.startswith("{")]
    wasted, reach = [], []
    for cell, slack in zip(cells, (0, GAP_PROBE_TICKS)):
        ipi = cell["emulator"]["vectors"]["0xf2"]
        need(ipi["recv_host"] == cell["notify_spurious"],
             f"emulator {ipi['recv_host']}, /proc/interrupts {cell['notify_spurious']}")
        need(ipi["exit_to_send_max"] <= RACE_TICKS + slack,
             f"sent {ipi['exit_to_send_max']} ticks after the exit: not the race in flight")
        wasted.append(ipi["recv_host"])
        reach.append(ipi["exit_to_send_max"])
    project.notes.append(f"race in flight: {wasted[0]} of {cells[0]['posted']} wasted, sent up to "
                         f"{reach[0]} ticks after the exit; window {GAP_PROBE_TICKS} "
                         f"instructions wider: {wasted[1]}, up to {reach[1]}")
    need(wasted[1] > 1.5 * wasted[0], f"wasted {wasted[0]}, with a wider window {wasted[1]}")


def bench_program(project):
    return [(project.build / "bin/kvm-mode-bench", "/bin/kvm-mode-bench")]


def test_toggle(project, name):
    """precise_notify switched under load, modules reloaded: nothing lost"""
    posts, bench_post = min(FULL_POSTS[name], 10000), f"kvm-mode-bench post --json {bench.LABS[name]['extra']}"
    script = f"""
        switch=/sys/module/kvm/parameters/precise_notify
        (while :; do echo N > $switch; echo Y > $switch; echo >> /tmp/switched; done) &
        toggler=$!
        {bench_post} --posts {posts} --workload mixed || exit 1
        kill $toggler
        echo "SWITCHED $(wc -l < /tmp/switched)"
        for set in stock patched stock patched; do load-kvm $set || exit 2; done
        {bench_post} --posts {posts // 5} --workload mixed || exit 3
        load-kvm patched precise_notify=0 || exit 4
        [ "$(cat $switch)" = N ] || exit 5
        echo bogus > $switch 2>/dev/null && exit 6
        exit 0"""
    done = lab.run(name, "patched", script, build=project.build, timeout=900, hang=300,
                   log=project.log(f"{name}-toggle"))
    need(done.status == 0, f"status {done.status}: " + "\n".join(done.lines[-5:]))
    need(not done.warnings, str(done.warnings))
    cells = [json.loads(line) for line in done.lines if line.startswith("{")]
    need(len(cells) == 2, "\n".join(done.lines[-5:]))
    for cell in cells:
        for metric in ("lost", "late", "doubled"):
            need(cell[metric] == 0, f"{metric} {cell[metric]}")
    switched = int(next(x for x in done.lines if x.startswith("SWITCHED ")).split()[1])
    need(switched >= 10, f"switched only {switched} times")
    project.notes.append(f"{name}: precise_notify switched {switched} times under load")


def test_tracepoint(project):
    """the tracepoint kvm:kvm_mode_notify fires and agrees with the statistics"""
    script = """
        trace=/sys/kernel/tracing; event=$trace/events/kvm/kvm_mode_notify
        echo 'hist:keys=seen' > $event/trigger || exit 1
        kvm-mode-bench post --json --posts 3000 --workload exits || exit 2
        cat $event/hist"""
    done = lab.run("vmx", "patched", script, build=project.build, timeout=400, hang=200,
                   log=project.log("vmx-tracepoint"))
    need(done.status == 0, f"status {done.status}: " + "\n".join(done.lines[-5:]))
    cell = next(json.loads(line) for line in done.lines if line.startswith("{"))
    hits = {int(seen): int(n) for seen, n in
            re.findall(r"seen:\s*(\d+) \} hitcount:\s*(\d+)", "\n".join(done.lines))}
    for metric, traced in (("notify_elided", hits.get(0, 0)),
                           ("notify_sent", hits.get(1, 0) + hits.get(2, 0))):
        need(traced == cell[metric] > 0, f"{metric} {cell[metric]}, traced {traced}")


def test_perf(project):
    """perf's recipes run, agree with the posts that they saw, and say what cannot be measured"""
    posts = 600
    script = f"""export POSTS={posts}
        /perf/all.sh; echo STATUS $?
        load-kvm stock; /perf/count.sh | head -n 1
        load-kvm none; /perf/count.sh; echo STATUS $?"""
    done = lab.run("vmx", "patched", script, build=project.build, timeout=900, hang=300,
                   overlay=[project.build / "lab/perf.cpio"], log=project.log("vmx-perf"))
    text = "\n".join(done.lines)
    counts = {name: int(n) for n, name in re.findall(r"^ *(\d+)  (\S+.*)$", text, re.MULTILINE)}
    saw = sum(n for name, n in counts.items() if name.startswith("kvm:kvm_mode_notify"))
    need(0 < saw <= posts == counts.get("kvm:kvm_apicv_accept_irq"), f"{counts}")
    spared = int((re.findall(r"^posted-while-in-guest: (\d+)", text, re.MULTILINE) or [0])[0])
    waited = int((re.findall(r"^post-to-entry: (\d+),", text, re.MULTILINE) or [0])[0])
    need(spared > 0 < waited and spared + waited == posts, f"in guest {spared}, waited {waited}")
    need(re.search(r"^ +CPUID +\d+ ", text, re.MULTILINE), "perf kvm stat shows no CPUID exits")
    need("no memory sampling here" in text and "STATUS 0" in text, text[-1500:])
    need("stock KVM: no kvm:kvm_mode_notify" in text, "stock was not told from patched")
    need("no KVM tracepoints" in text and "STATUS 4" in text, text[-500:])


def test_whole_vm(project):
    """a whole VM boots on patched KVM, its IPIs are counted; what is missing is said (svm lab)"""
    script = """boot.sh /guest 50 5 2 200; echo STATUS $?
        boot.sh /tmp; echo STATUS $?
        boot.sh /guest 50 5 2 2; echo STATUS $?
        load-kvm none; boot.sh /guest; echo STATUS $?"""
    done = lab.run("svm", "patched", script, build=project.build, timeout=600, hang=300,
                   overlay=[project.build / "lab/guest.cpio"], log=project.log("svm-whole-vm"))
    text = "\n".join(done.lines)
    need(re.findall(r"STATUS (\d+)", text) == ["0", "2", "1", "4"], text[-1500:])
    found = json.loads(re.search(r"^membarrier (.*)$", text, re.MULTILINE)[1])
    need(len(found["samples"]) == 50 <= found["ipis"], f"IPIs: {found['ipis']}")
    need(re.search(r'^hackbench {"seconds": [0-9.]+}$', text, re.MULTILINE), text[-500:])
    for words in ("make guest-kit", "did not come to its end", "no usable /dev/kvm"):
        need(words in text, f"not said: {words}")


def test_pressure(project):
    """a whole VM whose memory is swapped out all the time computes right (svm lab)"""
    done = lab.run("svm", "patched", "pressure.sh /guest 128 64 4 2 400; echo STATUS $?",
                   build=project.build, timeout=600, hang=400,
                   overlay=[project.build / "lab/guest.cpio"], log=project.log("svm-pressure"))
    text = "\n".join(done.lines)
    need("STATUS 0" in text and not done.warnings, text[-1500:] + str(done.warnings))
    found = json.loads(re.search(r"^memory (.*)$", text, re.MULTILINE)[1])
    need(found["visited"] == 4 * 16384 and not found["wrong"], f"{found}")
    events = {name: int(n) for name, n in re.findall(r"^(kvm_async_pf_\w+) (\d+)$", text,
                                                     re.MULTILINE)}
    # Each vCPU gets a token that wakes all when it enables the mechanism.
    announced, ready = events["kvm_async_pf_not_present"], events["kvm_async_pf_ready"]
    need(1000 < announced <= ready, f"{events}")
    project.notes.append(f"memory swapped out under a whole VM: {announced:,} asynchronous page "
                         f"faults, {found['visited']:,} pages visited, all right")


REPEATED = ("post --posts 1000 --workload mixed", "exit --samples 30", "exit --window --samples 30",
            "ipi --target exits --samples 30", "timer --samples 30", "kick --how wait --samples 30",
            "kick --how request --samples 30", "apf --rounds 1 --outstanding 8")


def repeat(project, name, quantum, number):
    """The output of one of test_repeats's runs."""
    script = "\n".join(f"kvm-mode-bench {text} --json 2>&1 || [ $? = 4 ] || exit 1"
                       for text in REPEATED)
    done = lab.run(name, "patched", f"{script}\ncat /proc/interrupts", quantum=quantum,
                   build=project.build, timeout=400, hang=200,
                   log=project.log(f"{name}-repeats-{number}"))
    need(done.status == 0, f"status {done.status}: " + "\n".join(done.lines[-5:]))
    return done.lines


def test_repeats(project, name):
    """two runs print the same to the byte; another quantum does not"""
    usual = emulators.EMULATORS[name].default_quantum
    outputs = [repeat(project, name, quantum, number)
               for number, quantum in enumerate((usual, usual, usual - 1))]
    need(outputs[0] == outputs[1], "two runs differ:\n" + "\n".join(
        f"{a}\n{b}" for a, b in zip(*outputs[:2]) if a != b))
    need(outputs[0] != outputs[2], "a run with another quantum does not differ")


# --- the measuring kit ----------------------------------------------------------

def small_bench(project, name):
    """`make bench FULL=1` for the vmx lab, small: (results, what it said failed)"""
    out = project.work / name
    status, text = command("bench/run.py", "--build", project.build, "--full", "--labs", "vmx", "--posts",
                           3000, "--workloads", "exits", "--rounds", 1, "--no-scaling",
                           "--variants", "stock patched patched_off", "--out", out)
    # With so few posts a bound of the comparison may be missed.
    need(status in (0, 1), f"status {status}: {text[-2000:]}")
    failed = [line for line in text.splitlines() if line.startswith("FAILED")]
    return json.loads((out / "results.json").read_text()), failed


def test_measuring(project):
    """vmx lab: senders see the guest for less long; exits cost the same"""
    results, failed = small_bench(project, "bench-1")
    need(not [x for x in failed if "lost" in x or "late" in x], "\n".join(failed))
    forms = results["labs"]["vmx"]["latency"]
    seen = {v: e["window"] for v, e in forms["window"].items()}
    after = {v: w["after_exit_p50"] for v, w in seen.items()}
    need(min(w["watched"] for w in seen.values()) > 0, f"nothing watched: {seen}")
    need(after["patched"] * 4 < after["stock"], f"seen in the guest after an exit: {after}")
    # The same modules, told to go by the run-loop mode: the measurement must notice.
    need(after["patched_off"] > 0.8 * after["stock"], f"precise_notify off: {after}")
    fast = {v: e["window"] for v, e in forms["window-fastpath"].items()}
    need(fast["stock"]["unseen"] == fast["stock"]["watched"] > 0, f"stock, fastpath: {fast}")
    need(fast["patched"]["unseen"] == 0 < fast["patched"]["watched"], f"fastpath: {fast}")
    beside = results["labs"]["vmx"]["scheduling"]
    exits = {form: [run["exits"] for run in beside[form]["patched"]["runs"]] for form in beside}
    need(all(min(n) > 0 or form.endswith("-idle") for form, n in exits.items()),
         f"no guest ran beside rt-tests: {exits}")
    for form in ("exit", "exit-fastpath"):
        cost = latency.ratio(forms[form]["patched"], forms[form]["stock"])[0]
        need(cost < 1.01, f"{form}: patched/stock {cost}")
    # Stock forces none where preemption is lazy, as in 7.2: no IPI for its worker (docs/apf.md).
    paged = {v: e["forced_exits"] for v, e in results["labs"]["vmx"]["apf"].items()}
    need(paged["patched"] == 0 < paged["unbound"], f"forced exits: {paged}")
    need(project.root or paged["stock"] > 0, f"forced exits: {paged}")
    need(results["labs"]["vmx"]["memory_mib"] > 100, "the emulator's memory is not its own")
    project.notes.append(f"seen in the guest after an exit, ticks: {after}")


def test_compare(project):
    """results are compared, a loss is named, a broken file refused; the page is whole"""
    good = ROOT / "docs/results.json"
    status, out = command("bench/compare.py", good, good)
    need(status == 0 and "1.000 (1.000 to 1.000)" in out, f"status {status}: {out[-500:]}")
    results = json.loads(good.read_text())
    page = report.html(results)
    shown = page.count("<svg")
    need(shown == page.count("</svg>") > 10, f"{shown} pictures")
    need("http://" not in page.replace("http://www.w3.org", ""), "the page loads something")
    results["labs"]["vmx"]["workloads"]["exits"]["patched"]["late"] = 3
    worse = project.work / "worse.json"
    worse.write_text(json.dumps(results))
    status, out = command("bench/compare.py", good, worse)
    need(status == 1 and "late 3" in out, f"status {status}: {out[-500:]}")
    del results["labs"]["vmx"]["workloads"]["exits"]["patched"]["exits"]
    worse.write_text(json.dumps(results))
    status, out = command("bench/compare.py", good, worse)
    need(status == 2 and "'exits' is a required property" in out, f"status {status}: {out}")


def test_readme(_project):
    """README's figures are those of docs/results.json"""
    status, out = command("bench/readme.py", "--check")
    need(status == 0, out)


# Needs root. A command behind it finds no /dev/kvm.
WITHOUT_KVM = ("unshare", "-m", "sh", "-c", "mount -t tmpfs tmpfs /dev && "
               'mknod -m 666 /dev/null c 1 3 && exec "$@"', "sh")


def test_no_kvm(project):
    """the benchmark on a host without KVM: what is missing, and a status of its own"""
    need(os.geteuid() == 0, "needs root, to hide /dev")
    for form in ((), ("--ktap",)):
        status, out = command(*WITHOUT_KVM, "bench/run.py", "--build", project.build,
                              "--labs", "host", *form)
        need(status == 4 and "no /dev/kvm" in out, f"status {status}: {out}")
        need("Traceback" not in out, out)
        need(("1..0 # SKIP" in out) == bool(form), out)


# --- KTAP, and what a CI farm makes of it ---------------------------------------

def kunit(project, text):
    """The kernel's own KTAP parser: (number of results, what else it counted, its output)"""
    parser = project.source / "tools/testing/kunit/kunit.py"
    done = subprocess.run([sys.executable, "-B", parser, "parse"], input=text, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    ran = re.search(r"Ran (\d+) tests: (.*)", done.stdout)
    need(ran, f"kunit.py found no results: {done.stdout[-1000:]}")
    counts = {key: int(n) for key, n in re.findall(r"(\w+): (\d+)", ran[2])}
    return int(ran[1]), counts, done.stdout


def handed_over(project, text, *argv):
    """What ktap-to-lava.sh calls lava-test-case with: [(case, result, measurement, units)]"""
    with tempfile.TemporaryDirectory(dir=project.work) as folder:
        for tool, text_of_it in (("lava-test-case", 'echo "$@" >> "$LAVA_CALLS"'),
                                 ("modprobe", "exit 1")):
            Path(folder, tool).write_text(f"#!/bin/sh\n{text_of_it}\n")
            Path(folder, tool).chmod(0o755)
        calls = Path(folder, "calls")
        calls.write_text("")
        done = subprocess.run(argv or [ROOT / "bench/ci/ktap-to-lava.sh", "x"], input=text,
                              text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={
                                  **os.environ, "PATH": f"{folder}:{os.environ['PATH']}",
                                  "LAVA_CALLS": str(calls)})
        lines = calls.read_text().splitlines()
    need(done.returncode == 0, f"status {done.returncode}: {done.stdout[-1000:]}")
    found = []
    for line in lines:
        call = re.fullmatch(r"([\w.-]+) --result (pass|fail|skip)"
                            r"(?: --measurement ([\d.]+) --units (\S+))?", line)
        need(call, f"LAVA would not take: {line}")
        found.append(call.groups())
    return found


def ktap_passes_on(project, name, text):
    """The parsers agree on each result, and no figure is lost on the way to LAVA."""
    lines = re.findall(r"^(not ok|ok) \d+ (.*)$", text, re.M)
    number, counts, said = kunit(project, text)
    need(number == len(lines) > 0 and not {"errors", "crashed"} & set(counts), f"{name}: {said}")
    calls = handed_over(project, text)
    wanted = ["skip" if " # SKIP" in rest else {"ok": "pass", "not ok": "fail"}[word]
              for word, rest in lines]
    results = [c[1] for c in calls if c[2] is None]
    need(results == wanted, f"{name}: {results}, not {wanted}")
    figures = re.findall(r"^# [\w.-]+ ([\d.]+) \S+$", text, re.M)
    figures += [n for word, rest in lines if " # SKIP" not in rest
                for n in re.findall(r"\b[a-z_]+ (\d+)(?![\w.%)])", rest.partition(" # ")[2])]
    passed_on = Counter(c[2] for c in calls if c[2])
    need(passed_on == Counter(figures), f"{name}: {passed_on - Counter(figures)} too many, "
         f"{Counter(figures) - passed_on} missing")


def test_ktap(project):
    """KTAP of the runners is the kernel's, LAVA gets all of it, broken KTAP is refused"""
    status, out = command("bench/compare.py", "--ktap", "docs/results.json", "docs/results.json")
    need(status == 0, out)
    ktap_passes_on(project, "compare.py", out[out.index(ktap.HEAD):])
    results = json.loads((ROOT / "docs/results.json").read_text())
    cases = [case for name, entry in results["labs"].items()
             for case in bench.cases(name, entry["workloads"]) +
             latency.cases(name, entry.get("latency", {}))]
    cases += [ktap.Case(False, "a fault", "lost 3"), ktap.Case(None, "no KVM", "none here")]
    ktap_passes_on(project, "run.py", ktap.text(cases))
    need(kunit(project, ktap.text(cases))[1]["failed"] == 1, "kunit.py saw no failure")
    # Can it fail?
    whole = f"{ktap.HEAD}\n1..2\nok 1 a # n 1\nok 2 b\n"
    ktap_passes_on(project, "whole", whole)
    # Only the first base's parser minds a result without a name.
    nameless = () if project.root else (whole.replace("ok 2 b", "ok 2 # SKIP b"),)
    for broken in (whole.replace("ok 2 b\n", ""), whole.replace("ok 2", "ok 3"), *nameless):
        need({"errors", "crashed"} & set(kunit(project, broken)[1]), f"kunit.py took {broken}")
    for broken in (whole.replace("ok 2 b\n", ""), whole.replace("ok 2", "ok 3"),
                   whole.replace(ktap.HEAD, "")):
        need(("x", "fail", None, None) in handed_over(project, broken), f"taken: {broken}")


def test_ci_kit(project):
    """the LAVA definition is valid and runs from the kit; a broken one is refused"""
    check, schemas = "bench/ci/check-definition.py", project.build / "lava"
    status, script = command(check, schemas, "bench/ci/kvm-mode.yaml", "--script")
    need(status == 0, script)
    good = (ROOT / "bench/ci/kvm-mode.yaml").read_text()
    broken = project.work / "broken.yaml"
    for old, new in (("Definition 1.0", "Definition 9"), ("  name: kvm-mode\n", ""),
                     ("- uname -a", "- uname: -a"), ("  steps:", "  stairs:"),
                     ("metadata:", "metadata: [")):
        broken.write_text(good.replace(old, new))
        status, out = command(check, schemas, broken)
        need(status == 1 and "Traceback" not in out, f"taken with {new!r}: {out}")
    kit = project.work / "kit"
    shutil.rmtree(kit, ignore_errors=True)
    kit.mkdir()
    status, out = command("tar", "-xf", project.build / "kvm-mode-ci.tar.gz", "-C", kit)
    need(status == 0, out)
    need(os.geteuid() == 0, "needs root, to hide /dev")
    calls = handed_over(project, "", *WITHOUT_KVM, "sh", "-c", f'cd "$0" || exit 1\n{script}', kit)
    need(len(calls) > 20 and {c[1] for c in calls} == {"skip"}, f"without KVM: {calls}")
    tools = {c[0] for c in calls}
    need(tools >= {"post", "ipi", "kick", "exit", "timer", "lost_kick_test", "vm_fail_test",
                   "apf_test", "apf_vmm_test", "apf_many_test"},
         f"only: {tools}")


# --- stress, in quick form ------------------------------------------------------

# Of the benchmark, for the form of its KTAP.
BENCH_KTAP = {
    "svm": ("exit --samples 50 --warmup 20 --stall 30000",),
    "avic": ("exit --samples 50",),
    "vmx": ("post --posts 2000 --workload exits,hlt", "exit --window --samples 50",
            "kick --how plain --samples 50"),
}


def test_stress(project, name):
    """stress tests: no interrupt, kick or page-ready event lost, late or doubled"""
    tally, began = stress.Tally(), []

    def line(text):
        if text.startswith("STRESS "):
            began.append((time.time(), text.split()[1]))
        tally.line(text)
    lines, now = [], ""
    for text, on, _ in stress_tests.commands("full" if project.full else "quick", name, project.base):
        if on != now:
            lines.append(f"load-kvm patched {on} || exit 1")
            now = on
        lines.append(f"echo STRESS {text}; /stress/{text} || [ $? = 4 ] || exit 1")
    lines += [f"echo STRESS kvm-mode-bench {text}; kvm-mode-bench {text} --ktap || exit 1"
              for text in BENCH_KTAP[name]]
    done = lab.run(name, "patched", "\n".join(lines), line, build=project.build, timeout=1800,
                   hang=300, log=project.log(f"{name}-stress"))
    need(not tally.failures, "\n".join(tally.failures))
    need(done.status == 0, f"status {done.status}: " + "\n".join(done.lines[-5:]))
    need(not done.warnings, str(done.warnings))
    for text in re.split(r"^STRESS ", "\n".join(done.lines), flags=re.M)[1:]:
        ktap_passes_on(project, text.split()[0], text)
    bad = {key: n for key, n in tally.bad().items() if n}
    need(not bad, str(bad))
    ends = [start for start, _ in began[1:]] + [time.time()]
    project.notes.append(f"{name}: seconds: " + ", ".join(
        f"{test} {end - start:.0f}" for (start, test), end in zip(began, ends)))
    posted, kicks = tally.total("posted"), tally.total("kicks")
    need(kicks > 1000 and posted > 1000, f"only {posted} posts, {kicks} kicks")
    project.notes.append(f"{name}: stress: {posted:,} interrupts posted, {kicks:,} kicks, none "
                         f"lost or late; elided {tally.total('elided'):,} kick IPIs")


def test_base_warnings(project):
    """a warning of the base's own is told from others, and stock KVM gives it"""
    for base, known in ((b, k) for b, some in base_warnings.BASE_WARNINGS.items() for k in some):
        tree = project.work / "base-warnings"
        path = tree / known.file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"/* the condition is in line 2 */\n\t{known.text}\n")
        line = f"[    1.000000] WARNING: {known.file.removeprefix('arch/x86/kvm/')}:%d at f+0x1/0x2"
        need(base_warnings.find(line % 2, base, tree) == known, f"not found: {line % 2}")
        for other, where in ((line % 1, base), (line % 9, base), (line % 2, "5.4"),
                             (line.replace(path.name, "other.c") % 2, base)):
            need(not base_warnings.find(other, where, tree), f"{where}: taken for known: {other}")
    for known in base_warnings.BASE_WARNINGS.get(project.base, ()):
        done = lab.run(known.lab, "stock", known.shown, build=project.build, timeout=300,
                       log=project.log(f"{known.lab}-base-warning"))
        need(not done.status and done.base_warnings and not done.warnings,
             f"status {done.status}, {done.base_warnings}, {done.warnings}: {known.cause}")
        project.notes.append(f"stock KVM warns as well: {done.base_warnings[0]}: {known.cause}")


# --- the kernel's own selftests -----------------------------------------------

def test_kvm_selftests(project, name):
    """the kernel's KVM selftests give the same on stock and on patched, quick form"""
    names = kvm_selftests.quick_tests(name, project.build)
    path = kvm_selftests.image(project.build, project.base, names)
    rows = kvm_selftests.compare(project.build, name, names, path,
                                 kvm_selftests.LABS[name]["quick_seconds"])
    results = kvm_selftests.count(rows, "stock")
    need(results.get("pass", 0) >= SELFTESTS_PASS[name], f"of {len(names)} on stock: {results}")
    worse = kvm_selftests.different(rows)
    need(not worse, "\n".join(f"{n}: {rows[n]}" for n in worse))
    once = [n for n, row in rows.items() if len(row["stock"]) > 1]
    project.notes.append(f"{name}: KVM selftests, the same on stock and patched: {results}"
                         + (f"; differed once: {' '.join(once)}" if once else ""))


# --- bad input ----------------------------------------------------------------

def leftovers(folder):
    return [p.name for p in folder.iterdir()] if folder.exists() else []


def test_bad_base(project):
    """an unsupported kernel version, a missing source, missing headers: one line"""
    there = project.work / "bad"
    shutil.rmtree(there, ignore_errors=True)
    there.mkdir()
    other = there / "source"
    other.mkdir()
    (other / "Makefile").write_text("VERSION = 5\nPATCHLEVEL = 4\n")
    for argv, words in (
            (("scripts/prepare-tree", "patched", "6.12", other, there / "t"), "5.4, not 6.12"),
            (("scripts/prepare-tree", "patched", "5.4", other, there / "t"), "no patches"),
            (("scripts/prepare-tree", "patched", "6.12", there / "none", there / "t"),
             "no kernel source"),
            (("scripts/build-modules", project.build / "tree/patched", "6.12.0-none",
              there / "m"), "no headers for 6.12.0-none"),
            (("scripts/build-modules", *project.root, project.source, project.release, there / "m"),
             "not made by prepare-tree"),
            (("scripts/make-series", "6.12", other, "docs/results.json", there / "s"),
             "5.4, not 6.12"),
            (("scripts/make-series", project.base, project.source, other / "Makefile", there / "s"),
             "Makefile: "),
            (("dkms/supported", "5.4.1-amd64", "--why"), "no patches for Linux 5.4.1-amd64"),
            (("dkms/supported", "6.12.999+none-amd64", "--why"), "no headers for 6.12.999+none-amd64"),
            (("dkms/install",), "usage"),
            (("make", "modules"), "which kernel?")):
        status, out = command(*argv)
        need(status != 0 and words in out, f"{argv[:2]}: status {status}: {out}")
    need(leftovers(there) == ["source"], f"left behind: {leftovers(there)}")


def series(project, out, *options):
    return command("scripts/make-series", *options, project.base, project.source,
                   "docs/results.json", out)


def test_series(project):
    """the mails make the labs' tree, the same each time; --full: by git am, and checkpatch passes"""
    there = project.work / "series"         # the tree of series-check in it is used again
    for name in ("one", "two"):
        shutil.rmtree(there / name, ignore_errors=True)
        status, out = series(project, there / name)
        need(status == 0, out)
    mails = sorted((there / "one").glob("*.patch"))
    need([m.read_bytes() for m in mails] ==
         [m.read_bytes() for m in sorted((there / "two").glob("*.patch"))], "two runs differ")
    if not project.full:
        return
    status, out = command("scripts/series-check", "--quick", project.base, project.source,
                          there / "one", there / "check")
    need(status == 0 and len(re.findall(r"^00\d\d-.* ok ", out, re.MULTILINE)) == len(mails) - 1,
         out[-2000:])


def test_series_refused(project):
    """a series with a mail missing, one with a sin of style, and one that is not the labs', are refused"""
    there = project.work / "series-refused"
    shutil.rmtree(there / "three", ignore_errors=True)
    status, out = series(project, there / "three")
    need(status == 0, out)
    mails = sorted((there / "three").glob("0*.patch"))
    styled, missed = (next(m for m in mails if part in m.name) for part in ("-Count-", "VMX-Notify"))
    styled.write_text(styled.read_text().replace("\n\n", "\n\n" + "too long " * 12 + "\n", 1))
    missed.unlink()
    status, out = command("scripts/series-check", "--quick", project.base, project.source,
                          there / "three", there / "check")
    need(status == 1 and f"{styled.name}: checkpatch" in out and "git am: " in out,
         f"status {status}: {out[-800:]}")
    tree, mail = there / "check/tree", next(m for m in mails if "Rename" in m.name)
    command("git", "-C", tree, "am", "--abort")
    command("git", "-C", tree, "reset", "--quiet", "--hard")
    dirty = tree / "virt/kvm/kvm_main.c"
    text = dirty.read_text() + "/* mine */\n"
    dirty.unlink()          # the source has the same inode
    dirty.write_text(text)
    status, out = command("git", "-C", tree, "-c", "user.name=check", "-c", "user.email=check@localhost",
                          "am", mail)
    need(status != 0 and dirty.read_text() == text, f"dirty tree: status {status}: {out[-800:]}")
    # A copy of the repository in which a source lands with no patch.
    copy = there / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    for name in ("scripts", "patches", "kvm", "kvm-asm-offsets", "selftests", "bench"):
        shutil.copytree(ROOT / name, copy / name)
    shutil.copy(ROOT / "Kbuild", copy)
    landing = copy / "patches/landing"
    landing.write_text(re.sub(r"^(kvm/mode/elide.c\t.*\t).*$", r"\1none", landing.read_text(),
                              flags=re.MULTILINE))
    status, out = command(copy / "scripts/make-series", project.base, project.source,
                          ROOT / "docs/results.json", there / "four")
    need(status == 1 and "not what the labs run" in out, f"landing: status {status}: {out}")
    need(not [n for n in leftovers(there) if n.startswith("four")], f"left: {leftovers(there)}")


def test_users(project):
    """each use of vcpu->mode and each kick of the base has its rule; one more is noticed"""
    status, out = command("scripts/list-users", "--check", project.base, project.source)
    need(status == 0, out)
    there = project.work / "users"
    shutil.rmtree(there, ignore_errors=True)
    for name in ("arch/x86/kvm/i8259.c", "arch/x86/kvm/vmx/vmx.c"):
        (there / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(project.source / name, there / name)
    with (there / "arch/x86/kvm/i8259.c").open("a") as file:
        file.write("void one_more(struct kvm_vcpu *v)\n{\n\tif (v->mode)\n\t\tkvm_vcpu_kick(v);\n}\n")
    status, out = command("scripts/list-users", "--check", project.base, there)
    for words in ("i8259.c one_more kvm_vcpu_kick: 1 here, 0 listed", "i8259.c one_more mode: 1 here",
                  "lapic.c __apic_accept_irq kvm_vcpu_kick: not here any more"):
        need(status == 1 and words in out, f"status {status}, not said: {words}: {out[-800:]}")
    need("i8259.c pic_unlock" not in out and "vmx.c" not in out, f"said of what is as it was: {out}")


def bare(path):
    """C without comments and with any white space."""
    text = re.sub(r'("(?:\\.|[^"\\\n])*")|/\*.*?\*/|//[^\n]*', lambda m: m[1] or " ",
                  path.read_text(), flags=re.DOTALL)
    return text.split()


def test_rename(project):
    """the semantic patch makes the first patch's rename again, but for comments and one macro"""
    there = project.work / "rename"
    shutil.rmtree(there, ignore_errors=True)
    patch = next((ROOT / "patches" / project.base).glob("0001-*.patch"))
    names = [n for n in re.findall(r"^diff --git a/(\S+)", patch.read_text(), re.MULTILINE)
             if n.endswith((".c", ".h"))]
    for folder in ("cocci", "patch"):
        for name in names:
            (there / folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(project.source / name, there / folder / name)
    status, out = command("spatch", "--sp-file", "scripts/rename.cocci", "--very-quiet", "--no-includes",
                          "--in-place", *[there / "cocci" / name for name in names])
    need(status == 0, out[-800:])
    header = there / "cocci/include/linux/kvm_host.h"
    header.write_text(header.read_text().replace("#define KVM_REQ_OUTSIDE_GUEST_MODE",
                                                 "#define KVM_REQ_OUTSIDE_RUN_LOOP"))
    # The documentation is not there.
    command("patch", "-d", there / "patch", "-p1", "--batch", "--forward", "-i", patch)
    for name in names:
        need(bare(there / "cocci" / name) == bare(there / "patch" / name), f"{name}: differs")
        left = re.findall(r"\b(?:OUTSIDE|IN|EXITING)_GUEST_MODE|exiting_guest_mode", (there / "patch" / name).read_text())
        need(not left, f"{name}: {left} left")
    missed = there / "cocci" / names[0]
    missed.write_text(missed.read_text().replace("IN_RUN_LOOP", "IN_GUEST_MODE", 1))
    need(bare(missed) != bare(there / "patch" / names[0]), "a name that was missed is not noticed")


def broken_modules(project, kvm, crc):
    """What is broken, kvm.ko with that, and the words of the complaint."""
    number = project.release.split("+")[0].encode()
    other = number[:-1] + (b"0" if number[-1:] != b"0" else b"1")
    yield ("vermagic", kvm.replace(b"vermagic=" + number, b"vermagic=" + other), "is for")
    yield ("compiler", re.sub(rb"GCC: \(([^)]*)\) \d\d", rb"GCC: (\1) 99", kvm), "compiled by gcc 99")
    if crc:
        yield ("crc", kvm.replace(crc.to_bytes(4, "little"), (crc ^ 1).to_bytes(4, "little")),
               "other versions than the kernel's of: __srcu_read_lock")


def test_check_modules(project):
    """modules of another kernel, with a symbol's CRC changed, or of another compiler, are refused"""
    there = project.work / "modules"
    patched = project.build / "modules/patched"
    headers = project.kernel / f"root/usr/src/linux-headers-{project.release}"
    options = ["--headers", headers] if project.root else []

    def check(path):
        return command("scripts/check-modules", *options, path, project.release)

    status, out = check(patched)
    need(status == 0 and not out, out)
    # Debian's newer kernels have no CONFIG_MODVERSIONS.
    status, out = command("modprobe", "--dump-modversions", patched / "kvm.ko")
    crc = re.search(r"0x([0-9a-f]+)\t__srcu_read_lock$", out, re.MULTILINE)
    need(crc or project.root, f"no symbol versions: {out[-300:]}")
    kvm = (patched / "kvm.ko").read_bytes()
    for what, content, words in broken_modules(project, kvm, crc and int(crc[1], 16)):
        shutil.rmtree(there, ignore_errors=True)
        shutil.copytree(patched, there)
        (there / "kvm.ko").write_bytes(content)
        need(content != kvm, f"{what}: nothing was broken")
        status, out = check(there)
        need(status == 1 and words in out, f"{what}: status {status}: {out}")
    status, out = check(project.build / "modules/stock")
    need(status == 1 and "not patched" in out, f"stock: status {status}: {out}")


def test_full_disk(project):
    """a full disk: non-zero, nothing half-made left"""
    need(os.geteuid() == 0, "needs root, to mount a small tmpfs")
    disk = project.work / "small"
    disk.mkdir(exist_ok=True)
    status, out = command("mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", disk)
    need(status == 0, out)
    try:
        status, out = command("scripts/prepare-tree", "patched", project.base,
                              project.source, disk / "tree")
        need(status != 0 and "No space left" in out, f"status {status}: {out[-300:]}")
        need(not leftovers(disk), f"left behind: {leftovers(disk)}")
    finally:
        command("umount", disk)


def test_no_network(project):
    """no network: the fetching steps say so and leave nothing behind"""
    there = project.work / "offline"
    shutil.rmtree(there, ignore_errors=True)
    there.mkdir()
    offline = dict(os.environ, http_proxy="http://127.0.0.1:9", https_proxy="http://127.0.0.1:9")
    for argv, words in (
            (("scripts/fetch-kernel", project.base, there / "d", there / "k"),
             "is there a network?" if project.root else "cannot download"),
            (("lab/bochs/fetch.sh", there / "b", there / "b"), "is there a network?")):
        status, out = command(*argv, env=offline)
        need(status != 0 and words in out, f"{argv[0]}: status {status}: {out[-500:]}")
    kept = [n for folder in ("d", "b", ".") for n in leftovers(there / folder)
            if n not in ("d", "b")]
    need(not kept, f"left behind: {kept}")


def running_emulators(mark):
    """Processes of the svm lab's emulator, with @mark on L1's command line."""
    _, out = command("pgrep", "-f", f"qemu-system-x86_64.*{mark}")
    return set(out.split())


def test_hang(project):
    """a hanging L1 is ended by the watchdog, its last output and its CPUs shown"""
    mark = f"lab.hangs={os.getpid()}"
    status, out = command("lab/lab.py", "--build", project.build, "--lab", "svm",
                          "--kvm", "stock", "--hang", "15", "--append", mark, "--run",
                          "echo about to hang; sleep 1000")
    need(status == 124 and "about to hang" in out and "no output" in out,
         f"status {status}: {out[-500:]}")
    need(re.search(r"cpu 3: RIP=.*HLT=", out) and re.search(r"cpu 3: LVTT .*one-shot", out),
         f"where the CPUs stand is not shown: {out[-500:]}")
    need(not running_emulators(mark), "the emulator still runs")


def test_dead_timer(project):
    """a CPU of L1 whose timer is dead is found before KVM is loaded, and L1 booted anew"""
    said, limit = io.StringIO(), lab.TIMER_SECONDS
    lab.TIMER_SECONDS = 10.0
    try:
        with contextlib.redirect_stderr(said):
            lab.run("svm", "stock", "true", build=project.build,
                    append="iomem=relaxed lab.dead_timer=2")
    except lab.DeadTimer as error:
        need(re.search(r"cpu 2: LVTT .*masked", str(error)), f"not of CPU 2: {error}")
        need("booting anew" in said.getvalue(), "L1 was not booted anew")
        return
    finally:
        lab.TIMER_SECONDS = limit
    raise Failed("a dead timer went unseen")


# As a run of the svm lab ended that hung, but for REQ.
DEAF = """cpu 0: RIP=ffffffffb86e5fff RFL=00000212 [----A--] CPL=0 II=0 A20=1 SMM=0 HLT=1
cpu 0: REQ=00000000 HF2=00000001 EXI=0 STOP=00
cpu 0: IRR (none)
cpu 0: APR 0x00 TPR 0x10 DFR 0x0f LDR 0x00 PPR 0x10
cpu 1: RIP=ffffffffb86e5fff RFL=00000206 [-----P-] CPL=0 II=0 A20=1 SMM=0 HLT=1
cpu 1: REQ=00000000 HF2=00000001 EXI=0 STOP=00
cpu 1: IRR 236
cpu 1: APR 0x01 TPR 0x10 DFR 0x0f LDR 0x00 PPR 0x10"""


def test_deaf_cpu(_project):
    """a CPU that sleeps in spite of an interrupt is told from one that may sleep"""
    need(monitor.deaf(DEAF.splitlines()) == [1], "not found")
    for old, new in (("RFL=00000206", "RFL=00000006"), ("IRR 236", "IRR (none)"), ("IRR 236", "IRR 20"),
                     ("PPR 0x10", "PPR 0xf0"), ("HF2=00000001", "HF2=00000000"), ("HLT=1", "HLT=0")):
        need(not monitor.deaf(DEAF.replace(old, new).splitlines()), f"taken with {new}")
    need(not monitor.deaf([]), "taken from nothing")


def take_interrupts():
    """Ctrl-C is ignored by what a shell has put into the background, and by its children."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_killed_emulator(project):
    """a killed emulator and Ctrl-C: a clear end, no process left"""
    mark = f"lab.killed={os.getpid()}"
    for kill_lab, expected in ((False, 125), (True, 130)):
        job = subprocess.Popen(["lab/lab.py", "--build", project.build, "--lab", "svm",
                                "--kvm", "stock", "--append", mark, "--run", "echo up; sleep 1000"],
                               cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                               text=True, preexec_fn=take_interrupts)
        need(job.stdout.readline().strip() == "up", "L1 did not come up")
        if kill_lab:
            job.send_signal(signal.SIGINT)
        else:
            for pid in running_emulators(mark):
                os.kill(int(pid), signal.SIGKILL)
        out, _ = job.communicate(timeout=30)
        need(job.returncode == expected, f"status {job.returncode}, not {expected}: {out}")
        need(not running_emulators(mark), "the emulator still runs")


def test_missing_image(project):
    """a lab that was not set up says what to run"""
    status, out = command("lab/lab.py", "--build", project.work / "nothing", "--lab", "svm",
                          "--kvm", "stock", "--run", "true")
    need(status == 125 and "make lab-setup" in out, f"status {status}: {out}")


class Test(NamedTuple):
    """A row of TESTS."""
    function: Callable
    lab: str = ""
    quick: bool = False         # also without --full
    seconds: int = 5            # full form, on two CPUs: long ones start first
    alone: bool = False         # uses both CPUs, or wants a machine on which nothing else runs

    @property
    def name(self):
        return "-".join(filter(None, (self.function.__name__.removeprefix("test_"), self.lab)))

    @property
    def label(self):
        return self.function.__doc__.splitlines()[0] + (f" ({self.lab} lab)" if self.lab else "")


# The emulators of the vmx and avic labs have one thread, and their results do not depend on the
# machine's load; that of the svm lab has a thread for each CPU of L1.
TESTS = (
    Test(test_posted, "vmx", quick=True, seconds=350), Test(test_stress, "vmx", quick=True, seconds=500),
    Test(test_posted, "avic", quick=True, seconds=200), Test(test_stress, "avic", seconds=400),
    Test(test_lab_status, "vmx", seconds=90), Test(test_toggle, "vmx", seconds=200),
    Test(test_tracepoint, seconds=60), Test(test_perf, seconds=340),
    Test(test_late_mutant, seconds=150), Test(test_remainder, seconds=150),
    Test(test_repeats, "avic", seconds=100), Test(test_repeats, "vmx", seconds=100),
    Test(test_kvm_selftests, "vmx", seconds=200), Test(test_avic, seconds=150), Test(test_hang, seconds=25), Test(test_killed_emulator, seconds=20),
    Test(test_build_is_clean, quick=True), Test(test_own_files_w1, seconds=30),
    Test(test_entry_assembly, quick=True), Test(test_entry_assembly_stock, quick=True),
    Test(test_entry_order, quick=True), Test(test_static_mutants, seconds=200),
    Test(test_style, quick=True, seconds=30), Test(test_litmus, quick=True, seconds=40),
    Test(test_litmus_named, quick=True), Test(test_tables, quick=True),
    Test(test_spin, seconds=100),
    Test(test_users, quick=True), Test(test_rename), Test(test_series, quick=True, seconds=200),
    Test(test_series_refused, seconds=150), Test(test_bad_base, quick=True),
    Test(test_check_modules, quick=True), Test(test_full_disk, quick=True),
    Test(test_no_network, quick=True), Test(test_missing_image, quick=True),
    Test(test_i386, seconds=200), Test(test_readme, quick=True), Test(test_compare, quick=True, seconds=10),
    Test(test_no_kvm, quick=True),
    Test(test_ktap, quick=True), Test(test_ci_kit, quick=True), Test(test_deaf_cpu, quick=True),
    Test(test_stress, "svm", quick=True, alone=True, seconds=270),
    Test(test_lab_status, "svm", alone=True, seconds=20), Test(test_posted, "svm", alone=True, seconds=50),
    Test(test_toggle, "svm", alone=True, seconds=25), Test(test_whole_vm, alone=True, seconds=40),
    Test(test_pressure, alone=True, seconds=60), Test(test_kvm_selftests, "svm", alone=True, seconds=250),
    Test(test_measuring, alone=True, seconds=400),
    Test(test_base_warnings, alone=True), Test(test_dead_timer, alone=True, seconds=30),
)


def attempt(project, test, *args):
    """Runs a test, and once more if a CPU of the emulator did what no CPU does."""
    try:
        test(project, *args)
    except lab.DeafCpu as error:
        for line in f"{error}".splitlines():
            print(f"# {line}", file=sys.stderr)
        project.notes.append(f"{test.__name__} was run again: {str(error).splitlines()[0]}")
        test(project, *args)


def run_one(project, number):
    """(ktap.Case, notes) of the test that is TESTS[number]."""
    test = TESTS[number]
    project.full = project.all or not test.quick        # such a test has no other form
    start, project.notes = time.time(), []
    try:
        attempt(project, test.function, *filter(None, [test.lab]))
    except (Failed, lab.LabError, OSError, subprocess.SubprocessError, RuntimeError, ValueError,
            LookupError, StopIteration) as error:
        project.notes += f"{type(error).__name__}: {error}".splitlines()[:40]
        return ktap.Case(False, test.label), project.notes
    return ktap.Case(True, test.label, f"{time.time() - start:.0f} s"), project.notes


def run_all(project, numbers):
    """Yields what run_one returns, for each of the tests."""
    beside = sorted((n for n in numbers if not TESTS[n].alone), key=lambda n: -TESTS[n].seconds)
    yield from side_by_side.unordered(run_one, [(project, n) for n in beside], 2)
    for n in numbers:
        if TESTS[n].alone:
            yield run_one(project, n)


def about(numbers):
    """Seconds that these tests take, full form."""
    return sum(TESTS[n].seconds / (1 if TESTS[n].alone else 2) for n in numbers)


def parse():
    args = argparse.ArgumentParser(description=__doc__,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--build", default="build")
    args.add_argument("--base", default="6.12")
    args.add_argument("--full", action="store_true", help="every test, in its longer form")
    args.add_argument("--only", default="", help="run tests whose name contains this")
    args.add_argument("--list", action="store_true", help="the tests' names and what they show")
    return args.parse_args()


def main():
    args = parse()
    numbers = [n for n, test in enumerate(TESTS) if args.only in test.name and
               (args.full or args.only or test.quick)]
    if args.list:
        print("\n".join(f"{TESTS[n].name:24} {TESTS[n].label}" for n in numbers))
        return 0
    took = f"about {about(numbers) / 60:.0f} minutes" if args.full else "short forms"
    print(f"# {len(numbers)} of {len(TESTS)} tests, {took} on two CPUs", file=sys.stderr)
    print(f"{ktap.HEAD}\n1..{len(numbers)}", flush=True)
    passed = 0
    for i, (case, notes) in enumerate(run_all(Project(args), numbers), 1):
        print("".join(f"# {note}\n" for note in notes) + ktap.result(i, case), flush=True)
        passed += case.ok
    left = len(TESTS) - len(numbers)
    if left and not args.only:
        print(f"# {left} tests are left out, others are short: make check FULL=1 has all")
    print(f"{passed} passed, {len(numbers) - passed} failed")
    return 0 if passed == len(numbers) else 1


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
