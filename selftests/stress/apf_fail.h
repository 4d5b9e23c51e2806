/* SPDX-License-Identifier: GPL-2.0 */
/* What apf_fail_test.c shares with its guest, apf_fail_guest.c. */
#ifndef APF_FAIL_H
#define APF_FAIL_H

#include "apf_step.h"
#include "apf-tokens.h"

/* The guest says */
enum fail_say {
	FAIL_BEGUN = APF_ASK_OWN,	/* and touches its pages next */
	FAIL_READY,			/* each was announced, and is said to be ready */
	FAIL_DONE,
};

struct apf_fail {
	struct step_guest step;

	/* written by the host */
	u64 told;		/* events are enabled */
	u64 write;		/* how the pages are touched */
	u64 pages;		/* how many */
	u64 most;		/* announcements that the guest has patience for */

	/* written by the guest */
	struct apf_tokens t;
	u64 turns;		/* of waiting for one of these */
};

struct ex_regs;

void apf_fail_main(u64 vcpu);
void apf_fail_fault(struct ex_regs *regs);
void apf_fail_ready(struct ex_regs *regs);

extern struct apf_fail *apf_fail;

#endif /* APF_FAIL_H */
