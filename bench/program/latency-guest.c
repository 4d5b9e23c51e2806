// SPDX-License-Identifier: GPL-2.0
/*
 * The guest of the latency benchmarks: vCPU 0 times one operation after the
 * other, the others are its targets.  Built without red zone and
 * SSE: interrupts come in on the running stack.
 */
#include "apic.h"
#include "kvm_util.h"
#include "processor.h"

#include "latency.h"

#define X2APIC_MSR(reg)		(APIC_BASE_MSR + ((reg) >> 4))
#define X2APIC_SELF_IPI		(APIC_BASE_MSR + 0x3f)
#define LVTT_TSC_DEADLINE	(2u << 17)
#define LVTT			0x320
#define APIC_LDR_FLAT(id)	((1u << (id)) << 24)
#define APIC_LDR_OFFSET		0xd0
#define APIC_DFR_OFFSET		0xe0
#define LOGICAL			0x00800
#define ALL_BUT_SELF		0xc0000
#define SELF			0x40000

struct lat_shared *lat_guest_shared;

/* Which vCPU this is: APIC IDs are vCPU IDs, whatever mode the APIC is in. */
static struct lat_vcpu *this_vcpu(void)
{
	struct lat_shared *l = lat_guest_shared;
	u32 id = l->xapic ? xapic_read_reg(APIC_ID) >> 24 : x2apic_read_reg(APIC_ID);

	return &l->vcpu[id % LAT_MAX_VCPUS];
}

static void account(u64 now)
{
	struct lat_vcpu *me = this_vcpu();

	WRITE_ONCE(me->t_handled, now);
	WRITE_ONCE(me->asleep, 0);
	__atomic_store_n(&me->handled, me->handled + 1, __ATOMIC_RELEASE);
}

void lat_guest_irq(struct ex_regs *regs)
{
	u64 now = rdtsc();

	(void)regs;
	account(now);
	if (lat_guest_shared->xapic)
		xapic_write_reg(APIC_EOI, 0);
	else
		wrmsr(X2APIC_MSR(APIC_EOI), 0);
}

void lat_guest_nmi(struct ex_regs *regs)
{
	u64 now = rdtsc();

	(void)regs;
	account(now);
}

static void spin(u64 ticks)
{
	u64 start = rdtsc();

	while (rdtsc() - start < ticks)
		;
}

static void write_icr(u32 dest, u32 low)
{
	if (lat_guest_shared->xapic) {
		xapic_write_reg(APIC_ICR2, SET_APIC_DEST_FIELD(dest));
		xapic_write_reg(APIC_ICR, low);
	} else {
		wrmsr(X2APIC_MSR(APIC_ICR), (u64)dest << 32 | low);
	}
}

static void icr_to_nobody(void)
{
	wrmsr(X2APIC_MSR(APIC_ICR),
	      (u64)POST_ABSENT_APIC_ID << 32 | APIC_INT_ASSERT |
	      APIC_DEST_PHYSICAL | APIC_DM_FIXED | POST_TIMER_VEC);
}

static void cpuid_exit(void)
{
	u32 eax, ebx, ecx, edx;

	cpuid(0, &eax, &ebx, &ecx, &edx);
}

static void send(struct lat_shared *l)
{
	u32 low = APIC_INT_ASSERT | APIC_DM_FIXED | LAT_VEC;

	switch (l->op) {
	case LAT_SELF:
		if (l->xapic)
			write_icr(0, low | SELF);
		else
			wrmsr(X2APIC_SELF_IPI, LAT_VEC);
		break;
	case LAT_UNICAST:
		write_icr(1, low | APIC_DEST_PHYSICAL);
		break;
	case LAT_MULTICAST:
		/* Flat, or cluster 0: bit n is APIC ID n; not this one's. */
		write_icr((2u << l->nr_targets) - 2, low | LOGICAL);
		break;
	default:
		write_icr(0, low | ALL_BUT_SELF);
	}
}

static bool all_asleep(struct lat_shared *l)
{
	u64 i;

	for (i = 1; i <= l->nr_targets; i++)
		if (!READ_ONCE(l->vcpu[i].asleep))
			return false;
	return true;
}

/* Before an operation: a random while, and sleepers are to be asleep. */
static bool prepare(struct lat_shared *l, struct post_shared *s, u64 *rnd)
{
	u64 start = rdtsc();

	spin(rnd_below(rnd, l->gap_max + 1));
	if (l->state != LAT_HLT || l->op == LAT_TIMER)
		return true;
	while (!all_asleep(l)) {
		if (READ_ONCE(s->stop) || rdtsc() - start > l->stall_ticks)
			return false;
	}
	spin(l->settle);
	return true;
}

/* Ticks from @start to the last handler of vCPUs @first ... @last; < 0: lost. */
static s64 wait_handled(struct lat_shared *l, struct post_shared *s, u64 first,
			u64 last, u64 count, u64 start)
{
	u64 i, latest = start, begun = rdtsc();

	for (i = first; i <= last; i++) {
		struct lat_vcpu *v = &l->vcpu[i];

		while (__atomic_load_n(&v->handled, __ATOMIC_ACQUIRE) < count) {
			if (READ_ONCE(s->stop) || rdtsc() - begun > l->stall_ticks)
				return -1;
		}
		if ((s64)(v->t_handled - latest) > 0)
			latest = v->t_handled;
		else if ((s64)(v->t_handled - start) < 0)
			l->backwards++;
	}
	return latest - start;
}

