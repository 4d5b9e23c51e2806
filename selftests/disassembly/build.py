# SPDX-License-Identifier: GPL-2.0
"""Constants and offsets of a build: constants from the headers that it was built from, offsets
from its debug info (pahole), and what the entry assembly was given of both."""
import re
from pathlib import Path

from selftests.disassembly.graph import Layout, run

# A member of a structure, as pahole prints it: type, name, offset, size.
MEMBER = re.compile(r"^\t+([\w ]+?)[\s(*]+(\w+)(?:\)\(.*\))?(?:\[\d+\])*(?: __attribute__.*?)?;"
                    r"\s+/\*\s+(\d+)\s+(\d+) \*/$", re.M)


class Wrong(Exception):
    """A violation, or something that was not found; in words."""


class Build:
    """What the objects of one build have in common: constants and offsets."""

    def __init__(self, tree, objects):
        self.tree, self.objects, self.structs = Path(tree), objects, {}

    def header(self, path):
        try:
            return (self.tree / path).read_text()
        except OSError as error:
            raise Wrong(f"no {path} in the tree") from error

    def enumerator(self, path, name):
        """Value of an enumerator without initializers ahead of it."""
        for body in re.findall(r"\benum\b[^{;()]*\{([^}]*)\}", self.header(path)):
            names = re.sub(r"/\*.*?\*/", "", body, flags=re.S).replace("\n", " ").split(",")
            names = [n.strip() for n in names]
            if name in names:
                return names.index(name)
        raise Wrong(f"no {name} in {path}")

    def mode(self, name):
        return self.enumerator("include/linux/kvm_host.h", name)

    def flag(self, name):
        return self.enumerator("arch/x86/kvm/mode/mode.h", name)

    def bit(self, name):
        m = re.search(rf"#define\s+{name}\s+BIT\((\d+)\)", self.header("include/linux/kvm_host.h"))
        if not m:
            raise Wrong(f"no {name} in kvm_host.h")
        return 1 << int(m[1])

    def member(self, struct, *names):
        """(offset, size) of a member, names leading to it from structure to structure."""
        offset = 0
        for name in names:
            if struct not in self.structs:
                self.structs[struct] = self.members(struct)
            if name not in self.structs[struct]:
                raise Wrong(f"struct {struct} has no {name}")
            of, at, size = self.structs[struct][name]
            offset, struct = offset + at, of
        return offset, size

    def members(self, struct):
        out = ""
        for path in self.objects:
            try:
                out = out or run("pahole", "-C", struct, str(path))
            except FileNotFoundError:
                raise
            except OSError:
                continue        # no debug info, which the caller reports
        return {m[2]: (m[1].split()[-1], int(m[3]), int(m[4])) for m in MEMBER.finditer(out)}

    def layout(self, **extra):
        """The fields that every check looks at, and @extra: name=(kind, members...)."""
        layout, vcpu = Layout(), "kvm_vcpu"
        layout.field("mode", "vcpu", *self.member(vcpu, "mode"))
        layout.field("requests", "vcpu", *self.member(vcpu, "requests"))
        layout.field("cpu", "vcpu", *self.member(vcpu, "cpu"))
        layout.field("flag", "vcpu", *self.member(vcpu, "arch", "execution_mode"))
        self.cross_check(self.member(vcpu, "arch", "execution_mode")[0])
        for name, (struct, *members) in extra.items():
            layout.field(name, "vcpu", *self.member(struct, *members))
        return layout

    def with_pid(self):
        """The posted-interrupt descriptor; some bases share it with TDX, in vcpu_vt."""
        for way in (("pi_desc",), ("vt", "pi_desc")):
            try:
                return self.layout(control=("vcpu_vmx", *way, "control"),
                                   pir=("vcpu_vmx", *way, "pir"))
            except Wrong as error:
                missing = error
        raise missing

    def with_apic(self, layout):
        layout.pointer("vcpu", self.member("kvm_vcpu", "arch", "apic")[0], "apic")
        layout.pointer("apic", self.member("kvm_lapic", "vcpu")[0], "vcpu")
        layout.pointer("apic", self.member("kvm_lapic", "regs")[0], "registers")
        layout.field("apicv_active", "apic", *self.member("kvm_lapic", "apicv_active"))
        layout.field("virr", "registers", 0, 1 << 12)
        return layout

    def asm_offsets(self):
        """{name: value}: what the entry assembly knows, if it was built."""
        path = self.tree / "arch/x86/kvm/kvm-asm-offsets.h"
        text = path.read_text() if path.exists() else ""
        return {n: int(v) for n, v in re.findall(r"#define (\w+) (\d+)", text)}

    def cross_check(self, offset):
        """The entry assembly's idea of the flag's place, if it was built."""
        found = {v for n, v in self.asm_offsets().items() if n.endswith("_vcpu_execution_mode")}
        if found - {offset}:
            raise Wrong(f"kvm-asm-offsets.h has the flag at {found}, debug info at {offset}")
