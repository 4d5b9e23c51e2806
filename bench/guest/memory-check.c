// SPDX-License-Identifier: GPL-2.0
/*
 * Memory that the host takes away: fills MIB MiB, then visits all pages in an order
 * of its own, checks what is in each one, and writes something new. Threads as CPUs,
 * each with its part. Runs in L2, under pressure.sh's limit; called by its init. One
 * line of JSON: pages visited, those with wrong contents, seconds.
 *
 *   memory-check MIB ROUNDS
 *
 * Exit status: 0, 1 wrong contents or a failure, 2 wrong usage.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/sysinfo.h>
#include <time.h>

#define PAGE		4096
#define MAX_THREADS	16

static uint64_t *memory;
static uint64_t pages, rounds;
static unsigned int threads;

struct part {
	uint64_t first, nr, visited, wrong;
	pthread_t thread;
};

/* Of each word of a page, so that a page that is another one's is noticed, and a torn one */
static uint64_t value(uint64_t page, uint64_t round, uint64_t word)
{
	uint64_t z = page * 0x9e3779b97f4a7c15ull + round * 0xbf58476d1ce4e5b9ull + word;

	z = (z ^ (z >> 30)) * 0x94d049bb133111ebull;
	return z ^ (z >> 31);
}

static void fill(uint64_t page, uint64_t round)
{
	uint64_t *p = memory + page * (PAGE / 8);
	unsigned int i;

	for (i = 0; i < PAGE / 8; i++)
		p[i] = value(page, round, i);
}

static int is_right(uint64_t page, uint64_t round)
{
	const uint64_t *p = memory + page * (PAGE / 8);
	unsigned int i;

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

static void *visit(void *arg)
{
	struct part *p = arg;
	uint64_t stride = stride_of(p->nr), round, i, at, page;

	for (i = 0; i < p->nr; i++)
		fill(p->first + i, 0);
	for (round = 1; round <= rounds; round++) {
		for (i = 0, at = 0; i < p->nr; i++, at = (at + stride) % p->nr) {
			page = p->first + at;
			p->wrong += !is_right(page, round - 1);
			fill(page, round);
			p->visited++;
		}
	}
	return NULL;
}

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec + ts.tv_nsec / 1e9;
}

int main(int argc, char **argv)
{
	struct part parts[MAX_THREADS] = { 0 };
	uint64_t visited = 0, wrong = 0;
	double start = now();
	unsigned int i;

	if (argc != 3 || atoi(argv[1]) < 1 || atoi(argv[2]) < 1) {
		fprintf(stderr, "usage: memory-check MIB ROUNDS\n");
		return 2;
	}
	pages = strtoull(argv[1], NULL, 0) * (1 << 20) / PAGE;
	rounds = strtoull(argv[2], NULL, 0);
	threads = get_nprocs() < MAX_THREADS ? get_nprocs() : MAX_THREADS;
	memory = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED) {
		perror("memory-check: mmap");
		return 1;
	}
	for (i = 0; i < threads; i++) {
		parts[i].first = pages / threads * i;
		parts[i].nr = pages / threads;
		if (pthread_create(&parts[i].thread, NULL, visit, &parts[i])) {
			fprintf(stderr, "memory-check: no thread left\n");
			return 1;
		}
	}
	for (i = 0; i < threads; i++) {
		pthread_join(parts[i].thread, NULL);
		visited += parts[i].visited;
		wrong += parts[i].wrong;
	}
	printf("{\"mib\":%s,\"threads\":%u,\"visited\":%llu,\"wrong\":%llu,\"seconds\":%.2f}\n",
	       argv[1], threads, (unsigned long long)visited, (unsigned long long)wrong,
	       now() - start);
	return wrong ? 1 : 0;
}
