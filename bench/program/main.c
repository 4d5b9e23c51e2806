// SPDX-License-Identifier: GPL-2.0
/*
 * kvm-mode-bench: benchmarks of interrupts and kicks with small guests, for
 * stock and patched KVM alike, on any host with /dev/kvm.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kvm_util.h"

#include "bench.h"

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
"  tasks   pages announced in kernel mode: what another task gets done meanwhile\n"
"\n"
"kvm-mode-bench BENCHMARK --help has the options.\n";

static const struct {
	bool (*parse)(int argc, char **argv);
	int (*run)(void);
} benchmarks[] = {
	{ post_parse, post_run },
	{ latency_parse, latency_run },
	{ apf_parse, apf_run },
	{ tasks_parse, tasks_run },
};

static int (*run)(void);

/*
 * The library's own constructor already needs KVM's module parameters. This
 * one runs first, so that --help and wrong usage do not depend on KVM. The
 * library prints a plan when it skips, so KTAP's version line comes before it.
 */
static void __attribute__((constructor(101))) options_parse(int argc, char **argv)
{
	const char *name = argc > 1 ? argv[1] : "";
	unsigned int i;

	options_init();
	if (!strcmp(name, "--help") || !strcmp(name, "-h")) {
		fputs(overview, stdout);
		fflush(stdout);
		_exit(EXIT_SUCCESS);
	}
	if (!*name || *name == '-')
		usage_error("no benchmark named, expected one such as", "post");
	for (i = 0; i < ARRAY_SIZE(benchmarks) && !run; i++)
		if (benchmarks[i].parse(argc, argv))
			run = benchmarks[i].run;
	if (!run)
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

int main(void)
{
	on_exit(map_status, NULL);
	/* The library loads the guest from this file; argv[0] may lack a path. */
	program_invocation_name = "/proc/self/exe";
	host_info_read();
	return run();
}
