# SPDX-License-Identifier: GPL-2.0
"""Machine code of a built module or object as a graph that can be walked path by
path, each path with what it knows of the registers.

A path is a chain of nodes; a node is an instruction, the values of the registers
in front of it and the outcome of the last comparison, as far as they are known.
Jump labels and exception fixups are edges, and so is what follows a WARN; a BUG is an end."""
import re
import subprocess
from collections import deque

SECTION = re.compile(r"^Disassembly of section (\S+):$")
INSN = re.compile(r"^\s*([0-9a-f]+):\t([^\t]+)(?:\t(.*))?$")
RELOC = re.compile(r"^\s*[0-9a-f]+: (R_\w+)\s+(\S+?)([+-]0x[0-9a-f]+)?$")
TABLE = re.compile(r"^([0-9a-f]+)\s+[0-9a-f]+\s+R_\S+\s+[0-9a-f]+\s+(\S+) \+ ([0-9a-f]+)$")
SYMBOL = re.compile(r"^\s*\d+:\s+([0-9a-f]+)\s+(\S+)\s+(FUNC|NOTYPE)\s+\w+\s+\w+\s+(\d+)\s+(\S+)$")
HEADER = re.compile(r"^\s*\[\s*(\d+)\]\s+(\S+)")
MEMORY = re.compile(r"^(?:%\ws:)?(-?0x[0-9a-f]+|-?\d+)?\((%\w+)?(?:,(%\w+)(?:,\d)?)?\)$")
PREFIXES = {"lock", "cs", "ds", "es", "data16", "rep", "repz", "repnz", "notrack", "bnd"}

BUG_TABLE, WARNING = "__bug_table", 1       # and the flag of a WARN, in the last two bytes of an entry

# (size of an entry) of the tables that add edges: {code, target, ...}, both PC32.
EDGE_TABLES = {"__jump_table": 16, "__ex_table": 12}
RETURN_THUNK, DEAD_ENDS = "__x86_return_thunk", {"__stack_chk_fail", "panic"}
CALL_THUNK = "__x86_indirect_thunk_"    # and the register that holds the address

LOW = {"rax": "eax ax al ah", "rbx": "ebx bx bl bh", "rcx": "ecx cx cl ch",
       "rdx": "edx dx dl dh", "rsi": "esi si sil", "rdi": "edi di dil",
       "rbp": "ebp bp bpl", "rsp": "esp sp spl"}
