// SPDX-License-Identifier: GPL-2.0
/* Messages of the VMs; see messages.h. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "messages.h"

static void to_stderr(bool fatal, const char *text)
{
	fprintf(stderr, "%s%s\n", fatal ? "" : "warning: ", text);
}

static void (*message)(bool fatal, const char *text) = to_stderr;

void messages_to(void (*say)(bool fatal, const char *text))
{
	message = say;
}

static void vmessage(bool fatal, const char *fmt, va_list args)
{
	char text[512];

	vsnprintf(text, sizeof(text), fmt, args);
	message(fatal, text);
}

void die(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	vmessage(true, fmt, args);
	va_end(args);
	_exit(EXIT_FAILURE);
}

void warn(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	vmessage(false, fmt, args);
	va_end(args);
}
