// SPDX-License-Identifier: GPL-2.0
/*
 * The latency benchmarks: ipi, exit, timer, kick.  Sets up the guest of
 * latency-guest.c, times kicks from here, sorts the samples.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "apic.h"
#include "kvm_util.h"
#include "processor.h"

#include "kvm-mode-probe.h"
#include "bench.h"
#include "latency.h"

#define MSI_NMI		(4 << 8)
#define MSI_ADDRESS	0xfee00000u

enum kick_how { KICK_SIGNAL, KICK_NMI, KICK_PLAIN, KICK_REQUEST, KICK_WAIT, NR_KICKS };

static const char * const op_names[LAT_NR_OPS] = {
	"self", "unicast", "multicast", "broadcast", "cpuid", "fastpath", "timer", "idle",
};

static const char * const state_names[LAT_NR_STATES] = { "compute", "exits", "fastpath", "hlt" };
static const char * const kick_names[NR_KICKS] = { "signal", "nmi", "plain", "request", "wait" };

static const char ipi_help[] =
"usage: kvm-mode-bench ipi [options]\n"
"\n"
"ipi: vCPU 0 sends one IPI after the other and waits until it was handled; the\n"
"time from before the ICR write to the (last) handler's entry, in guest TSC ticks.\n"
"\n"
"  --form F       self, unicast, multicast (logical) or broadcast (all but self);\n"
"                 default unicast\n"
"  --target T     what the targets do: compute, exits, fastpath, hlt (default compute)\n"
"  --vcpus N      2 to 20, multicast to 16; default 2 for unicast, else 4\n"
"  --xapic        xAPIC instead of x2APIC\n";

static const char exit_help[] =
"usage: kvm-mode-bench exit [options]\n"
"\n"
"exit: the round trip of one VM-Exit, in guest TSC ticks, two RDTSCs included.\n"
"\n"
"  --op OP        cpuid: an ordinary exit; fastpath: an ICR write to an absent\n"
"                 APIC ID, which KVM re-enters from at once (default cpuid)\n"
"  --window       how long after the exit a sender of posted interrupts still sees\n"
"                 the vCPU in the guest, and how long before the entry it already\n"
"                 does; watched from another CPU, by kvm-mode-probe.ko\n";

static const char timer_help[] =
"usage: kvm-mode-bench timer [options]\n"
"\n"
"timer: from a TSC deadline to its handler's entry, in guest TSC ticks.\n"
"\n"
"  --target T     what the vCPU does meanwhile: compute or hlt (default compute)\n";

static const char kick_help[] =
"usage: kvm-mode-bench kick [options]\n"
"\n"
"kick: from the host, a vCPU out of the run loop, in host TSC ticks.\n"
"\n"
"  --how H        signal: until KVM_RUN returns; nmi: KVM_SIGNAL_MSI, until the\n"
"                 guest's handler; plain, request, wait: kvm_vcpu_kick(),\n"
"                 kvm_make_all_cpus_request() without and with waiting, until\n"
"                 vcpu->mode is not \"exiting\" any more; these three need\n"
"                 kvm-mode-probe.ko, of selftests/probe (default signal)\n"
"  --target T     what the vCPU does: compute, exits, fastpath, hlt (default compute)\n";

static const char common_help[] =
"\n"
"  --samples N    timed operations (default 2000)\n"
"  --warmup N     operations ahead of them (default 100)\n"
"  --gap MAX      ticks between two operations, 0 to MAX (default 20000)\n"
"  --exit-gap MAX ticks that a target computes between its exits (default 2000)\n"
"  --settle TICKS time for targets to fall asleep, and least time to a deadline\n"
"                 (default Intel 50000, AMD 2000000)\n"
"  --seed N       seed of the random gaps (default 1)\n"
"  --stall MS     an operation that takes longer is lost, and ends the run\n"
"                 (default 1000)\n"
"  --no-pin       leave vCPU threads to the scheduler\n"
"  --json         one line of JSON instead of a table\n"
"  --ktap         KTAP, one result\n"
"  --help         this text\n"
"\n"
"Percentiles are exact, by nearest rank over all samples.  p50_low and p50_high\n"
"bound the median with 95% confidence, by order statistics.\n"
"\n"
"Exit status: 0 done, 1 an interrupt or a kick was lost, or a failure, 2 wrong\n"
"usage, 4 skipped: KVM, or the probe, cannot be used here.\n";

static struct {
	const char *name, *help;
	u64 op, state, how;
	u64 vcpus, samples, warmup, gap_max, exit_gap_max, settle, seed, stall_ms;
	bool xapic, no_pin, window;
} lat = {
	.samples	= 2000,
	.warmup		= 100,
	.gap_max	= 20000,
	.exit_gap_max	= 2000,
	.seed		= 1,
	.stall_ms	= 1000,
};

/* The vCPU's thread after KVM_RUN, see kick_signal() */
static u64 returned_tsc, returned_count;

