// SPDX-License-Identifier: GPL-2.0
/*
 * vCPUs are made, run, reset and destroyed while interrupts are posted to them.
 *
 * Host threads post all the time: to vCPUs that do not exist yet, that run,
 * that are in userspace, and to a VM that is being taken apart.  A vCPU that
 * runs must get interrupts, in every life; one that is in userspace must have
 * the in-guest flag at KVM_EXEC_HOST.  The rest is for the kernel to notice: a
 * WARNING, a use after free (make debug-kernel), a leak of the module's count.
 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "kvm_util.h"
#include "processor.h"

#include "lifecycle.h"
#include "stress.h"

#define NR_POSTERS	2
#define LIMIT_US	20000000

struct life {
	struct kvm_vm *vm;
	struct life_shared *s;
	unsigned int nr_vcpus;
	u64 rnd;
	int vm_fd;			/* the posters', lives longer than vm */
	bool stop_posting, stop_vcpus;
	u64 posts[NR_POSTERS];
	struct life_vcpu {
		struct life *life;
		struct kvm_vcpu *vcpu;
		pthread_t thread;
		bool ended;
		u64 stale;		/* flag not at KVM_EXEC_HOST, in userspace */
		struct kvm_x86_state *fresh;
		struct kvm_lapic_state lapic;
	} v[LIFE_VCPUS];
};

struct poster {
	struct life *life;
	unsigned int i;
	u64 rnd;			/* it may start when the guest's memory is gone */
};

static __thread struct kvm_run *this_run;
static u64 lives, resets, posts, stale;

static void on_signal(int sig)
{
	(void)sig;
	if (this_run)
		WRITE_ONCE(this_run->immediate_exit, 1);
}

static void *poster_fn(void *data)
{
	struct poster *p = data;
	struct life *l = p->life;
	u64 rnd = p->rnd, n = 0;

	while (!__atomic_load_n(&l->stop_posting, __ATOMIC_ACQUIRE)) {
		struct kvm_msi msi = {
			.address_lo = 0xfee00000u | rnd_below(&rnd, LIFE_VCPUS + 1) << 12,
			.data = LIFE_VEC_FIRST + rnd_below(&rnd, LIFE_NR_VEC),
		};

		/* Nobody there is a legal answer. */
		if (ioctl(l->vm_fd, KVM_SIGNAL_MSI, &msi) < 0 && errno != EINVAL)
			stress_die("KVM_SIGNAL_MSI: %s", strerror(errno));
		n++;
		if (!rnd_below(&rnd, 64))
			sleep_us(rnd_below(&rnd, 200));
	}
	l->posts[p->i] = n;
	return NULL;
}

static void check_flag(struct life_vcpu *v)
{
	struct kvm_mode_probe p;

	if (!probe_present())
		return;
	probe(PROBE_READ, v->vcpu, &p);
	v->stale += p.flag != PROBE_NO_FLAG && p.flag != PROBE_IN_HOST;
}

static void *vcpu_fn(void *data)
{
	struct life_vcpu *v = data;

	this_run = v->vcpu->run;
	while (!__atomic_load_n(&v->life->stop_vcpus, __ATOMIC_ACQUIRE)) {
		if (!__vcpu_run(v->vcpu))
			stress_die("vCPU %u left the guest: %s", v->vcpu->id,
				   exit_reason_str(v->vcpu->run->exit_reason));
		if (errno != EINTR)
			stress_die("KVM_RUN: %s", strerror(errno));
		check_flag(v);
		WRITE_ONCE(this_run->immediate_exit, 0);
	}
	__atomic_store_n(&v->ended, true, __ATOMIC_RELEASE);
	return NULL;
}

static void life_create(struct life *l, u64 seed)
{
	struct kvm_vcpu *vcpus[LIFE_VCPUS];
	unsigned int i;
	gva_t gva;

	memset(l, 0, sizeof(*l));
	l->rnd = seed;
	l->nr_vcpus = 1 + rnd_below(&l->rnd, LIFE_VCPUS);
	l->vm = vm_create_with_vcpus(l->nr_vcpus, life_guest_main, vcpus);
	gva = vm_alloc(l->vm, sizeof(*l->s), KVM_UTIL_MIN_VADDR);
	l->s = addr_gva2hva(l->vm, gva);
	memset(l->s, 0, sizeof(*l->s));
	l->s->seed = seed;
	write_guest_global(l->vm, life_shared, (struct life_shared *)gva);
	for (i = 0; i < LIFE_NR_VEC; i++)
		vm_install_exception_handler(l->vm, LIFE_VEC_FIRST + i, life_guest_irq);
	for (i = 0; i < l->nr_vcpus; i++) {
		l->v[i].life = l;
		l->v[i].vcpu = vcpus[i];
		vcpu_args_set(vcpus[i], 1, (u64)i);
		l->v[i].fresh = vcpu_save_state(vcpus[i]);
		vcpu_ioctl(vcpus[i], KVM_GET_LAPIC, &l->v[i].lapic);
	}
	l->vm_fd = dup(l->vm->fd);
	if (l->vm_fd < 0)
		stress_die("no file descriptor left");
}

