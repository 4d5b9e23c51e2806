// SPDX-License-Identifier: GPL-2.0
/* The guest of apf_vmm_test.c: scripts of one vCPU, which apf_vmm.h names. */
#include <asm/kvm_para.h>

#include "apic.h"
#include "kvm_util.h"
#include "processor.h"

#include "apf_vmm.h"

#define APIC_SPIV_MSR	(APIC_BASE_MSR + (APIC_SPIV >> 4))
#define APIC_TPR_MSR	(APIC_BASE_MSR + (APIC_TASKPRI >> 4))
#define EOI_MSR		(APIC_BASE_MSR + (APIC_EOI >> 4))
#define ENABLE		(KVM_ASYNC_PF_ENABLED | KVM_ASYNC_PF_SEND_ALWAYS | \
			 KVM_ASYNC_PF_DELIVERY_AS_INT)

/* Ticks in which what must not come would have */
#define QUIET_TICKS		(host_cpu_is_intel ? 2000000ull : 200000000ull)

struct apf_vmm *apf_vmm;

#define CHECK(condition)						\
	do {								\
		if (!(condition) && !apf_vmm->step.failed)			\
			apf_vmm->step.failed = __LINE__;			\
	} while (0)

static struct apf_vcpu *me(void)
{
	return &apf_guest_vcpus[0];
}

/* @i: of the two in apf_vcpu.area */
static struct apf_area *area_of(u64 i)
{
	return (void *)me()->area[i];
}

static struct apf_area *area(void)
{
	return area_of(me()->now);
}

static void say(u32 what)
{
	apf_ask(what);
}

static void irqs_on(void)
{
	asm volatile("sti" ::: "memory");
}

static void irqs_off(void)
{
	asm volatile("cli" ::: "memory");
}

static void spin(u64 ticks)
{
	u64 start = rdtsc();

	while (rdtsc() - start < ticks)
		asm volatile("pause");
}

/* Computing; false if the host has had enough of it */
static bool until(u64 *count, u64 n)
{
	while (READ_ONCE(*count) < n && !READ_ONCE(apf_vmm->step.stop))
		asm volatile("pause");
	return READ_ONCE(*count) >= n;
}

static void ack(void)
{
	apf_vmm->acks++;
	wrmsr(MSR_KVM_ASYNC_PF_ACK, 1);
}

static void token_came(u32 token)
{
	u64 i;

	if (token == APF_WAKE_ALL) {
		apf_vmm->wakes++;
		return;
	}
	for (i = 0; i < apf_vmm->nr_out && apf_vmm->out[i] != token; i++)
		;
	if (i == apf_vmm->nr_out) {
		apf_vmm->unknown++;
		return;
	}
	apf_vmm->out[i] = apf_vmm->out[--apf_vmm->nr_out];
	apf_vmm->ready++;
}

/* IRQs are off */
static void take_token(void)
{
	u32 token = READ_ONCE(area()->token);

	WRITE_ONCE(area()->token, 0);
	if (token)
		token_came(token);
	else
		apf_vmm->empty++;
	ack();
}

void apf_vmm_ready(struct ex_regs *regs)
{
	(void)regs;
	wrmsr(EOI_MSR, 0);
	if (READ_ONCE(apf_vmm->handler) == VMM_TAKE)
		take_token();
	apf_vmm->irqs++;
}

/* Only announcements.  Who leaves the token leaves the flags: it does not write there. */
void apf_vmm_fault(struct ex_regs *regs)
{
	u64 cr2;

	asm volatile("mov %%cr2, %0" : "=r"(cr2));
	GUEST_ASSERT(regs->r11 && apf_vmm->nr_out < APF_MAX_OUT);
	if (READ_ONCE(apf_vmm->handler) == VMM_TAKE) {
		CHECK(READ_ONCE(area()->flags) == KVM_PV_REASON_PAGE_NOT_PRESENT);
		WRITE_ONCE(area()->flags, 0);
	}
	apf_vmm->token = cr2;
	apf_vmm->out[apf_vmm->nr_out++] = cr2;
	apf_vmm->announced++;
	regs->rip = regs->r11;
}

