// SPDX-License-Identifier: GPL-2.0
/*
 * The guest of apf_mark_test.c: is told of pages that are not present by #PFs that mark themselves,
 * or, for comparison, by the flags in its memory.
 */
#include <asm/kvm_para.h>

#include "apic.h"
#include "kvm_util.h"
#include "processor.h"

#include "apf_mark.h"
#include "user-mode.h"

#define ICR_MSR		(APIC_BASE_MSR + (APIC_ICR >> 4))
#define ENABLE		(KVM_ASYNC_PF_ENABLED | KVM_ASYNC_PF_DELIVERY_AS_INT)
#define DETOUR_TURNS	100
#define RFLAGS_IF	BIT(9)

struct apf_mark *apf_mark;
u64 apf_mark_detour_stack[MARK_DETOUR_STACK];

static u64 in_nmi;	/* how deep: that of a #PF's handler lets the next one in */

#define CHECK(condition)						\
	do {								\
		apf_mark->checks++;					\
		if (!(condition) && !apf_mark->step.failed)		\
			apf_mark->step.failed = __LINE__;		\
	} while (0)

static struct apf_vcpu *me(void)
{
	return &apf_guest_vcpus[0];
}

static struct apf_area *area(void)
{
	return (void *)me()->area[0];
}

/* --- handlers ------------------------------------------------------------------ */

void apf_mark_ready(struct ex_regs *regs)
{
	(void)regs;
	apf_token_take(&apf_mark->t, area());
}

/* Faults, as one does that is interrupted while it reads user memory, say. */
void apf_mark_nmi(struct ex_regs *regs)
{
	u64 cr2 = apf_read_cr2(), value;

	(void)regs;
	apf_mark->nmis_taken++;
	in_nmi++;
	apf_touch(MARK_HOLE, &value);
	in_nmi--;
	asm volatile("mov %0, %%cr2" : : "r" (cr2));
}

static bool is_event(struct ex_regs *regs)
{
	if (!apf_mark->legacy)
		return regs->error_code == KVM_ASYNC_PF_NOT_PRESENT;
	if (READ_ONCE(area()->flags) != KVM_PV_REASON_PAGE_NOT_PRESENT)
		return false;
	WRITE_ONCE(area()->flags, 0);
	return true;
}

static bool can_sleep(struct ex_regs *regs)
{
	return (regs->cs & 3) == 3 && regs->rflags & RFLAGS_IF;
}

static void announced(struct ex_regs *regs, u64 token)
{
	GUEST_ASSERT(token == (u32)token);
	apf_mark->forbidden += !can_sleep(regs);
	apf_token_announced(&apf_mark->t, token);
}

/* apf_touch() goes on at regs->r11. */
void apf_mark_fault(struct ex_regs *regs)
{
	u64 cr2 = apf_read_cr2();

	if (apf_mark->nmis && !in_nmi)
		wrmsr(ICR_MSR, APIC_DM_NMI);	/* to itself */
	if (is_event(regs)) {
		if (in_nmi)
			apf_mark->invented++;
		else
			announced(regs, cr2);
	} else if (in_nmi && cr2 == MARK_HOLE) {
		apf_mark->faults++;
	} else {
		apf_mark->missed++;
	}
	if (regs->r11 - regs->rip <= TOUCH_BYTES)
		regs->rip = regs->r11;
	else
		apf_mark->elsewhere++;
}

void apf_mark_detour(void)
{
	u64 turns;

	for (turns = 0; turns < DETOUR_TURNS; turns++)
		barrier();
	apf_mark->detours++;
	apf_ask(MARK_BACK);
	GUEST_FAIL("back from the detour to nowhere");
}

/* --- the MSR --------------------------------------------------------------------- */

static bool refused(u32 msr, u64 value)
{
	return wrmsr_safe(msr, value) == GP_VECTOR;
}

