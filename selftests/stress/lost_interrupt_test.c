// SPDX-License-Identifier: GPL-2.0
/*
 * No interrupt is lost, doubled or late, whatever is done to the target.
 *
 * Each round is a VM of its own (post-guest.c): vCPUs and host threads post
 * vectors to vCPU 0, each vector again only when its handler has run, so that
 * every post is accounted for.  An interrupt is late if the target computed
 * for longer than a bound, with interrupts on and without leaving the CPU,
 * before it took the interrupt.  Who posts, how fast, and what disturbs the
 * target is drawn from the seed: vCPU threads move between CPUs, signals and
 * immediate_exit interrupt KVM_RUN, APICv is inhibited, parameters switch.  The
 * target itself exits, sleeps, or holds interrupts back by CR8 and IF.  In
 * every other round a target that halts is asleep mostly; the first one is
 * undisturbed.
 */
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "apic.h"
#include "kvm_util.h"
#include "processor.h"

#include "stress.h"

#define ROUND_POSTS	10000	/* where a clock ends the case */
#define MAX_ROUND_POSTS	60000	/* where a count does: making a VM may take long */
#define MIN_ROUNDS	4	/* of these the first is not disturbed */
#define MAX_DISTURB_BITS	13	/* microseconds, short ones most */
#define NR_DISTURB	3	/* kinds without a case of their own */

enum disturb {
	DISTURB_MIGRATE = BIT(0),
	DISTURB_SIGNAL	= BIT(1),
	DISTURB_IMMEDIATE_EXIT = BIT(2),
	DISTURB_APICV	= BIT(3),
	DISTURB_SWITCH	= BIT(4),
};

static const struct test_case {
	const char *name;
	enum post_workload workload;
	unsigned int always;	/* enum disturb, in every round */
} cases[] = {
	{ "compute", POST_COMPUTE, 0 },
	{ "exits", POST_EXITS, 0 },
	{ "fastpath", POST_FASTPATH, 0 },
	{ "hlt", POST_HLT, 0 },
	{ "userspace", POST_USERSPACE, 0 },
	{ "TPR", POST_TPR, 0 },
	{ "all", POST_ALL, 0 },
	{ "all, APICv inhibited and uninhibited", POST_ALL, DISTURB_APICV },
	{ "all, parameters switched", POST_ALL, DISTURB_SWITCH },
};

struct round {
	struct post_vm vm;
	struct kvm_vcpu *idle;		/* never runs; its ioctls need no wait */
	unsigned int disturb;
	u64 rnd;
	bool stop;
	u64 migrations, signals, inhibits, switched;
};

struct total {
	u64 rounds, posts, by_host, lost, doubled, late, max_wait, stalled;
	u64 migrations, signals, inhibits, switched, late_bound;
};

static unsigned int nr_cpus;

static void migrate(struct round *r)
{
	struct post_thread *t = &r->vm.t[rnd_below(&r->rnd, r->vm.nr_vcpus)];
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(rnd_below(&r->rnd, nr_cpus), &set);
	pthread_setaffinity_np(t->thread, sizeof(set), &set);
	r->migrations++;
}

static void interrupt_run(struct round *r, bool by_signal)
{
	struct post_thread *t = &r->vm.t[rnd_below(&r->rnd, r->vm.nr_vcpus)];

	if (by_signal)
		pthread_kill(t->thread, POST_SIGNAL);
	else
		WRITE_ONCE(t->vcpu->run->immediate_exit, 1);
	r->signals++;
}

/* BLOCKIRQ on any vCPU inhibits APICv for the whole VM, as long as it is set. */
static void toggle_apicv(struct round *r)
{
	struct kvm_guest_debug debug = {};

	if (r->inhibits++ % 2 == 0)
		debug.control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_BLOCKIRQ;
	post_op_begin(r->vm.s, POST_HOST_OP);
	vcpu_guest_debug_set(r->idle, &debug);
	post_op_end(r->vm.s, POST_HOST_OP);
}

static void toggle_switch(struct round *r)
{
	const char *name = stress_switches[rnd_below(&r->rnd, STRESS_NR_SWITCHES)];
	char now = param_read(name);

	if (now && param_write(name, now == 'Y' ? "N" : "Y"))
		r->switched++;
}