void apf_vmm_nmi(struct ex_regs *regs)
{
	(void)regs;
	apf_vmm->nmis++;
}

void apf_vmm_early(struct ex_regs *regs)
{
	(void)regs;
	wrmsr(EOI_MSR, 0);
	apf_vmm->early++;
}

static bool touch(u64 page)
{
	u64 value;
	bool there = apf_touch(me()->pages + page * PAGE_SIZE, &value);

	CHECK(!there || value == apf_page_value(page, 0));
	return there;
}

static void on(u64 i)
{
	me()->now = i;
	wrmsr(MSR_KVM_ASYNC_PF_EN, me()->area_gpa[i] | ENABLE);
}

/* Enabled, and its wake-all taken; IRQs are on */
static void begin(void)
{
	wrmsr(MSR_KVM_ASYNC_PF_INT, APF_VEC);
	on(0);
	irqs_on();
	CHECK(until(&apf_vmm->wakes, 1));
}

/* --- scripts ---------------------------------------------------------------- */

static void event(void)
{
	begin();
	CHECK(!touch(0));
	say(VMM_ANNOUNCED);
	CHECK(until(&apf_vmm->ready, 1));
	spin(QUIET_TICKS / 10);
	CHECK(apf_vmm->ready == 1 && touch(0));
}

static void halt(void)
{
	asm volatile("sti; hlt" ::: "memory");
	apf_vmm->hlts++;
}

static void hlt_event(void)
{
	begin();
	CHECK(!touch(0));
	say(VMM_ANNOUNCED);
	for (;;) {
		irqs_off();
		if (apf_vmm->ready || READ_ONCE(apf_vmm->step.stop))
			break;
		halt();
	}
	irqs_on();
	CHECK(apf_vmm->ready == 1 && touch(0));
}

static void enabled_by_host(void)
{
	wrmsr(MSR_KVM_ASYNC_PF_INT, APF_VEC);
	irqs_on();
	say(VMM_READY);
	CHECK(until(&apf_vmm->wakes, 1));
	spin(QUIET_TICKS / 10);
	CHECK(apf_vmm->wakes == 1 && apf_vmm->irqs == 1);
}

/* Runs to its end several times, from the first say() on, with other numbers. */
static void restored(void)
{
	u64 page;

	begin();
	CHECK(!touch(0));
	say(VMM_READY);
	CHECK(until(&apf_vmm->wakes, READ_ONCE(apf_vmm->want_wakes)));
	CHECK(until(&apf_vmm->ready, READ_ONCE(apf_vmm->want_ready)));
	page = READ_ONCE(apf_vmm->page);
	CHECK(!touch(page));
	say(VMM_ANNOUNCED);
	CHECK(until(&apf_vmm->ready, READ_ONCE(apf_vmm->want_ready)));
	CHECK(touch(page) && touch(0));
}

/* The state in which nothing can be delivered, and how it ends */
static void hlt_block(u64 how)
{
	if (how == VMM_HLT_LAPIC_OFF)
		wrmsr(APIC_SPIV_MSR, rdmsr(APIC_SPIV_MSR) & ~APIC_SPIV_APIC_ENABLED);
	if (how == VMM_HLT_TPR)
		wrmsr(APIC_TPR_MSR, 0xf0);
	if (how == VMM_HLT_TOKEN_LEFT)
		apf_vmm->handler = VMM_LEAVE;
}

static void hlt_unblock(u64 how)
{
	irqs_off();
	switch (how) {
	case VMM_HLT_TOKEN_LEFT:
		apf_vmm->handler = VMM_TAKE;
		take_token();
		break;
	case VMM_HLT_NO_VECTOR:
		wrmsr(MSR_KVM_ASYNC_PF_INT, APF_VEC);
		break;
	case VMM_HLT_LAPIC_OFF:
		wrmsr(APIC_SPIV_MSR, rdmsr(APIC_SPIV_MSR) | APIC_SPIV_APIC_ENABLED);
		break;
	case VMM_HLT_TPR:
		wrmsr(APIC_TPR_MSR, 0);
		break;
	}
	irqs_on();
}

