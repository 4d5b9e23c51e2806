/* SPDX-License-Identifier: GPL-2.0 */
/* The options of kvm-mode-bench, its messages, and its exit statuses. */
#ifndef BENCH_OPTIONS_H
#define BENCH_OPTIONS_H

#include <stdbool.h>
#include <stdio.h>

#include "post-vm.h"

#define EXIT_LOST	1
#define EXIT_USAGE	2
#define EXIT_SKIPPED	4

enum output { OUTPUT_TABLE, OUTPUT_JSON, OUTPUT_KTAP };

struct options {
	enum output output;		/* of all benchmarks; the others are post's */
	bool help;
	bool trace_kicks;
	unsigned int workloads;		/* bit per enum post_workload */
	u64 posts;
	u64 senders;
	bool irqfd;			/* they are host threads that write to eventfds */
	bool timer;			/* there are none but the target's timer */
	u64 seed;
	u64 gap_min, gap_max;
	u64 exit_gap_max;
	u64 late_bound;			/* 0: by vendor */
	u64 long_ticks;			/* 0: four times late_bound */
	u64 long_every;
	u64 gap_cap;			/* 0: a tenth of late_bound */
	u64 stall_ms;
	u64 timeout_s;
	long long halt_poll_ns;		/* NO_VALUE: leave the module's */
	long long lab_port;		/* NO_VALUE: no emulator counters */
};

extern struct options opts;

/* die() and warn(), of messages.h, speak as this program does. */
void options_init(void);

/* Both end the program on wrong usage. */
u64 parse_number(const char *opt, const char *arg, u64 min, u64 max);
void __noreturn usage_error(const char *what, const char *arg);
/* The machine cannot do it; @name is the one case, NULL: all */
void __noreturn __printf(2, 3) skip(const char *name, const char *fmt, ...);

#endif /* BENCH_OPTIONS_H */
