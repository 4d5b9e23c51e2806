// SPDX-License-Identifier: GPL-2.0
/*
 * Entries that fail or are given up must leave the in-guest flag at KVM_EXEC_HOST: a
 * stale flag makes senders notify a vCPU that is not in the guest.
 *
 * Every case runs one vCPU in the main thread and looks at the flag through
 * the probe each time KVM_RUN has returned.  Meanwhile a poster sends MSIs to
 * the vCPU, a disturber kicks and signals it at random moments, and a sampler
 * reads the flag from outside and watches it change.  Now and then the vCPU
 * stays out of KVM_RUN for a while, in which nothing may be notified or kicked.
 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "kvm_util.h"
#include "processor.h"
#include "svm_util.h"
#include "vmx.h"

#include "stress.h"
#include "vm_fail.h"

#define SIG_OUT		SIGUSR1
#define LIMIT_US	20000000
#define VEC_PER_HELPER	32
#define SHORT_US	100	/* pauses of the helpers */
#define LONG_US		1000
#define IDLE_RUNS	1000	/* KVM_RUNs in which nothing was delivered */
#define OUT_EVERY	32	/* one in so many KVM_RUNs stays out for long */
#define WATCHED		64	/* changes of state, without a pause */
/* A look takes less: the vCPU does not come and go that often between two reads. */
#define STALE_TICKS	(2 * PROBE_AWAY_TICKS)

static const char * const kind_names[NR_KINDS] = {
	"good", "KVM's control checks", "KVM's host checks",
	"KVM's state checks", "VM-Fail by the CPU", "VM-Fail by KVM or the CPU", "exit by the CPU",
	"I/O of L2",
};

struct rig;

/* A thread that does things to the vCPU; begun != done: in the midst of one */
struct helper {
	struct rig *rig;
	pthread_t thread;
	u32 vec_first;
	u64 rnd, begun, done;
};

enum { POSTER, DISTURBER, NR_ACTORS, SAMPLER = NR_ACTORS, CHANGER, NR_HELPERS };

struct rig {
	struct kvm_vm *vm;
	struct kvm_vcpu *vcpu;
	struct post_shared *posts;
	struct fail_shared *guest;
	u32 *vtpr;		/* of L1's virtual-APIC page */
	pthread_t main;
	u64 rnd;
	u64 pause_us;		/* of the helpers, at most */
	u64 turn;		/* odd: the main thread is not in KVM_RUN */
	u64 stop;
	bool guest_done;
	struct helper helper[NR_HELPERS], own;

	u64 runs, io, interrupted, not_entered, bailed, stays, stays_counted;
	u64 exits;		/* of the vCPU, when it last was out */
	u64 sent_out, kicked_out;
	long long sent_at_begin, elided_at_begin;
	u64 samples_out, samples_seen[2], watched;
	u64 bad_own, bad_sampled;
	struct kvm_mode_probe first_bad;
	u64 posted, lost;
};

/* The helpers */
static void begin(struct helper *h)
{
	__atomic_add_fetch(&h->begun, 1, __ATOMIC_SEQ_CST);
}

static void end(struct helper *h)
{
	__atomic_add_fetch(&h->done, 1, __ATOMIC_SEQ_CST);
}

/* Spins for a short while or sleeps, which leaves the others the CPU */
static void pause_a_while(struct helper *h)
{
	u64 start, ticks;

	if (rnd_below(&h->rnd, 4)) {
		sleep_us(1 + rnd_below(&h->rnd, h->rig->pause_us));
		return;
	}
	start = rdtsc();
	ticks = rnd_below(&h->rnd, 20000);
	while (rdtsc() - start < ticks)
		;
}

/* An interrupt whose vector has been handled since its last post, if any */
static bool post_one(struct helper *h)
{
	u32 i, n = rnd_below(&h->rnd, VEC_PER_HELPER);

	for (i = 0; i < VEC_PER_HELPER; i++) {
		u32 vector = h->vec_first + (n + i) % VEC_PER_HELPER;
		struct post_vec *v = &h->rig->posts->vec[vector];
		struct kvm_msi msi = {
			.address_lo = APIC_DEFAULT_GPA,
			.data = vector,
		};

		if (__atomic_load_n(&v->handled, __ATOMIC_ACQUIRE) != v->posted)
			continue;
		begin(h);
		WRITE_ONCE(v->posted, v->posted + 1);
		if (__vm_ioctl(h->rig->vm, KVM_SIGNAL_MSI, &msi) < 0)
			stress_die("KVM_SIGNAL_MSI: %s", strerror(errno));
		end(h);
		return true;
	}
	return false;
}

