# SPDX-License-Identifier: GPL-2.0
"""Checks that the entry assembly clears the in-guest flag where it has to, as the first thing
behind each way back from VM-Enter, and that it costs nothing else: no locked instruction."""
import re

from selftests.disassembly.build import Wrong

# What a CPU has to wait for its stores with.
LOCKED = re.compile(r"^(lock\b|xchg .*\(|mfence)")


class Code:
    """The instructions of one function, by number."""

    def __init__(self, program, name):
        if name not in program.functions:
            raise Wrong(f"{name} not found")
        self.program, insns = program, program.body(name)
        self.insns = [(insn, str(insn)) for insn in insns]
        self.index = {insn.place: i for i, insn in enumerate(insns)}

    def __iter__(self):
        return iter(range(len(self.insns)))

    def text(self, i):
        return self.insns[i][1]

    def name(self, i):
        return self.insns[i][0].name

    def target(self, i):
        return self.index.get(self.insns[i][0].target)

    def label(self, name):
        return self.index.get(self.program.labels.get(name))


class Checker:
    """Collects what is wrong with one function."""

    def __init__(self, build, program, func, vendor):
        value = build.asm_offsets()
        at = value.get(f"{vendor}_vcpu_execution_mode")
        if at is None or "KVM_EXEC_HOST" not in value:
            raise Wrong("kvm-asm-offsets.h does not know the flag, so nothing writes KVM_EXEC_HOST")
        self.code, self.func, self.errors = Code(program, func), func, []
        self.host = re.compile(rf"^movb \$0x{value['KVM_EXEC_HOST']:x},0x{at:x}\(%r\w+\)$")
        self.flag = re.compile(rf"\b0x{at:x}\(%r")

    def fail(self, text):
        self.errors.append(text)

    def raise_errors(self):
        if self.errors:
            raise Wrong("; ".join(self.errors))

    def not_locked(self):
        """Nothing waits for the stores before it, neither ahead of VM-Enter nor behind."""
        for i in self.code:
            if LOCKED.match(self.code.text(i)):
                self.fail(f"'{self.code.text(i)}' in {self.func}")

    def not_before(self, enter_insns):
        """KVM_EXEC_HOST is not written on the way to VM-Enter."""
        entries = [i for i in self.code if self.code.name(i) in enter_insns]
        if {self.code.name(i) for i in entries} != set(enter_insns):
            return self.fail("VM-Enter instruction not found")
        if any(self.host.match(self.code.text(i)) for i in self.code if i < max(entries)):
            self.fail("KVM_EXEC_HOST ahead of VM-Enter")

    def nothing_else(self):
        """The flag is not accessed but to store KVM_EXEC_HOST."""
        for text in map(self.code.text, self.code):
            if self.flag.search(text) and not self.host.match(text):
                self.fail(f"'{text}' in {self.func}")

    def exit_within(self, start, limit, what):
        """KVM_EXEC_HOST is written within @limit instructions from @start."""
        if start is None:
            return self.fail(f"{what} not found")
        if self.code.name(start).startswith("endbr"):
            start += 1
        for i in range(start, min(start + limit, len(self.code.insns))):
            if self.host.match(self.code.text(i)):
                return
        self.fail(f"no KVM_EXEC_HOST within {limit} instructions {what}")

    def fixups(self):
        """Where a fault on VM-Enter goes on while KVM is rebooting; else it ends in UD2."""
        code = self.code
        return [code.target(i - 1) for i in code
                if code.name(i) == "ud2" and code.name(i - 1) == "jne"]


def vmx_entry_assembly(build, program):
    """__vmx_vcpu_run(): KVM_EXEC_HOST right behind each way back, nothing locked"""
    checker = Checker(build, program, "__vmx_vcpu_run", "VMX")
    code = checker.code
    checker.not_locked()
    checker.nothing_else()
    checker.not_before(("vmresume", "vmlaunch"))
    checker.exit_within(code.label("vmx_vmexit"), 3, "after VM-Exit")
    for i in code:
        if code.name(i) in ("vmresume", "vmlaunch"):
            where = code.target(i + 1) if code.name(i + 1) == "jmp" else i + 1
            checker.exit_within(where, 2, f"after VM-Fail of {code.name(i)}")
    # It joins VM-Fail.
    fixups = checker.fixups()
    checker.exit_within(fixups[0] if len(fixups) == 1 else None, 2, "after a fault on VM-Enter")
    checker.raise_errors()


def svm_entry_assembly(build, program):
    """__svm_vcpu_run(): KVM_EXEC_HOST right behind VMRUN, nothing locked"""
    check_svm(build, program, "__svm_vcpu_run", 2)


def sev_es_entry_assembly(build, program):
    """__svm_sev_es_vcpu_run(): the same"""
    check_svm(build, program, "__svm_sev_es_vcpu_run", 1)


def check_svm(build, program, func, limit):
    checker = Checker(build, program, func, "SVM")
    checker.not_locked()
    checker.nothing_else()
    checker.not_before(("vmrun",))
    after = [i + 1 for i in checker.code if checker.code.name(i) == "vmrun"]
    checker.exit_within(after[0] if after else None, limit, "after #VMEXIT")
    if after and after[0] not in checker.fixups():
        checker.fail("the fixup of VMRUN does not resume behind it")
    checker.raise_errors()


CHECKS = {"vmx/vmenter.o": (vmx_entry_assembly,),
          "svm/vmenter.o": (svm_entry_assembly, sev_es_entry_assembly)}
