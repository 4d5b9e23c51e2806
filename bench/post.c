// SPDX-License-Identifier: GPL-2.0
/*
 * One run of the `post` benchmark: a VM, its vCPU threads, the counters around
 * it, the final account. Called by kvm-mode-bench.c once per workload.
 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include "kvm_util.h"
#include "processor.h"

#include "bench.h"

#define DATA_GPA	0x10000000ull
#define DATA_SLOT	1
#define POLL_MS		20
#define MAX_VCPUS	(POST_MAX_SENDERS + 1)
#define SIG_KICK	SIGUSR1

const char * const workload_names[POST_NR_WORKLOADS] = {
	[POST_COMPUTE]	= "compute",
	[POST_EXITS]	= "exits",
	[POST_FASTPATH]	= "fastpath",
	[POST_HLT]	= "hlt",
	[POST_MIXED]	= "mixed",
};

struct vcpu_thread {
	struct kvm_vcpu *vcpu;
	pthread_t thread;
	unsigned int cpu;
	int stats_fd;
	bool ended;
	struct rusage usage;
};

struct post_vm {
	const char *workload;
	struct kvm_vm *vm;
	struct post_shared *s;		/* the host's view */
	u32 *buf[POST_MAX_SENDERS];
	unsigned int nr_vcpus;
	struct vcpu_thread t[MAX_VCPUS];
};

static bool stopping;
static __thread struct kvm_run *this_run;

static u64 now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000ull + ts.tv_nsec / 1000000;
}

static void sleep_ms(unsigned int ms)
{
	struct timespec ts = { .tv_nsec = ms * 1000000l };

	nanosleep(&ts, NULL);
}

static void on_kick(int sig)
{
	(void)sig;
	if (this_run)
		WRITE_ONCE(this_run->immediate_exit, 1);
}

static void vcpu_exit_check(struct post_vm *p, struct vcpu_thread *t)
{
	struct kvm_vcpu *vcpu = t->vcpu;
	struct ucall uc;

	switch (get_ucall(vcpu, &uc)) {
	case UCALL_DONE:
		return;
	case UCALL_ABORT:
		die("%s: guest assertion on vCPU %u: %s", p->workload, vcpu->id,
		    uc.buffer);
	default:
		die("%s: vCPU %u left the guest: exit reason %u (%s); see the kernel log",
		    p->workload, vcpu->id, vcpu->run->exit_reason,
		    exit_reason_str(vcpu->run->exit_reason));
	}
}

struct thread_arg {
	struct post_vm *p;
	struct vcpu_thread *t;
};

static void *vcpu_thread_fn(void *data)
{
	struct thread_arg arg = *(struct thread_arg *)data;
	struct vcpu_thread *t = arg.t;
	int r;

	free(data);
	kvm_pin_this_task_to_pcpu(t->cpu);
	this_run = t->vcpu->run;
	for (;;) {
		r = __vcpu_run(t->vcpu);
		if (!r) {
			vcpu_exit_check(arg.p, t);
			break;
		}
		if (errno != EINTR)
			die("%s: KVM_RUN of vCPU %u failed: %s", arg.p->workload,
			    t->vcpu->id, strerror(errno));
		WRITE_ONCE(this_run->immediate_exit, 0);
		if (__atomic_load_n(&stopping, __ATOMIC_ACQUIRE))
			break;
	}
	getrusage(RUSAGE_THREAD, &t->usage);
	__atomic_store_n(&t->ended, true, __ATOMIC_RELEASE);
	return NULL;
}

/* Latencies are taken across vCPUs: give all of them one TSC offset */
static void tsc_offsets_align(struct post_vm *p)
{
	unsigned int i;
	u64 offset;

	if (__vcpu_has_device_attr(p->t[0].vcpu, KVM_VCPU_TSC_CTRL,
				   KVM_VCPU_TSC_OFFSET)) {
		warn("no KVM_VCPU_TSC_OFFSET here: latencies rest on KVM's own TSC sync");
		return;
	}
	vcpu_device_attr_get(p->t[0].vcpu, KVM_VCPU_TSC_CTRL,
			     KVM_VCPU_TSC_OFFSET, &offset);
	for (i = 1; i < p->nr_vcpus; i++)
		vcpu_device_attr_set(p->t[i].vcpu, KVM_VCPU_TSC_CTRL,
				     KVM_VCPU_TSC_OFFSET, &offset);
}