static void *poster_fn(void *arg)
{
	struct helper *h = arg;

	while (!READ_ONCE(h->rig->stop)) {
		if (!post_one(h))
			sleep_us(50);
		pause_a_while(h);
	}
	return NULL;
}

static void disturb(struct helper *h)
{
	static const unsigned long ops[] = {
		PROBE_KICK, PROBE_REQUEST, PROBE_WAIT,
	};
	u32 op = rnd_below(&h->rnd, 2 * ARRAY_SIZE(ops));
	struct kvm_mode_probe p;

	begin(h);
	if (op < ARRAY_SIZE(ops) && probe_present())
		probe(ops[op], h->rig->vcpu, &p);
	else
		pthread_kill(h->rig->main, SIG_OUT);
	end(h);
}

static void *disturber_fn(void *arg)
{
	struct helper *h = arg;

	while (!READ_ONCE(h->rig->stop)) {
		disturb(h);
		pause_a_while(h);
	}
	return NULL;
}

static bool is_out(const struct kvm_mode_probe *p)
{
	return p->mode == PROBE_OUTSIDE_RUN_LOOP &&
	       (p->flag == PROBE_IN_HOST || p->flag == PROBE_NO_FLAG);
}

/* Either the main thread or the sampler is first, the other one's is lost */
static void bad(struct rig *r, u64 *count, const struct kvm_mode_probe *p)
{
	if (!r->bad_own && !r->bad_sampled)
		r->first_bad = *p;
	WRITE_ONCE(*count, *count + 1);
}

static void sample(struct rig *r)
{
	u64 turn = __atomic_load_n(&r->turn, __ATOMIC_SEQ_CST);
	struct kvm_mode_probe p;

	probe(PROBE_READ, r->vcpu, &p);
	if (p.flag >= 0)
		r->samples_seen[!!p.flag]++;
	if (__atomic_load_n(&r->turn, __ATOMIC_SEQ_CST) != turn)
		return;
	if (turn & 1) {
		r->samples_out++;
		if (!is_out(&p))
			bad(r, &r->bad_sampled, &p);
	}
}

/*
 * The states as they change: behind an entry that has failed the vCPU is outside the
 * run loop for some thousand instructions, and seldom gets to userspace from there.
 */
static void watch(struct rig *r)
{
	struct kvm_mode_change c[WATCHED];
	u32 i, n = probe_watch(r->vcpu, c, WATCHED, 1);

	for (i = 0; i + 1 < n; i++) {
		struct kvm_mode_probe p = { .mode = c[i].mode, .flag = c[i].flag };

		if (p.mode == PROBE_OUTSIDE_RUN_LOOP && p.flag == PROBE_IN_GUEST &&
		    c[i + 1].tsc - c[i].tsc > STALE_TICKS)
			bad(r, &r->bad_sampled, &p);
		r->watched += p.mode != PROBE_AWAY;
	}
}

/* Also the watchdog: the main thread must go on, in the guest or out of it */
static void *sampler_fn(void *arg)
{
	struct helper *h = arg;
	struct rig *r = h->rig;
	u64 turn = 0, moved = now_us();

	while (!READ_ONCE(r->stop)) {
		u64 now = now_us();

		if (probe_present()) {
			sample(r);
			watch(r);
		}
		if (READ_ONCE(r->turn) != turn) {
			turn = READ_ONCE(r->turn);
			moved = now;
		}
		if (now - moved > LIMIT_US)
			stress_die("the vCPU's thread hangs %s KVM_RUN, in spite of signals",
				   turn & 1 ? "out of" : "in");
		pause_a_while(h);
	}
	return NULL;
}

/* VTPR below L1's threshold and above it, in turn, often enough to hit entries */
static void *changer_fn(void *arg)
{
	struct helper *h = arg;
	struct rig *r = h->rig;

	while (r->guest->kinds & BIT(RACE_CONTROL) && !READ_ONCE(r->stop)) {
		u64 start = rdtsc(), ticks = rnd_below(&h->rnd, 4000);

		while (rdtsc() - start < ticks)
			;
		WRITE_ONCE(*r->vtpr, READ_ONCE(*r->vtpr) ^ 0xf0);
	}
	return NULL;
}

