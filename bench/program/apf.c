// SPDX-License-Identifier: GPL-2.0
/*
 * The benchmark of asynchronous page faults.  Runs the guest of apf-guest.c once,
 * counts what it costs.
 */
#include <getopt.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kvm_util.h"
#include "processor.h"

#include "apf-vm.h"
#include "bench.h"

#define PAGES		256

static const char help[] =
"usage: kvm-mode-bench apf [options]\n"
"\n"
"apf: a vCPU touches pages that are not there (userfaultfd gives them later) and\n"
"goes on meanwhile; each asynchronous page fault is a token that comes back with\n"
"an interrupt when the page is ready.  Counts VM-Exits and IPIs per event; times,\n"
"in guest TSC ticks, from the access, from the #PF and from the giving of the\n"
"page to the handler's entry.\n"
"\n"
"  --outstanding N  events at once, 1 to 64 (default 1)\n"
"  --target T       while it waits the vCPU does: compute or hlt (default compute)\n"
"  --rounds N       of 256 pages each (default 8)\n"
"  --gap MAX        ticks between two touches, 0 to MAX (default 2000)\n"
"  --delay MAX      ticks until a page is given, 0 to MAX (default 40000)\n"
"  --seed N         seed of the random gaps and delays (default 1)\n"
"  --stall MS       tokens are lost when nothing moves for so long (default 3000)\n"
"  --no-trace-kicks do not count kicks by the tracepoint ipi:ipi_send_cpu\n"
"  --lab-counters PORT  I/O port of the lab emulator's counters (default none)\n"
"  --json           one line of JSON instead of a table\n"
"  --ktap           KTAP, one result\n"
"  --help           this text\n"
"\n"
"Exit status: 0 done, 1 an event was lost or came twice, or a failure, 2 wrong\n"
"usage, 4 skipped: KVM or userfaultfd cannot be used here.\n";

static struct apf_setup setup = {
	.name = "apf",
	.nr_vcpus = 1,
	.seed = 1,
	.pages = PAGES,
	.rounds = 8,
	.max_out = 1,
	.gap_max = 2000,
	.delay_max = 40000,
	.stall_ms = 3000,
};

enum { A_OUTSTANDING = 1, A_TARGET, A_ROUNDS, A_GAP, A_DELAY, A_SEED, A_STALL, A_NO_TRACE,
	A_LAB, A_JSON, A_KTAP, A_HELP };

static const struct option apf_options[] = {
	{ "outstanding", required_argument, NULL, A_OUTSTANDING },
	{ "target", required_argument, NULL, A_TARGET },
	{ "rounds", required_argument, NULL, A_ROUNDS },
	{ "gap", required_argument, NULL, A_GAP },
	{ "delay", required_argument, NULL, A_DELAY },
	{ "seed", required_argument, NULL, A_SEED },
	{ "stall", required_argument, NULL, A_STALL },
	{ "no-trace-kicks", no_argument, NULL, A_NO_TRACE },
	{ "lab-counters", required_argument, NULL, A_LAB },
	{ "json", no_argument, NULL, A_JSON },
	{ "ktap", no_argument, NULL, A_KTAP },
	{ "help", no_argument, NULL, A_HELP },
	{ }
};

static void parse_target(const char *arg)
{
	if (!strcmp(arg, "hlt"))
		setup.what = APF_DO_HALT;
	else if (strcmp(arg, "compute"))
		usage_error("--target is compute or hlt, not", arg);
}

static void parse_output(int opt)
{
	switch (opt) {
	case A_NO_TRACE:
		opts.trace_kicks = false;
		break;
	case A_JSON:
		opts.output = OUTPUT_JSON;
		break;
	case A_KTAP:
		opts.output = OUTPUT_KTAP;
		break;
	case A_HELP:
		fputs(help, stdout);
		fflush(stdout);
		_exit(EXIT_SUCCESS);
	default:
		fprintf(stderr, "kvm-mode-bench: see apf --help\n");
		_exit(EXIT_USAGE);
	}
}

