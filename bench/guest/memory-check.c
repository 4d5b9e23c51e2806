// SPDX-License-Identifier: GPL-2.0
/*
 * Memory that the host takes away: fills MIB MiB, then visits all pages in an order
 * of its own, checks what is in each one, and writes something new: in user mode, or in
 * kernel mode, as the pages of a file in tmpfs that are read and written. Or programs do,
 * that a shell starts in each round: the file through a pipe, in order, to one that makes a
 * sum of it, which has to be what the first one was. A thread on each CPU, with its part of
 * the pages; and, with BYSTANDERS 1, one more that computes meanwhile, and one that gets a
 * request every PERIOD microseconds. Runs in L2, under pressure.sh's limit; called by its init.
 * One line of JSON: pages visited, those with wrong contents, seconds from when all pages are
 * filled to when the first thread is done, rounds of computing in these; and of the requests how
 * many there were, and the microseconds from when one was due to when it was done (p50, p99).
 *
 *   memory-check MIB ROUNDS [user|kernel|programs [BYSTANDERS]]
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
#include <sys/sysinfo.h>
#include <time.h>
#include <unistd.h>

#define PAGE		4096
#define MAX_THREADS	16
#define PERIOD		20000	/* us */
#define MAX_REQUESTS	65536	/* of a CPU */

static uint64_t *memory;	/* user mode */
static int file = -1;		/* kernel mode */
static int programs;
static uint64_t pages, rounds;
static unsigned int threads;
static int bystanders, done;
static double begin, end;
static pthread_barrier_t filled;

