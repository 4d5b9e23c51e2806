// SPDX-License-Identifier: GPL-2.0
/*
 * The forms of a result: a row of a table, a line of JSON, or KTAP: a line
 * "# name value unit" for each number, then the result line with the counts that
 * decide.
 */
#include <stdlib.h>
#include <string.h>

#include <linux/kernel.h>

#include "bench.h"

/* One JSON object being written; @sep is what precedes the next member */
struct json {
	FILE *f;
	const char *sep;
};

static void json_key(struct json *j, const char *key)
{
	fprintf(j->f, "%s\"%s\":", j->sep, key);
	j->sep = ",";
}

static void json_num(struct json *j, const char *key, long long n)
{
	json_key(j, key);
	if (n == NO_VALUE)
		fputs("null", j->f);
	else
		fprintf(j->f, "%lld", n);
}

/* @s is one of our own words: nothing in it needs escaping */
static void json_word(struct json *j, const char *key, const char *s)
{
	json_key(j, key);
	fprintf(j->f, s ? "\"%s\"" : "null", s);
}

static void json_yn(struct json *j, const char *key, char yn)
{
	char s[2] = { yn };

	json_word(j, key, yn ? s : NULL);
}

static void json_open(struct json *j, const char *key)
{
	json_key(j, key);
	fputc('{', j->f);
	j->sep = "";
}

static void json_close(struct json *j)
{
	fputc('}', j->f);
	j->sep = ",";
}

/* @j: NULL for KTAP, where a number that could not be measured is left out */
static void figure(struct json *j, const char *key, long long n, const char *unit)
{
	if (j)
		json_num(j, key, n);
	else if (n != NO_VALUE)
		printf("# %s %lld %s\n", key, n, unit);
}

static void fraction(struct json *j, const char *key, double n, const char *unit)
{
	if (!j) {
		printf("# %s %.3f %s\n", key, n, unit);
		return;
	}
	json_key(j, key);
	fprintf(j->f, "%.3f", n);
}

/* By the tracepoint, so that all variants count the same; else the series' own */
static long long kicks(const struct post_outcome *o)
{
	return o->kick_ipi_traced != NO_VALUE ? o->kick_ipi_traced : o->mode.n[EV_KICK_IPI_SENT];
}

/* A spurious notification is a host interrupt on VMX; AVIC counts none */
static long long spurious(const struct post_outcome *o)
{
	return host.intel ? o->irq.n[IRQ_PIN] : NO_VALUE;
}

static const char *fastpath_name(void)
{
	if (!host.intel && host.nrips != 'Y')
		return "none";
	return host.fastpath_ops & POST_FP_TSC_DEADLINE ?
		"icr,tsc_deadline" : "icr";
}

void report_plan(unsigned int n, u64 seed)
{
	if (opts.output == OUTPUT_KTAP)
		printf("1..%u\n# seed %lu\n", n, seed);
}

static void post_figures(struct json *j, const struct post_outcome *o)
{
	figure(j, "late_max_wait", o->n.res.late_max_wait, "ticks");
	figure(j, "notify_sent", o->mode.n[EV_NOTIFY_SENT], "events");
	figure(j, "notify_elided", o->mode.n[EV_NOTIFY_ELIDED], "events");
	figure(j, "notify_spurious", spurious(o), "interrupts");
	figure(j, "kick_ipi_sent", kicks(o), "IPIs");
	figure(j, "kick_ipi_traced", o->kick_ipi_traced, "IPIs");
	figure(j, "exits", o->all.n[ST_EXITS], "exits");
	figure(j, "latency_p50", o->latency_p50, "ticks");
	figure(j, "latency_p99", o->latency_p99, "ticks");
	figure(j, "latency_max", o->latency_max, "ticks");
	figure(j, "ticks", o->ticks, "ticks");
	fraction(j, "posts_per_mtick", o->ticks ? o->n.posted * 1e6 / o->ticks : 0.0, "posts");
	fraction(j, "send_mean", o->n.posted ? 1.0 * o->send_ticks / o->n.posted : 0.0, "ticks");
	figure(j, "sender_waits", o->sender_waits, "waits");
}

