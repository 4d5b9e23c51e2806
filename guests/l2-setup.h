/* SPDX-License-Identifier: GPL-2.0 */
/*
 * An L2 of the selftests library with a stack of the guest's own.  L2_STACK_ARGUMENT: the library
 * takes it, as before Linux 7.3; guests/build.sh says so, and tests.mk in a kernel tree.
 */
#ifndef L2_SETUP_H
#define L2_SETUP_H

#include "svm_util.h"
#include "vmx.h"

static inline void l2_vmx_setup(struct vmx_pages *vmx, void *rip, void *rsp)
{
#ifdef L2_STACK_ARGUMENT
	prepare_vmcs(vmx, rip, rsp);
#else
	prepare_vmcs(vmx, rip);
	vmwrite(GUEST_RSP, (unsigned long)rsp);
#endif
}

static inline void l2_svm_setup(struct svm_test_data *svm, void *rip, void *rsp)
{
#ifdef L2_STACK_ARGUMENT
	generic_svm_setup(svm, rip, rsp);
#else
	generic_svm_setup(svm, rip);
	svm->vmcb->save.rsp = (unsigned long)rsp;
#endif
}

#endif /* L2_SETUP_H */
