// SPDX-License-Identifier: GPL-2.0
/*
 * The guest of the `post` benchmark: vCPU 0 is the target, the others post
 * interrupts to it. Runs as a KVM selftests guest.  Built without red zone
 * and SSE: interrupts come in on the running stack.
 */
#include "apic.h"
#include "kvm_util.h"
#include "processor.h"

#include "post-guest.h"

#define X2APIC_MSR(reg)		(APIC_BASE_MSR + ((reg) >> 4))
#define LVTT_TSC_DEADLINE	(2u << 17)
#define LVTT_MASKED		BIT(16)
#define LVTT			0x320
/* Far enough not to expire, near enough for the VMX preemption timer */
#define FAR_DEADLINE		BIT_ULL(30)

struct post_shared *post_guest_shared;

/*
 * The whole of an interrupt: two time stamps, the count that frees the vector
 * for its sender, EOI. @compute only moves in this vCPU's computing loop.
 */
void post_guest_irq(struct ex_regs *regs)
{
	u64 now = rdtsc();
	struct post_shared *s = post_guest_shared;
	struct post_vec *v = &s->vec[regs->vector & 0xff];
	u64 handled = v->handled;

	if (handled == READ_ONCE(v->posted)) {
		WRITE_ONCE(s->target.doubled, s->target.doubled + 1);
	} else {
		WRITE_ONCE(v->t_handled, now);
		WRITE_ONCE(v->c_handled, READ_ONCE(s->target.compute));
		__atomic_store_n(&v->handled, handled + 1, __ATOMIC_RELEASE);
		WRITE_ONCE(s->target.handled, s->target.handled + 1);
	}
	WRITE_ONCE(s->target.irqs, s->target.irqs + 1);
	wrmsr(X2APIC_MSR(APIC_EOI), 0);
}

/* NMIs are kicks with a request, also where interrupts are posted */
void post_guest_nmi(struct ex_regs *regs)
{
	struct post_shared *s = post_guest_shared;

	(void)regs;
	__atomic_store_n(&s->target.nmis, s->target.nmis + 1, __ATOMIC_RELEASE);
}

/* No page fault is meant to be: what the library's own message leaves out */
void post_guest_page_fault(struct ex_regs *regs)
{
	u64 address;

	asm volatile("mov %%cr2, %0" : "=r"(address));
	GUEST_FAIL("page fault at %#lx, error code %#lx, RIP %#lx, CR3 %#lx",
		   address, regs->error_code, regs->rip, get_cr3());
}

/*
 * Compute with interrupts on for @ticks, and account them. A step that was
 * long (VM-Exit, descheduled) or in which an interrupt came in does not count:
 * what is counted is time in which a posted interrupt had nothing to wait for.
 * At most @ticks steps, so that it ends whatever the clock does.
 */
void post_guest_compute(struct post_shared *s, u64 ticks)
{
	u64 last = rdtsc(), irqs = READ_ONCE(s->target.irqs);
	u64 done = 0, steps;

	for (steps = 0; done < ticks && steps < ticks; steps++) {
		u64 now = rdtsc();
		u64 irqs_now = READ_ONCE(s->target.irqs);
		u64 delta = now - last;

		if (irqs_now == irqs && delta < s->gap_cap) {
			done += delta;
			WRITE_ONCE(s->target.compute, s->target.compute + delta);
		}
		last = now;
		irqs = irqs_now;
	}
}

/* Everything posted has been handled, and no more will come */
static bool finished(struct post_shared *s)
{
	if (READ_ONCE(s->stop))
		return true;
	if (__atomic_load_n(&s->senders_done, __ATOMIC_ACQUIRE) < s->nr_senders)
		return false;
	return READ_ONCE(s->target.handled) == READ_ONCE(s->posted_done);
}

/* Is the timer to come yet?  Its vector has one post at a time. */
static bool timer_due(struct post_shared *s)
{
	return READ_ONCE(s->vec[s->timer].handled) != s->vec[s->timer].posted;
}

static void timer_done(struct post_shared *s, struct post_sender *me)
{
	me->t_end = rdtsc();
	WRITE_ONCE(me->done, 1);
	__atomic_add_fetch(&s->posted_done, me->posted, __ATOMIC_SEQ_CST);
	__atomic_add_fetch(&s->senders_done, 1, __ATOMIC_SEQ_CST);
}

/*
 * The target as its own sender: the post happens at the deadline, when the host's
 * timer expires.  Until then it computes for no longer than that takes, which is
 * why @c_post is not too early.
 */
static void timer_step(struct post_shared *s, u64 *rnd)
{
	struct post_sender *me = &s->sender[0];
	struct post_vec *v = &s->vec[s->timer];
	u64 gap, start;

	if (me->done || timer_due(s))
		return;
	if (v->harvested != v->handled)
		post_harvest(s, v, &me->res, (u32 *)me->buf);
	if (me->posted == me->quota)
		return timer_done(s, me);
	gap = s->gap_min + rnd_below(rnd, s->gap_max - s->gap_min + 1);
	WRITE_ONCE(v->posted, v->posted + 1);
	start = rdtsc();
	v->t_post = start + gap;
	v->c_post = s->target.compute + gap;
	wrmsr(MSR_IA32_TSC_DEADLINE, start + gap);
	me->send_ticks += rdtsc() - start;
	WRITE_ONCE(me->posted, me->posted + 1);
}

