// SPDX-License-Identifier: GPL-2.0
/*
 * A page that the host has lost for good: fills FILE, which lies in memory that the host will
 * cut the end off (lost-page.sh), and accesses its last page until that is gone: in user mode,
 * where SIGBUS tells, and in the kernel, by system calls that return an error then. A thread
 * computes meanwhile and checks its own memory. Runs in L2; called by its init. One line of
 * JSON: where SIGBUS said that it was, what the system calls said, how often the bystander's
 * memory was right and wrong, and pages of the half that is still there that were wrong.
 *
 *   lost-page FILE
 *
 * Exit status: 0, 1 the page was not lost in time, or nothing told of it, 2 wrong usage.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define PAGE		4096
#define SECONDS		60

static uint64_t *map;
static uint64_t pages, right, wrong;
static int done;
static sigjmp_buf lost;
static siginfo_t told;

static uint64_t value(uint64_t page)
{
	return (page + 1) * 0x9e3779b97f4a7c15ull;
}

static void on_sigbus(int number, siginfo_t *info, void *context)
{
	(void)number;
	(void)context;
	told = *info;
	siglongjmp(lost, 1);
}

static void *compute(void *arg)
{
	static uint64_t own[64][PAGE / 8];
	uint64_t round, i;

	(void)arg;
	for (round = 1; !__atomic_load_n(&done, __ATOMIC_RELAXED); round++) {
		for (i = 0; i < 64; i++)
			own[i][0] = value(i + round);
		for (i = 0; i < 64; i++) {
			if (__atomic_load_n(&own[i][0], __ATOMIC_RELAXED) == value(i + round))
				right++;
			else
				wrong++;
		}
	}
	return NULL;
}

static int fill(const char *name)
{
	int file = open(name, O_RDWR);
	struct stat st;
	uint64_t page;

	if (file < 0 || fstat(file, &st))
		return -1;
	pages = st.st_size / PAGE;
	map = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	if (map == MAP_FAILED)
		return -1;
	for (page = 0; page < pages; page++)
		map[page * (PAGE / 8)] = value(page);
	return file;
}

/* 0, or that there was no signal in SECONDS */
static int wait_for_signal(void)
{
	struct sigaction action = { .sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO };
	struct timespec a_moment = { .tv_nsec = 1000000 };
	time_t end = time(NULL) + SECONDS;

	sigaction(SIGBUS, &action, NULL);
	if (sigsetjmp(lost, 1))
		return 0;
	while (time(NULL) < end) {
		(void)__atomic_load_n(&map[(pages - 1) * (PAGE / 8)], __ATOMIC_RELAXED);
		nanosleep(&a_moment, NULL);
	}
	return -1;
}

static const char *place(void)
{
	uint64_t last = (uintptr_t)map + (pages - 1) * PAGE, at = (uintptr_t)told.si_addr;

	if (told.si_code == SI_KERNEL)
		return "unknown";
	return told.si_code == BUS_ADRERR && at >= last && at < last + PAGE ? "right" : "wrong";
}

static const char *said(ssize_t got)
{
	return got < 0 ? strerrorname_np(errno) : got == PAGE ? "nothing" : "less";
}

int main(int argc, char **argv)
{
	const char *by_read, *by_write, *from, *to;
	static char copy[PAGE];
	uint64_t page, bad = 0;
	pthread_t bystander;
	int file, pipes[2];
	void *last;

	if (argc != 2) {
		fprintf(stderr, "usage: lost-page FILE\n");
		return 2;
	}
	file = fill(argv[1]);
	if (file < 0 || pipe(pipes) || pthread_create(&bystander, NULL, compute, NULL)) {
		perror("lost-page");
		return 1;
	}
	printf("GUEST lost-page ready\n");
	fflush(stdout);
	if (wait_for_signal()) {
		fprintf(stderr, "lost-page: no SIGBUS in %u s\n", SECONDS);
		return 1;
	}
	last = (char *)map + (pages - 1) * PAGE;
	by_read = said(pread(file, copy, PAGE, (pages - 1) * PAGE));
	by_write = said(pwrite(file, copy, PAGE, (pages - 1) * PAGE));
	from = said(write(pipes[1], last, PAGE));
	if (write(pipes[1], copy, PAGE) != PAGE)
		return 1;
	to = said(read(pipes[0], last, PAGE));
	__atomic_store_n(&done, 1, __ATOMIC_RELAXED);
	pthread_join(bystander, NULL);
	for (page = 0; page < pages / 2; page++)
		bad += map[page * (PAGE / 8)] != value(page);
	printf("GUEST lost-page {\"sigbus\":\"%s\",", place());
	printf("\"read\":\"%s\",\"write\":\"%s\",", by_read, by_write);
	printf("\"from\":\"%s\",\"to\":\"%s\",", from, to);
	printf("\"bystander_right\":%llu,\"bystander_wrong\":%llu,", (unsigned long long)right,
	       (unsigned long long)wrong);
	printf("\"left\":%llu,\"left_wrong\":%llu}\n", (unsigned long long)(pages / 2),
	       (unsigned long long)bad);
	return wrong || bad;
}
