/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the stress tests share: options, KTAP output, a clock, the probe and
 * module parameters.  Each test is one file next to this one, built by
 * guests/build.sh --stress on the kernel's KVM selftests library.
 *
 * A test calls stress_init() first, stress_plan() with the number of its
 * cases, stress_case() or stress_skip() once for each, and returns
 * stress_end().  Exit status: 0 all passed, 1 one failed, 2 usage, 4 skipped.
 *
 * stress_case()'s text follows the name and "#" on the result line.  Counts in it
 * are "name number": selftests/stress.py adds them up, farms record them.  Other
 * figures are stress_note("name number unit") ahead of it.
 */
#ifndef STRESS_H
#define STRESS_H

#include <stdbool.h>
#include <stdio.h>

#include "post-vm.h"
#include "kvm-mode-probe.h"

struct stress_options {
	u64 seconds;	/* how long the whole test may run, host clock */
	u64 count;	/* how much of what it does, 0: until the time is up */
	u64 seed;	/* of everything random; printed */
};

extern struct stress_options stress;

/* Parse the options, print the KTAP header and the seed.  @what: for --help. */
void stress_init(int argc, char **argv, const char *what,
		 const struct stress_options *defaults);

/*
 * Cases.  A plan of n cases shares the time evenly: stress_case_begin() says
 * what begins, on stderr, and stress_time_left() turns false when the case's
 * share is over.  What is left of a share goes to the cases after it.  When
 * stress_case_begin() returns false the case was not asked for, and is done.
 */
void stress_plan(unsigned int n);
bool stress_case_begin(const char *name);
bool stress_time_left(void);
void stress_case_text(bool ok, const char *text);
void stress_skip_text(const char *text);
int stress_end(void);
#define stress_case(ok, ...)	stress_case_text(ok, stress_format(__VA_ARGS__))
#define stress_skip(...)	stress_skip_text(stress_format(__VA_ARGS__))

/* Progress on stderr, at most one line in two seconds; a diagnostic in KTAP. */
bool stress_progress_due(void);
void stress_progress_text(const char *text);
void stress_note_text(const char *text);
#define stress_progress(...)						\
	do {								\
		if (stress_progress_due())				\
			stress_progress_text(stress_format(__VA_ARGS__)); \
	} while (0)
#define stress_note(...)	stress_note_text(stress_format(__VA_ARGS__))

/* A text of this thread's, until its next call */
const char *__printf(1, 2) stress_format(const char *fmt, ...);

/* The whole test cannot run here: prints why, exits with 4. */
void __noreturn stress_skip_all(const char *why);
/* The test itself is broken or the host is: die(), of messages.h. */
#define stress_die	die

/* false: kvm-mode-probe.ko is not loaded.  The others die if they fail then. */
bool probe_present(void);
void probe(unsigned long op, struct kvm_vcpu *vcpu, struct kvm_mode_probe *p);
/* PROBE_WATCH into @changes, of @nr records: how many there are. */
u32 probe_watch(struct kvm_vcpu *vcpu, struct kvm_mode_change *changes, u32 nr, u32 quiet_ms);

/*
 * Parameters of loaded modules, e.g. "kvm/precise_notify".  param_read()
 * returns the first character, 0 if there is none.  param_write() returns
 * false if it cannot be written.
 */
char param_read(const char *name);
bool param_write(const char *name, const char *value);

/*
 * Parameters that may change at any moment, and must not matter.  switches_save()
 * returns false if this KVM has none; switches_restore() puts back what it saved.
 */
#define STRESS_NR_SWITCHES	2
extern const char * const stress_switches[STRESS_NR_SWITCHES];
bool switches_save(void);
void switches_restore(void);

/*
 * Count @name of the whole host's, in debugfs, or -1 if this KVM has none of that name
 * or it cannot be read.  other_vms() tells whether VMs of other processes are there,
 * which count as well.
 */
long long count_read(const char *name);
bool other_vms(void);

u64 now_us(void);
void sleep_us(u64 us);

/* pthread_create() that dies; CPU < 0: not pinned. */
void thread_start(pthread_t *thread, int cpu, void *(*fn)(void *), void *arg);

#endif /* STRESS_H */