static void json_metrics(struct json *j, const struct post_outcome *o)
{
	json_word(j, "workload", o->workload);
	json_num(j, "posted", o->n.posted);
	json_num(j, "delivered", o->n.delivered);
	json_num(j, "lost", o->n.lost);
	json_num(j, "doubled", o->n.doubled);
	json_num(j, "late", o->n.res.late);
	json_num(j, "late_bound", o->late_bound);
	post_figures(j, o);
	json_num(j, "stalled", o->n.stalled);
	json_num(j, "tsc_backwards", o->n.res.tsc_backwards);
}

static void json_parameters(struct json *j, const struct post_outcome *o)
{
	json_num(j, "seed", opts.seed);
	json_word(j, "sender", opts.irqfd ? "irqfd" : opts.timer ? "timer" : "icr");
	json_num(j, "senders", opts.senders);
	json_num(j, "posts", opts.posts);
	json_num(j, "gap_min", opts.gap_min);
	json_num(j, "gap_max", opts.gap_max);
	json_num(j, "exit_gap_max", opts.exit_gap_max);
	json_num(j, "long_ticks", o->long_ticks);
	json_num(j, "long_every", opts.long_every);
	json_num(j, "gap_cap", o->gap_cap);
	json_num(j, "stall_ms", opts.stall_ms);
	json_num(j, "halt_poll_ns", o->halt_poll_ns);
	json_num(j, "cpus", host.nr_cpus);
	json_word(j, "vendor", host.intel ? "intel" : "amd");
	json_yn(j, "apicv", host.apicv);
	json_yn(j, "ipiv", host.ipiv);
	json_word(j, "fastpath", fastpath_name());
	json_yn(j, "precise_notify", host.precise_notify);
}

static void post_json(const struct post_outcome *o)
{
	struct json j = { .sep = "" };
	size_t size;
	char *line;
	int i;

	j.f = open_memstream(&line, &size);
	if (!j.f)
		die("no memory for the result line");
	fputc('{', j.f);
	json_metrics(&j, o);
	json_open(&j, "irq");
	for (i = 0; i < NR_IRQ_LINES; i++)
		json_num(&j, irq_line_names[i], o->irq.n[i]);
	json_close(&j);
	json_open(&j, "target");
	for (i = 0; i < NR_VCPU_STATS; i++)
		json_num(&j, vcpu_stat_names[i], o->target.n[i]);
	json_num(&j, "compute_ticks", o->compute_ticks);
	json_num(&j, "cpuid_ops", o->ops[POST_EXITS]);
	json_num(&j, "fastpath_ops", o->ops[POST_FASTPATH]);
	json_num(&j, "hlt_ops", o->ops[POST_HLT]);
	json_num(&j, "nvcsw", o->target_nvcsw);
	json_num(&j, "nivcsw", o->target_nivcsw);
	json_close(&j);
	json_parameters(&j, o);
	json_key(&j, "emulator");
	fputs(o->emulator ?: "null", j.f);
	fputs("}\n", j.f);
	if (fclose(j.f))
		die("no memory for the result line");
	fputs(line, stdout);
	free(line);
}

static void cell(long long n)
{
	if (n == NO_VALUE)
		printf(" %9s", "-");
	else
		printf(" %9lld", n);
}

