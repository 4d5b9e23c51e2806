// SPDX-License-Identifier: GPL-2.0
/*
 * kvm-mode-bench: benchmarks of interrupts and kicks with small guests, for
 * stock and patched KVM alike. Started by the lab's runner inside L1, or by a
 * person on any host with /dev/kvm. Here: the benchmarks' names, the options of
 * `post`, messages.
 */
#include <errno.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kvm_util.h"

#include "bench.h"

#define STR(x)		#x
#define XSTR(x)		STR(x)

static const char overview[] =
"usage: kvm-mode-bench BENCHMARK [options]\n"
"\n"
"Benchmarks of interrupts and kicks, with small guests of its own.\n"
"\n"
"  post    interrupts posted at random without waiting: what is lost, late or\n"
"          wasted, what a post costs\n"
"  ipi     latency of one IPI: self, unicast, multicast, broadcast\n"
"  kick    from a kick to the vCPU being out of the run loop\n"
"  exit    round trip of a VM-Exit, ordinary and fastpath\n"
"  timer   latency of the TSC-deadline timer\n"
"  apf     asynchronous page faults: what a page-ready event costs\n"
"\n"
"kvm-mode-bench BENCHMARK --help has the options.\n";

static const char post_help[] =
"usage: kvm-mode-bench post [options]\n"
"\n"
"post: vCPUs post interrupts to vCPU 0 at random gaps without waiting for them;\n"
"every post is accounted for (README.md says how).\n"
"\n"
"  --workload LIST    what the target does: compute, exits, fastpath, hlt, mixed,\n"
"                     comma separated, or all (default all); may be repeated\n"
"  --posts N          posts per workload, over all senders (default 100000)\n"
"  --senders N        sending vCPUs, 1 to " XSTR(POST_MAX_SENDERS) " (default 1)\n"
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

struct options opts = {
	.trace_kicks	= true,
	.posts		= 100000,
	.senders	= 1,
	.seed		= 1,
	.gap_max	= 2000,
	.exit_gap_max	= 2000,
	.long_every	= 64,
	.stall_ms	= 1000,
	.timeout_s	= 600,
	.halt_poll_ns	= NO_VALUE,
	.lab_port	= NO_VALUE,
};

static int (*other)(void);	/* not post */

static void say(FILE *f, const char *head, const char *fmt, va_list ap)
{
	fputs(head, f);
	vfprintf(f, fmt, ap);
	fputc('\n', f);
	fflush(f);
}

void die(const char *fmt, ...)
{
	bool ktap = opts.output == OUTPUT_KTAP;
	va_list ap;

	va_start(ap, fmt);
	say(ktap ? stdout : stderr, ktap ? "Bail out! " : "kvm-mode-bench: ", fmt, ap);
	va_end(ap);
	_exit(EXIT_LOST);
}

void warn(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	say(stderr, "kvm-mode-bench: ", fmt, ap);
	va_end(ap);
}

void skip(const char *name, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	if (opts.output != OUTPUT_KTAP) {
		say(stderr, "kvm-mode-bench: skipped: ", fmt, ap);
	} else {
		if (name)
			printf("1..1\nok 1 %s", name);
		else
			printf("1..0");
		say(stdout, " # SKIP ", fmt, ap);
	}
	va_end(ap);
	_exit(EXIT_SKIPPED);
}

void __noreturn usage_error(const char *what, const char *arg)
{
	fprintf(stderr, "kvm-mode-bench: %s '%s'; see --help\n", what, arg);
	_exit(EXIT_USAGE);
}

u64 parse_number(const char *opt, const char *arg, u64 min, u64 max)
{
	char *end;
	u64 n;

	errno = 0;
	n = strtoull(arg, &end, 0);
	if (errno || end == arg || *end || *arg == '-' || n < min || n > max) {
		fprintf(stderr,
			"kvm-mode-bench: --%s wants a value from %lu to %lu, not '%s'\n",
			opt, min, max, arg);
		_exit(EXIT_USAGE);
	}
	return n;
}

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

enum { O_WORKLOAD = 1, O_POSTS, O_SENDERS, O_SEED, O_GAP, O_EXIT_GAP, O_LATE,
	O_LONG, O_LONG_EVERY, O_GAP_CAP, O_STALL, O_TIMEOUT, O_HALT_POLL, O_NO_TRACE, O_PORT,
	O_JSON, O_KTAP, O_HELP };

static const struct option long_options[] = {
	{ "workload", required_argument, NULL, O_WORKLOAD },
	{ "posts", required_argument, NULL, O_POSTS },
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

static void post_parse(int argc, char **argv)
{
	int opt;

	while ((opt = getopt_long(argc, argv, "h", long_options, NULL)) != -1)
		parse_option(opt == 'h' ? O_HELP : opt, optarg);
	if (opts.help) {
		fputs(post_help, stdout);
		fflush(stdout);
		_exit(EXIT_SUCCESS);
	}
	if (optind < argc)
		usage_error("unknown argument:", argv[optind]);
	if (!opts.workloads)
		opts.workloads = (1u << POST_NR_WORKLOADS) - 1;
}

/*
 * The library's own constructor already needs KVM's module parameters. This
 * one runs first, so that --help and wrong usage do not depend on KVM. The
 * library prints a plan when it skips, so KTAP's version line comes before it.
 */
static void __attribute__((constructor(101))) options_parse(int argc, char **argv)
{
	const char *name = argc > 1 ? argv[1] : "";

	if (!strcmp(name, "--help") || !strcmp(name, "-h")) {
		fputs(overview, stdout);
		fflush(stdout);
		_exit(EXIT_SUCCESS);
	}
	if (!*name || *name == '-')
		usage_error("no benchmark named, expected one such as", "post");
	if (!strcmp(name, "post"))
		post_parse(argc - 1, argv + 1);
	else if (latency_parse(argc, argv))
		other = latency_run;
	else if (apf_parse(argc, argv))
		other = apf_run;
	else
		usage_error("no such benchmark:", name);
	if (opts.output == OUTPUT_KTAP) {
		setvbuf(stdout, NULL, _IOLBF, 0);
		puts("KTAP version 1");
	}
	if (access("/dev/kvm", R_OK | W_OK))
		skip(NULL, "/dev/kvm: %s; load kvm-intel or kvm-amd, and run as root",
		     strerror(errno));
}

/* A failed assertion of the library ends with 254: for our callers it is 1 */
static void map_status(int status, void *unused)
{
	(void)unused;
	if (status == 254)
		_exit(EXIT_LOST);
}

static int post_main(void)
{
	unsigned int i, nr = 0;
	bool ok = true;

	if (host.nr_cpus < opts.senders + 2)
		warn("%u CPUs for %lu vCPU threads and this program: they share, latencies suffer",
		     host.nr_cpus, opts.senders + 1);
	pin_self_to_cpu((opts.senders + 1) % host.nr_cpus);

	report_plan(__builtin_popcount(opts.workloads), opts.seed);
	for (i = 0; i < POST_NR_WORKLOADS; i++) {
		struct post_outcome out;
		bool good;

		if (!(opts.workloads & 1u << i))
			continue;
		good = post_run(i, &out);
		report_post(&out, good, ++nr);
		ok &= good;
		free(out.emulator);
	}
	return ok ? EXIT_SUCCESS : EXIT_LOST;
}

int main(void)
{
	on_exit(map_status, NULL);
	/* The library loads the guest from this file; argv[0] may lack a path. */
	program_invocation_name = "/proc/self/exe";
	host_info_read();
	return other ? other() : post_main();
}
