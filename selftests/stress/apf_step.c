// SPDX-License-Identifier: GPL-2.0
/* Tests of asynchronous page faults that move by steps; see apf_step.h. */
#include <errno.h>
#include <linux/userfaultfd.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <asm/kvm_para.h>

#include "apic.h"
#include "kvm_util.h"
#include "processor.h"

#include "apf_step.h"
#include "stress.h"

/* What a case's process tells its parent */
struct verdict {
	bool said, ok, skipped;
	char text[400];
};

static struct verdict *verdict;

void tell(bool ok, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	vsnprintf(verdict->text, sizeof(verdict->text), fmt, args);
	va_end(args);
	verdict->ok = ok;
	verdict->said = true;
}

void skip(const char *why)
{
	verdict->skipped = true;
	tell(true, "%s", why);
}

/*
 * Where a second is billions of emulated instructions time that a vCPU computes is
 * dear, what it sleeps is not.
 */
static bool time_is_dear(void)
{
	static int dear = -1;
	char line[1024] = "";
	FILE *f;

	if (dear < 0) {
		f = fopen("/proc/cmdline", "r");
		dear = f && fgets(line, sizeof(line), f) && strstr(line, "lab.emulator=bochs");
		if (f)
			fclose(f);
	}
	return dear;
}

unsigned int patience_ms(void)
{
	return time_is_dear() ? 30 : 3000;
}

unsigned int quiet_ms(bool computing)
{
	if (!time_is_dear())
		return 300;
	return computing ? 5 : 100;
}

bool again(u64 n)
{
	return !n || (stress_time_left() && (!stress.count || n < stress.count));
}

/* --- steps -------------------------------------------------------------------- */

static u32 exited(struct step *s)
{
	struct kvm_run *run = s->a.v[0].vcpu->run;
	struct ucall uc;

	if (run->exit_reason == KVM_EXIT_IO && run->io.port == APF_PORT)
		return *(u32 *)((char *)run + run->io.data_offset);
	if (run->exit_reason == KVM_EXIT_X86_WRMSR && run->msr.index == MSR_KVM_ASYNC_PF_ACK) {
		s->wrmsrs++;
		run->msr.error = 0;
		/* Reads as 0: vcpu_set_msr() would look. */
		if (_vcpu_set_msr(s->a.v[0].vcpu, MSR_KVM_ASYNC_PF_ACK, run->msr.data) != 1)
			die("KVM_SET_MSRS: no ACK");
		return 0;
	}
	if (get_ucall(s->a.v[0].vcpu, &uc) == UCALL_ABORT)
		fprintf(stderr, "# guest assertion: %s\n", uc.buffer);
	else
		fprintf(stderr, "# the vCPU left the guest: exit reason %u (%s)\n",
			run->exit_reason, exit_reason_str(run->exit_reason));
	return STEP_LEFT;
}

static u32 run_to_word(struct step *s)
{
	u32 said = 0;

	while (!said) {
		if (!__vcpu_run(s->a.v[0].vcpu))
			said = exited(s);
		else if (errno == EFAULT)
			said = STEP_FAULTED;
		else if (errno != EINTR)
			die("KVM_RUN: %s", strerror(errno));
		else if (__atomic_load_n(&s->pause, __ATOMIC_ACQUIRE))
			said = STEP_PAUSED;
	}
	return said;
}

static void *step_fn(void *data)
{
	struct step *s = data;

	for (;;) {
		while (sem_wait(&s->go))
			;
		if (s->quit)
			return NULL;
		s->said = run_to_word(s);
		sem_post(&s->back);
	}
}

void go(struct step *s)
{
	s->running = true;
	sem_post(&s->go);
}

u32 hear(struct step *s, unsigned int ms)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	ts.tv_sec += ms / 1000;
	ts.tv_nsec += ms % 1000 * 1000000ull;
	if (ts.tv_nsec >= 1000000000) {
		ts.tv_sec++;
		ts.tv_nsec -= 1000000000;
	}
	while (sem_clockwait(&s->back, CLOCK_MONOTONIC, &ts))
		if (errno == ETIMEDOUT)
			return STEP_NOTHING;
	s->running = false;
	return s->said;
}

bool hears(struct step *s, u32 what)
{
	struct step_guest *g = s->shared;
	u32 said = hear(s, patience_ms());

	if (!said) {
		WRITE_ONCE(g->stop, 1);
		said = hear(s, patience_ms());
	}
	if (said != what)
		fprintf(stderr, "# the guest said %u, not %u; CHECK in line %lu\n", said, what,
			g->failed);
	return said == what && !g->stop;
}

bool goes_to(struct step *s, u32 what)
{
	go(s);
	return hears(s, what);
}

