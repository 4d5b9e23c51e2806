// SPDX-License-Identifier: GPL-2.0
/* The explorer's guest: a loop that waits for interrupts, and says when they are late. */
#include "apic.h"
#include "kvm_util.h"
#include "processor.h"

#include "explore.h"

#define X2APIC_MSR(reg)	(APIC_BASE_MSR + ((reg) >> 4))
#define EXITS		2
#define NOBODY		0xfffffffeull	/* an x2APIC ID that there is not */

struct explore_shared *explore_shared;

void explore_guest_irq(struct ex_regs *regs)
{
	struct explore_shared *s = explore_shared;
	u64 *handled = &s->handled[regs->vector - EXPLORE_VEC];

	if (*handled)
		WRITE_ONCE(s->wrong, 2);
	WRITE_ONCE(*handled, 1);
	wrmsr(X2APIC_MSR(APIC_EOI), 0);
}

static bool all_handled(struct explore_shared *s)
{
	u64 n;

	for (n = 0; n < s->posters; n++)
		if (!READ_ONCE(s->handled[n]))
			return false;
	return true;
}

/* Each on its own: what a later post's notification brings along is late all the same. */
static void look_for_late(struct explore_shared *s, u64 *turns)
{
	u64 n;

	for (n = 0; n < s->posters; n++)
		if (READ_ONCE(s->posted[n]) && !READ_ONCE(s->handled[n]) && ++turns[n] > s->late)
			WRITE_ONCE(s->wrong, 1);
}

static void wait_for_all(struct explore_shared *s)
{
	u64 turns[EXPLORE_POSTERS] = {};
	u32 eax, ebx, ecx, edx;
	u64 n;

	for (n = 0; !all_handled(s) && !s->wrong; n++) {
		/* Then without exits, which would bring along what was not notified. */
		switch (n < EXITS || s->guest == EXPLORE_HLT ? s->guest : EXPLORE_COMPUTE) {
		case EXPLORE_FASTPATH:
			wrmsr(X2APIC_MSR(APIC_ICR), NOBODY << 32 | EXPLORE_VEC);
			break;
		case EXPLORE_EXITS:
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

void explore_guest_main(void)
{
	x2apic_enable();
	for (;;) {
		asm volatile("sti");
		wait_for_all(explore_shared);
		asm volatile("outb %%al, %%dx" : : "a"(0), "d"(EXPLORE_EXIT) : "memory");
	}
}