static int stats_fd[POST_MAX_VCPUS];

static u64 name_of(const char *opt, const char *arg, const char * const *names, u64 n)
{
	u64 i;

	for (i = 0; i < n; i++)
		if (!strcmp(arg, names[i]))
			return i;
	fprintf(stderr, "kvm-mode-bench: --%s does not know '%s'; see %s --help\n", opt,
		arg, lat.name);
	_exit(EXIT_USAGE);
}

enum { O_FORM = 1, O_TARGET, O_VCPUS, O_XAPIC, O_OP, O_HOW, O_SAMPLES, O_WARMUP, O_GAP,
	O_EXIT_GAP, O_SETTLE, O_SEED, O_STALL, O_NO_PIN, O_WINDOW, O_JSON,
	O_KTAP, O_HELP };

static const struct option lat_options[] = {
	{ "form", required_argument, NULL, O_FORM },
	{ "target", required_argument, NULL, O_TARGET },
	{ "vcpus", required_argument, NULL, O_VCPUS },
	{ "xapic", no_argument, NULL, O_XAPIC },
	{ "op", required_argument, NULL, O_OP },
	{ "how", required_argument, NULL, O_HOW },
	{ "samples", required_argument, NULL, O_SAMPLES },
	{ "warmup", required_argument, NULL, O_WARMUP },
	{ "gap", required_argument, NULL, O_GAP },
	{ "exit-gap", required_argument, NULL, O_EXIT_GAP },
	{ "settle", required_argument, NULL, O_SETTLE },
	{ "seed", required_argument, NULL, O_SEED },
	{ "stall", required_argument, NULL, O_STALL },
	{ "no-pin", no_argument, NULL, O_NO_PIN },
	{ "window", no_argument, NULL, O_WINDOW },
	{ "json", no_argument, NULL, O_JSON },
	{ "ktap", no_argument, NULL, O_KTAP },
	{ "help", no_argument, NULL, O_HELP },
	{ }
};

static void parse_common(int opt, const char *arg)
{
	switch (opt) {
	case O_SAMPLES:
		lat.samples = parse_number("samples", arg, 10, 10000000);
		break;
	case O_WARMUP:
		lat.warmup = parse_number("warmup", arg, 0, 10000000);
		break;
	case O_GAP:
		lat.gap_max = parse_number("gap", arg, 0, UINT32_MAX - 1);
		break;
	case O_EXIT_GAP:
		lat.exit_gap_max = parse_number("exit-gap", arg, 0, UINT32_MAX - 1);
		break;
	case O_SETTLE:
		lat.settle = parse_number("settle", arg, 0, UINT32_MAX);
		break;
	case O_SEED:
		lat.seed = parse_number("seed", arg, 0, INT64_MAX);
		break;
	case O_STALL:
		lat.stall_ms = parse_number("stall", arg, 1, 3600000);
		break;
	case O_NO_PIN:
		lat.no_pin = true;
		break;
	case O_JSON:
		opts.output = OUTPUT_JSON;
		break;
	case O_KTAP:
		opts.output = OUTPUT_KTAP;
		break;
	case O_HELP:
		fputs(lat.help, stdout);
		fputs(common_help, stdout);
		fflush(stdout);
		_exit(EXIT_SUCCESS);
	default:
		fprintf(stderr, "kvm-mode-bench: see %s --help\n", lat.name);
		_exit(EXIT_USAGE);
	}
}

/* Does this benchmark have the option?  Its help says. */
static void check_option(const char *name)
{
	char text[32];

	snprintf(text, sizeof(text), "  --%s ", name);
	if (strstr(lat.help, text) || strstr(common_help, text))
		return;
	fprintf(stderr, "kvm-mode-bench: %s has no --%s\n", lat.name, name);
	_exit(EXIT_USAGE);
}