/* Wait for the end of everything that began while the vCPU was in KVM_RUN */
static void settle(struct rig *r)
{
	u64 start = now_us();
	int i;

	for (i = 0; i < NR_ACTORS; i++) {
		struct helper *h = &r->helper[i];
		u64 begun = __atomic_load_n(&h->begun, __ATOMIC_SEQ_CST);

		while (__atomic_load_n(&h->done, __ATOMIC_SEQ_CST) < begun) {
			if (now_us() - start > LIMIT_US)
				stress_die("a %s does not end",
					   i == POSTER ? "post" : "kick");
			sleep_us(10);
		}
	}
}

/* Each own post has to be decided anew: KVM_GET_LAPIC empties the PIR. */
static void post_to_absent(struct rig *r)
{
	struct kvm_lapic_state lapic;
	u64 before = r->helper[POSTER].done, start = now_us();
	int i;

	for (i = 0; i < 4; i++) {
		post_one(&r->own);
		vcpu_ioctl(r->vcpu, KVM_GET_LAPIC, &lapic);
	}
	while (READ_ONCE(r->helper[POSTER].done) < before + 2 &&
	       now_us() - start < 500)
		sleep_us(10);
}

static void stay_out(struct rig *r)
{
	long long sent, kicked;
	bool counted;

	settle(r);
	sent = count_read("notify_sent");
	kicked = count_read("kick_ipi_sent");
	counted = sent >= 0 && kicked >= 0 && !other_vms();
	post_to_absent(r);
	settle(r);
	if (counted && !other_vms()) {
		r->sent_out += count_read("notify_sent") - sent;
		r->kicked_out += count_read("kick_ipi_sent") - kicked;
		r->stays_counted++;
	}
	r->stays++;
}

/* Running the vCPU */
static void handle_exit(struct rig *r)
{
	struct kvm_run *run = r->vcpu->run;
	struct ucall uc;

	if (run->exit_reason == KVM_EXIT_IO && run->io.port == FAIL_PORT) {
		r->io++;
		return;
	}
	switch (get_ucall(r->vcpu, &uc)) {
	case UCALL_DONE:
		r->guest_done = true;
		return;
	case UCALL_SYNC:
		return;
	case UCALL_ABORT:
		stress_die("guest assertion: %s", uc.buffer);
	default:
		stress_die("the vCPU left the guest: exit reason %u (%s)",
			   run->exit_reason,
			   exit_reason_str(run->exit_reason));
	}
}

static bool signal_consume(void)
{
	struct timespec now = { 0 };
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIG_OUT);
	return sigtimedwait(&set, NULL, &now) == SIG_OUT;
}

static void signal_pend(struct rig *r)
{
	pthread_kill(r->main, SIG_OUT);
}

/*
 * One KVM_RUN.  SIG_OUT is blocked but in there, so that one that comes early
 * stays pending and ends the next.  False: a signal or immediate_exit did.
 */
static bool run_once(struct rig *r)
{
	struct kvm_mode_probe p = { 0 };
	bool ended;
	int ret;

	__atomic_add_fetch(&r->turn, 1, __ATOMIC_SEQ_CST);
	ret = __vcpu_run(r->vcpu);
	ended = !ret;
	if (ret && errno != EINTR)
		stress_die("KVM_RUN: %s", strerror(errno));
	__atomic_add_fetch(&r->turn, 1, __ATOMIC_SEQ_CST);

	r->runs++;
	if (probe_present()) {
		probe(PROBE_READ, r->vcpu, &p);
		if (!is_out(&p))
			bad(r, &r->bad_own, &p);
	}
	if (ended) {
		handle_exit(r);
	} else {
		r->interrupted++;
		r->not_entered += p.exits == r->exits;
		signal_consume();
	}
	r->exits = p.exits;
	return ended;
}

static void run_and_stay(struct rig *r)
{
	run_once(r);
	if (!r->guest_done && !rnd_below(&r->rnd, OUT_EVERY))
		stay_out(r);
}

