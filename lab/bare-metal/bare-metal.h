/* SPDX-License-Identifier: GPL-2.0 */
/* What programs without an operating system are made of: boot.S and bare-metal.c. They have boot_main() and ap_main(). */
#ifndef BARE_METAL_H
#define BARE_METAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ARRAY_SIZE(a)	(sizeof(a) / sizeof((a)[0]))
#define PAGE_SIZE	4096
#define DEBUG_PORT	0xe9
#define AP_START	0x8000		/* where ap_start goes, and the second CPU begins: page 8 */

/* boot.S */
extern char ap_start[], ap_start_end[], gdt[], gdt_end[];
extern uint64_t page_root[];
extern char host_isr[];			/* for a gate: counts the interrupt, EOI */
extern volatile uint64_t host_interrupts;
void boot_main(void);
void ap_main(void);
/* bare-metal.c */
extern int tests, failures;
extern bool test_failed;		/* of the test that ends next */
void *memset(void *to, int byte, size_t n);
void *memcpy(void *to, const void *from, size_t n);
void outb(uint16_t port, uint8_t val);
uint8_t inb(uint16_t port);
uint64_t rdmsr(uint32_t msr);
void wrmsr(uint32_t msr, uint64_t val);
uint64_t rdtsc(void);
void print(const char *text);
void print_hex(uint64_t n);
void expect(const char *what, uint64_t seen, uint64_t wanted);
void test_end(const char *name);
void tests_done(void);
void say(const char *what, uint64_t n);
void gate(uint64_t *idt, int vector, uint64_t to);	/* of KERNEL_CS, an interrupt gate */

#endif
