/* SPDX-License-Identifier: GPL-2.0 */
/* What the benchmark `tasks` shares with its guest, tasks-guest.c. */
#ifndef TASKS_H
#define TASKS_H

#include <linux/types.h>

#include "apf-guest.h"

#define TASKS_BEGIN	APF_ASK_OWN	/* the guest is about to touch its first page */

/* When the guest is told of a page that is not present */
enum tasks_told {
	TASKS_USER,	/* in user mode only, as Linux asks for: the vCPU halts in kernel mode */
	TASKS_ALWAYS,	/* always; where it cannot sleep it halts by itself until the page comes */
	TASKS_LIST,	/* in kernel mode where its list of words says that it can sleep */
	TASKS_NR_TOLD,
};

struct tasks {
	/* written by the host */
	u64 told;		/* enum tasks_told */
	u64 held;		/* accesses in a hundred where the guest cannot sleep */
	u64 words, words_gpa;	/* struct sleep_words */
	u64 list, list_gpa;

	/* written by the guest */
	u64 slept;		/* events at which the other task went on */
	u64 halted;		/* events at which the guest could only wait */
	u64 forbidden;		/* of these with a list: none */
	u64 ready;
	u64 other;		/* the other task's units of work */
};

struct ex_regs;

void tasks_main(u64 vcpu);
void tasks_fault(struct ex_regs *regs);
void tasks_ready(struct ex_regs *regs);

extern struct tasks *tasks;

#endif /* TASKS_H */
