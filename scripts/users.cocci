// SPDX-License-Identifier: GPL-2.0
// Each use of vcpu->mode, each kick, and each function that asks on a kick's or a
// notification's behalf, with its function and line.  Run by scripts/list-users.

@initialize:python@
@@
def put(what, p):
    print("USER %s %s %s %s" % (p[0].file, p[0].current_element, what, p[0].line))

@mode@
struct kvm_vcpu *v;
struct kvm_vcpu s;
position p;
@@
(
v->mode@p
|
s.mode@p
)

@script:python@
p << mode.p;
@@
put("mode", p)

@call@
position p;
expression v;
identifier f = {kvm_vcpu_kick, __kvm_vcpu_kick, kvm_vcpu_exiting_guest_mode,
		kvm_arch_vcpu_should_kick, kvm_request_needs_ipi,
		kvm_vcpu_exit_request, kvm_vcpu_trigger_posted_interrupt,
		avic_ring_doorbell};
@@
f@p(v, ...)

@script:python@
p << call.p;
f << call.f;
@@
put(f, p)
