// SPDX-License-Identifier: GPL-2.0
/*
 * The guest of apf_pred_test.c: has words that say whether it can sleep, and a list of them for
 * KVM, and touches pages in each state that there is.
 */
#include <asm/kvm_para.h>

#include "apic.h"
#include "kvm_util.h"
#include "processor.h"

#include "apf_pred.h"
#include "user-mode.h"

#define ENABLE		(KVM_ASYNC_PF_ENABLED | KVM_ASYNC_PF_DELIVERY_AS_INT)
#define RFLAGS_IF	BIT(9)
#define MMIO_GPA	0xfee00000ull
#define VERDICT_EVERY	8	/* of the lists that are taken, one in so many */
#define VERDICTS_YES	8	/* at least */

struct apf_pred *apf_pred;

#define CHECK(condition)						\
	do {								\
		apf_pred->checks++;					\
		if (!(condition) && !apf_pred->step.failed)		\
			apf_pred->step.failed = __LINE__;		\
	} while (0)

static struct apf_vcpu *me(void)
{
	return &apf_guest_vcpus[0];
}

static struct pred_words *words(void)
{
	return (void *)apf_pred->words;
}

static struct kvm_async_pf_predicate *list(void)
{
	return sleep_list(apf_pred->list);
}

/* --- can it sleep? ----------------------------------------------------------------- */

static void neutral(void)
{
	memset(words(), 0, sizeof(*words()));
	sleep_words_neutral(&words()->sleep);
	words()->pointer = apf_pred->words_gpa + NOWHERE_GPA;
}

static void set_state(u64 state)
{
	struct sleep_words *w = &words()->sleep;

	w->count += !!(state & PRED_COUNT);
	if (state & PRED_RESCHED)
		w->count &= ~SLEEP_NO_RESCHED;
	w->tasks[0].readers += !!(state & (PRED_READER | PRED_OTHER));
	w->tasks[0].flags |= state & PRED_IDLE ? SLEEP_TASK_IDLE : 0;
	if (state & PRED_OTHER)
		w->current = (u64)&w->tasks[1];
	if (state & PRED_NOWHERE)
		w->current = NOWHERE_GPA;
	if (state & PRED_ABSENT)	/* of the second page, by the same difference */
		w->current = apf_pred->pages_gpa + PAGE_SIZE + apf_pred->words -
			     apf_pred->words_gpa;
}

static bool can_sleep(struct ex_regs *regs)
{
	if (!(regs->rflags & RFLAGS_IF))
		return false;
	return (regs->cs & 3) == 3 || sleep_words_can(&words()->sleep);
}

static void make_list(void)
{
	memset((void *)apf_pred->list, 0, PAGE_SIZE);
	sleep_list_make(apf_pred->list, &words()->sleep, apf_pred->words_gpa);
}

/* --- handlers ---------------------------------------------------------------------- */

void apf_pred_ready(struct ex_regs *regs)
{
	(void)regs;
	apf_token_take(&apf_pred->t, (void *)me()->area[0]);
}

/* apf_touch() goes on at regs->r11. */
void apf_pred_fault(struct ex_regs *regs)
{
	u64 cr2 = apf_read_cr2();

	if (regs->error_code != KVM_ASYNC_PF_NOT_PRESENT)
		GUEST_FAIL("#PF at 0x%lx, address 0x%lx, error code 0x%lx", regs->rip, cr2,
			   regs->error_code);
	apf_pred->forbidden += !can_sleep(regs);
	apf_pred->kernel += !(regs->cs & 3);
	apf_token_announced_again(&apf_pred->t, cr2);
	if (regs->r11 - regs->rip <= TOUCH_BYTES)
		regs->rip = regs->r11;
	else
		apf_pred->elsewhere++;
}

/* --- the MSR ----------------------------------------------------------------------- */

