// SPDX-License-Identifier: GPL-2.0
/*
 * AVIC in x2APIC mode: APM volume 2, "x2AVIC", and what "x2APIC" says of that mode.
 */
#include "machine.h"

#define X2_MSR(offset)	(0x800 + (offset) / 16)

/* As accesses[], by MSR; 'g': #GP */
static const struct {
	uint16_t first, last;
	char r, w;
} x2_accesses[] = {
	{ 0x800, 0x801, 'g', 'g' },
	{ 0x802, 0x803, '+', 'g' },		/* ID, version */
	{ 0x804, 0x807, 'g', 'g' },
	{ 0x808, 0x808, '+', '+' },		/* TPR */
	{ 0x809, 0x809, '-', 'g' },		/* APR */
	{ 0x80a, 0x80a, '+', 'g' },		/* PPR */
	{ 0x80b, 0x80b, 'g', '+' },		/* EOI */
	{ 0x80c, 0x80c, 'g', 'g' },
	{ 0x80d, 0x80d, '+', 'g' },		/* LDR */
	{ 0x80e, 0x80e, 'g', 'g' },
	{ 0x80f, 0x80f, '+', 't' },		/* SVR */
	{ 0x810, 0x827, '+', 'g' },		/* ISR, TMR, IRR */
	{ 0x828, 0x828, '+', 't' },		/* ESR */
	{ 0x829, 0x82f, 'g', 'g' },
	{ 0x830, 0x830, '+', '+' },		/* ICR */
	{ 0x831, 0x831, 'g', 'g' },
	{ 0x832, 0x838, '+', 't' },		/* LVTs, initial count */
	{ 0x839, 0x839, '-', 'g' },		/* current count */
	{ 0x83a, 0x83d, 'g', 'g' },
	{ 0x83e, 0x83e, '+', 't' },		/* divide configuration */
	{ 0x83f, 0x83f, 'g', '+' },		/* self IPI */
	{ 0x840, 0x840, '-', 'g' },		/* extended: feature, control, SEOI */
	{ 0x841, 0x842, '-', '-' },
	{ 0x843, 0x847, 'g', 'g' },
	{ 0x848, 0x853, '-', '-' },		/* IER, extended LVTs */
	{ 0x854, 0x8ff, 'g', 'g' },
};

static void start_x2(char *code)
{
	start(code);
	*field4(0, INT_CTL) |= X2AVIC_ENABLE;
	for (int i = 0; i < 4; i++)
		*reg(i, ID) = i;
}

/* @how: of x2_accesses */
static void expect_x2(char how, uint32_t msr, bool write, char *at, char *after)
{
	uint64_t rip = *field(0, SAVE_RIP);

	switch (how) {
	case 'g':
		expect("exit code", *field(0, EXIT_CODE), EXIT_GP);
		expect("RIP", rip, (uint64_t)at);
		break;
	case '-':
		expect_fault((msr & 0xff) << 4, write, at);
		break;
	case 't':
		expect("exit code", *field(0, EXIT_CODE), EXIT_NOACCEL);
		expect("EXITINFO1", *field(0, EXIT_INFO_1), (msr & 0xff) << 4 | 1ull << 32);
		expect("RIP", rip, (uint64_t)after);
		break;
	default:
		expect_done();
	}
}

static void test_x2_read(uint32_t msr, char how)
{
	int offset = (msr & 0xff) << 4;
	uint32_t val = 0x5a000000 | offset;

	start_x2(guest_rdmsr);
	*reg(0, offset) = val;
	if (offset >= IRR && offset < IRR + 0x80)
		*field4(0, INT_CTL) |= V_TPR;
	if (offset == PPR) {
		*reg(0, TPR) = val = 0x5a;
		*field4(0, INT_CTL) |= 5;
	}
	guest_rsi = msr;
	run();
	expect_x2(how, msr, false, guest_rdmsr_at, 0);
	if (how == '+')
		expect("value", *field(0, SAVE_RAX), val);
}

static void test_x2_write(uint32_t msr, char how)
{
	int offset = (msr & 0xff) << 4;
	uint32_t val = offset == ICR ? 0x40031 : offset == EOI || offset == ESR ? 0 : 0x31;
	uint32_t before;

	start_x2(guest_wrmsr);
	*reg(0, offset) = before = offset == ID || offset == PPR ? 0 : 0x77;	/* AVIC keeps the PPR */
	guest_wrmsrs(msr, val);
	expect_x2(how, msr, true, guest_wrmsr_at, guest_wrmsr_done);
	if (offset != EOI && offset != SELF_IPI)
		expect("register", *reg(0, offset), how == '+' || how == 't' ? val : before);
}

