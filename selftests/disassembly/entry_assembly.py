# SPDX-License-Identifier: GPL-2.0
"""Checks that the entry assembly writes the in-guest flag where it has to: IN_GUEST as the
last thing ahead of VM-Enter, IN_HOST as the first behind each way back."""
import re

from selftests.disassembly.build import Wrong

# Loads of guest registers, and what the base kernel's mitigations leave behind
# once the alternatives are patched: NOPs or a VERW.
RESTORE = re.compile(r"^mov -?(0x)?[0-9a-f]*\(%r\w+\),%r\w+$")
# Whether to VMLAUNCH or VMRESUME: asked of @flags on the stack there, or in EFLAGS already.
LAUNCH = re.compile(r"^testl \$0x1,\(%rsp\)$")
BARRIER = re.compile(r"^lock addl \$0x0,-0x4\(%rsp\)$")
MITIGATION = re.compile(r"^(nop\w*|xchg %ax,%ax|verw)\b")


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
        if at is None or not {"KVM_EXEC_HOST", "KVM_EXEC_GUEST"} <= set(value):
            raise Wrong("kvm-asm-offsets.h does not know the flag, so nothing writes KVM_EXEC_GUEST")
        self.code, self.func, self.errors = Code(program, func), func, []
        self.writes = {name: re.compile(rf"^movb \$0x{value[name]:x},0x{at:x}\(%r\w+\)$")
                       for name in ("KVM_EXEC_HOST", "KVM_EXEC_GUEST")}

    def fail(self, text):
        self.errors.append(text)

    def raise_errors(self):
        if self.errors:
            raise Wrong("; ".join(self.errors))

    def entry(self, enter_insns, barrier=False):
        """KVM_EXEC_GUEST is the last thing before each VM-Enter instruction."""
        code = self.code
        writes = [i for i in code if self.writes["KVM_EXEC_GUEST"].match(code.text(i))]
        if len(writes) != 1:
            return self.fail(f"{len(writes)} writes of KVM_EXEC_GUEST, not 1")
        if barrier and not BARRIER.match(code.text(writes[0] + 1)):
            self.fail("no full barrier right behind KVM_EXEC_GUEST")
        entries = [i for i in code if code.name(i) in enter_insns]
        if {code.name(i) for i in entries} != set(enter_insns):
            return self.fail("VM-Enter instruction not found")
        for i in range(writes[0] + (2 if barrier else 1), max(entries)):
            text, name = code.text(i), code.name(i)
            after_entry = i > min(entries) and name == "jmp"
            branch = name in ("jae", "je") and code.target(i) in entries
            if not (RESTORE.match(text) or MITIGATION.match(text) or LAUNCH.match(text) or branch or
                    i in entries or after_entry):
                self.fail(f"'{text}' between KVM_EXEC_GUEST and VM-Enter")

    def exit_within(self, start, limit, what):
        """KVM_EXEC_HOST is written within @limit instructions from @start."""
        if start is None:
            return self.fail(f"{what} not found")
        if self.code.name(start).startswith("endbr"):
            start += 1
        for i in range(start, min(start + limit, len(self.code.insns))):
            if self.writes["KVM_EXEC_HOST"].match(self.code.text(i)):
                return
        self.fail(f"no KVM_EXEC_HOST within {limit} instructions {what}")

    def fixups(self):
        """Where a fault on VM-Enter goes on while KVM is rebooting; else it ends in UD2."""
        code = self.code
        return [code.target(i - 1) for i in code
                if code.name(i) == "ud2" and code.name(i - 1) == "jne"]


def vmx_entry_assembly(build, program):
    """__vmx_vcpu_run(): IN_GUEST right ahead of VM-Enter, IN_HOST right behind each way back"""
    checker = Checker(build, program, "__vmx_vcpu_run", "VMX")
    code = checker.code
    checker.entry(("vmresume", "vmlaunch"))
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
    """__svm_vcpu_run(): IN_GUEST and a barrier right ahead of VMRUN, IN_HOST right behind it"""
    check_svm(build, program, "__svm_vcpu_run", 2)


def sev_es_entry_assembly(build, program):
    """__svm_sev_es_vcpu_run(): the same"""
    check_svm(build, program, "__svm_sev_es_vcpu_run", 1)


def check_svm(build, program, func, limit):
    checker = Checker(build, program, func, "SVM")
    checker.entry(("vmrun",), barrier=True)
    after = [i + 1 for i in checker.code if checker.code.name(i) == "vmrun"]
    checker.exit_within(after[0] if after else None, limit, "after #VMEXIT")
    if after and after[0] not in checker.fixups():
        checker.fail("the fixup of VMRUN does not resume behind it")
    checker.raise_errors()


CHECKS = {"vmx/vmenter.o": (vmx_entry_assembly,),
          "svm/vmenter.o": (svm_entry_assembly, sev_es_entry_assembly)}