static void exit_op(struct post_shared *s)
{
	u32 eax, ebx, ecx, edx;

	cpuid(0, &eax, &ebx, &ecx, &edx);
	s->target.ops[POST_EXITS]++;
}

/*
 * Exits that KVM handles with EXIT_FASTPATH_REENTER_GUEST: an x2APIC ICR write
 * (fixed, physical; here to an APIC ID that no vCPU has, so that it has no
 * effect), and a TSC-deadline write where the VMX preemption timer serves it.
 */
static void fastpath_op(struct post_shared *s, u64 *rnd, bool *armed)
{
	bool icr = s->fastpath_ops & POST_FP_ICR;

	if (s->fastpath_ops == (POST_FP_ICR | POST_FP_TSC_DEADLINE))
		icr = rnd_next(rnd) >> 63;

	if (icr) {
		wrmsr(X2APIC_MSR(APIC_ICR),
		      (u64)POST_ABSENT_APIC_ID << 32 | APIC_INT_ASSERT |
		      APIC_DEST_PHYSICAL | APIC_DM_FIXED | POST_TIMER_VEC);
	} else {
		wrmsr(MSR_IA32_TSC_DEADLINE, rdtsc() + FAR_DEADLINE);
		*armed = true;
	}
	s->target.ops[POST_FASTPATH]++;
}

/*
 * Sleep until an interrupt. One that comes between the check and HLT is held
 * by IF=0 and then by STI's shadow, so HLT finds it pending. No timer may be
 * armed: a sleeping target must be woken by the posted interrupts alone.
 */
static void hlt_op(struct post_shared *s, bool *armed)
{
	if (*armed) {
		wrmsr(MSR_IA32_TSC_DEADLINE, 0);
		*armed = false;
	}

	asm volatile("cli" ::: "memory");
	if (finished(s) || (s->timer && !timer_due(s))) {
		asm volatile("sti" ::: "memory");
		return;
	}
	s->target.ops[POST_HLT]++;
	asm volatile("sti; hlt" ::: "memory");
}

static void userspace_op(struct post_shared *s)
{
	asm volatile("outb %%al, %%dx" :: "a"(0), "d"(POST_EXIT_PORT));
	s->target.ops[POST_USERSPACE]++;
}

/*
 * Holds interrupts back by their priority for a moment; what waits is taken at
 * the end.  With IF clear too, KVM on SVM waits for STI by V_IRQ, and lets the
 * guest write CR8 all the same.
 */
static void tpr_op(struct post_shared *s, u64 *rnd)
{
	u64 tpr = rnd_below(rnd, 16), gap = rnd_below(rnd, s->exit_gap_max + 1);
	u64 start = rdtsc();

	if (rnd_next(rnd) >> 63) {
		asm volatile("cli" ::: "memory");
		while (rdtsc() - start < gap)
			;
	}
	asm volatile("mov %0, %%cr8" :: "r"(tpr) : "memory");
	for (start = rdtsc(); rdtsc() - start < gap; )
		;
	asm volatile("mov %0, %%cr8; sti" :: "r"(0ull) : "memory");
	s->target.ops[POST_TPR]++;
}

static void target_step(struct post_shared *s, u64 *rnd, bool *armed)
{
	u64 op = s->workload;

	if (op == POST_MIXED)
		op = rnd_below(rnd, POST_MIXED);
	while (op == POST_ALL || op == POST_MIXED)
		op = rnd_below(rnd, POST_ALL);

	switch (op) {
	case POST_EXITS:
		exit_op(s);
		break;
	case POST_FASTPATH:
		fastpath_op(s, rnd, armed);
		break;
	case POST_HLT:
		hlt_op(s, armed);
		break;
	case POST_USERSPACE:
		userspace_op(s);
		break;
	case POST_TPR:
		tpr_op(s, rnd);
		break;
	default:
		break;
	}

	if (s->workload == POST_COMPUTE || !rnd_below(rnd, s->long_every))
		post_guest_compute(s, s->long_ticks);
	else
		post_guest_compute(s, rnd_below(rnd, s->exit_gap_max + 1));
}

void post_guest_wait(struct post_shared *s)
{
	__atomic_add_fetch(&s->ready, 1, __ATOMIC_SEQ_CST);
	/* No PAUSE: it may exit, and these vCPUs own their CPUs. */
	while (!__atomic_load_n(&s->go, __ATOMIC_ACQUIRE))
		;
}

