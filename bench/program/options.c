// SPDX-License-Identifier: GPL-2.0
/* The options of the program, and how it ends when they are wrong; see options.h. */
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <unistd.h>

#include "options.h"

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

/* Of die() and warn() */
static void message(bool fatal, const char *text)
{
	bool ktap = fatal && opts.output == OUTPUT_KTAP;

	fprintf(ktap ? stdout : stderr, "%s%s\n", ktap ? "Bail out! " : "kvm-mode-bench: ", text);
	if (!fatal)
		return;
	fflush(stdout);
	_exit(EXIT_LOST);
}

void options_init(void)
{
	messages_to(message);
}

void skip(const char *name, const char *fmt, ...)
{
	bool ktap = opts.output == OUTPUT_KTAP;
	FILE *f = ktap ? stdout : stderr;
	va_list ap;

	if (ktap && name)
		printf("1..1\nok 1 %s # SKIP ", name);
	else
		fputs(ktap ? "1..0 # SKIP " : "kvm-mode-bench: skipped: ", f);
	va_start(ap, fmt);
	vfprintf(f, fmt, ap);
	va_end(ap);
	fputc('\n', f);
	fflush(f);
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
