// SPDX-License-Identifier: GPL-2.0
/*
 * The guest of tasks.c: one task touches pages in kernel mode, the other one computes while the
 * first one sleeps.
 */
#include <asm/kvm_para.h>

#include "apic.h"
#include "kvm_util.h"
#include "processor.h"

#include "apf-guest.h"
#include "apf-tokens.h"
#include "can-sleep.h"
#include "tasks.h"

#define ENABLE	(KVM_ASYNC_PF_ENABLED | KVM_ASYNC_PF_DELIVERY_AS_INT)
#define UNIT	64		/* turns of a loop in a unit of work */

struct tasks *tasks;

static struct apf_tokens tokens;

static struct apf_vcpu *me(void)
{
	return &apf_guest_vcpus[0];
}

static struct apf_area *area(void)
{
	return (void *)me()->area[0];
}

static struct sleep_words *words(void)
{
	return (void *)tasks->words;
}

void tasks_ready(struct ex_regs *regs)
{
	(void)regs;
	apf_token_take(&tokens, area());
	tasks->ready = tokens.ready;
}

static bool is_event(struct ex_regs *regs)
{
	if (tasks->told == TASKS_LIST)
		return regs->error_code == KVM_ASYNC_PF_NOT_PRESENT;
	if (READ_ONCE(area()->flags) != KVM_PV_REASON_PAGE_NOT_PRESENT)
		return false;
	WRITE_ONCE(area()->flags, 0);
	return true;
}

/* The access is made again then, or skipped: apf_touch() goes on at regs->r11. */
void tasks_fault(struct ex_regs *regs)
{
	u64 cr2 = apf_read_cr2();

	if (!is_event(regs))
		GUEST_FAIL("#PF at 0x%lx, address 0x%lx, error code 0x%lx", regs->rip, cr2,
			   regs->error_code);
	apf_token_announced(&tokens, cr2);
	me()->announced = tokens.announced;
	if (sleep_words_can(words())) {
		tasks->slept++;
		regs->rip = regs->r11;
		return;
	}
	tasks->halted++;
	tasks->forbidden += tasks->told == TASKS_LIST;
	while (READ_ONCE(tokens.ready) < tokens.announced)
		asm volatile("sti; hlt; cli" ::: "memory");
}

static void enable(void)
{
	u64 en = me()->area_gpa[0] | ENABLE;

	sleep_words_neutral(words());
	sleep_list_make(tasks->list, words(), tasks->words_gpa);
	wrmsr(MSR_KVM_ASYNC_PF_INT, APF_VEC);
	if (tasks->told == TASKS_LIST)
		wrmsr(MSR_KVM_ASYNC_PF_EXT, tasks->list_gpa | KVM_ASYNC_PF_EXT_MARK |
		      KVM_ASYNC_PF_EXT_PRED);
	if (tasks->told == TASKS_ALWAYS)
		en |= KVM_ASYNC_PF_SEND_ALWAYS;
	wrmsr(MSR_KVM_ASYNC_PF_EN, en);
}

static void compute(void)
{
	u64 i;

	for (i = 0; i < UNIT; i++)
		barrier();
}

static void touch(u64 page)
{
	u64 value;

	while (!apf_touch(me()->pages + page * PAGE_SIZE, &value)) {
		while (READ_ONCE(tokens.ready) < READ_ONCE(tokens.announced)) {
			compute();
			tasks->other++;
		}
	}
	if (value != apf_page_value(page, me()->round))
		me()->wrong_page++;
	me()->touched++;
}

void tasks_main(u64 vcpu)
{
	u64 rnd = me()->seed, page, n;

	(void)vcpu;
	x2apic_enable();
	enable();
	asm volatile("sti");
	while (!READ_ONCE(tokens.wakes))
		;
	apf_ask(TASKS_BEGIN);
	me()->t_start = rdtsc();
	while (me()->round < me()->rounds) {
		for (page = 0; page < me()->nr_pages; page++) {
			for (n = rnd_below(&rnd, me()->gap_max + 1) / UNIT; n; n--)
				compute();
			words()->count += rnd_below(&rnd, 100) < tasks->held;
			touch(page);
			words()->count = SLEEP_NO_RESCHED;
		}
		me()->t_end = rdtsc();
		if (++me()->round < me()->rounds)
			apf_ask(APF_ASK_ROUND);
	}
	apf_ask(APF_ASK_END);
}