void test_x2_accesses(void)
{
	for (size_t i = 0; i < ARRAY_SIZE(x2_accesses); i++) {
		for (uint32_t msr = x2_accesses[i].first; msr <= x2_accesses[i].last; msr++) {
			bool before = test_failed;

			test_x2_read(msr, x2_accesses[i].r);
			test_x2_write(msr, x2_accesses[i].w);
			if (test_failed != before) {
				print("# MSR ");
				print_hex(msr);
				print("\n");
			}
		}
	}
	test_end("x2AVIC, each MSR: completed, fault, trap or #GP");

	start_x2(guest_wrmsr);
	expect("TPR", guest_wrmsrs(X2_MSR(TPR), 0x100), EXIT_GP);
	expect("EOI", guest_wrmsrs(X2_MSR(EOI), 1), EXIT_GP);
	expect("ESR", guest_wrmsrs(X2_MSR(ESR), 1), EXIT_GP);
	expect("self IPI", guest_wrmsrs(X2_MSR(SELF_IPI), 0x131), EXIT_GP);
	expect("ICR, busy", guest_wrmsrs(X2_MSR(ICR), 0x41031), EXIT_GP);
	expect("bit 32", guest_wrmsrs(X2_MSR(0x320), 1ull << 32), EXIT_GP);
	test_end("x2AVIC, bits that x2APIC mode reserves: #GP");

	start_x2(guest_wrmsr);
	*field4(0, INTERCEPT_MISC1) |= MISC1_MSR;
	memset(io_bitmaps, 0xff, sizeof(io_bitmaps));
	expect("exit code", guest_wrmsrs(X2_MSR(TPR), 0x50), EXIT_MSR);
	expect("exit code", guest_wrmsrs(X2_MSR(VERSION), 0), EXIT_MSR);
	expect("exit code", guest_wrmsrs(X2_MSR(0x390), 0), EXIT_MSR);
	expect("TPR", *reg(0, TPR), 0);
	memset(io_bitmaps, 0, sizeof(io_bitmaps));
	test_end("x2AVIC, an intercept of MSRs comes first");

	start_x2(guest_read4);
	*(uint32_t *)(access_page + 0x90) = 0x1234;
	guest_rdi = APIC_BAR + 0x90;
	run();
	expect_done();
	expect("value", *field(0, SAVE_RAX) & 0xffffffff, 0x1234);
	test_end("x2AVIC: the page at the APIC BAR is not taken");
}

void test_x2_interrupts(void)
{
	start_x2(guest_wrmsr);
	guest_wrmsrs(X2_MSR(TPR), 0x5c);
	expect_done();
	expect("V_TPR", *field4(0, INT_CTL) & V_TPR, 5);
	expect("PPR", *reg(0, PPR), 0x5c);
	test_end("x2AVIC, TPR write: V_TPR and PPR follow");

	start_x2(guest_nop);
	*field(0, SAVE_RFLAGS) |= RFLAGS_IF;
	*field(0, SAVE_RAX) = 0;
	set(0, IRR, 0x51);
	set(0, IRR, 0x83);
	run();
	expect_taken(0x83);
	guest_wrmsrs(X2_MSR(EOI), 0);
	expect_done();
	expect("ISR", has(0, ISR, 0x83), 0);
	*field(0, SAVE_RIP) = (uint64_t)guest_sti;
	run();
	expect_taken(0x51);
	set(0, TMR, 0x51);
	guest_wrmsrs(X2_MSR(EOI), 0);
	expect("exit code", *field(0, EXIT_CODE), EXIT_NOACCEL);
	expect("EXITINFO2", *field(0, EXIT_INFO_2), 0x51);
	expect("ISR", has(0, ISR, 0x51), 1);
	test_end("x2AVIC, EOI: the next one is taken; level-triggered: trap");

	start_x2(guest_wrmsr);
	*field(0, SAVE_RFLAGS) |= RFLAGS_IF;
	guest_wrmsrs(X2_MSR(SELF_IPI), 0x51);
	expect_taken(0x51);
	expect("RIP pushed", *(uint64_t *)(*field(0, SAVE_RSP)), (uint64_t)guest_wrmsr_done);
	test_end("x2AVIC, self IPI: taken after the instruction");
}

