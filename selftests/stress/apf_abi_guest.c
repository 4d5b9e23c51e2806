// SPDX-License-Identifier: GPL-2.0
/* The guest of apf_abi_test.c: what the three MSRs do and refuse, case by case. */
#include <asm/kvm_para.h>

#include "apic.h"
#include "kvm_util.h"
#include "processor.h"

#include "apf_abi.h"

#define EOI_MSR		(APIC_BASE_MSR + (APIC_EOI >> 4))
#define ENABLE		(KVM_ASYNC_PF_ENABLED | KVM_ASYNC_PF_SEND_ALWAYS)
#define ENABLE_INT	(ENABLE | KVM_ASYNC_PF_DELIVERY_AS_INT)

/* Ticks in which an event comes that is going to; SVM may be a busy machine's QEMU. */
#define PATIENCE	(host_cpu_is_intel ? 40000000ull : 2000000000ull)

struct apf_abi *apf_abi;

static u32 last_token, announced, irqs;

#define CHECK(condition)						\
	do {								\
		apf_abi->checks++;					\
		if (!(condition) && !apf_abi->failed)			\
			apf_abi->failed = __LINE__;			\
	} while (0)

static struct apf_vcpu *me(void)
{
	return &apf_guest_vcpus[0];
}

static struct apf_area *area(void)
{
	return (void *)me()->area[0];
}

static u32 flags(void)
{
	return READ_ONCE(area()->flags);
}

static u32 token(void)
{
	return READ_ONCE(area()->token);
}

/* The token is left where it is: cases look at it. */
void apf_abi_ready(struct ex_regs *regs)
{
	(void)regs;
	irqs++;
	wrmsr(EOI_MSR, 0);
}

void apf_abi_fault(struct ex_regs *regs)
{
	u64 cr2;

	asm volatile("mov %%cr2, %0" : "=r"(cr2));
	GUEST_ASSERT(flags() == KVM_PV_REASON_PAGE_NOT_PRESENT && regs->r11);
	last_token = cr2;
	announced++;
	regs->rip = regs->r11;
}

static bool touch(u64 page)
{
	u64 value;
	bool there = apf_touch(me()->pages + page * PAGE_SIZE, &value);

	CHECK(!there || value == apf_page_value(page, 0));
	return there;
}

/*
 * An access to a page that does not come before apf_ask(ABI_ASK_GIVE): the guest
 * is not told of one that is there by the time of the entry.
 */
static bool announced_at(u64 page)
{
	apf_ask(ABI_ASK_HOLD);
	return !touch(page);
}

static bool comes(u32 *count, u32 before)
{
	u64 start = rdtsc();

	while (READ_ONCE(*count) == before && rdtsc() - start < PATIENCE)
		;
	return READ_ONCE(*count) != before;
}

/* The next event, with its interrupt; ACKs it. */
static bool token_comes(u32 wanted)
{
	bool came = comes(&irqs, 0);

	came &= token() == wanted;
	irqs = 0;
	WRITE_ONCE(area()->token, 0);
	wrmsr(MSR_KVM_ASYNC_PF_ACK, 1);
	return came;
}

static void hidden(void)
{
	CHECK(wrmsr_safe(MSR_KVM_ASYNC_PF_EN, 0) == GP_VECTOR);
	CHECK(wrmsr_safe(MSR_KVM_ASYNC_PF_INT, APF_VEC) == GP_VECTOR);
	CHECK(wrmsr_safe(MSR_KVM_ASYNC_PF_ACK, 1) == GP_VECTOR);
}

static void reserved(void)
{
	u64 gpa = me()->area_gpa[0], vector, bit;

	for (bit = 4; bit <= 5; bit++)
		CHECK(wrmsr_safe(MSR_KVM_ASYNC_PF_EN, gpa | ENABLE_INT | BIT(bit)) == GP_VECTOR);
	for (bit = 8; bit < 64; bit++)
		CHECK(wrmsr_safe(MSR_KVM_ASYNC_PF_INT, APF_VEC | BIT_ULL(bit)) == GP_VECTOR);
	for (vector = 0; vector < 256; vector++)
		CHECK(!wrmsr_safe(MSR_KVM_ASYNC_PF_INT, vector) &&
		      rdmsr(MSR_KVM_ASYNC_PF_INT) == vector);
	CHECK(rdmsr(MSR_KVM_ASYNC_PF_EN) == 0);
	apf_ask(ABI_ASK_SET_VECTOR);
	CHECK(rdmsr(MSR_KVM_ASYNC_PF_INT) == 5);
	/* Not an event to ACK, but no error either. */
	CHECK(!wrmsr_safe(MSR_KVM_ASYNC_PF_ACK, 1));
	CHECK(!wrmsr_safe(MSR_KVM_ASYNC_PF_ACK, 0));
}

