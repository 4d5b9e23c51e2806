# SPDX-License-Identifier: GPL-2.0
"""Checks that the machine code keeps the order of accesses that models/litmus proves, on
every path.  A lab cannot see a missing barrier: one emulator runs one instruction at a
time, TSO hides most of the rest on the other."""
import functools
import re

from selftests.disassembly.build import Wrong
from selftests.disassembly.graph import Walker

RUN, SYNC = "call __SCT__kvm_x86_vcpu_run", "call __SCT__kvm_x86_sync_pir_to_irr"
ELIDE, SHOULD_KICK = "call kvm_arch_elide_kick", "call kvm_arch_vcpu_should_kick"
WAKE = "call kvm_vcpu_wake_up"
# Some bases have both, the first one inline.
KICKS = ("kvm_vcpu_kick", "__kvm_vcpu_kick")
KICK = {f"call {name}" for name in KICKS}
SEND_IPI, DOORBELL = "call *send_IPI", "call avic_ring_doorbell"
# A sender's look, by the flag or, where there is precise_notify and it is off, by the run-loop mode.
LOOK, LOOK_BY_MODE = "read flag", "call kvm_mode_in_run_loop"

# In the kernel, not in the modules.  Its full barrier is part of its contract: it is
# why smp_mb__after_srcu_read_unlock() is empty on every architecture.
BARRIERS = {"barrier", "call __srcu_read_unlock"}

INLINES = ("vcpu_enter_guest", "kvm_vcpu_exit_request", "kvm_mode_enter", "kvm_mode_reenter",
           "kvm_mode_exit", "kvm_mode_read", "kvm_mode_wake", "kvm_vcpu_exiting_run_loop",
           "kvm_request_needs_ipi", "kvm_make_request")


class Paths:
    """Questions about the paths of one function."""

    def __init__(self, program, layout, name, arguments, through=()):
        if not name or not program.function(name):
            raise Wrong(f"function {name or ''} not found")
        self.program = program
        self.walker = Walker(program, layout, name, arguments, (*INLINES, *through))
        self.words = {node: self.walker.events(node) for node in self.walker.all}
        for node in self.nodes({"flag=?"}):
            raise Wrong(f"unknown value of the flag, at {program.describe(node[0])}")

    def happens(self, node, wanted):
        if node not in self.words:
            self.words[node] = self.walker.events(node)
        return bool(self.words[node] & wanted)

    def nodes(self, wanted, among=None):
        return [n for n in (self.walker.all if among is None else among)
                if self.happens(n, wanted)]

    def need(self, wanted, among=None, what=""):
        found = self.nodes(wanted, among)
        if not found:
            raise Wrong(f"no {' or '.join(sorted(wanted))} found{what}")
        return found

    def behind(self, starts, stop, assume=None):
        """Nodes on the paths from @starts; @stop ends a path."""
        begin = dict.fromkeys(other for start in starts
                              for other in self.walker.next(start, assume or {}))
        return self.walker.explore(list(begin), assume, lambda n: self.happens(n, stop))

    def between(self, starts, stop, bad, assume=None):
        """On each path from @starts, nothing in @bad may come ahead of @stop."""
        for node in self.behind(starts, stop, assume):
            if self.happens(node, bad) and not self.happens(node, stop):
                event = " and ".join(sorted(self.words[node] & bad))
                expected = f"not behind '{' or '.join(sorted(stop))}'" if stop else "is reached"
                raise Wrong(f"'{event}' {expected}, at "
                            f"{self.program.describe(node[0])}")

    def order(self, first, *then):
        """From entry, on each path, @first comes ahead of all of @then."""
        for wanted in then:
            self.need({wanted})
        self.between([self.walker.start], self.have(first), set(then))

    def have(self, wanted):
        self.need(wanted)
        return wanted


# --- vcpu_enter_guest(), wherever the compiler put it ------------------------

