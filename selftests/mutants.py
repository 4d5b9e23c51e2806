#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Builds every mutant of the series (mutants/ in patches/BASE and patches/common) and runs the
cheapest check that should notice it. Prints a table: mutant, what caught it, after how long; or
KTAP. Called by `make mutants`; check.py runs the part that needs no lab.

Static mutants are caught in the machine code, by disassembly/check.py. Dynamic
ones are also run, in one boot of each lab, by the stress test that exists for their kind of
fault: a stress test that passes on broken code is a broken stress test.

exit status: 0 every one was caught, 1 one was not, 125 the lab failed, 130 interrupted"""
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)     # the packages
from bench import ktap
from lab import emulators, lab, program
from selftests.project import Project

VMX_ENTRY, SVM_ENTRY = ("vmx/vmenter.o",), ("svm/vmenter.o",)
X86, MAIN = ("x86.o",), ("../../../virt/kvm/kvm_main.o",)
VMX, SVM = ("vmx/vmx.o",), ("svm/svm.o",)

# What kvm_apf_forbidden() says, in the kernel's log
BUG = r"kvm.*announced where the guest cannot sleep"

# No fault, but a wider window: for test_remainder of checks/interrupts.py.
GAP_PROBE = "widen-gap"

# mutant: objects to build, check that has to fail
STATIC = {
    "no-vmfail-write": (VMX_ENTRY, "vmx-entry-assembly"),
    "late-exit-write-vmx": (VMX_ENTRY, "vmx-entry-assembly"),
    "in-host-too-early-vmx": (VMX_ENTRY, "vmx-entry-assembly"),
    "stale-in-guest": (VMX_ENTRY, "vmx-entry-assembly"),
    "late-exit-write-svm": (SVM_ENTRY, "svm-entry-assembly"),
    "locked-entry-svm": (SVM_ENTRY, "svm-entry-assembly"),
    "no-exit-write-sev-es": (SVM_ENTRY, "sev-es-entry-assembly"),
    "flag-set-late": (X86, "entry-announced"),  # flag-not-set gives the same x86.o
    "flag-after-barrier": (X86, "entry-barrier"),
    "no-fastpath-barrier": (X86, "fastpath-barrier"),
    "bailout-leaves-flag": (X86, "bail-out"), "fastpath-bailout-leaves-flag": (X86, "bail-out"),
    "early-return-leaves-flag": (VMX, "vmx-way-out"),
    "elide-without-recheck": (X86, "exit-request-mode"),
    "elide-in-guest": (("mode/elide.o",), "elide-reads-flag"),
    "elide-before-mode": (MAIN, "kick-order"), "elide-wait": (MAIN, "request-wait"),
    "flag-before-on": (VMX, "vmx-post-first"), "flag-before-virr": (SVM, "svm-virr-first"),
    "no-wake": (SVM, "svm-notifies"),
}

# lab: mutant: parameters for load-kvm, stress test, what its output has to say
DYNAMIC = {"vmx": {
    "flag-set-late": ("", "lost_interrupt_test -d 1000 -n 12000 -c exits", r"late [1-9]"),
    "no-wake": ("", "lost_interrupt_test -d 1000 -n 5000 -c hlt", r"(?:lost|stalled) [1-9]"),
    "elide-without-recheck": ("",
                              "lost_kick_test -d 1000 -n 20000 -c 'kick without request'",
                              r"late [1-9]"),
    "elide-wait": ("", "lost_kick_test -d 1000 -n 20000 -c wait-kick", r"unfinished [1-9]"),
    "no-vmfail-write": ("", "vm_fail_test -d 1000 -n 300 -c 'VM-Fail on entry'", r"not ok"),
    "bailout-leaves-flag": ("", "vm_fail_test -d 1000 -n 300 -c 'broken off'", r"not ok"),
    "nested-flag-first": ("", "nested_posted_test -d 1000 -n 6000 -c 'posted to L2'",
                          r"(?:late|stalled) [1-9]"),
    "stale-in-guest": ("", "lifecycle_test -d 1000 -n 2 -c 'create, run, destroy'", r"stale_flag [1-9]"),
    "apf-overwrite": ("", "apf_test -d 1000 -n 42000 -c 'many at once'", r"lost [1-9]"),
    "apf-ack-sends-nothing": ("", "apf_test -d 1000 -n 42000 -c 'many at once'", r"lost [1-9]"),
    "apf-irq-not-owed": ("", "apf_test -d 1000 -n 168000 -c 'ways of the guest'", r"lost [1-9]"),
    "apf-no-wake": ("", "apf_test -d 1000 -n 168000 -c 'not there'", r"stalled [1-9]"),
    "apf-write-after-move": ("", "apf_test -d 1000 -n 42000 -c 'disabled and moved'",
                             r"wrong [1-9]"),
    "apf-ack-hidden": ("", "apf_abi_test -c hidden", r"not ok"),
    "apf-ack-unfiltered": ("", "apf_vmm_test -d 60 -c 'MSR filter'", r"not ok"),
    "apf-fail-mmio": ("", "apf_report_test -d 1000 -c 'MMIO before'", r"not ok"),
    "apf-announced-early": ("", "apf_nested_test -d 1000 -n 6000 -c saved",
                           r"exposed [1-9]|a #PF in L2"),
}, "svm": {
    "flag-not-set": ("", "lost_kick_test -d 20 -c 'several kickers'", r"late [1-9]|lost [1-9]"),
    "apf-sent-while-paused": ("", "apf_vmm_test -d 60 -c paused", r"(?:tokens|interrupts) [1-9]"),
    "apf-no-heal": ("", "apf_vmm_test -d 60 -c 'a token in the area'", r"dead [1-9]"),
    "apf-memory-first": ("", "apf_vmm_test -d 60 -c restored", r"refused [1-9]"),
    "apf-ack-in-ioctl": ("", "apf_vmm_test -d 60 -c 'ACK by userspace'", r"ready [01] "),
    "apf-halt-spins": ("", "apf_vmm_test -d 60 -c 'halted for a page'", r"not ok"),
    "apf-hlt-spins": ("", "apf_vmm_test -d 60 -c HLT,", r"returns [1-9]"),
    "apf-no-retry": ("", "apf_vmm_test -d 60 -c 'comes back'", r"ready 0"),
    "apf-page-not-logged": ("", "apf_vmm_test -d 60 -c dirty", r"token_logged 0"),
    "apf-page-logged-remote": ("", "apf_vmm_test -d 60 -c dirty", r"token_logged 0"),
    "apf-vector-of-exceptions": ("", "apf_vmm_test -d 60 -c 'vectors below'", r"not ok"),
    "apf-vector-kept": ("", "apf_vmm_test -d 60 -c 'after INIT'", r"not ok"),
    "apf-shared-workqueue": ("", "apf_many_test -d 60", r"not ok"),
    "apf-failure-forgotten": ("", "apf_fail_test -d 60 -c 'back: the retries'", r"events (?:9|1[0-6])"),
    "apf-failure-kept": ("", "apf_fail_test -d 60 -c 'back: the retries'", r"events_later [0-7]\b"),
    "apf-signal-forgets": ("", "apf_fail_test -d 60 -c 'back: the retries'", r"events (?:9|1[0-6])"),
    "apf-worker-writes": ("", "apf_fail_test -d 60 -c 'private file'", r"copied 1"),
    "apf-announced-early": ("", "apf_mark_test -d 1000 -n 500 -c 'marked, the vCPU is moved'", r"exposed [1-9]"),
    "apf-judged-once": ("", "apf_mark_test -d 1000 -n 1000 -c 'marked, the vCPU is moved'",
                        BUG),
    "apf-judged-once-told": ("", "apf_mark_test -d 1000 -n 1000 -c 'marked, the vCPU is moved'", r"forbidden [1-9]"),
    "apf-mark-kernel": ("", "apf_mark_test -d 60 -c 'always send'", BUG),
    "apf-mark-flags": ("", "apf_mark_test -d 60 -c 'user mode'", r"flags 1"),
    "apf-ext-while-enabled": ("", "apf_mark_test -d 60 -c MSR", r"failed_line [1-9]"),
    "apf-announced-elsewhere": ("", "apf_mark_test -d 1000 -n 1000 -c 'marked, the vCPU is moved'", r"elsewhere [1-9]"),
    "apf-ext-outlives": ("", "apf_mark_test -d 60 -c MSR", r"failed_line [1-9]"),
    "apf-ext-after-init": ("", "apf_mark_test -d 60 -c MSR", r"cleared_by_INIT 0"),
    "apf-ext-not-hidden": ("", "apf_mark_test -d 60 -c hidden", r"not ok"),
    "apf-fail-any-memslot": ("", "apf_report_test -d 60 -c 'without the flag'", r"not ok"),
    "apf-fail-unasked": ("", "apf_report_test -d 60 -c 'has not asked'", r"not ok"),
    "apf-fail-alone": ("", "apf_report_test -d 60 -c MSR", r"failed_line [1-9]"),
    "apf-fail-flag-moves": ("", "apf_report_test -d 60 -c 's flag'", r"cannot_be_taken_away 0"),
    "apf-fail-page-tables": ("", "apf_report_test -d 60 -c 'page of page tables'", r"not ok"),
    "apf-fail-in-delivery": ("", "apf_report_test -d 60 -c 'delivery'", r"not ok"),
    "apf-fail-by-worker": ("", "apf_report_test -d 60 -c 'while the guest'", r"elsewhere [1-9]"),
    "apf-fail-in-smm": ("", "apf_report_test -d 60 -c SMM", r"not ok"),
    "apf-fail-in-l2": ("", "apf_report_test -d 60 -c L2", r"not ok"),
    "apf-fail-kept": ("", "apf_report_test -d 1000 -n 3000 -c 'brought back'", r"stale [1-9]"),
    "apf-masked": ("", "apf_pred_test -d 60 -c 'interrupts are disabled'", BUG),
    "apf-pred-not-hidden": ("", "apf_pred_test -d 60 -c hidden", r"failed_line [1-9]"),
    "apf-pred-mask-left-out": ("", "apf_pred_test -d 60 -c 'it can sleep'", r"not ok"),
    "apf-pred-load-left-out": ("", "apf_pred_test -d 1000 -n 1000 -c 'userspace changes'", r"forbidden [1-9]"),
    "apf-pred-any-base": ("", "apf_pred_test -d 60 -c MSR", r"failed_line [1-9]"),
    "apf-pred-unverified": ("", "apf_pred_test -d 1000 -c 'lists at random' -n 20000", r"wrong [1-9]"),
    "apf-pred-waits": ("", "apf_pred_test -d 60 -c 'not present'", r"not ok"),
    "apf-pred-read-again": ("", "apf_pred_test -d 60 -c overwritten", r"not ok"),
    "apf-pred-loaded-unverified": ("", "apf_pred_test -d 60 -c broken", r"not ok"),
    "apf-pred-not-loaded": ("", "apf_pred_test -d 60 -c 'userspace loads it'", r"not ok"),
    "apf-pred-unaligned": ("", "apf_pred_test -d 1000 -c 'lists at random' -n 60000", r"unasked [1-9]"),
    "apf-again-taken-back": ("", "apf_pred_test -d 1000 -n 20000 -c 'many, accessed again'", r"stalled [1-9]"),
    "apf-again-unasked": ("", "apf_pred_test -d 60 -c 'not asked'", r"not ok"),
}, "avic": {
    "apf-restore-sleeps": ("", "apf_migrate_test -d 1000 -n 8 -c 'live, one'", r"(?:lost|stalled) [1-9]"),
    # A round of one kind of sender, gap and length of computing may have no post that can be late: the
    # four of seed 1 are such.
    "flag-before-virr": ("", "lost_interrupt_test -d 1000 -n 90000 -c exits -s 2",
                         r"(?:late|lost|stalled) [1-9]"),
    "flag-not-set": ("", "lost_interrupt_test -d 1000 -n 5000 -c compute",
                     r"(?:late|lost|stalled) [1-9]"),
}}


# The console of the vmx lab may lose the start of what a test says when it dies.
FAILED = r"^(not ok|Bail out)|guest assertion"
PASSED = r"^ok \d+ (?!.*# SKIP)"

# On PREEMPT_RT the fastpath does not handle the ACK: they change what is not run there.
NOT_RT = ("apf-ack-hidden", "apf-ack-unfiltered", "apf-ack-sends-nothing")


def caught_statically(project, tree, mutant):
    """What the machine code check says of a mutant: the first finding, or None."""
    targets, check = STATIC[mutant]
    status, out = project.kbuild(tree, *targets)
    if status:
        raise RuntimeError(f"{mutant} does not build: {out[-1000:]}")
    kvm = tree / "arch/x86/kvm"
    argv = ["selftests/disassembly/check.py", "--tree", tree, "--types", project.build / "types.o",
            *(kvm / t for t in targets)]
    done = subprocess.run([str(a) for a in argv], cwd=ROOT, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode != 1:
        return None
    return next((line for line in done.stdout.splitlines()
                 if line.startswith(f"FAIL {check}:")), None)


class MutantTree:
    """One patched tree; mutants are put in and taken out, so that builds stay short."""

    def __init__(self, project, name):
        self.project, self.tree, self.now = project, project.tree(name), None

    def patch(self, mutant, *options):
        with open(self.project.patch_file(mutant)) as file:
            done = subprocess.run(["patch", "-p1", "--fuzz=0", "--batch",
                                   "--no-backup-if-mismatch", *options, "-d", self.tree],
                                  stdin=file, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"mutant {mutant} does not apply: {done.stdout}")

    def become(self, mutant):
        if self.now:
            self.patch(self.now, "-R")
        self.patch(mutant)
        self.now = mutant
        return self.tree


def static_rows(project, say, only=""):
    mutants, rows = MutantTree(project, "mutants"), []
    some = [mutant for mutant in STATIC if only in mutant]
    for n, mutant in enumerate(some, 1):
        start = time.time()
        found = caught_statically(project, mutants.become(mutant), mutant)
        took = time.time() - start
        say(f"mutant {n} of {len(some)}: {mutant}: {'caught' if found else 'NOT CAUGHT'}, "
            f"{took:.0f} s")
        rows.append((mutant, found and f"machine code: {found}", took))
    return rows


def dynamic_image(project, say, name, some):
    mutants, sets = MutantTree(project, "mutants-dynamic"), {}
    for n, mutant in enumerate(some, 1):
        say(f"{name} lab: build modules of mutant {n} of {len(some)}: {mutant}")
        tree = mutants.become(mutant)
        out = project.work / f"modules-{mutant}"
        status, text = project.command("scripts/build-modules", "--with-probe", *project.root,
                                       tree, project.release, out)
        if status:
            raise RuntimeError(f"{mutant} does not build: {text[-2000:]}")
        sets[mutant] = out
    sets["patched"] = project.build / "modules/patched"
    return project.initramfs(f"mutants-{name}", sets, [(project.build / "bin/stress", "/stress")])


def dynamic_rows(project, say, name, some):
    """Those of one lab; @some as in DYNAMIC."""
    image = dynamic_image(project, say, name, some)
    return verdicts(project, say, name, some, image, f"{name}-mutants")


def caught_by(lines, says):
    """The lines of a test that has failed as @says has it: the test's own, or the kernel's."""
    failed = [t for t in lines if re.search(FAILED, t)]
    if says == BUG:
        return [t for t in lines if failed and re.search(BUG, t)]
    return [t for t in failed if re.search(says + r"|^Bail out", t)]


def verdicts(project, say, name, some, image, log_name, control=True, **turns):
    """One boot of @image, dynamic_image()'s; @turns as lab.run() has them."""
    script = []
    # The same commands on the product first: they have to pass there.
    for kvm in ("patched", *some) if control else some:
        for mutant, (params, test, _) in some.items():
            if kvm in ("patched", mutant):
                script += [f"load-kvm {kvm} {params}", f"echo MUTANT {kvm} {mutant}",
                           f"/stress/{test}", "echo MUTANT-END"]
    times, texts, now, began = {}, {}, None, 0

    def line(text):
        nonlocal now, began
        if text.startswith("MUTANT "):
            now, began = tuple(text.split()[1:]), time.time()
            times[now], texts[now] = 0, []
            say(f"{name} lab: {now[1]} on {now[0]}")
        elif text == "MUTANT-END":
            times[now] = time.time() - began
        elif now:
            texts[now].append(text)
    lab.run(name, "patched", "\n".join(script), line, build=project.build,
            hang=300 * emulators.slower(name, turns), initramfs=image, log=project.log(log_name), **turns)
    rows = []
    for mutant, (_, test, says) in some.items():
        good = "\n".join(texts.get(("patched", mutant), ["not ok: did not run"]))
        bad = caught_by(texts.get((mutant, mutant), []), says)
        found = f"{name} lab, {test}: {bad[0]}" if bad else None
        if control and (re.search(FAILED, good, re.M) or not re.search(PASSED, good, re.M)):
            found = None
            say(f"{test} does not pass on the product: {good[-500:]}")
        rows.append((mutant, found, times.get((mutant, mutant), 0)))
    return rows


