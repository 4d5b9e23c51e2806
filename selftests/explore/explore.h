/* SPDX-License-Identifier: GPL-2.0 */
/* What the explorer's guest (explore_guest.c) and its host side (explore.c) share. */
#ifndef EXPLORE_H
#define EXPLORE_H

#include <linux/types.h>

#define EXPLORE_VEC	0x41	/* and the next ones, one an actor */
#define EXPLORE_ACTORS	2
#define EXPLORE_EVENTS	3
#define EXPLORE_EXIT	0x5e2	/* ports, to userspace: all has come */
#define EXPLORE_READY	0x5e3	/* pages are announced, to be given */

/* What the vCPU does while it is posted to, or kicked */
enum explore_guest {
	EXPLORE_COMPUTE,	/* until it has all interrupts */
	EXPLORE_FASTPATH,	/* the same, with two exits that KVM re-enters from at once */
	EXPLORE_EXITS,		/* with two exits that end in the run loop */
	/* From here on: all the time */
	EXPLORE_HLT,		/* waits in HLT */
	EXPLORE_ALL_EXITS,	/* computes hardly, exits end in the run loop */
};

/* What was wrong of a schedule */
enum explore_wrong {
	EXPLORE_RIGHT,
	EXPLORE_LATE,		/* an interrupt, or a page's token */
	EXPLORE_TWICE,		/* the same; an interrupt that has no token */
	EXPLORE_KICK_LATE,	/* a kick's mark, or a request, stays */
	EXPLORE_WAIT_OVER,	/* a wait, while the vCPU is on its way out of the run loop */
	EXPLORE_EARLY,		/* a token, ahead of its page */
};

struct explore_shared {
	u64 guest;		/* enum explore_guest */
	u64 events;		/* that the guest waits for */
	u64 page[EXPLORE_EVENTS];	/* 0, or GVA of the pages that it is told of */
	u64 area, area_gpa;	/* of asynchronous page faults */
	u64 late;		/* turns of the guest's loop after a post that are too many */
	u64 posted[EXPLORE_EVENTS] __aligned(64);	/* by the host, behind the post */
	u64 handled[EXPLORE_EVENTS] __aligned(64);
	u64 wrong;		/* enum explore_wrong */
};

struct ex_regs;

void explore_guest_main(u64 nr);
void explore_guest_irq(struct ex_regs *regs);
void explore_guest_fault(struct ex_regs *regs);
void explore_guest_ready(struct ex_regs *regs);

extern struct explore_shared *explore_shared;

#endif
