// SPDX-License-Identifier: GPL-2.0
/*
 * SDM volume 3, "APIC Virtualization and Virtual Interrupts": evaluation and delivery of virtual interrupts, PPR,
 * writes that virtualize the TPR, the EOI and self IPIs, and what else happens at a VM entry.
 */
#include "machine.h"

void test_entry(void)
{
	uint64_t began;

	start(guest_nop, false);
	began = rdtsc();
	enter();
	say("VM entry and what follows, ticks ", rdtsc() - began);
	expect_not_taken();
	test_end("VM entry with nothing pending");

	start(guest_nop, true);
	pend(0x51);
	pend(0x83);
	enter();
	expect_taken(0x83, guest_nop);
	expect("lower vector's IRR", has(IRR, 0x51), 1);
	expect_status(0x51, 0x83);
	test_end("VM entry: RVI is delivered, and the next one becomes RVI");

	start(guest_nop, false);
	pend(0x51);
	enter();
	expect_not_taken();
	expect_status(0x51, 0);
	run(guest_sti);
	expect_taken(0x51, guest_sti_shadow);
	expect_status(0, 0x51);
	test_end("IF=0: it waits for STI, and the instruction behind it");

	start(guest_nop, true);
	pend(0x51);
	vmwrite(INTERRUPTIBILITY, BLOCKED_BY_STI);
	enter();
	expect_taken(0x51, guest_nop + 1);
	test_end("blocking by STI at VM entry: it waits for one instruction");
}

void test_priority(void)
{
	start(guest_nop, true);
	vapic[TPR / 4] = 0x60;
	pend(0x51);
	enter();
	expect_not_taken();
	expect("PPR", vapic[PPR / 4], 0x60);
	expect_status(0x51, 0);
	test_end("TPR at VM entry: PPR follows, a lower one waits");

	start(guest_nop, true);
	serve(0x62);
	pend(0x61);
	enter();
	expect("exit reason", vmread(EXIT_REASON), EXIT_VMCALL);
	expect("PPR", vapic[PPR / 4], 0x60);
	expect_status(0x61, 0x62);
	pend(0x71);
	run(guest_nop);
	expect_taken(0x71, guest_nop);
	expect("ISR", has(ISR, 0x62), 1);
	expect_status(0x61, 0x71);
	test_end("class in service: the same waits, a higher one does not");

	start(guest_nop, false);
	vapic[TPR / 4] = 0x34;
	serve(0x62);
	enter();
	expect("PPR", vapic[PPR / 4], 0x60);
	vapic[TPR / 4] = 0x6a;
	run(guest_nop);
	expect("PPR", vapic[PPR / 4], 0x6a);
	test_end("PPR: the higher of TPR and SVI");
}

static enum exit wrmsrs(int offset, uint32_t val)
{
	guest_rsi = X2_MSR(offset);
	guest_rdi = val;
	return run(guest_wrmsr);
}

static void test_eoi(void)
{
	start(guest_nop, true);
	serve(0x45);
	serve(0x83);
	pend(0x42);
	wrmsrs(EOI, 0);
	expect("exit reason", vmread(EXIT_REASON), EXIT_VMCALL);
	expect("ISR", has(ISR, 0x83), 0);
	expect("PPR", vapic[PPR / 4], 0x40);
	expect_status(0x42, 0x45);
	wrmsrs(EOI, 0);
	expect_taken(0x42, guest_wrmsr_done);
	expect_status(0, 0x42);
	test_end("EOI: the next one in service, then the next one pending, behind the instruction");

	start(guest_nop, true);
	serve(0x83);
	vmwrite(EOI_EXIT_BITMAP + 4, 1ull << (0x83 - 128));
	expect("exit reason", wrmsrs(EOI, 0), EXIT_EOI);
	expect("qualification", vmread(EXIT_QUALIFICATION), 0x83);
	expect("RIP", vmread(GUEST_RIP), (uint64_t)guest_wrmsr_done);
	expect("ISR", has(ISR, 0x83), 0);
	expect_status(0, 0);
	test_end("EOI with an EOI-exit bit: done, then a VM exit");
}

