/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What tests of asynchronous page faults share that move by steps: the vCPU runs
 * until its guest says something, and stays out of KVM_RUN until its host lets it
 * go on.  Each case is a process of its own, so that one that hangs or dies is one
 * that has failed.
 *
 * The guest says a word by apf_ask(), from APF_ASK_OWN on.  Pages are given by the
 * test, with apf_vm_give().
 */
#ifndef APF_STEP_H
#define APF_STEP_H

#include <pthread.h>
#include <semaphore.h>
#include <stdbool.h>
#include <time.h>

#include "apf-vm.h"

#define STEP_PAGES	32

/* What hear() returns besides the guest's own words */
enum step_said {
	STEP_NOTHING,
	STEP_PAUSED = 1000,	/* KVM_RUN was interrupted */
	STEP_LEFT,		/* it left the guest otherwise */
	STEP_FAULTED,		/* KVM_RUN failed with EFAULT */
};

/* What the guest has for the host, at the start of what its test shares with it */
struct step_guest {
	u64 stop;		/* by the host: what is awaited does not come */
	u64 failed;		/* line of the first CHECK(), 0: none */
};

/* A VM with one vCPU */
struct step {
	struct apf_vm a;
	void *shared;		/* with the guest: struct step_guest, and more */
	pthread_t thread;
	clockid_t clock;	/* of that thread's CPU time */
	sem_t go, back;
	u32 said;
	bool running, pause, quit;
	u64 wrmsrs;		/* exits to userspace for the ACK */
};

/*
 * A VM of @setup, name and guest_main at least, whose vCPU waits for go().  The caller
 * allocates what is @shared.
 */
void step_create(struct step *s, struct apf_setup setup);
void step_free(struct step *s);		/* all pages are given */
void step_quit(struct step *s);		/* the thread only */

/* The vCPU's next step begins. */
void go(struct step *s);
/* What the guest says next, STEP_NOTHING in that time */
u32 hear(struct step *s, unsigned int ms);
/* Is it @what?  The guest gives up waiting if it does not come so far by itself. */
bool hears(struct step *s, u32 what);
bool goes_to(struct step *s, u32 what);
/* Out of KVM_RUN, wherever the guest is; false if it cannot be brought out. */
bool pause_vcpu(struct step *s);

/* userfaultfd, for tests that map something else over the pages: their holes are its */
void watch_pages(struct step *s);
/*
 * Somebody waits for a page; false: nobody, in that time.  Whoever it is, KVM's worker or
 * the vCPU itself: the guest need not have been told yet.
 */
bool awaited(struct step *s, unsigned int ms);
/* Those who wait for a page look again. */
void wake_waiters(struct step *s);
/* What the guest counts gets so far; false: not in time. */
bool counts_to(const u64 *count, u64 n);

/* Takes KVM_FEATURE_* from the guest, a mask; returns which of them it had. */
u32 hide_features(struct kvm_vcpu *vcpu, u32 features);

/* How long to wait for what should come, and for what should not, in milliseconds */
unsigned int patience_ms(void);
unsigned int quiet_ms(bool computing);

/* How often a case repeats itself */
bool again(u64 n);

/* The case's result: to be called by it, once.  Text as stress_case()'s. */
void __printf(2, 3) tell(bool ok, const char *fmt, ...);

/* Instead: it cannot be run here */
void skip(const char *why);

struct step_case {
	const char *name;
	void (*fn)(void);
};

/* A test's main() */
int step_main(int argc, char **argv, const char *help, const struct step_case *cases,
	      unsigned int nr);

#endif /* APF_STEP_H */
