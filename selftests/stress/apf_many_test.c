// SPDX-License-Identifier: GPL-2.0
/*
 * Many asynchronous page faults whose pages do not come: nine VMs with four vCPUs and
 * 64 held pages each, 2,304, which is more than WQ_MAX_ACTIVE.  Nobody else may have to
 * wait for them, neither another VM's events nor the host's own work: a module is asked
 * for, which is a work as well.
 */
#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "kvm_util.h"
#include "processor.h"

#include "apf-vm.h"
#include "stress.h"

#define NR_HOLDERS	9
#define ALL_PAGES	(NR_HOLDERS * APF_MAX_VCPUS * APF_MAX_OUT)
#define BOUND_MS	2000
#define GIVE_UP_MS	5000	/* of what waits for the held pages: then they are given */
#define AF_NOBODY	12	/* DECnet: removed from Linux, asked for as net-pf-12 */

static struct apf_vm holders[NR_HOLDERS], beside;

static struct {
	u64 announced, held;
	u64 loads, load_max_us, events, event_max_us;
	u64 early;		/* pages given before the vCPU got to announce them */
	bool whole;		/* each page has its event or was early, none is lost */
	bool loaded;		/* the last one has returned */
	bool no_sockets;	/* so that no module can be asked for */
} now;

static void holder_begin(struct apf_vm *a, u64 seed)
{
	const struct apf_setup setup = {
		.name = "holder",
		.nr_vcpus = APF_MAX_VCPUS,
		.seed = seed,
		.pages = APF_MAX_OUT,
		.rounds = 1,
		.max_out = APF_MAX_OUT,
		.what = APF_DO_HALT,
		.stall_ms = GIVE_UP_MS,
	};

	apf_vm_create(a, &setup);
	a->hold = true;
	apf_vm_start(a);
}

static u64 announced_by_all(void)
{
	u64 sum = 0;
	unsigned int i, v;

	for (i = 0; i < NR_HOLDERS; i++)
		for (v = 0; v < APF_MAX_VCPUS; v++)
			sum += READ_ONCE(holders[i].v[v].g->announced);
	return sum;
}

static u64 held_by_all(void)
{
	u64 sum = 0;
	unsigned int i;

	for (i = 0; i < NR_HOLDERS; i++)
		sum += READ_ONCE(holders[i].nr_pending);
	return sum;
}

/*
 * All pages are outstanding.  How many of them the host was asked for, which is
 * how many workers wait for userfaultfd, is KVM's affair; but the last thread for
 * them has been made.
 */
static void wait_until_held(void)
{
	u64 end = now_ms() + 4 * GIVE_UP_MS, was;

	while (announced_by_all() < ALL_PAGES && now_ms() < end)
		sleep_ms(5);
	do {
		was = held_by_all();
		sleep_ms(host_cpu_is_intel ? 20 : 500);
		now.held = held_by_all();
	} while (now.held != was && now_ms() < end);
	now.announced = announced_by_all();
}

static bool more(struct apf_vm *a)
{
	(void)a;
	return true;
}

/* true: all that was announced has come back. */
static bool holder_end(struct apf_vm *a)
{
	struct apf_count c;

	__atomic_store_n(&a->hold, false, __ATOMIC_RELEASE);
	apf_vm_run(a, more);
	apf_vm_count(a, &c);
	apf_vm_tell_wrong(a);
	apf_vm_free(a);
	return c.announced && c.announced == c.ready && !c.lost && !c.doubled && !c.wrong &&
	       !a->stalled;
}

/* --- a module -------------------------------------------------------------------- */

static void *load_fn(void *data)
{
	u64 start = now_us(), took;
	int fd;

	(void)data;
	fd = socket(AF_NOBODY, SOCK_STREAM, 0);
	took = now_us() - start;
	if (fd >= 0)
		stress_die("socket(%d): there is one", AF_NOBODY);
	now.no_sockets = errno != EAFNOSUPPORT;
	now.loads++;
	if (took > now.load_max_us)
		now.load_max_us = took;
	return NULL;
}

