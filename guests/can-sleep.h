/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Can a guest's kernel sleep where it is?  By words like those that Linux has for that, and the
 * list of them for KVM: struct kvm_async_pf_predicate.
 */
#ifndef CAN_SLEEP_H
#define CAN_SLEEP_H

#include <asm/kvm_apf.h>
#include <linux/types.h>
#include <string.h>

#include "kvm_util.h"

#define SLEEP_TASK_IDLE		0x2
#define SLEEP_NO_RESCHED	0x80000000u	/* set: no reschedule is due */

struct sleep_task {
	u32 flags;		/* SLEEP_TASK_IDLE */
	u32 readers;		/* of RCU */
};

struct sleep_words {
	u32 count;		/* preempt count, with SLEEP_NO_RESCHED */
	u32 held;		/* for the host: not in Linux */
	u64 current;		/* GVA of a task */
	struct sleep_task tasks[2];
};

static inline void sleep_words_neutral(struct sleep_words *w)
{
	w->count = SLEEP_NO_RESCHED;
	w->current = (u64)&w->tasks[0];
	memset(w->tasks, 0, sizeof(w->tasks));
}

/* By the words themselves; whether interrupts are enabled is the caller's to know. */
static inline bool sleep_words_can(const struct sleep_words *w)
{
	const struct sleep_task *task = (void *)w->current;

	return !(w->count & ~SLEEP_NO_RESCHED) && !w->held &&
	       (u64)task - (u64)w < sizeof(*w) && !task->readers &&
	       !(task->flags & SLEEP_TASK_IDLE);
}

static inline struct kvm_async_pf_load sleep_word(u64 gpa, unsigned int size, u64 mask)
{
	return (struct kvm_async_pf_load){ .address = gpa, .size = size, .mask = mask };
}

/* A member of the task that load 1 leads to, @difference from its GVA to its GPA */
static inline struct kvm_async_pf_load sleep_word_of_task(u64 difference, u64 member, u32 mask)
{
	return (struct kvm_async_pf_load){
		.address = difference + member, .base = 2, .size = 4, .mask = mask };
}

/* Where a page has the list */
static inline struct kvm_async_pf_predicate *sleep_list(u64 page)
{
	return (void *)(page + KVM_ASYNC_PF_PRED_OFFSET);
}

/* Into @page, of zeroes; @gpa is that of the words. */
static inline void sleep_list_make(u64 page, struct sleep_words *w, u64 gpa)
{
	struct kvm_async_pf_predicate *p = sleep_list(page);
	u64 difference = gpa - (u64)w;

	p->magic = KVM_ASYNC_PF_PRED_MAGIC;
	p->version = KVM_ASYNC_PF_PRED_VERSION;
	p->nr_loads = 5;
	p->loads[0] = sleep_word(gpa + offsetof(struct sleep_words, count), 4, ~SLEEP_NO_RESCHED);
	p->loads[1] = sleep_word(gpa + offsetof(struct sleep_words, current), 8, 0);
	p->loads[2] = sleep_word_of_task(difference, offsetof(struct sleep_task, readers), ~0u);
	p->loads[3] = sleep_word_of_task(difference, offsetof(struct sleep_task, flags),
					 SLEEP_TASK_IDLE);
	p->loads[4] = sleep_word(gpa + offsetof(struct sleep_words, held), 4, ~0u);
}

#endif /* CAN_SLEEP_H */
