# SPDX-License-Identifier: GPL-2.0
"""What was built: no warnings, and the machine code, where the flag and the barriers are."""
import os
import re
import shutil
import sys

from selftests import mutants
from selftests.project import command, need, ROOT


def test_build_is_clean(project):
    """stock and patched modules build without a warning, objtool's included; --full: and parts of the series"""
    for variant in ("stock", "patched", *(("ipi", "bare") if project.full else ())):
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
    status, out = project.kbuild(tree, "W=1", "mode/measure.o", "mode/elide.o",
                               "mode/apf.o", "vmx/vmenter.o", "svm/vmenter.o")
    need(status == 0, out[-2000:])
    bad = [line for line in out.splitlines() if "warning" in line and "/kvm/mode/" in line]
    need(not bad, "\n".join(bad[:5]))
    # Can it fail?  An unused static function must be reported.
    mode = tree / "arch/x86/kvm/mode/measure.c"
    mode.write_text(mode.read_text() + "static int unused_probe(void)\n{\n\treturn 0;\n}\n")
    status, out = project.kbuild(tree, "W=1", "mode/measure.o")
    need("unused_probe" in out, "an unused function was not reported")


def disassembly(project, variant, *files):
    """The check of built files, with the patched tree's headers and offsets."""
    return command("selftests/disassembly/check.py", "--tree", project.build / "tree/patched",
                   "--types", project.build / "types.o", *(project.kvm(variant) / f for f in files))


def test_machine_code(project):
    """disassembly: the flag right after VM-Exit, barriers as in the litmus tests, on all paths"""
    status, out = disassembly(project, "patched", "kvm.ko", "kvm-intel.ko", "kvm-amd.ko")
    need(status == 0, out)
    need(len(re.findall(r"^ok ", out, re.M)) >= 28, f"checks are missing: {out}")
    if project.full:        # what is to be merged
        status, out = disassembly(project, "bare", "kvm.ko", "kvm-intel.ko", "kvm-amd.ko")
        need(status == 0 and len(re.findall(r"^ok ", out, re.M)) >= 28, f"bare: {out}")


def test_machine_code_stock(project):
    """disassembly: the check fails on stock"""
    status, out = disassembly(project, "stock", "vmx/vmenter.o", "svm/vmenter.o")
    need(status == 1 and out.count("-assembly: no KVM_EXEC_HOST") == 3, f"status {status}: {out}")


# Who uses vcpu->mode, or did before the series: file, and an object that is made of it
USERS = {"virt/kvm/kvm_main.c": mutants.MAIN, "include/linux/kvm_host.h": mutants.MAIN,
         "arch/x86/kvm/x86.c": mutants.X86, "arch/x86/kvm/mode/mode.h": mutants.X86,
         "arch/x86/kvm/mode/elide.c": ("mode/elide.o",), "arch/x86/kvm/mode/measure.c": ("mode/measure.o",),
         "arch/x86/kvm/lapic.c": ("lapic.o",),
         "arch/x86/kvm/mmu/mmu.c": ("mmu/mmu.o",), "arch/x86/kvm/vmx/vmx.c": mutants.VMX,
         "arch/x86/kvm/svm/svm.c": mutants.SVM}
OLD_NAMES = ("OUTSIDE_GUEST_MODE", "IN_GUEST_MODE", "EXITING_GUEST_MODE")


def with_old_use(name, text):
    """A file's, at its end: each old name of a value of vcpu->mode."""
    more = "".join(f"static inline bool old_use_{i}(struct kvm_vcpu *vcpu)\n{{\n"
                   f"\treturn vcpu->mode == {name};\n}}\n" for i, name in enumerate(OLD_NAMES))
    head, end, tail = text.rpartition("#endif") if name.endswith(".h") else (text, "", "")
    return head + more + end + tail


def test_old_names(project):
    """a use of vcpu->mode in the old sense, as a stable update may have it, does not build anywhere"""
    tree = project.tree("old-names")
    for name, target in USERS.items():
        file = tree / name
        text = file.read_text()
        file.write_text(with_old_use(name, text))
        status, out = project.kbuild(tree, *target)
        file.write_text(text)
        need(status, f"{name}: it builds")
        missed = [old for old in OLD_NAMES if not re.search(rf".{old}. undeclared", out)]
        need(not missed, f"{name}: {', '.join(missed)} not refused: {out[-1500:]}")


def test_static_mutants(project):
    """disassembly: every mutant that it can show is caught"""
    rows = mutants.static_rows(project, lambda text: print(f"# {text}", file=sys.stderr))
    missed = [mutant for mutant, found, _ in rows if not found]
    need(not missed, f"not caught: {', '.join(missed)}")
    files = {p.stem for p in ROOT.glob("patches/*/mutants/*.patch")}
    unlisted = files - set(mutants.STATIC).union(*mutants.DYNAMIC.values()) - {mutants.GAP_PROBE}
    need(not unlisted, f"in no table of mutants.py: {', '.join(sorted(unlisted))}")
    tree = project.tree("mutants-apply")
    for name in sorted(files):
        status, out = command("patch", "-p1", "--fuzz=0", "--batch", "--dry-run", "-d", tree, "-i",
                              project.patch_file(name))
        need(status == 0, f"mutant {name} does not apply: {out}")
    project.notes.append(f"mutants caught in the machine code: {len(rows)}")


def test_i386(project):
    """the 32-bit build compiles, and divides no 64-bit number by itself"""
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
    divided = re.findall(r'"(__\w+[dm]\w*di3)".*undefined', text)
    need(not divided, f"the kernel has no {divided}")
    for module in ("kvm", "kvm-intel", "kvm-amd"):
        need((tree / f"arch/x86/kvm/{module}.ko").exists(), f"{module}.ko was not built")


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
        """By each awk that is here, as to gawk a hexadecimal number is 0; the one that judges wrong."""
        link, said = project.work / "awk/awk", []
        link.parent.mkdir(exist_ok=True)
        for awk in filter(None, map(shutil.which, ("mawk", "gawk"))):
            link.unlink(missing_ok=True)
            link.symlink_to(awk)
            said.append(command("scripts/check-modules", *options, path, project.release,
                                env={**os.environ, "PATH": f"{link.parent}:{os.environ['PATH']}"}))
        return max(said) if path == patched else min(said)

    status, out = check(patched)
    need(status == 0 and not out, out)
    # Debian's newer kernels have no CONFIG_MODVERSIONS.
    status, out = command("modprobe", "--dump-modversions", patched / "kvm.ko")
    crc = re.search(r"0x([0-9a-f]+)\t__srcu_read_lock$", out, re.MULTILINE)
    versions = "CONFIG_MODVERSIONS=y" in next((project.kernel / "image/boot").glob("config-*")).read_text()
    need(crc or not versions, f"no symbol versions: {out[-300:]}")
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
