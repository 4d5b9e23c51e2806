/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the memory cases of lost_kick_test.c share with their guest,
 * lost_kick_guest.c.  Both vCPUs run memory_guest_main().
 */
#ifndef LOST_KICK_H
#define LOST_KICK_H

#include "post-guest.h"

#define MEMORY_GVA	0xc0000000ul
#define MEMORY_PAGES	512
#define MAX_WRITES	300	/* fewer than a page-modification log holds */

enum memory_job {
	JOB_WRITE,	/* vCPU 0: phases of writes, then computing */
	JOB_READ,	/* all: read the first page, never find an old epoch */
};

struct memory_shared {
	u64 job;
	/* JOB_WRITE: phase n is written when done == n, the next one begins at n + 1 */
	struct {
		u64 phase;
		u64 done;
		u64 nr_writes;
		u16 written[MAX_WRITES];
	} __aligned(64);
	/* JOB_READ: the host maps a page that holds n, then stores n to epoch */
	u64 epoch __aligned(64);
	struct {
		u64 reads, stale, worst;
	} __aligned(64) reader[2];
};

void memory_guest_main(struct post_shared *s, u64 vcpu);

extern struct memory_shared *memory_shared;

#endif /* LOST_KICK_H */