static void sender_setup(struct post_vm *p, unsigned int i)
{
	struct post_sender *snd = &p->s->sender[i];
	unsigned int per = POST_NR_VEC / opts.senders;

	if (per > POST_VEC_PER_SENDER)
		per = POST_VEC_PER_SENDER;
	snd->quota = opts.posts / opts.senders +
		     (i < opts.posts % opts.senders);
	snd->vec_first = POST_VEC_FIRST + i * per;
	snd->nr_vec = per;
	snd->buf = vm_vaddr_alloc(p->vm, (snd->quota + 1) * sizeof(u32),
				  KVM_UTIL_MIN_VADDR);
	p->buf[i] = addr_gva2hva(p->vm, snd->buf);
}

static void shared_setup(struct post_vm *p, enum post_workload workload)
{
	struct post_shared *s = p->s;
	unsigned int i;

	s->workload = workload;
	s->nr_senders = opts.senders;
	s->seed = opts.seed;
	s->gap_min = opts.gap_min;
	s->gap_max = opts.gap_max;
	s->exit_gap_max = opts.exit_gap_max;
	s->late_bound = opts.late_bound ?: host.intel ? 10000 : 200000;
	s->long_ticks = opts.long_ticks ?: 4 * s->late_bound;
	s->long_every = opts.long_every;
	s->gap_cap = opts.gap_cap ?: s->late_bound / 10;
	s->stall_ticks = opts.stall_ms * guest_tsc_khz;
	s->fastpath_ops = host.fastpath_ops;
	for (i = 0; i < opts.senders; i++)
		sender_setup(p, i);
}

static void vm_setup(struct post_vm *p, enum post_workload workload)
{
	u64 size, pages;
	struct kvm_vcpu *vcpus[MAX_VCPUS];
	vm_vaddr_t gva;
	unsigned int i;
	int vec;

	size = sizeof(struct post_shared) + opts.posts * sizeof(u32);
	pages = size / getpagesize() + 2 * opts.senders + 16;
	p->nr_vcpus = opts.senders + 1;
	p->vm = __vm_create_with_vcpus(VM_SHAPE_DEFAULT, p->nr_vcpus, pages,
				       post_guest_main, vcpus);
	vm_userspace_mem_region_add(p->vm, VM_MEM_SRC_ANONYMOUS, DATA_GPA,
				    DATA_SLOT, pages, 0);
	p->vm->memslots[MEM_REGION_TEST_DATA] = DATA_SLOT;

	gva = vm_vaddr_alloc(p->vm, sizeof(*p->s), KVM_UTIL_MIN_VADDR);
	p->s = addr_gva2hva(p->vm, gva);
	memset(p->s, 0, sizeof(*p->s));
	shared_setup(p, workload);
	write_guest_global(p->vm, post_guest_shared, (struct post_shared *)gva);

	for (vec = POST_VEC_FIRST; vec <= POST_VEC_LAST; vec++)
		vm_install_exception_handler(p->vm, vec, post_guest_irq);
	for (i = 0; i < p->nr_vcpus; i++) {
		p->t[i].vcpu = vcpus[i];
		p->t[i].cpu = i % host.nr_cpus;
		p->t[i].stats_fd = vcpu_get_stats_fd(vcpus[i]);
		vcpu_set_cpuid_feature(vcpus[i], X86_FEATURE_TSC_DEADLINE_TIMER);
		vcpu_args_set(vcpus[i], 2, gva, (u64)i);
	}
	tsc_offsets_align(p);
}

/*
 * HLT is there to test wakeups: without a value from the user it blocks at
 * once instead of polling. The others keep the module's halt_poll_ns.
 */
static long long halt_poll_setup(struct post_vm *p, enum post_workload workload)
{
	long long ns = opts.halt_poll_ns;

	if (ns == NO_VALUE && workload == POST_HLT)
		ns = 0;
	if (ns == NO_VALUE)
		return host.halt_poll_ns;
	vm_enable_cap(p->vm, KVM_CAP_HALT_POLL, ns);
	return ns;
}

static u64 posted_so_far(struct post_vm *p)
{
	u64 sum = 0;
	unsigned int i;

	for (i = 0; i < opts.senders; i++)
		sum += READ_ONCE(p->s->sender[i].posted);
	return sum;
}

static void threads_start(struct post_vm *p)
{
	u64 start = now_ms();
	unsigned int i;

	__atomic_store_n(&stopping, false, __ATOMIC_RELEASE);
	for (i = 0; i < p->nr_vcpus; i++) {
		struct thread_arg *arg = malloc(sizeof(*arg));

		if (!arg)
			die("no memory for vCPU thread %u", i);
		arg->p = p;
		arg->t = &p->t[i];
		if (pthread_create(&p->t[i].thread, NULL, vcpu_thread_fn, arg))
			die("cannot start vCPU thread %u", i);
	}
	while (__atomic_load_n(&p->s->ready, __ATOMIC_ACQUIRE) < p->nr_vcpus) {
		if (now_ms() - start > opts.timeout_s * 1000)
			die("%s: only %lu of %u vCPUs came up in %lu s; are there enough CPUs?",
			    p->workload, READ_ONCE(p->s->ready), p->nr_vcpus,
			    opts.timeout_s);
		sleep_ms(POLL_MS);
	}
}

