/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The latency benchmarks `ipi`, `exit`, `timer` and `kick`: what their guest
 * (latency-guest.c) and its host side (latency.c) share.  One operation at a
 * time is timed, each waited for, unlike in `post`.
 */
#ifndef BENCH_LATENCY_H
#define BENCH_LATENCY_H

#include <linux/types.h>

#include "post-guest.h"

#define LAT_VEC			0x28	/* below POST_VEC_FIRST */
#define LAT_MAX_VCPUS		20
#define LAT_MAX_XAPIC_MULTICAST	8	/* flat logical IDs */
#define LAT_MAX_X2APIC_MULTICAST 16	/* of a cluster */

/* What vCPU 0 times, in ticks of the guest's TSC */
enum lat_op {
	LAT_SELF,	/* IPI to itself: ICR write to the handler's entry */
	LAT_UNICAST,	/* IPI to vCPU 1, likewise */
	LAT_MULTICAST,	/* logical destination, to the last handler's entry */
	LAT_BROADCAST,	/* shorthand "all but self", likewise */
	LAT_CPUID,	/* round trip of an ordinary VM-Exit */
	LAT_ICR,	/* of one that KVM re-enters from at once: ICR write to nobody */
	LAT_TIMER,	/* TSC deadline to the handler's entry */
	LAT_IDLE,	/* nothing: vCPU 0 is a target, the host times its kicks */
	LAT_NR_OPS,
};

/* What the targets do meanwhile, or vCPU 0 while it waits for its timer */
enum lat_state {
	LAT_COMPUTE,
	LAT_EXITS,	/* CPUID after a random while */
	LAT_FASTPATH,	/* the same with ICR writes to nobody */
	LAT_HLT,
	LAT_NR_STATES,
};

struct lat_vcpu {
	u64 handled;	/* interrupts, or NMIs of a kick */
	u64 t_handled;	/* TSC at the last handler's entry */
	u64 asleep;	/* about to execute HLT, or in it */
} __aligned(128);

struct lat_shared {
	/* written by the host before the vCPUs start */
	u64 op, state;
	u64 xapic;
	u64 nr_targets;		/* vCPUs 1 ... */
	u64 warmup, samples;
	u64 gap_max;		/* ticks between two operations, 0 to that */
	u64 exit_gap_max;	/* ticks a target computes between its exits */
	u64 settle;		/* ticks that a target is given to fall asleep */
	u64 seed;
	u64 stall_ticks;	/* an operation that takes longer is lost */
	u64 buf;		/* GVA of u32[samples] */
	u64 starts;		/* GVA of u64[samples], when each began, or 0 */
	/* written by vCPU 0 */
	u64 taken __aligned(64);
	u64 started;		/* TSC ahead of the last LAT_CPUID, LAT_ICR */
	u64 backwards;		/* handled before it was sent: TSCs differ */
	u64 lost;
	u64 done;
	struct lat_vcpu vcpu[LAT_MAX_VCPUS];
};

struct ex_regs;

void lat_guest_main(struct post_shared *s, u64 vcpu);
void lat_guest_irq(struct ex_regs *regs);
void lat_guest_nmi(struct ex_regs *regs);

extern struct lat_shared *lat_guest_shared;

#endif /* BENCH_LATENCY_H */
