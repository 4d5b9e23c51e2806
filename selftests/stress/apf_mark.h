/* SPDX-License-Identifier: GPL-2.0 */
/* What apf_mark_test.c shares with its guest, apf_mark_guest.c. */
#ifndef APF_MARK_H
#define APF_MARK_H

#include <asm/kvm_apf.h>

#include "apf_step.h"
#include "apf-tokens.h"

#define MARK_HOLE	0x70000000ull	/* GVA that is not mapped */
#define TOUCH_BYTES	8		/* from apf_touch()'s access to what follows, at most */
#define MARK_PATTERN	0x5a5a5a5au	/* lies in the flags' place */

/* The guest says */
enum mark_say {
	MARK_READY = APF_ASK_OWN,	/* the next step touches a page */
	MARK_LOAD,			/* the host enables the mechanism */
	MARK_DONE,
	MARK_BACK,			/* from apf_mark_detour() */
};

enum mark_guest {
	MARK_ABI,		/* what the MSR does and refuses */
	MARK_HIDDEN,		/* the same without CPUID's bit */
	MARK_USER,		/* a page is touched: in user mode */
	MARK_MASKED,		/* in user mode, with interrupts disabled */
	MARK_KERNEL,
	MARK_LOADED,		/* the same, the MSRs are the host's */
	MARK_STORM,		/* pages of user mode, one after the other, again and again */
};

struct apf_mark {
	struct step_guest step;

	/* written by the host */
	u64 guest;		/* enum mark_guest */
	u64 legacy;		/* by the flags, without MARK */
	u64 nmis;		/* one in each handler of a #PF, ahead of its look at what it is */

	/* written by the guest */
	struct apf_tokens t;
	u64 checks;
	u64 forbidden;		/* events where the guest cannot sleep */
	u64 invented;		/* events that were faults of the guest's own */
	u64 missed;		/* faults of nobody: events that were not taken for one */
	u64 faults;		/* of an NMI's handler */
	u64 nmis_taken;
	u64 elsewhere;		/* events and faults outside of apf_touch() */
	u64 wrong_page;
	u64 detours;
};

struct ex_regs;

void apf_mark_main(u64 vcpu);
void apf_mark_fault(struct ex_regs *regs);
void apf_mark_ready(struct ex_regs *regs);
void apf_mark_nmi(struct ex_regs *regs);

/* Until the host puts the vCPU back: at CPL 0 with interrupts disabled, or in user mode */
void apf_mark_detour(void);

extern struct apf_mark *apf_mark;
extern u64 apf_mark_detour_stack[];
#define MARK_DETOUR_STACK	1024

#endif /* APF_MARK_H */
