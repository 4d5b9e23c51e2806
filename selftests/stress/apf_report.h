/* SPDX-License-Identifier: GPL-2.0 */
/* What apf_report_test.c shares with its guest, apf_report_guest.c. */
#ifndef APF_REPORT_H
#define APF_REPORT_H

#include <asm/kvm_apf.h>

#include "apf_step.h"
#include "apf-tokens.h"

#define REPORT_TABLES_GVA	0x400000000000ull	/* of a PML4 entry of its own */
#define REPORT_TOGETHER		20
#define TOUCH_BYTES		12	/* from an access to what follows, at most */

/* The guest says */
enum report_say {
	REPORT_BEGUN = APF_ASK_OWN,	/* and accesses a page next */
	REPORT_DONE,			/* it was there, or the guest was told */
	REPORT_TRUNCATE,		/* the host takes the page away */
};

/* How a page is accessed */
enum report_access {
	REPORT_READ,
	REPORT_WRITE,
	REPORT_FETCH,
	REPORT_TABLES,		/* by the walk of the page tables, one of which it is */
	REPORT_DELIVERY,	/* by the delivery of an exception, as its stack */
	REPORT_L2,		/* a read by L2 */
	REPORT_SMM,		/* a read by the handler of an SMI, which the host sends */
};

enum report_where {
	REPORT_USER,
	REPORT_KERNEL,
	REPORT_MASKED,		/* in kernel mode, interrupts disabled */
};

struct apf_report {
	struct step_guest step;

	/* written by the host */
	u64 abi;		/* what the MSR does and refuses, instead of an access */
	u64 access;		/* enum report_access */
	u64 where;		/* enum report_where */
	u64 ext;		/* MSR_KVM_ASYNC_PF_EXT */
	u64 addresses;		/* CR2 is known */
	u64 storm;
	u64 vcpus;		/* several: REPORT_TOGETHER accesses by each */
	u64 nested;		/* GVA of struct vmx_pages, struct svm_test_data */
	u64 gone;		/* the page: changed while the vCPU is out of the guest */

	/* written by the guest */
	struct apf_tokens t;
	u64 checks;
	u64 arrived;		/* vCPUs that are about to access the page */
	u64 failed[2];		/* accesses that each vCPU was told of */
	u64 there;		/* accesses that found the page */
	u64 elsewhere;		/* told of at another place than the access */
	u64 wrong_address;	/* by CR2 */
	u64 wrong_mode;		/* told of in another one than that of the access */
	u64 wrong_page;
	u64 stale;		/* told of, though the host had brought it back */
};

struct ex_regs;

void apf_report_main(u64 vcpu);
void apf_report_fault(struct ex_regs *regs);
void apf_report_ready(struct ex_regs *regs);

extern struct apf_report *apf_report;

#endif /* APF_REPORT_H */
