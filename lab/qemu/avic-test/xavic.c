// SPDX-License-Identifier: GPL-2.0
/*
 * AVIC, in xAPIC mode: APM volume 2, "Advanced Virtual Interrupt Controller", 15.29.3 to 15.29.9, on
 * one CPU.
 */
#include "machine.h"

/* --- the table of accesses --------------------------------------------------- */

/* r, w: '-' fault, '+' completed, 't' trap.  The APM's table 15-22, and what is said below it. */
static const struct {
	uint16_t first, last;
	char r, w;
} accesses[] = {
	{ 0x000, 0x010, '+', '+' },		/* not in the table, as others below */
	{ 0x020, 0x020, '+', 't' },		/* ID */
	{ 0x030, 0x030, '+', '-' },		/* version */
	{ 0x040, 0x070, '+', '+' },
	{ 0x080, 0x080, '+', '+' },		/* TPR */
	{ 0x090, 0x090, '-', '-' },		/* APR */
	{ 0x0a0, 0x0a0, '+', '-' },		/* PPR */
	{ 0x0b0, 0x0b0, '+', '+' },		/* EOI */
	{ 0x0c0, 0x0f0, '+', 't' },		/* RRR, LDR, DFR, SVR */
	{ 0x100, 0x270, '+', '-' },		/* ISR, TMR, IRR */
	{ 0x280, 0x280, '+', 't' },		/* ESR */
	{ 0x290, 0x2f0, '+', '+' },
	{ 0x300, 0x310, '+', '+' },		/* ICR */
	{ 0x320, 0x380, '+', 't' },		/* LVTs, initial count */
	{ 0x390, 0x390, '-', '-' },		/* current count */
	{ 0x3a0, 0x3d0, '+', '+' },
	{ 0x3e0, 0x3e0, '+', 't' },		/* divide configuration */
	{ 0x3f0, 0x3f0, '+', '+' },
	{ 0x400, 0x420, '-', '-' },		/* extended: feature, control, SEOI */
	{ 0x430, 0x470, '+', '+' },
	{ 0x480, 0xff0, '-', '-' },		/* IER, extended LVTs, reserved */
};

static void test_read(int offset, char wanted)
{
	uint32_t val = 0x5a000000 | offset;

	start(guest_read4);
	*reg(0, offset) = val;
	/* Keep what AVIC itself reads from asking for anything. */
	if (offset >= IRR && offset < IRR + 0x80)
		*field4(0, INT_CTL) |= V_TPR;
	if (offset == PPR) {
		*reg(0, TPR) = val = 0x5a;
		*field4(0, INT_CTL) |= 5;
	}
	guest_rdi = APIC_BAR + offset;
	run();
	if (wanted == '-')
		return expect_fault(offset, false, guest_read4);
	expect_done();
	expect("RIP", *field(0, SAVE_RIP), (uint64_t)guest_read4_done);
	expect("value", *field(0, SAVE_RAX) & 0xffffffff, val);
}

static void test_write(int offset, char wanted)
{
	uint32_t val = offset == ICR ? 0x40031 : 0x5a000031;	/* an IPI to itself */
	uint32_t before;

	start(guest_write4);
	before = *reg(0, offset);
	guest_writes(offset, val);
	if (wanted == '-') {
		expect_fault(offset, true, guest_write4);
		expect("register", *reg(0, offset), before);
	} else {
		if (wanted == 't')
			expect_trap(offset, 0);
		else
			expect_done();
		if (offset == TPR)
			val &= 0xff;
		if (offset != EOI)
			expect("register", *reg(0, offset), val);
	}
	expect("access page", *(uint32_t *)(access_page + offset), 0);
}

void test_accesses(void)
{
	for (size_t i = 0; i < ARRAY_SIZE(accesses); i++) {
		for (int at = accesses[i].first; at <= accesses[i].last; at += 0x10) {
			bool before = test_failed;

			test_read(at, accesses[i].r);
			test_write(at, accesses[i].w);
			if (test_failed != before) {
				print("# at offset ");
				print_hex(at);
				print("\n");
			}
		}
	}
	test_end("each register: completed, fault or trap");

	start(guest_write2);
	guest_rdi = APIC_BAR + TPR;
	guest_rsi = 0x20;
	run();
	expect_fault(TPR, true, guest_write2);
	start(guest_write4);
	guest_writes(0x324, 1);
	expect_fault(0x320, true, guest_write4);
	test_end("writes that are no aligned 32 bits: fault");

	start(guest_read4);
	*field4(0, INT_CTL) = V_INTR_MASKING;
	set(0, IRR, 0x51);
	*field(0, SAVE_RFLAGS) |= RFLAGS_IF;
	*(uint32_t *)(access_page + 0x90) = 0x1234;
	guest_rdi = APIC_BAR + 0x90;
	run();
	expect_done();
	expect("value", *field(0, SAVE_RAX) & 0xffffffff, 0x1234);
	expect("IRR", has(0, IRR, 0x51), 1);
	test_end("AVIC off: the page that the nested page table maps, no interrupt");
}