/* The token of the enabling waits for the vector, and so do others. */
static void no_vector(void)
{
	static const u8 exceptions[] = { 0, 5, 20, 31 };
	unsigned int i;

	wrmsr(MSR_KVM_ASYNC_PF_EN, me()->area_gpa[0] | ENABLE_INT);
	asm volatile("sti");
	CHECK(!comes(&irqs, 0));
	CHECK(token() == 0);
	CHECK(announced_at(0));
	apf_ask(ABI_ASK_GIVE);
	for (i = 0; i < ARRAY_SIZE(exceptions); i++) {
		wrmsr(MSR_KVM_ASYNC_PF_INT, exceptions[i]);
		CHECK(!comes(&irqs, 0) && token() == 0);
	}
	WRITE_ONCE(area()->flags, 0);
	wrmsr(MSR_KVM_ASYNC_PF_INT, APF_VEC);
	CHECK(token_comes(APF_WAKE_ALL));
	CHECK(token_comes(last_token));
	CHECK(touch(0));
}

/* Without bit 3 there are no events at all; the host waits with the vCPU. */
static void legacy(void)
{
	u64 page;

	wrmsr(MSR_KVM_ASYNC_PF_INT, APF_VEC);
	wrmsr(MSR_KVM_ASYNC_PF_EN, me()->area_gpa[0] | ENABLE);
	asm volatile("sti");
	for (page = 0; page < 8; page++)
		CHECK(touch(page));
	CHECK(!announced && !irqs && !flags() && !token());
}

/* Neither the flags nor the token change while the other one is written. */
static void channels(void)
{
	u32 first;

	wrmsr(MSR_KVM_ASYNC_PF_INT, APF_VEC);
	wrmsr(MSR_KVM_ASYNC_PF_EN, me()->area_gpa[0] | ENABLE_INT);
	asm volatile("sti");
	CHECK(token_comes(APF_WAKE_ALL));

	CHECK(announced_at(0));
	CHECK(flags() == KVM_PV_REASON_PAGE_NOT_PRESENT && !token());
	first = last_token;
	apf_ask(ABI_ASK_GIVE);
	CHECK(comes(&irqs, 0));
	CHECK(flags() == KVM_PV_REASON_PAGE_NOT_PRESENT && token() == first);

	WRITE_ONCE(area()->flags, 0);
	CHECK(announced_at(1));
	CHECK(flags() == KVM_PV_REASON_PAGE_NOT_PRESENT && token() == first);
	apf_ask(ABI_ASK_GIVE);
	/* The second one waits for the first one's ACK. */
	CHECK(!comes(&irqs, 1));
	CHECK(token() == first);
	WRITE_ONCE(area()->flags, 0);
	CHECK(token_comes(first));
	CHECK(token_comes(last_token));
	CHECK(touch(0) && touch(1));
}

/* Refused, and the area from before goes on. */
static void bad_area(void)
{
	u64 en = me()->area_gpa[0] | ENABLE_INT;

	wrmsr(MSR_KVM_ASYNC_PF_INT, APF_VEC);
	wrmsr(MSR_KVM_ASYNC_PF_EN, en);
	asm volatile("sti");
	CHECK(token_comes(APF_WAKE_ALL));
	CHECK(wrmsr_safe(MSR_KVM_ASYNC_PF_EN, ABI_READ_ONLY_GPA | ENABLE_INT) == GP_VECTOR);
	CHECK(wrmsr_safe(MSR_KVM_ASYNC_PF_EN, ABI_NO_MEMORY_GPA | ENABLE_INT) == GP_VECTOR);
	CHECK(rdmsr(MSR_KVM_ASYNC_PF_EN) == en);
	CHECK(announced_at(0));
	apf_ask(ABI_ASK_GIVE);
	CHECK(token_comes(last_token));
	WRITE_ONCE(area()->flags, 0);
	CHECK(touch(0));
}

void apf_abi_main(u64 vcpu)
{
	static void (* const cases[ABI_NR_CASES])(void) = {
		hidden, reserved, no_vector, legacy, channels, bad_area,
	};

	(void)vcpu;
	x2apic_enable();
	cases[apf_abi->test]();
	GUEST_DONE();
}
