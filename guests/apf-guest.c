// SPDX-License-Identifier: GPL-2.0
/* The guest of asynchronous page faults; apf-guest.h says what it does. */
#include <asm/kvm_para.h>

#include "apic.h"
#include "kvm_util.h"
#include "processor.h"

#include "apf-guest.h"

#define APIC_SPIV_MSR	(APIC_BASE_MSR + (APIC_SPIV >> 4))
#define EOI_MSR		(APIC_BASE_MSR + (APIC_EOI >> 4))
#define GARBAGE		0x12345678u
#define RFLAGS_IF	BIT(9)

struct apf_vcpu *apf_guest_vcpus;

/* Which vCPU: in FS base, for the handlers as well */
static struct apf_vcpu *self(void)
{
	return &apf_guest_vcpus[rdmsr(MSR_FS_BASE)];
}

static struct apf_area *area(struct apf_vcpu *v, u64 i)
{
	return (void *)v->area[i];
}

static void irqs_off(void)
{
	asm volatile("cli" ::: "memory");
}

static void irqs_on(void)
{
	asm volatile("sti" ::: "memory");
}

static void spin(u64 ticks)
{
	u64 start = rdtsc();

	while (rdtsc() - start < ticks)
		asm volatile("pause");
}

/* IRQs are off in all that follows, up to the interrupt's handler. */

static void ready_again(struct apf_vcpu *v, u64 i)
{
	v->ready_page[v->nr_ready++] = v->out[i].page;
	v->out[i] = v->out[--v->nr_out];
}

static void sample(struct apf_vcpu *v, u64 i, u64 now)
{
	u64 given = READ_ONCE(((u64 *)v->given)[v->out[i].page]);

	if (v->taken == v->samples)
		return;
	((u32 *)v->access_to_ready)[v->taken] = now - v->out[i].accessed;
	((u32 *)v->fault_to_ready)[v->taken] = now - v->out[i].t;
	((u32 *)v->given_to_ready)[v->taken++] = (s64)(now - given) > 0 ? now - given : 0;
}

/* The token that wakes all stands for those that are outstanding. */
static void account_move(struct apf_vcpu *v)
{
	v->moved = 0;
	v->eaten += v->nr_out;
	while (v->nr_out)
		ready_again(v, 0);
}

/* In area @i */
static void token_came(struct apf_vcpu *v, u64 i, u32 token, u64 now)
{
	u64 n;

	if (token == APF_WAKE_ALL) {
		if (v->moved)
			account_move(v);
		v->wakes++;
		v->extra_wakes += !v->wake_due[i] && !v->wake_seen[i];
		if (!v->wake_due[i])
			v->wake_seen[i] = 0;
		v->wake_due[i] = 0;
		return;
	}
	for (n = 0; n < v->nr_out; n++) {
		if (v->out[n].token == token) {
			sample(v, n, now);
			ready_again(v, n);
			v->ready++;
			return;
		}
	}
	v->unknown++;
}

/* Take what is in an area's place for the token, if anything. */
static bool take_token(struct apf_vcpu *v, u64 i, u64 now)
{
	u32 token = READ_ONCE(area(v, i)->token);

	if (!token)
		return false;
	token_came(v, i, token, now);
	WRITE_ONCE(area(v, i)->token, 0);
	return true;
}

static void ack(void)
{
	wrmsr(MSR_KVM_ASYNC_PF_ACK, 1);
}

void apf_guest_ready(struct ex_regs *regs)
{
	struct apf_vcpu *v = self();
	u64 now = rdtsc();

	(void)regs;
	v->irqs++;
	wrmsr(EOI_MSR, 0);
	if (v->what & APF_DO_ACK_FIRST && !rnd_below(&v->rnd, 4)) {
		v->done[6]++;
		ack();
	}
	v->empty += !take_token(v, v->now, now);
	if (v->what & APF_DO_LATE_ACK && !rnd_below(&v->rnd, 4)) {
		v->done[5]++;
		v->owes_ack = 1;
		return;
	}
	ack();
}

/* Only announcements come here: what the guest touches is mapped. */
void apf_guest_fault(struct ex_regs *regs)
{
	struct apf_vcpu *v = self();
	u64 token;

	asm volatile("mov %%cr2, %0" : "=r"(token));
	GUEST_ASSERT(regs->rflags & RFLAGS_IF);
	if (v->ext) {
		GUEST_ASSERT(regs->error_code == v->error_code);
	} else {
		GUEST_ASSERT(READ_ONCE(area(v, v->now)->flags) == KVM_PV_REASON_PAGE_NOT_PRESENT);
		WRITE_ONCE(area(v, v->now)->flags, 0);
	}
	GUEST_ASSERT(regs->r11 && v->nr_out < APF_MAX_OUT);
	v->announced++;
	v->out[v->nr_out].token = token;
	v->out[v->nr_out].page = v->touching;
	v->out[v->nr_out].accessed = v->accessed;
	v->out[v->nr_out++].t = rdtsc();
	regs->rip = regs->r11;
}

