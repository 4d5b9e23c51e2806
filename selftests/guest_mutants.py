#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Breaks the set `guest` of the series, one way at a time, and sees whether a whole VM in the svm lab shows
it: patches/common/mutants/guest, or a base's own. The guest's kernel is built and run once for each; first as
it is, which has to pass. Prints a table. Called by `make guest-mutants`.

exit status: 0 each was caught, 1 some was not, or one does not build, 125 the lab failed, 130 interrupted"""
import re
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)     # the packages
from lab import lab, program
from selftests.checks import guests
from selftests.project import command, Failed, Project

# name: what is said of the VM
WAITS = {
    "state-not-kept": r"(?:sleep|special): wrong",
    "nested-not-known": r"rtlock: wrong",
    "nested-not-known-once-woken": r"rtlock: wrong",
    "frozen-kept": r"again 0",
    "rcu-tasks-not-asked": r"too_short",
    "wait-counts-as-sleep": r"too_short",
    "preempt-left-out": r"cannot sleep",
    "resched-not-masked": r"share",
    "rcu-left-out": r"cannot sleep",
    "second-forgotten": r"hung_task",
    "second-takes-first": r"panic",
}
LOST = {"fail-not-asked": r"EFER="}     # QEMU has shown the registers: KVM_RUN has failed
OLD_STORM = {"nmi-not-asked": r"async #PF in kernel mode"}         # of bases that have the check
# (mutants, what L1 runs, what is wrong with its lines)
RUNS = ((WAITS, guests.WAITS, guests.wrong_waits),
        (LOST, guests.LOST, lambda lines: guests.wrong_lost(lines, "svm")),
        (OLD_STORM, guests.OLD_STORM, guests.wrong_old_storm))


class Builder:
    """The guest's kernel, as it is or broken: in the tree and the build of `make`, which makes them anew."""

    def __init__(self, project):
        self.project, self.folder = project, project.build / "guest-kernel"
        for stamp in (self.folder / "tree/.done", self.folder / "version"):
            stamp.unlink(missing_ok=True)

    def overlay(self, name=""):
        """The archive for L1 with that kernel; without a name, the product"""
        mutant = [self.project.patch_file(f"guest/{name}")] if name else []
        out = self.folder / "mutant.cpio"
        for argv in (("scripts/prepare-guest", self.project.version, self.project.source, self.folder / "tree", *mutant),
                     ("lab/small-kernel/build.sh", self.folder / "tree", self.folder, "lab/guest-kernel/guest.config")):
            status, text = command(*argv)
            if status:
                raise RuntimeError(f"{name} does not build: {text[-2000:]}")
        release = (self.folder / "version").read_text().strip()
        (self.folder / "version").unlink()
        status, text = command("lab/mkoverlay.py", "--out", out, "--add",
                               f"{self.folder}/boot/vmlinuz-{release}:/guest/vmlinuz-guest")
        if status:
            raise RuntimeError(text)
        return out


def run_vm(project, overlay, text, log):
    """L1's lines; boot.sh ends a VM that hangs."""
    return lab.run("svm", "patched", text, build=project.build, timeout=900, hang=450, log=project.log(log),
                   overlay=[project.build / "lab/guest.cpio", overlay]).lines


def says(lines, wrong):
    """[what is wrong with the VM]"""
    try:
        return wrong(lines)
    except (Failed, KeyError) as error:
        return [str(error)]


def main():
    args = program.options(__doc__, base=True)
    args.add_argument("--only", default="", help="only mutants whose name contains this")
    args = program.parse(args)
    project, start, rows = Project(args), time.time(), []
    some = {name: (expected, text, wrong) for mutants, text, wrong in RUNS for name, expected in mutants.items()
            if args.only in name and (name not in OLD_STORM or project.patch_file(f"guest/{name}").exists())}
    builder = Builder(project)

    def say(text):
        took = int(time.time() - start)
        print(f"[{took // 60}:{took % 60:02d}] {text}", file=sys.stderr, flush=True)
    say(f"{len(some)} mutants of the guest's kernel, about {2 * len(some) + 3}:00")
    overlay = builder.overlay()
    for mutants, text, wrong in RUNS:
        if set(mutants) & set(some):
            found = says(run_vm(project, overlay, text, "guest-mutants"), wrong)
            say(f"the product: {f'NOT RIGHT: {found}' if found else 'right'}")
            if found:
                return 1
    for name, (expected, text, wrong) in some.items():
        lines = run_vm(project, builder.overlay(name), text, f"guest-mutant-{name}")
        found = [said for said in says(lines, wrong) if re.search(expected, said)]
        say(f"{name}: {'caught' if found else f'NOT CAUGHT: {lines[-8:]}'}")
        rows.append((name, found))
    width = max(len(name) for name in some)
    for name, wrong in rows:
        print(f"{name:<{width}}  {wrong[0][:150] if wrong else 'NOT CAUGHT'}")
    missed = [name for name, wrong in rows if not wrong]
    print(f"{len(rows) - len(missed)} caught, {len(missed)} not" + (f": {', '.join(missed)}" if missed else ""))
    return 1 if missed else 0


if __name__ == "__main__":
    program.start(main, [(RuntimeError, 1)])
