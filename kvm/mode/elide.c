// SPDX-License-Identifier: GPL-2.0
/*
 * Kick elision: generic KVM's kvm_vcpu_kick() and kvm_make_all_cpus_request()
 * ask here, for each kick that does not wait, whether its IPI can be left out.
 */
#include "mode.h"

/*
 * The caller has moved @vcpu->mode from IN_RUN_LOOP to EXITING_RUN_LOOP with a
 * successful cmpxchg(), a full barrier, and would send an IPI to another CPU
 * now.  Both callers have preemption disabled.
 *
 * KVM_EXEC_HOST means that @vcpu will store KVM_EXEC_GUEST, execute a full
 * barrier and find EXITING_RUN_LOOP before it can enter, or is on its way out.
 * The flag may be left out of date by the time that this returns, in the one
 * direction that does not matter.
 */
bool kvm_arch_elide_kick(struct kvm_vcpu *vcpu)
{
	/*
	 * The mode before the flag; pairs with the barriers after
	 * kvm_mode_enter() and in kvm_mode_reenter().
	 * Litmus: kick-elide, kick-elide-entry.
	 */
	return READ_ONCE(vcpu->arch.execution_mode) == KVM_EXEC_HOST;
}
