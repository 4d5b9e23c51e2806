/* SPDX-License-Identifier: GPL-2.0 */
/* What apf_pred_test.c shares with its guest, apf_pred_guest.c. */
#ifndef APF_PRED_H
#define APF_PRED_H

#include <asm/kvm_apf.h>

#include "apf_step.h"
#include "apf-tokens.h"
#include "can-sleep.h"

#define TOUCH_BYTES	8		/* from apf_touch()'s access to what follows, at most */
#define PRED_EXT	(KVM_ASYNC_PF_EXT_MARK | KVM_ASYNC_PF_EXT_PRED)
#define NOWHERE_GPA	0x10000000000ull	/* no memory from here on */

/* The guest says */
enum pred_say {
	PRED_READY = APF_ASK_OWN,	/* the next step touches a page */
	PRED_LOAD,			/* the host writes the MSRs */
	PRED_DONE,
};

enum pred_guest {
	PRED_ABI,		/* what the MSR takes and refuses */
	PRED_HIDDEN,		/* the same without CPUID's bits */
	PRED_ONE,		/* a page is touched in one state of the guest's */
	PRED_STORM,		/* many, in random states */
	PRED_FUZZ,		/* lists at random */
};

/* Which state, a mask; 0: in kernel mode, where the guest can sleep */
#define PRED_COUNT	BIT(0)	/* preemption is disabled */
#define PRED_RESCHED	BIT(1)	/* the bit of the preempt count that does not matter */
#define PRED_READER	BIT(2)	/* of RCU */
#define PRED_IDLE	BIT(3)
#define PRED_MASKED	BIT(4)	/* interrupts are disabled */
#define PRED_STI	BIT(5)	/* in the shadow of STI */
#define PRED_OTHER	BIT(6)	/* another task is current; the first one is a reader */
#define PRED_NOWHERE	BIT(7)	/* the current task is not in memory */
#define PRED_ABSENT	BIT(8)	/* it is in a page that is not present */
#define PRED_USER	BIT(9)
#define PRED_REWRITTEN	BIT(10)	/* the list, once the MSR is written */
#define PRED_LOADED	BIT(11)	/* the host writes the MSRs */
#define PRED_BROKEN	BIT(12)	/* the list, before the host does */
#define PRED_TWICE	BIT(13)	/* a second task touches the page */
#define PRED_AGAIN	BIT(14)	/* the guest has asked for KVM_ASYNC_PF_EXT_AGAIN */

struct pred_words {
	struct sleep_words sleep;
	u64 pointer;		/* lists at random: GPA of these words and NOWHERE_GPA */
};

struct apf_pred {
	struct step_guest step;

	/* written by the host */
	u64 guest;		/* enum pred_guest */
	u64 state;		/* PRED_* */
	u64 words, words_gpa;
	u64 list, list_gpa;	/* struct kvm_async_pf_predicate */
	u64 pages_gpa;

	/* written by the guest */
	struct apf_tokens t;
	u64 checks;
	u64 forbidden;		/* events where the guest cannot sleep */
	u64 kernel;		/* events in kernel mode */
	u64 held;		/* touches where it cannot sleep */
	u64 elsewhere;		/* events outside of apf_touch() */
	u64 wrong_page;
	u64 lists, taken;	/* tried at random, and not refused */
	u64 wrong_list;		/* taken or refused where it is the other way round */
	u64 verdicts;		/* pages touched with one of them */
	u64 yes;		/* where it said yes */
	u64 unasked;		/* announced though it said no */
	u64 untold;		/* not announced though it said yes: the page may have come first */
};

struct ex_regs;

void apf_pred_main(u64 vcpu);
void apf_pred_fault(struct ex_regs *regs);
void apf_pred_ready(struct ex_regs *regs);

extern struct apf_pred *apf_pred;

#endif /* APF_PRED_H */