static void signals_setup(struct rig *r)
{
	struct {
		struct kvm_signal_mask mask;
		u64 set;
	} in_run = { .mask.len = 8 };
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIG_OUT);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	vcpu_ioctl(r->vcpu, KVM_SET_SIGNAL_MASK, &in_run.mask);
	r->main = pthread_self();
}

static void *guest_alloc(struct rig *r, size_t size, gva_t *gva)
{
	void *hva;

	*gva = vm_alloc(r->vm, size, KVM_UTIL_MIN_VADDR);
	hva = addr_gva2hva(r->vm, *gva);
	memset(hva, 0, size);
	return hva;
}

static void shared_setup(struct rig *r, u64 kinds)
{
	gva_t gva;
	int i;

	r->posts = guest_alloc(r, sizeof(*r->posts), &gva);
	write_guest_global(r->vm, post_guest_shared, (struct post_shared *)gva);
	r->guest = guest_alloc(r, sizeof(*r->guest), &gva);
	write_guest_global(r->vm, fail_shared, (struct fail_shared *)gva);
	r->vtpr = guest_alloc(r, getpagesize(), &gva) + FAIL_VTPR;
	r->guest->vapic_gpa = addr_gva2gpa(r->vm, gva);
	r->guest->kinds = kinds | BIT(GOOD);
	r->guest->seed = stress.seed;
	for (i = POST_VEC_FIRST; i <= POST_VEC_LAST; i++)
		vm_install_exception_handler(r->vm, i, post_guest_irq);
	vm_install_exception_handler(r->vm, PF_VECTOR, post_guest_page_fault);
}

static void helper_setup(struct rig *r, struct helper *h, u64 i)
{
	h->rig = r;
	h->rnd = rnd_stream(stress.seed, 10 + i);
	h->vec_first = POST_VEC_FIRST + i * VEC_PER_HELPER;
}

static void helpers_start(struct rig *r)
{
	static void *(* const fn[])(void *) = {
		[POSTER] = poster_fn,
		[DISTURBER] = disturber_fn,
		[SAMPLER] = sampler_fn,
		[CHANGER] = changer_fn,
	};
	int i;

	for (i = 0; i < NR_HELPERS; i++) {
		helper_setup(r, &r->helper[i], i);
		thread_start(&r->helper[i].thread, -1, fn[i], &r->helper[i]);
	}
}

/* @guest up to its GUEST_SYNC(), with the helpers at work from there on */
static void rig_start(struct rig *r, void *guest, u64 kinds, u64 pause_us)
{
	gva_t gva = 0;

	memset(r, 0, sizeof(*r));
	r->vm = vm_create_with_one_vcpu(&r->vcpu, guest);
	if (guest == fail_guest_vmx)
		vcpu_alloc_vmx(r->vm, &gva);
	else if (guest == fail_guest_svm)
		vcpu_alloc_svm(r->vm, &gva);
	vcpu_args_set(r->vcpu, 1, gva);
	shared_setup(r, kinds);
	signals_setup(r);
	r->rnd = rnd_stream(stress.seed, 2);
	r->pause_us = pause_us;
	r->turn = 1;
	helper_setup(r, &r->own, NR_HELPERS);
	if (!run_once(r))
		stress_die("the guest did not come up");
	r->sent_at_begin = count_read("notify_sent");
	r->elided_at_begin = count_read("notify_elided");
	helpers_start(r);
}

static void helper_join(struct helper *h)
{
	struct timespec limit;

	clock_gettime(CLOCK_REALTIME, &limit);
	limit.tv_sec += LIMIT_US / 1000000;
	if (pthread_timedjoin_np(h->thread, NULL, &limit))
		stress_die("a helper thread does not end");
}

static u64 undelivered(struct rig *r)
{
	u64 n = 0;
	int i;

	r->posted = 0;
	for (i = POST_VEC_FIRST; i <= POST_VEC_LAST; i++) {
		struct post_vec *v = &r->posts->vec[i];

		r->posted += READ_ONCE(v->posted);
		n += READ_ONCE(v->posted) - READ_ONCE(v->handled);
	}
	return n;
}

/* Whoever comes after the helpers has to get the vCPU out of KVM_RUN. */
static void *ticker_fn(void *arg)
{
	struct rig *r = arg;
	u64 start = now_us();

	while (!__atomic_load_n(&r->guest_done, __ATOMIC_ACQUIRE)) {
		pthread_kill(r->main, SIG_OUT);
		sleep_us(1000);
		if (now_us() - start > 2 * LIMIT_US)
			stress_die("the guest does not end");
	}
	return NULL;
}