void test_writes(void)
{
	start(guest_nop, true);
	vapic[TPR / 4] = 0x60;
	pend(0x51);
	wrmsrs(TPR, 0x40);
	expect_taken(0x51, guest_wrmsr_done);
	expect("TPR", vapic[TPR / 4], 0x40);
	test_end("TPR write: lets one in, behind the instruction");

	start(guest_nop, true);
	vapic[TPR / 4] = 0x60;
	pend(0x51);
	guest_rsi = 4;
	run(guest_cr8);
	expect_taken(0x51, guest_cr8_done);
	expect("TPR", vapic[TPR / 4], 0x40);
	run(guest_read_cr8);
	expect("CR8", guest_rax, 4);
	test_end("CR8 is the TPR: a write lets one in, behind the instruction");

	start(guest_nop, false);
	wrmsrs(TPR, 0x5c);
	expect("PPR", vapic[PPR / 4], 0x5c);
	test_end("TPR write: PPR follows");

	test_eoi();

	start(guest_nop, true);
	wrmsrs(SELF_IPI, 0x51);
	expect_taken(0x51, guest_wrmsr_done);
	start(guest_nop, false);
	pend(0x83);
	wrmsrs(SELF_IPI, 0x51);
	expect("IRR", has(IRR, 0x51), 1);
	expect_status(0x83, 0);
	test_end("self IPI: pending, RVI the highest, delivered behind the instruction");

	start(guest_nop, false);
	for (int offset = 0x20; offset <= 0x3e0; offset += 0x10)
		vapic[offset / 4] = 0x5a0000 | offset;
	vapic[TPR / 4] = 0x5a;
	guest_rsi = X2_MSR(0x20);
	run(guest_rdmsr);
	expect("ID", guest_rax, 0x5a0020);
	guest_rsi = X2_MSR(PPR);
	run(guest_rdmsr);
	expect("PPR", guest_rax, 0x5a);
	guest_rsi = X2_MSR(0x390);
	run(guest_rdmsr);
	expect("current count", guest_rax, 0x5a0390);
	test_end("reads of registers are of the virtual-APIC page");
}

void test_events(void)
{
	start(guest_nop, true);
	pend(0x51);
	vmwrite(CPU_CONTROLS, vmread(CPU_CONTROLS) | WINDOW_EXITING);
	expect("exit reason", enter(), EXIT_WINDOW);
	expect("RIP", vmread(GUEST_RIP), (uint64_t)guest_nop);
	expect("IRR", has(IRR, 0x51), 1);
	expect_status(0x51, 0);
	test_end("interrupt-window exiting comes before a virtual interrupt");

	start(guest_nop, true);
	pend(0x51);
	vmwrite(ENTRY_EVENT, EVENT_VALID | 0x61);
	enter();
	expect("exit reason", vmread(EXIT_REASON), EXIT_VMCALL);
	expect("vector", guest_rax, 0x61);
	expect("IRR", has(IRR, 0x51), 1);
	expect_status(0x51, 0);
	test_end("an injected event comes before a virtual interrupt");

	start(guest_nop, true);
	vapic[TPR / 4] = 0x34;
	vmwrite(GUEST_IDTR_BASE, HOLE);
	vmwrite(ENTRY_EVENT, EVENT_VALID | 0x61);
	expect("exit reason", enter(), EXIT_EPT_VIOLATION);
	expect("IDT vectoring", vmread(IDT_VECTORING), EVENT_VALID | 0x61);
	expect("PPR", vapic[PPR / 4], 0x34);
	test_end("an injected event whose delivery exits: PPR was virtualized before");

	start(guest_nop, true);
	pend(0x51);
	vmwrite(GUEST_IDTR_BASE, HOLE);
	expect("exit reason", enter(), EXIT_EPT_VIOLATION);
	expect("IDT vectoring", vmread(IDT_VECTORING), EVENT_VALID | 0x51);
	expect("RIP", vmread(GUEST_RIP), (uint64_t)guest_nop);
	expect("ISR", has(ISR, 0x51), 1);
	expect_status(0, 0x51);
	test_end("a virtual interrupt whose delivery exits is reported as an interrupt");
}
