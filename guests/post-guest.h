/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the `post` guest and its host side share: the layout of the shared
 * memory, the workloads, the seeded random numbers.
 */
#ifndef POST_GUEST_H
#define POST_GUEST_H

#include <linux/bits.h>
#include <linux/compiler.h>
#include <linux/types.h>

#define POST_VEC_FIRST		0x30
#define POST_VEC_LAST		0xef
#define POST_NR_VEC		(POST_VEC_LAST - POST_VEC_FIRST + 1)
#define POST_VEC_PER_SENDER	64
#define POST_MAX_SENDERS	19
#define POST_TIMER_VEC		0xf1	/* masked, never delivered */
#define POST_ABSENT_APIC_ID	0x7f00	/* no vCPU has it, not a broadcast */
#define POST_EXIT_PORT		0x5e0	/* the target's exits to userspace */

enum post_workload {
	POST_COMPUTE,
	POST_EXITS,
	POST_FASTPATH,
	POST_HLT,
	POST_MIXED,		/* any of the above */
	POST_NR_WORKLOADS,	/* what the benchmark has */

	POST_USERSPACE = POST_NR_WORKLOADS,
	POST_TPR,
	POST_ALL,		/* any of the above but mixed */
	POST_NR_ALL_WORKLOADS,
};

/* What the fastpath workload may use, see fastpath_op() */
#define POST_FP_ICR		BIT(0)
#define POST_FP_TSC_DEADLINE	BIT(1)

/*
 * One vector. Its sender writes posted, t_post, c_post and harvested; the
 * interrupt handler on the target writes the rest, handled last.
 */
struct post_vec {
	u64 posted;
	u64 t_post;		/* TSC before the ICR write */
	u64 c_post;		/* target's compute ticks after the ICR write */
	u64 harvested;		/* handled posts already evaluated */
	u64 handled;
	u64 t_handled;		/* TSC at the handler's entry */
	u64 c_handled;		/* compute ticks at the handler's entry */
} __aligned(64);

/* What evaluating the handled posts of one sender has given */
struct post_result {
	u64 samples;		/* latencies stored in buf[] */
	u64 late;
	u64 late_max_wait;
	u64 tsc_backwards;	/* handled before it was posted: TSCs differ */
};

struct post_sender {
	u64 quota;
	u64 seed;
	u64 buf;		/* GVA of u32[quota] */
	u32 vec_first;		/* vec_first + k * vec_stride, k < nr_vec */
	u32 vec_stride;
	u32 nr_vec;
	u64 posted;
	u64 waits;
	u64 send_ticks;		/* spent in posting, all posts */
	u64 stalled;
	u64 done;
	u64 t_end;
	struct post_result res;
} __aligned(128);

/*
 * What may hold up others: a post, or a request by the host.  A poster that has
 * moved vcpu->mode or set PID.ON and is descheduled before its IPI leaves those
 * without a notification that post meanwhile.  @begun is the target's compute
 * ticks, @busy the state; those that took long are kept in post_shared.held.
 */
struct post_op {
	u64 begun;
	u64 busy;
} __aligned(64);

#define POST_NR_OPS	(POST_MAX_SENDERS + 1)	/* the last one: the host's requests */
#define POST_HOST_OP	POST_MAX_SENDERS
#define POST_NR_HELD	256

struct post_target {
	u64 compute;		/* ticks computed with interrupts on */
	u64 irqs;
	u64 handled;
	u64 doubled;
	u64 ops[POST_NR_ALL_WORKLOADS];	/* CPUIDs, fastpath exits, ... done */
	u64 nmis;

} __aligned(128);

struct post_shared {
	/* written by the host before the vCPUs start */
	u64 workload;
	u64 nr_senders;
	u64 seed;
	u64 gap_min, gap_max;	/* sender, ticks between posts */
	u64 exit_gap_max;	/* target, ticks computed between operations */
	u64 long_ticks;		/* target, 1 in long_every instead of that */
	u64 long_every;
	u64 gap_cap;
	u64 late_bound;
	u64 stall_ticks;
	u64 fastpath_ops;
	u64 host_tsc_offset;	/* guest's TSC less the host's */
	u64 timer;		/* sender 0 is the target's own timer, of this vector */
	struct {
		u64 go;
		u64 stop;
		u64 t_start;
	} __aligned(64);
	struct {
		u64 ready;
		u64 senders_done;
		u64 posted_done;	/* posts of the senders that are done */
	} __aligned(64);
	struct post_target target;
	struct post_vec vec[256];
	struct post_sender sender[POST_MAX_SENDERS];
	u64 several;		/* more than one poster: keep op[] and held[] */
	struct post_op op[POST_NR_OPS];
	u64 nr_held;
	struct {
		u64 begun, ended;
	} held[POST_NR_HELD];	/* the last ones */
};