static void vcpus_start(struct life *l)
{
	unsigned int i;

	__atomic_store_n(&l->stop_vcpus, false, __ATOMIC_RELEASE);
	for (i = 0; i < l->nr_vcpus; i++) {
		l->v[i].ended = false;
		thread_start(&l->v[i].thread, -1, vcpu_fn, &l->v[i]);
	}
}

static void vcpus_stop(struct life *l)
{
	unsigned int i;

	__atomic_store_n(&l->stop_vcpus, true, __ATOMIC_RELEASE);
	for (i = 0; i < l->nr_vcpus; i++) {
		while (!__atomic_load_n(&l->v[i].ended, __ATOMIC_ACQUIRE)) {
			pthread_kill(l->v[i].thread, SIGUSR1);
			sleep_us(100);
		}
		pthread_join(l->v[i].thread, NULL);
		stale += l->v[i].stale;
		l->v[i].stale = 0;
	}
}

/* false: some vCPU got no interrupt in this life, for LIMIT_US */
static bool all_alive(struct life *l)
{
	u64 had[LIFE_VCPUS], start = now_us();
	unsigned int i;

	for (i = 0; i < l->nr_vcpus; i++)
		had[i] = READ_ONCE(l->s->vcpu[i].handled);
	for (i = 0; i < l->nr_vcpus; i++) {
		while (READ_ONCE(l->s->vcpu[i].handled) - had[i] < 10) {
			if (now_us() - start > LIMIT_US)
				return false;
			sleep_us(200);
		}
	}
	return true;
}

/* As a machine's reset: all state as it was when the vCPU was made. */
static void reset(struct life *l)
{
	unsigned int i;

	for (i = 0; i < l->nr_vcpus; i++) {
		vcpu_load_state(l->v[i].vcpu, l->v[i].fresh);
		vcpu_ioctl(l->v[i].vcpu, KVM_SET_LAPIC, &l->v[i].lapic);
	}
	resets++;
}

/* One VM, from its making to its end, with @max_resets on the way */
static bool one_life(u64 seed, unsigned int max_resets)
{
	struct poster posters[NR_POSTERS];
	pthread_t threads[NR_POSTERS];
	unsigned int i, n;
	struct life l;
	bool alive;

	life_create(&l, seed);
	for (i = 0; i < NR_POSTERS; i++) {
		posters[i] = (struct poster){ &l, i, rnd_stream(seed, 100 + i) };
		thread_start(&threads[i], -1, poster_fn, &posters[i]);
	}
	vcpus_start(&l);
	alive = all_alive(&l);
	for (n = 0; n < max_resets && alive; n++) {
		vcpus_stop(&l);
		reset(&l);
		vcpus_start(&l);
		alive = all_alive(&l);
	}
	vcpus_stop(&l);
	/* Not under the posters' feet: they write nothing that goes away here. */
	for (i = 0; i < l.nr_vcpus; i++)
		kvm_x86_state_cleanup(l.v[i].fresh);
	kvm_vm_free(l.vm);
	__atomic_store_n(&l.stop_posting, true, __ATOMIC_RELEASE);
	for (i = 0; i < NR_POSTERS; i++) {
		pthread_join(threads[i], NULL);
		posts += l.posts[i];
	}
	close(l.vm_fd);
	lives++;
	return alive;
}

static void run_case(u64 seed, unsigned int max_resets, u64 count)
{
	bool alive = true;
	u64 n = 0;

	lives = 0;
	resets = 0;
	posts = 0;
	stale = 0;
	do {
		alive = one_life(rnd_stream(seed, n++), max_resets);
		stress_progress("%lu VMs, %lu resets, %lu posts", lives, resets, posts);
	} while (alive && !stale && stress_time_left() && (!count || n < count));
	stress_case(alive && !stale, "vms %lu resets %lu posts %lu stale_flag %lu%s", lives,
		    resets, posts, stale, alive ? "" : ", a vCPU got no interrupt");
}

static const char help_text[] =
"Makes, runs, resets and destroys vCPUs under posting.  COUNT is the number\n"
"of VMs, over all cases.";

int main(int argc, char **argv)
{
	const struct stress_options defaults = { .seconds = 10, .seed = 1 };
	char report = param_read("kvm/report_ignored_msrs");
	struct sigaction sa = { .sa_handler = on_signal };

	stress_init(argc, argv, help_text, &defaults);
	sigaction(SIGUSR1, &sa, NULL);
	if (!probe_present())
		stress_note("kvm-mode-probe.ko is not loaded: the flag is not looked at");
	/* A vCPU's whole state is set: that writes MSRs which KVM only ignores. */
	param_write("kvm/report_ignored_msrs", "N");
	stress_plan(2);
	if (stress_case_begin("create, run, destroy"))
		run_case(rnd_stream(stress.seed, 1), 0, (stress.count + 1) / 2);
	if (stress_case_begin("reset"))
		run_case(rnd_stream(stress.seed, 2), 4, (stress.count + 1) / 2);
	if (report == 'Y')
		param_write("kvm/report_ignored_msrs", "Y");
	return stress_end();
}
