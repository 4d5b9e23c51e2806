// SPDX-License-Identifier: GPL-2.0
/* The VM of the `post` guest; post-vm.h says what each function does. */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <time.h>

#include "apic.h"
#include "kvm_util.h"
#include "processor.h"

#include "post-vm.h"

#define DATA_GPA	0x10000000ull
#define DATA_SLOT	1
#define POLL_MS		20
#define TICK_NS		10000
#define MSI_ADDRESS	0xfee00000u

static bool stopping;
static __thread struct kvm_run *this_run;

u64 now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000ull + ts.tv_nsec / 1000000;
}

void sleep_ms(unsigned int ms)
{
	struct timespec ts = { .tv_nsec = ms * 1000000l };

	nanosleep(&ts, NULL);
}

static void on_signal(int sig)
{
	(void)sig;
	if (this_run)
		WRITE_ONCE(this_run->immediate_exit, 1);
}

/* true: the vCPU goes on */
static bool vcpu_exit_check(struct post_vm *p, unsigned int i)
{
	struct kvm_vcpu *vcpu = p->t[i].vcpu;
	struct kvm_run *run = vcpu->run;
	struct ucall uc;

	if (p->cfg.exited && p->cfg.exited(p, i))
		return true;

	if (run->exit_reason == KVM_EXIT_IO && run->io.port == POST_EXIT_PORT)
		return true;

	switch (get_ucall(vcpu, &uc)) {
	case UCALL_DONE:
		return false;
	case UCALL_ABORT:
		die("%s: guest assertion on vCPU %u: %s", p->cfg.name, vcpu->id,
		    uc.buffer);
	default:
		die("%s: vCPU %u left the guest: exit reason %u (%s); see the kernel log",
		    p->cfg.name, vcpu->id, run->exit_reason,
		    exit_reason_str(run->exit_reason));
	}
}

static void *vcpu_thread_fn(void *data)
{
	struct post_thread *t = data;
	struct post_vm *p = t->p;
	int r;

	if (!p->cfg.unpinned)
		pin_self_to_cpu(t->cpu);
	this_run = t->vcpu->run;
	for (;;) {
		r = __vcpu_run(t->vcpu);
		if (r && errno != EINTR)
			die("%s: KVM_RUN of vCPU %u failed: %s", p->cfg.name,
			    t->vcpu->id, strerror(errno));
		/* Whoever sees returned() may send a signal, which sets it again. */
		WRITE_ONCE(this_run->immediate_exit, 0);
		if (p->cfg.returned)
			p->cfg.returned(p, t->i);
		if (!r && !vcpu_exit_check(p, t->i))
			break;
		if (r && __atomic_load_n(&stopping, __ATOMIC_ACQUIRE))
			break;
	}
	getrusage(RUSAGE_THREAD, &t->usage);
	__atomic_store_n(&t->ended, true, __ATOMIC_RELEASE);
	return NULL;
}

static void send_msi(void *data, u32 vector)
{
	struct post_vm *p = data;
	struct kvm_msi msi = {
		.address_lo = MSI_ADDRESS | p->t[0].vcpu->id << 12,
		.data = vector,
	};

	if (__vm_ioctl(p->vm, KVM_SIGNAL_MSI, &msi) < 0)
		die("%s: KVM_SIGNAL_MSI failed: %s", p->cfg.name, strerror(errno));
}

/* KVM delivers it in write(): it need not sleep for an MSI. */
static void send_irqfd(void *data, u32 vector)
{
	struct post_vm *p = data;
	u64 one = 1;

	if (write(p->irqfd[vector], &one, sizeof(one)) != sizeof(one))
		die("%s: eventfd: %s", p->cfg.name, strerror(errno));
}

static void *host_sender_fn(void *data)
{
	struct post_thread *t = data;
	struct post_vm *p = t->p;
	unsigned int i = p->cfg.senders + t->i;

	pin_self_to_cpu(t->cpu);
	post_sender_run(p->s, i, p->buf[i], p->cfg.irqfd ? send_irqfd : send_msi, p,
			p->s->host_tsc_offset);
	return NULL;
}

/*
 * Linux leaves a timer that comes before all others of the housekeeping CPU where it
 * was started, on the target's: hrtimer_suitable_target().  This has that CPU busy
 * with timers of its own, as a host has it that isolates others for realtime guests.
 */
