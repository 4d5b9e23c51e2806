/* SPDX-License-Identifier: GPL-2.0 */
/* What lifecycle_test.c shares with its guest, lifecycle_guest.c. */
#ifndef LIFECYCLE_H
#define LIFECYCLE_H

#include "post-guest.h"

#define LIFE_VCPUS	3
#define LIFE_VEC_FIRST	0x40
#define LIFE_NR_VEC	16

struct life_shared {
	u64 seed;
	struct {
		u64 starts;	/* how often life_guest_main() began */
		u64 handled;	/* interrupts since the VM was made */
	} __aligned(64) vcpu[LIFE_VCPUS];
};

void life_guest_main(u64 vcpu);
void life_guest_irq(struct ex_regs *regs);

extern struct life_shared *life_shared;

#endif /* LIFECYCLE_H */