static bool refused(u64 ext)
{
	u64 before = rdmsr(MSR_KVM_ASYNC_PF_EXT);

	return wrmsr_safe(MSR_KVM_ASYNC_PF_EXT, ext) == GP_VECTOR &&
	       rdmsr(MSR_KVM_ASYNC_PF_EXT) == before;
}

static bool taken(u64 ext)
{
	return !wrmsr_safe(MSR_KVM_ASYNC_PF_EXT, ext) && rdmsr(MSR_KVM_ASYNC_PF_EXT) == ext;
}

static u64 ext(void)
{
	return apf_pred->list_gpa | PRED_EXT;
}

/* One thing is changed, and refused, and put back. */
#define REFUSED_WITH(what, value)					\
	do {								\
		typeof(what) *at = &(what), saved = *at;		\
									\
		*at = (value);						\
		CHECK(refused(ext()));					\
		*at = saved;						\
	} while (0)

static void abi_head(void)
{
	REFUSED_WITH(list()->magic, 0);
	REFUSED_WITH(list()->magic, __builtin_bswap32(KVM_ASYNC_PF_PRED_MAGIC));
	REFUSED_WITH(list()->version, 0);
	REFUSED_WITH(list()->version, KVM_ASYNC_PF_PRED_VERSION + 1);
	REFUSED_WITH(list()->nr_loads, 0);
	REFUSED_WITH(list()->nr_loads, KVM_ASYNC_PF_PRED_LOADS + 1);
	REFUSED_WITH(list()->nr_loads, 0xffff);
	REFUSED_WITH(list()->reserved, 1);
	REFUSED_WITH(list()->reserved, BIT_ULL(63));
}

static void abi_loads(void)
{
	struct kvm_async_pf_load *l = list()->loads;
	unsigned int i;

	for (i = 0; i < 256; i++)
		if (i != 4 && i != 8)
			REFUSED_WITH(l[0].size, i);
	for (i = 0; i < sizeof(l->reserved); i++)
		REFUSED_WITH(l[1].reserved[i], 1);
	REFUSED_WITH(l[0].address, l[0].address + 1);
	REFUSED_WITH(l[0].address, l[0].address + 2);
	REFUSED_WITH(l[1].address, l[1].address + 4);	/* of 8 bytes */
	REFUSED_WITH(l[0].mask, BIT_ULL(32));		/* of 4 */
	REFUSED_WITH(l[0].value, SLEEP_NO_RESCHED);	/* not in the mask */
	REFUSED_WITH(l[1].value, 1);
	REFUSED_WITH(l[0].base, 1);			/* itself */
	REFUSED_WITH(l[2].base, 3);
	REFUSED_WITH(l[2].base, 4);			/* a later one */
	REFUSED_WITH(l[2].base, 255);
	l[4].base = 4;
	CHECK(taken(ext()));
	l[4].base = 0;
	for (i = 5; i < KVM_ASYNC_PF_PRED_LOADS; i++)
		l[i] = l[0];
	list()->nr_loads = KVM_ASYNC_PF_PRED_LOADS;
	CHECK(taken(ext()));
	list()->nr_loads = 1;
	memset(&l[1], 0xff, 4 * sizeof(l[1]));		/* not of the list */
	CHECK(taken(ext()));
}

