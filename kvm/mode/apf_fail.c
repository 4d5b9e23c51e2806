// SPDX-License-Identifier: GPL-2.0
/*
 * Pages that will not come.  apf_fail.h has the interface.
 */
#include <linux/kvm_host.h>
#include <linux/moduleparam.h>

#include "smm.h"
#include "x86.h"

#include "apf_fail.h"

/* For userspace that does not know KVM_MEM_ASYNC_PF_FAIL. */
static bool __read_mostly async_pf_fail;
module_param(async_pf_fail, bool, 0644);
MODULE_PARM_DESC(async_pf_fail,
		 "Tell guests that ask for it of pages of any memslot that will not come");

bool kvm_apf_may_fail(const struct kvm_memory_slot *slot)
{
	return slot->flags & KVM_MEM_ASYNC_PF_FAIL || READ_ONCE(async_pf_fail);
}

bool kvm_apf_can_fail(struct kvm_vcpu *vcpu)
{
	return vcpu->arch.apf.msr_ext_val & KVM_ASYNC_PF_EXT_FAIL &&
	       kvm_pv_async_pf_enabled(vcpu) && !vcpu->arch.guest_state_protected &&
	       is_long_mode(vcpu) && !is_smm(vcpu) && !is_guest_mode(vcpu) &&
	       !kvm_event_needs_reinjection(vcpu) && !kvm_is_exception_pending(vcpu);
}

void kvm_apf_fail(struct kvm_vcpu *vcpu, u64 address)
{
	vcpu->arch.apf.failing = true;
	vcpu->arch.apf.failed_address = address;
	kvm_make_request(KVM_REQ_APF_READY, vcpu);
}

void kvm_apf_tell_failure(struct kvm_vcpu *vcpu)
{
	struct x86_exception fault = {
		.vector = PF_VECTOR,
		.error_code_valid = true,
		.error_code = KVM_ASYNC_PF_FAILED,
		.address = vcpu->arch.apf.failed_address,
	};

	if (!vcpu->arch.apf.failing)
		return;

	/* Since the access the vCPU has done nothing, and its userspace neither. */
	kvm_apf_forget_failure(vcpu);
	kvm_inject_page_fault(vcpu, &fault, false);
}
