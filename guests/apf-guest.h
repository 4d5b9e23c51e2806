/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A guest that uses asynchronous page faults, and the VM around it: memory behind
 * userfaultfd, whose pages come when the host gives them.
 *
 * The guest touches one page after the other.  A page that is not there is
 * announced by a #PF with a token; the guest goes on and comes back when the
 * token has returned with an interrupt.  Each token is accounted for.
 */
#ifndef APF_GUEST_H
#define APF_GUEST_H

#include <linux/bits.h>
#include <linux/types.h>

#include "post-guest.h"

#define APF_VEC		0xec
#define APF_MAX_OUT	64	/* what KVM has outstanding per vCPU, at most */
#define APF_MAX_VCPUS	4
#define APF_WAKE_ALL	(~0u)
#define APF_PORT	0x5e1	/* the guest's requests to its host, enum apf_ask */

/* What the guest does to the mechanism between its touches, a mask */
#define APF_DO_TOGGLE	BIT(0)	/* disable it, enable it again */
#define APF_DO_MOVE	BIT(1)	/* name another area */
#define APF_DO_LAPIC	BIT(2)	/* local APIC off by software for a while */
#define APF_DO_MASK	BIT(3)	/* IRQs off for a while */
#define APF_DO_GARBAGE	BIT(4)	/* a value of its own in the token's place */
#define APF_DO_LATE_ACK	BIT(5)	/* clear the token, ACK it later */
#define APF_DO_ACK_FIRST BIT(6)	/* ACK, clear the token, ACK again */
#define APF_DO_HALT	BIT(7)	/* wait in HLT, not computing */
#define APF_DO_EXITS	BIT(8)	/* CPUID while waiting */
/* The same with its host's help, see apf_ask */
#define APF_DO_REMOVE	BIT(9)
#define APF_DO_PROTECT	BIT(10)
#define APF_DO_DIRTY	BIT(11)
#define APF_DO_HOST_MSRS BIT(12)
#define APF_DO_HOST_OFF	BIT(13)
#define APF_DO_EVENTS	BIT(14)
#define APF_DO_RESET	BIT(15)
#define APF_DO_INIT	BIT(16)
#define APF_DO_SMI	BIT(17)
#define APF_NR_DO	18

enum apf_ask {
	APF_ASK_ROUND = 1,	/* all pages were touched: take them away again */
	APF_ASK_REMOVE,		/* the memslot of the areas */
	APF_ASK_ADD,
	APF_ASK_PROTECT,	/* the host's mapping of the areas, read-only */
	APF_ASK_UNPROTECT,
	APF_ASK_LOG,		/* dirty logging of the areas' memslot */
	APF_ASK_UNLOG,
	APF_ASK_MSRS,		/* KVM_GET_MSRS, KVM_SET_MSRS of INT and EN, and @ext_msr */
	APF_ASK_OFF,		/* KVM_SET_MSRS: EN becomes 0 */
	APF_ASK_EVENTS,		/* KVM_GET_VCPU_EVENTS, KVM_SET_VCPU_EVENTS */
	APF_ASK_RESET,		/* all state as at the start; does not return */
	APF_ASK_INIT,		/* the same after an INIT */
	APF_ASK_SMI,		/* to SMM for a while */
	APF_ASK_END,		/* of the guest; a ucall has an address of the first VM's host */
	APF_ASK_OWN,		/* first one of another guest's, see apf_setup.asked */
};

static inline void apf_ask(u32 what)
{
	asm volatile("outl %0, %w1" : : "a"(what), "d"(APF_PORT) : "memory");
}

/*
 * Reads one word of a page.  False: the page is not there, and the #PF that announces it,
 * whose handler goes on at regs->r11, has skipped the access.
 */
static inline bool apf_touch(u64 gva, u64 *value)
{
	u64 skipped;

	asm volatile("lea 1f(%%rip), %%r11\n\t"
		     "mov (%[p]), %[v]\n\t"
		     "xor %%r11d, %%r11d\n"
		     "1: mov %%r11, %[s]"
		     : [v] "=&r" (*value), [s] "=r" (skipped)
		     : [p] "r" (gva) : "r11", "memory");
	return !skipped;
}