/* --- priorities and delivery ------------------------------------------------- */

void test_tpr(void)
{
	start(guest_write4);
	guest_writes(TPR, 0x5c);
	expect_done();
	expect("V_TPR", *field4(0, INT_CTL) & V_TPR, 5);
	expect("PPR", *reg(0, PPR), 0x5c);
	test_end("TPR write: V_TPR and PPR follow");

	start(guest_cr8);
	guest_rsi = 7;
	run();
	expect_done();
	expect("TPR", *reg(0, TPR), 0x70);
	expect("V_TPR", *field4(0, INT_CTL) & V_TPR, 7);
	test_end("CR8 write: TPR and V_TPR follow");

	start(guest_read_cr8);
	*reg(0, TPR) = 0x94;
	*field4(0, INT_CTL) |= 9;
	*field4(0, INT_CTL) &= ~V_INTR_MASKING;
	run();
	expect("CR8", *field(0, SAVE_RAX), 9);
	test_end("CR8 read: V_TPR, without V_INTR_MASKING as well");

	start(guest_nop);
	*field4(0, INT_CTL) |= 9;
	*field(0, SAVE_RFLAGS) |= RFLAGS_IF;
	set(0, IRR, 0x91);
	run();
	expect_done();
	expect("TPR", *reg(0, TPR), 0);
	expect("IRR", has(0, IRR, 0x91), 1);
	expect("V_TPR", *field4(0, INT_CTL) & V_TPR, 9);
	test_end("VMRUN: the VMCB's V_TPR counts, not the backing page's TPR");

	start(guest_nop);
	*reg(0, TPR) = 0x34;
	*field4(0, INT_CTL) |= 3;
	set(0, ISR, 0x62);
	run();
	expect("PPR", *reg(0, PPR), 0x60);
	*field4(0, INT_CTL) |= 6;
	*field4(0, INT_CTL) &= ~1u;
	*reg(0, TPR) = 0x6a;
	*field(0, SAVE_RIP) = (uint64_t)guest_nop;
	run();
	expect("PPR", *reg(0, PPR), 0x6a);
	test_end("PPR: the higher of TPR and ISR");
}

