// SPDX-License-Identifier: GPL-2.0
/*
 * The benchmark of pages that are announced in kernel mode: what another task of the guest gets
 * done while one waits for its pages.  The guest is tasks-guest.c.
 */
#include <getopt.h>
#include <string.h>
#include <unistd.h>

#include "kvm_util.h"
#include "processor.h"

#include "apf-vm.h"
#include "bench.h"
#include "tasks.h"

#define PAGES		64

static const char help[] =
"usage: kvm-mode-bench tasks [options]\n"
"\n"
"tasks: a task of the guest touches pages in kernel mode that are not there\n"
"(userfaultfd gives them later); another one computes while the first one sleeps.\n"
"There is one vCPU, and no timer tick.\n"
"\n"
"  --told T         when the guest is told of such a page: user (in user mode only,\n"
"                   so that the vCPU halts), always (it halts by itself where it\n"
"                   cannot sleep) or list (where its list of words says that it can\n"
"                   sleep; patched KVM only) (default user)\n"
"  --held PERCENT   accesses where it cannot sleep (default 25)\n"
"  --rounds N       of 64 pages each (default 8)\n"
"  --gap MAX        ticks between two touches, about, 0 to MAX (default 2000)\n"
"  --delay MAX      ticks until a page is given, 0 to MAX (default 40000)\n"
"  --seed N         seed of what is random (default 1)\n"
"  --json           one line of JSON instead of a table\n"
"  --help           this text\n"
"\n"
"Exit status: 0 done, 1 an event was lost or came where the guest cannot sleep, or a\n"
"failure, 2 wrong usage, 4 skipped: KVM or userfaultfd cannot be used here.\n";

static int stats_fd;
static struct vcpu_stats before;

/* What is measured begins. */
static bool asked(struct apf_host_vcpu *v, u32 what)
{
	(void)v;
	if (what == TASKS_BEGIN)
		vcpu_stats_read(stats_fd, &before);
	return what == TASKS_BEGIN;
}

static struct apf_setup setup = {
	.name = "tasks",
	.nr_vcpus = 1,
	.seed = 1,
	.pages = PAGES,
	.rounds = 8,
	.max_out = 1,
	.gap_max = 2000,
	.delay_max = 40000,
	.guest_main = tasks_main,
	.asked = asked,
};

static const char * const told_names[TASKS_NR_TOLD] = { "user", "always", "list" };
static u64 told, held = 25;

enum { T_TOLD = 1, T_HELD, T_ROUNDS, T_GAP, T_DELAY, T_SEED, T_JSON, T_HELP };

static const struct option tasks_options[] = {
	{ "told", required_argument, NULL, T_TOLD },
	{ "held", required_argument, NULL, T_HELD },
	{ "rounds", required_argument, NULL, T_ROUNDS },
	{ "gap", required_argument, NULL, T_GAP },
	{ "delay", required_argument, NULL, T_DELAY },
	{ "seed", required_argument, NULL, T_SEED },
	{ "json", no_argument, NULL, T_JSON },
	{ "help", no_argument, NULL, T_HELP },
	{ }
};

static void parse_told(const char *arg)
{
	for (told = 0; told < TASKS_NR_TOLD; told++)
		if (!strcmp(arg, told_names[told]))
			return;
	usage_error("--told is user, always or list, not", arg);
}

static void parse_one(int opt, const char *arg)
{
	switch (opt) {
	case T_TOLD:
		return parse_told(arg);
	case T_HELD:
		held = parse_number("held", arg, 0, 100);
		break;
	case T_ROUNDS:
		setup.rounds = parse_number("rounds", arg, 1, 1000000);
		break;
	case T_GAP:
		setup.gap_max = parse_number("gap", arg, 0, UINT32_MAX - 1);
		break;
	case T_DELAY:
		setup.delay_max = parse_number("delay", arg, 0, UINT32_MAX - 1);
		break;
	case T_SEED:
		setup.seed = parse_number("seed", arg, 0, INT64_MAX);
		break;
	case T_JSON:
		opts.output = OUTPUT_JSON;
		break;
	case T_HELP:
		fputs(help, stdout);
		fflush(stdout);
		_exit(EXIT_SUCCESS);
	default:
		fprintf(stderr, "kvm-mode-bench: see tasks --help\n");
		_exit(EXIT_USAGE);
	}
}

