/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The VM of the `post` guest (post-guest.c): set up, vCPU threads, host threads that
 * post as well, waiting for the end, stopping.  One VM at a time in a program.
 */
#ifndef POST_VM_H
#define POST_VM_H

#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/resource.h>

#include "kvm_util.h"

#include "messages.h"
#include "post-guest.h"

#define NO_VALUE	(-1ll)	/* not there, not measurable: null in JSON */
#define POST_MAX_VCPUS	(POST_MAX_SENDERS + 1)
#define POST_SIGNAL	SIGUSR1	/* ends KVM_RUN with EINTR, sets immediate_exit */

struct post_vm;

struct post_setup {
	const char *name;		/* for messages */
	enum post_workload workload;
	unsigned int senders;		/* vCPUs 1 ..., by ICR writes */
	unsigned int host_senders;	/* threads, by KVM_SIGNAL_MSI */
	bool irqfd;			/* by eventfds with MSI routes instead, as vhost does */
	bool timer;			/* no other sender: the target's TSC deadline timer */
	unsigned int target_cpu;	/* the first of the CPUs that threads are pinned to */
	bool host_requests;		/* the caller makes requests, see POST_HOST_OP */
	u64 posts;			/* over all senders */
	u64 seed;
	u64 gap_min, gap_max;		/* ticks between a sender's posts */
	u64 exit_gap_max;		/* ticks the target computes between operations */
	u64 late_bound;			/* 0: by vendor */
	u64 long_ticks;			/* 0: four times late_bound */
	u64 long_every;
	u64 gap_cap;			/* 0: a tenth of late_bound */
	u64 stall_ms, timeout_s;
	unsigned int fastpath_ops;	/* POST_FP_* that re-enter on this host */
	bool no_samples;		/* keep no latencies */
	bool unpinned;			/* leave vCPU threads to the scheduler */
	void (*progress)(struct post_vm *p, u64 posted, u64 elapsed_ms);
	/* Another guest, called like post_guest_main(), or NULL */
	void (*guest_main)(struct post_shared *s, u64 vcpu);
	/* On a vCPU's thread, after each return of KVM_RUN, or NULL */
	void (*returned)(struct post_vm *p, unsigned int vcpu);
	/* An exit to userspace: true if it was the caller's, and is handled */
	bool (*exited)(struct post_vm *p, unsigned int vcpu);
};

struct post_thread {
	struct post_vm *p;
	unsigned int i;			/* vCPU, or host sender */
	struct kvm_vcpu *vcpu;
	pthread_t thread;
	unsigned int cpu;
	bool ended;
	struct rusage usage;
};

struct post_vm {
	struct post_setup cfg;
	struct kvm_vm *vm;
	struct post_shared *s;		/* the host's view */
	u32 *buf[POST_MAX_SENDERS];	/* latencies of each sender */
	unsigned int nr_vcpus, nr_senders;
	struct post_thread t[POST_MAX_VCPUS];
	struct post_thread host[POST_MAX_SENDERS];
	struct post_thread ticker;	/* with a timer */
	int irqfd[256];			/* by vector */
};

/* What became of the posts */
struct post_count {
	u64 posted, delivered, lost, doubled, stalled;
	struct post_result res;
};

/* VM and guest memory; @pages more for the caller. Nothing runs yet. */
void post_vm_create(struct post_vm *p, const struct post_setup *cfg, u64 pages);
/* All threads up and waiting; then go. */
void post_vm_start(struct post_vm *p);
void post_vm_go(struct post_vm *p);
/* Until every sender is done, or nothing moves for ten times stall_ms (dies). */
void post_vm_wait(struct post_vm *p);
/* Until everything posted is handled, stall_ms at most. */
void post_vm_drain(struct post_vm *p);
/* Posted and delivered now; what is delivered later does not count. */
void post_vm_account(struct post_vm *p, struct post_count *c);
/* Stop and join all threads; then what the account misses: late ones. */
void post_vm_stop(struct post_vm *p);
void post_vm_harvest(struct post_vm *p, struct post_count *c);
void post_vm_free(struct post_vm *p);

u64 now_ms(void);
void sleep_ms(unsigned int ms);

#endif /* POST_VM_H */
