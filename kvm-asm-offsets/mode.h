/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the entry assembly has to know of the in-guest flag: the value it
 * writes and where it writes it.  Included by kvm-asm-offsets.c only, which
 * turns it into kvm-asm-offsets.h; the flag's description is in mode.h.
 */
#include "mode.h"

static void __used kvm_mode_offsets(void)
{
	BLANK();
	DEFINE(KVM_EXEC_HOST, KVM_EXEC_HOST);

	if (IS_ENABLED(CONFIG_KVM_AMD))
		OFFSET(SVM_vcpu_execution_mode, vcpu_svm, vcpu.arch.execution_mode);

	if (IS_ENABLED(CONFIG_KVM_INTEL))
		OFFSET(VMX_vcpu_execution_mode, vcpu_vmx, vcpu.arch.execution_mode);
}
