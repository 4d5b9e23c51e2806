// SPDX-License-Identifier: GPL-2.0
/*
 * What it costs a vCPU and a sender where the in-guest flag is, and two senders where they
 * count: a replica of their accesses, native, on two CPUs of this machine. No KVM is in it.
 * Called by run.py, which knows what the structures really look like; one line of JSON.
 *
 * The vCPU: announces the entry (store and full barrier), looks at PID.ON and the mode, reads
 * guest registers, computes; writes IN_HOST, the guest registers and their
 * bookkeeping, computes. The sender: sets a bit of the PIR, sets PID.ON, and if that was clear
 * reads the flag, and the mode if the flag says host. The full barrier is the same everywhere.
 *
 * Of two senders each posts to the one vCPU, which has taken what was posted before.
 */
#define _GNU_SOURCE
#include <assert.h>
#include <errno.h>
#include <getopt.h>
#include <pthread.h>
#include <sched.h>
#include <stdalign.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <x86intrin.h>

#define NR_REGS		6	/* those of a vCPU that share the flag's line */
#define MAX_SLICES	64
#define MAX_TRIES	2000	/* slices in a row that were disturbed */

enum { IN_HOST, IN_GUEST };

/* In the order of the report; the first is what the others are compared with. */
enum layout { OWN_LINE, WITH_REGS, WITH_MODE, WITH_PID, NO_FLAG, NR_LAYOUTS };

static const char * const layout_names[] = {
	"own line", "with registers", "with mode", "with PID", "no flag",
};

/* Where two senders count that they have sent; the first again */
enum counting { NO_COUNT, BY_CPU, OF_TARGET, NR_COUNTINGS };

static const char * const counting_names[] = {
	"no count", "CPU's own", "target's",
};

#define MAX_LAYOUTS	NR_LAYOUTS

/* Two lines each: the adjacent one is prefetched. */
#define LINE	alignas(128)

static struct {
	LINE struct {
		unsigned long reg[NR_REGS];
		unsigned char flag;
		unsigned int avail, dirty;
	} regs;
	LINE struct {
		unsigned int cpu, mode;
		unsigned char flag;
	} mode;
	LINE struct {
		unsigned long pir[4], control, rest[2];
		unsigned char flag;
	} pid;
	LINE struct {
		unsigned char flag;
	} own;
	struct {
		LINE unsigned long sent;
	} by_cpu[2], target;
} at;

static_assert(sizeof(at.by_cpu[0]) == alignof(at.regs), "each on lines of its own");

static bool two_senders;

/* What a slice is, from one CPU to the other */
static LINE struct {
	unsigned int layout;		/* or counting */
	unsigned long until;
	unsigned int gap;		/* iterations between two posts */
	bool stop;
} now;

struct count {
	unsigned long operations;
	bool disturbed;
};

static LINE struct count vcpu;
static LINE struct count sender;
static pthread_barrier_t begin, end;
static int cpus[2] = { 0, 1 };

static unsigned char *flag_of(unsigned int layout)
{
	switch (layout) {
	case WITH_REGS:
		return &at.regs.flag;
	case WITH_MODE:
		return &at.mode.flag;
	case WITH_PID:
		return &at.pid.flag;
	default:
		return &at.own.flag;	/* NO_FLAG never touches it */
	}
}

#define store(place, value)	__atomic_store_n(place, value, __ATOMIC_RELAXED)
#define load(place)		__atomic_load_n(place, __ATOMIC_RELAXED)

static void compute(unsigned int iterations)
{
	while (iterations--)
		asm volatile("" : : : "memory");
}

static bool test_and_set(unsigned long *word, unsigned int bit)
{
	bool old;

	asm volatile("lock btsq %2, %0"
		     : "+m" (*word), "=@ccc" (old) : "r" ((unsigned long)bit) : "memory");
	return old;
}

static void full_barrier(void)
{
	asm volatile("lock addl $0, -4(%%rsp)" : : : "memory", "cc");
}

