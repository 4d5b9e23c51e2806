/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Pages that will not come: the guest is told where it accesses one, if it has asked
 * for that by KVM_ASYNC_PF_EXT_FAIL and userspace allows it.
 *
 * Told of by the access that waits for the page, never by a worker: that access
 * knows whether it writes, and may find the page after all.
 *
 * All of these are the vCPU's own: called by its thread.
 */
#ifndef __KVM_X86_APF_FAIL_H
#define __KVM_X86_APF_FAIL_H

#include <linux/kvm_host.h>

#include <asm/kvm_apf.h>

/*
 * May userspace's failure to have a page of @slot become the guest's?  KVM does not
 * know why there is none: -ENOMEM looks like a truncated file.
 */
bool kvm_apf_may_fail(const struct kvm_memory_slot *slot);

/*
 * May the guest be told of what it accesses now?  Wherever it could itself take a page
 * fault, and can read all of CR2: in long mode, not in SMM, not in the delivery of an
 * event, which would be lost.  Not of L2's memory, of whose addresses L1 knows nothing.
 */
bool kvm_apf_can_fail(struct kvm_vcpu *vcpu);

/*
 * The vCPU's access to @address has found that the page will not come.  The caller
 * enters the guest then: it is told right ahead of that.
 */
void kvm_apf_fail(struct kvm_vcpu *vcpu, u64 address);

/* The vCPU is about to be entered: queue the #PF if one is due. */
void kvm_apf_tell_failure(struct kvm_vcpu *vcpu);

/* KVM_RUN returns: userspace may bring the page back, and the access is made again. */
static inline void kvm_apf_forget_failure(struct kvm_vcpu *vcpu)
{
	vcpu->arch.apf.failing = false;
}

#endif /* __KVM_X86_APF_FAIL_H */