class Entry:
    """The run loop: where the flag announces the entry, and what follows."""

    def __init__(self, build, program):
        self.host, guest = (build.flag(n) for n in ("KVM_EXEC_HOST", "KVM_EXEC_GUEST"))
        self.outside, self.inside, self.exiting = (
            build.mode(n) for n in ("OUTSIDE_RUN_LOOP", "IN_RUN_LOOP", "EXITING_RUN_LOOP"))
        self.announce, self.cancel = {f"flag={guest}"}, {f"flag={self.host}"}
        self.leave, self.enter = {f"mode={self.outside}"}, {f"mode={self.inside}"}
        self.paths = Paths(program, build.layout(), program.holder(RUN.split()[1]),
                           {"rdi": ("vcpu", 0)})
        self.looks = {SYNC, "read mode", "read requests", RUN}

    def begins(self):
        return [self.paths.walker.start, *self.paths.need(self.leave)]

    def fastpath(self):
        """The announcements that follow an exit within the run loop."""
        loop = self.paths.behind(self.paths.need({RUN}), self.leave)
        return self.paths.need(self.announce, loop, " on the fastpath")

    def main(self):
        own = {n[0] for n in self.fastpath()}
        rest = [n for n in self.paths.need(self.announce) if n[0] not in own]
        return self.paths.need(self.announce, rest, " on the main path")


entry_of = functools.lru_cache(maxsize=1)(Entry)


def entry_mode_first(build, program):
    """IN_RUN_LOOP is stored ahead of the flag"""
    entry = entry_of(build, program)
    entry.main()
    entry.paths.between(entry.begins(), entry.paths.have(entry.enter), entry.announce | {RUN})


def entry_announced(build, program):
    """no way to VM-Enter but past KVM_EXEC_GUEST"""
    entry = entry_of(build, program)
    entry.paths.between([*entry.begins(), *entry.paths.need({RUN})],
                        entry.paths.have(entry.announce), entry.paths.have({RUN}))


def look_behind_barrier(entry, starts):
    """The first look at PIR, mode and requests has a barrier between it and the flag."""
    plain = [n for n in starts if not entry.paths.happens(n, BARRIERS)]
    entry.paths.between(plain, BARRIERS, entry.looks)
    after = entry.paths.behind(starts, {RUN} | entry.leave)
    for look in sorted(entry.looks):
        entry.paths.need({look}, after, " behind KVM_EXEC_GUEST")


def entry_barrier(build, program):
    """KVM_EXEC_GUEST, a barrier, then PIR, mode and requests: the main path"""
    entry = entry_of(build, program)
    look_behind_barrier(entry, entry.main())


def fastpath_announced(build, program):
    """after an exit, KVM_EXEC_GUEST comes ahead of PIR, mode and requests"""
    entry = entry_of(build, program)
    entry.fastpath()
    entry.paths.between(entry.paths.need({RUN}), entry.announce | entry.leave, entry.looks)


def fastpath_barrier(build, program):
    """KVM_EXEC_GUEST, a barrier, then PIR, mode and requests: the fastpath"""
    entry = entry_of(build, program)
    look_behind_barrier(entry, entry.fastpath())


def never_enters(build, program, **assume):
    """Under an assumption no path leads from an announcement to VM-Enter."""
    entry = entry_of(build, program)
    assume = {name: entry.exiting if value == "exiting" else value
              for name, value in assume.items()}
    assume = {n: v if v == "nonzero" else (~0, v) for n, v in assume.items()}
    for starts in (entry.main(), entry.fastpath()):
        entry.paths.between(starts, entry.cancel | entry.leave, {RUN}, assume)
        after = entry.paths.behind(starts, entry.cancel | entry.leave)
        entry.paths.need({RUN}, after, " behind KVM_EXEC_GUEST")


def exit_request_mode(build, program):
    """a vCPU that finds EXITING_RUN_LOOP does not enter"""
    never_enters(build, program, mode="exiting")


def exit_request_requests(build, program):
    """a vCPU that finds a request does not enter"""
    never_enters(build, program, requests="nonzero")


def bail_out(build, program):
    """no way out without an entry but past KVM_EXEC_HOST"""
    entry = entry_of(build, program)
    for starts in (entry.main(), entry.fastpath()):
        entry.paths.between(starts, entry.cancel | {RUN}, entry.leave | {"return"})
        after = entry.paths.behind(starts, {RUN} | entry.leave)
        entry.paths.need(entry.cancel, after, " behind KVM_EXEC_GUEST")


# --- kicks ---------------------------------------------------------------------

VCPU = {"rdi": ("vcpu", 0)}


def should_kick(build, program):
    """kvm_arch_vcpu_should_kick() moves the mode by a locked RMW"""
    paths = Paths(program, build.layout(), SHOULD_KICK.split()[1], VCPU)
    paths.order({"locked mode"}, "return")


def kick_order(build, program):
    """kvm_vcpu_kick(): the mode is moved ahead of the look at the flag"""
    paths = kick_paths(build, program)
    paths.between([paths.walker.start], {SHOULD_KICK, "locked mode"},
                  paths.have({ELIDE}) | {"read flag"})