static void hlt_blocked(void)
{
	u64 how = apf_vmm->how, page;

	if (how == VMM_HLT_NO_VECTOR)
		on(0);
	else
		begin();
	irqs_on();
	for (page = 0; page < 3; page++)
		CHECK(!touch(page));
	irqs_off();
	hlt_block(how);
	say(VMM_ANNOUNCED);
	while (!READ_ONCE(apf_vmm->step.stop)) {
		if (how == VMM_HLT_CLI) {
			asm volatile("cli; hlt" ::: "memory");
			apf_vmm->hlts++;
		} else {
			halt();
			irqs_off();
		}
	}
	apf_vmm->step.stop = 0;
	hlt_unblock(how);
	CHECK(until(&apf_vmm->ready, 3) && until(&apf_vmm->wakes, 1));
	CHECK(touch(0) && touch(1) && touch(2));
}

static void init(void)
{
	if (!apf_vmm->lives++) {
		begin();
		say(VMM_READY);
	}
	apf_vmm->irqs = 0;
	apf_vmm->wakes = 0;
	WRITE_ONCE(area_of(0)->token, 0);
	apf_vmm->vector = rdmsr(MSR_KVM_ASYNC_PF_INT);
	on(0);
	irqs_on();
	spin(QUIET_TICKS);
	CHECK(!apf_vmm->irqs && !READ_ONCE(area()->token));
	wrmsr(MSR_KVM_ASYNC_PF_INT, APF_VEC);
	CHECK(until(&apf_vmm->wakes, 1));
}

static void keep(void)
{
	apf_vmm->handler = VMM_LEAVE;
	wrmsr(MSR_KVM_ASYNC_PF_INT, APF_VEC);
	on(0);
	irqs_on();
	CHECK(until(&apf_vmm->irqs, 1));
	irqs_off();
	say(VMM_READY);
	CHECK(READ_ONCE(area()->token) == APF_WAKE_ALL);
}

/* Up to its event the area is KVM's alone. */
static void dirty(void)
{
	begin();
	apf_vmm->handler = VMM_LEAVE;
	say(VMM_READY);
	CHECK(!touch(0));
	say(VMM_ANNOUNCED);
	CHECK(until(&apf_vmm->irqs, 2));
	say(VMM_READY);
	irqs_off();
	WRITE_ONCE(area()->flags, 0);
	take_token();
	irqs_on();
	CHECK(apf_vmm->ready == 1 && touch(0));
}

static void acks(void)
{
	u64 page, n = READ_ONCE(apf_vmm->page);

	begin();
	for (page = 0; page < n; page++) {
		CHECK(!touch(page));
		say(VMM_ANNOUNCED);
		CHECK(until(&apf_vmm->ready, page + 1));
		CHECK(touch(page));
	}
}

static void vectors(void)
{
	static const u8 early[] = { 0, 5, 20 };
	u64 i;

	for (i = 0; i < ARRAY_SIZE(early); i++) {
		wrmsr(MSR_KVM_ASYNC_PF_EN, 0);
		apf_vmm->vectors_refused += !!wrmsr_safe(MSR_KVM_ASYNC_PF_INT, early[i]);
		WRITE_ONCE(area()->token, 0);
		on(0);
		irqs_on();
		spin(QUIET_TICKS);
		CHECK(!touch(i));
		say(VMM_ANNOUNCED);
		spin(QUIET_TICKS);
		irqs_off();
		CHECK(!READ_ONCE(area()->token) && !apf_vmm->early);
	}
	wrmsr(MSR_KVM_ASYNC_PF_INT, APF_VEC);
	irqs_on();
	CHECK(until(&apf_vmm->wakes, 1) && until(&apf_vmm->ready, 1));
}