static void post_table(const struct post_outcome *o, bool header)
{
	static const char * const heads[] = {
		"posted", "lost", "doubled", "late", "max_wait", "sent",
		"elided", "spurious", "kick_ipi", "exits", "lat_p50",
		"lat_p99", "lat_max",
	};
	unsigned int i;

	if (header) {
		printf("%-9s", "workload");
		for (i = 0; i < ARRAY_SIZE(heads); i++)
			printf(" %9s", heads[i]);
		putchar('\n');
	}
	printf("%-9s", o->workload);
	cell(o->n.posted);
	cell(o->n.lost);
	cell(o->n.doubled);
	cell(o->n.res.late);
	cell(o->n.res.late_max_wait);
	cell(o->mode.n[EV_NOTIFY_SENT]);
	cell(o->mode.n[EV_NOTIFY_ELIDED]);
	cell(spurious(o));
	cell(kicks(o));
	cell(o->all.n[ST_EXITS]);
	cell(o->latency_p50);
	cell(o->latency_p99);
	cell(o->latency_max);
	putchar('\n');
}

static void post_ktap(const struct post_outcome *o, bool ok, unsigned int nr)
{
	post_figures(NULL, o);
	printf("%s %u %s # posted %lu lost %lu doubled %lu late %lu ", ok ? "ok" : "not ok", nr,
	       o->workload, o->n.posted, o->n.lost, o->n.doubled, o->n.res.late);
	printf("stalled %lu compute_ticks %lu\n", o->n.stalled, o->compute_ticks);
}

void report_post(const struct post_outcome *o, bool ok, unsigned int nr)
{
	switch (opts.output) {
	case OUTPUT_TABLE:
		return post_table(o, nr == 1);
	case OUTPUT_JSON:
		return post_json(o);
	case OUTPUT_KTAP:
		return post_ktap(o, ok, nr);
	}
}

static void json_grid(struct json *j, const struct distribution *d)
{
	int i;

	json_key(j, "percentiles");
	for (i = 0; i <= 100; i++)
		fprintf(j->f, "%c%lu", i ? ',' : '[', d->grid[i]);
	fputc(']', j->f);
}

static void window_figures(struct json *j, const struct window_result *w)
{
	figure(j, "watched", w->after.count, "exits");
	figure(j, "turn_ticks", w->turn_ticks, "ticks");
	figure(j, "after_exit_p50", w->after.p50, "ticks");
	figure(j, "after_exit_max", w->after.max, "ticks");
	figure(j, "before_entry_p50", w->before.p50, "ticks");
	figure(j, "before_entry_max", w->before.max, "ticks");
	figure(j, "unseen", w->unseen, "exits");
}

static void window_json(struct json *j, const struct window_result *w)
{
	u64 i;

	window_figures(j, w);
	json_num(j, "drawn_ticks", w->ticks);
	json_key(j, "drawn");
	for (i = 0; i < w->nr; i++)
		fprintf(j->f, "%c[%lu,%d,%d]", i ? ',' : '[', w->change[i].ticks,
			w->change[i].mode, w->change[i].flag);
	fputs(w->nr ? "]" : "[]", j->f);
}

static bool is_window(const struct lat_result *r)
{
	return !strcmp(r->benchmark, "window");
}

static void distribution_figures(struct json *j, const struct distribution *d)
{
	figure(j, "min", d->min, "ticks");
	figure(j, "p50", d->p50, "ticks");
	figure(j, "p50_low", d->p50_low, "ticks");
	figure(j, "p50_high", d->p50_high, "ticks");
	figure(j, "p90", d->p90, "ticks");
	figure(j, "p99", d->p99, "ticks");
	figure(j, "p999", d->p999, "ticks");
	figure(j, "max", d->max, "ticks");
	fraction(j, "mean", d->mean, "ticks");
}

static void kvm_figures(struct json *j, const struct vcpu_stats *stats,
			const struct mode_counts *mode)
{
	int i;

	for (i = 0; i < NR_VCPU_STATS; i++)
		figure(j, vcpu_stat_names[i], stats->n[i], "events");
	for (i = 0; i < NR_MODE_EVENTS; i++)
		figure(j, mode_event_names[i], mode->n[i], "events");
}

