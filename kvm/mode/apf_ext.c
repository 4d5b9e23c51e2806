// SPDX-License-Identifier: GPL-2.0
/*
 * MSR_KVM_ASYNC_PF_EXT.  apf_ext.h has the interface.
 */
#include <linux/kvm_host.h>

#include "lapic.h"

#include "apf_ext.h"

/*
 * Not by guest_pv_has(), which is true for everything unless userspace asks for
 * more: no guest knows the MSR that has not looked for its bit.  A token needs CR2,
 * which KVM cannot set where the guest's state is protected.
 */
bool kvm_apf_has_ext(struct kvm_vcpu *vcpu)
{
	return lapic_in_kernel(vcpu) && !vcpu->arch.guest_state_protected &&
	       vcpu->arch.pv_cpuid.features & BIT(KVM_FEATURE_ASYNC_PF_MARK);
}

/* What the guest's features name, with what that needs. */
static bool valid(struct kvm_vcpu *vcpu, u64 data)
{
	u32 features = vcpu->arch.pv_cpuid.features;
	u64 known = KVM_ASYNC_PF_EXT_MARK;

	if (data & KVM_ASYNC_PF_EXT_MARK) {
		if (features & BIT(KVM_FEATURE_ASYNC_PF_FAIL))
			known |= KVM_ASYNC_PF_EXT_FAIL;
		if (features & BIT(KVM_FEATURE_ASYNC_PF_PRED) &&
		    vcpu->kvm->arch.vm_type == KVM_X86_DEFAULT_VM)
			known |= KVM_ASYNC_PF_EXT_PRED;
		if (features & BIT(KVM_FEATURE_ASYNC_PF_AGAIN))
			known |= KVM_ASYNC_PF_EXT_AGAIN;
	}
	if (data & known & KVM_ASYNC_PF_EXT_PRED)
		known |= KVM_ASYNC_PF_EXT_PAGE;

	return !(data & ~known);
}

int kvm_apf_set_ext(struct kvm_vcpu *vcpu, u64 data, bool host_initiated)
{
	if (!valid(vcpu, data))
		return -EINVAL;

	if (!host_initiated && vcpu->arch.apf.msr_en_val & KVM_ASYNC_PF_ENABLED)
		return -EINVAL;

	vcpu->arch.apf.msr_ext_val = data;
	return 0;
}

bool kvm_apf_ext_refuses(struct kvm_vcpu *vcpu, u64 data)
{
	if (!(data & KVM_ASYNC_PF_ENABLED))
		vcpu->arch.apf.msr_ext_val = 0;

	return vcpu->arch.apf.msr_ext_val && data & KVM_ASYNC_PF_SEND_ALWAYS;
}

bool kvm_apf_tell(struct kvm_vcpu *vcpu, u32 *token)
{
	struct kvm_async_pf *work = vcpu->arch.apf.deferred;

	if (!kvm_apf_marks(vcpu))
		return kvm_apf_announce(vcpu, token);

	vcpu->arch.apf.deferred = NULL;
	*token = work->arch.token;
	return kvm_apf_announced(vcpu, work);
}
