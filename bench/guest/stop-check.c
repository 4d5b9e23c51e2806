// SPDX-License-Identifier: GPL-2.0
/*
 * Tasks that are stopped and traced while the host takes their memory away: a child reads a file
 * in tmpfs, page by page, and checks it; the parent stops and continues it by signals, and traces
 * it, time and again. Each stop has to be seen, and each continued child has to go on. Runs in L2
 * beside memory-check; called by its init. One line of JSON: stops by signal, by ptrace, pages
 * that the child has read, those with wrong contents.
 *
 *   stop-check MIB SECONDS
 *
 * Exit status: 0, 1 wrong contents, a stop that did not come, or a child that did not go on,
 * 2 wrong usage.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PAGE	4096
#define PATIENCE 60	/* seconds, for one stop, or for the child to go on */

static struct {
	uint64_t pages, wrong;
} *seen;		/* by the child */

static uint64_t value(uint64_t page)
{
	return (page + 1) * 0x9e3779b97f4a7c15ull;
}

static void child(int file, uint64_t pages)
{
	uint64_t copy[PAGE / 8], page = 0;

	for (;; page = (page + 61) % pages) {
		if (pread(file, copy, PAGE, page * PAGE) != PAGE || copy[0] != value(page) ||
		    copy[PAGE / 8 - 1] != value(page))
			__atomic_add_fetch(&seen->wrong, 1, __ATOMIC_RELAXED);
		__atomic_add_fetch(&seen->pages, 1, __ATOMIC_RELAXED);
	}
}

static void fail(const char *what)
{
	fprintf(stderr, "stop-check: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void has_stopped(pid_t pid, const char *what)
{
	static unsigned int nr;
	struct timespec a_moment = { .tv_nsec = nr++ % 16 ? 200000 : 20000000 };
	uint64_t before;
	int status;

	alarm(PATIENCE);
	if (waitpid(pid, &status, WUNTRACED | __WALL) != pid || !WIFSTOPPED(status))
		fail(what);
	alarm(0);
	before = __atomic_load_n(&seen->pages, __ATOMIC_RELAXED);
	nanosleep(&a_moment, NULL);
	if (__atomic_load_n(&seen->pages, __ATOMIC_RELAXED) != before)
		fail("a stopped child goes on");
}

/* It reads at least one more page. */
static void goes_on(void)
{
	uint64_t before = __atomic_load_n(&seen->pages, __ATOMIC_RELAXED);
	time_t end = time(NULL) + PATIENCE;
	struct timespec a_moment = { .tv_nsec = 1000000 };

	while (__atomic_load_n(&seen->pages, __ATOMIC_RELAXED) == before) {
		if (time(NULL) > end)
			fail("the child does not go on");
		nanosleep(&a_moment, NULL);
	}
}

int main(int argc, char **argv)
{
	uint64_t pages, page, stops = 0, traces = 0, copy[PAGE / 8];
	int file = memfd_create("stop-check", 0), i;
	time_t end;
	pid_t pid;

	if (argc != 3 || atoi(argv[1]) < 1 || atoi(argv[2]) < 1) {
		fprintf(stderr, "usage: stop-check MIB SECONDS\n");
		return 2;
	}
	pages = strtoull(argv[1], NULL, 0) * (1 << 20) / PAGE;
	seen = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (file < 0 || seen == MAP_FAILED)
		fail("no memory");
	for (page = 0; page < pages; page++) {
		for (i = 0; i < PAGE / 8; i++)
			copy[i] = value(page);
		if (write(file, copy, PAGE) != PAGE)
			fail("write");
	}
	end = time(NULL) + atoi(argv[2]);
	pid = fork();
	if (pid < 0)
		fail("fork");
	if (!pid)
		child(file, pages);
	while (time(NULL) < end) {
		if (kill(pid, SIGSTOP))
			fail("SIGSTOP");
		has_stopped(pid, "no stop by SIGSTOP");
		stops++;
		if (kill(pid, SIGCONT))
			fail("SIGCONT");
		goes_on();
		if (ptrace(PTRACE_ATTACH, pid, NULL, NULL))
			fail("PTRACE_ATTACH");
		has_stopped(pid, "no stop by ptrace");
		for (i = 0; i < 20; i++) {
			if (ptrace(PTRACE_SYSCALL, pid, NULL, NULL))
				fail("PTRACE_SYSCALL");
			has_stopped(pid, "no stop at a system call");
			traces++;
		}
		if (ptrace(PTRACE_DETACH, pid, NULL, NULL))
			fail("PTRACE_DETACH");
		goes_on();
	}
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	printf("{\"stops\":%llu,\"traced\":%llu,\"pages\":%llu,\"wrong\":%llu}\n",
	       (unsigned long long)stops, (unsigned long long)traces,
	       (unsigned long long)seen->pages, (unsigned long long)seen->wrong);
	return seen->wrong ? 1 : 0;
}