struct part {
	unsigned int cpu;
	uint64_t first, nr, visited, wrong;
	pthread_t thread;
	uint64_t computed;
	pthread_t bystander;
	uint32_t took[MAX_REQUESTS], requests;
	pthread_t server;
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

/* What programs say of the part, 32 digits */
static void digest(const struct part *p, char *text)
{
	char command[128];
	FILE *pipe;

	snprintf(command, sizeof(command),
		 "set -o pipefail; dd bs=4k skip=%llu count=%llu if=/proc/%d/fd/%d 2>/dev/null | md5sum",
		 (unsigned long long)p->first, (unsigned long long)p->nr, getpid(), file);
	pipe = popen(command, "r");
	if (!pipe || fscanf(pipe, "%32s", text) != 1 || pclose(pipe)) {
		fprintf(stderr, "memory-check: dd | md5sum: failed\n");
		exit(1);
	}
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

/* A thousand steps */
static void one_round(uint64_t *x)
{
	unsigned int i;

	for (i = 0; i < 1000; i++)
		*x = *x * 6364136223846793005ull + 1442695040888963407ull;
	__asm__ volatile("" : : "r" (*x));
}

static void *compute(void *arg)
{
	struct part *p = arg;
	uint64_t x = p->cpu + 1, n = 0;

	stay_on(p->cpu);
	wait_for_others();
	while (!__atomic_load_n(&done, __ATOMIC_RELAXED)) {
		one_round(&x);
		n++;
	}
	p->computed = n;
	return NULL;
}

/* One that is late does not put off when the next ones are due. */
static void *serve(void *arg)
{
	struct part *p = arg;
	uint64_t x = p->cpu + 1, due;
	struct timespec at;
	unsigned int i;

	stay_on(p->cpu);
	wait_for_others();
	clock_gettime(CLOCK_MONOTONIC, &at);
	for (due = at.tv_sec * 1000000ull + at.tv_nsec / 1000; p->requests < MAX_REQUESTS;) {
		due += PERIOD;
		at = (struct timespec){ due / 1000000, due % 1000000 * 1000 };
		clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL);
		if (__atomic_load_n(&done, __ATOMIC_RELAXED))
			break;
		for (i = 0; i < 10; i++)
			one_round(&x);
		p->took[p->requests++] = now() * 1e6 - due;
	}
	return NULL;
}

static int compare(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return (x > y) - (x < y);
}

/* Of @nr sorted ones, by nearest rank */
static unsigned int percentile(const uint32_t *took, unsigned int nr, unsigned int percent)
{
	return nr ? took[(nr * percent + 99) / 100 - 1] : 0;
}

static void print_requests(const struct part *parts)
{
	static uint32_t all[MAX_THREADS * MAX_REQUESTS];
	unsigned int i, nr = 0;

	for (i = 0; i < threads; i++) {
		memcpy(all + nr, parts[i].took, parts[i].requests * sizeof(*all));
		nr += parts[i].requests;
	}
	qsort(all, nr, sizeof(*all), compare);
	printf("\"requests\":%u,\"request_p50\":%u,\"request_p99\":%u,", nr,
	       percentile(all, nr, 50), percentile(all, nr, 99));
}

static void *visit(void *arg)
{
	struct part *p = arg;
	uint64_t stride = stride_of(p->nr), round, i, at, page;
	char first[33] = "", text[33] = "";

	stay_on(p->cpu);
	for (i = 0; i < p->nr; i++)
		fill(p->first + i, 0);
	for (i = 0; programs && i < p->nr; i++)
		p->wrong += !is_right(p->first + i, 0);
	if (programs)
		digest(p, first);
	wait_for_others();
	for (round = 1; round <= rounds; round++) {
		if (programs) {
			digest(p, text);
			p->wrong += strcmp(text, first) ? p->nr : 0;
			p->visited += p->nr;
			continue;
		}
		for (i = 0, at = 0; i < p->nr; i++, at = (at + stride) % p->nr) {
			page = p->first + at;
			p->wrong += !is_right(page, round - 1);
			fill(page, round);
			p->visited++;
		}
	}
	if (!__atomic_exchange_n(&done, 1, __ATOMIC_SEQ_CST))
		end = now();
	return NULL;
}

static int wrong_usage(void)
{
	fprintf(stderr, "usage: memory-check MIB ROUNDS [user|kernel|programs [BYSTANDERS]]\n");
	return 2;
}

/* The memory, or the file that it is: 0, or -1 and errno */
static int get_memory(int in_file)
{
	if (in_file) {
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
	       (bystanders && (pthread_create(&p->bystander, NULL, compute, p) ||
			       pthread_create(&p->server, NULL, serve, p)));
}

int main(int argc, char **argv)
{
	static struct part parts[MAX_THREADS];
	static struct part sum;
	const char *mode = argc > 3 ? argv[3] : "user";
	int kernel = !strcmp(mode, "kernel");
	unsigned int i;

	programs = !strcmp(mode, "programs");
	if (argc < 3 || argc > 5 || atoi(argv[1]) < 1 || atoi(argv[2]) < 1 ||
	    (!kernel && !programs && strcmp(mode, "user")))
		return wrong_usage();
	pages = strtoull(argv[1], NULL, 0) * (1 << 20) / PAGE;
	rounds = strtoull(argv[2], NULL, 0);
	bystanders = argc > 4 && atoi(argv[4]) > 0;
	threads = get_nprocs() < MAX_THREADS ? get_nprocs() : MAX_THREADS;
	if (get_memory(kernel || programs)) {
		perror("memory-check: no memory");
		return 1;
	}
	pthread_barrier_init(&filled, NULL, threads * (bystanders ? 3 : 1));
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
		if (bystanders) {
			pthread_join(parts[i].bystander, NULL);
			pthread_join(parts[i].server, NULL);
		}
		sum.visited += parts[i].visited;
		sum.wrong += parts[i].wrong;
		sum.computed += parts[i].computed;
	}
	printf("{\"mib\":%s,\"mode\":\"%s\",\"threads\":%u,", argv[1], mode, threads);
	printf("\"visited\":%llu,\"wrong\":%llu,", (unsigned long long)sum.visited,
	       (unsigned long long)sum.wrong);
	printf("\"seconds\":%.2f,", end - begin);
	if (bystanders)
		print_requests(parts);
	printf("\"computed\":%llu}\n", (unsigned long long)sum.computed);
	return sum.wrong ? 1 : 0;
}