bool pause_vcpu(struct step *s)
{
	unsigned int i;

	__atomic_store_n(&s->pause, true, __ATOMIC_RELEASE);
	for (i = 0; i < 200; i++) {
		WRITE_ONCE(s->a.v[0].vcpu->run->immediate_exit, 1);
		pthread_kill(s->thread, POST_SIGNAL);
		if (hear(s, 20))
			break;
	}
	WRITE_ONCE(s->a.v[0].vcpu->run->immediate_exit, 0);
	s->pause = false;
	return i < 200;
}

/* --- pages ---------------------------------------------------------------------- */

static struct uffdio_range range_of(struct step *s)
{
	return (struct uffdio_range){ (u64)s->a.v[0].pages, STEP_PAGES * PAGE_SIZE };
}

void watch_pages(struct step *s)
{
	struct uffdio_register reg = {
		.range = range_of(s),
		.mode = UFFDIO_REGISTER_MODE_MISSING,
	};

	if (ioctl(s->a.uffd, UFFDIO_REGISTER, &reg))
		die("UFFDIO_REGISTER: %s", strerror(errno));
}

void wake_waiters(struct step *s)
{
	struct uffdio_range range = range_of(s);

	if (ioctl(s->a.uffd, UFFDIO_WAKE, &range))
		die("UFFDIO_WAKE: %s", strerror(errno));
}

bool awaited(struct step *s, unsigned int ms)
{
	u64 limit = now_ms() + ms;
	struct uffd_msg msg;

	do {
		if (read(s->a.uffd, &msg, sizeof(msg)) == sizeof(msg))
			return true;
		sleep_ms(1);
	} while (now_ms() < limit);
	return false;
}

bool counts_to(const u64 *count, u64 n)
{
	u64 limit = now_ms() + patience_ms();

	while (READ_ONCE(*count) < n && now_ms() < limit)
		sleep_ms(1);
	return READ_ONCE(*count) >= n;
}

/* --- the VM ------------------------------------------------------------------- */

void step_create(struct step *s, struct apf_setup setup)
{
	memset(s, 0, sizeof(*s));
	setup.nr_vcpus = 1;
	setup.seed = stress.seed;
	setup.pages = STEP_PAGES;
	setup.max_out = 1;
	apf_vm_create(&s->a, &setup);
	sem_init(&s->go, 0, 0);
	sem_init(&s->back, 0, 0);
	thread_start(&s->thread, 0, step_fn, s);
	pthread_getcpuclockid(s->thread, &s->clock);
}

u32 hide_features(struct kvm_vcpu *vcpu, u32 features)
{
	struct kvm_cpuid_entry2 *entry = vcpu_get_cpuid_entry(vcpu, KVM_CPUID_FEATURES);
	u32 had = entry->eax & features;

	entry->eax &= ~features;
	vcpu_set_cpuid(vcpu);
	return had;
}

void step_quit(struct step *s)
{
	s->quit = true;
	go(s);
	pthread_join(s->thread, NULL);
}

void step_free(struct step *s)
{
	unsigned int i;

	for (i = 0; i < STEP_PAGES; i++)
		apf_vm_give(&s->a, 0, i);
	if (s->running)
		pause_vcpu(s);
	step_quit(s);
	apf_vm_free(&s->a);
}

/* --- cases -------------------------------------------------------------------- */

/* Time that a case may take at all; debug kernels are slow. */
#define CASE_MS		300000

static bool ended(pid_t child, int *status)
{
	u64 end = now_ms() + CASE_MS;

	while (now_ms() < end) {
		if (waitpid(child, status, WNOHANG) == child)
			return true;
		sleep_ms(2);
		stress_progress("runs");
	}
	kill(child, SIGKILL);
	waitpid(child, status, 0);
	return false;
}

static void run_case(void (*fn)(void))
{
	pid_t child;
	int status;

	memset(verdict, 0, sizeof(*verdict));
	fflush(stdout);
	child = fork();
	if (child < 0)
		stress_die("fork: %s", strerror(errno));
	if (!child) {
		fn();
		_exit(0);
	}
	if (!ended(child, &status))
		stress_case(false, "hangs; %s", verdict->text);
	else if (verdict->skipped)
		stress_skip("%s", verdict->text);
	else if (!verdict->said)
		stress_case(false, "ended with status 0x%x", status);
	else
		stress_case(verdict->ok && !status, "%s", verdict->text);
}

int step_main(int argc, char **argv, const char *help, const struct step_case *cases,
	      unsigned int nr)
{
	const struct stress_options defaults = { .seconds = 60, .count = 3, .seed = 1 };
	unsigned int i;

	stress_init(argc, argv, help, &defaults);
	verdict = mmap(NULL, sizeof(*verdict), PROT_READ | PROT_WRITE,
		       MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (verdict == MAP_FAILED)
		stress_die("no memory");
	stress_plan(nr);
	for (i = 0; i < nr; i++)
		if (stress_case_begin(cases[i].name))
			run_case(cases[i].fn);
	return stress_end();
}
