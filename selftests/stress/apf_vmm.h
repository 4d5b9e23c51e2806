/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What apf_vmm_test.c shares with its guest, apf_vmm_guest.c.  The guest says where
 * it is, which is an exit to userspace, and goes on when its host lets it.
 */
#ifndef APF_VMM_H
#define APF_VMM_H

#include "apf_step.h"

enum vmm_script {
	VMM_EVENT,		/* one page announced, its event awaited */
	VMM_HLT_EVENT,		/* the same in HLT */
	VMM_ENABLED_BY_HOST,
	VMM_RESTORED,
	VMM_HLT,		/* apf_vmm.how: VMM_HLT_*; nothing that ends it */
	VMM_INIT,
	VMM_KEEP,		/* the guest never touches its area */
	VMM_DIRTY,
	VMM_ACKS,
	VMM_VECTORS,
	VMM_TWICE,
	VMM_BOTH,		/* two pages at once */
	VMM_HALTED,		/* a page of which KVM may not tell the guest */
};

enum vmm_hlt {
	VMM_HLT_TOKEN_LEFT,
	VMM_HLT_NO_VECTOR,
	VMM_HLT_LAPIC_OFF,
	VMM_HLT_CLI,
	VMM_HLT_TPR,
	VMM_NR_HLT,
};

/* The guest says */
enum vmm_say {
	VMM_READY = APF_ASK_OWN,
	VMM_ANNOUNCED,
	VMM_DONE,
};

/* What the handler of page-ready interrupts does */
enum vmm_handler {
	VMM_TAKE,		/* take the token, clear it, ACK */
	VMM_LEAVE,		/* nothing of these */
};

struct apf_vmm {
	struct step_guest step;

	/* written by the host, at any time */
	u64 script;
	u64 how;
	u64 handler;		/* enum vmm_handler */
	u64 page;		/* the next one to be touched */
	u64 want_wakes, want_ready;

	/* written by the guest */
	u64 irqs, wakes, ready;
	u64 empty;		/* interrupts without a token */
	u64 unknown;		/* tokens of no outstanding page */
	u64 early;		/* vectors below 32 that came as interrupts */
	u64 announced;
	u64 acks;
	u64 hlts;		/* returns of HLT */
	u64 nmis, nested;	/* NMIs, and #PFs of their handlers */
	u64 nmis_done;
	u64 between;		/* NMIs that found an announcement unread */
	u64 misread;		/* a #PF taken for one of another kind */
	u64 lives;
	u64 vector;		/* the MSR, after an INIT */
	u64 vectors_refused;
	u64 token;		/* the last one that was announced */
	u64 nr_out;
	u32 out[APF_MAX_OUT];
};

struct ex_regs;

/* A page that the guest's page tables do not have */
#define VMM_HOLE_GVA	0x30000000ull

void apf_vmm_main(u64 vcpu);
void apf_vmm_fault(struct ex_regs *regs);
void apf_vmm_ready(struct ex_regs *regs);
void apf_vmm_nmi(struct ex_regs *regs);
void apf_vmm_early(struct ex_regs *regs);
/* With apf_guest_main(), under NMIs whose handler faults */
void apf_vmm_storm_fault(struct ex_regs *regs);
void apf_vmm_storm_nmi(struct ex_regs *regs);

extern struct apf_vmm *apf_vmm;

#endif /* APF_VMM_H */
