// SPDX-License-Identifier: GPL-2.0
/*
 * The guest of apf_report_test.c: accesses a page, waits for it if it is announced, and is
 * told if it will not come.
 */
#include <asm/kvm_para.h>

#include "apic.h"
#include "kvm_util.h"
#include "processor.h"
#include "svm_util.h"
#include "vmx.h"

#include "apf_report.h"
#include "l2-setup.h"
#include "user-mode.h"

#define ENABLE		(KVM_ASYNC_PF_ENABLED | KVM_ASYNC_PF_DELIVERY_AS_INT)
#define RFLAGS_IF	BIT(9)
#define MARK_FAIL	(KVM_ASYNC_PF_EXT_MARK | KVM_ASYNC_PF_EXT_FAIL)

struct apf_report *apf_report;

#define CHECK(condition)						\
	do {								\
		apf_report->checks++;					\
		if (!(condition) && !apf_report->step.failed)		\
			apf_report->step.failed = __LINE__;		\
	} while (0)

/* Its page is the one that all vCPUs access. */
static struct apf_vcpu *me(void)
{
	return &apf_guest_vcpus[0];
}

static u64 *told_here(void)
{
	return &apf_report->failed[rdmsr(APIC_BASE_MSR + (APIC_ID >> 4))];
}

void apf_report_ready(struct ex_regs *regs)
{
	(void)regs;
	apf_token_take(&apf_report->t, (void *)me()->area[0]);
}

/* --- handlers ------------------------------------------------------------------ */

static u64 accessed(void)
{
	if (apf_report->access == REPORT_TABLES)
		return REPORT_TABLES_GVA;
	return me()->pages + (apf_report->access == REPORT_WRITE) * 8;
}

static void failed(struct ex_regs *regs, u64 address)
{
	bool is_user = (regs->cs & 3) == 3, masked = !(regs->rflags & RFLAGS_IF);
	u64 wanted = accessed();

	if (!apf_report->addresses)
		wanted = KVM_ASYNC_PF_NO_ADDRESS;
	++*told_here();
	apf_report->wrong_address += address != wanted;
	apf_report->wrong_mode += is_user != (apf_report->where == REPORT_USER) ||
				  masked != (apf_report->where == REPORT_MASKED);
	apf_report->stale += !READ_ONCE(apf_report->gone);
}

/* It goes on at regs->r11, behind the access. */
void apf_report_fault(struct ex_regs *regs)
{
	u64 cr2 = apf_read_cr2();

	if (regs->error_code == KVM_ASYNC_PF_NOT_PRESENT)
		apf_token_announced(&apf_report->t, cr2);
	else if (regs->error_code == KVM_ASYNC_PF_FAILED)
		failed(regs, cr2);
	else
		GUEST_FAIL("#PF at 0x%lx, address 0x%lx, error code 0x%lx", regs->rip, cr2,
			   regs->error_code);
	if (apf_report->access == REPORT_FETCH ? regs->rip == me()->pages :
						 regs->r11 - regs->rip - 1 < TOUCH_BYTES)
		regs->rip = regs->r11;
	else
		apf_report->elsewhere++;
}

/* --- accesses -------------------------------------------------------------------- */

/* The page is not code: it is not there. */
static bool fetch(u64 gva)
{
	asm volatile("lea 1f(%%rip), %%r11\n\t"
		     "jmp *%0\n"
		     "1:"
		     : : "r" (gva) : "r11", "memory");
	return false;
}

static u64 l2_stack[512];

static void l2_main(void)
{
	u64 value;

	apf_touch(me()->pages, &value);
	GUEST_FAIL("L2 has gone on");
}

static void enter_l2(void)
{
	void *pages = (void *)apf_report->nested, *top = &l2_stack[ARRAY_SIZE(l2_stack) - 1];

	if (host_cpu_is_intel) {
		GUEST_ASSERT(prepare_for_vmx_operation(pages) && load_vmcs(pages));
		l2_vmx_setup(pages, l2_main, top);
		GUEST_ASSERT(!vmlaunch());
	} else {
		l2_svm_setup(pages, l2_main, top);
		run_guest(((struct svm_test_data *)pages)->vmcb,
			  ((struct svm_test_data *)pages)->vmcb_gpa);
	}
	GUEST_FAIL("L2 has exited");
}