static void expect_x2_incomplete(uint64_t icr, enum ipi_failure why, uint32_t index)
{
	expect("exit code", *field(0, EXIT_CODE), EXIT_INCOMPLETE_IPI);
	expect("EXITINFO1", *field(0, EXIT_INFO_1), icr);
	expect("EXITINFO2", *field(0, EXIT_INFO_2), (uint64_t)why << 32 | index);
	expect("RIP", *field(0, SAVE_RIP), (uint64_t)guest_wrmsr_done);
}

void test_x2_ipis(void)
{
	uint64_t icr;

	start_x2(guest_wrmsr);
	guest_wrmsrs(X2_MSR(ICR), 1ull << 32 | 0x51);
	expect_done();
	expect("IRR", has(1, IRR, 0x51), 1);
	expect("ICR", *reg(0, ICR), 0x51);
	expect("destination", *reg(0, ICR2), 1);
	guest_rsi = X2_MSR(ICR);
	*field(0, SAVE_RIP) = (uint64_t)guest_rdmsr;
	run();
	expect("ICR read", *field(0, SAVE_RAX), 1ull << 32 | 0x51);
	test_end("x2AVIC, IPI to a running one: IRR, no exit; ICR is one MSR");

	start_x2(guest_wrmsr);
	guest_wrmsrs(X2_MSR(ICR), icr = 2ull << 32 | 0x51);
	expect_x2_incomplete(icr, NOT_RUNNING, 2);
	expect("IRR 2", has(2, IRR, 0x51), 1);
	guest_wrmsrs(X2_MSR(ICR), icr = 3ull << 32 | 0x51);
	expect_x2_incomplete(icr, INVALID_TARGET, 3);
	guest_wrmsrs(X2_MSR(ICR), icr = 0xffull << 32 | 0x51);
	expect_x2_incomplete(icr, INVALID_TARGET, 0xff);
	guest_wrmsrs(X2_MSR(ICR), icr = 2ull << 32 | 0x451);
	expect_x2_incomplete(icr, INVALID_TYPE, 0);
	guest_wrmsrs(X2_MSR(ICR), icr = 2ull << 32 | 0x0f);
	expect_x2_incomplete(icr, INVALID_VECTOR, 0);
	test_end("x2AVIC, IPIs that are incomplete; FFh is an ID");

	start_x2(guest_wrmsr);
	physical_table[2] |= PHYS_RUNNING | 1;
	guest_wrmsrs(X2_MSR(ICR), 0xffffffffull << 32 | 0x51);
	expect_done();
	expect("own IRR", has(0, IRR, 0x51), 1);
	expect("IRR 2", has(2, IRR, 0x51), 1);
	start_x2(guest_wrmsr);
	guest_wrmsrs(X2_MSR(ICR), icr = 0xc0051);
	expect_x2_incomplete(icr, NOT_RUNNING, 2);
	expect("own IRR", has(0, IRR, 0x51), 0);
	expect("IRR 1", has(1, IRR, 0x51), 1);
	test_end("x2AVIC, broadcasts: to every valid one");

	start_x2(guest_wrmsr);
	logical_table[0] = logical_table[1] = 0;
	guest_wrmsrs(X2_MSR(ICR), 3ull << 32 | 0x851);
	expect_done();
	expect("own IRR", has(0, IRR, 0x51), 1);
	expect("IRR 1", has(1, IRR, 0x51), 1);
	guest_wrmsrs(X2_MSR(ICR), icr = 0x9ull << 32 | 0x861);
	expect_x2_incomplete(icr, INVALID_TARGET, 3);
	expect("own IRR", has(0, IRR, 0x61), 0);
	guest_wrmsrs(X2_MSR(ICR), icr = 0x10001ull << 32 | 0x861);
	expect_x2_incomplete(icr, INVALID_TARGET, 0x10);
	test_end("x2AVIC, logical: by the ID, without the table; none sent if one is not valid");
}

void test_x2_vmrun(void)
{
	start(guest_nop);
	*field4(0, INT_CTL) = V_INTR_MASKING | X2AVIC_ENABLE;
	expect("exit code", run(), EXIT_INVALID);
	start_x2(guest_nop);
	*field(0, AVIC_PHYSICAL_TABLE) = (uint64_t)physical_table | 511;
	expect("exit code", run(), EXIT_VMMCALL);
	start_x2(guest_nop);
	*field(0, AVIC_PHYSICAL_TABLE) = (uint64_t)physical_table | 512;
	expect("exit code", run(), EXIT_INVALID);
	test_end("x2AVIC without AVIC, or a table of more than 512 IDs: VMRUN fails");
}