LOW |= {f"r{n}": f"r{n}d r{n}w r{n}b" for n in range(8, 16)}
FULL = {f"%{part}": full for full, parts in LOW.items() for part in [full, *parts.split()]}
HIGH_BYTES = {"%ah", "%bh", "%ch", "%dh"}
CLOBBERED = ("rax", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11")
IMPLICIT = {"rdtsc": "rax rdx", "rdtscp": "rax rdx rcx", "rdmsr": "rax rdx", "mul": "rax rdx",
            "div": "rax rdx", "idiv": "rax rdx", "cltq": "rax", "cqto": "rdx", "cltd": "rdx",
            "cpuid": "rax rbx rcx rdx", "cmpxchg": "rax", "rdpkru": "rax rdx",
            "stos": "rdi rcx", "xgetbv": "rax rdx"}
COMPARE_ONLY = ("cmp", "test", "bt", "push", "nop")
KEEPS_FLAGS = ("mov", "lea", "push", "pop", "nop", "set", "cmov", "endbr", "ud2", "xchg", "not",
               "clt", "cqt", "rdtsc")
CONSTANTS = range(0, 4)


def run(*argv):
    done = subprocess.run(argv, capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"{argv[0]}: {done.stderr.strip()}")
    return done.stdout


def split_operands(text):
    return [part.strip() for part in re.split(r",(?![^()]*\))", text) if part.strip()]


class Insn:
    """One instruction: where, what, and the code or symbol it branches to."""

    def __init__(self, place, text):
        self.place = place
        words = text.split("#")[0].split()
        self.locked = "lock" in words[:2]
        while len(words) > 1 and words[0] in PREFIXES:
            words.pop(0)
        self.name = words[0].split(",")[0]
        raw = re.sub(r"<[^>]*>", "", " ".join(words[1:]))
        self.operands = split_operands(raw)
        self.target = self.symbol = self.variable = None

    def is_any(self, *names):
        return self.name.startswith(names)

    @property
    def jumps(self):
        return self.name.startswith("j")

    @property
    def branches(self):
        return self.jumps or self.name == "call"

    def compares(self):
        """Is there nothing that it writes, but flags or the stack?"""
        return self.is_any(*COMPARE_ONLY) and not self.is_any("bts", "btr", "btc", "cmpxchg")

    def clobbers(self):
        """Registers that it changes without naming them."""
        if sum("(" in o for o in self.operands) == 2:
            return ["rdi", "rsi", "rcx"]
        return IMPLICIT.get(self.name, IMPLICIT.get(self.name.rstrip("bwlq"), "")).split()

    def memory(self):
        """(displacement, base, index, position) of the operand in memory."""
        for position, operand in enumerate(self.operands):
            if m := MEMORY.match(operand):
                return (int(m[1] or "0", 0), FULL.get(m[2]), FULL.get(m[3]),
                        position)
        return None

    def access(self):
        """What is done to the operand in memory: read, write, rmw or nothing."""
        memory = self.memory()
        if memory is None or self.is_any("lea", "nop") or self.branches:
            return None
        if self.compares() or memory[3] < len(self.operands) - 1 and not self.is_any("xchg"):
            return "read"
        return "write" if self.is_any("mov", "set") else "rmw"

    def is_barrier(self):
        """Is it a full memory barrier?"""
        return (self.locked or self.name == "mfence" or
                self.is_any("xchg") and self.memory() is not None)

    def __str__(self):
        prefix = "lock " if self.locked else ""
        return f"{prefix}{self.name} {self.symbol or ','.join(self.operands)}"


class Program:
    """The instructions of some objects, with their edges.  A place is
    (object, section, address)."""

    def __init__(self, paths):
        self.insns, self.following, self.functions, self.more = {}, {}, {}, {}
        self.starts, self.labels, self.bugs = {}, {}, set()
        for path in paths:
            self.read_symbols(str(path))
            self.read_code(str(path))
            self.read_tables(str(path))

    def read_symbols(self, path):
        out = run("readelf", "-SsW", path)
        sections = {m[1]: m[2] for m in map(HEADER.match, out.splitlines()) if m}
        for line in out.splitlines():
            m = SYMBOL.match(line)
            if not m or m[5].startswith("__pfx_"):
                continue
            place = (path, sections.get(m[4]), int(m[1], 16))
            if m[3] == "NOTYPE":
                self.labels.setdefault(m[5], place)
                continue
            self.functions.setdefault(m[5], (place, int(m[2], 0)))
            self.starts[place] = m[5]

    def read_code(self, path):
        section = last = None
        for line in run("objdump", "-dr", "--no-show-raw-insn", "-w", path).splitlines():
            if m := SECTION.match(line):
                section, last = m[1], None
            elif (m := INSN.match(line)) and section:
                insn = Insn((path, section, int(m[1], 16)), m[2])
                self.insns[insn.place] = insn
                if last:
                    self.following[last] = insn.place
                last = insn.place
                if insn.branches:
                    self.aim(insn, m[3])
                elif found := RELOC.match((m[3] or "").replace("\t", " ")):
                    self.refer(insn, found)

    def aim(self, insn, reloc):
        """Sets where a branch goes: into this object, to a symbol, or nowhere known."""
        path, section, _ = insn.place
        if m := RELOC.match((reloc or "").replace("\t", " ")):
            if insn.operands and insn.operands[0].startswith("*"):
                return
            offset = int(m[3] or "0", 16) + 4
            if m[2].startswith("."):
                insn.target = (path, m[2], offset)
            else:
                insn.symbol = m[2]
                known = self.functions.get(m[2])
                if known and offset == 0:
                    insn.target = known[0]
        elif insn.operands and re.fullmatch(r"[0-9a-f]+", insn.operands[0]):
            insn.target = (path, section, int(insn.operands[0], 16))
        if insn.target in self.starts:
            insn.symbol = self.starts[insn.target]

    def refer(self, insn, reloc):
        """Sets the variable, of another object, whose beginning an instruction reads."""
        if insn.access() == "read" and int(reloc[3] or "0", 16) == -4:
            insn.variable = reloc[2]

    def read_tables(self, path):
        table, entries, traps = None, {}, []
        for line in run("readelf", "-rW", path).splitlines():
            if line.startswith("Relocation section"):
                table = line.split("'")[1].removeprefix(".rela")
            elif table in EDGE_TABLES and (m := TABLE.match(line.strip())):
                entry, field = divmod(int(m[1], 16), EDGE_TABLES[table])
                entries.setdefault((table, entry), {})[field] = (path, m[2], int(m[3], 16))
            elif table == BUG_TABLE and (m := TABLE.match(line.strip())):
                traps.append((int(m[1], 16), (path, m[2], int(m[3], 16))))
        for fields in entries.values():
            if {0, 4} <= fields.keys():
                self.more.setdefault(fields[0], []).append(fields[4])

        self.read_bugs(path, [(at, place) for at, place in traps if place in self.insns])

    def read_bugs(self, path, traps):
        """@traps: (offset in the table, place) of each, in order. How long an entry is the kernel decides."""
        if not traps:
            return
        data = subprocess.run(["objcopy", "-O", "binary", "-j", BUG_TABLE, path, "/dev/stdout"],
                              capture_output=True, check=True).stdout
        ends = [at for at, _ in traps[1:]] + [len(data)]
        self.bugs |= {place for (_, place), end in zip(traps, ends)
                      if not int.from_bytes(data[end - 2:end], "little") & WARNING}

    def function(self, name):
        """Place of a function, also if the compiler made a variant of it."""
        for candidate in sorted(self.functions, key=len):
            if candidate == name or re.fullmatch(re.escape(name) + r"\.(isra|constprop|part)\.\d+",
                                                 candidate):
                return self.functions[candidate][0]
        return None

    def body(self, name):
        """The instructions of a function that is of one piece, in order of their addresses."""
        start, size = self.functions[name]
        return [self.insns[place] for place in sorted(self.insns)
                if place[:2] == start[:2] and start[2] <= place[2] < start[2] + size]

    def holder(self, symbol):
        """Name of the one function that calls @symbol, or None."""
        found = {self.owner(i.place) for i in self.calls(symbol)}
        return found.pop() if len(found) == 1 else None

    def calls(self, symbol):
        return [i for i in self.insns.values() if i.branches and i.symbol == symbol]

    def owner(self, place):
        for name, (start, size) in self.functions.items():
            if start[:2] == place[:2] and start[2] <= place[2] < start[2] + size:
                return name.split(".cold")[0]
        return None

    def describe(self, place):
        insn, owner = self.insns[place], self.owner(place)
        start = self.functions[owner][0] if owner else None
        if start and start[:2] == place[:2]:
            return f"{owner}+{place[2] - start[2]:#x} '{insn}'"
        return f"{place[1]}+{place[2]:#x} '{insn}'"


class Layout:
    """Which fields of which structures matter: offsets, and pointers to follow."""

    def __init__(self):
        self.fields, self.pointers, self.variables = [], {}, {}

    def field(self, name, kind, offset, size):
        self.fields.append((kind, offset, offset + size, name))

    def pointer(self, kind, offset, to):
        self.pointers[kind, offset] = to

    def variable(self, name, to):
        """A global pointer."""
        self.variables[name] = to

    def find(self, kind, offset):
        for of, start, end, name in self.fields:
            if of == kind and (offset is None or start <= offset < end):
                return name
        return None


def settle(condition, outcome):
    """Is a conditional jump taken?  None if the comparison does not tell."""
    kind, *values = outcome or (None,)
    if kind == "zero":
        return {"je": values[0], "jne": not values[0]}.get(condition)
    if kind == "carry":
        return {"jb": values[0], "jae": not values[0]}.get(condition)
    if kind == "compare":
        left, right = values
        return {"je": left == right, "jne": left != right, "ja": left > right,
                "jae": left >= right, "jb": left < right, "jbe": left <= right,
                "jg": left > right, "jge": left >= right, "jl": left < right,
                "jle": left <= right}.get(condition)
    return None


class Walker:
    """Walks the paths of one function.  @arguments: values of registers at its
    entry, (kind, offset) for pointers.  @through: calls that are followed."""

    def __init__(self, program, layout, name, arguments, through=()):
        self.program, self.layout = program, layout
        self.entry = program.function(name)
        self.through = {program.function(n) for n in through} - {None}
        self.start = (self.entry, frozenset(arguments.items()), None, ())
        self.edges = {}
        self.all = self.explore([self.start])

    # --- values -------------------------------------------------------------

    def points_to(self, insn, regs):
        """(kind, offset) of the operand in memory, or None."""
        displacement, base, index, _ = insn.memory()
        for register in (base, index):
            value = regs.get(register)
            if value and value[0] not in ("load", "const"):
                kind, offset = value
                unknown = offset is None or (register == base and index is not None)
                return kind, None if unknown else offset + displacement
        return None

    def field(self, insn, regs):
        where = insn.memory() and self.points_to(insn, regs)
        return where and self.layout.find(*where)

    def slot(self, insn):
        """A place on the stack, by name, if that is where the operand is."""
        memory = insn.memory()
        return f"stack{memory[0]}" if memory and memory[1] == "rsp" and not memory[2] else None

    def loaded(self, insn, regs):
        """The value that the operand in memory has."""
        if self.slot(insn):
            return regs.get(self.slot(insn))
        if insn.variable in self.layout.variables:
            return self.layout.variables[insn.variable], 0
        where = self.points_to(insn, regs)
        if where in self.layout.pointers:
            return self.layout.pointers[where], 0
        name = where and self.layout.find(*where)
        return ("load", name) if name else None

    def source(self, insn, regs):
        operand = insn.operands[0]
        if operand.startswith("$"):
            number = int(operand[1:], 0)
            return ("const", number) if number in CONSTANTS else None
        if operand in FULL:
            # The low byte of something known is something else, unless it is a constant.
            value = regs.get(FULL[operand])
            narrowed = insn.is_any("movz", "movs") and value and value[0] != "const"
            return None if narrowed or operand in HIGH_BYTES else value
        return self.loaded(insn, regs) if insn.memory() else None

    def step(self, insn, regs):
        """The registers behind @insn."""
        regs = dict(regs)
        last = insn.operands[-1] if insn.operands else ""
        if insn.name == "call":
            for register in CLOBBERED if insn.symbol != "__fentry__" else ():
                regs.pop(register, None)
            return regs
        if insn.is_any("push", "pop") or FULL.get(last) == "rsp":
            regs = {r: v for r, v in regs.items() if not r.startswith("stack")}
        for register in insn.clobbers():
            regs.pop(register, None)
        if insn.jumps or insn.compares():
            return regs
        value = self.result(insn, regs)
        if insn.is_any("xchg", "xadd", "cmpxchg"):
            for operand in insn.operands:
                regs.pop(FULL.get(operand), None)
        target = FULL.get(last) or (insn.access() in ("write", "rmw") and self.slot(insn))
        if target:
            regs.pop(target, None)
            # Numbers on the stack would only multiply the nodes.
            if value and target != "rsp" and not (target not in LOW and value[0] == "const"):
                regs[target] = value
        return regs

    def result(self, insn, regs):
        if insn.is_any("mov") and len(insn.operands) == 2:
            return self.source(insn, regs)
        if insn.is_any("lea"):
            where = self.points_to(insn, regs)
            return where if where and (where[1] is None or where[1] < 1 << 16) else None
        if insn.is_any("xor") and len(set(insn.operands)) == 1:
            return "const", 0
        if insn.is_any("add") and len(insn.operands) == 2:
            # A pointer plus something unknown points somewhere into the same.
            for value in (self.source(insn, regs), regs.get(FULL.get(insn.operands[1]))):
                if value and value[0] in self.layout.pointers.values():
                    return value[0], None
        return None

    # --- comparisons --------------------------------------------------------

    def known(self, insn, operand, regs, assume):
        """(mask, value): the bits of an operand that are known; "nonzero"; None."""
        if operand in FULL:
            value = regs.get(FULL[operand])
        else:
            value = self.loaded(insn, regs) if MEMORY.match(operand) else None
        if not value:
            return None
        if value[0] == "const":
            return ~0, value[1]
        bits = assume.get(value[1]) if value[0] == "load" else None
        if bits == "nonzero" and operand in FULL and operand[1:] not in LOW:
            return None         # a part of it may be zero
        return bits

    def compare(self, insn, regs, outcome, assume):
        """What is known of the flags behind @insn."""
        if insn.jumps or insn.is_any(*KEEPS_FLAGS):
            written = {FULL.get(operand) for operand in insn.operands} if not insn.jumps else ()
            return None if outcome and outcome[0] == "unknown" and outcome[1] in written else outcome
        if not (insn.compares() or insn.is_any("and")) or len(insn.operands) != 2:
            return None
        first, second = insn.operands
        known = self.known(insn, second, regs, assume)
        if known is None:
            return self.compared(insn, regs)
        if first == second:
            return ("zero", False) if known == "nonzero" or known[1] else (
                ("zero", True) if known[0] == ~0 else None)
        if not first.startswith("$"):
            return None
        number = int(first[1:], 0) << (8 if second in HIGH_BYTES else 0)
        if known == "nonzero":
            return ("zero", False) if insn.is_any("cmp") and number == 0 else None
        mask, value = known
        if insn.is_any("cmp"):
            return ("compare", value, number) if mask == ~0 else None
        if insn.is_any("bt"):
            return ("carry", bool(value >> number & 1)) if mask >> number & 1 else None
        if value & mask & number:
            return "zero", False
        return ("zero", True) if number & ~mask == 0 else None

    def compared(self, insn, regs):
        """An unknown register against a constant: if they are equal, it is known then."""
        first, second = insn.operands
        register = FULL.get(second)
        if (insn.name.startswith("cmp") and not insn.access() and first.startswith("$") and
                register and not regs.get(register) and int(first[1:], 0) in CONSTANTS and
                second[1:] in (register, LOW[register].split()[0])):
            return "unknown", register, int(first[1:], 0)
        return None

    @staticmethod
    def learn(after, condition, outcome, taken):
        """The registers behind a jump on equality with a constant."""
        if outcome and outcome[0] == "unknown" and condition == ("je" if taken else "jne"):
            return after | {(outcome[1], ("const", outcome[2]))}
        return after

    # --- paths --------------------------------------------------------------

    def next(self, node, assume):
        """The nodes that may follow, remembered where nothing is assumed."""
        if assume:
            return self.successors(node, assume)
        if node not in self.edges:
            self.edges[node] = self.successors(node, assume)
        return self.edges[node]

    def successors(self, node, assume):
        place, regs, outcome, stack = node
        if place in self.program.bugs:
            return []
        insn, registers = self.program.insns[place], dict(regs)
        after = frozenset(self.step(insn, registers).items()) | self.set_by(insn, outcome)
        flags = self.compare(insn, registers, outcome, assume)
        fall = self.program.following.get(place)
        targets = [(t, stack) for t in self.program.more.get(place, ())]
        if insn.name == "call":
            flags = None
            if insn.target in self.through and len(stack) < 4:
                return [(insn.target, regs, None, (*stack, (fall, after)))]
            if insn.symbol not in DEAD_ENDS:
                targets.append((fall, stack))
        elif self.returns(insn):
            if not stack:
                return []
            (fall, after), stack = stack[-1], stack[:-1]
            targets.append((fall, stack))
        elif insn.jumps:
            # A jump label may be a jump now and a NOP later, or the reverse.
            always = insn.name == "jmp" and place not in self.program.more
            taken = always or settle(insn.name, flags)
            ways = [(insn.target, True)] if taken is not False else []
            ways += [(fall, False)] if taken is not True else []
            return [(t, after, flags, s) for t, s in targets if t in self.program.insns] + [
                (t, self.learn(after, insn.name, flags, to), flags, stack)
                for t, to in ways if t in self.program.insns]
        else:
            targets.append((fall, stack))
        return [(t, after, flags, s) for t, s in targets if t in self.program.insns]

    @staticmethod
    def set_by(insn, outcome):
        """The byte that SETcc writes, where the comparison tells; callers of a bool look at no more."""
        register = FULL.get(insn.operands[0]) if insn.name.startswith("set") and insn.operands else None
        value = settle(f"j{insn.name[3:]}", outcome) if register else None
        return frozenset() if value is None else frozenset({(register, ("const", int(value)))})

    def returns(self, insn):
        """Does the function end here?  Jumps to functions elsewhere end it too."""
        if insn.name == "ret" or insn.symbol == RETURN_THUNK and insn.jumps:
            return True
        return insn.name == "jmp" and insn.target not in self.program.insns

    def explore(self, nodes, assume=None, stop=None):
        """All nodes on the paths from @nodes, up to those that @stop accepts."""
        found, queue = dict.fromkeys(nodes), deque(nodes)
        while queue:
            node = queue.popleft()
            if stop and stop(node):
                continue
            for other in self.next(node, assume or {}):
                if other not in found:
                    found[other] = node
                    queue.append(other)
                    if len(found) > 500000:
                        raise OSError("too many paths")
        return found

    def events(self, node):
        """What happens at a node, as words: see entry_order.py."""
        place, regs, _, stack = node
        insn, registers = self.program.insns[place], dict(regs)
        words = set()
        if node == self.start:
            words.add("entry")
        if insn.is_barrier():
            words.add("barrier")
        if insn.branches and insn.symbol:
            words.add(f"call {insn.symbol}")
            if insn.symbol.startswith(CALL_THUNK):
                kind, name = registers.get(insn.symbol.removeprefix(CALL_THUNK), (None, None))
                words.add(f"call *{name if kind == 'load' else '?'}")
        if self.returns(insn) and not stack:
            words.add("return")
        access, field = insn.access(), self.field(insn, registers)
        if access and field:
            words |= self.accesses(insn, registers, access, field)
        return words

    def accesses(self, insn, regs, access, field):
        words = set()
        if access in ("read", "rmw") and not insn.is_any("xchg"):
            words.add(f"read {field}")
        if access == "rmw" and insn.is_barrier():
            words.add(f"locked {field}")
        if access == "write" or insn.is_any("xchg"):
            registers = [o for o in insn.operands if not MEMORY.match(o)]
            value = self.source(insn, regs) if insn.operands[0] in registers else (
                regs.get(FULL.get(registers[0])) if registers else None)
            words.add(f"{field}={value[1] if value and value[0] == 'const' else '?'}")
        return words