static bool touch(struct apf_vcpu *v, u64 page, u64 *value)
{
	v->touching = page;
	v->accessed = rdtsc();
	return apf_touch(v->pages + page * PAGE_SIZE, value);
}

/* The area is not in use any more, and what was sent there was taken. */
static void none_due(struct apf_vcpu *v, u64 i)
{
	v->wake_due[i] = 0;
	v->wake_seen[i] = 0;
}

/* What is due is written down first: the host may stop the vCPU after any instruction. */
static void on(struct apf_vcpu *v, u64 i)
{
	v->now = i;
	v->enables++;
	v->wake_due[i] = 1;
	if (v->ext && !rdmsr(v->ext_msr))
		wrmsr(v->ext_msr, v->ext);
	wrmsr(MSR_KVM_ASYNC_PF_EN, v->area_gpa[i] | KVM_ASYNC_PF_ENABLED |
	      KVM_ASYNC_PF_DELIVERY_AS_INT | (v->ext ? 0 : KVM_ASYNC_PF_SEND_ALWAYS));
}

/* The area is not in use: nobody may write to it. */
static void check_unused(struct apf_vcpu *v, u64 i)
{
	v->stray += READ_ONCE(area(v, i)->token) || READ_ONCE(area(v, i)->flags);
	WRITE_ONCE(area(v, i)->token, 0);
	WRITE_ONCE(area(v, i)->flags, 0);
}

static void check_page(struct apf_vcpu *v, u64 page, u64 value)
{
	v->wrong_page += value != apf_page_value(page, v->round);
	v->touched++;
}

/*
 * A page that is not there, while the mechanism is off: the host lets the vCPU
 * sleep, for which IRQs have to be on, and may not announce it.
 */
static void touch_untold(struct apf_vcpu *v)
{
	u64 value;

	if (v->next == v->nr_pages)
		return;
	irqs_on();
	if (touch(v, v->next, &value))
		check_page(v, v->next, value);
	else
		v->stray++;
	irqs_off();
	v->next++;
	v->sync++;
}

/* The mechanism has been disabled: what is outstanding was eaten. */
static void account_off(struct apf_vcpu *v)
{
	take_token(v, v->now, rdtsc());
	none_due(v, v->now);
	v->moved = 0;
	v->eaten += v->nr_out;
	while (v->nr_out)
		ready_again(v, 0);
	spin(rnd_below(&v->rnd, 20000));
	check_unused(v, 0);
	check_unused(v, 1);
}

static void off_and_on(struct apf_vcpu *v, bool by_host)
{
	if (by_host)
		apf_ask(APF_ASK_OFF);
	else
		wrmsr(MSR_KVM_ASYNC_PF_EN, 0);
	account_off(v);
	touch_untold(v);
	on(v, rnd_below(&v->rnd, 2));
}

static void move(struct apf_vcpu *v)
{
	u64 old = v->now;

	check_unused(v, !old);
	on(v, !old);
	/* What was sent before, and not seen yet */
	take_token(v, old, rdtsc());
	none_due(v, old);
	spin(rnd_below(&v->rnd, 5000));
	check_unused(v, old);
}

static void lapic_off(struct apf_vcpu *v)
{
	u64 spiv = rdmsr(APIC_SPIV_MSR);

	wrmsr(APIC_SPIV_MSR, spiv & ~APIC_SPIV_APIC_ENABLED);
	spin(rnd_below(&v->rnd, 20000));
	wrmsr(APIC_SPIV_MSR, spiv);
}

static void garbage(struct apf_vcpu *v)
{
	u32 *token = (u32 *)&area(v, v->now)->token;
	u32 was = 0;

	if (!__atomic_compare_exchange_n(token, &was, GARBAGE, false, __ATOMIC_SEQ_CST,
					 __ATOMIC_SEQ_CST))
		return;		/* a token has come */
	spin(rnd_below(&v->rnd, 20000));
	was = GARBAGE;
	v->overwritten += !__atomic_compare_exchange_n(token, &was, 0, false, __ATOMIC_SEQ_CST,
						       __ATOMIC_SEQ_CST);
	ack();
}

/* The area cannot be written to for a while, nor by the guest */
static void ask_around(struct apf_vcpu *v, enum apf_ask before, enum apf_ask after)
{
	apf_ask(before);
	spin(rnd_below(&v->rnd, 20000));
	apf_ask(after);
	ack();
}

/*
 * One more token that wakes all, unless the last one is still to be sent.  If it
 * lies in its place afterwards, and was due before, then it may have been sent
 * before the area was named again, and the new one is still to come.
 */
