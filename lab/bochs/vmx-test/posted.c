// SPDX-License-Identifier: GPL-2.0
/*
 * SDM volume 3, "Posted-Interrupt Processing", external interrupts in a guest, and HLT without HLT exiting. The
 * guest sends what arrives to its own CPU.
 */
#include "machine.h"

#define TO_SELF		0x40000		/* ICR: shorthand */
#define ON		1
#define A_WHILE		100000		/* of the VMX-preemption timer, longer than guest_timer_hlt's */

static struct posted_descriptor __attribute__((aligned(4096))) page[2];

static void post(int vector)
{
	posted.pir[vector / 32] |= 1u << vector % 32;
	posted.on = ON;
}

static void expect_processed(void)
{
	expect("ON", posted.on, 0);
	for (int i = 0; i < 8; i++)
		expect("PIR", posted.pir[i], 0);
	expect("the APIC's ISR", *apic(ISR + NOTIFICATION / 32 * 16), 0);
	expect("the APIC's IRR", *apic(IRR + NOTIFICATION / 32 * 16), 0);
}

static enum exit sends(char *code, int vector)
{
	guest_rdi = APIC_PAGE + ICR;
	guest_rsi = TO_SELF | vector;
	return run(code);
}

static void host_takes_interrupts(void)
{
	host_interrupts = 0;
	asm volatile("sti; nop; nop; cli" : : : "memory");
}

void test_posted(void)
{
	start(guest_nop, true);
	post(0x51);
	sends(guest_ipi, NOTIFICATION);
	expect_taken(0x51, guest_ipi_done);
	expect_processed();
	test_end("notification in the guest: no exit, delivered at that boundary");

	start(guest_nop, true);
	vmwrite(POSTED_DESCRIPTOR, (uint64_t)&page[1]);
	page[1] = (struct posted_descriptor){ .pir = { [0x51 / 32] = 1u << 0x51 % 32 }, .on = ON };
	sends(guest_ipi, NOTIFICATION);
	expect_taken(0x51, guest_ipi_done);
	expect("ON", page[1].on, 0);
	vmwrite(POSTED_DESCRIPTOR, (uint64_t)&posted);
	test_end("a descriptor with 64 bytes' alignment, which begins no page");

	start(guest_nop, true);
	post(0x51);
	post(0x83);
	sends(guest_ipi, NOTIFICATION);
	expect_taken(0x83, guest_ipi_done);
	expect("IRR", has(IRR, 0x51), 1);
	expect_status(0x51, 0x83);
	expect_processed();
	test_end("several are posted: the highest is delivered, the next is RVI");

	start(guest_nop, false);
	post(0x51);
	sends(guest_ipi, NOTIFICATION);
	expect_not_taken();
	expect("IRR", has(IRR, 0x51), 1);
	expect_status(0x51, 0);
	expect_processed();
	run(guest_sti);
	expect_taken(0x51, guest_sti_shadow);
	test_end("IF=0: processed all the same, delivered after STI");

	start(guest_nop, false);
	post(0x51);
	sends(guest_ipi_sti, NOTIFICATION);
	expect_taken(0x51, guest_ipi_sti_shadow);
	test_end("IF=0, then STI in the same guest: delivered behind its shadow");

	start(guest_nop, false);
	pend(0x83);
	post(0x51);
	sends(guest_ipi, NOTIFICATION);
	expect_status(0x83, 0);
	expect("IRR", has(IRR, 0x51), 1);
	start(guest_nop, false);
	pend(0x51);
	posted.on = ON;
	sends(guest_ipi, NOTIFICATION);
	expect_status(0x51, 0);
	expect_processed();
	start(guest_nop, false);
	posted.on = ON;
	sends(guest_ipi, NOTIFICATION);
	expect_status(0, 0);
	expect_processed();
	test_end("a lower one is posted, or none: RVI stays");

	start(guest_nop, true);
	post(0x51);
	vapic[TPR / 4] = 0x50;
	sends(guest_ipi, NOTIFICATION);
	expect_not_taken();
	expect_status(0x51, 0);
	expect_processed();
	test_end("TPR: processed all the same, not delivered");

	start(guest_nop, true);
	post(0x51);
	*apic(ICR) = TO_SELF | NOTIFICATION;
	enter();
	expect_taken(0x51, guest_nop);
	expect_processed();
	test_end("notification that is pending at VM entry: processed, no exit");

	start(guest_nop, true);
	post(0x51);
	*apic(ICR) = TO_SELF | NOTIFICATION;
	host_takes_interrupts();
	expect("interrupts of the host", host_interrupts, 1);
	expect("ON", posted.on, ON);
	enter();
	expect_not_taken();
	expect("ON", posted.on, ON);
	test_end("notification in the host: an interrupt of its own, nothing is processed");
}