static inline void post_op_begin(struct post_shared *s, unsigned int i)
{
	if (!s->several)
		return;
	WRITE_ONCE(s->op[i].begun, READ_ONCE(s->target.compute));
	__atomic_store_n(&s->op[i].busy, 1, __ATOMIC_SEQ_CST);
}

static inline void post_op_end(struct post_shared *s, unsigned int i)
{
	u64 now;

	if (!s->several)
		return;
	now = READ_ONCE(s->target.compute);
	if (now - s->op[i].begun > s->late_bound / 4) {
		u64 n = __atomic_fetch_add(&s->nr_held, 1, __ATOMIC_SEQ_CST) % POST_NR_HELD;

		WRITE_ONCE(s->held[n].begun, s->op[i].begun);
		WRITE_ONCE(s->held[n].ended, now);
	}
	__atomic_store_n(&s->op[i].busy, 0, __ATOMIC_RELEASE);
}

/*
 * The compute ticks from which a post that was done at @c_post waits for nobody
 * but the target: when the last of those was done that had begun before it.
 */
static inline u64 post_free_from(struct post_shared *s, u64 c_post)
{
	unsigned int i;
	u64 from = c_post;

	for (i = 0; i < POST_NR_OPS; i++)
		if (__atomic_load_n(&s->op[i].busy, __ATOMIC_ACQUIRE) &&
		    READ_ONCE(s->op[i].begun) <= c_post)
			from = READ_ONCE(s->target.compute);
	for (i = 0; i < POST_NR_HELD; i++)
		if (READ_ONCE(s->held[i].begun) <= c_post &&
		    READ_ONCE(s->held[i].ended) > from)
			from = READ_ONCE(s->held[i].ended);
	return from;
}

/* xorshift64*: the state must not be 0 */
static inline u64 rnd_next(u64 *state)
{
	u64 x = *state;

	x ^= x >> 12;
	x ^= x << 25;
	x ^= x >> 27;
	*state = x;
	return x * 0x2545f4914f6cdd1dull;
}

/* Uniform in 0 .. n - 1, n up to 2^32 */
static inline u64 rnd_below(u64 *state, u64 n)
{
	return ((rnd_next(state) >> 32) * n) >> 32;
}

/* One independent stream per (seed, i): splitmix64 */
static inline u64 rnd_stream(u64 seed, u64 i)
{
	u64 z = seed + (i + 1) * 0x9e3779b97f4a7c15ull;

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
	z ^= z >> 31;
	return z ? z : 1;
}

/*
 * Evaluate a handled post that has not been yet. @buf, if any, takes the latency.
 * The sender calls it before it posts the vector again, the host at the end.
 */
static inline void post_harvest(struct post_shared *s, struct post_vec *v,
				struct post_result *res, u32 *buf)
{
	u64 latency = v->t_handled - v->t_post;
	s64 wait = v->c_handled - v->c_post;

	if ((s64)latency < 0) {
		res->tsc_backwards++;
		latency = 0;
	}
	if (buf)
		buf[res->samples] = latency > UINT32_MAX ? UINT32_MAX : latency;
	res->samples++;

	if (s->several && wait > (s64)s->late_bound)
		wait = v->c_handled - post_free_from(s, v->c_post);
	/* Negative: handled before the sender's ICR write returned. */
	if (wait > 0 && (u64)wait > res->late_max_wait)
		res->late_max_wait = wait;
	if (wait > (s64)s->late_bound)
		res->late++;
	v->harvested++;
}

struct ex_regs;

void post_guest_main(struct post_shared *s, u64 vcpu);
void post_guest_irq(struct ex_regs *regs);
void post_guest_nmi(struct ex_regs *regs);
void post_guest_page_fault(struct ex_regs *regs);

/* Parts for other guests: up and waiting for go; compute and account it. */
void post_guest_wait(struct post_shared *s);
void post_guest_compute(struct post_shared *s, u64 ticks);

/*
 * One sender's whole run, on a vCPU or on a host thread: @send posts a vector,
 * @tsc_offset makes the caller's TSC the guest's.
 */
void post_sender_run(struct post_shared *s, unsigned int i, u32 *buf,
		     void (*send)(void *arg, u32 vector), void *arg,
		     u64 tsc_offset);

extern struct post_shared *post_guest_shared;

#endif /* POST_GUEST_H */