void test_delivery(void)
{
	start(guest_nop);
	*field(0, SAVE_RFLAGS) |= RFLAGS_IF;
	*field(0, SAVE_RAX) = 0;
	set(0, IRR, 0x51);
	set(0, IRR, 0x83);
	run();
	expect_taken(0x83);
	expect("lower vector's IRR", has(0, IRR, 0x51), 1);
	test_end("VMRUN: the highest vector of IRR is taken");

	guest_writes(EOI, 0);
	expect_done();
	expect("ISR", has(0, ISR, 0x83), 0);
	expect("PPR", *reg(0, PPR), 0);
	*field(0, SAVE_RIP) = (uint64_t)guest_sti;
	run();
	expect_taken(0x51);
	test_end("EOI write: done, the next one is taken with IF=1");

	start(guest_nop);
	set(0, IRR, 0x51);
	run();
	expect_done();
	expect("IRR", has(0, IRR, 0x51), 1);
	expect("ISR", has(0, ISR, 0x51), 0);
	*field(0, SAVE_RIP) = (uint64_t)guest_sti;
	run();
	expect_taken(0x51);
	test_end("IF=0: it waits for STI");

	start(guest_nop);
	*field(0, SAVE_RFLAGS) |= RFLAGS_IF;
	*field4(0, INT_STATE) = 1;
	set(0, IRR, 0x51);
	run();
	expect_taken(0x51);
	expect("RIP pushed", *(uint64_t *)(*field(0, SAVE_RSP)), (uint64_t)guest_nop + 1);
	test_end("interrupt shadow: it waits for one instruction");

	start(guest_write4);
	*field(0, SAVE_RFLAGS) |= RFLAGS_IF;
	*reg(0, TPR) = 0x50;
	*field4(0, INT_CTL) |= 5;
	set(0, IRR, 0x51);
	guest_writes(TPR, 0x5f);
	expect_done();
	expect("IRR", has(0, IRR, 0x51), 1);
	guest_writes(TPR, 0x4f);
	expect_taken(0x51);
	test_end("TPR: it waits for a lower one");

	start(guest_nop);
	*field(0, SAVE_RFLAGS) |= RFLAGS_IF;
	set(0, ISR, 0x60);
	set(0, IRR, 0x6f);
	*field(0, SAVE_RAX) = 0;
	run();
	expect_done();
	expect("RAX", *field(0, SAVE_RAX), 0);
	expect("IRR", has(0, IRR, 0x6f), 1);
	guest_writes(EOI, 0);
	expect_taken(0x6f);
	test_end("class in service: it waits for the EOI");

	start(guest_write4);
	set(0, ISR, 0x61);
	set(0, TMR, 0x61);
	guest_writes(EOI, 0);
	expect_trap(EOI, 0x61);
	expect("ISR", has(0, ISR, 0x61), 1);
	test_end("EOI of a level-triggered one: trap, ISR kept");

	start(guest_nop);
	*field4(0, INT_CTL) |= 1u << 8 | 0xfu << 16 | 1u << 20;	/* V_IRQ, ignore TPR */
	*field4(0, INT_CTL + 4) = 0x99;
	*field(0, SAVE_RFLAGS) |= RFLAGS_IF;
	*field(0, SAVE_RAX) = 0;
	run();
	expect_done();
	expect("RAX", *field(0, SAVE_RAX), 0);
	test_end("V_IRQ is ignored");

	start(guest_nop);
	*field(0, SAVE_RFLAGS) |= RFLAGS_IF;
	*field(0, SAVE_RSP) = 0x40000000 + 0x1000;	/* not in the nested page table */
	set(0, IRR, 0x51);
	run();
	expect("exit code", *field(0, EXIT_CODE), EXIT_NPF);
	expect("EXITINTINFO", *field4(0, EXIT_INT_INFO), 1u << 31 | 0x51);
	expect("ISR", has(0, ISR, 0x51), 1);
	expect("IRR", has(0, IRR, 0x51), 0);
	test_end("#VMEXIT during delivery: EXITINTINFO is an interrupt");
}

/* --- IPIs -------------------------------------------------------------------- */

void test_ipi_exits(void)
{
	for (int mode = 1; mode < 8; mode++) {
		start(guest_write4);
		sends(2 << 24, mode << 8 | 0x51);
		expect_incomplete(2 << 24, mode << 8 | 0x51, INVALID_TYPE, 0);
		expect("IRR", has(2, IRR, 0x51), 0);
	}
	start(guest_write4);
	sends(2 << 24, 0xc051);
	expect_incomplete(2 << 24, 0xc051, INVALID_TYPE, 0);
	test_end("IPI that is not fixed, or level-triggered: incomplete, invalid type");

	start(guest_write4);
	sends(2 << 24, 0x0f);
	expect_incomplete(2 << 24, 0x0f, INVALID_VECTOR, 0);
	test_end("IPI with a vector below 16: incomplete, invalid vector");

	start(guest_write4);
	sends(3 << 24, 0x51);
	expect_incomplete(3 << 24, 0x51, INVALID_TARGET, 3);
	sends((MAX_INDEX + 1) << 24, 0x51);
	expect_incomplete((MAX_INDEX + 1) << 24, 0x51, INVALID_TARGET, MAX_INDEX + 1);
	test_end("IPI to an ID that is not valid or beyond the table: invalid target");

	start(guest_write4);
	sends(2 << 24, 0x51);
	expect_incomplete(2 << 24, 0x51, NOT_RUNNING, 2);
	expect("IRR", has(2, IRR, 0x51), 1);
	test_end("IPI to one that does not run: IRR, incomplete");

	start(guest_write4);
	physical_table[3] = 0x3ffffff000ull | PHYS_VALID;
	sends(3 << 24, 0x51);
	expect_incomplete(3 << 24, 0x51, INVALID_PAGE, 3);
	test_end("IPI to one whose backing page is no memory: invalid backing page");
}