/* false: it has not come back. */
static bool load(pthread_t *thread)
{
	struct timespec ts;

	thread_start(thread, -1, load_fn, NULL);
	clock_gettime(CLOCK_REALTIME, &ts);
	ts.tv_sec += GIVE_UP_MS / 1000;
	return !pthread_timedjoin_np(*thread, NULL, &ts);
}

/* --- another VM ------------------------------------------------------------------- */

static u64 ticks_to_us(u64 ticks)
{
	return ticks * 1000 / guest_tsc_khz;
}

static void run_beside(u64 events)
{
	const struct apf_setup setup = {
		.name = "beside",
		.nr_vcpus = 1,
		.seed = stress.seed,
		.pages = events,
		.rounds = 1,
		.max_out = 1,
		.what = APF_DO_HALT,
		.samples = events,
		.stall_ms = host_cpu_is_intel ? 0 : GIVE_UP_MS,
	};
	struct apf_count c;
	u64 i, us;

	apf_vm_create(&beside, &setup);
	apf_vm_start(&beside);
	apf_vm_run(&beside, more);
	apf_vm_count(&beside, &c);
	apf_vm_tell_wrong(&beside);
	now.events = c.ready;
	now.early = c.sync;
	now.whole = !beside.stalled && !c.lost && !c.doubled && !c.wrong &&
		    c.announced == c.ready && c.ready + c.sync == events;
	for (i = 0; i < beside.v[0].g->taken; i++) {
		us = ticks_to_us(beside.v[0].given_to_ready[i]);
		if (us > now.event_max_us)
			now.event_max_us = us;
	}
}

/* --- cases ------------------------------------------------------------------------- */

static const char * const names[] = {
	"another VM's events", "a module is asked for", "all come back",
};

/* All share one state of the host: what is measured is kept for its case. */
static void run(u64 events)
{
	unsigned int i, whole = 0;
	u64 before_us;
	pthread_t loader;

	if (!load(&loader))
		stress_die("no answer to a request for a module");
	before_us = now.load_max_us;
	now.load_max_us = 0;
	now.loads = 0;
	for (i = 0; i < NR_HOLDERS; i++)
		holder_begin(&holders[i], rnd_stream(stress.seed, i));
	wait_until_held();
	now.loaded = load(&loader);
	run_beside(events);

	/*
	 * A page that is given at once may be there before its vCPU is about to enter
	 * the guest, if the host's CPUs are busy: then there is nothing to announce.
	 */
	if (stress_case_begin(names[0]))
		stress_case(now.announced == ALL_PAGES && now.whole && now.early <= events / 2 &&
			    now.event_max_us < BOUND_MS * 1000,
			    "announced %lu held %lu events %lu early %lu whole %u longest_us %lu",
			    now.announced, now.held, now.events, now.early, now.whole,
			    now.event_max_us);
	if (stress_case_begin(names[1])) {
		if (now.no_sockets)
			stress_skip("this kernel has no sockets");
		else
			stress_case(now.announced == ALL_PAGES && now.loaded &&
				    now.load_max_us < BOUND_MS * 1000,
				    "returned %u longest_us %lu before_us %lu", now.loaded,
				    now.load_max_us, before_us);
	}

	for (i = 0; i < NR_HOLDERS; i++)
		whole += holder_end(&holders[i]);
	apf_vm_free(&beside);
	if (!now.loaded)
		pthread_join(loader, NULL);
	if (stress_case_begin(names[2]))
		stress_case(whole == NR_HOLDERS, "whole %u", whole);
}

static const char help_text[] =
"Asynchronous page faults of VMs whose pages do not come, and who has to wait for\n"
"them.  COUNT is the number of another VM's events.  Runs once.";

int main(int argc, char **argv)
{
	const struct stress_options defaults = { .seconds = 60, .count = 50, .seed = 1 };

	stress_init(argc, argv, help_text, &defaults);
	stress_plan(ARRAY_SIZE(names));
	run(stress.count ?: defaults.count);
	return stress_end();
}