/* Run on until nothing more of what has been posted is delivered */
static void drain(struct rig *r)
{
	u64 before, now = undelivered(r);
	int idle = 0;

	while (now && idle < IDLE_RUNS) {
		run_once(r);
		before = now;
		now = undelivered(r);
		idle = now == before ? idle + 1 : 0;
	}
	r->lost = now;
}

/* Deliver what has been posted, end the guest */
static void rig_end(struct rig *r)
{
	pthread_t ticker;
	int i;

	WRITE_ONCE(r->stop, 1);
	for (i = 0; i < NR_HELPERS; i++)
		helper_join(&r->helper[i]);
	thread_start(&ticker, -1, ticker_fn, r);
	drain(r);
	WRITE_ONCE(r->guest->stop, 1);
	while (!r->guest_done)
		run_once(r);
	pthread_join(ticker, NULL);
	signal_consume();
}

static bool nothing_doubled(struct rig *r)
{
	u64 doubled = READ_ONCE(r->posts->target.doubled);

	if (doubled)
		stress_note("DOUBLED: %lu of %lu interrupts", doubled, r->posted);
	return !doubled;
}

static bool nothing_stale(struct rig *r)
{
	if (r->bad_own || r->bad_sampled)
		stress_note("STALE: %lu after KVM_RUN, %lu by the sampler; first mode %d, flag %d",
			    r->bad_own, r->bad_sampled, r->first_bad.mode,
			    r->first_bad.flag);
	if (r->sent_out || r->kicked_out)
		stress_note("NOTIFIED while out: %lu notifications, %lu kicks in %lu stays",
			    r->sent_out, r->kicked_out, r->stays_counted);
	if (r->lost)
		stress_note("LOST: %lu of %lu interrupts", r->lost, r->posted);
	return !r->bad_own && !r->bad_sampled && !r->sent_out &&
	       !r->kicked_out && !r->lost;
}

static void describe(struct rig *r)
{
	long long sent = count_read("notify_sent");
	long long elided = count_read("notify_elided");

	stress_note("%lu KVM_RUNs, %lu interrupted, %lu of them without an entry",
		    r->runs, r->interrupted, r->not_entered);
	stress_note("%lu stays out, %lu with counts of this VM alone", r->stays, r->stays_counted);
	stress_note("samples: %lu in the host, %lu in the guest, %lu while out; %lu changes seen",
		    r->samples_seen[0], r->samples_seen[1], r->samples_out, r->watched);
	stress_note("notify_sent %lld, notify_elided %lld",
		    sent < 0 ? -1 : sent - r->sent_at_begin,
		    elided < 0 ? -1 : elided - r->elided_at_begin);
}

/* The verdict that all cases share; @ok and the rest: the case's own */
static void __printf(3, 4) rig_verdict(struct rig *r, bool ok,
				       const char *fmt, ...)
{
	char text[300];
	va_list args;

	describe(r);
	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	ok = nothing_stale(r) && ok;
	ok = nothing_doubled(r) && ok;
	stress_case(ok, "%s posts %lu lost %lu doubled %lu", text,
		    r->posted, r->lost, READ_ONCE(r->posts->target.doubled));
	kvm_vm_free(r->vm);
}

static bool go_on(struct rig *r, u64 done)
{
	return stress_time_left() && !(stress.count && done >= stress.count) &&
	       !r->bad_own && !r->bad_sampled && !r->sent_out;
}

static bool needs_probe(void)
{
	if (probe_present())
		return true;
	stress_skip("needs kvm-mode-probe.ko; build it with scripts/build-modules --with-probe");
	return false;
}

static bool needs_nested(bool intel_only)
{
	bool intel = kvm_cpu_has(X86_FEATURE_VMX);

	if (!needs_probe())
		return false;
	if (intel || (!intel_only && kvm_cpu_has(X86_FEATURE_SVM)))
		return true;
	stress_skip(intel_only ? "only KVM on Intel has it, with nested=1" :
		    "KVM has no nested virtualization here: load it with nested=1");
	return false;
}

