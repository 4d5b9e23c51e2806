#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Checks in the disassembly of built modules (or of vmenter.o) that the entry
assembly writes the in-guest flag where it has to.  The product has to pass,
mutants of it must not; prints one line a violation.

exit status: 0 all in place, 1 violations, 2 usage or nothing to look at"""
import argparse
import re
import subprocess
import sys

INSN = re.compile(r"^\s*([0-9a-f]+):\t(\S+)\s*(.*)$")
SYMBOL = re.compile(r"^([0-9a-f]+) <([^>]+)>:$")

# Loads of guest registers, and what the base kernel's mitigations leave behind
# once the alternatives are patched: NOPs or a VERW.
RESTORE = re.compile(r"^mov\s+-?(0x)?[0-9a-f]*\(%r\w+\),%r\w+$")
# Whether to VMLAUNCH or VMRESUME: asked of @flags on the stack there, or in EFLAGS already.
LAUNCH = re.compile(r"^testl\s+\$0x1,\(%rsp\)$")
BARRIER = re.compile(r"^lock addl\s+\$0x0,-0x4\(%rsp\)$")
MITIGATION = re.compile(r"^(nop\w*|xchg\s+%ax,%ax|verw|data16|cs nop\w*)\b")


class Code:
    """The instructions of .noinstr.text, in order, with their symbols."""

    def __init__(self, path):
        out = subprocess.run(["objdump", "-d", "--no-show-raw-insn", "-w",
                              "-j", ".noinstr.text", path],
                             capture_output=True, text=True)
        if out.returncode:
            sys.exit(f"entry-asm: {path}: {out.stderr.strip()}")
        self.insns, self.symbols = [], {}
        for line in out.stdout.splitlines():
            if m := SYMBOL.match(line):
                self.symbols[m[2]] = int(m[1], 16)
            elif m := INSN.match(line):
                text = re.sub(r"\s*(#|<).*$", "", f"{m[2]} {m[3]}").strip()
                self.insns.append((int(m[1], 16), text))
        self.index = {addr: i for i, (addr, _) in enumerate(self.insns)}

    def function(self, name, inner=()):
        """Index range of a function; labels in @inner do not end it."""
        if name not in self.symbols:
            return None
        start = self.symbols[name]
        ends = [a for n, a in self.symbols.items() if a > start and n not in inner]
        stop = min(ends, default=self.insns[-1][0] + 1)
        return range(self.index[start],
                     len([1 for a, _ in self.insns if a < stop]))

    def text(self, i):
        return self.insns[i][1]

    def target(self, i):
        return self.index.get(int(self.text(i).split()[1], 16))


class Checker:
    """Collects what is wrong with one file."""

    def __init__(self, code, offsets, vendor):
        value = {n: int(v) for n, v in re.findall(r"#define (\w+) (\d+)", offsets)}
        at = value.get(f"{vendor}_vcpu_execution_mode")
        self.code, self.errors = code, []
        self.writes = {}
        if at is None:
            self.errors.append(f"{vendor}: kvm-asm-offsets.h does not know the flag")
            at = -1
        for name in ("IN_HOST_MODE", "IN_GUEST_MODE"):
            self.writes[name] = re.compile(
                rf"^movb\s+\$0x{value.get(name, -1):x},0x{at:x}\(%r\w+\)$")

    def fail(self, text):
        self.errors.append(text)

    def find(self, span, name):
        return [i for i in span if self.writes[name].match(self.code.text(i))]

    def entry(self, func, span, enter_insns, barrier=False):
        """IN_GUEST_MODE is the last thing before each VM-Enter instruction."""
        writes = self.find(span, "IN_GUEST_MODE")
        if len(writes) != 1:
            return self.fail(f"{func}: {len(writes)} writes of IN_GUEST_MODE, not 1")
        if barrier and not BARRIER.match(self.code.text(writes[0] + 1)):
            self.fail(f"{func}: no full barrier right behind IN_GUEST_MODE")
        entries = [i for i in span if self.code.text(i).split()[0] in enter_insns]
        if {self.code.text(i).split()[0] for i in entries} != set(enter_insns):
            return self.fail(f"{func}: VM-Enter instruction not found")
        for i in range(writes[0] + (2 if barrier else 1), max(entries)):
            text = self.code.text(i)
            after_entry = i > min(entries) and text.startswith("jmp")
            branch = re.match(r"^(jae|jnc|je|jz)\b", text) and self.code.target(i) in entries
            if not (RESTORE.match(text) or MITIGATION.match(text) or LAUNCH.match(text) or branch or
                    i in entries or after_entry):
                self.fail(f"{func}: '{text}' between IN_GUEST_MODE and VM-Enter")

    def exit_within(self, func, start, limit, what):
        """IN_HOST_MODE is written within @limit instructions from @start."""
        if start is None:
            return self.fail(f"{func}: {what} not found")
        if self.code.text(start).startswith("endbr"):
            start += 1
        for i in range(start, start + limit):
            if self.writes["IN_HOST_MODE"].match(self.code.text(i)):
                return
        self.fail(f"{func}: no IN_HOST_MODE within {limit} instructions {what}")


def check_vmx(checker):
    code = checker.code
    span = code.function("__vmx_vcpu_run", inner=("vmx_vmexit",))
    if span is None:
        return checker.fail("__vmx_vcpu_run not found")
    checker.entry("__vmx_vcpu_run", span, ("vmresume", "vmlaunch"))
    checker.exit_within("__vmx_vcpu_run", code.index.get(code.symbols.get("vmx_vmexit")),
                        3, "after VM-Exit")
    for i in span:
        if code.text(i) in ("vmresume", "vmlaunch"):
            where = code.target(i + 1) if code.text(i + 1).startswith("jmp") else i + 1
            checker.exit_within("__vmx_vcpu_run", where, 2,
                                f"after VM-Fail of {code.text(i)}")
    # The fixup ends in UD2 unless KVM is rebooting; then it joins VM-Fail.
    fixups = [i for i in span if code.text(i) == "ud2"]
    if len(fixups) != 1 or not code.text(fixups[0] - 1).startswith("jne"):
        return checker.fail("__vmx_vcpu_run: fixup of VM-Enter not found")
    checker.exit_within("__vmx_vcpu_run", code.target(fixups[0] - 1), 2,
                        "after a fault on VM-Enter")


def check_svm(checker):
    code = checker.code
    for func, limit in (("__svm_vcpu_run", 2), ("__svm_sev_es_vcpu_run", 1)):
        span = code.function(func)
        if span is None:
            checker.fail(f"{func} not found")
            continue
        checker.entry(func, span, ("vmrun",), barrier=True)
        after = [i + 1 for i in span if code.text(i).split()[0] == "vmrun"]
        checker.exit_within(func, after[0] if after else None, limit, "after #VMEXIT")
        # A fault on VMRUN resumes right behind it while KVM is rebooting.
        resumes = [code.target(i - 1) for i in span if code.text(i) == "ud2" and
                   code.text(i - 1).startswith("jne")]
        if after and after[0] not in resumes:
            checker.fail(f"{func}: the fixup of VMRUN does not resume behind it")


def main():
    args = argparse.ArgumentParser(description=__doc__,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--offsets", required=True, help="kvm-asm-offsets.h of that build")
    args.add_argument("--intel", help="kvm-intel.ko or vmx/vmenter.o")
    args.add_argument("--amd", help="kvm-amd.ko or svm/vmenter.o")
    args = args.parse_args()
    if not (args.intel or args.amd):
        sys.exit(2)
    with open(args.offsets) as header:
        offsets = header.read()
    errors = []
    for path, vendor, check in ((args.intel, "VMX", check_vmx), (args.amd, "SVM", check_svm)):
        if path:
            checker = Checker(Code(path), offsets, vendor)
            check(checker)
            errors += checker.errors
    print("\n".join(errors) or "the flag is written where it belongs")
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