static void target_main(struct post_shared *s)
{
	u64 rnd = rnd_stream(s->seed, 0);
	bool armed = false;

	if (s->timer)
		wrmsr(X2APIC_MSR(LVTT), LVTT_TSC_DEADLINE | s->timer);
	else if (s->fastpath_ops & POST_FP_TSC_DEADLINE)
		wrmsr(X2APIC_MSR(LVTT),
		      LVTT_TSC_DEADLINE | LVTT_MASKED | POST_TIMER_VEC);
	asm volatile("sti" ::: "memory");

	post_guest_wait(s);
	s->t_start = rdtsc();
	while (!finished(s)) {
		if (s->timer)
			timer_step(s, &rnd);
		target_step(s, &rnd, &armed);
	}

	asm volatile("cli" ::: "memory");
	if (armed)
		wrmsr(MSR_IA32_TSC_DEADLINE, 0);
}

static void spin(u64 ticks)
{
	u64 start = rdtsc();

	while (rdtsc() - start < ticks)
		;
}

/* The next vector from a random start on whose last post has been handled */
static struct post_vec *free_vec(struct post_shared *s, struct post_sender *me,
				 u64 *rnd, u32 *vector)
{
	u32 i, n = rnd_below(rnd, me->nr_vec);

	for (i = 0; i < me->nr_vec; i++) {
		struct post_vec *v;

		*vector = me->vec_first + n * me->vec_stride;
		v = &s->vec[*vector];
		if (__atomic_load_n(&v->handled, __ATOMIC_ACQUIRE) == v->posted)
			return v;
		if (++n == me->nr_vec)
			n = 0;
	}
	return NULL;
}

/* NULL: nothing came free for the whole stall limit */
static struct post_vec *wait_free_vec(struct post_shared *s,
				      struct post_sender *me, u64 *rnd,
				      u32 *vector)
{
	struct post_vec *v = free_vec(s, me, rnd, vector);
	u64 start;

	if (v)
		return v;

	WRITE_ONCE(me->waits, me->waits + 1);
	start = rdtsc();
	do {
		v = free_vec(s, me, rnd, vector);
	} while (!v && rdtsc() - start < s->stall_ticks && !READ_ONCE(s->stop));
	return v;
}

/*
 * Post, and do not wait for the delivery. The x2APIC ICR write does not order
 * earlier stores, hence the fences. Compute ticks are read when the post is
 * done: by then the target has been notified, or never will be.
 */
static void post(struct post_shared *s, struct post_vec *v, u32 vector,
		 struct post_sender *me, void (*send)(void *arg, u32 vector),
		 void *arg, u64 tsc_offset)
{
	u64 start = rdtsc();

	WRITE_ONCE(v->posted, v->posted + 1);
	WRITE_ONCE(v->t_post, start + tsc_offset);
	asm volatile("mfence; lfence" ::: "memory");
	send(arg, vector);
	WRITE_ONCE(v->c_post, READ_ONCE(s->target.compute));
	me->send_ticks += rdtsc() - start;
}

static void send_by_icr(void *arg, u32 vector)
{
	(void)arg;
	wrmsr(X2APIC_MSR(APIC_ICR),
	      APIC_INT_ASSERT | APIC_DEST_PHYSICAL | APIC_DM_FIXED | vector);
}

void post_sender_run(struct post_shared *s, unsigned int sender, u32 *buf,
		     void (*send)(void *arg, u32 vector), void *arg,
		     u64 tsc_offset)
{
	struct post_sender *me = &s->sender[sender];
	u64 rnd = rnd_stream(s->seed, sender + 1);
	u64 i;

	/* Fault the buffer in now: a page fault in the run is noise. */
	for (i = 0; buf && i < me->quota; i += 4096 / sizeof(*buf))
		WRITE_ONCE(buf[i], 0);

	post_guest_wait(s);
	while (me->posted < me->quota && !READ_ONCE(s->stop)) {
		struct post_vec *v;
		u32 vector;

		spin(s->gap_min +
		     rnd_below(&rnd, s->gap_max - s->gap_min + 1));
		v = wait_free_vec(s, me, &rnd, &vector);
		if (!v) {
			WRITE_ONCE(me->stalled, 1);
			break;
		}
		if (v->harvested != v->handled)
			post_harvest(s, v, &me->res, buf);
		post_op_begin(s, sender);
		post(s, v, vector, me, send, arg, tsc_offset);
		post_op_end(s, sender);
		WRITE_ONCE(me->posted, me->posted + 1);
	}
	me->t_end = rdtsc() + tsc_offset;
	WRITE_ONCE(me->done, 1);
	__atomic_add_fetch(&s->posted_done, me->posted, __ATOMIC_SEQ_CST);
	__atomic_add_fetch(&s->senders_done, 1, __ATOMIC_SEQ_CST);
}

void post_guest_main(struct post_shared *s, u64 vcpu)
{
	x2apic_enable();
	if (vcpu)
		post_sender_run(s, vcpu - 1, (u32 *)s->sender[vcpu - 1].buf,
				send_by_icr, NULL, 0);
	else
		target_main(s);
	GUEST_DONE();
}