static void abi(void)
{
	u64 bit;

	make_list();
	for (bit = 3; bit < 12; bit++)
		if (BIT_ULL(bit) != KVM_ASYNC_PF_EXT_AGAIN)
			CHECK(refused(ext() | BIT_ULL(bit)));
	for (bit = 12; bit < 64; bit++)
		CHECK(refused(BIT_ULL(bit) | KVM_ASYNC_PF_EXT_MARK));
	CHECK(refused(apf_pred->list_gpa | KVM_ASYNC_PF_EXT_PRED));
	CHECK(refused(KVM_ASYNC_PF_EXT_AGAIN));
	CHECK(taken(KVM_ASYNC_PF_EXT_MARK | KVM_ASYNC_PF_EXT_AGAIN));
	CHECK(taken(ext() | KVM_ASYNC_PF_EXT_AGAIN));
	CHECK(taken(ext()));
	CHECK(refused(NOWHERE_GPA | PRED_EXT));
	CHECK(refused(KVM_ASYNC_PF_EXT_PAGE | PRED_EXT));
	CHECK(refused(MMIO_GPA | PRED_EXT));
	abi_head();
	abi_loads();
	make_list();
	CHECK(taken(ext()));
	wrmsr(MSR_KVM_ASYNC_PF_EN, me()->area_gpa[0] | ENABLE);
	CHECK(refused(ext() | KVM_ASYNC_PF_EXT_AGAIN));
	wrmsr(MSR_KVM_ASYNC_PF_EN, 0);
	CHECK(rdmsr(MSR_KVM_ASYNC_PF_EXT) == 0);
	CHECK(taken(ext()));
}

static void hidden(void)
{
	make_list();
	CHECK(refused(ext()));
	CHECK(refused(PRED_EXT));
	CHECK(refused(KVM_ASYNC_PF_EXT_MARK | KVM_ASYNC_PF_EXT_AGAIN));
	CHECK(taken(KVM_ASYNC_PF_EXT_MARK));
}

/* --- pages ------------------------------------------------------------------------- */

/* In the shadow of STI */
static bool touch_behind_sti(u64 gva, u64 *value)
{
	u64 skipped;

	asm volatile("lea 1f(%%rip), %%r11\n\t"
		     "cli\n\t"
		     "sti\n\t"
		     "mov (%[p]), %[v]\n\t"
		     "xor %%r11d, %%r11d\n"
		     "1: mov %%r11, %[s]"
		     : [v] "=&r" (*value), [s] "=r" (skipped)
		     : [p] "r" (gva) : "r11", "memory");
	return !skipped;
}

static bool touch(u64 page)
{
	u64 gva = me()->pages + page * PAGE_SIZE, value;
	bool there = apf_pred->state & PRED_STI ? touch_behind_sti(gva, &value) :
						  apf_touch(gva, &value);

	apf_pred->wrong_page += there && value != apf_page_value(page, me()->round);
	me()->touched += there;
	return there;
}

static void wait_for_ready(void)
{
	while (READ_ONCE(apf_pred->t.ready) < READ_ONCE(apf_pred->t.announced) &&
	       !READ_ONCE(apf_pred->step.stop))
		;
}

static void wait_for_wake(u64 wakes)
{
	while (READ_ONCE(apf_pred->t.wakes) == wakes && !READ_ONCE(apf_pred->step.stop))
		;
}

static void enable(u64 value)
{
	wrmsr(MSR_KVM_ASYNC_PF_INT, APF_VEC);
	if (!(apf_pred->state & PRED_LOADED))
		wrmsr(MSR_KVM_ASYNC_PF_EXT, value);
	else
		apf_ask(PRED_LOAD);
	wrmsr(MSR_KVM_ASYNC_PF_EN, me()->area_gpa[0] | ENABLE);
	if (apf_pred->state & PRED_REWRITTEN)
		memset((void *)apf_pred->list, 0, PAGE_SIZE);
}

static void one_page(void)
{
	u64 state = apf_pred->state;

	neutral();
	make_list();
	if (state & PRED_BROKEN)
		list()->magic++;
	enable(ext() | (state & PRED_AGAIN ? KVM_ASYNC_PF_EXT_AGAIN : 0));
	asm volatile("sti");
	wait_for_wake(0);
	apf_ask(PRED_READY);
	if (state & PRED_USER)
		user_mode_enter();
	set_state(state);
	if (state & PRED_MASKED)
		asm volatile("cli");
	if (!touch(0) && !(state & PRED_TWICE && touch(0))) {
		asm volatile("sti");
		wait_for_ready();
		CHECK(touch(0));
	}
	apf_ask(PRED_DONE);
}

