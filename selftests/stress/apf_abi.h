/* SPDX-License-Identifier: GPL-2.0 */
/* What apf_abi_test.c shares with its guest, apf_abi_guest.c. */
#ifndef APF_ABI_H
#define APF_ABI_H

#include "apf-guest.h"

enum abi_case {
	ABI_HIDDEN,		/* the MSRs, from a guest whose CPUID has them not */
	ABI_RESERVED,		/* bits and vectors */
	ABI_NO_VECTOR,		/* enabled before there is a vector */
	ABI_LEGACY,		/* without bit 3 */
	ABI_CHANNELS,		/* flags and token do not disturb each other */
	ABI_BAD_AREA,		/* read-only memory, none */
	ABI_NR_CASES,
};

/* The guest's requests */
enum {
	ABI_ASK_HOLD = APF_ASK_OWN,	/* give no pages */
	ABI_ASK_GIVE,			/* those held, and all to come */
	ABI_ASK_SET_VECTOR,		/* userspace sets the vector to 5 */
};

#define ABI_READ_ONLY_GPA	0x1c000000ull
#define ABI_NO_MEMORY_GPA	0x1d000000ull

struct apf_abi {
	u64 test;
	u64 checks;
	u64 failed;		/* line of the first one, 0: none */
};

void apf_abi_main(u64 vcpu);
void apf_abi_fault(struct ex_regs *regs);
void apf_abi_ready(struct ex_regs *regs);

extern struct apf_abi *apf_abi;

#endif /* APF_ABI_H */
