// SPDX-License-Identifier: GPL-2.0
/*
 * Asynchronous page faults under stress: every token that was announced comes back
 * once, or was outstanding when the mechanism was disabled, whatever the guest and
 * its host do meanwhile.  apf-guest.h says what that is.
 */
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kvm_util.h"
#include "processor.h"

#include "apf-vm.h"
#include "stress.h"

static struct {
	u64 events;		/* of a case, 0: until its time is up */
} now;

static const struct {
	const char *name;
	u64 what;
	u64 max_out, gap_max, delay_max;
	unsigned int vcpus;
	u64 every;		/* one disturbance in so many steps; of all kinds, done or not */
} cases[] = {
	{ "one at a time", 0, 1, 2000, 20000, 1, 32 },
	{ "many at once", APF_DO_HALT | APF_DO_EXITS, 64, 200, 100000, 1, 32 },
	{ "ways of the guest", APF_DO_HALT | APF_DO_EXITS | APF_DO_MASK | APF_DO_LAPIC |
	  APF_DO_GARBAGE | APF_DO_LATE_ACK | APF_DO_ACK_FIRST, 4, 500, 40000, 2, 32 },
	{ "disabled and moved", APF_DO_HALT | APF_DO_TOGGLE | APF_DO_MOVE, 16, 500, 40000, 2, 4 },
	{ "area not there", APF_DO_HALT | APF_DO_REMOVE | APF_DO_PROTECT | APF_DO_DIRTY, 16, 500,
	  40000, 1, 32 },
	{ "ways of userspace", APF_DO_HALT | APF_DO_HOST_MSRS | APF_DO_HOST_OFF | APF_DO_EVENTS,
	  16, 500, 40000, 1, 32 },
	{ "reset and INIT", APF_DO_HALT | APF_DO_RESET | APF_DO_INIT, 16, 500, 40000, 2, 32 },
	{ "SMM", APF_DO_HALT | APF_DO_SMI, 16, 500, 40000, 2, 32 },
	{ "everything", APF_DO_TOGGLE | APF_DO_MOVE | APF_DO_LAPIC | APF_DO_MASK |
	  APF_DO_GARBAGE | APF_DO_LATE_ACK | APF_DO_ACK_FIRST | APF_DO_HALT | APF_DO_EXITS |
	  APF_DO_REMOVE | APF_DO_PROTECT | APF_DO_DIRTY | APF_DO_HOST_MSRS | APF_DO_HOST_OFF |
	  APF_DO_EVENTS | APF_DO_RESET | APF_DO_INIT | APF_DO_SMI, 64, 500, 40000, 1, 32 },
};

#define MANY_AT_ONCE	1	/* of cases[] */

static bool more(struct apf_vm *a)
{
	struct apf_count c;

	apf_vm_count(a, &c);
	stress_progress("announced %lu ready %lu eaten %lu, %lu pages given", c.announced,
			c.ready, c.eaten, a->given);
	return stress_time_left() && (!now.events || c.announced < now.events);
}

static struct apf_setup setup_of(unsigned int i, u64 seed)
{
	return (struct apf_setup){
		.name = cases[i].name,
		.nr_vcpus = cases[i].vcpus,
		.seed = seed,
		.pages = 256,
		.max_out = cases[i].max_out,
		.gap_max = cases[i].gap_max,
		.delay_max = cases[i].delay_max,
		.what = cases[i].what,
		.every = cases[i].every,
	};
}

static void run_case(unsigned int i, u64 seed)
{
	const struct apf_setup setup = setup_of(i, seed);
	static struct apf_vm a;
	struct apf_count c;

	apf_vm_create(&a, &setup);
	apf_vm_start(&a);
	apf_vm_run(&a, more);
	apf_vm_count(&a, &c);
	apf_vm_tell_wrong(&a);
	apf_vm_free(&a);
	stress_case(c.announced && !c.lost && !c.doubled && !c.wrong && !a.stalled &&
		    c.announced == c.ready + c.eaten && c.smis == c.done[17],
		    "announced %lu ready %lu eaten %lu lost %lu doubled %lu wrong %lu stalled %lu sync %lu wakes %lu inits %lu smis %lu",
		    c.announced, c.ready, c.eaten, c.lost, c.doubled, c.wrong, a.stalled, c.sync,
		    c.wakes, c.done[16], c.smis);
}

/* The child, which is killed at some moment: with many events in flight */
static void __noreturn be_killed(u64 seed, u64 *announced)
{
	const struct apf_setup setup = setup_of(MANY_AT_ONCE, seed);
	static struct apf_vm a;

	apf_vm_create(&a, &setup);
	apf_vm_start(&a);
	for (;;) {
		WRITE_ONCE(*announced, READ_ONCE(a.v[0].g->announced));
		sleep_us(100);
	}
}

/*
 * Nothing to count here but that it ends: workers write to an area and send
 * interrupts to a vCPU that go away.  The kernel notices, and make debug-kernel.
 */
static void run_killed(u64 seed)
{
	u64 n, events = 0, rnd = seed, most = now.events ? 1 + now.events / 400 : ~0ull;
	u64 *announced = mmap(NULL, getpagesize(), PROT_READ | PROT_WRITE,
			      MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (announced == MAP_FAILED)
		stress_die("no memory");
	for (n = 0; n < most && stress_time_left(); n++) {
		pid_t child = fork();
		int status;

		if (!child)
			be_killed(rnd_stream(seed, n), announced);
		while (child > 0 && !READ_ONCE(*announced))
			sleep_us(100);
		sleep_us(rnd_below(&rnd, 2000));
		if (child < 0 || kill(child, SIGKILL) || waitpid(child, &status, 0) != child)
			stress_die("a child could not be made, or killed");
		events += *announced;
		*announced = 0;
		stress_progress("%lu VMs, %lu events", n, events);
	}
	munmap(announced, getpagesize());
	stress_case(n && events, "killed %lu events_begun %lu", n, events);
}

static const char help_text[] =
"Asynchronous page faults: each token comes back once, or was eaten.  COUNT is\n"
"the number of announced tokens, over all cases.";

int main(int argc, char **argv)
{
	const struct stress_options defaults = { .seconds = 20, .seed = 1 };
	unsigned int i;

	stress_init(argc, argv, help_text, &defaults);
	stress_plan(ARRAY_SIZE(cases) + 1);
	now.events = (stress.count + ARRAY_SIZE(cases) - 1) / ARRAY_SIZE(cases);
	/* A child of a process without threads and VMs: first */
	if (stress_case_begin("killed"))
		run_killed(rnd_stream(stress.seed, 100));
	for (i = 0; i < ARRAY_SIZE(cases); i++) {
		if (!stress_case_begin(cases[i].name))
			continue;
		run_case(i, rnd_stream(stress.seed, i));
	}
	return stress_end();
}