/*
 * KVM_RUN that userspace breaks off.  With a signal pending from the start,
 * vcpu_run() calls vcpu_enter_guest(), and that must give up in
 * kvm_vcpu_exit_request(): if the vCPU has then not exited once, the entry was
 * given up after KVM_EXEC_GUEST.
 */
static void break_off(struct rig *r)
{
	u64 exits = r->exits;

	switch (rnd_below(&r->rnd, 4)) {
	case 0:
		r->vcpu->run->immediate_exit = 1;
		run_once(r);
		r->vcpu->run->immediate_exit = 0;
		break;
	case 1:
		signal_pend(r);
		if (!run_once(r) && r->exits == exits)
			r->bailed++;
		break;
	default:
		run_and_stay(r);
		break;
	}
}

static void case_interrupted(void)
{
	struct rig r;

	if (!stress_case_begin("runs broken off") || !needs_probe())
		return;
	rig_start(&r, fail_guest_cpuid, 0, SHORT_US);
	while (go_on(&r, r.runs)) {
		break_off(&r);
		stress_progress("%lu runs, %lu given up on entry", r.runs,
				r.bailed);
	}
	rig_end(&r);
	rig_verdict(&r, r.bailed, "runs %lu given_up %lu", r.runs, r.bailed);
}

static struct kvm_segment tr_set(struct rig *r, const struct kvm_segment *tr)
{
	struct kvm_sregs sregs;
	struct kvm_segment old;

	vcpu_sregs_get(r->vcpu, &sregs);
	old = sregs.tr;
	sregs.tr = *tr;
	vcpu_sregs_set(r->vcpu, &sregs);
	return old;
}

static const struct kvm_segment tr_unusable = { .unusable = 1 };

/* Some KVM_RUNs in which KVM emulates all, as a TR must be usable */
static u64 emulate_some(struct rig *r)
{
	struct kvm_segment tr = tr_set(r, &tr_unusable);
	u64 loops = READ_ONCE(r->guest->loops);
	int i, n = 1 + rnd_below(&r->rnd, 8);

	for (i = 0; i < n; i++)
		run_and_stay(r);
	tr_set(r, &tr);
	return READ_ONCE(r->guest->loops) - loops;
}

static void case_emulated(void)
{
	u64 emulated = 0;
	struct rig r;

	if (!stress_case_begin("emulated guest") || !needs_probe())
		return;
	if (!host_cpu_is_intel) {
		stress_skip("only KVM on Intel emulates guests of invalid state");
		return;
	}
	if (param_read("kvm_intel/unrestricted_guest") != 'N') {
		stress_skip("this KVM enters any state; load kvm-intel with unrestricted_guest=0");
		return;
	}
	rig_start(&r, fail_guest_loop, 0, SHORT_US);
	while (go_on(&r, emulated)) {
		emulated += emulate_some(&r);
		run_and_stay(&r);
		stress_progress("%lu loops emulated in %lu runs", emulated,
				r.runs);
	}
	rig_end(&r);
	rig_verdict(&r, emulated, "emulated_loops %lu runs %lu", emulated, r.runs);
}

/*
 * KVM's early check enters with what it has written of vmcs02 by then, which
 * lacks the TSC multiplier.  A CPU that minds (Bochs) rejects every entry.
 */
static bool can_enter(struct rig *r)
{
	if (!r->guest->none_enters)
		return true;
	rig_end(r);
	kvm_vm_free(r->vm);
	stress_skip("no entry passes the early check; load kvm-intel with nested_early_check=0");
	return false;
}

static void case_invalid_l2(void)
{
	u64 broken = 0, io = 0;
	struct rig r;

	if (!stress_case_begin("L2 made invalid") || !needs_nested(true))
		return;
	rig_start(&r, fail_guest_vmx, BIT(PORT_IO), SHORT_US);
	if (!can_enter(&r))
		return;
	while (go_on(&r, r.guest->triple) && !READ_ONCE(r.guest->wrong)) {
		run_and_stay(&r);
		if (r.io != io && rnd_next(&r.rnd) >> 63) {
			tr_set(&r, &tr_unusable);
			broken++;
		}
		io = r.io;
		stress_progress("%lu times, %lu triple faults", broken,
				READ_ONCE(r.guest->triple));
	}
	rig_end(&r);
	rig_verdict(&r, r.guest->triple && !r.guest->wrong,
		    "made_invalid %lu triple_faults %lu wrong_ends %lu",
		    broken, r.guest->triple, r.guest->wrong);
}