static void abi(void)
{
	u64 en = me()->area_gpa[0] | ENABLE, bit;

	CHECK(rdmsr(MSR_KVM_ASYNC_PF_EXT) == 0);
	for (bit = 1; bit < 64; bit++)
		CHECK(refused(MSR_KVM_ASYNC_PF_EXT, BIT_ULL(bit)) &&
		      refused(MSR_KVM_ASYNC_PF_EXT, BIT_ULL(bit) | KVM_ASYNC_PF_EXT_MARK));
	CHECK(rdmsr(MSR_KVM_ASYNC_PF_EXT) == 0);
	CHECK(!wrmsr_safe(MSR_KVM_ASYNC_PF_EXT, KVM_ASYNC_PF_EXT_MARK));
	CHECK(rdmsr(MSR_KVM_ASYNC_PF_EXT) == KVM_ASYNC_PF_EXT_MARK);
	wrmsr(MSR_KVM_ASYNC_PF_INT, APF_VEC);
	CHECK(refused(MSR_KVM_ASYNC_PF_EN, en | KVM_ASYNC_PF_SEND_ALWAYS));
	CHECK(rdmsr(MSR_KVM_ASYNC_PF_EN) == 0);
	CHECK(!wrmsr_safe(MSR_KVM_ASYNC_PF_EN, en));
	CHECK(refused(MSR_KVM_ASYNC_PF_EXT, KVM_ASYNC_PF_EXT_MARK));
	CHECK(refused(MSR_KVM_ASYNC_PF_EXT, 0));
	CHECK(rdmsr(MSR_KVM_ASYNC_PF_EXT) == KVM_ASYNC_PF_EXT_MARK);
	wrmsr(MSR_KVM_ASYNC_PF_EN, 0);
	CHECK(rdmsr(MSR_KVM_ASYNC_PF_EXT) == 0);
	CHECK(!wrmsr_safe(MSR_KVM_ASYNC_PF_EXT, KVM_ASYNC_PF_EXT_MARK));
	CHECK(!wrmsr_safe(MSR_KVM_ASYNC_PF_EXT, 0));
	CHECK(!wrmsr_safe(MSR_KVM_ASYNC_PF_EN, en | KVM_ASYNC_PF_SEND_ALWAYS));
	CHECK(refused(MSR_KVM_ASYNC_PF_EXT, KVM_ASYNC_PF_EXT_MARK));
	wrmsr(MSR_KVM_ASYNC_PF_EN, 0);
	wrmsr(MSR_KVM_ASYNC_PF_EXT, KVM_ASYNC_PF_EXT_MARK);
	wrmsr(MSR_KVM_ASYNC_PF_EN, en);
}

static void hidden(void)
{
	u64 value;

	CHECK(rdmsr_safe(MSR_KVM_ASYNC_PF_EXT, &value) == GP_VECTOR);
	CHECK(refused(MSR_KVM_ASYNC_PF_EXT, KVM_ASYNC_PF_EXT_MARK));
	CHECK(refused(MSR_KVM_ASYNC_PF_EXT, 0));
	/* Nothing else is missing. */
	CHECK(!wrmsr_safe(MSR_KVM_ASYNC_PF_EN,
			  me()->area_gpa[0] | ENABLE | KVM_ASYNC_PF_SEND_ALWAYS));
}

/* --- pages ----------------------------------------------------------------------- */

static bool touch(u64 page)
{
	u64 value;
	bool there = apf_touch(me()->pages + page * PAGE_SIZE, &value);

	apf_mark->wrong_page += there && value != apf_page_value(page, me()->round);
	me()->touched += there;
	return there;
}

static void wait_for_ready(void)
{
	while (READ_ONCE(apf_mark->t.ready) < READ_ONCE(apf_mark->t.announced) &&
	       !READ_ONCE(apf_mark->step.stop))
		;
}

static void enable(void)
{
	wrmsr(MSR_KVM_ASYNC_PF_INT, APF_VEC);
	if (!apf_mark->legacy) {
		WRITE_ONCE(area()->flags, MARK_PATTERN);
		wrmsr(MSR_KVM_ASYNC_PF_EXT, KVM_ASYNC_PF_EXT_MARK);
	}
	wrmsr(MSR_KVM_ASYNC_PF_EN, me()->area_gpa[0] | ENABLE);
}

static void one_page(void)
{
	asm volatile("sti");
	while (!READ_ONCE(apf_mark->t.wakes) && !READ_ONCE(apf_mark->step.stop))
		;
	apf_ask(MARK_READY);
	if (apf_mark->guest == MARK_USER || apf_mark->guest == MARK_MASKED)
		user_mode_enter();
	if (apf_mark->guest == MARK_MASKED)
		asm volatile("cli");
	if (!touch(0)) {
		wait_for_ready();
		CHECK(touch(0));
	}
	apf_ask(MARK_DONE);
}

static void storm(void)
{
	u64 page;

	asm volatile("sti");
	while (!READ_ONCE(apf_mark->t.wakes))
		;
	user_mode_enter();
	while (!READ_ONCE(me()->stop)) {
		for (page = 0; page < me()->nr_pages; page++)
			while (!touch(page))
				wait_for_ready();
		wait_for_ready();
		me()->round++;
		apf_ask(APF_ASK_ROUND);
	}
	apf_ask(APF_ASK_END);
}

void apf_mark_main(u64 vcpu)
{
	(void)vcpu;
	x2apic_enable();
	switch (apf_mark->guest) {
	case MARK_ABI:
		abi();
		apf_ask(MARK_DONE);
		break;
	case MARK_HIDDEN:
		hidden();
		apf_ask(MARK_DONE);
		break;
	case MARK_LOADED:
		WRITE_ONCE(area()->flags, MARK_PATTERN);
		apf_ask(MARK_LOAD);
		one_page();
		break;
	case MARK_STORM:
		enable();
		storm();
		break;
	default:
		enable();
		one_page();
	}
	GUEST_FAIL("nothing left to do");
}