def table(rows):
    width = max(len(row[0]) for row in rows)
    return "\n".join(f"{mutant:<{width}}  {took:4.0f} s  {(found or 'NOT CAUGHT')[:150]}"
                     for mutant, found, took in rows)


def main():
    args = program.options(__doc__, base=True)
    args.add_argument("--static", action="store_true", help="only those that need no lab")
    args.add_argument("--only", default="", help="only mutants whose name contains this")
    args.add_argument("--ktap", action="store_true", help="KTAP instead of the table")
    args = program.parse(args)
    with ktap.instead(args.ktap):
        rows = run(Project(args), args.static, args.only)
    if args.ktap:
        seen = sum(args.only in mutant for mutant in STATIC)
        where = ["in the machine code"] * seen + ["by a stress test"] * (len(rows) - seen)
        print(ktap.text([ktap.Case(bool(found), f"{mutant} caught {how}", found or "",
                                   (("time", round(took), "s"),))
                         for (mutant, found, took), how in zip(rows, where)]))
    return 0 if all(row[1] for row in rows) else 1


def run(project, static, only):
    """Prints and returns the rows."""
    start = time.time()

    def say(text):
        took = int(time.time() - start)
        print(f"[{took // 60}:{took % 60:02d}] {text}", file=sys.stderr, flush=True)
    say(f"{len(STATIC)} mutants in the machine code, about 4:00"
        + ("" if static else f"; {sum(map(len, DYNAMIC.values()))} in the labs, about 31:00"))
    rows = static_rows(project, say, only)
    for name, mutants in {}.items() if static else DYNAMIC.items():
        some = {mutant: row for mutant, row in mutants.items() if only in mutant and not
                (project.base != project.version and mutant in NOT_RT)}
        rows += dynamic_rows(project, say, name, some) if some else []
    print(table(rows))
    missed = [row[0] for row in rows if not row[1]]
    print(f"{len(rows) - len(missed)} caught, {len(missed)} not"
          + (f": {', '.join(missed)}" if missed else ""))
    return rows


if __name__ == "__main__":
    program.start(main, [(RuntimeError, 1)])