static void progress(struct post_vm *p, u64 posted, u64 elapsed_ms)
{
	double elapsed = elapsed_ms / 1000.0;

	fprintf(stderr, "post %s: %lu of %lu posts, %.1f s elapsed",
		p->workload, posted, opts.posts, elapsed);
	if (posted)
		fprintf(stderr, ", %.1f s expected",
			elapsed * opts.posts / posted);
	fputc('\n', stderr);
}

/*
 * Until every sender is done. Emulated clocks can be slow: progress is printed
 * once a second or once in a tenth of the posts, whatever comes first.
 */
static void senders_wait(struct post_vm *p)
{
	u64 start = now_ms(), said = start, moved = start;
	u64 posted = 0, said_posted = 0;

	while (__atomic_load_n(&p->s->senders_done, __ATOMIC_ACQUIRE) <
	       opts.senders) {
		u64 n, now;

		sleep_ms(POLL_MS);
		now = now_ms();
		n = posted_so_far(p);
		if (n != posted)
			moved = now;
		posted = n;
		if (now - said >= 1000 || (n - said_posted) * 10 >= opts.posts) {
			progress(p, n, now - start);
			said = now;
			said_posted = n;
		}
		if (now - moved > 10 * opts.stall_ms ||
		    now - start > opts.timeout_s * 1000)
			die("%s: stalled at %lu of %lu posts, %lu handled, last post %lu ms ago",
			    p->workload, n, opts.posts,
			    READ_ONCE(p->s->target.handled), now - moved);
	}
}

/* The target goes on with its workload; nothing but the posts wakes it */
static void drain(struct post_vm *p)
{
	u64 start = now_ms();

	while (READ_ONCE(p->s->target.handled) < READ_ONCE(p->s->posted_done)) {
		if (now_ms() - start > opts.stall_ms)
			break;
		sleep_ms(1);
	}
}

static void account(struct post_vm *p, struct post_outcome *out)
{
	int vec;

	for (vec = POST_VEC_FIRST; vec <= POST_VEC_LAST; vec++) {
		out->posted += READ_ONCE(p->s->vec[vec].posted);
		out->delivered += READ_ONCE(p->s->vec[vec].handled);
	}
	out->lost = out->posted - out->delivered;
	out->doubled = READ_ONCE(p->s->target.doubled);
}

/* After the account: what this still delivers does not count any more */
static void threads_stop(struct post_vm *p)
{
	u64 start = now_ms();
	unsigned int i;

	WRITE_ONCE(p->s->stop, 1);
	sleep_ms(POLL_MS);
	__atomic_store_n(&stopping, true, __ATOMIC_RELEASE);
	for (i = 0; i < p->nr_vcpus; i++) {
		while (!__atomic_load_n(&p->t[i].ended, __ATOMIC_ACQUIRE)) {
			pthread_kill(p->t[i].thread, SIG_KICK);
			sleep_ms(1);
			if (now_ms() - start > opts.timeout_s * 1000)
				die("%s: vCPU %u does not leave KVM_RUN; see the kernel log",
				    p->workload, i);
		}
		pthread_join(p->t[i].thread, NULL);
	}
}

static int cmp_u32(const void *a, const void *b)
{
	u32 x = *(const u32 *)a, y = *(const u32 *)b;

	return x < y ? -1 : x > y;
}

/* Nearest rank over all samples: exact, no buckets */
static void latencies(struct post_vm *p, struct post_outcome *out)
{
	u64 n = 0, total = out->res.samples;
	u32 *all;
	unsigned int i;

	if (!total)
		return;
	all = malloc(total * sizeof(*all));
	if (!all)
		die("no memory for %lu samples; use fewer --posts", total);
	for (i = 0; i < opts.senders; i++) {
		u64 k = p->s->sender[i].res.samples;

		memcpy(all + n, p->buf[i], k * sizeof(*all));
		n += k;
	}
	qsort(all, total, sizeof(*all), cmp_u32);
	out->latency_p50 = all[(total * 50 + 99) / 100 - 1];
	out->latency_p99 = all[(total * 99 + 99) / 100 - 1];
	out->latency_max = all[total - 1];
	free(all);
}

