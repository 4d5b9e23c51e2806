// SPDX-License-Identifier: GPL-2.0
/*
 * The `post` benchmark: its options, and for each workload a VM, its vCPU threads, the
 * counters around it, the final account.
 */
#include <getopt.h>
#include <stdlib.h>
#include <string.h>

#include "kvm_util.h"

#include "bench.h"

#define STR(x)		#x
#define XSTR(x)		STR(x)

static const char post_help[] =
"usage: kvm-mode-bench post [options]\n"
"\n"
"post: interrupts are posted to vCPU 0 at random gaps without waiting for them;\n"
"every post is accounted for (README.md says how).\n"
"\n"
"  --workload LIST    what the target does: compute, exits, fastpath, hlt, mixed,\n"
"                     comma separated, or all (default all); may be repeated\n"
"  --posts N          posts per workload, over all senders (default 100000)\n"
"  --sender KIND      icr: vCPUs, by ICR writes; irqfd: host threads, each vector\n"
"                     by an eventfd of its own with an MSI route; timer: the\n"
"                     target's TSC deadline, whose interrupts KVM posts from another\n"
"                     CPU if the target's is in nohz_full= (default icr)\n"
"  --senders N        of that kind, 1 to " XSTR(POST_MAX_SENDERS) " (default 1)\n"
"  --seed N           seed of all random numbers (default 1)\n"
"  --gap MIN:MAX      ticks between a sender's posts (default 0:2000)\n"
"  --exit-gap MAX     ticks the target computes between operations (default 2000)\n"
"  --late TICKS       an interrupt is late when the target computed for longer\n"
"                     before it took it (default Intel 10000, AMD 200000)\n"
"  --long TICKS       the long computing between operations (default 4 times --late)\n"
"  --long-every N     one in N gaps of the target is long (default 64)\n"
"  --gap-cap TICKS    a step of computing longer than that is not counted\n"
"                     (default a tenth of --late)\n"
"  --stall MS         give up when nothing is handled for so long (default 1000)\n"
"  --timeout S        end a workload that takes longer (default 600)\n"
"  --halt-poll NS     KVM's halt polling (default 0 in hlt, else the module's)\n"
"  --no-trace-kicks   do not count kicks by the tracepoint ipi:ipi_send_cpu\n"
"  --lab-counters PORT  I/O port of the lab emulator's counters (default none)\n"
"  --json             one line of JSON per workload instead of a table\n"
"  --ktap             KTAP, one result per workload\n"
"  --help             this text\n"
"\n"
"Exit status: 0 all delivered in time, 1 something lost, doubled or late, or a\n"
"failure, 2 wrong usage, 4 skipped because KVM cannot be used here.\n";

const char * const workload_names[POST_NR_WORKLOADS] = {
	[POST_COMPUTE]	= "compute",
	[POST_EXITS]	= "exits",
	[POST_FASTPATH]	= "fastpath",
	[POST_HLT]	= "hlt",
	[POST_MIXED]	= "mixed",
};

static void parse_gap(char *arg)
{
	char *colon = strchr(arg, ':');

	if (!colon)
		usage_error("--gap wants MIN:MAX, not", arg);
	*colon = 0;
	opts.gap_min = parse_number("gap", arg, 0, UINT32_MAX - 1);
	opts.gap_max = parse_number("gap", colon + 1, opts.gap_min, UINT32_MAX - 1);
}

static void parse_workloads(char *arg)
{
	char *name, *rest = arg;
	int i;

	while ((name = strsep(&rest, ","))) {
		if (!strcmp(name, "all")) {
			opts.workloads = (1u << POST_NR_WORKLOADS) - 1;
			continue;
		}
		for (i = 0; i < POST_NR_WORKLOADS; i++)
			if (!strcmp(name, workload_names[i]))
				break;
		if (i == POST_NR_WORKLOADS)
			usage_error("no such workload:", name);
		opts.workloads |= 1u << i;
	}
}

enum { O_WORKLOAD = 1, O_POSTS, O_SENDER, O_SENDERS, O_SEED, O_GAP, O_EXIT_GAP, O_LATE,
	O_LONG, O_LONG_EVERY, O_GAP_CAP, O_STALL, O_TIMEOUT, O_HALT_POLL, O_NO_TRACE, O_PORT,
	O_JSON, O_KTAP, O_HELP };

static const struct option long_options[] = {
	{ "workload", required_argument, NULL, O_WORKLOAD },
	{ "posts", required_argument, NULL, O_POSTS },
	{ "sender", required_argument, NULL, O_SENDER },
	{ "senders", required_argument, NULL, O_SENDERS },
	{ "seed", required_argument, NULL, O_SEED },
	{ "gap", required_argument, NULL, O_GAP },
	{ "exit-gap", required_argument, NULL, O_EXIT_GAP },
	{ "late", required_argument, NULL, O_LATE },
	{ "long", required_argument, NULL, O_LONG },
	{ "long-every", required_argument, NULL, O_LONG_EVERY },
	{ "gap-cap", required_argument, NULL, O_GAP_CAP },
	{ "stall", required_argument, NULL, O_STALL },
	{ "timeout", required_argument, NULL, O_TIMEOUT },
	{ "halt-poll", required_argument, NULL, O_HALT_POLL },
	{ "no-trace-kicks", no_argument, NULL, O_NO_TRACE },
	{ "lab-counters", required_argument, NULL, O_PORT },
	{ "json", no_argument, NULL, O_JSON },
	{ "ktap", no_argument, NULL, O_KTAP },
	{ "help", no_argument, NULL, O_HELP },
	{ }
};