void test_ipi_delivery(void)
{
	start(guest_write4);
	sends(0, 0x40051);
	expect_done();
	expect("IRR", has(0, IRR, 0x51), 1);
	sends(0, 0x60);
	expect_done();
	expect("IRR", has(0, IRR, 0x60), 1);
	test_end("IPI to itself, by shorthand and by ID: IRR, no exit");

	start(guest_write4);
	*field(0, SAVE_RFLAGS) |= RFLAGS_IF;
	sends(0, 0x40051);
	expect_taken(0x51);
	expect("RIP pushed", *(uint64_t *)(*field(0, SAVE_RSP)), (uint64_t)guest_write4_done);
	test_end("IPI to itself with IF=1: taken after the instruction");

	start(guest_write4);
	sends(1 << 24, 0x1051);
	expect_done();
	expect("IRR", has(1, IRR, 0x51), 1);
	expect("ICR", *reg(0, ICR), 0x51);
	test_end("IPI to a running one: IRR, no exit, not busy");

	start(guest_write4);
	sends(0, 0x80051);
	expect_incomplete(0, 0x80051, NOT_RUNNING, 2);
	expect("own IRR", has(0, IRR, 0x51), 1);
	expect("IRR 1", has(1, IRR, 0x51), 1);
	expect("IRR 2", has(2, IRR, 0x51), 1);
	start(guest_write4);
	sends(0, 0xc0051);
	expect_incomplete(0, 0xc0051, NOT_RUNNING, 2);
	expect("own IRR", has(0, IRR, 0x51), 0);
	expect("IRR 1", has(1, IRR, 0x51), 1);
	start(guest_write4);
	physical_table[2] |= PHYS_RUNNING | 1;
	sends(0xffu << 24, 0x51);
	expect_done();
	expect("own IRR", has(0, IRR, 0x51), 1);
	expect("IRR 2", has(2, IRR, 0x51), 1);
	test_end("broadcasts: to every valid one");
}

void test_logical(void)
{
	start(guest_write4);
	physical_table[2] |= PHYS_RUNNING | 1;
	sends(0xffu << 24, 0x851);
	expect_done();
	expect("own IRR", has(0, IRR, 0x51), 1);
	expect("IRR 2", has(2, IRR, 0x51), 1);
	test_end("logical, FFh: to every valid one");

	start(guest_write4);
	physical_table[2] |= PHYS_RUNNING | 1;
	sends(6u << 24, 0x851);
	expect_done();
	expect("own IRR", has(0, IRR, 0x51), 0);
	expect("IRR 1", has(1, IRR, 0x51), 1);
	expect("IRR 2", has(2, IRR, 0x51), 1);
	test_end("logical, flat: each bit is one");

	start(guest_write4);
	sends(0x12u << 24, 0x851);
	expect_incomplete(0x12u << 24, 0x851, INVALID_TARGET, 4);
	expect("IRR 1", has(1, IRR, 0x51), 0);
	test_end("logical with one that is not valid: invalid target, none sent");

	start(guest_write4);
	*reg(0, DFR) = 0x0fffffff;
	logical_table[3 * 4 + 1] = LOG_VALID | 1;
	sends(0x32u << 24, 0x851);
	expect_done();
	expect("IRR 1", has(1, IRR, 0x51), 1);
	sends(0x31u << 24, 0x851);
	expect_incomplete(0x31u << 24, 0x851, INVALID_TARGET, 12);
	test_end("logical, clusters: four bits each");

	start(guest_write4);
	logical_table[7] = LOG_VALID | 2;
	sends(0x80u << 24, 0x851);
	expect_incomplete(0x80u << 24, 0x851, NOT_RUNNING, 7);
	expect("IRR 2", has(2, IRR, 0x51), 1);
	test_end("logical, to one that does not run: IRR, incomplete");
}

void test_vmrun(void)
{
	start(guest_nop);
	*field(0, NESTED_CTL) = 0;
	run();
	expect("exit code", *field(0, EXIT_CODE), EXIT_INVALID);
	test_end("AVIC without nested paging: VMRUN fails");

	start(guest_nop);
	*field(0, AVIC_PHYSICAL_TABLE) = (uint64_t)physical_table | 256;
	run();
	expect("exit code", *field(0, EXIT_CODE), EXIT_INVALID);
	test_end("a table of more than 256 IDs: VMRUN fails");

	for (int at = AVIC_BACKING_PAGE; at <= AVIC_PHYSICAL_TABLE; at += 8) {
		if (at == 0xe8)
			continue;
		start(guest_nop);
		*field(0, at) |= 1ull << 51;
		run();
		expect("exit code", *field(0, EXIT_CODE), EXIT_INVALID);
	}
	test_end("addresses beyond the physical address space: VMRUN fails");
}
