// SPDX-License-Identifier: GPL-2.0
/*
 * Memory that the host takes away: fills MIB MiB, then visits all pages in an order
 * of its own, checks what is in each one, and writes something new: in user mode, or in
 * kernel mode, as the pages of a file in tmpfs that are read and written. A thread on
 * each CPU, with its part of the pages; and, with BYSTANDERS 1, one more that computes
 * meanwhile. Runs in L2, under pressure.sh's limit; called by its init. One line of JSON:
 * pages visited, those with wrong contents, seconds from when all pages are filled to when
 * the first thread is done, rounds of computing in these, and how often the threads that
 * visit were switched from because they slept, and because others ran.
 *
 *   memory-check MIB ROUNDS [user|kernel [BYSTANDERS]]
 *
 * Exit status: 0, 1 wrong contents or a failure, 2 wrong usage.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/sysinfo.h>
#include <time.h>
#include <unistd.h>

#define PAGE		4096
#define MAX_THREADS	16

static uint64_t *memory;	/* user mode */
static int file = -1;		/* kernel mode */
static uint64_t pages, rounds;
static unsigned int threads;
static int bystanders, done;
static double begin, end;
static pthread_barrier_t filled;

struct part {
	unsigned int cpu;
	uint64_t first, nr, visited, wrong, slept, preempted;
	pthread_t thread;
	uint64_t computed;
	pthread_t bystander;
} __attribute__((aligned(64)));

/* Of each word of a page, so that a page that is another one's is noticed, and a torn one */
static uint64_t value(uint64_t page, uint64_t round, uint64_t word)
{
	uint64_t z = page * 0x9e3779b97f4a7c15ull + round * 0xbf58476d1ce4e5b9ull + word;

	z = (z ^ (z >> 30)) * 0x94d049bb133111ebull;
	return z ^ (z >> 31);
}

static void fill(uint64_t page, uint64_t round)
{
	uint64_t copy[PAGE / 8], *p = file < 0 ? memory + page * (PAGE / 8) : copy;
	unsigned int i;

	for (i = 0; i < PAGE / 8; i++)
		p[i] = value(page, round, i);
	if (file >= 0 && pwrite(file, copy, PAGE, page * PAGE) != PAGE) {
		perror("memory-check: pwrite");
		exit(1);
	}
}

static int is_right(uint64_t page, uint64_t round)
{
	uint64_t copy[PAGE / 8], *p = file < 0 ? memory + page * (PAGE / 8) : copy;
	unsigned int i;

	if (file >= 0 && pread(file, copy, PAGE, page * PAGE) != PAGE)
		return 0;
	for (i = 0; i < PAGE / 8; i++)
		if (p[i] != value(page, round, i))
			return 0;
	return 1;
}

/* Each page once in a round: a stride that has no divisor in common with @nr */
static uint64_t stride_of(uint64_t nr)
{
	uint64_t stride = nr * 5 / 8 | 1, a, b, t;

	for (;; stride += 2) {
		for (a = stride, b = nr; b; t = a % b, a = b, b = t)
			;
		if (a == 1)
			return stride;
	}
}

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec + ts.tv_nsec / 1e9;
}

static void stay_on(unsigned int cpu)
{
	double end = now() + 10;
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	/* CPUs may come and go. */
	while (sched_setaffinity(0, sizeof(set), &set)) {
		if (now() > end) {
			perror("memory-check: sched_setaffinity");
			exit(1);
		}
		usleep(10000);
	}
}

static void wait_for_others(void)
{
	if (pthread_barrier_wait(&filled) == PTHREAD_BARRIER_SERIAL_THREAD)
		begin = now();
}

static void *compute(void *arg)
{
	struct part *p = arg;
	uint64_t x = p->cpu + 1, n = 0;
	unsigned int i;

	stay_on(p->cpu);
	wait_for_others();
	while (!__atomic_load_n(&done, __ATOMIC_RELAXED)) {
		for (i = 0; i < 1000; i++)
			x = x * 6364136223846793005ull + 1442695040888963407ull;
		__asm__ volatile("" : : "r" (x));
		n++;
	}
	p->computed = n;
	return NULL;
}