static void *ticker_fn(void *data)
{
	const struct timespec tick = { .tv_nsec = TICK_NS };
	struct post_thread *t = data;

	pin_self_to_cpu(t->cpu);
	prctl(PR_SET_TIMERSLACK, 1);
	while (!__atomic_load_n(&stopping, __ATOMIC_ACQUIRE))
		nanosleep(&tick, NULL);
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
	p->s->host_tsc_offset = offset;
}

/*
 * The senders' vectors interleave: in blocks, a sender of high ones that is as
 * fast as the target would starve the others by priority.
 */
static void sender_setup(struct post_vm *p, unsigned int i)
{
	struct post_sender *snd = &p->s->sender[i];
	unsigned int per = POST_NR_VEC / p->nr_senders;

	if (per > POST_VEC_PER_SENDER)
		per = POST_VEC_PER_SENDER;
	snd->quota = p->cfg.posts / p->nr_senders +
		     (i < p->cfg.posts % p->nr_senders);
	snd->vec_first = POST_VEC_FIRST + i;
	snd->vec_stride = p->nr_senders;
	snd->nr_vec = per;
	if (p->cfg.no_samples)
		return;
	snd->buf = vm_alloc(p->vm, (snd->quota + 1) * sizeof(u32),
			    KVM_UTIL_MIN_VADDR);
	p->buf[i] = addr_gva2hva(p->vm, snd->buf);
}

/* A GSI for each vector; the routes of the emulated pins are gone then. */
static void irqfds_setup(struct post_vm *p)
{
	struct kvm_irq_routing *routes;
	int vec;

	routes = calloc(1, sizeof(*routes) + POST_NR_VEC * sizeof(routes->entries[0]));
	if (!routes)
		die("%s: no memory", p->cfg.name);
	for (vec = POST_VEC_FIRST; vec <= POST_VEC_LAST; vec++)
		routes->entries[routes->nr++] = (struct kvm_irq_routing_entry) {
			.gsi = vec,
			.type = KVM_IRQ_ROUTING_MSI,
			.u.msi.address_lo = MSI_ADDRESS | p->t[0].vcpu->id << 12,
			.u.msi.data = vec,
		};
	if (__vm_ioctl(p->vm, KVM_SET_GSI_ROUTING, routes))
		die("%s: KVM_SET_GSI_ROUTING: %s", p->cfg.name, strerror(errno));
	free(routes);
	for (vec = POST_VEC_FIRST; vec <= POST_VEC_LAST; vec++) {
		struct kvm_irqfd irqfd = { .gsi = vec };

		p->irqfd[vec] = eventfd(0, EFD_CLOEXEC);
		irqfd.fd = p->irqfd[vec];
		if (p->irqfd[vec] < 0 || __vm_ioctl(p->vm, KVM_IRQFD, &irqfd))
			die("%s: irqfd: %s", p->cfg.name, strerror(errno));
	}
}

static void shared_setup(struct post_vm *p)
{
	const struct post_setup *cfg = &p->cfg;
	struct post_shared *s = p->s;
	unsigned int i;

	s->workload = cfg->workload;
	s->nr_senders = p->nr_senders;
	s->several = p->nr_senders > 1 || cfg->host_requests;
	s->seed = cfg->seed;
	s->gap_min = cfg->gap_min;
	s->gap_max = cfg->gap_max;
	s->exit_gap_max = cfg->exit_gap_max;
	s->late_bound = cfg->late_bound ?: host_cpu_is_intel ? 10000 : 200000;
	s->long_ticks = cfg->long_ticks ?: 4 * s->late_bound;
	s->long_every = cfg->long_every;
	s->gap_cap = cfg->gap_cap ?: s->late_bound / 10;
	s->stall_ticks = cfg->stall_ms * guest_tsc_khz;
	s->fastpath_ops = cfg->fastpath_ops;
	if (cfg->timer) {
		s->timer = POST_VEC_FIRST;
		s->fastpath_ops &= ~POST_FP_TSC_DEADLINE;
	}
	for (i = 0; i < p->nr_senders; i++)
		sender_setup(p, i);
}

static void vcpus_setup(struct post_vm *p, struct kvm_vcpu **vcpus, u64 gva)
{
	unsigned int i, nr_cpus = sysconf(_SC_NPROCESSORS_ONLN);

	for (i = 0; i < p->nr_vcpus; i++) {
		p->t[i].vcpu = vcpus[i];
		p->t[i].cpu = (p->cfg.target_cpu + i) % nr_cpus;
		vcpu_set_cpuid_feature(vcpus[i], X86_FEATURE_TSC_DEADLINE_TIMER);
		vcpu_args_set(vcpus[i], 2, gva, (u64)i);
	}
	for (i = 0; i < p->cfg.host_senders; i++)
		p->host[i].cpu = (p->nr_vcpus + i) % nr_cpus;
	tsc_offsets_align(p);
}

