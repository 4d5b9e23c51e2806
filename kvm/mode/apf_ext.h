/* SPDX-License-Identifier: GPL-2.0 */
/*
 * MSR_KVM_ASYNC_PF_EXT: how else a guest may be told of a page that is not present.
 * <asm/kvm_apf.h> has the guest's side.
 *
 * All of these are the vCPU's own: called by its thread, or with its mutex held.
 */
#ifndef __KVM_X86_APF_EXT_H
#define __KVM_X86_APF_EXT_H

#include <linux/kvm_host.h>

#include <asm/kvm_apf.h>

#include "apf.h"
#include "x86.h"

/* Is there the MSR?  If not, userspace reads 0 and can write only 0. */
bool kvm_apf_has_ext(struct kvm_vcpu *vcpu);

/*
 * The MSR becomes @data.  -EINVAL: a reserved bit, or one that needs another; or
 * events are enabled, and it is the guest that writes.  Userspace loads the MSRs in
 * any order.
 */
int kvm_apf_set_ext(struct kvm_vcpu *vcpu, u64 data, bool host_initiated);

/*
 * The guest writes @data to MSR_KVM_ASYNC_PF_EN: is that an error?  If it disables
 * events the MSR becomes 0: another kernel may come, by kexec, that does not know it.
 */
bool kvm_apf_ext_refuses(struct kvm_vcpu *vcpu, u64 data);

/* Is the guest told by #PFs that mark themselves? */
static inline bool kvm_apf_marks(struct kvm_vcpu *vcpu)
{
	return !vcpu->arch.guest_state_protected &&
	       vcpu->arch.apf.msr_ext_val & KVM_ASYNC_PF_EXT_MARK;
}

/*
 * Is it told in user mode only, unless it says itself that it can sleep?  Of L2's pages
 * L1 is told by a VM-Exit, at any time.
 */
static inline bool kvm_apf_user_only(struct kvm_vcpu *vcpu)
{
	if (kvm_apf_marks(vcpu))
		return !is_guest_mode(vcpu);

	return !(vcpu->arch.apf.msr_en_val & KVM_ASYNC_PF_SEND_ALWAYS);
}

/* The error code of the #PF that tells the guest of a page. */
static inline u16 kvm_apf_error_code(struct kvm_vcpu *vcpu)
{
	return kvm_apf_marks(vcpu) ? KVM_ASYNC_PF_NOT_PRESENT : 0;
}

/*
 * The guest is told of the page that is not present, if it still is not, in the way
 * that it has chosen.  The caller queues the #PF then, with @token in CR2.
 */
bool kvm_apf_tell(struct kvm_vcpu *vcpu, u32 *token);

#endif /* __KVM_X86_APF_EXT_H */
