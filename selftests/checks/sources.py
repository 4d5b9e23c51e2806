# SPDX-License-Identifier: GPL-2.0
"""The sources: style, tables that have to agree, and what the patches rename."""
import lzma
import re
import shutil

from lab import emulators
from selftests import mutants, stress_tests
from selftests.project import command, need, ROOT


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


def test_style(project):
    """checkpatch, shellcheck, pyflakes and SPDX lines"""
    checkpatch = ["perl", project.source / "scripts/checkpatch.pl", "--no-tree", "--strict",
                  "--terse", "--no-summary", "--max-line-length=100"]
    files = [*ROOT.glob("kvm/*/*"), *ROOT.glob("kvm-asm-offsets/*"),
             *ROOT.glob("bench/**/*.[ch]"), *ROOT.glob("guests/*.[ch]"),
             *ROOT.glob("selftests/*/*.[ch]")]
    macros, per_cpu = ([f for f in files if f.name == name] for name in ("trace.h", "measure.c"))
    for ignore, some in ((CHECKPATCH_EVENTS, macros), (CHECKPATCH_PER_CPU, per_cpu),
                         (CHECKPATCH_IGNORE, [f for f in files if f not in macros + per_cpu])):
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
        if name.endswith((".md", ".json", ".patch", ".text", ".gitignore", "COPYING")):
            continue
        how = lzma.open if name.endswith(".xz") else open
        with how(ROOT / name, "rt", errors="replace") as file:
            head = "".join(file.readline() for _ in range(3))
        need("SPDX-License-Identifier: GPL-2.0" in head, f"{name}: no SPDX line")


# These run inside L1, or are called by DKMS and by debhelper.
NOBODYS = r"lab/l1/|bench/guest/(?!build)|bench/rt/|dkms/(build|initramfs|supported|unpack|debian)|\.ci/"


def test_help(_project):
    """every program that a person may call has a --help, with status 0"""
    status, out = command("git", "ls-files", "-s")
    programs = [line.split("\t")[1] for line in out.splitlines() if line.startswith("100755")]
    programs = [name for name in programs if not re.match(NOBODYS, name)]
    need(len(programs) > 30, f"only {programs}")
    for name in programs:
        status, out = command(ROOT / name, "--help")
        need(status == 0 and len(out.split()) > 3, f"{name}: status {status}: {out[-300:]}")


# What checkpatch cannot know: guests use the selftests library's names and
# types; the layout of event macros, and their include path, is the kernel's.
CHECKPATCH_IGNORE = ("PREFER_DEFINED_ATTRIBUTE_MACRO", "PREFER_KERNEL_TYPES", "CAMELCASE")
CHECKPATCH_EVENTS = ("PARENTHESIS_ALIGNMENT", "OPEN_ENDED_LINE", "SPACING")
# It does not see the name in DEFINE_PER_CPU(type, name), ahead of its export.
CHECKPATCH_PER_CPU = ("EXPORT_SYMBOL",)


def test_users(project):
    """each use of vcpu->mode and each kick of the base has its rule; one more is noticed"""
    status, out = command("scripts/list-users", "--check", project.version, project.source)
    need(status == 0, out)
    there = project.work / "users"
    shutil.rmtree(there, ignore_errors=True)
    for name in ("arch/x86/kvm/i8259.c", "arch/x86/kvm/vmx/vmx.c"):
        (there / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(project.source / name, there / name)
    with (there / "arch/x86/kvm/i8259.c").open("a") as file:
        file.write("void one_more(struct kvm_vcpu *v)\n{\n\tif (v->mode)\n\t\tkvm_vcpu_kick(v);\n}\n")
    status, out = command("scripts/list-users", "--check", project.version, there)
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
    """the semantic patch makes the series' rename again, but for comments and one macro"""
    there = project.work / "rename"
    shutil.rmtree(there, ignore_errors=True)
    patch = next((ROOT / "patches" / project.version).glob("kvm-rename-vcpu-mode-s-values-*.patch"))
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
