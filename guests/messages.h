/* SPDX-License-Identifier: GPL-2.0 */
/* What the VMs have to say; the program that runs them decides how it is said. */
#ifndef GUESTS_MESSAGES_H
#define GUESTS_MESSAGES_H

#include <stdbool.h>

#include <linux/compiler.h>

/*
 * @say gets each message, without a newline.  It does not return from a @fatal one, or the
 * program ends with exit status 1.  Without this call they go to stderr.
 */
void messages_to(void (*say)(bool fatal, const char *text));

/* The test or the benchmark cannot go on: the host, or the program itself, is broken. */
void __noreturn __printf(1, 2) die(const char *fmt, ...);
void __printf(1, 2) warn(const char *fmt, ...);

#endif /* GUESTS_MESSAGES_H */
