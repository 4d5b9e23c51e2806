/* SPDX-License-Identifier: GPL-2.0 */
/* What apf_nested_test.c shares with its guest, apf_nested_guest.c. */
#ifndef APF_NESTED_H
#define APF_NESTED_H

#include "apf-guest.h"

struct apf_nested {
	u64 vmx;		/* else SVM */
	u64 pages;		/* GVA of struct vmx_pages, struct svm_test_data */
	u64 vmexits;		/* L1 wants page-not-present as #PF VM-Exits */
	u64 ext_msr, ext;	/* an MSR to be written ahead of KVM_ASYNC_PF_EN, 0: none */
	u64 error_code;		/* of these exits then, without flags */
	u64 stack[512];		/* L2's */

	u64 pf_exits;		/* L2's exits for pages that are not there */
	u64 entries;
	u64 intr_exits;
	u64 wrong;		/* exit with another error code, or without flags */
};

void apf_nested_main(u64 vcpu);
void apf_nested_fault(struct ex_regs *regs);
void apf_nested_ready(struct ex_regs *regs);

extern struct apf_nested *apf_nested;

#endif /* APF_NESTED_H */