static void parse_one(int opt, const char *arg)
{
	switch (opt) {
	case A_OUTSTANDING:
		setup.max_out = parse_number("outstanding", arg, 1, APF_MAX_OUT);
		break;
	case A_TARGET:
		parse_target(arg);
		break;
	case A_ROUNDS:
		setup.rounds = parse_number("rounds", arg, 1, 1000000);
		break;
	case A_GAP:
		setup.gap_max = parse_number("gap", arg, 0, UINT32_MAX - 1);
		break;
	case A_DELAY:
		setup.delay_max = parse_number("delay", arg, 0, UINT32_MAX - 1);
		break;
	case A_SEED:
		setup.seed = parse_number("seed", arg, 0, INT64_MAX);
		break;
	case A_STALL:
		setup.stall_ms = parse_number("stall", arg, 1, 3600000);
		break;
	case A_LAB:
		opts.lab_port = parse_number("lab-counters", arg, 1, 0xffff);
		break;
	default:
		parse_output(opt);
	}
}

bool apf_parse(int argc, char **argv)
{
	int opt;

	if (argc < 2 || strcmp(argv[1], "apf"))
		return false;
	while ((opt = getopt_long(argc - 1, argv + 1, "", apf_options, NULL)) != -1)
		parse_one(opt, optarg);
	if (optind < argc - 1)
		usage_error("unknown argument:", argv[optind + 1]);
	setup.samples = setup.rounds * PAGES;
	return true;
}

static bool more(struct apf_vm *a)
{
	(void)a;
	return true;
}

static void counters_delta(struct apf_outcome *o, const struct vcpu_stats *before,
			   const struct vcpu_stats *after, const struct irq_counts *irq)
{
	int i;

	for (i = 0; i < NR_VCPU_STATS; i++)
		o->stats.n[i] = counter_delta(before->n[i], after->n[i]);
	for (i = 0; i < NR_IRQ_LINES; i++)
		o->irq.first[i] = counter_delta(irq[0].first[i], irq[1].first[i]);
}

int apf_run(void)
{
	struct vcpu_stats before, after;
	struct mode_counts mode;
	static struct apf_vm a;
	struct irq_counts irq[2];
	struct apf_outcome o = { .setup = &setup };
	bool tracing, ok;
	int stats_fd;

	report_plan(1, setup.seed);
	apf_vm_create(&a, &setup);
	stats_fd = vcpu_get_stats_fd(a.v[0].vcpu);
	vcpu_stats_read(stats_fd, &before);
	mode_counts_read(&mode);
	tracing = kick_trace_start();
	lab_counters_reset();
	irq_counts_read(&irq[0]);

	apf_vm_start(&a);
	apf_vm_run(&a, more);

	irq_counts_read(&irq[1]);
	o.emulator = lab_counters_read();
	o.kick_ipi_traced = tracing ? kick_trace_stop() : NO_VALUE;
	vcpu_stats_read(stats_fd, &after);
	o.mode = mode_counts_since(&mode);
	counters_delta(&o, &before, &after, irq);
	apf_vm_count(&a, &o.n);
	apf_vm_tell_wrong(&a);
	o.stalled = a.stalled;
	o.ticks = a.v[0].g->t_end - a.v[0].g->t_start;
	o.access_to_ready = distribution_of(a.v[0].access_to_ready, a.v[0].g->taken);
	o.fault_to_ready = distribution_of(a.v[0].fault_to_ready, a.v[0].g->taken);
	o.given_to_ready = distribution_of(a.v[0].given_to_ready, a.v[0].g->taken);
	ok = o.n.announced && !o.n.lost && !o.n.doubled && !o.n.wrong;
	report_apf(&o, ok);
	close(stats_fd);
	apf_vm_free(&a);
	free(o.emulator);
	return ok ? EXIT_SUCCESS : EXIT_LOST;
}
