/* SPDX-License-Identifier: GPL-2.0 */
/*
 * User mode for guests of the selftests library, which has none: CPL 3 with the same
 * memory, the same stack, and IOPL 3, so that it can ask its host for something, and
 * mask interrupts.  Handlers run at CPL 0.
 */
#ifndef USER_MODE_H
#define USER_MODE_H

#include "kvm_util.h"
#include "processor.h"

#define USER_CS		0x43
#define USER_DS		0x4b
#define USER_RFLAGS	0x3202			/* IOPL 3, IF */

/* Pages, segments and a stack for handlers; by the host, when all memory is there. */
void user_mode_allow(struct kvm_vcpu *vcpu);

/* By the guest: the caller goes on at CPL 3, with interrupts enabled. */
static __always_inline void user_mode_enter(void)
{
	asm volatile("mov %%rsp, %%rax\n\t"
		     "push %[ss]\n\t"
		     "push %%rax\n\t"
		     "push %[flags]\n\t"
		     "push %[cs]\n\t"
		     "lea 1f(%%rip), %%rax\n\t"
		     "push %%rax\n\t"
		     "iretq\n"
		     "1:"
		     : : [ss] "i" (USER_DS), [cs] "i" (USER_CS), [flags] "i" (USER_RFLAGS)
		     : "rax", "memory", "cc");
}

#endif /* USER_MODE_H */