static u64 entries(struct rig *r)
{
	u64 n = READ_ONCE(r->guest->intr_exits) + READ_ONCE(r->guest->wrong);
	int i;

	for (i = 0; i < NR_KINDS; i++)
		n += READ_ONCE(r->guest->done[i]);
	return n;
}

/* Every kind asked for came, and every one ended as it must */
static bool kinds_ok(struct rig *r)
{
	struct fail_shared *g = r->guest;
	bool ok = !g->wrong;
	int i;

	for (i = 0; i < NR_KINDS; i++) {
		if (!(g->kinds & BIT(i)))
			continue;
		stress_note("%s: %lu entries", kind_names[i], g->done[i]);
		ok = ok && (g->done[i] || (i == GOOD && g->none_enters));
	}
	if (g->wrong)
		stress_note("WRONG: %lu entries; the last, %s, ended with reason %#lx, error %ld",
			    g->wrong, kind_names[g->wrong_kind],
			    g->wrong_reason, (long)g->wrong_error);
	return ok;
}

static void enter_nested(u64 kinds)
{
	struct rig r;
	bool ok;

	rig_start(&r, host_cpu_is_intel ? (void *)fail_guest_vmx : fail_guest_svm,
		  kinds, host_cpu_is_intel ? SHORT_US : LONG_US);
	if (r.guest->none_enters && (kinds & BIT(HW_CONTROL)))
		stress_note("no entry passes KVM's early check on this CPU: all are VM-Fails");
	else if (!can_enter(&r))
		return;
	while (go_on(&r, entries(&r)) && !READ_ONCE(r.guest->wrong)) {
		run_and_stay(&r);
		stress_progress("%lu nested entries", entries(&r));
	}
	rig_end(&r);
	ok = kinds_ok(&r);
	rig_verdict(&r, ok, "nested_entries %lu by_interrupts %lu wrong_ends %lu",
		    entries(&r), r.guest->intr_exits, r.guest->wrong);
}

/*
 * With nested_early_check, KVM has the CPU check L1's controls ahead of the
 * entry.  A KVM that has no such parameter never does (Linux 7.x).
 */
static void case_vm_fail(const char *name, bool early, const char *needs)
{
	char check = param_read("kvm_intel/nested_early_check");

	if (!stress_case_begin(name) || !needs_nested(true))
		return;
	/* Those that have none check all controls by themselves, but as they are then. */
	if ((check == 'Y') == early)
		enter_nested(BIT(check ? HW_CONTROL : RACE_CONTROL));
	else
		stress_skip("%s", check ? needs : "this KVM has no early check by the CPU");
}

static void case_vm_fail_early(void)
{
	case_vm_fail("VM-Fail in the early check", true,
		     "load kvm-intel with nested_early_check=1");
}

static void case_vm_fail_late(void)
{
	case_vm_fail("VM-Fail on entry", false,
		     "the early check finds it; load kvm-intel with nested_early_check=0");
}

static void case_found_by_kvm(void)
{
	if (!stress_case_begin("entries that KVM rejects") || !needs_nested(false))
		return;
	enter_nested(BIT(KVM_CONTROL) | BIT(KVM_STATE) |
		     (host_cpu_is_intel ? BIT(KVM_HOST) : 0));
}

static void case_found_by_cpu(void)
{
	if (!stress_case_begin("entries that the CPU rejects") || !needs_nested(false))
		return;
	enter_nested(BIT(HW_STATE));
}

int main(int argc, char **argv)
{
	static const struct stress_options defaults = { 12, 0, 1 };

	stress_init(argc, argv,
		    "Entries that fail or are given up leave the in-guest flag at KVM_EXEC_HOST.\n"
		    "COUNT: of KVM_RUNs, emulated loops or nested entries, for each case.\n"
		    "Module parameters decide what runs: unrestricted_guest=0, nested_early_check=1.",
		    &defaults);
	stress_plan(7);
	case_interrupted();
	case_emulated();
	case_invalid_l2();
	case_vm_fail_early();
	case_vm_fail_late();
	case_found_by_kvm();
	case_found_by_cpu();
	return stress_end();
}
