// SPDX-License-Identifier: GPL-2.0
/*
 * IPIs inside a guest with a whole kernel, from user space: membarrier() with
 * MEMBARRIER_CMD_PRIVATE_EXPEDITED makes the kernel send a function-call IPI to
 * every CPU that runs a thread of this process, and returns when all have
 * answered (membarrier(2)). One thread spins on each other CPU; the first one
 * takes the time. A CPU that runs something else at that moment gets no IPI: such
 * calls do not count, by the IPIs of /proc/interrupts' CAL. Runs in L2; called by
 * its init. One line of JSON: nanoseconds of CLOCK_MONOTONIC of each call, their
 * IPIs, and the calls that did not count.
 *
 *   ipi-membarrier CALLS
 *
 * Exit status: 0, 1 a failure, 2 wrong usage.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/membarrier.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define WARMUP		20
#define MAX_CALLS	100000
#define MAX_TRIES	20		/* for each call that is wanted */

static long spinning;

static void die(const char *what)
{
	fprintf(stderr, "ipi-membarrier: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void pin(long cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	if (sched_setaffinity(0, sizeof(set), &set))
		die("sched_setaffinity");
}

static void *spin(void *cpu)
{
	pin((long)cpu);
	__atomic_add_fetch(&spinning, 1, __ATOMIC_RELEASE);
	for (;;)
		__builtin_ia32_pause();
	return NULL;
}

static long long now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

/* Function-call interrupts of all CPUs so far */
static long long ipis(void)
{
	FILE *file = fopen("/proc/interrupts", "r");
	long long n, sum = 0;
	char line[4096];

	if (!file)
		die("/proc/interrupts");
	while (fgets(line, sizeof(line), file)) {
		char *at = strstr(line, "CAL:"), *end;

		if (!at)
			continue;
		for (at += 4; n = strtoll(at, &end, 10), end != at; at = end)
			sum += n;
	}
	fclose(file);
	return sum;
}

static long long call(void)
{
	long long start = now();

	if (syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0))
		die("membarrier");
	return now() - start;
}

int main(int argc, char **argv)
{
	long cpu, cpus = sysconf(_SC_NPROCESSORS_ONLN);
	long i, calls = argc == 2 ? atol(argv[1]) : 0, skipped = 0;
	static long long took[MAX_CALLS];
	long long total = 0;

	if (calls < 1 || calls > MAX_CALLS) {
		fprintf(stderr, "usage: ipi-membarrier CALLS (1 to %d)\n", MAX_CALLS);
		return 2;
	}
	if (cpus < 2) {
		fprintf(stderr, "ipi-membarrier: one CPU only\n");
		return 1;
	}
	if (syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0))
		die("membarrier");
	for (cpu = 1; cpu < cpus; cpu++) {
		pthread_t thread;

		errno = pthread_create(&thread, NULL, spin, (void *)cpu);
		if (errno)
			die("cannot start a thread");
	}
	pin(0);
	/* A CPU that does not run a thread of ours yet gets no IPI. */
	while (__atomic_load_n(&spinning, __ATOMIC_ACQUIRE) < cpus - 1)
		__builtin_ia32_pause();
	for (i = 0; i < WARMUP; i++)
		call();
	for (i = 0; i < calls && skipped < calls * MAX_TRIES; ) {
		long long before = ipis(), sent;

		took[i] = call();
		sent = ipis() - before;
		if (sent < cpus - 1) {
			skipped++;
			usleep(1000);
			continue;
		}
		total += sent;
		i++;
	}
	if (i < calls) {
		fprintf(stderr, "ipi-membarrier: %ld of %ld calls sent IPIs\n", i, i + skipped);
		return 1;
	}
	printf("{\"ipis\": %lld, \"skipped\": %ld, \"samples\": [", total, skipped);
	for (i = 0; i < calls; i++)
		printf("%s%lld", i ? ", " : "", took[i]);
	puts("]}");
	return 0;
}