static void parse_one(int opt, const char *arg)
{
	switch (opt) {
	case O_FORM:
		lat.op = name_of("form", arg, op_names, LAT_BROADCAST + 1);
		break;
	case O_TARGET:
		lat.state = name_of("target", arg, state_names, LAT_NR_STATES);
		break;
	case O_VCPUS:
		lat.vcpus = parse_number("vcpus", arg, 2, LAT_MAX_VCPUS);
		break;
	case O_XAPIC:
		lat.xapic = true;
		break;
	case O_OP:
		lat.op = name_of("op", arg, op_names + LAT_CPUID, 2) + LAT_CPUID;
		break;
	case O_WINDOW:
		lat.window = true;
		break;
	case O_HOW:
		lat.how = name_of("how", arg, kick_names, NR_KICKS);
		break;
	default:
		parse_common(opt, arg);
	}
}

static void check_options(void)
{
	if (lat.op == LAT_TIMER && lat.state != LAT_COMPUTE && lat.state != LAT_HLT)
		usage_error("timer has no --target", state_names[lat.state]);
	if (lat.xapic && lat.op == LAT_MULTICAST && lat.vcpus > LAT_MAX_XAPIC_MULTICAST)
		usage_error("xAPIC has logical IDs for 8 vCPUs, not for",
			    "--vcpus above that");
	if (lat.op == LAT_MULTICAST && lat.vcpus > LAT_MAX_X2APIC_MULTICAST)
		usage_error("a cluster of the x2APIC has 16 vCPUs, no",
			    "--vcpus above that, with multicast");
	if (lat.xapic && lat.state == LAT_FASTPATH)
		usage_error("there is no fastpath exit with", "--xapic");
}

bool latency_parse(int argc, char **argv)
{
	static const struct {
		const char *name, *help;
		enum lat_op op;
	} known[] = {
		{ "ipi", ipi_help, LAT_UNICAST },
		{ "exit", exit_help, LAT_CPUID },
		{ "timer", timer_help, LAT_TIMER },
		{ "kick", kick_help, LAT_IDLE },
	};
	unsigned int i;
	int opt, index;

	for (i = 0; i < ARRAY_SIZE(known); i++)
		if (argc > 1 && !strcmp(argv[1], known[i].name))
			break;
	if (i == ARRAY_SIZE(known))
		return false;

	lat.name = known[i].name;
	lat.help = known[i].help;
	lat.op = known[i].op;
	while ((opt = getopt_long(argc - 1, argv + 1, "", lat_options, &index)) != -1) {
		if (opt != '?')
			check_option(lat_options[index].name);
		parse_one(opt, optarg);
	}
	if (optind < argc - 1)
		usage_error("unknown argument:", argv[optind + 1]);
	if (!lat.vcpus)
		lat.vcpus = lat.op == LAT_MULTICAST || lat.op == LAT_BROADCAST ? 4 : 2;
	check_options();
	return true;
}

/* --- kicks, timed from here -------------------------------------------------- */

static int probe_fd = -1;

static void on_return(struct post_vm *p, unsigned int vcpu)
{
	(void)p;
	if (vcpu)
		return;
	WRITE_ONCE(returned_tsc, rdtsc());
	__atomic_store_n(&returned_count, returned_count + 1, __ATOMIC_RELEASE);
}

static bool wait_above(u64 *count, u64 before, u64 start)
{
	while (__atomic_load_n(count, __ATOMIC_ACQUIRE) == before)
		if (rdtsc() - start > lat.stall_ms * guest_tsc_khz)
			return false;
	return true;
}

static s64 kick_signal(struct post_vm *p)
{
	u64 before = __atomic_load_n(&returned_count, __ATOMIC_ACQUIRE), start = rdtsc();

	pthread_kill(p->t[0].thread, POST_SIGNAL);
	if (!wait_above(&returned_count, before, start))
		return -1;
	return READ_ONCE(returned_tsc) - start;
}

static s64 kick_nmi(struct post_vm *p, struct lat_shared *l)
{
	struct kvm_msi msi = {
		.address_lo = MSI_ADDRESS | p->t[0].vcpu->id << 12,
		.data = MSI_NMI,
	};
	u64 before = __atomic_load_n(&l->vcpu[0].handled, __ATOMIC_ACQUIRE), start = rdtsc();

	if (__vm_ioctl(p->vm, KVM_SIGNAL_MSI, &msi) < 0)
		die("kick: KVM_SIGNAL_MSI failed: %s", strerror(errno));
	if (!wait_above(&l->vcpu[0].handled, before, start))
		return -1;
	return READ_ONCE(l->vcpu[0].t_handled) - p->s->host_tsc_offset - start;
}

