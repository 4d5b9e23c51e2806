/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The in-guest flag, and what each CPU may do with it.
 *
 * Callers: vcpu_enter_guest() sets the flag, the vendors' entry assembly
 * (vmx-vmenter.S and svm-vmenter.S in this folder) clears it right after
 * VM-Exit, C where nothing was entered, and the vendors' interrupt delivery
 * reads it.
 *
 * vcpu->mode, the run-loop mode, keeps answering the other question: must a
 * kick get this vCPU out of the run loop?  Only whether that takes an IPI is
 * asked of the flag then.
 */
#ifndef __KVM_X86_MODE_H
#define __KVM_X86_MODE_H

#include <linux/kvm_host.h>

/*
 * Values of vcpu->arch.execution_mode, one byte, zeroed when the vCPU is
 * created.  Written by the vCPU's own thread only, except for the zeroing, with
 * preemption disabled, and with IRQs disabled but in the entry that
 * nested_early_check=1 makes (Linux 6.12): that one always fails, and stores the
 * KVM_EXEC_HOST that is there.  Read by any CPU.
 *
 * KVM_EXEC_HOST: the vCPU will execute a full barrier and then look at the PIR
 * (SVM: at the vIRR, which VMRUN does) and at vcpu->requests before it enters
 * the guest.  A sender that published its interrupt first need not notify.
 * Stored by assembly as soon as there is a pointer to the vCPU after VM-Exit,
 * by kvm_mode_exit() elsewhere.
 *
 * KVM_EXEC_GUEST: the vCPU is in the guest, or about to enter, and may have
 * passed its last look at the PIR and at vcpu->requests.  Notify.  Stored ahead
 * of the barrier, so that a sender that does not see it is seen by the vCPU;
 * next to VM-Enter would be too late.  Before VM-Enter IRQs are off, and a
 * posted-interrupt IPI stays pending in the local APIC until then, to be
 * processed as one.  VMRUN is the last look at the vIRR, so that nothing relies
 * on what becomes of an AVIC doorbell that rings before it.
 */
enum kvm_execution_mode {
	KVM_EXEC_HOST,
	KVM_EXEC_GUEST,
};

/*
 * The vCPU goes for VM-Enter.  The caller must have stored IN_RUN_LOOP before,
 * and must execute a full barrier between this and its last look at the PIR,
 * vcpu->mode and vcpu->requests.
 *
 * A sender that reads the flag with acquire semantics and then
 * apic->apicv_active, see svm_complete_interrupt_delivery(), must not see the
 * vCPU enter with an older apicv_active.  The release here gives that, and the
 * caller's full barrier for what kvm_mode_reenter() stores later.
 */
static __always_inline void kvm_mode_enter(struct kvm_vcpu *vcpu)
{
	lockdep_assert_irqs_disabled();

	/*
	 * apicv_active before the flag; pairs with kvm_mode_read().
	 * Litmus: apicv-active, apicv-active-reenter.
	 * The caller's barrier, the flag before the PIR, vIRR, mode and requests:
	 * Litmus: entry-pir, entry-pir-second-sender, entry-pir-stale-flag,
	 * entry-srcu, entry-request, target-cpu, avic-vmrun, apicv-deactivate,
	 * kick-request, kick-request-exiting, kick-pml, kick-elide-entry.
	 */
	smp_store_release(&vcpu->arch.execution_mode, KVM_EXEC_GUEST);
}

/*
 * The same for a vCPU that goes back into the guest from a fastpath exit,
 * where no other barrier stands between the flag and the PIR.  A store and a
 * full barrier: one XCHG on x86, on a cache line that this CPU has just
 * written.  Pairs like the barrier of vcpu_enter_guest(): with the locked RMW
 * of PID.ON (vmx_deliver_posted_interrupt()), with the barrier after the write
 * of the vIRR (svm_deliver_interrupt()) or a nested notification's request
 * (vmx_deliver_nested_posted_interrupt()), with a kicker's cmpxchg().
 */
static __always_inline void kvm_mode_reenter(struct kvm_vcpu *vcpu)
{
	lockdep_assert_irqs_disabled();

	/*
	 * The flag before the PIR, vIRR, mode and requests; pairs with the
	 * senders.  Litmus: fastpath-reenter, fastpath-reenter-request,
	 * avic-vmrun, kick-elide.
	 */
	smp_store_mb(vcpu->arch.execution_mode, KVM_EXEC_GUEST);
}

/*
 * Out of the guest, where no entry assembly of KVM's own has said so (TDX's
 * SEAMCALL), or off the entry path without having entered.  Nothing to order
 * here: until the store is seen, senders notify needlessly.  It must not be left
 * out, though: a sender that sees KVM_EXEC_GUEST notifies a vCPU that has
 * blocked since, instead of waking it.  The full barrier on the way to sleep
 * makes the store visible (Litmus: wake-blocking, wake-blocking-avic).
 */
static __always_inline void kvm_mode_exit(struct kvm_vcpu *vcpu)
{
	WRITE_ONCE(vcpu->arch.execution_mode, KVM_EXEC_HOST);
}

/* Every way out of the run loop has to pass with the flag at KVM_EXEC_HOST. */
static __always_inline void kvm_mode_assert_in_host(struct kvm_vcpu *vcpu)
{
	WARN_ON_ONCE(vcpu->arch.execution_mode != KVM_EXEC_HOST);
}

/*
 * What a sender may know of @vcpu.  The sender must have published its
 * interrupt, with a full barrier, before it calls this.  Reads of state that
 * the vCPU changes before it enters, e.g. apic->apicv_active, come after.
 */
static __always_inline enum kvm_execution_mode
kvm_mode_read(struct kvm_vcpu *vcpu)
{
	/*
	 * The flag before apicv_active; pairs with kvm_mode_enter().
	 * Litmus: apicv-active.
	 */
	return smp_load_acquire(&vcpu->arch.execution_mode);
}

/*
 * The sender has read KVM_EXEC_HOST.  @vcpu need not be notified, but woken if
 * it may be blocked.  It is not if its run-loop mode is anything but
 * OUTSIDE_RUN_LOOP: a vCPU stores that mode, and then executes a full barrier
 * (set_current_state() in kvm_vcpu_block()), before it checks for pending
 * interrupts for the last time.  Together with the sender's barrier, either the
 * sender reads OUTSIDE_RUN_LOOP here or the vCPU finds the interrupt there.
 * Litmus: wake-blocking, wake-blocking-avic, wake-blocking-state.
 */
static __always_inline void kvm_mode_wake(struct kvm_vcpu *vcpu)
{
	if (READ_ONCE(vcpu->mode) == OUTSIDE_RUN_LOOP)
		kvm_vcpu_wake_up(vcpu);
}

#endif /* __KVM_X86_MODE_H */