void post_vm_create(struct post_vm *p, const struct post_setup *cfg, u64 pages)
{
	struct kvm_vcpu *vcpus[POST_MAX_VCPUS];
	struct sigaction sa = { .sa_handler = on_signal };
	unsigned int i;
	gva_t gva;
	u64 size;
	int vec;

	memset(p, 0, sizeof(*p));
	p->cfg = *cfg;
	sigaction(POST_SIGNAL, &sa, NULL);
	p->nr_vcpus = cfg->senders + 1;
	p->nr_senders = cfg->senders + cfg->host_senders + cfg->timer;
	size = sizeof(struct post_shared);
	if (!cfg->no_samples)
		size += cfg->posts * sizeof(u32);
	pages += size / getpagesize() + 2 * p->nr_senders + 16;
	p->vm = __vm_create(VM_SHAPE_DEFAULT, p->nr_vcpus, pages);
	/* KVM posts timers of vCPUs that do not exit for HLT. */
	if (cfg->timer)
		vm_enable_cap(p->vm, KVM_CAP_X86_DISABLE_EXITS, KVM_X86_DISABLE_EXITS_HLT);
	for (i = 0; i < p->nr_vcpus; i++)
		vcpus[i] = vm_vcpu_add(p->vm, i, cfg->guest_main ?: post_guest_main);
	vm_userspace_mem_region_add(p->vm, VM_MEM_SRC_ANONYMOUS, DATA_GPA,
				    DATA_SLOT, pages, 0);
	p->vm->memslots[MEM_REGION_TEST_DATA] = DATA_SLOT;

	gva = vm_alloc(p->vm, sizeof(*p->s), KVM_UTIL_MIN_VADDR);
	p->s = addr_gva2hva(p->vm, gva);
	memset(p->s, 0, sizeof(*p->s));
	shared_setup(p);
	write_guest_global(p->vm, post_guest_shared, (struct post_shared *)gva);

	for (vec = POST_VEC_FIRST; vec <= POST_VEC_LAST; vec++)
		vm_install_exception_handler(p->vm, vec, post_guest_irq);
	vm_install_exception_handler(p->vm, NMI_VECTOR, post_guest_nmi);
	vcpus_setup(p, vcpus, gva);
	if (cfg->irqfd)
		irqfds_setup(p);
}

static void start_one(struct post_vm *p, struct post_thread *t, unsigned int i,
		      void *(*fn)(void *))
{
	t->p = p;
	t->i = i;
	if (pthread_create(&t->thread, NULL, fn, t))
		die("%s: cannot start a thread", p->cfg.name);
}

void post_vm_start(struct post_vm *p)
{
	unsigned int i, all = p->nr_vcpus + p->cfg.host_senders;
	unsigned int nr_cpus = sysconf(_SC_NPROCESSORS_ONLN);
	u64 start = now_ms();

	/* This thread wakes up and prints now and then: not on a sender's CPU. */
	if (all < nr_cpus)
		pin_self_to_cpu(nr_cpus - 1);
	__atomic_store_n(&stopping, false, __ATOMIC_RELEASE);
	for (i = 0; i < p->nr_vcpus; i++)
		start_one(p, &p->t[i], i, vcpu_thread_fn);
	for (i = 0; i < p->cfg.host_senders; i++)
		start_one(p, &p->host[i], i, host_sender_fn);
	p->ticker.cpu = !p->cfg.target_cpu;
	if (p->cfg.timer)
		start_one(p, &p->ticker, 0, ticker_fn);
	while (__atomic_load_n(&p->s->ready, __ATOMIC_ACQUIRE) < all) {
		if (now_ms() - start > p->cfg.timeout_s * 1000)
			die("%s: only %lu of %u vCPUs came up in %lu s; are there enough CPUs?",
			    p->cfg.name, READ_ONCE(p->s->ready), p->nr_vcpus,
			    p->cfg.timeout_s);
		sleep_ms(POLL_MS);
	}
}

void post_vm_go(struct post_vm *p)
{
	__atomic_store_n(&p->s->go, 1, __ATOMIC_RELEASE);
}