static bool access_page(void)
{
	u64 value = 0;

	switch (apf_report->access) {
	case REPORT_WRITE:
		return apf_touch_write(me()->pages);
	case REPORT_FETCH:
		return fetch(me()->pages);
	case REPORT_DELIVERY:
		asm volatile("ud2");
		return false;
	case REPORT_L2:
		enter_l2();
		return false;
	case REPORT_SMM:	/* not by this */
		cpu_relax();
		return false;
	}
	if (!apf_touch(accessed(), &value))
		return false;
	apf_report->wrong_page += value && value != apf_page_value(0, 0);
	return true;
}

/* To the page itself, or until told that it will not come */
static void access_to_the_end(u64 vcpu)
{
	u64 *failures = &apf_report->failed[vcpu], told = *failures;

	while (!READ_ONCE(apf_report->step.stop)) {
		if (access_page()) {
			apf_report->there++;
			apf_report->wrong_page += READ_ONCE(apf_report->gone);
			return;
		}
		if (READ_ONCE(*failures) != told)
			return;
		while (READ_ONCE(apf_report->t.ready) < READ_ONCE(apf_report->t.announced) &&
		       !READ_ONCE(apf_report->step.stop))
			;
	}
}

static void enable(u64 vcpu)
{
	wrmsr(MSR_KVM_ASYNC_PF_EXT, apf_report->ext);
	if (vcpu) {	/* without a vector there are no page-ready events */
		wrmsr(MSR_KVM_ASYNC_PF_EN, apf_guest_vcpus[vcpu].area_gpa[0] | ENABLE);
		asm volatile("sti");
		return;
	}
	wrmsr(MSR_KVM_ASYNC_PF_INT, APF_VEC);
	wrmsr(MSR_KVM_ASYNC_PF_EN, me()->area_gpa[0] | ENABLE);
	asm volatile("sti");
	while (!READ_ONCE(apf_report->t.wakes) && !READ_ONCE(apf_report->step.stop))
		;
}

static void abi(void)
{
	u64 bit;

	CHECK(wrmsr_safe(MSR_KVM_ASYNC_PF_EXT, KVM_ASYNC_PF_EXT_FAIL) == GP_VECTOR);
	for (bit = 2; bit < 64; bit++)
		CHECK(wrmsr_safe(MSR_KVM_ASYNC_PF_EXT, BIT_ULL(bit) | MARK_FAIL) == GP_VECTOR);
	CHECK(rdmsr(MSR_KVM_ASYNC_PF_EXT) == 0);
	if (apf_report->ext != MARK_FAIL) {	/* without its bit in CPUID */
		CHECK(wrmsr_safe(MSR_KVM_ASYNC_PF_EXT, MARK_FAIL) == GP_VECTOR);
		CHECK(!wrmsr_safe(MSR_KVM_ASYNC_PF_EXT, KVM_ASYNC_PF_EXT_MARK));
		return;
	}
	CHECK(!wrmsr_safe(MSR_KVM_ASYNC_PF_EXT, MARK_FAIL));
	CHECK(rdmsr(MSR_KVM_ASYNC_PF_EXT) == MARK_FAIL);
	CHECK(!wrmsr_safe(MSR_KVM_ASYNC_PF_EXT, KVM_ASYNC_PF_EXT_MARK));
	CHECK(!wrmsr_safe(MSR_KVM_ASYNC_PF_EXT, 0));
}

/* Each page is taken away again. */
static void storm(void)
{
	while (!READ_ONCE(me()->stop)) {
		if (!READ_ONCE(apf_report->gone))
			apf_ask(REPORT_TRUNCATE);
		access_to_the_end(0);
		me()->touched++;
	}
	apf_ask(APF_ASK_END);
}

/* From one moment on */
static void together(u64 vcpu)
{
	u64 i;

	__atomic_add_fetch(&apf_report->arrived, 1, __ATOMIC_SEQ_CST);
	while (READ_ONCE(apf_report->arrived) < apf_report->vcpus)
		;
	for (i = 0; i < REPORT_TOGETHER; i++) {
		access_to_the_end(vcpu);
		apf_guest_vcpus[vcpu].touched++;
	}
}

void apf_report_main(u64 vcpu)
{
	x2apic_enable();
	if (apf_report->abi) {
		abi();
		apf_ask(REPORT_DONE);
	}
	enable(vcpu);
	if (apf_report->where == REPORT_USER)
		user_mode_enter();
	else if (apf_report->where == REPORT_MASKED)
		asm volatile("cli");
	if (apf_report->storm)
		storm();
	if (apf_report->vcpus > 1) {
		together(vcpu);
		apf_ask(APF_ASK_END);
	}
	apf_ask(REPORT_BEGUN);
	for (;;) {
		access_to_the_end(vcpu);
		apf_ask(REPORT_DONE);
	}
}
