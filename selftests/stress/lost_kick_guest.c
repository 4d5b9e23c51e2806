// SPDX-License-Identifier: GPL-2.0
/* The guest of lost_kick_test.c's memory cases.  It never exits by itself. */
#include "kvm_util.h"
#include "processor.h"

#include "lost_kick.h"

#define COMPUTE_TICKS	2000

struct memory_shared *memory_shared;

static u64 *page(unsigned int n)
{
	return (u64 *)(MEMORY_GVA + n * 4096ul);
}

static void write_phase(struct memory_shared *m, u64 *rnd, u64 phase)
{
	u64 i, n = 1 + rnd_below(rnd, MAX_WRITES);

	for (i = 0; i < n; i++) {
		u16 target = rnd_below(rnd, MEMORY_PAGES);

		WRITE_ONCE(*page(target), phase);
		m->written[i] = target;
	}
	m->nr_writes = n;
	__atomic_store_n(&m->done, phase, __ATOMIC_RELEASE);
}

static void writer(struct post_shared *s, struct memory_shared *m)
{
	u64 rnd = rnd_stream(s->seed, 0);

	while (!READ_ONCE(s->stop)) {
		u64 phase = __atomic_load_n(&m->phase, __ATOMIC_ACQUIRE);

		if (phase != m->done)
			write_phase(m, &rnd, phase);
		post_guest_compute(s, COMPUTE_TICKS);
	}
}

static void reader(struct post_shared *s, struct memory_shared *m, u64 vcpu)
{
	while (!READ_ONCE(s->stop)) {
		u64 epoch = __atomic_load_n(&m->epoch, __ATOMIC_ACQUIRE);
		u64 seen = READ_ONCE(*page(0));

		if (seen < epoch) {
			m->reader[vcpu].stale++;
			if (epoch - seen > m->reader[vcpu].worst)
				m->reader[vcpu].worst = epoch - seen;
		}
		WRITE_ONCE(m->reader[vcpu].reads, m->reader[vcpu].reads + 1);
	}
}

void memory_guest_main(struct post_shared *s, u64 vcpu)
{
	struct memory_shared *m = memory_shared;

	post_guest_wait(s);
	if (m->job == JOB_READ)
		reader(s, m, vcpu);
	else if (!vcpu)
		writer(s, m);
	GUEST_DONE();
}