static void results(struct post_vm *p, struct post_outcome *out)
{
	struct post_shared *s = p->s;
	u64 t_end = s->t_start;
	unsigned int i, k;

	for (i = 0; i < opts.senders; i++) {
		struct post_sender *snd = &s->sender[i];

		for (k = 0; k < snd->nr_vec; k++) {
			struct post_vec *v = &s->vec[snd->vec_first + k];

			if (v->harvested != v->handled)
				post_harvest(v, &snd->res, p->buf[i],
					     s->late_bound);
		}
		out->res.samples += snd->res.samples;
		out->res.late += snd->res.late;
		out->res.tsc_backwards += snd->res.tsc_backwards;
		if (snd->res.late_max_wait > out->res.late_max_wait)
			out->res.late_max_wait = snd->res.late_max_wait;
		out->sender_waits += snd->waits;
		out->stalled += snd->stalled;
		if (snd->t_end > t_end)
			t_end = snd->t_end;
	}
	out->ticks = t_end - s->t_start;
	out->compute_ticks = s->target.compute;
	memcpy(out->ops, s->target.ops, sizeof(out->ops));
	out->late_bound = s->late_bound;
	out->gap_cap = s->gap_cap;
	out->long_ticks = s->long_ticks;
	out->target_nvcsw = p->t[0].usage.ru_nvcsw;
	out->target_nivcsw = p->t[0].usage.ru_nivcsw;
	latencies(p, out);
}

static void stats_results(struct post_vm *p, const struct vcpu_stats *before,
			  struct post_outcome *out)
{
	unsigned int i, k;

	for (i = 0; i < p->nr_vcpus; i++) {
		struct vcpu_stats after;

		vcpu_stats_read(p->t[i].stats_fd, &after);
		for (k = 0; k < NR_VCPU_STATS; k++) {
			long long d = counter_delta(before[i].n[k], after.n[k]);

			if (!i)
				out->target.n[k] = d;
			out->all.n[k] = i ? counter_sum(out->all.n[k], d) : d;
		}
	}
}

/* true: everything posted was delivered once, in time, and nothing stalled */
static bool verdict(const struct post_outcome *out)
{
	bool ok = true;

	if (out->lost || out->doubled || out->res.late) {
		warn("%s: %lu lost, %lu doubled, %lu late of %lu posts",
		     out->workload, out->lost, out->doubled, out->res.late,
		     out->posted);
		ok = false;
	}
	if (out->stalled) {
		warn("%s: %lu sender(s) found no handled vector for %lu ms and gave up",
		     out->workload, out->stalled, opts.stall_ms);
		ok = false;
	}
	if (!out->compute_ticks) {
		warn("%s: no computing accounted, so `late` is void: raise --gap-cap (now %lu)",
		     out->workload, out->gap_cap);
		ok = false;
	}
	if (out->res.tsc_backwards)
		warn("%s: %lu posts handled before they were posted: the TSCs differ",
		     out->workload, out->res.tsc_backwards);
	return ok;
}

bool post_run(enum post_workload workload, struct post_outcome *out)
{
	struct sigaction sa = { .sa_handler = on_kick };
	struct post_vm p = { .workload = workload_names[workload] };
	struct vcpu_stats before[MAX_VCPUS];
	struct irq_counts irq[2];
	bool tracing;
	unsigned int i;

	memset(out, 0, sizeof(*out));
	out->workload = p.workload;
	sigaction(SIG_KICK, &sa, NULL);

	vm_setup(&p, workload);
	out->halt_poll_ns = halt_poll_setup(&p, workload);
	threads_start(&p);
	for (i = 0; i < p.nr_vcpus; i++)
		vcpu_stats_read(p.t[i].stats_fd, &before[i]);
	tracing = kick_trace_start();
	lab_counters_reset();
	irq_counts_read(&irq[0]);
	__atomic_store_n(&p.s->go, 1, __ATOMIC_RELEASE);

	senders_wait(&p);
	drain(&p);
	account(&p, out);
	threads_stop(&p);

	irq_counts_read(&irq[1]);
	out->emulator = lab_counters_read();
	out->kick_ipi_traced = tracing ? kick_trace_stop() : NO_VALUE;
	for (i = 0; i < NR_IRQ_LINES; i++)
		out->irq.n[i] = counter_delta(irq[0].n[i], irq[1].n[i]);
	stats_results(&p, before, out);
	results(&p, out);

	for (i = 0; i < p.nr_vcpus; i++)
		close(p.t[i].stats_fd);
	kvm_vm_free(p.vm);
	return verdict(out);
}
