// SPDX-License-Identifier: GPL-2.0
/*
 * Of programs without an operating system: ports and MSRs, an IDT's gates, TAP on the debug port.
 */
#include "bare-metal.h"

int tests, failures;
bool test_failed;

void outb(uint16_t port, uint8_t val)
{
	asm volatile("outb %0, %1" : : "a"(val), "Nd"(port));
}

uint8_t inb(uint16_t port)
{
	uint8_t val;

	asm volatile("inb %1, %0" : "=a"(val) : "Nd"(port));
	return val;
}

void wrmsr(uint32_t msr, uint64_t val)
{
	asm volatile("wrmsr" : : "c"(msr), "a"((uint32_t)val), "d"((uint32_t)(val >> 32))
		     : "memory");
}

uint64_t rdmsr(uint32_t msr)
{
	uint32_t low, high;

	asm volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(msr));
	return (uint64_t)high << 32 | low;
}

uint64_t rdtsc(void)
{
	uint32_t low, high;

	asm volatile("rdtsc" : "=a"(low), "=d"(high));
	return (uint64_t)high << 32 | low;
}

void *memset(void *to, int byte, size_t n)
{
	for (uint8_t *p = to; n--; p++)
		*p = byte;
	return to;
}

void *memcpy(void *to, const void *from, size_t n)
{
	for (size_t i = 0; i < n; i++)
		((uint8_t *)to)[i] = ((const uint8_t *)from)[i];
	return to;
}

void print(const char *text)
{
	while (*text)
		outb(DEBUG_PORT, *text++);
}

void print_hex(uint64_t n)
{
	int shift = 60;

	print("0x");
	while (shift && !(n >> shift))
		shift -= 4;
	for (; shift >= 0; shift -= 4)
		outb(DEBUG_PORT, "0123456789abcdef"[n >> shift & 15]);
}

void expect(const char *what, uint64_t seen, uint64_t wanted)
{
	if (seen == wanted)
		return;
	test_failed = true;
	print("# ");
	print(what);
	print(": ");
	print_hex(seen);
	print(", expected ");
	print_hex(wanted);
	print("\n");
}

void test_end(const char *name)
{
	tests++;
	failures += test_failed;
	print(test_failed ? "not ok - " : "ok - ");
	print(name);
	print("\n");
	test_failed = false;
}

static void print_decimal(int n)
{
	if (n > 9)
		print_decimal(n / 10);
	outb(DEBUG_PORT, '0' + n % 10);
}

void tests_done(void)
{
	print("1..");
	print_decimal(tests);
	print("\n");
}

void say(const char *what, uint64_t n)
{
	print("# ");
	print(what);
	print_hex(n);
	print("\n");
}

void gate(uint64_t *idt, int vector, uint64_t to)
{
	idt[vector * 2] = (to & 0xffff) | 0x08 << 16 | 0x8e00ull << 32 | (to >> 16 & 0xffff) << 48;
	idt[vector * 2 + 1] = to >> 32;
}