static void *visit(void *arg)
{
	struct part *p = arg;
	uint64_t stride = stride_of(p->nr), round, i, at, page;
	struct rusage before, after;

	stay_on(p->cpu);
	for (i = 0; i < p->nr; i++)
		fill(p->first + i, 0);
	wait_for_others();
	getrusage(RUSAGE_THREAD, &before);
	for (round = 1; round <= rounds; round++) {
		for (i = 0, at = 0; i < p->nr; i++, at = (at + stride) % p->nr) {
			page = p->first + at;
			p->wrong += !is_right(page, round - 1);
			fill(page, round);
			p->visited++;
		}
	}
	getrusage(RUSAGE_THREAD, &after);
	if (!__atomic_exchange_n(&done, 1, __ATOMIC_SEQ_CST))
		end = now();
	p->slept = after.ru_nvcsw - before.ru_nvcsw;
	p->preempted = after.ru_nivcsw - before.ru_nivcsw;
	return NULL;
}

static int wrong_usage(void)
{
	fprintf(stderr, "usage: memory-check MIB ROUNDS [user|kernel [BYSTANDERS]]\n");
	return 2;
}

/* The memory, or the file that it is: 0, or -1 and errno */
static int get_memory(int kernel)
{
	if (kernel) {
		file = memfd_create("memory-check", 0);
		return file < 0 ? -1 : ftruncate(file, pages * PAGE);
	}
	memory = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	return memory == MAP_FAILED ? -1 : 0;
}

static int start(struct part *p)
{
	return pthread_create(&p->thread, NULL, visit, p) ||
	       (bystanders && pthread_create(&p->bystander, NULL, compute, p));
}

int main(int argc, char **argv)
{
	static struct part parts[MAX_THREADS];
	struct part sum = { 0 };
	const char *mode = argc > 3 ? argv[3] : "user";
	int kernel = !strcmp(mode, "kernel");
	unsigned int i;

	if (argc < 3 || argc > 5 || atoi(argv[1]) < 1 || atoi(argv[2]) < 1 ||
	    (!kernel && strcmp(mode, "user")))
		return wrong_usage();
	pages = strtoull(argv[1], NULL, 0) * (1 << 20) / PAGE;
	rounds = strtoull(argv[2], NULL, 0);
	bystanders = argc > 4 && atoi(argv[4]) > 0;
	threads = get_nprocs() < MAX_THREADS ? get_nprocs() : MAX_THREADS;
	if (get_memory(kernel)) {
		perror("memory-check: no memory");
		return 1;
	}
	pthread_barrier_init(&filled, NULL, threads * (bystanders + 1));
	for (i = 0; i < threads; i++) {
		parts[i].cpu = i;
		parts[i].first = pages / threads * i;
		parts[i].nr = pages / threads;
		if (start(&parts[i])) {
			fprintf(stderr, "memory-check: no thread left\n");
			return 1;
		}
	}
	for (i = 0; i < threads; i++) {
		pthread_join(parts[i].thread, NULL);
		if (bystanders)
			pthread_join(parts[i].bystander, NULL);
		sum.visited += parts[i].visited;
		sum.wrong += parts[i].wrong;
		sum.slept += parts[i].slept;
		sum.preempted += parts[i].preempted;
		sum.computed += parts[i].computed;
	}
	printf("{\"mib\":%s,\"mode\":\"%s\",\"threads\":%u,", argv[1], mode, threads);
	printf("\"visited\":%llu,\"wrong\":%llu,", (unsigned long long)sum.visited,
	       (unsigned long long)sum.wrong);
	printf("\"seconds\":%.2f,\"computed\":%llu,", end - begin,
	       (unsigned long long)sum.computed);
	printf("\"slept\":%llu,\"preempted\":%llu}\n", (unsigned long long)sum.slept,
	       (unsigned long long)sum.preempted);
	return sum.wrong ? 1 : 0;
}