/* The same, a write */
static inline bool apf_touch_write(u64 gva)
{
	u64 skipped;

	asm volatile("lea 1f(%%rip), %%r11\n\t"
		     "movl $1, 8(%[p])\n\t"
		     "xor %%r11d, %%r11d\n"
		     "1: mov %%r11, %[s]"
		     : [s] "=r" (skipped) : [p] "r" (gva) : "r11", "memory");
	return !skipped;
}

/* struct kvm_vcpu_pv_apf_data */
struct apf_area {
	u32 flags;
	u32 token;
} __aligned(64);

struct apf_vcpu {
	/* written by the host before the vCPU starts */
	u64 seed;
	u64 pages;		/* GVA */
	u64 nr_pages;
	u64 rounds;		/* how often all pages are touched, 0: until told to stop */
	u64 max_out;		/* tokens outstanding, up to APF_MAX_OUT */
	u64 gap_max;		/* ticks computed between touches, 0 to that */
	u64 what;		/* APF_DO_* */
	u64 every;		/* one of these in so many turns */
	u64 area[2];		/* GVA, GPA of two areas */
	u64 area_gpa[2];
	u64 ext_msr, ext;	/* @ext, unless 0: written to that MSR ahead of enabling */
	u64 error_code;		/* with @ext: of the #PF that announces a page, and no flags */
	u64 samples;		/* room in each of the buffers, GVA of u32[] */
	u64 access_to_ready;	/* the access that faults to the interrupt's handler, ticks */
	u64 fault_to_ready;	/* #PF to the handler */
	u64 given_to_ready;	/* the page's arrival to the handler, ticks */
	u64 given;		/* GVA of u64[nr_pages]: TSC when the host gave it */

	/* written by the guest */
	u64 announced __aligned(64);	/* tokens with a #PF */
	u64 ready;		/* tokens that came back */
	u64 eaten;		/* outstanding when the mechanism was disabled */
	u64 touched;		/* pages done, all rounds */
	u64 sync;		/* of these without an announcement */
	u64 irqs;
	u64 empty;		/* interrupts without a token */
	u64 enables, wakes;	/* and tokens that wake all */
	u64 taken;		/* samples */
	u64 t_start, t_end;	/* TSC; the end once all rounds are done */
	u64 done[APF_NR_DO];

	/* mistakes of the host's; all must stay 0 */
	u64 unknown;		/* a token that was not outstanding */
	u64 wrong_page;		/* contents of another page, or of none */
	u64 again;		/* a page that was ready was not there */
	u64 overwritten;	/* a token in a place that was not free */
	u64 stray;		/* written to an area that is not in use */
	u64 extra_wakes;

	/* the guest's own */
	u64 nr_out;
	struct {
		u32 token, page;
		u64 accessed, t;	/* TSC before the access, and in the #PF's handler */
	} out[APF_MAX_OUT];
	u64 nr_ready;
	u32 ready_page[APF_MAX_OUT];
	u64 touching, accessed;	/* the page, and when */
	u64 next;		/* the first one that was not touched in this round */
	u64 round;
	u64 logged;		/* dirty pages of the areas' memslot are logged */
	u64 now;		/* which area */
	u64 wake_due[2];	/* in which area */
	u64 wake_seen[2];	/* and one more may come; host_msrs() */
	u64 owes_ack;
	u64 rnd;
	u64 lives;		/* starts of the guest */
	u64 moved;		/* to another VM, where old tokens do not come: by the host */
	u64 moves;		/* the pages that were there are not any more: by the host */
	u64 stop;		/* written by the host */
};

struct ex_regs;

void apf_guest_main(u64 vcpu);
void apf_guest_fault(struct ex_regs *regs);
void apf_guest_ready(struct ex_regs *regs);

/* GVA of struct apf_vcpu[APF_MAX_VCPUS] */
extern struct apf_vcpu *apf_guest_vcpus;

/* What the host writes into a page: which one it is, in which round */
static inline u64 apf_page_value(u64 page, u64 round)
{
	return (page + 1) * 0x9e3779b97f4a7c15ull + round;
}

#endif /* APF_GUEST_H */
