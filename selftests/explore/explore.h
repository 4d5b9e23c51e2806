/* SPDX-License-Identifier: GPL-2.0 */
/* What the explorer's guest (explore_guest.c) and its host side (explore.c) share. */
#ifndef EXPLORE_H
#define EXPLORE_H

#include <linux/types.h>

#define EXPLORE_VEC	0x41	/* and the next ones, one a poster */
#define EXPLORE_POSTERS	2
#define EXPLORE_EXIT	0x5e2	/* port: to userspace */

/* What the vCPU does while it is posted to */
enum explore_guest {
	EXPLORE_COMPUTE,	/* until it has all interrupts */
	EXPLORE_FASTPATH,	/* the same, with two exits that KVM re-enters from at once */
	EXPLORE_EXITS,		/* with two exits that end in the run loop */
	EXPLORE_HLT,		/* waits in HLT */
};

struct explore_shared {
	u64 guest;		/* enum explore_guest */
	u64 posters;
	u64 late;		/* turns of the guest's loop after a post that are too many */
	u64 posted[EXPLORE_POSTERS] __aligned(64);	/* by the host, behind the post */
	u64 handled[EXPLORE_POSTERS] __aligned(64);
	u64 wrong;		/* 1: late, 2: taken twice */
};

struct ex_regs;

void explore_guest_main(void);
void explore_guest_irq(struct ex_regs *regs);

extern struct explore_shared *explore_shared;

#endif