static void *disturb_fn(void *data)
{
	struct round *r = data;

	while (!__atomic_load_n(&r->stop, __ATOMIC_ACQUIRE)) {
		unsigned int what = BIT(rnd_below(&r->rnd, 5)) & r->disturb;

		if (what & DISTURB_MIGRATE)
			migrate(r);
		if (what & (DISTURB_SIGNAL | DISTURB_IMMEDIATE_EXIT))
			interrupt_run(r, what & DISTURB_SIGNAL);
		if (what & DISTURB_APICV)
			toggle_apicv(r);
		if (what & DISTURB_SWITCH)
			toggle_switch(r);
		sleep_us(rnd_below(&r->rnd, BIT(rnd_below(&r->rnd, MAX_DISTURB_BITS))));
	}
	return NULL;
}

/* Two senders at least where there are CPUs for them; one CPU stays free */
static void draw_senders(struct round *r, struct post_setup *cfg)
{
	unsigned int max = nr_cpus > 3 ? nr_cpus - 2 : 1;
	unsigned int n = 1 + rnd_below(&r->rnd, max);

	cfg->host_senders = rnd_below(&r->rnd, n + 1);
	cfg->senders = n - cfg->host_senders;
}

/* No polling in the host, and time to fall asleep between the posts */
static void make_it_block(struct post_vm *vm)
{
	if (kvm_has_cap(KVM_CAP_HALT_POLL))
		vm_enable_cap(vm->vm, KVM_CAP_HALT_POLL, 0);
	vm->s->gap_max = 4 * vm->s->late_bound;
}

/* Of a round; a vCPU that nobody wakes takes a while to be given up. */
static void on_progress(struct post_vm *p, u64 posted, u64 ms)
{
	stress_progress("%lu posts of a round of %lu, %lu handled, %lu ms", posted, p->cfg.posts,
			READ_ONCE(p->s->target.handled), ms);
}

static void round_setup(struct round *r, const struct test_case *c, u64 posts,
			u64 round)
{
	static const u64 gaps[] = { 0, 100, 500, 4000 };
	struct post_setup cfg = {
		.name		= c->name,
		.workload	= c->workload,
		.posts		= posts,
		.seed		= rnd_next(&r->rnd) | 1,
		.gap_max	= gaps[rnd_below(&r->rnd, ARRAY_SIZE(gaps))],
		.exit_gap_max	= 1 + rnd_below(&r->rnd, 4000),
		.long_every	= 16 << rnd_below(&r->rnd, 4),
		.stall_ms	= 5000,
		.timeout_s	= 300,
		.fastpath_ops	= POST_FP_ICR,
		.no_samples	= true,
		.progress	= on_progress,
		.host_requests	= c->always & DISTURB_APICV,
	};

	draw_senders(r, &cfg);
	post_vm_create(&r->vm, &cfg, 0);
	if (round % 2 && c->workload == POST_HLT)
		make_it_block(&r->vm);
	r->idle = vm_vcpu_add(r->vm.vm, r->vm.nr_vcpus, post_guest_main);
	/* A signal wakes a vCPU that its sender forgot to wake. */
	r->disturb = c->always;
	if (round > 1)
		r->disturb |= rnd_below(&r->rnd, BIT(NR_DISTURB));
}

static void round_run(struct round *r, struct post_count *n)
{
	pthread_t disturber;

	post_vm_start(&r->vm);
	__atomic_store_n(&r->stop, false, __ATOMIC_RELEASE);
	thread_start(&disturber, nr_cpus - 1, disturb_fn, r);
	post_vm_go(&r->vm);
	post_vm_wait(&r->vm);
	post_vm_drain(&r->vm);
	post_vm_account(&r->vm, n);
	__atomic_store_n(&r->stop, true, __ATOMIC_RELEASE);
	pthread_join(disturber, NULL);
	post_vm_stop(&r->vm);
	post_vm_harvest(&r->vm, n);
}

static void add(struct total *t, const struct round *r, const struct post_count *n)
{
	unsigned int i;

	t->rounds++;
	t->posts += n->posted;
	for (i = r->vm.cfg.senders; i < r->vm.nr_senders; i++)
		t->by_host += r->vm.s->sender[i].posted;
	t->lost += n->lost;
	t->doubled += n->doubled;
	t->late += n->res.late;
	t->stalled += n->stalled;
	if (n->res.late_max_wait > t->max_wait)
		t->max_wait = n->res.late_max_wait;
	t->migrations += r->migrations;
	t->signals += r->signals;
	t->inhibits += r->inhibits;
	t->switched += r->switched;
	t->late_bound = r->vm.s->late_bound;
}

static bool clean(const struct total *t)
{
	return !t->lost && !t->doubled && !t->late && !t->stalled;
}

