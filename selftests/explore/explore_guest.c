// SPDX-License-Identifier: GPL-2.0
/*
 * The explorer's guest: a loop that waits for interrupts, those of pages among them, and
 * says when they are late.
 */
#include <asm/kvm_para.h>

#include "apic.h"
#include "kvm_util.h"
#include "processor.h"

#include "apf-tokens.h"
#include "explore.h"

#define X2APIC_MSR(reg)	(APIC_BASE_MSR + ((reg) >> 4))
#define EXITS		2
#define NOBODY		0xfffffffeull	/* an x2APIC ID that there is not */

struct explore_shared *explore_shared;
static struct apf_tokens tokens;
static u32 token[EXPLORE_EVENTS];	/* of each page */
static u64 touching;

void explore_guest_irq(struct ex_regs *regs)
{
	struct explore_shared *s = explore_shared;
	u64 *handled = &s->handled[regs->vector - EXPLORE_VEC];

	if (*handled)
		WRITE_ONCE(s->wrong, EXPLORE_TWICE);
	WRITE_ONCE(*handled, 1);
	wrmsr(X2APIC_MSR(APIC_EOI), 0);
}

static void leave_to(u16 port)
{
	asm volatile("outb %%al, %w0" : : "d"(port), "a"(0) : "memory");
}

static struct apf_area *area(void)
{
	return (void *)explore_shared->area;
}

/* A page is not there: what touches it goes on without. */
void explore_guest_fault(struct ex_regs *regs)
{
	GUEST_ASSERT(READ_ONCE(area()->flags) == KVM_PV_REASON_PAGE_NOT_PRESENT && regs->r11);
	WRITE_ONCE(area()->flags, 0);
	token[touching] = apf_read_cr2();
	apf_token_announced(&tokens, token[touching]);
	regs->rip = regs->r11;
}

void explore_guest_ready(struct ex_regs *regs)
{
	struct explore_shared *s = explore_shared;
	u32 came = READ_ONCE(area()->token);
	u64 n;

	(void)regs;
	apf_token_take(&tokens, area());
	if (!came || tokens.unknown)
		WRITE_ONCE(s->wrong, EXPLORE_TWICE);
	for (n = 0; n < s->events; n++)
		if (token[n] == came)
			WRITE_ONCE(s->handled[n], 1);
}

static void enable_async_pf(struct explore_shared *s)
{
	wrmsr(MSR_KVM_ASYNC_PF_INT, APF_VEC);
	wrmsr(MSR_KVM_ASYNC_PF_EN, s->area_gpa | KVM_ASYNC_PF_ENABLED | KVM_ASYNC_PF_SEND_ALWAYS |
	      KVM_ASYNC_PF_DELIVERY_AS_INT);
}

/* None of them is there. */
static void touch_pages(struct explore_shared *s)
{
	u64 value;

	for (touching = 0; touching < s->events; touching++)
		GUEST_ASSERT(!apf_touch(s->page[touching], &value));
	leave_to(EXPLORE_READY);
}

/* What the tokens have said */
static void touch_pages_again(struct explore_shared *s)
{
	u64 value;

	for (touching = 0; touching < s->events; touching++)
		if (READ_ONCE(s->handled[touching]) && !apf_touch(s->page[touching], &value))
			WRITE_ONCE(s->wrong, EXPLORE_EARLY);
}

static bool all_handled(struct explore_shared *s)
{
	u64 n;

	for (n = 0; n < s->events; n++)
		if (!READ_ONCE(s->handled[n]))
			return false;
	return true;
}

/* Each on its own: what a later post's notification brings along is late all the same. */
static void look_for_late(struct explore_shared *s, u64 *turns)
{
	u64 n;

	for (n = 0; n < s->events; n++)
		if (READ_ONCE(s->posted[n]) && !READ_ONCE(s->handled[n]) && ++turns[n] > s->late)
			WRITE_ONCE(s->wrong, EXPLORE_LATE);
}

static void wait_for_all(struct explore_shared *s)
{
	u64 turns[EXPLORE_EVENTS] = {};
	u32 eax, ebx, ecx, edx;
	u64 n;

	for (n = 0; !all_handled(s) && !s->wrong; n++) {
		/* Then without exits, which would bring along what was not notified. */
		switch (n < EXITS || s->guest >= EXPLORE_HLT ? s->guest : EXPLORE_COMPUTE) {
		case EXPLORE_FASTPATH:
			wrmsr(X2APIC_MSR(APIC_ICR), NOBODY << 32 | EXPLORE_VEC);
			break;
		case EXPLORE_EXITS:
		case EXPLORE_ALL_EXITS:
			cpuid(0, &eax, &ebx, &ecx, &edx);
			break;
		case EXPLORE_HLT:
			asm volatile("cli");
			if (!all_handled(s))
				asm volatile("sti; hlt");
			asm volatile("sti");
			break;
		}
		look_for_late(s, turns);
	}
	/* One that is there a second time comes with the next entry. */
	cpuid(0, &eax, &ebx, &ecx, &edx);
	cpuid(0, &eax, &ebx, &ecx, &edx);
}

void explore_guest_main(u64 nr)
{
	struct explore_shared *s = explore_shared;

	(void)nr;
	x2apic_enable();
	asm volatile("sti");
	if (s->page[0])
		enable_async_pf(s);
	for (;;) {
		if (s->page[0])
			touch_pages(s);
		wait_for_all(s);
		if (s->page[0])
			touch_pages_again(s);
		leave_to(EXPLORE_EXIT);
	}
}