/* Negative: lost.  *met: the kick found the vCPU in the run loop. */
static s64 kick_probe(struct post_vm *p, bool *met)
{
	static const unsigned long ops[NR_KICKS] = {
		[KICK_PLAIN] = PROBE_KICK,
		[KICK_REQUEST] = PROBE_REQUEST,
		[KICK_WAIT] = PROBE_WAIT,
	};
	struct kvm_mode_probe probe = {
		.vcpu_fd = p->t[0].vcpu->fd,
		.until_out_ms = lat.stall_ms,
	};

	if (ioctl(probe_fd, ops[lat.how], &probe))
		die("kick: " PROBE_PATH ": %s", strerror(errno));
	*met = probe.mode_before == PROBE_IN_RUN_LOOP;
	return probe.out_ticks ? (s64)probe.out_ticks : -1;
}

static s64 kick_one(struct post_vm *p, struct lat_shared *l, bool *met)
{
	*met = true;
	switch (lat.how) {
	case KICK_SIGNAL:
		return kick_signal(p);
	case KICK_NMI:
		return kick_nmi(p, l);
	default:
		return kick_probe(p, met);
	}
}

static void sleep_ticks(u64 ticks)
{
	u64 start = rdtsc();

	while (rdtsc() - start < ticks)
		;
}

/* Only kicks that find the vCPU in the run loop count; the others have no work. */
static u64 kick_run(struct post_vm *p, struct lat_shared *l, u32 *buf)
{
	u64 rnd = rnd_stream(lat.seed, LAT_MAX_VCPUS), tries = 0, said = now_ms();
	u64 settle = lat.state == LAT_HLT ? l->settle : 0;

	while (l->taken < lat.samples && ++tries < 100 * (lat.warmup + lat.samples)) {
		bool met;
		s64 ticks;

		sleep_ticks(settle + rnd_below(&rnd, lat.gap_max + 1));
		ticks = kick_one(p, l, &met);
		if (ticks < 0) {
			l->lost = 1;
			break;
		}
		if (tries > lat.warmup && met)
			buf[l->taken++] = ticks > UINT32_MAX ? UINT32_MAX : ticks;
		if (now_ms() - said > 1000) {
			said = now_ms();
			fprintf(stderr, "kick %s: %lu of %lu\n", kick_names[lat.how],
				l->taken, lat.samples);
		}
	}
	return tries;
}

/* --- the run ------------------------------------------------------------------- */

static void guest_wait(struct lat_shared *l)
{
	u64 start = now_ms(), said = start, limit = 600 * 1000;

	while (!__atomic_load_n(&l->done, __ATOMIC_ACQUIRE)) {
		u64 now = now_ms(), taken = READ_ONCE(l->taken);

		if (now - start > limit)
			die("%s: only %lu of %lu after %lu s", lat.name, taken, lat.samples,
			    limit / 1000);
		if (now - said > 1000) {
			said = now;
			fprintf(stderr, "%s %s: %lu of %lu, %.1f s elapsed\n", lat.name,
				op_names[lat.op], taken, lat.samples, (now - start) / 1e3);
		}
		sleep_ms(5);
	}
}

static struct lat_shared *guest_setup(struct post_vm *p, u32 **buf)
{
	bool alone = lat.op == LAT_SELF || lat.op >= LAT_CPUID;
	struct post_setup cfg = {
		.name		= lat.name,
		.workload	= POST_COMPUTE,
		.senders	= alone ? 0 : lat.vcpus - 1,
		.seed		= lat.seed,
		.stall_ms	= lat.stall_ms,
		.timeout_s	= 600,
		.no_samples	= true,
		.guest_main	= lat_guest_main,
		.returned	= on_return,
		.unpinned	= lat.no_pin,
	};
	u64 bytes = (lat.samples + 1) * sizeof(u32);
	u64 starts = lat.window ? lat.samples * sizeof(u64) : 0;
	struct lat_shared *l;
	gva_t gva;

	post_vm_create(p, &cfg, (bytes + starts + sizeof(*l)) / getpagesize() + 6);
	gva = vm_alloc(p->vm, sizeof(*l), KVM_UTIL_MIN_VADDR);
	l = addr_gva2hva(p->vm, gva);
	memset(l, 0, sizeof(*l));
	write_guest_global(p->vm, lat_guest_shared, (struct lat_shared *)gva);
	l->buf = vm_alloc(p->vm, bytes, KVM_UTIL_MIN_VADDR);
	*buf = addr_gva2hva(p->vm, l->buf);
	if (starts)
		l->starts = vm_alloc(p->vm, starts, KVM_UTIL_MIN_VADDR);
	if (lat.xapic)
		virt_pg_map(p->vm, APIC_DEFAULT_GPA, APIC_DEFAULT_GPA);
	vm_install_exception_handler(p->vm, LAT_VEC, lat_guest_irq);
	vm_install_exception_handler(p->vm, NMI_VECTOR, lat_guest_nmi);