def kick_wait(build, program):
    """kvm_vcpu_kick(): no elision for a kicker that waits, where there are such"""
    paths = kick_paths(build, program)
    paths.need({ELIDE})
    if re.search(r"__kvm_vcpu_kick\([^)]*\bwait\)", build.header("include/linux/kvm_host.h")):
        paths.between([paths.walker.start], set(), {ELIDE}, {"wait": (0xff, 1)})


def kick_paths(build, program):
    layout = build.layout()
    layout.field("wait", "arguments", 0, 1)
    name = next(filter(program.function, KICKS), None)
    return Paths(program, layout, name, VCPU | {"rsi": ("load", "wait")})


def request_paths(build, program):
    layout = build.layout()
    layout.field("req", "arguments", 0, 4)
    return Paths(program, layout, "kvm_make_vcpu_request", VCPU | {"rsi": ("load", "req")})


def request_order(build, program):
    """kvm_make_vcpu_request(): the mode is moved ahead of the look at the flag"""
    paths = request_paths(build, program)
    paths.between([paths.walker.start], paths.have({"locked mode"}),
                  paths.have({ELIDE}) | {"read flag"})


def request_published(build, program):
    """kvm_make_vcpu_request(): the request is set ahead of moving the mode"""
    paths = request_paths(build, program)
    acts = (build.bit("KVM_REQUEST_NO_ACTION"), 0)
    paths.between([paths.walker.start], paths.have({"locked requests"}),
                  paths.have({"locked mode"}), {"req": acts})


def request_wait(build, program):
    """kvm_make_vcpu_request(): no elision for KVM_REQUEST_WAIT"""
    paths = request_paths(build, program)
    paths.need({ELIDE})
    wait = build.bit("KVM_REQUEST_WAIT")
    paths.between([paths.walker.start], set(), {ELIDE}, {"req": (wait, wait)})


def elide_callers(build, program):
    """nobody but these two functions elides kicks"""
    owners = {program.owner(i.place) for i in program.calls(ELIDE.split()[1])}
    if not owners:
        raise Wrong("nobody elides kicks")
    if owners - {*KICKS, "kvm_make_vcpu_request"}:
        raise Wrong(f"kicks are elided in {owners}, which no check knows")


def elide_reads_flag(build, program):
    """kvm_arch_elide_kick() says yes only after reading KVM_EXEC_HOST"""
    paths = Paths(program, build.layout(), ELIDE.split()[1], VCPU)
    paths.order({"read flag"}, "return")

    def may_say_yes(flag):
        nodes = paths.behind([paths.walker.start], set(), {"flag": (~0, build.flag(flag))})
        return any(dict(node[1]).get("rax") != ("const", 0) for node in paths.nodes({"return"}, nodes))
    if may_say_yes("KVM_EXEC_GUEST"):
        raise Wrong("it may say yes for KVM_EXEC_GUEST")
    if not may_say_yes("KVM_EXEC_HOST"):
        raise Wrong("it never says yes")


def block_barrier(build, program):
    """kvm_vcpu_block() has a barrier ahead of each look for a reason to go on"""
    paths = Paths(program, build.layout(), "kvm_vcpu_block", VCPU, ("kvm_vcpu_check_block",))
    paths.between([paths.walker.start, *paths.need({"call schedule"})],
                  paths.have({"barrier"}), paths.have({"call kvm_arch_vcpu_runnable"}))


# --- senders ---------------------------------------------------------------------

def looks(paths):
    """LOOK, and LOOK_BY_MODE in a series with what it is measured by"""
    return {LOOK} | ({LOOK_BY_MODE} if paths.nodes({LOOK_BY_MODE}) else set())


def vmx_paths(build, program):
    if build.member("vcpu_vmx", "vcpu")[0]:
        raise Wrong("struct vcpu_vmx does not begin with the vCPU")
    layout = build.with_apic(build.with_pid())
    layout.variable("apic", "driver")
    layout.field("send_IPI", "driver", *build.member("apic", "send_IPI"))
    return Paths(program, layout, "vmx_deliver_interrupt", {"rdi": ("apic", 0)},
                 ("vmx_deliver_posted_interrupt", "vmx_deliver_nested_posted_interrupt",
                  "__vmx_deliver_posted_interrupt", "kvm_vcpu_trigger_posted_interrupt"))