static void counter_figures(struct json *j, const struct lat_result *r)
{
	kvm_figures(j, &r->stats, &r->mode);
	figure(j, "notify_spurious", r->spurious, "interrupts");
	figure(j, "tries", r->tries ? (long long)r->tries : NO_VALUE, "kicks");
}

static void latency_json(const struct lat_result *r)
{
	const struct distribution *d = &r->d;
	struct json j = { .f = stdout, .sep = "" };

	fputc('{', j.f);
	json_word(&j, "benchmark", r->benchmark);
	json_word(&j, "form", r->form);
	json_word(&j, "target", r->target);
	json_word(&j, "apic", r->apic);
	json_word(&j, "clock", r->clock);
	json_num(&j, "vcpus", r->vcpus);
	json_num(&j, "count", d->count);
	json_num(&j, "lost", r->lost);
	json_num(&j, "tsc_backwards", r->backwards);
	distribution_figures(&j, d);
	json_grid(&j, d);
	if (is_window(r))
		window_json(&j, &r->window);
	counter_figures(&j, r);
	json_num(&j, "warmup", r->warmup);
	json_num(&j, "seed", r->seed);
	json_yn(&j, "pinned", r->pinned ? 'Y' : 'N');
	json_yn(&j, "precise_notify", host.precise_notify);
	json_yn(&j, "elide_kicks", host.elide_kicks);
	fputs("}\n", j.f);
}

static void latency_table(const struct lat_result *r)
{
	const struct distribution *d = &r->d;

	printf("%-6s %-9s %-9s %9s %9s %9s %9s %9s %9s %9s\n", r->benchmark, "form",
	       "target", "count", "lost", "p50", "p90", "p99", "p99.9", "max");
	printf("%-6s %-9s %-9s", "", r->form, r->target ?: "-");
	cell(d->count);
	cell(r->lost);
	cell(d->p50);
	cell(d->p90);
	cell(d->p99);
	cell(d->p999);
	cell(d->max);
	printf("\nmedian %lu to %lu with 95%% confidence; ticks of the %s\n", d->p50_low,
	       d->p50_high, r->clock);
	if (is_window(r))
		printf("seen in the guest %lu (up to %lu) after the exit, %lu (%lu) before entry\n",
		       r->window.after.p50, r->window.after.max, r->window.before.p50,
		       r->window.before.max);
}

/* The case's name in KTAP */
const char *latency_case(const struct lat_result *r)
{
	static char name[64];

	snprintf(name, sizeof(name), "%s%s%s%s%s", is_window(r) ? "window-" : "", r->form,
		 r->target ? "-" : "", r->target ?: "", strcmp(r->apic, "xapic") ? "" : "-xapic");
	return name;
}

/* TSCs that differ make times void, and where nothing was seen there are none. */
static void latency_ktap(const struct lat_result *r, bool ok)
{
	if (r->d.count && !r->backwards)
		distribution_figures(NULL, &r->d);
	if (is_window(r) && r->window.after.count)
		window_figures(NULL, &r->window);
	counter_figures(NULL, r);
	printf("%s 1 %s # count %lu lost %lu tsc_backwards %lu\n", ok ? "ok" : "not ok",
	       latency_case(r), r->d.count, r->lost, r->backwards);
}

void report_latency(const struct lat_result *r, bool ok)
{
	switch (opts.output) {
	case OUTPUT_TABLE:
		return latency_table(r);
	case OUTPUT_JSON:
		return latency_json(r);
	case OUTPUT_KTAP:
		return latency_ktap(r, ok);
	}
}