static void host_msrs(struct apf_vcpu *v)
{
	apf_ask(APF_ASK_MSRS);
	v->enables++;
	v->wake_seen[v->now] = v->wake_due[v->now] &&
			       READ_ONCE(area(v, v->now)->token) == APF_WAKE_ALL;
	v->wake_due[v->now] = 1;
}

static void disturb(struct apf_vcpu *v)
{
	u64 n = rnd_below(&v->rnd, APF_NR_DO);

	if (!(v->what & BIT(n)))
		return;
	irqs_off();
	switch (BIT(n)) {
	case APF_DO_TOGGLE:
		off_and_on(v, false);
		break;
	case APF_DO_HOST_OFF:
		off_and_on(v, true);
		break;
	case APF_DO_MOVE:
		move(v);
		break;
	case APF_DO_LAPIC:
		lapic_off(v);
		break;
	case APF_DO_MASK:
		spin(rnd_below(&v->rnd, 20000));
		break;
	case APF_DO_GARBAGE:
		garbage(v);
		break;
	case APF_DO_REMOVE:
		ask_around(v, APF_ASK_REMOVE, v->logged ? APF_ASK_LOG : APF_ASK_ADD);
		break;
	case APF_DO_PROTECT:
		ask_around(v, APF_ASK_PROTECT, APF_ASK_UNPROTECT);
		break;
	case APF_DO_DIRTY:
		apf_ask(v->logged ? APF_ASK_UNLOG : APF_ASK_LOG);
		v->logged = !v->logged;
		break;
	case APF_DO_HOST_MSRS:
		host_msrs(v);
		break;
	case APF_DO_EVENTS:
		apf_ask(APF_ASK_EVENTS);
		break;
	case APF_DO_RESET:
	case APF_DO_INIT:
		v->done[n]++;
		apf_ask(BIT(n) == APF_DO_RESET ? APF_ASK_RESET : APF_ASK_INIT);
		break;
	case APF_DO_SMI:
		apf_ask(APF_ASK_SMI);
		break;
	default:	/* not of this kind */
		v->done[n]--;
	}
	v->done[n]++;
	irqs_on();
}

/* Nothing to touch: until a token has come. */
static void wait(struct apf_vcpu *v)
{
	u32 eax, ebx, ecx, edx;

	if (v->owes_ack) {
		v->owes_ack = 0;
		ack();
	}
	if (v->what & APF_DO_EXITS && !rnd_below(&v->rnd, 4)) {
		v->done[8]++;
		cpuid(0, &eax, &ebx, &ecx, &edx);
	}
	irqs_off();
	/* Not with an ACK owed, of an interrupt just now: no other one comes before it. */
	if (v->what & APF_DO_HALT && !v->nr_ready && v->nr_out && !v->owes_ack &&
	    !rnd_below(&v->rnd, 4)) {
		v->done[7]++;
		asm volatile("sti; hlt" ::: "memory");
	}
	irqs_on();
	spin(rnd_below(&v->rnd, 2000));
}

/* A page whose token has come back, or was eaten */
static void touch_again(struct apf_vcpu *v)
{
	u64 page, value, announced = v->announced;

	irqs_off();
	page = v->ready_page[--v->nr_ready];
	irqs_on();
	if (touch(v, page, &value))
		check_page(v, page, value);
	else if (v->eaten == 0 && !v->moves && v->announced != announced)
		v->again++;
}

static void one_round(struct apf_vcpu *v)
{
	u64 value;

	v->next = 0;
	while (v->next < v->nr_pages || v->nr_out || v->nr_ready) {
		if (v->every && !rnd_below(&v->rnd, v->every))
			disturb(v);
		if (v->nr_ready) {
			touch_again(v);
		} else if (v->next < v->nr_pages && v->nr_out < v->max_out) {
			if (touch(v, v->next, &value)) {
				check_page(v, v->next, value);
				v->sync++;
			}
			v->next++;
			spin(rnd_below(&v->rnd, v->gap_max + 1));
		} else {
			wait(v);
		}
	}
}

void apf_guest_main(u64 vcpu)
{
	struct apf_vcpu *v;

	wrmsr(MSR_FS_BASE, vcpu);
	v = self();
	x2apic_enable();
	if (v->lives++)
		account_off(v);
	else
		v->rnd = rnd_stream(v->seed, vcpu);
	wrmsr(MSR_KVM_ASYNC_PF_INT, APF_VEC);
	on(v, 0);
	irqs_on();
	if (v->lives == 1)
		v->t_start = rdtsc();
	while (!READ_ONCE(v->stop) && (!v->rounds || v->round < v->rounds)) {
		one_round(v);
		v->round++;
		apf_ask(APF_ASK_ROUND);
	}
	v->t_end = rdtsc();
	while (READ_ONCE(v->wake_due[v->now]))
		wait(v);
	apf_ask(APF_ASK_END);
}
