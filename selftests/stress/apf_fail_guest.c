// SPDX-License-Identifier: GPL-2.0
/*
 * The guest of apf_fail_test.c: touches pages, waits for the events of those that are
 * announced, and touches them again until they are there; and once more from the start.
 */
#include <asm/kvm_para.h>

#include "apic.h"
#include "kvm_util.h"
#include "processor.h"

#include "apf_fail.h"

#define ENABLE		(KVM_ASYNC_PF_ENABLED | KVM_ASYNC_PF_SEND_ALWAYS | \
			 KVM_ASYNC_PF_DELIVERY_AS_INT)

struct apf_fail *apf_fail;

static struct apf_area *area(void)
{
	return (void *)apf_guest_vcpus[0].area[0];
}

static bool given_up(void)
{
	return READ_ONCE(apf_fail->step.stop) || apf_fail->t.announced > apf_fail->most;
}

/* false if the host, or the guest itself, has had enough of it */
static bool until(u64 *count, u64 n)
{
	while (READ_ONCE(*count) < n && !given_up())
		apf_fail->turns++;
	return READ_ONCE(*count) >= n;
}

void apf_fail_ready(struct ex_regs *regs)
{
	(void)regs;
	apf_token_take(&apf_fail->t, area());
}

void apf_fail_fault(struct ex_regs *regs)
{
	GUEST_ASSERT(regs->r11);
	GUEST_ASSERT(READ_ONCE(area()->flags) == KVM_PV_REASON_PAGE_NOT_PRESENT);
	WRITE_ONCE(area()->flags, 0);
	apf_token_announced(&apf_fail->t, apf_read_cr2());
	regs->rip = regs->r11;
}

static bool touch(u64 page)
{
	u64 gva = apf_guest_vcpus[0].pages + page * PAGE_SIZE, value;

	return apf_fail->write ? apf_touch_write(gva) : apf_touch(gva, &value);
}

static void enable(void)
{
	wrmsr(MSR_KVM_ASYNC_PF_INT, APF_VEC);
	wrmsr(MSR_KVM_ASYNC_PF_EN, apf_guest_vcpus[0].area_gpa[0] | ENABLE);
}

/* Some are announced, and said to be ready; then each has to be there. */
static void touch_all(void)
{
	u64 i;

	for (i = 0; i < apf_fail->pages; i++)
		touch(i);
	if (!until(&apf_fail->t.ready, apf_fail->t.announced))
		apf_fail->step.failed = __LINE__;
	apf_ask(FAIL_READY);
	for (i = 0; i < apf_fail->pages; i++)
		while (!touch(i) && !given_up())
			until(&apf_fail->t.ready, apf_fail->t.announced);
}

void apf_fail_main(u64 vcpu)
{
	(void)vcpu;
	x2apic_enable();
	if (apf_fail->told)
		enable();
	asm volatile("sti");
	if (apf_fail->told && !until(&apf_fail->t.wakes, 1))
		apf_fail->step.failed = __LINE__;
	apf_ask(FAIL_BEGUN);
	for (;;) {
		touch_all();
		apf_ask(FAIL_DONE);
	}
}