/* Interrupts are disabled where a page is touched in that state, and enabled again. */
static void storm_touch(u64 page, u64 *rnd)
{
	u64 state = rnd_below(rnd, 2) ? 0 : BIT(rnd_below(rnd, 8));

	if (state & PRED_STI)
		state = PRED_COUNT | PRED_READER;
	set_state(state);
	apf_pred->held += state & ~(u64)(PRED_RESCHED | PRED_OTHER) ? 1 : 0;
	if (state & PRED_MASKED)
		asm volatile("cli");
	while (!touch(page)) {
		asm volatile("sti");
		/* Another task, which may find it there by now */
		if (apf_pred->state & PRED_AGAIN && rnd_below(rnd, 2) && touch(page))
			break;
		wait_for_ready();
	}
	asm volatile("sti");
	wait_for_ready();
	sleep_words_neutral(&words()->sleep);
}

static void storm(void)
{
	u64 rnd = me()->seed, page;

	neutral();
	make_list();
	enable(ext() | (apf_pred->state & PRED_AGAIN ? KVM_ASYNC_PF_EXT_AGAIN : 0));
	asm volatile("sti");
	wait_for_wake(0);
	while (!READ_ONCE(me()->stop)) {
		for (page = 0; page < me()->nr_pages; page++)
			storm_touch(page, &rnd);
		wait_for_ready();
		me()->round++;
		apf_ask(APF_ASK_ROUND);
	}
	apf_ask(APF_ASK_END);
}

/* --- lists at random ---------------------------------------------------------------- */

static u64 random_address(u64 *rnd)
{
	switch (rnd_below(rnd, 16)) {
	case 0:
		return NOWHERE_GPA + (rnd_next(rnd) >> 16 & ~7ull);
	case 1:
		return apf_pred->pages_gpa + PAGE_SIZE;	/* not present */
	default:
		return apf_pred->words_gpa + 4 * rnd_below(rnd, sizeof(struct pred_words) / 4);
	}
}

static void random_load(struct kvm_async_pf_load *l, unsigned int i, u64 *rnd)
{
	memset(l, 0, sizeof(*l));
	l->size = rnd_below(rnd, 4) ? 4 : 8;
	l->address = random_address(rnd);
	if (l->size == 8 && rnd_below(rnd, 16))
		l->address &= ~7ull;
	if (i && !rnd_below(rnd, 3)) {
		l->base = 1 + rnd_below(rnd, i);
		l->address = rnd_below(rnd, 4) ? rnd_below(rnd, 24) - NOWHERE_GPA : rnd_next(rnd);
	}
	l->mask = rnd_below(rnd, 2) ? 0 : rnd_next(rnd) & rnd_next(rnd) & rnd_next(rnd);
	if (l->size == 4 && rnd_below(rnd, 32))
		l->mask &= 0xffffffff;
	l->value = rnd_below(rnd, 4) ? 0 : rnd_next(rnd) & l->mask;
}

/* Mostly valid; what is wrong is one thing.  true: or their number, or a bit anywhere. */
static bool random_list(u64 *rnd)
{
	struct kvm_async_pf_predicate *p = list();
	unsigned int i, n = 1 + rnd_below(rnd, 1 + rnd_below(rnd, KVM_ASYNC_PF_PRED_LOADS));
	u8 *bytes = (u8 *)p;

	p->magic = KVM_ASYNC_PF_PRED_MAGIC;
	p->version = KVM_ASYNC_PF_PRED_VERSION;
	p->reserved = 0;
	p->nr_loads = rnd_below(rnd, 32) ? n : rnd_next(rnd) >> 40;
	for (i = 0; i < n; i++)
		random_load(&p->loads[i], i, rnd);
	if (rnd_below(rnd, 4))
		return p->nr_loads != n;
	bytes[rnd_below(rnd, sizeof(*p) + n * sizeof(p->loads[0]))] ^= BIT(rnd_below(rnd, 8));
	return true;
}

