/* SPDX-License-Identifier: GPL-2.0 */
/* The host side of kvm-mode-bench: its benchmarks, counters and results. */
#ifndef BENCH_H
#define BENCH_H

#include <stdbool.h>
#include <stdio.h>

#include "apf-vm.h"
#include "options.h"
#include "post-vm.h"

#define EMULATOR_TEXT	65536

/* Lines of /proc/interrupts, summed over the CPUs; and CPU 0's, where vCPU 0 is pinned */
enum irq_line { IRQ_PIN, IRQ_NPI, IRQ_PIW, IRQ_RES, IRQ_CAL, IRQ_LOC, NR_IRQ_LINES };

struct irq_counts {
	long long n[NR_IRQ_LINES];
	long long first[NR_IRQ_LINES];
};

/* KVM binary statistics of one vCPU */
enum vcpu_stat {
	ST_EXITS,
	ST_HALT_EXITS,
	NR_VCPU_STATS,
};

struct vcpu_stats {
	long long n[NR_VCPU_STATS];
};

/* The series' own counts of the whole host (kvm/mode/measure.h) */
enum mode_event {
	EV_NOTIFY_SENT,
	EV_NOTIFY_ELIDED,
	EV_KICK_IPI_SENT,
	EV_APF_READY_SENT,
	EV_APF_READY_ASKED,
	NR_MODE_EVENTS,
};

struct mode_counts {
	long long n[NR_MODE_EVENTS];
};

/* What does not change while the program runs */
struct host_info {
	bool intel;
	char apicv, ipiv, nrips, preemption_timer, precise_notify, elide_kicks;	/* Y, N, 0 */
	long long halt_poll_ns;
	unsigned int fastpath_ops;	/* POST_FP_* that re-enter on this host */
	unsigned int nr_cpus;
};

struct post_outcome {
	const char *workload;
	struct post_count n;
	u64 sender_waits, send_ticks;
	u64 ticks;
	u64 compute_ticks;
	u64 ops[POST_NR_WORKLOADS];
	u64 late_bound, gap_cap, long_ticks;
	long long halt_poll_ns;
	u64 latency_p50, latency_p99, latency_max;
	struct irq_counts irq;
	struct vcpu_stats all, target;
	struct mode_counts mode;
	long long kick_ipi_traced;
	long long target_nvcsw, target_nivcsw;
	char *emulator;			/* JSON text or NULL */
};

/* Of samples in ticks; all 0 without a sample */
struct distribution {
	u64 count, min, p50, p50_low, p50_high, p90, p99, p999, max;
	u64 grid[101];			/* percentiles 0 to 100 */
	double mean;
};

/* A change of a vCPU's states, in ticks since the RDTSC ahead of an exit */
struct window_change {
	u64 ticks;
	int mode, flag;
};

#define WINDOW_CHANGES	16

/*
 * How a sender on another CPU sees round trips of one VM-Exit.  after: from the
 * RDTSC ahead of the exit until it sees the vCPU in the host; before: from when it
 * sees it in the guest again to the RDTSC behind the entry.  Where it never sees
 * the host, after is the whole round trip, and before 0.
 */
struct window_result {
	struct distribution after, before;	/* of those that were watched throughout */
	u64 turn_ticks;			/* of the watching loop: the resolution */
	u64 unseen;			/* of these, without a change of what a sender does */
	u64 ticks;			/* of the round trip that is drawn */
	u64 nr;
	struct window_change change[WINDOW_CHANGES];
};

/* One run of a latency benchmark */
struct lat_result {
	const char *benchmark, *form, *apic, *clock;
	const char *target;		/* NULL: there is none */
	u64 vcpus, lost, backwards, warmup, seed;
	u64 tries;			/* kicks done, of which d.count met the run loop */
	bool pinned;
	struct distribution d;
	struct vcpu_stats stats;	/* all vCPUs, warm-up included */
	struct mode_counts mode;
	long long spurious;
	struct window_result window;	/* exit --window */
};

/* One run of `apf` */
struct apf_outcome {
	const struct apf_setup *setup;
	struct apf_count n;
	u64 stalled;
	u64 ticks;			/* of the guest's TSC, all rounds */
	struct distribution access_to_ready, fault_to_ready, given_to_ready;
	struct vcpu_stats stats;
	struct mode_counts mode;
	struct irq_counts irq;
	long long kick_ipi_traced;
	char *emulator;			/* JSON text or NULL */
};

extern struct host_info host;
extern const char * const workload_names[POST_NR_WORKLOADS];
extern const char * const irq_line_names[NR_IRQ_LINES];
extern const char * const vcpu_stat_names[NR_VCPU_STATS];
extern const char * const mode_event_names[NR_MODE_EVENTS];

/* counters.c */
void host_info_read(void);
void irq_counts_read(struct irq_counts *c);
void vcpu_stats_read(int stats_fd, struct vcpu_stats *st);
void mode_counts_read(struct mode_counts *c);
/* What was counted since @before */
struct mode_counts mode_counts_since(const struct mode_counts *before);
long long counter_delta(long long before, long long after);
long long counter_sum(long long a, long long b);
bool kick_trace_start(void);
long long kick_trace_stop(void);
void lab_counters_reset(void);
char *lab_counters_read(void);

/*
 * post.c, latency.c, apf.c.  Parse: the program's arguments; false if they name none of its
 * benchmarks; --help and wrong usage end the program.  Run: the exit status.
 */
bool post_parse(int argc, char **argv);
int post_run(void);
bool latency_parse(int argc, char **argv);
int latency_run(void);
bool apf_parse(int argc, char **argv);
int apf_run(void);
bool tasks_parse(int argc, char **argv);
int tasks_run(void);

/* distribution.c: sorts the samples */
struct distribution distribution_of(u32 *samples, u64 n);

/* window.c: until the guest is done; then what was seen */
struct lat_shared;
void window_watch(int probe_fd, struct post_vm *p, struct lat_shared *l);
void window_find(struct post_vm *p, struct lat_shared *l, const u32 *ticks,
		 struct window_result *w);

/* report.c: ahead of all results; one of them, @nr counts from 1 */
void report_plan(unsigned int n, u64 seed);
void report_post(const struct post_outcome *out, bool ok, unsigned int nr);
void report_latency(const struct lat_result *r, bool ok);
void report_apf(const struct apf_outcome *o, bool ok);
const char *latency_case(const struct lat_result *r);

#endif /* BENCH_H */