static void note_bits(const char *name, const char *regs, unsigned int base)
{
	char text[256] = "";
	unsigned int v, n = 0;

	for (v = 0; v < 256 && n < sizeof(text) - 8; v++)
		if (*(u32 *)(regs + base + v / 32 * 16) >> v % 32 & 1)
			n += snprintf(text + n, sizeof(text) - n, " %02x", v);
	stress_note("  %s:%s", name, n ? text : " none");
}

/* Where a target stands that has not taken what was posted to it */
static void note_target(struct round *r)
{
	struct kvm_vcpu *vcpu = r->vm.t[0].vcpu;
	struct kvm_mp_state mp_state;
	struct kvm_lapic_state lapic;
	struct kvm_vcpu_events events;
	struct kvm_sregs sregs;
	struct kvm_regs regs;

	vcpu_regs_get(vcpu, &regs);
	vcpu_mp_state_get(vcpu, &mp_state);
	vcpu_events_get(vcpu, &events);
	vcpu_ioctl(vcpu, KVM_GET_LAPIC, &lapic);
	vcpu_sregs_get(vcpu, &sregs);
	stress_note("  target: rip %#llx rflags %#llx cr8 %llu mp_state %u, handled %lu",
		    regs.rip, regs.rflags, sregs.cr8, mp_state.mp_state,
		    r->vm.s->target.handled);
	stress_note("  injected %u vector %#x shadow %u", events.interrupt.injected,
		    events.interrupt.nr, events.interrupt.shadow);
	note_bits("ISR", lapic.regs, 0x100);
	note_bits("IRR", lapic.regs, 0x200);
}

/* false: the first bad round, whose seed is printed, ends the case */
static void run_case(const struct test_case *c, u64 posts, u64 case_seed)
{
	u64 n = 0, each = posts ? DIV_ROUND_UP(posts, MIN_ROUNDS) : ROUND_POSTS;
	struct total t = {};
	char counts[128];

	if (each > MAX_ROUND_POSTS)
		each = MAX_ROUND_POSTS;

	do {
		struct round r = { .rnd = rnd_stream(case_seed, n++) };
		struct post_count count;

		round_setup(&r, c, each, n);
		round_run(&r, &count);
		add(&t, &r, &count);
		if (count.lost || count.stalled)
			note_target(&r);
		post_vm_free(&r.vm);
		stress_progress("%lu posts in %lu rounds, %lu lost, %lu late",
				t.posts, t.rounds, t.lost, t.late);
		if (!clean(&t))
			stress_note("round %lu: %u vCPUs, %u host threads post, disturbances %#x",
				    n, r.vm.cfg.senders, r.vm.cfg.host_senders, r.disturb);
	} while (clean(&t) && stress_time_left() && (!posts || t.posts < posts));

	snprintf(counts, sizeof(counts),
		 "migrations %lu signals %lu inhibits %lu switched %lu",
		 t.migrations, t.signals, t.inhibits, t.switched);
	stress_note("late after %lu ticks", t.late_bound);
	stress_note("longest_wait %lu ticks", t.max_wait);
	stress_case(clean(&t),
		    "posted %lu by_host %lu rounds %lu lost %lu doubled %lu late %lu stalled %lu %s",
		    t.posts, t.by_host, t.rounds, t.lost, t.doubled, t.late,
		    t.stalled, counts);
}

static const char help_text[] =
"Posts interrupts to a vCPU under all kinds of disturbance and accounts for\n"
"every one.  COUNT is the number of posts, over all cases.";

int main(int argc, char **argv)
{
	const struct stress_options defaults = { .seconds = 20, .seed = 1 };
	unsigned int i, n = ARRAY_SIZE(cases);
	bool switches;

	stress_init(argc, argv, help_text, &defaults);
	nr_cpus = sysconf(_SC_NPROCESSORS_ONLN);
	if (nr_cpus < 2)
		stress_skip_all("needs two CPUs");
	switches = switches_save();

	stress_plan(n);
	for (i = 0; i < n; i++) {
		if (!stress_case_begin(cases[i].name))
			continue;
		if (cases[i].always & DISTURB_SWITCH && !switches)
			stress_skip("this KVM has nothing to switch");
		else if (cases[i].always & DISTURB_APICV &&
			 !(kvm_check_cap(KVM_CAP_SET_GUEST_DEBUG2) & KVM_GUESTDBG_BLOCKIRQ))
			stress_skip("no KVM_GUESTDBG_BLOCKIRQ here");
		else
			run_case(&cases[i], (stress.count + n - 1) / n,
				 rnd_stream(stress.seed, i));
	}
	switches_restore();
	return stress_end();
}
