// SPDX-License-Identifier: GPL-2.0
/*
 * The machine under test: the VMCB of two virtual CPUs and their backing pages, guests of a few
 * instructions (guest.S), what is expected of a #VMEXIT.
 */
#include "machine.h"

uint8_t __attribute__((aligned(4096))) vmcb[2][PAGE_SIZE], hsave[2][PAGE_SIZE], backing[4][PAGE_SIZE],
	access_page[PAGE_SIZE], io_bitmaps[4 * PAGE_SIZE];
uint64_t __attribute__((aligned(4096))) physical_table[512];
uint32_t __attribute__((aligned(4096))) logical_table[1024];
uint64_t guest_idt[512], host_idt[512];

static uint8_t guest_stack[2][PAGE_SIZE];
static uint64_t __attribute__((aligned(4096))) npt_root[512], npt_pointers[512],
	npt_directories[4][512], npt_apic[512], npt_hole[512];

/* --- fields of the VMCB and registers of a backing page ---------------------- */

volatile uint64_t *field(int cpu, int offset)
{
	return (volatile uint64_t *)(vmcb[cpu] + offset);
}

volatile uint32_t *field4(int cpu, int offset)
{
	return (volatile uint32_t *)(vmcb[cpu] + offset);
}

volatile uint32_t *reg(int page, int offset)
{
	return (volatile uint32_t *)(backing[page] + offset);
}

static volatile uint32_t *vector_reg(int page, int first, int vector)
{
	return reg(page, first + vector / 32 * 16);
}

bool has(int page, int first, int vector)
{
	return *vector_reg(page, first, vector) >> vector % 32 & 1;
}

void set(int page, int first, int vector)
{
	asm volatile("lock orl %1, %0" : "+m"(*vector_reg(page, first, vector))
		     : "r"(1u << vector % 32) : "memory");
}

static void segment(int cpu, int offset, uint16_t selector, uint16_t attributes)
{
	*field(cpu, offset) = selector | (uint64_t)attributes << 16 | 0xffffffffull << 32;
	*field(cpu, offset + 8) = 0;
}

static void vmcb_save_init(int cpu)
{
	segment(cpu, SAVE_CS, 0x08, 0xa9b);
	segment(cpu, SAVE_DS, 0x10, 0xc93);
	segment(cpu, SAVE_ES, 0x10, 0xc93);
	segment(cpu, SAVE_SS, 0x10, 0xc93);
	*field4(cpu, SAVE_GDTR + 4) = gdt_end - gdt - 1;
	*field(cpu, SAVE_GDTR + 8) = (uint64_t)gdt;
	*field4(cpu, SAVE_IDTR + 4) = sizeof(guest_idt) * 8 - 1;
	*field(cpu, SAVE_IDTR + 8) = (uint64_t)guest_idt;
	*field(cpu, SAVE_EFER) = 0x1500;
	*field(cpu, SAVE_CR0) = 0x80000011;
	*field(cpu, SAVE_CR3) = (uint64_t)page_root;
	*field(cpu, SAVE_CR4) = 0x620;
	*field(cpu, SAVE_DR7) = 0x400;
	*field(cpu, SAVE_DR6) = 0xffff0ff0;
	*field(cpu, SAVE_RSP) = (uint64_t)guest_stack[cpu] + PAGE_SIZE - 64;
}

/* Virtual CPU @cpu, with AVIC, about to run @code with interrupts off */
void vcpu_init(int cpu, char *code)
{
	memset(vmcb[cpu], 0, PAGE_SIZE);
	*field4(cpu, INTERCEPT_EXCEPTIONS) = ~0u;
	*field4(cpu, INTERCEPT_MISC1) = MISC1_INTR | MISC1_HLT | MISC1_SHUTDOWN;
	*field4(cpu, INTERCEPT_MISC2) = MISC2_VMRUN_VMMCALL;
	*field(cpu, 0x40) = (uint64_t)io_bitmaps;
	*field(cpu, 0x48) = (uint64_t)io_bitmaps;
	*field4(cpu, GUEST_ASID) = 1;
	*field4(cpu, GUEST_ASID + 4) = 1;		/* TLB_CONTROL: flush */
	*field4(cpu, INT_CTL) = AVIC_ENABLE | V_INTR_MASKING;
	*field(cpu, NESTED_CTL) = 1;
	*field(cpu, NESTED_CR3) = (uint64_t)npt_root;
	*field(cpu, AVIC_BAR) = APIC_BAR;
	*field(cpu, AVIC_BACKING_PAGE) = (uint64_t)backing[cpu];
	*field(cpu, AVIC_LOGICAL_TABLE) = (uint64_t)logical_table;
	*field(cpu, AVIC_PHYSICAL_TABLE) = (uint64_t)physical_table | MAX_INDEX;
	vmcb_save_init(cpu);
	*field(cpu, SAVE_RIP) = (uint64_t)code;
	*field(cpu, SAVE_RFLAGS) = 2;
}

