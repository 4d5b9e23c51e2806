/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Pages that are not present, announced in kernel mode: where the guest can sleep, by
 * its own predicate.  <asm/kvm_apf.h> has what the guest writes.
 *
 * All of these are the vCPU's own: called by its thread, or with its mutex held, and
 * with kvm->srcu read-locked where they read the guest's memory.
 */
#ifndef __KVM_X86_APF_PRED_H
#define __KVM_X86_APF_PRED_H

#include <linux/kvm_host.h>

#include <asm/kvm_apf.h>

#include "apf.h"

/*
 * kvm_apf_set_ext(), with the page: read and verified now if it is the guest that
 * writes, else when KVM_RUN is entered, as userspace may load the MSRs before there is
 * memory.  1: as kvm_apf_set_ext() refuses, or the page has no predicate.  -ENOMEM.
 * The MSR and the list are as they were then.  May sleep.
 */
int kvm_apf_set_ext_page(struct kvm_vcpu *vcpu, u64 data, bool host_initiated);

/*
 * KVM_RUN is entered.  Is the page still to be read?  Then read it; may sleep.  A list
 * that userspace has loaded broken is looked at each time: its memory may come later.
 */
static inline bool kvm_apf_predicate_due(struct kvm_vcpu *vcpu)
{
	return vcpu->arch.apf.msr_ext_val & KVM_ASYNC_PF_EXT_PRED && !vcpu->arch.apf.predicate;
}

void kvm_apf_load_predicate(struct kvm_vcpu *vcpu);

/* In kernel mode, interrupts enabled: does the guest say that it can sleep? */
bool kvm_apf_can_sleep(struct kvm_vcpu *vcpu);

/*
 * The last look ahead of a marked page fault, as it is queued: at what the vCPU is now,
 * and at what kvm_apf_can_sleep() has said of that.  true: the guest must not get it,
 * so KVM is broken; it has said why.
 */
bool kvm_apf_forbidden(struct kvm_vcpu *vcpu);

void kvm_apf_free_predicate(struct kvm_vcpu *vcpu);

#endif /* __KVM_X86_APF_PRED_H */