	l->op = lat.op;
	l->state = lat.state;
	l->xapic = lat.xapic;
	l->nr_targets = cfg.senders;
	l->warmup = lat.warmup;
	l->samples = lat.samples;
	l->gap_max = lat.gap_max;
	l->exit_gap_max = lat.exit_gap_max;
	l->settle = lat.settle ?: host.intel ? 50000 : 2000000;
	l->seed = lat.seed;
	l->stall_ticks = lat.stall_ms * guest_tsc_khz;
	return l;
}

/* KVM_GET_STATS_FD waits for KVM_RUN to return: before the vCPUs start. */
static void stats_open(struct post_vm *p)
{
	unsigned int i;

	for (i = 0; i < p->nr_vcpus; i++)
		stats_fd[i] = vcpu_get_stats_fd(p->t[i].vcpu);
}

static void stats_add(struct post_vm *p, struct vcpu_stats *sum)
{
	struct vcpu_stats one;
	unsigned int i;
	int k;

	memset(sum, 0, sizeof(*sum));
	for (i = 0; i < p->nr_vcpus; i++) {
		vcpu_stats_read(stats_fd[i], &one);
		for (k = 0; k < NR_VCPU_STATS; k++)
			sum->n[k] = counter_sum(sum->n[k], one.n[k]);
	}
}

static void describe(struct lat_result *r)
{
	r->benchmark = lat.window ? "window" : lat.name;
	r->form = lat.op == LAT_IDLE ? kick_names[lat.how] : op_names[lat.op];
	r->target = lat.op == LAT_SELF || lat.op == LAT_CPUID || lat.op == LAT_ICR ?
		    NULL : state_names[lat.state];
	r->apic = lat.xapic ? "xapic" : "x2apic";
	r->clock = lat.op == LAT_IDLE ? "host TSC" : "guest TSC";
	r->warmup = lat.warmup;
	r->seed = lat.seed;
	r->pinned = !lat.no_pin;
}

static void probe_open(const struct lat_result *r)
{
	if (!lat.window && (lat.op != LAT_IDLE || lat.how < KICK_PLAIN))
		return;
	probe_fd = open(PROBE_PATH, O_RDWR | O_CLOEXEC);
	if (probe_fd < 0)
		skip(latency_case(r), "%s: %s; load kvm-mode-probe.ko, and run as root", PROBE_PATH,
		     strerror(errno));
}

int latency_run(void)
{
	struct vcpu_stats before, after;
	struct mode_counts mode;
	struct irq_counts irq_before, irq_after;
	struct lat_result r = { };
	struct post_vm p;
	struct lat_shared *l;
	u32 *buf;
	bool ok;
	int i;

	describe(&r);
	probe_open(&r);
	report_plan(1, lat.seed);
	l = guest_setup(&p, &buf);
	stats_open(&p);
	post_vm_start(&p);
	stats_add(&p, &before);
	mode_counts_read(&mode);
	irq_counts_read(&irq_before);
	post_vm_go(&p);
	if (lat.op == LAT_IDLE)
		r.tries = kick_run(&p, l, buf);
	else if (lat.window)
		window_watch(probe_fd, &p, l);
	else
		guest_wait(l);
	irq_counts_read(&irq_after);
	stats_add(&p, &after);
	r.mode = mode_counts_since(&mode);
	post_vm_stop(&p);

	for (i = 0; i < NR_VCPU_STATS; i++)
		r.stats.n[i] = counter_delta(before.n[i], after.n[i]);
	r.spurious = host.intel ? counter_delta(irq_before.n[IRQ_PIN],
						irq_after.n[IRQ_PIN]) : NO_VALUE;
	if (lat.window)
		window_find(&p, l, buf, &r.window);
	r.d = distribution_of(buf, l->taken);
	r.vcpus = l->nr_targets + 1;
	r.lost = l->lost;
	r.backwards = l->backwards;
	ok = !l->lost && r.d.count == lat.samples;
	report_latency(&r, ok);
	if (l->lost)
		warn("%s: operation %lu was not done after %lu ms", lat.name,
		     (u64)l->taken, lat.stall_ms);
	else if (!ok)
		warn("kick: only %lu of %lu kicks found the vCPU in the run loop", r.d.count,
		     r.tries);
	post_vm_free(&p);
	return ok ? EXIT_SUCCESS : EXIT_LOST;
}
