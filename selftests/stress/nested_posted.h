/* SPDX-License-Identifier: GPL-2.0 */
/* What nested_posted_test.c and its guest, nested_posted_guest.c, share. */
#ifndef NESTED_POSTED_H
#define NESTED_POSTED_H

#include <stdbool.h>

#include "post-guest.h"

/* How interrupts get through to the target vCPU while it runs L2 */
enum nested_mode {
	VMX_EXIT,	/* VM-Exit to L1, which then takes them by its IDT */
	VMX_ACK,	/* the same, acknowledged on exit, dispatched by L1 */
	VMX_DIRECT,	/* not intercepted: by L2's IDT */
	VMX_POSTED,	/* to L2, by its own descriptor */
	VMX_BOTH,	/* the same, and to L1 like VMX_ACK */
	SVM_MASKING,	/* #VMEXIT to L1 whatever L2's IF is */
	SVM_EXIT,	/* #VMEXIT to L1 if L2's IF is set */
	SVM_DIRECT,	/* not intercepted: by L2's IDT */
	NR_NESTED_MODES,
	NR_VMX_MODES = SVM_MASKING,
};

/* L1's notification vector for L2's descriptor, above those that are posted */
#define NESTED_NV	0xf4

static inline bool nested_has_pi(u64 mode)
{
	return mode == VMX_POSTED || mode == VMX_BOTH;
}

/* L1's posted-interrupt descriptor for L2 */
struct nested_pi {
	u64 pir[4];
	u64 control;		/* bit 0: ON */
	u64 reserved[3];
} __aligned(64);

struct nested_shared {
	u64 mode;
	u64 stop;
	u64 pages;		/* struct vmx_pages or svm_test_data, GVA */
	u8 *vapic;		/* L2's virtual-APIC page */
	u64 vapic_gpa;
	struct nested_pi *pi;
	u64 pi_gpa;

	/* written by the target */
	u64 entries;		/* VMLAUNCH, VMRESUME, VMRUN */
	u64 hypercalls, cpuids;	/* exits of L2's own making */
	u64 intr_exits;
	u64 in_l1, in_l2;	/* interrupts, by who handled them */
	u64 nv_in_l1;		/* notifications that found L1 running */
	u64 synced;		/* vectors that L1 moved from the PIR */
	u64 stack[512] __aligned(16);
};

/* vCPU 0 */
void nested_target(struct post_shared *s, u64 vcpu);
/* A sender vCPU where nested_has_pi(): sets the PIR, ON, sends the notification */
void nested_pi_sender(struct post_shared *s, u64 vcpu);
void nested_irq(struct ex_regs *regs);
void nested_nv_irq(struct ex_regs *regs);

extern struct nested_shared *nested_shared;

#endif /* NESTED_POSTED_H */