def vmx_pir_first(build, program):
    """the PIR bit is set ahead of PID.ON"""
    paths = vmx_paths(build, program)
    paths.order({"locked pir"}, "locked control")


def vmx_post_first(build, program):
    """a locked RMW of PID.ON, or of the requests, comes ahead of the look"""
    paths = vmx_paths(build, program)
    paths.need({"locked requests"})
    paths.order({"locked control", "locked requests"}, *looks(paths))


def vmx_look_first(build, program):
    """the look comes ahead of the IPI, of the choice of its CPU and of the wake-up"""
    paths = vmx_paths(build, program)
    paths.order(looks(paths), SEND_IPI, WAKE, "read cpu", "read mode")


def notifies(build, paths, send):
    """What a sender that has read the flag does: it notifies a vCPU in the guest, and wakes one
    in the host that may be blocked."""
    looks = paths.need({"read flag"})
    paths.need({"return"})
    guest, host = ({"flag": (~0, build.flag(n))} for n in ("KVM_EXEC_GUEST", "KVM_EXEC_HOST"))
    paths.between(looks, paths.have(send) | KICK, {"return"}, guest)
    idle = {**host, "mode": (~0, build.mode("OUTSIDE_RUN_LOOP"))}
    paths.between(looks, paths.have({WAKE}) | KICK, {"return"}, idle)


def vmx_notifies(build, program):
    """a vCPU seen in the guest gets an IPI, one outside the run loop is woken"""
    notifies(build, vmx_paths(build, program), {SEND_IPI})


def vmx_on_first(build, program):
    """vmx_sync_pir_to_irr() clears PID.ON by a locked RMW ahead of the look at the PIR"""
    paths = Paths(program, build.with_pid(), "vmx_sync_pir_to_irr", VCPU)
    paths.between([paths.walker.start], paths.have({"locked control"}),
                  paths.have({"call kvm_apic_update_irr"}) | {"read pir"})


def vmx_way_out(build, program):
    """vmx_vcpu_run() without an entry: past KVM_EXEC_HOST"""
    layout = build.layout()
    paths = Paths(program, layout, "vmx_vcpu_run", VCPU)
    host = paths.have({f"flag={build.flag('KVM_EXEC_HOST')}"})
    paths.between([paths.walker.start], paths.have({"call vmx_vcpu_enter_exit"}) | host,
                  paths.have({"return"}))


def svm_paths(build, program, name, arguments):
    if build.member("vcpu_svm", "vcpu")[0]:
        raise Wrong("struct vcpu_svm does not begin with the vCPU")
    return Paths(program, build.with_apic(build.layout()), name, arguments,
                 ("svm_complete_interrupt_delivery",))


def svm_virr_first(build, program):
    """a locked RMW of the vIRR comes ahead of the look"""
    paths = svm_paths(build, program, "svm_deliver_interrupt", {"rdi": ("apic", 0)})
    paths.order({"locked virr"}, *looks(paths))


def svm_look_first(build, program):
    """the look comes ahead of reading apicv_active, of the doorbell and of the wake-up"""
    paths = svm_paths(build, program, "svm_complete_interrupt_delivery", VCPU)
    paths.order(looks(paths), "read apicv_active", DOORBELL, WAKE, "read mode")


def svm_notifies(build, program):
    """a vCPU seen in the guest gets a doorbell, one outside the run loop is woken"""
    notifies(build, svm_paths(build, program, "svm_complete_interrupt_delivery", VCPU), {DOORBELL})


def svm_way_out(build, program):
    """svm_vcpu_run() without an entry, where it has such: past KVM_EXEC_HOST"""
    paths = Paths(program, build.layout(), "svm_vcpu_run", VCPU)
    host = {f"flag={build.flag('KVM_EXEC_HOST')}"}
    paths.between([paths.walker.start], paths.have({"call svm_vcpu_enter_exit"}) | host,
                  paths.have({"return"}))


CHECKS = {
    "x86.o": (entry_mode_first, entry_announced, entry_barrier, fastpath_announced,
              fastpath_barrier, exit_request_mode, exit_request_requests, bail_out, should_kick),
    "kvm_main.o": (kick_order, kick_wait, request_order, request_published, request_wait, elide_callers,
                   block_barrier),
    "elide.o": (elide_reads_flag,),
    "vmx.o": (vmx_pir_first, vmx_post_first, vmx_look_first, vmx_notifies, vmx_on_first,
              vmx_way_out),
    "svm.o": (svm_virr_first, svm_look_first, svm_notifies, svm_way_out),
}