/* Page-ready has the vCPU's CPU sent reschedule IPIs, by KVM or by the scheduler. */
static void apf_figures(struct json *j, const struct apf_outcome *o)
{
	figure(j, "sync", o->n.sync, "pages");
	figure(j, "irqs", o->n.irqs, "interrupts");
	figure(j, "empty", o->n.empty, "interrupts");
	kvm_figures(j, &o->stats, &o->mode);
	fraction(j, "exits_per_event", o->n.announced && o->stats.n[ST_EXITS] != NO_VALUE ?
		 (double)o->stats.n[ST_EXITS] / o->n.announced : 0, "exits");
	figure(j, "kick_ipi_traced", o->kick_ipi_traced, "IPIs");
	figure(j, "reschedules", o->irq.first[IRQ_RES], "interrupts");
	figure(j, "timer_interrupts", o->irq.first[IRQ_LOC], "interrupts");
	figure(j, "ticks", o->ticks, "ticks");
	fraction(j, "events_per_mtick", o->ticks ? o->n.announced * 1e6 / o->ticks : 0, "events");
}

static void apf_distribution(struct json *j, const char *name, const struct distribution *d)
{
	json_open(j, name);
	json_num(j, "count", d->count);
	distribution_figures(j, d);
	json_grid(j, d);
	json_close(j);
}

static void apf_json(const struct apf_outcome *o)
{
	struct json j = { .f = stdout, .sep = "" };

	fputc('{', j.f);
	json_word(&j, "benchmark", "apf");
	json_word(&j, "target", o->setup->what & APF_DO_HALT ? "hlt" : "compute");
	json_num(&j, "outstanding", o->setup->max_out);
	json_num(&j, "seed", o->setup->seed);
	json_num(&j, "events", o->n.announced);
	json_num(&j, "ready", o->n.ready);
	json_num(&j, "lost", o->n.lost);
	json_num(&j, "doubled", o->n.doubled);
	json_num(&j, "wrong", o->n.wrong);
	json_num(&j, "stalled", o->stalled);
	apf_figures(&j, o);
	apf_distribution(&j, "access_to_ready", &o->access_to_ready);
	apf_distribution(&j, "fault_to_ready", &o->fault_to_ready);
	apf_distribution(&j, "given_to_ready", &o->given_to_ready);
	json_key(&j, "emulator");
	fputs(o->emulator ?: "null", j.f);
	fputs("}\n", j.f);
}

static void apf_table(const struct apf_outcome *o)
{
	printf("%-7s %11s %9s %9s %9s %9s %9s %9s %9s %9s\n", "target", "outstanding", "events",
	       "lost", "doubled", "exits", "access", "p99", "#PF", "given");
	printf("%-7s %11lu", o->setup->what & APF_DO_HALT ? "hlt" : "compute", o->setup->max_out);
	cell(o->n.announced);
	cell(o->n.lost);
	cell(o->n.doubled);
	cell(o->stats.n[ST_EXITS]);
	cell(o->access_to_ready.p50);
	cell(o->access_to_ready.p99);
	cell(o->fault_to_ready.p50);
	cell(o->given_to_ready.p50);
	printf("\n%.3f VM-Exits per event; ticks of the guest TSC, p50 and one p99, from the\n"
	       "access, from the #PF and from the giving of the page to the handler\n",
	       o->n.announced ? (double)o->stats.n[ST_EXITS] / o->n.announced : 0);
}

static void apf_ktap(const struct apf_outcome *o, bool ok)
{
	apf_figures(NULL, o);
	printf("%s 1 apf-%s-%lu # events %lu lost %lu doubled %lu wrong %lu stalled %lu\n",
	       ok ? "ok" : "not ok", o->setup->what & APF_DO_HALT ? "hlt" : "compute",
	       o->setup->max_out, o->n.announced, o->n.lost, o->n.doubled, o->n.wrong,
	       o->stalled);
}

void report_apf(const struct apf_outcome *o, bool ok)
{
	switch (opts.output) {
	case OUTPUT_TABLE:
		return apf_table(o);
	case OUTPUT_JSON:
		return apf_json(o);
	case OUTPUT_KTAP:
		return apf_ktap(o, ok);
	}
}