void test_external(void)
{
	for (int interrupts = 0; interrupts < 2; interrupts++) {
		start(guest_nop, interrupts);
		expect("exit reason", sends(guest_ipi, OTHER_VECTOR), EXIT_INTERRUPT);
		expect("exit event", vmread(EXIT_EVENT), EVENT_VALID | OTHER_VECTOR);
		expect("RIP", vmread(GUEST_RIP), (uint64_t)guest_ipi_done);
		*apic(EOI) = 0;
	}
	test_end("another external interrupt exits, whatever IF is, and is acknowledged");

	start(guest_nop, true);
	vmwrite(PIN_CONTROLS, vmread(PIN_CONTROLS) & ~POSTED_INTERRUPTS);
	post(0x51);
	expect("exit reason", sends(guest_ipi, NOTIFICATION), EXIT_INTERRUPT);
	expect("exit event", vmread(EXIT_EVENT), EVENT_VALID | NOTIFICATION);
	expect("ON", posted.on, ON);
	*apic(EOI) = 0;
	test_end("without posted interrupts the notification vector is like any other");
}

static enum exit sleeps(int vector)
{
	guest_rdi = APIC_PAGE;
	guest_rsi = vector;
	return run(guest_timer_hlt);
}

void test_hlt(void)
{
	start(guest_nop, false);
	post(0x51);
	sleeps(NOTIFICATION);
	expect_taken(0x51, guest_timer_hlt_done);
	expect_processed();
	test_end("notification in HLT: delivered, HLT is over");

	start(guest_nop, false);
	vmwrite(PIN_CONTROLS, vmread(PIN_CONTROLS) | PREEMPTION_TIMER);
	vmwrite(TIMER_VALUE, A_WHILE);
	posted.on = ON;
	expect("exit reason", sleeps(NOTIFICATION), EXIT_TIMER);
	expect("RIP", vmread(GUEST_RIP), (uint64_t)guest_timer_hlt_done);
	expect("activity state", vmread(ACTIVITY), HALTED);
	expect_processed();
	test_end("notification in HLT with nothing to deliver: HLT goes on");

	start(guest_nop, false);
	expect("exit reason", sleeps(OTHER_VECTOR), EXIT_INTERRUPT);
	expect("RIP", vmread(GUEST_RIP), (uint64_t)guest_timer_hlt_done);
	expect("activity state", vmread(ACTIVITY), HALTED);
	*apic(EOI) = 0;
	pend(0x51);
	enter();
	expect_taken(0x51, guest_timer_hlt_done);
	test_end("external interrupt in HLT: the exit saves the state, and a virtual one ends it at the entry");

	start(guest_nop, true);
	vmwrite(ACTIVITY, HALTED);
	vmwrite(CPU_CONTROLS, vmread(CPU_CONTROLS) | WINDOW_EXITING);
	expect("exit reason", enter(), EXIT_WINDOW);
	expect("RIP", vmread(GUEST_RIP), (uint64_t)guest_nop);
	test_end("entered in HLT with interrupt-window exiting: it exits at once");

	start(guest_nop, true);
	vmwrite(ACTIVITY, HALTED);
	*apic(TIMER) = OTHER_VECTOR;
	*apic(INITIAL_COUNT) = 2000;
	expect("exit reason", enter(), EXIT_INTERRUPT);
	expect("RIP", vmread(GUEST_RIP), (uint64_t)guest_nop);
	expect("activity state", vmread(ACTIVITY), HALTED);
	*apic(EOI) = 0;
	test_end("entered in HLT with nothing pending: it sleeps");
}