/* What the header says, in other words than KVM's */
static bool list_is_valid(void)
{
	struct kvm_async_pf_predicate *p = list();
	unsigned int i, j;

	if (p->magic != KVM_ASYNC_PF_PRED_MAGIC || p->version != 1 || p->reserved ||
	    p->nr_loads < 1 || p->nr_loads > 16)
		return false;
	for (i = 0; i < p->nr_loads; i++) {
		struct kvm_async_pf_load *l = &p->loads[i];

		for (j = 0; j < sizeof(l->reserved); j++)
			if (l->reserved[j])
				return false;
		if (l->size == 4 ? l->mask >> 32 : l->size != 8)
			return false;
		if ((l->value | l->mask) != l->mask)
			return false;
		if (l->base ? l->base > i : l->address & (l->size - 1))
			return false;
	}
	return true;
}

/* Their page is all that is in memory and present, of where addresses lead to. */
static bool list_says_yes(void)
{
	struct kvm_async_pf_predicate *p = list();
	u64 values[KVM_ASYNC_PF_PRED_LOADS], address, at;
	unsigned int i;

	for (i = 0; i < p->nr_loads; i++) {
		struct kvm_async_pf_load *l = &p->loads[i];

		address = l->address;
		if (l->base)
			address += values[l->base - 1];
		at = address - apf_pred->words_gpa;
		if (address & (l->size - 1) || at > PAGE_SIZE - l->size)
			return false;
		at += apf_pred->words;
		values[i] = l->size == 4 ? *(u32 *)at : *(u64 *)at;
		if ((values[i] & l->mask) != l->value)
			return false;
	}
	return true;
}

/* A page is touched: it need not be announced, and must not be if the list says no. */
static void verdict(void)
{
	u64 before = apf_pred->t.announced, wakes = apf_pred->t.wakes, page = 0;
	bool yes = list_says_yes(), told;

	wrmsr(MSR_KVM_ASYNC_PF_EN, me()->area_gpa[0] | ENABLE);
	wait_for_wake(wakes);
	while (!touch(page))
		wait_for_ready();
	told = apf_pred->t.announced != before;
	apf_pred->unasked += told && !yes;
	apf_pred->untold += !told && yes;
	apf_pred->yes += yes;
	apf_pred->verdicts++;
	wrmsr(MSR_KVM_ASYNC_PF_EN, 0);
	me()->round++;
	apf_ask(APF_ASK_ROUND);
}

static void fuzz(void)
{
	u64 rnd = me()->seed, due = VERDICT_EVERY;
	bool changed, valid;

	neutral();
	wrmsr(MSR_KVM_ASYNC_PF_INT, APF_VEC);
	asm volatile("sti");
	while (!READ_ONCE(me()->stop) || apf_pred->yes < VERDICTS_YES) {
		changed = random_list(&rnd);
		valid = list_is_valid();
		wrmsr(MSR_KVM_ASYNC_PF_EXT, 0);
		if (wrmsr_safe(MSR_KVM_ASYNC_PF_EXT, ext()))
			apf_pred->wrong_list += valid;
		else
			apf_pred->wrong_list += !valid || !++apf_pred->taken;
		apf_pred->lists++;
		me()->touched++;
		/* That may lead to other memory of the guest's. */
		if (!valid || changed || apf_pred->taken < due)
			continue;
		due = apf_pred->taken + VERDICT_EVERY;
		verdict();
	}
	apf_ask(APF_ASK_END);
}

void apf_pred_main(u64 vcpu)
{
	(void)vcpu;
	x2apic_enable();
	switch (apf_pred->guest) {
	case PRED_ABI:
		abi();
		break;
	case PRED_HIDDEN:
		hidden();
		break;
	case PRED_ONE:
		one_page();
		break;
	case PRED_STORM:
		storm();
		break;
	case PRED_FUZZ:
		fuzz();
		break;
	}
	apf_ask(PRED_DONE);
	GUEST_FAIL("nothing left to do");
}