bool tasks_parse(int argc, char **argv)
{
	int opt;

	if (argc < 2 || strcmp(argv[1], "tasks"))
		return false;
	while ((opt = getopt_long(argc - 1, argv + 1, "", tasks_options, NULL)) != -1)
		parse_one(opt, optarg);
	if (optind < argc - 1)
		usage_error("unknown argument:", argv[optind + 1]);
	return true;
}

static struct tasks *setup_guest(struct kvm_vm *vm)
{
	gva_t gva = vm_alloc(vm, sizeof(struct tasks), KVM_UTIL_MIN_VADDR);
	struct tasks *t = addr_gva2hva(vm, gva);

	memset(t, 0, sizeof(*t));
	write_guest_global(vm, tasks, (struct tasks *)gva);
	t->told = told;
	t->held = held;
	apf_vm_page(vm, &t->words, &t->words_gpa);
	apf_vm_page(vm, &t->list, &t->list_gpa);
	vm_install_exception_handler(vm, PF_VECTOR, tasks_fault);
	vm_install_exception_handler(vm, APF_VEC, tasks_ready);
	return t;
}

static bool more(struct apf_vm *a)
{
	(void)a;
	return true;
}

static void report(const struct tasks *t, const struct apf_vcpu *g, long long exits, u64 stalled)
{
	u64 ticks = g->t_end > g->t_start ? g->t_end - g->t_start : 0;

	if (opts.output == OUTPUT_JSON) {
		printf("{\"benchmark\": \"tasks\", \"told\": \"%s\", \"held\": %lu, ",
		       told_names[told], held);
		printf("\"seed\": %lu, \"pages\": %lu, ", setup.seed, g->touched);
		printf("\"announced\": %lu, \"slept\": %lu, \"halted\": %lu, ", g->announced,
		       t->slept, t->halted);
		printf("\"forbidden\": %lu, \"lost\": %lu, \"wrong_page\": %lu, ", t->forbidden,
		       g->announced - t->ready, g->wrong_page);
		printf("\"missing\": %lu, \"stalled\": %lu, ",
		       setup.rounds * PAGES - g->touched, stalled);
		printf("\"other\": %lu, \"ticks\": %lu, \"exits\": %lld}\n", t->other, ticks,
		       exits);
		return;
	}
	printf("%-7s %5s %8s %9s %8s %8s %12s %14s %10s\n", "told", "held", "pages", "announced",
	       "slept", "halted", "other's work", "ticks", "exits");
	printf("%-7s %4lu%% %8lu %9lu %8lu %8lu %12lu %14lu %10lld\n", told_names[told], held,
	       g->touched, g->announced, t->slept, t->halted, t->other, ticks, exits);
}

int tasks_run(void)
{
	struct vcpu_stats after;
	static struct apf_vm a;
	struct apf_vcpu *g;
	struct tasks *t;
	bool ok;

	apf_vm_create(&a, &setup);
	t = setup_guest(a.vm);
	g = a.v[0].g;
	stats_fd = vcpu_get_stats_fd(a.v[0].vcpu);
	apf_vm_start(&a);
	apf_vm_run(&a, more);
	vcpu_stats_read(stats_fd, &after);
	report(t, g, counter_delta(before.n[ST_EXITS], after.n[ST_EXITS]), a.stalled);
	ok = g->touched == setup.rounds * PAGES && g->announced == t->ready && !t->forbidden &&
	     !g->wrong_page && !a.stalled;
	close(stats_fd);
	apf_vm_free(&a);
	return ok ? EXIT_SUCCESS : EXIT_LOST;
}