/* One entry and exit */
static void round_trip(unsigned char *flag, bool has_flag, unsigned long n)
{
	unsigned long sum = 0;
	int i;

	store(&at.mode.mode, 1);
	if (has_flag)
		store(flag, IN_GUEST);
	full_barrier();
	if (load(&at.pid.control)) {
		__atomic_exchange_n(&at.pid.control, 0, __ATOMIC_SEQ_CST);
		for (i = 0; i < 4; i++)
			if (load(&at.pid.pir[i]))
				__atomic_exchange_n(&at.pid.pir[i], 0, __ATOMIC_SEQ_CST);
	}
	for (i = 0; i < NR_REGS; i++)
		sum += load(&at.regs.reg[i]);
	compute(300);				/* the guest */
	if (has_flag)
		store(flag, IN_HOST);
	for (i = 0; i < NR_REGS; i++)
		store(&at.regs.reg[i], sum + n);
	store(&at.regs.avail, n);
	store(&at.regs.dirty, 0);
	compute(300);				/* the exit's handler */
	store(&at.mode.mode, 0);
}

static unsigned int post(const unsigned char *flag, bool has_flag, unsigned long n)
{
	unsigned int seen = 0;

	test_and_set(&at.pid.pir[n & 3], n >> 2 & 63);
	if (test_and_set(&at.pid.control, 0))
		return 0;
	if (has_flag)
		seen = load(flag);
	if (seen == IN_HOST)
		seen += load(&at.mode.mode);
	return seen;
}

/* By sender @me, at whose target nothing is pending, and which is in the guest */
static void post_and_count(unsigned int me, enum counting counting, unsigned long n)
{
	test_and_set(&at.pid.pir[n & 3], n >> 2 & 63);
	test_and_set(&at.pid.control, 0);
	asm volatile("" : : "r" (load(&at.regs.flag)));
	if (counting == BY_CPU)
		asm volatile("incq %0" : "+m" (at.by_cpu[me].sent) : : "cc");
	else if (counting == OF_TARGET)
		asm volatile("lock incq %0" : "+m" (at.target.sent) : : "cc");
}

static long switches(void)
{
	struct rusage usage;

	getrusage(RUSAGE_THREAD, &usage);
	return usage.ru_nivcsw + usage.ru_nvcsw;
}

static void pin(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	if (sched_setaffinity(0, sizeof(set), &set)) {
		fprintf(stderr, "placement: CPU %d: %s\n", cpu, strerror(errno));
		exit(4);
	}
}

static void *vcpu_fn(void *unused)
{
	pin(cpus[0]);
	for (;;) {
		unsigned long n = 0;
		long before;

		pthread_barrier_wait(&begin);
		if (now.stop)
			return unused;
		before = switches();
		while (__rdtsc() < now.until) {
			if (two_senders) {
				post_and_count(0, now.layout, n++);
				compute(now.gap);
			} else {
				round_trip(flag_of(now.layout), now.layout != NO_FLAG, n++);
			}
		}
		vcpu = (struct count){ n, switches() != before };
		pthread_barrier_wait(&end);
	}
}

static void send_until(void)
{
	unsigned char *flag = flag_of(now.layout);
	unsigned long n = 0;
	long before;

	before = switches();
	while (__rdtsc() < now.until) {
		if (two_senders)
			post_and_count(1, now.layout, n++);
		else
			asm volatile("" : : "r" (post(flag, now.layout != NO_FLAG, n++)));
		compute(now.gap);
	}
	sender = (struct count){ n, switches() != before };
}