static s64 time_ipi(struct lat_shared *l, struct post_shared *s, u64 count)
{
	u64 first = l->op == LAT_SELF ? 0 : 1;
	u64 last = l->op == LAT_SELF ? 0 : l->nr_targets;
	u64 start = rdtsc();

	/* An x2APIC write does not order earlier stores. */
	asm volatile("mfence; lfence" ::: "memory");
	send(l);
	return wait_handled(l, s, first, last, count, start);
}

/* IF=0 until HLT, so that an early interrupt ends it. */
static void sleep_until(struct lat_vcpu *me, struct post_shared *s, u64 count)
{
	while (READ_ONCE(me->handled) < count && !READ_ONCE(s->stop)) {
		asm volatile("cli" ::: "memory");
		if (READ_ONCE(me->handled) < count)
			asm volatile("sti; hlt" ::: "memory");
		else
			asm volatile("sti" ::: "memory");
	}
}

static s64 time_timer(struct lat_shared *l, struct post_shared *s, u64 count, u64 *rnd)
{
	u64 deadline = rdtsc() + l->settle + rnd_below(rnd, l->gap_max + 1);

	wrmsr(MSR_IA32_TSC_DEADLINE, deadline);
	if (l->state == LAT_HLT)
		sleep_until(&l->vcpu[0], s, count);
	return wait_handled(l, s, 0, 0, count, deadline);
}

static s64 time_exit(struct lat_shared *l)
{
	u64 start = rdtsc(), ticks;

	if (l->op == LAT_CPUID)
		cpuid_exit();
	else
		icr_to_nobody();
	ticks = rdtsc() - start;
	l->started = start;
	return ticks;
}

static s64 time_one(struct lat_shared *l, struct post_shared *s, u64 i, u64 *rnd)
{
	switch (l->op) {
	case LAT_CPUID:
	case LAT_ICR:
		return time_exit(l);
	case LAT_TIMER:
		return time_timer(l, s, i + 1, rnd);
	default:
		return time_ipi(l, s, i + 1);
	}
}

static void driver_main(struct lat_shared *l, struct post_shared *s)
{
	u64 rnd = rnd_stream(l->seed, 0);
	u64 *starts = (u64 *)l->starts;
	u32 *buf = (u32 *)l->buf;
	u64 i;

	/* Fault the buffers in now: a page fault in the run is noise. */
	for (i = 0; i < l->samples; i += 4096 / sizeof(*buf))
		WRITE_ONCE(buf[i], 0);
	for (i = 0; starts && i < l->samples; i += 4096 / sizeof(*starts))
		WRITE_ONCE(starts[i], 0);
	if (l->op == LAT_TIMER)
		wrmsr(X2APIC_MSR(LVTT), LVTT_TSC_DEADLINE | LAT_VEC);

	post_guest_wait(s);
	for (i = 0; i < l->warmup + l->samples && !READ_ONCE(s->stop); i++) {
		s64 ticks = prepare(l, s, &rnd) ? time_one(l, s, i, &rnd) : -1;

		if (ticks < 0) {
			l->lost = !READ_ONCE(s->stop);
			break;
		}
		if (i < l->warmup)
			continue;
		if (starts)
			starts[l->taken] = l->started;
		buf[l->taken] = ticks > UINT32_MAX ? UINT32_MAX : ticks;
		WRITE_ONCE(l->taken, l->taken + 1);
	}
	__atomic_store_n(&l->done, 1, __ATOMIC_RELEASE);
}

/* asleep is cleared by the handler, whenever it comes. */
static void doze(struct lat_vcpu *me, struct post_shared *s)
{
	asm volatile("cli" ::: "memory");
	WRITE_ONCE(me->asleep, 1);
	if (READ_ONCE(s->stop))
		asm volatile("sti" ::: "memory");
	else
		asm volatile("sti; hlt" ::: "memory");
}

static void target_main(struct lat_shared *l, struct post_shared *s, u64 vcpu)
{
	struct lat_vcpu *me = &l->vcpu[vcpu];
	u64 rnd = rnd_stream(l->seed, vcpu + 1);

	post_guest_wait(s);
	while (!READ_ONCE(s->stop)) {
		if (l->state == LAT_HLT) {
			doze(me, s);
			continue;
		}
		spin(rnd_below(&rnd, l->exit_gap_max + 1));
		if (l->state == LAT_EXITS)
			cpuid_exit();
		else if (l->state == LAT_FASTPATH)
			icr_to_nobody();
	}
}

static void apic_setup(struct lat_shared *l, u64 vcpu)
{
	if (!l->xapic) {
		x2apic_enable();
		return;
	}
	xapic_enable();
	xapic_write_reg(APIC_DFR_OFFSET, ~0u);
	xapic_write_reg(APIC_LDR_OFFSET, APIC_LDR_FLAT(vcpu));
}

void lat_guest_main(struct post_shared *s, u64 vcpu)
{
	struct lat_shared *l = lat_guest_shared;

	apic_setup(l, vcpu);
	asm volatile("sti" ::: "memory");
	if (!vcpu && l->op != LAT_IDLE)
		driver_main(l, s);
	else
		target_main(l, s, vcpu);
	asm volatile("cli" ::: "memory");
	GUEST_DONE();
}