/* The host names area 1 last. */
static void twice(void)
{
	begin();
	CHECK(!touch(0));
	irqs_off();
	say(VMM_ANNOUNCED);
	me()->now = 1;
	irqs_on();
	CHECK(until(&apf_vmm->wakes, 2));
	spin(QUIET_TICKS);
	CHECK(apf_vmm->wakes == 2 && apf_vmm->ready <= 1 && touch(0));
	CHECK(!READ_ONCE(area_of(0)->token) && !READ_ONCE(area_of(0)->flags));
}

static void both(void)
{
	begin();
	CHECK(!touch(0) && !touch(1));
	irqs_off();
	say(VMM_ANNOUNCED);
	irqs_on();
	CHECK(until(&apf_vmm->ready, 2));
	CHECK(touch(0) && touch(1));
}

/* At CPL 0, where it wants no events; one that wakes all waits for the vector. */
static void halted(void)
{
	wrmsr(MSR_KVM_ASYNC_PF_EN, me()->area_gpa[0] | (ENABLE & ~KVM_ASYNC_PF_SEND_ALWAYS));
	irqs_on();
	say(VMM_READY);
	CHECK(touch(0));
	wrmsr(MSR_KVM_ASYNC_PF_INT, APF_VEC);
	CHECK(until(&apf_vmm->wakes, 1));
}

void apf_vmm_main(u64 vcpu)
{
	static void (* const scripts[])(void) = {
		[VMM_EVENT] = event,
		[VMM_HLT_EVENT] = hlt_event,
		[VMM_ENABLED_BY_HOST] = enabled_by_host,
		[VMM_RESTORED] = restored,
		[VMM_HLT] = hlt_blocked,
		[VMM_INIT] = init,
		[VMM_KEEP] = keep,
		[VMM_DIRTY] = dirty,
		[VMM_ACKS] = acks,
		[VMM_VECTORS] = vectors,
		[VMM_TWICE] = twice,
		[VMM_BOTH] = both,
		[VMM_HALTED] = halted,
	};

	(void)vcpu;
	x2apic_enable();
	scripts[apf_vmm->script]();
	for (;;)
		say(VMM_DONE);
}

/* --- NMIs ------------------------------------------------------------------- */

/*
 * In the handler of an NMI no announcement is read: flags are what they were, for
 * the one that was interrupted, when the handler returns.  And so is CR2.
 */
void apf_vmm_storm_nmi(struct ex_regs *regs)
{
	struct apf_area *a = area();
	u32 flags = READ_ONCE(a->flags);
	u64 cr2, value;

	(void)regs;
	asm volatile("mov %%cr2, %0" : "=r"(cr2));
	WRITE_ONCE(a->flags, 0);
	apf_vmm->nmis++;
	apf_vmm->between += !!flags;
	apf_vmm->misread += apf_touch(VMM_HOLE_GVA, &value);
	WRITE_ONCE(a->flags, flags);
	WRITE_ONCE(apf_vmm->nmis_done, apf_vmm->nmis_done + 1);
	asm volatile("mov %0, %%cr2" :: "r"(cr2));
}

/* Long enough for an NMI to come before flags are read */
static void dawdle(void)
{
	u64 i;

	for (i = rdtsc() % (host_cpu_is_intel ? 300 : 3000); i; i--)
		asm volatile("pause");
}

void apf_vmm_storm_fault(struct ex_regs *regs)
{
	u64 cr2;

	dawdle();
	asm volatile("mov %%cr2, %0" : "=r"(cr2));
	if (READ_ONCE(area()->flags)) {
		apf_vmm->misread += cr2 == VMM_HOLE_GVA;
		apf_guest_fault(regs);
		return;
	}
	apf_vmm->nested++;
	apf_vmm->misread += cr2 != VMM_HOLE_GVA;
	GUEST_ASSERT(regs->r11);
	regs->rip = regs->r11;
}