/* Four virtual CPUs with APIC IDs 0 to 3: 2 is running nowhere, 3 is not valid */
void tables_init(void)
{
	memset(backing, 0, sizeof(backing));
	memset(access_page, 0, sizeof(access_page));
	memset(physical_table, 0, sizeof(physical_table));
	memset(logical_table, 0, sizeof(logical_table));
	for (int i = 0; i < 4; i++) {
		*reg(i, ID) = i << 24;
		*reg(i, DFR) = ~0u;
		physical_table[i] = (uint64_t)backing[i] | PHYS_VALID;
		logical_table[i] = LOG_VALID | i;
	}
	physical_table[0] |= PHYS_RUNNING;
	physical_table[1] |= PHYS_RUNNING | 1;
	physical_table[3] = 0;
}

void start(char *code)
{
	tables_init();
	vcpu_init(0, code);
}

uint64_t run(void)
{
	vmrun((uint64_t)vmcb[0]);
	return *field(0, EXIT_CODE);
}

/* The guest writes @val to an APIC register. */
uint64_t guest_writes(int offset, uint32_t val)
{
	*field(0, SAVE_RIP) = (uint64_t)guest_write4;
	guest_rdi = APIC_BAR + offset;
	guest_rsi = val;
	return run();
}

void expect_fault(int offset, bool write, char *at)
{
	expect("exit code", *field(0, EXIT_CODE), EXIT_NOACCEL);
	expect("EXITINFO1", *field(0, EXIT_INFO_1), offset | (uint64_t)write << 32);
	expect("EXITINFO2", *field(0, EXIT_INFO_2), 0);
	expect("RIP", *field(0, SAVE_RIP), (uint64_t)at);
}

void expect_trap(int offset, uint32_t info_2)
{
	expect("exit code", *field(0, EXIT_CODE), EXIT_NOACCEL);
	expect("EXITINFO1", *field(0, EXIT_INFO_1), offset | 1ull << 32);
	expect("EXITINFO2", *field(0, EXIT_INFO_2), info_2);
	expect("RIP", *field(0, SAVE_RIP), (uint64_t)guest_write4_done);
}

void expect_done(void)
{
	expect("exit code", *field(0, EXIT_CODE), EXIT_VMMCALL);
}

void expect_incomplete(uint32_t icr2, uint32_t icr, enum ipi_failure why, uint32_t index)
{
	expect("exit code", *field(0, EXIT_CODE), EXIT_INCOMPLETE_IPI);
	expect("EXITINFO1", *field(0, EXIT_INFO_1), (uint64_t)icr2 << 32 | icr);
	expect("EXITINFO2", *field(0, EXIT_INFO_2), (uint64_t)why << 32 | index);
	expect("RIP", *field(0, SAVE_RIP), (uint64_t)guest_write4_done);
}

void expect_taken(int vector)
{
	expect_done();
	expect("vector", *field(0, SAVE_RAX), vector);
	expect("IRR", has(0, IRR, vector), 0);
	expect("ISR", has(0, ISR, vector), 1);
	expect("PPR", *reg(0, PPR), vector & 0xf0);
}

uint64_t guest_wrmsrs(uint32_t msr, uint64_t val)
{
	*field(0, SAVE_RIP) = (uint64_t)guest_wrmsr;
	guest_rsi = msr;
	guest_rdi = val;
	return run();
}

void tables_for_guests_init(void)
{
	npt_root[0] = (uint64_t)npt_pointers | 7;
	for (int i = 0; i < 4; i++) {
		npt_pointers[i] = (uint64_t)npt_directories[i] | 7;
		for (int j = 0; j < 512; j++)
			npt_directories[i][j] = ((uint64_t)i * 512 + j) * 0x200000 | 0x87;
	}
	npt_directories[1][0] = (uint64_t)npt_hole | 7;		/* nothing at 1 GiB */
	npt_directories[3][0xfee00000 / 0x200000 % 512] = (uint64_t)npt_apic | 7;
	npt_apic[0] = (uint64_t)access_page | 7;
	for (int i = 0; i < 256; i++)
		gate(guest_idt, i, (uint64_t)guest_isr + 16 * i);
	gate(host_idt, HOST_VECTOR, (uint64_t)host_isr);
}

void sends(uint32_t icr2, uint32_t icr)
{
	*reg(0, ICR2) = icr2;
	guest_writes(ICR, icr);
}