static void parse_option(int opt, char *arg)
{
	switch (opt) {
	case O_WORKLOAD:
		return parse_workloads(arg);
	case O_POSTS:
		opts.posts = parse_number("posts", arg, 1, 100000000);
		break;
	case O_SENDER:
		opts.irqfd = !strcmp(arg, "irqfd");
		opts.timer = !strcmp(arg, "timer");
		if (strcmp(arg, "icr") && !opts.irqfd && !opts.timer)
			usage_error("no such sender:", arg);
		break;
	case O_SENDERS:
		opts.senders = parse_number("senders", arg, 1, POST_MAX_SENDERS);
		break;
	case O_SEED:
		opts.seed = parse_number("seed", arg, 0, INT64_MAX);
		break;
	case O_GAP:
		return parse_gap(arg);
	case O_EXIT_GAP:
		opts.exit_gap_max = parse_number("exit-gap", arg, 0, UINT32_MAX - 1);
		break;
	case O_LATE:
		opts.late_bound = parse_number("late", arg, 10, INT64_MAX / 8);
		break;
	case O_LONG:
		opts.long_ticks = parse_number("long", arg, 1, INT64_MAX);
		break;
	case O_LONG_EVERY:
		opts.long_every = parse_number("long-every", arg, 1, UINT32_MAX);
		break;
	case O_GAP_CAP:
		opts.gap_cap = parse_number("gap-cap", arg, 1, INT64_MAX);
		break;
	case O_STALL:
		opts.stall_ms = parse_number("stall", arg, 1, 3600000);
		break;
	case O_TIMEOUT:
		opts.timeout_s = parse_number("timeout", arg, 1, 86400);
		break;
	case O_HALT_POLL:
		opts.halt_poll_ns = parse_number("halt-poll", arg, 0, UINT32_MAX);
		break;
	case O_NO_TRACE:
		opts.trace_kicks = false;
		break;
	case O_PORT:
		opts.lab_port = parse_number("lab-counters", arg, 0, 0xffff);
		break;
	case O_JSON:
		opts.output = OUTPUT_JSON;
		break;
	case O_KTAP:
		opts.output = OUTPUT_KTAP;
		break;
	case O_HELP:
		opts.help = true;
		break;
	default:
		fputs("kvm-mode-bench: see --help\n", stderr);
		_exit(EXIT_USAGE);
	}
}

bool post_parse(int argc, char **argv)
{
	int opt;

	if (argc < 2 || strcmp(argv[1], "post"))
		return false;
	while ((opt = getopt_long(argc - 1, argv + 1, "h", long_options, NULL)) != -1)
		parse_option(opt == 'h' ? O_HELP : opt, optarg);
	if (opts.help) {
		fputs(post_help, stdout);
		fflush(stdout);
		_exit(EXIT_SUCCESS);
	}
	if (optind < argc - 1)
		usage_error("unknown argument:", argv[optind + 1]);
	if (opts.timer && opts.senders > 1)
		usage_error("the target has one timer, not", "several");
	if (!opts.workloads)
		opts.workloads = (1u << POST_NR_WORKLOADS) - 1;
	return true;
}

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

/* -1: none, or not to be read */
static long first_number(const char *path)
{
	FILE *f = fopen(path, "r");
	long n = -1;

	if (f && fscanf(f, "%ld", &n) != 1)
		n = -1;
	if (f)
		fclose(f);
	return n;
}

/*
 * With a timer: one in nohz_full=. KVM's timers of its vCPU expire on others, which post:
 * kvm_can_post_timer_interrupt().
 */
static unsigned int target_cpu;

static void target_cpu_find(void)
{
	long cpu = first_number("/sys/devices/system/cpu/nohz_full");

	if (cpu < 0 || first_number("/sys/module/kvm/parameters/pi_inject_timer") != 1)
		skip(NULL, "KVM posts no timers here: boot with nohz_full=CPUs");
	target_cpu = cpu;
}

static void vm_setup(struct post_vm *p, enum post_workload workload)
{
	struct post_setup cfg = {
		.name		= workload_names[workload],
		.workload	= workload,
		.senders	= opts.irqfd || opts.timer ? 0 : opts.senders,
		.host_senders	= opts.irqfd ? opts.senders : 0,
		.irqfd		= opts.irqfd,
		.timer		= opts.timer,
		.target_cpu	= target_cpu,
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

static bool run_one(enum post_workload workload, struct post_outcome *out)
{
	struct vcpu_stats before[POST_MAX_VCPUS];
	int stats_fd[POST_MAX_VCPUS];
	struct mode_counts mode;
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
	mode_counts_read(&mode);
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
	out->mode = mode_counts_since(&mode);
	results(&p, out);

	for (i = 0; i < p.nr_vcpus; i++)
		close(stats_fd[i]);
	post_vm_free(&p);
	return verdict(out);
}

int post_run(void)
{
	unsigned int i, nr = 0;
	bool ok = true;

	if (host.nr_cpus < opts.senders + 2)
		warn("%u CPUs for %lu vCPU threads and this program: they share, latencies suffer",
		     host.nr_cpus, opts.senders + 1);
	pin_self_to_cpu((opts.senders + 1) % host.nr_cpus);

	if (opts.timer)
		target_cpu_find();
	report_plan(__builtin_popcount(opts.workloads), opts.seed);
	for (i = 0; i < POST_NR_WORKLOADS; i++) {
		struct post_outcome out;
		bool good;

		if (!(opts.workloads & 1u << i))
			continue;
		good = run_one(i, &out);
		report_post(&out, good, ++nr);
		ok &= good;
		free(out.emulator);
	}
	return ok ? EXIT_SUCCESS : EXIT_LOST;
}
