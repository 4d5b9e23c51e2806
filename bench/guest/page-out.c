// SPDX-License-Identifier: GPL-2.0
/*
 * page-out PID MILLISECONDS: has the kernel take its memory away from a VMM, process PID: all of
 * its greatest mapping, so often, until it ends.  What is hot goes too, which a memory cgroup's
 * limit would leave.  Twice each time: what is still written then stays for those who access it.
 * Needs swap, and CAP_SYS_NICE; called by boot.sh.
 * Prints one line of JSON: how often ("rounds").
 *
 * Exit status: 0, 1 it cannot, 2 wrong usage
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define WRITTEN_MS	100	/* after which a page is in swap, on a disk that is not slower */

static void die(const char *what)
{
	fprintf(stderr, "page-out: %s: %s\n", what, strerror(errno));
	exit(1);
}

/* Of length 0 if there is none */
static struct iovec greatest_mapping(int pid)
{
	struct iovec found = {};
	unsigned long from, to;
	char path[64], line[512], rights[5];
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/maps", pid);
	file = fopen(path, "r");
	if (!file)
		return found;		/* it has ended */
	while (fgets(line, sizeof(line), file)) {
		if (sscanf(line, "%lx-%lx %4s", &from, &to, rights) == 3 &&
		    !strncmp(rights, "rw", 2) && to - from > found.iov_len)
			found = (struct iovec){ (void *)from, to - from };
	}
	fclose(file);
	return found;
}

static void sleep_ms(long ms)
{
	struct timespec time = { ms / 1000, ms % 1000 * 1000000 };

	nanosleep(&time, NULL);
}

int main(int argc, char **argv)
{
	unsigned long calls;
	struct iovec memory;
	int fd, pid;
	long ms;

	if (argc != 3 || atoi(argv[1]) <= 0 || atol(argv[2]) <= 0) {
		fprintf(stderr, "usage: page-out PID MILLISECONDS\n");
		return 2;
	}
	pid = atoi(argv[1]);
	ms = atol(argv[2]);
	fd = syscall(SYS_pidfd_open, pid, 0);
	if (fd < 0)
		die("pidfd_open");
	for (calls = 0;; calls++) {
		sleep_ms(calls % 2 ? WRITTEN_MS : ms);
		/* QEMU maps the guest's memory when it has begun, and no greater one later. */
		memory = greatest_mapping(pid);
		if (!memory.iov_len)
			break;
		if (syscall(SYS_process_madvise, fd, &memory, 1, MADV_PAGEOUT, 0) < 0) {
			if (errno == ESRCH)
				break;
			die("process_madvise");
		}
	}
	printf("{\"rounds\":%lu}\n", calls / 2);
	return 0;
}