/* Ticks of one operation on each side; false: one of them did not run all the time */
static bool slice(unsigned int layout, unsigned int gap, unsigned long ticks, double took[2])
{
	now.layout = layout;
	now.gap = gap;
	now.until = __rdtsc() + ticks + 100000;
	pthread_barrier_wait(&begin);
	send_until();
	pthread_barrier_wait(&end);
	if (vcpu.disturbed || sender.disturbed || !vcpu.operations || !sender.operations)
		return false;
	took[0] = (double)ticks / vcpu.operations;
	took[1] = (double)ticks / sender.operations;
	return true;
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static double median(double *values, unsigned int n)
{
	qsort(values, n, sizeof(*values), by_value);
	return values[n / 2];
}

/* One round: @slices of each layout, in turn; prints the medians */
static unsigned long one_round(unsigned int gap, unsigned int slices, unsigned long ticks)
{
	static double took[2][MAX_LAYOUTS][MAX_SLICES];
	const char * const *names = two_senders ? counting_names : layout_names;
	unsigned int nr = two_senders ? NR_COUNTINGS : NR_LAYOUTS;
	unsigned long dropped = 0;
	unsigned int i, layout, tries = 0;
	double one[2];

	for (i = 0; i < slices; i++) {
		for (layout = 0; layout < nr; ) {
			unsigned int which = (layout + i) % nr;

			if (!slice(which, gap, ticks, one)) {
				dropped++;
				if (++tries < MAX_TRIES)
					continue;
				fputs("placement: this machine is too busy\n", stderr);
				exit(1);
			}
			tries = 0;
			took[0][which][i] = one[0];
			took[1][which][i] = one[1];
			layout++;
		}
	}
	for (layout = 0; layout < nr; layout++)
		printf("%s\"%s\": {\"%s\": %.1f, \"sender\": %.1f}", layout ? ", " : "{",
		       names[layout], two_senders ? "other" : "vcpu",
		       median(took[0][layout], slices),
		       median(took[1][layout], slices));
	putchar('}');
	return dropped;
}

static const char help[] =
"usage: placement [--senders] [--cpus A,B] [--rounds N] [--slices N] [--gap ITERATIONS]\n\n"
"  --senders      two senders and where they count; else a vCPU and a sender\n"
"  --cpus A,B     of the vCPU and of the sender (default 0,1)\n"
"  --rounds N     (default 6)\n"
"  --slices N     of a millisecond, of each layout in each round, 1 to 64 (default 15)\n"
"  --gap N        iterations of an empty loop between two posts (default 0)\n\n"
"Exit status: 0, 1 this machine is too busy, 2 wrong usage, 4 there are not two such CPUs.\n";

static unsigned long number(const char *text, unsigned long max)
{
	unsigned long value = strtoul(text, NULL, 0);

	if (value < 1 || value > max) {
		fprintf(stderr, "placement: %s: 1 to %lu\n%s", text, max, help);
		exit(2);
	}
	return value;
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "cpus", required_argument, NULL, 'c' },
		{ "rounds", required_argument, NULL, 'r' },
		{ "slices", required_argument, NULL, 's' },
		{ "gap", required_argument, NULL, 'g' },
		{ "senders", no_argument, NULL, 't' },
		{ "help", no_argument, NULL, 'h' },
		{ }
	};
	unsigned long rounds = 6, slices = 15, gap = 0, dropped = 0, i;
	unsigned long ticks = 2000000;
	pthread_t thread;
	int opt;

	while ((opt = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (opt == 'c' && sscanf(optarg, "%d,%d", &cpus[0], &cpus[1]) == 2)
			continue;
		else if (opt == 'r')
			rounds = number(optarg, 1000);
		else if (opt == 's')
			slices = number(optarg, MAX_SLICES);
		else if (opt == 'g')
			gap = number(optarg, 1000000);
		else if (opt == 't')
			two_senders = true;
		else
			return fputs(help, opt == 'h' ? stdout : stderr), opt == 'h' ? 0 : 2;
	}
	pthread_barrier_init(&begin, NULL, 2);
	pthread_barrier_init(&end, NULL, 2);
	pin(cpus[1]);
	if (pthread_create(&thread, NULL, vcpu_fn, NULL))
		return fputs("placement: no thread\n", stderr), 1;
	printf("{\"gap\": %lu, \"rounds\": [", gap);
	for (i = 0; i < rounds; i++) {
		if (i)
			fputs(", ", stdout);
		dropped += one_round(gap, slices, ticks);
		fflush(stdout);
	}
	printf("], \"dropped\": %lu}\n", dropped);
	now.stop = true;
	pthread_barrier_wait(&begin);
	pthread_join(thread, NULL);
	return 0;
}
