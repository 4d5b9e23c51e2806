// SPDX-License-Identifier: GPL-2.0
/*
 * One run of the `post` benchmark: a VM, its vCPU threads, the counters around
 * it, the final account. Called by kvm-mode-bench.c once per workload.
 */
#include <stdlib.h>
#include <string.h>

#include "kvm_util.h"

#include "bench.h"

const char * const workload_names[POST_NR_WORKLOADS] = {
	[POST_COMPUTE]	= "compute",
	[POST_EXITS]	= "exits",
	[POST_FASTPATH]	= "fastpath",
	[POST_HLT]	= "hlt",
	[POST_MIXED]	= "mixed",
};

static void progress(struct post_vm *p, u64 posted, u64 elapsed_ms)
{
	double elapsed = elapsed_ms / 1000.0;

	fprintf(stderr, "post %s: %lu of %lu posts, %.1f s elapsed",
		p->cfg.name, posted, p->cfg.posts, elapsed);
	if (posted)
		fprintf(stderr, ", %.1f s expected",
			elapsed * p->cfg.posts / posted);
	fputc('\n', stderr);
}

static void vm_setup(struct post_vm *p, enum post_workload workload)
{
	struct post_setup cfg = {
		.name		= workload_names[workload],
		.workload	= workload,
		.senders	= opts.senders,
		.posts		= opts.posts,
		.seed		= opts.seed,
		.gap_min	= opts.gap_min,
		.gap_max	= opts.gap_max,
		.exit_gap_max	= opts.exit_gap_max,
		.late_bound	= opts.late_bound,
		.long_ticks	= opts.long_ticks,
		.long_every	= opts.long_every,
		.gap_cap	= opts.gap_cap,
		.stall_ms	= opts.stall_ms,
		.timeout_s	= opts.timeout_s,
		.fastpath_ops	= host.fastpath_ops,
		.progress	= progress,
	};

	post_vm_create(p, &cfg, 0);
}

/*
 * HLT is there to test wakeups: without a value from the user it blocks at
 * once instead of polling. The others keep the module's halt_poll_ns.
 */
static long long halt_poll_setup(struct post_vm *p, enum post_workload workload)
{
	long long ns = opts.halt_poll_ns;

	if (ns == NO_VALUE && workload == POST_HLT)
		ns = 0;
	if (ns == NO_VALUE)
		return host.halt_poll_ns;
	vm_enable_cap(p->vm, KVM_CAP_HALT_POLL, ns);
	return ns;
}

static int cmp_u32(const void *a, const void *b)
{
	u32 x = *(const u32 *)a, y = *(const u32 *)b;

	return x < y ? -1 : x > y;
}

/* Nearest rank over all samples: exact, no buckets */
static void latencies(struct post_vm *p, struct post_outcome *out)
{
	u64 n = 0, total = out->n.res.samples;
	u32 *all;
	unsigned int i;

	if (!total)
		return;
	all = malloc(total * sizeof(*all));
	if (!all)
		die("no memory for %lu samples; use fewer --posts", total);
	for (i = 0; i < opts.senders; i++) {
		u64 k = p->s->sender[i].res.samples;

		memcpy(all + n, p->buf[i], k * sizeof(*all));
		n += k;
	}
	qsort(all, total, sizeof(*all), cmp_u32);
	out->latency_p50 = all[(total * 50 + 99) / 100 - 1];
	out->latency_p99 = all[(total * 99 + 99) / 100 - 1];
	out->latency_max = all[total - 1];
	free(all);
}

static void results(struct post_vm *p, struct post_outcome *out)
{
	struct post_shared *s = p->s;
	u64 t_end = s->t_start;
	unsigned int i;

	post_vm_harvest(p, &out->n);
	for (i = 0; i < p->nr_senders; i++) {
		out->sender_waits += s->sender[i].waits;
		out->send_ticks += s->sender[i].send_ticks;
		if (s->sender[i].t_end > t_end)
			t_end = s->sender[i].t_end;
	}
	out->ticks = t_end - s->t_start;
	out->compute_ticks = s->target.compute;
	memcpy(out->ops, s->target.ops, sizeof(out->ops));
	out->late_bound = s->late_bound;
	out->gap_cap = s->gap_cap;
	out->long_ticks = s->long_ticks;
	out->target_nvcsw = p->t[0].usage.ru_nvcsw;
	out->target_nivcsw = p->t[0].usage.ru_nivcsw;
	latencies(p, out);
}

static void stats_results(struct post_vm *p, const int *stats_fd,
			  const struct vcpu_stats *before,
			  struct post_outcome *out)
{
	unsigned int i, k;

	for (i = 0; i < p->nr_vcpus; i++) {
		struct vcpu_stats after;

		vcpu_stats_read(stats_fd[i], &after);
		for (k = 0; k < NR_VCPU_STATS; k++) {
			long long d = counter_delta(before[i].n[k], after.n[k]);

			if (!i)
				out->target.n[k] = d;
			out->all.n[k] = i ? counter_sum(out->all.n[k], d) : d;
		}
	}
}

/* true: everything posted was delivered once, in time, and nothing stalled */
static bool verdict(const struct post_outcome *out)
{
	bool ok = true;

	if (out->n.lost || out->n.doubled || out->n.res.late) {
		warn("%s: %lu lost, %lu doubled, %lu late of %lu posts",
		     out->workload, out->n.lost, out->n.doubled, out->n.res.late,
		     out->n.posted);
		ok = false;
	}
	if (out->n.stalled) {
		warn("%s: %lu sender(s) found no handled vector for %lu ms and gave up",
		     out->workload, out->n.stalled, opts.stall_ms);
		ok = false;
	}
	if (!out->compute_ticks) {
		warn("%s: no computing accounted, so `late` is void: raise --gap-cap (now %lu)",
		     out->workload, out->gap_cap);
		ok = false;
	}
	if (out->n.res.tsc_backwards)
		warn("%s: %lu posts handled before they were posted: the TSCs differ",
		     out->workload, out->n.res.tsc_backwards);
	return ok;
}

bool post_run(enum post_workload workload, struct post_outcome *out)
{
	struct vcpu_stats before[POST_MAX_VCPUS];
	int stats_fd[POST_MAX_VCPUS];
	struct irq_counts irq[2];
	struct post_vm p;
	bool tracing;
	unsigned int i;

	memset(out, 0, sizeof(*out));
	out->workload = workload_names[workload];

	vm_setup(&p, workload);
	out->halt_poll_ns = halt_poll_setup(&p, workload);
	for (i = 0; i < p.nr_vcpus; i++)
		stats_fd[i] = vcpu_get_stats_fd(p.t[i].vcpu);
	post_vm_start(&p);
	for (i = 0; i < p.nr_vcpus; i++)
		vcpu_stats_read(stats_fd[i], &before[i]);
	tracing = kick_trace_start();
	lab_counters_reset();
	irq_counts_read(&irq[0]);
	post_vm_go(&p);

	post_vm_wait(&p);
	post_vm_drain(&p);
	post_vm_account(&p, &out->n);
	post_vm_stop(&p);

	irq_counts_read(&irq[1]);
	out->emulator = lab_counters_read();
	out->kick_ipi_traced = tracing ? kick_trace_stop() : NO_VALUE;
	for (i = 0; i < NR_IRQ_LINES; i++)
		out->irq.n[i] = counter_delta(irq[0].n[i], irq[1].n[i]);
	stats_results(&p, stats_fd, before, out);
	results(&p, out);

	for (i = 0; i < p.nr_vcpus; i++)
		close(stats_fd[i]);
	post_vm_free(&p);
	return verdict(out);
}