static u64 posted_so_far(struct post_vm *p)
{
	u64 sum = 0;
	unsigned int i;

	for (i = 0; i < p->nr_senders; i++)
		sum += READ_ONCE(p->s->sender[i].posted);
	return sum;
}

/*
 * Emulated clocks can be slow: progress is due once a second or once in a tenth
 * of the posts, whatever comes first.
 */
void post_vm_wait(struct post_vm *p)
{
	u64 start = now_ms(), said = start, moved = start;
	u64 posted = 0, said_posted = 0;

	while (__atomic_load_n(&p->s->senders_done, __ATOMIC_ACQUIRE) <
	       p->nr_senders) {
		u64 n, now;

		sleep_ms(POLL_MS);
		now = now_ms();
		n = posted_so_far(p);
		if (n != posted)
			moved = now;
		posted = n;
		if (now - said >= 1000 || (n - said_posted) * 10 >= p->cfg.posts) {
			if (p->cfg.progress)
				p->cfg.progress(p, n, now - start);
			said = now;
			said_posted = n;
		}
		if (now - moved > 10 * p->cfg.stall_ms ||
		    now - start > p->cfg.timeout_s * 1000)
			die("%s: stalled at %lu of %lu posts, %lu handled, last post %lu ms ago",
			    p->cfg.name, n, p->cfg.posts,
			    READ_ONCE(p->s->target.handled), now - moved);
	}
}

/* The target goes on with its workload; nothing but the posts wakes it */
void post_vm_drain(struct post_vm *p)
{
	u64 start = now_ms();

	while (READ_ONCE(p->s->target.handled) < READ_ONCE(p->s->posted_done)) {
		if (now_ms() - start > p->cfg.stall_ms)
			break;
		sleep_ms(1);
	}
}

void post_vm_account(struct post_vm *p, struct post_count *c)
{
	int vec;

	memset(c, 0, sizeof(*c));
	for (vec = POST_VEC_FIRST; vec <= POST_VEC_LAST; vec++) {
		c->posted += READ_ONCE(p->s->vec[vec].posted);
		c->delivered += READ_ONCE(p->s->vec[vec].handled);
	}
	c->lost = c->posted - c->delivered;
	c->doubled = READ_ONCE(p->s->target.doubled);
}

void post_vm_stop(struct post_vm *p)
{
	u64 start = now_ms();
	unsigned int i;

	WRITE_ONCE(p->s->stop, 1);
	sleep_ms(POLL_MS);
	__atomic_store_n(&stopping, true, __ATOMIC_RELEASE);
	for (i = 0; i < p->nr_vcpus; i++) {
		while (!__atomic_load_n(&p->t[i].ended, __ATOMIC_ACQUIRE)) {
			pthread_kill(p->t[i].thread, POST_SIGNAL);
			sleep_ms(1);
			if (now_ms() - start > p->cfg.timeout_s * 1000)
				die("%s: vCPU %u does not leave KVM_RUN; see the kernel log",
				    p->cfg.name, i);
		}
		pthread_join(p->t[i].thread, NULL);
	}
	for (i = 0; i < p->cfg.host_senders; i++)
		pthread_join(p->host[i].thread, NULL);
	if (p->cfg.timer)
		pthread_join(p->ticker.thread, NULL);
}

void post_vm_harvest(struct post_vm *p, struct post_count *c)
{
	struct post_shared *s = p->s;
	unsigned int i, k;

	for (i = 0; i < p->nr_senders; i++) {
		struct post_sender *snd = &s->sender[i];

		for (k = 0; k < snd->nr_vec; k++) {
			struct post_vec *v = &s->vec[snd->vec_first + k * snd->vec_stride];

			if (v->harvested != v->handled)
				post_harvest(s, v, &snd->res, p->buf[i]);
		}
		c->res.samples += snd->res.samples;
		c->res.late += snd->res.late;
		c->res.tsc_backwards += snd->res.tsc_backwards;
		if (snd->res.late_max_wait > c->res.late_max_wait)
			c->res.late_max_wait = snd->res.late_max_wait;
		c->stalled += snd->stalled;
	}
}

void post_vm_free(struct post_vm *p)
{
	int vec;

	for (vec = POST_VEC_FIRST; p->cfg.irqfd && vec <= POST_VEC_LAST; vec++)
		close(p->irqfd[vec]);
	kvm_vm_free(p->vm);
}
