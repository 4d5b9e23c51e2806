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

#define EOI_MSR		(APIC_BASE_MSR + (APIC_EOI >> 4))
#define ENABLE		(KVM_ASYNC_PF_ENABLED | KVM_ASYNC_PF_SEND_ALWAYS | \
			 KVM_ASYNC_PF_DELIVERY_AS_INT)

struct apf_fail *apf_fail;

static struct apf_area *area(void)
{
	return (void *)apf_guest_vcpus[0].area[0];
}

static bool given_up(void)
{
	return READ_ONCE(apf_fail->step.stop) || apf_fail->announced > apf_fail->most;
}

/* false if the host, or the guest itself, has had enough of it */
static bool until(u64 *count, u64 n)
{
	while (READ_ONCE(*count) < n && !given_up())
		apf_fail->turns++;
	return READ_ONCE(*count) >= n;
}

static void token_came(u32 token)
{
	u64 i;

	if (token == APF_WAKE_ALL) {
		apf_fail->wakes++;
		return;
	}
	for (i = 0; i < apf_fail->nr_out && apf_fail->out[i] != token; i++)
		;
	if (i == apf_fail->nr_out) {
		apf_fail->unknown++;
		return;
	}
	apf_fail->out[i] = apf_fail->out[--apf_fail->nr_out];
	apf_fail->ready++;
}

void apf_fail_ready(struct ex_regs *regs)
{
	u32 token = READ_ONCE(area()->token);

	(void)regs;
	wrmsr(EOI_MSR, 0);
	WRITE_ONCE(area()->token, 0);
	if (token)
		token_came(token);
	wrmsr(MSR_KVM_ASYNC_PF_ACK, 1);
}

void apf_fail_fault(struct ex_regs *regs)
{
	u64 cr2;

	asm volatile("mov %%cr2, %0" : "=r"(cr2));
	GUEST_ASSERT(regs->r11 && apf_fail->nr_out < APF_MAX_OUT);
	GUEST_ASSERT(READ_ONCE(area()->flags) == KVM_PV_REASON_PAGE_NOT_PRESENT);
	WRITE_ONCE(area()->flags, 0);
	apf_fail->out[apf_fail->nr_out++] = cr2;
	apf_fail->announced++;
	regs->rip = regs->r11;
}

/* As apf_touch(), which reads: was it there? */
static bool touch_write(u64 gva)
{
	u64 skipped;

	asm volatile("lea 1f(%%rip), %%r11\n\t"
		     "movl $1, 8(%[p])\n\t"
		     "xor %%r11d, %%r11d\n"
		     "1: mov %%r11, %[s]"
		     : [s] "=r" (skipped) : [p] "r" (gva) : "r11", "memory");
	return !skipped;
}

static bool touch(u64 page)
{
	u64 gva = apf_guest_vcpus[0].pages + page * PAGE_SIZE, value;

	return apf_fail->write ? touch_write(gva) : apf_touch(gva, &value);
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
	if (!until(&apf_fail->ready, apf_fail->announced))
		apf_fail->step.failed = __LINE__;
	apf_ask(FAIL_READY);
	for (i = 0; i < apf_fail->pages; i++)
		while (!touch(i) && !given_up())
			until(&apf_fail->ready, apf_fail->announced);
}

void apf_fail_main(u64 vcpu)
{
	(void)vcpu;
	x2apic_enable();
	if (apf_fail->told)
		enable();
	asm volatile("sti");
	if (apf_fail->told && !until(&apf_fail->wakes, 1))
		apf_fail->step.failed = __LINE__;
	apf_ask(FAIL_BEGUN);
	for (;;) {
		touch_all();
		apf_ask(FAIL_DONE);
	}
}
