// SPDX-License-Identifier: GPL-2.0
/*
 * Conformance of an emulated AVIC with AMD's APM volume 2, "Advanced Virtual Interrupt
 * Controller", case by case, without a hypervisor: this program runs guests of a few
 * instructions and looks at the #VMEXIT and at the backing page.  TAP on the debug port;
 * run by avic_test.py.  The guest's code is in start.S.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ARRAY_SIZE(a)	(sizeof(a) / sizeof((a)[0]))
#define PAGE_SIZE	4096

#define APIC_BAR	0xfee00000ull
#define COUNTERS_PORT	0x8a20
#define TURNS_PORT	0x8a30		/* reads as 0 where there is one */
#define EXIT_PORT	0x501
#define DEBUG_PORT	0xe9
#define AP_START	0x8000
#define TIMEOUT		60000000000ull	/* TSC ticks: the machine may be busy */
#define A_WHILE		100000000ull
#define HOST_VECTOR	0x40

#define MSR_VM_HSAVE	0xc0010117
#define MSR_DOORBELL	0xc001011b

/* VMCB */
#define INTERCEPT_MISC1		0x00c
#define INTERCEPT_MISC2		0x010
#define INTERCEPT_EXCEPTIONS	0x008
#define GUEST_ASID		0x058
#define INT_CTL			0x060
#define INT_VECTOR		0x064
#define INT_STATE		0x068
#define EXIT_CODE		0x070
#define EXIT_INFO_1		0x078
#define EXIT_INFO_2		0x080
#define EXIT_INT_INFO		0x088
#define NESTED_CTL		0x090
#define AVIC_BAR		0x098
#define NESTED_CR3		0x0b0
#define AVIC_BACKING_PAGE	0x0e0
#define AVIC_LOGICAL_TABLE	0x0f0
#define AVIC_PHYSICAL_TABLE	0x0f8
#define SAVE			0x400
#define SAVE_ES			(SAVE + 0x00)
#define SAVE_CS			(SAVE + 0x10)
#define SAVE_SS			(SAVE + 0x20)
#define SAVE_DS			(SAVE + 0x30)
#define SAVE_GDTR		(SAVE + 0x60)
#define SAVE_IDTR		(SAVE + 0x80)
#define SAVE_EFER		(SAVE + 0xd0)
#define SAVE_CR4		(SAVE + 0x148)
#define SAVE_CR3		(SAVE + 0x150)
#define SAVE_CR0		(SAVE + 0x158)
#define SAVE_DR7		(SAVE + 0x160)
#define SAVE_DR6		(SAVE + 0x168)
#define SAVE_RFLAGS		(SAVE + 0x170)
#define SAVE_RIP		(SAVE + 0x178)
#define SAVE_RSP		(SAVE + 0x1d8)
#define SAVE_RAX		(SAVE + 0x1f8)

#define MISC1_INTR		(1u << 0)
#define MISC1_HLT		(1u << 24)
#define MISC1_SHUTDOWN		(1u << 31)
#define MISC2_VMRUN_VMMCALL	3u
#define AVIC_ENABLE		(1u << 31)
#define V_INTR_MASKING		(1u << 24)
#define V_INTR_PRIO(n)		((n) << 16)
#define V_IRQ			(1u << 8)
#define V_TPR			0xfu
#define RFLAGS_IF		(1ull << 9)

#define EXIT_EXCEPTION		0x40
#define EXIT_INTR		0x60
#define EXIT_VMMCALL		0x81
#define EXIT_NPF		0x400
#define EXIT_INCOMPLETE_IPI	0x401
#define EXIT_NOACCEL		0x402
#define EXIT_INVALID		(~0ull)

#define PHYS_VALID		(1ull << 63)
#define PHYS_RUNNING		(1ull << 62)
#define LOG_VALID		(1u << 31)
#define MAX_INDEX		9

enum { ID = 0x20, TPR = 0x80, PPR = 0xa0, EOI = 0xb0, LDR = 0xd0, DFR = 0xe0, ISR = 0x100,
       TMR = 0x180, IRR = 0x200, ICR = 0x300, ICR2 = 0x310 };

enum ipi_failure { INVALID_TYPE, NOT_RUNNING, INVALID_TARGET, INVALID_PAGE, INVALID_VECTOR };

extern char guest_write4[], guest_write4_done[], guest_write2[], guest_read4[],
	guest_read4_done[], guest_nop[], guest_sti[], guest_cr8[], guest_read_cr8[],
	guest_sti_hlt[], guest_spin[], guest_rdmsr[], guest_iret[], guest_cr8_sti[], guest_isr[],
	host_isr[], ap_start[],
	ap_start_end[], gdt[], gdt_end[];
extern uint64_t guest_rdi, guest_rsi, page_root[];
extern volatile uint64_t guest_spins;
void vmrun(uint64_t vmcb);

static uint8_t __attribute__((aligned(4096))) vmcb[2][PAGE_SIZE], hsave[2][PAGE_SIZE],
	backing[4][PAGE_SIZE], access_page[PAGE_SIZE], guest_stack[2][PAGE_SIZE];
static uint64_t __attribute__((aligned(4096))) physical_table[512], npt_root[512],
	npt_pointers[512], npt_directories[4][512], npt_apic[512], npt_hole[512];
static uint32_t __attribute__((aligned(4096))) logical_table[1024];
static uint64_t guest_idt[512], host_idt[512];
static uint8_t io_bitmaps[4 * PAGE_SIZE] __attribute__((aligned(4096)));

static int tests, failures;
static bool test_failed;

static void outb(uint16_t port, uint8_t val)
{
	asm volatile("outb %0, %1" : : "a"(val), "Nd"(port));
}

static uint8_t inb(uint16_t port)
{
	uint8_t val;

	asm volatile("inb %1, %0" : "=a"(val) : "Nd"(port));
	return val;
}

static void wrmsr(uint32_t msr, uint64_t val)
{
	asm volatile("wrmsr" : : "c"(msr), "a"((uint32_t)val), "d"((uint32_t)(val >> 32))
		     : "memory");
}

static uint64_t rdtsc(void)
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

static void print(const char *text)
{
	while (*text)
		outb(DEBUG_PORT, *text++);
}

static void print_hex(uint64_t n)
{
	int shift = 60;

	print("0x");
	while (shift && !(n >> shift))
		shift -= 4;
	for (; shift >= 0; shift -= 4)
		outb(DEBUG_PORT, "0123456789abcdef"[n >> shift & 15]);
}

static void expect(const char *what, uint64_t seen, uint64_t wanted)
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

static void test_end(const char *name)
{
	tests++;
	failures += test_failed;
	print(test_failed ? "not ok - " : "ok - ");
	print(name);
	print("\n");
	test_failed = false;
}

/* --- fields of the VMCB and registers of a backing page ---------------------- */

static volatile uint64_t *field(int cpu, int offset)
{
	return (volatile uint64_t *)(vmcb[cpu] + offset);
}

static volatile uint32_t *field4(int cpu, int offset)
{
	return (volatile uint32_t *)(vmcb[cpu] + offset);
}

static volatile uint32_t *reg(int page, int offset)
{
	return (volatile uint32_t *)(backing[page] + offset);
}

static volatile uint32_t *vector_reg(int page, int first, int vector)
{
	return reg(page, first + vector / 32 * 16);
}

static bool has(int page, int first, int vector)
{
	return *vector_reg(page, first, vector) >> vector % 32 & 1;
}

static void set(int page, int first, int vector)
{
	asm volatile("lock orl %1, %0" : "+m"(*vector_reg(page, first, vector))
		     : "r"(1u << vector % 32) : "memory");
}

static void segment(int cpu, int offset, uint16_t selector, uint16_t attributes)
{
	*field(cpu, offset) = selector | (uint64_t)attributes << 16 | 0xffffffffull << 32;
	*field(cpu, offset + 8) = 0;
}

static void gate(uint64_t *idt, int vector, uint64_t to)
{
	idt[vector * 2] = (to & 0xffff) | 0x08 << 16 | 0x8e00ull << 32 | (to >> 16 & 0xffff) << 48;
	idt[vector * 2 + 1] = to >> 32;
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
static void vcpu_init(int cpu, char *code)
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
static void tables_init(void)
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

static void start(char *code)
{
	tables_init();
	vcpu_init(0, code);
}

static uint64_t run(void)
{
	vmrun((uint64_t)vmcb[0]);
	return *field(0, EXIT_CODE);
}

/* The guest writes @val to an APIC register. */
static uint64_t guest_writes(int offset, uint32_t val)
{
	*field(0, SAVE_RIP) = (uint64_t)guest_write4;
	guest_rdi = APIC_BAR + offset;
	guest_rsi = val;
	return run();
}

static void expect_fault(int offset, bool write, char *at)
{
	expect("exit code", *field(0, EXIT_CODE), EXIT_NOACCEL);
	expect("EXITINFO1", *field(0, EXIT_INFO_1), offset | (uint64_t)write << 32);
	expect("EXITINFO2", *field(0, EXIT_INFO_2), 0);
	expect("RIP", *field(0, SAVE_RIP), (uint64_t)at);
}

static void expect_trap(int offset, uint32_t info_2)
{
	expect("exit code", *field(0, EXIT_CODE), EXIT_NOACCEL);
	expect("EXITINFO1", *field(0, EXIT_INFO_1), offset | 1ull << 32);
	expect("EXITINFO2", *field(0, EXIT_INFO_2), info_2);
	expect("RIP", *field(0, SAVE_RIP), (uint64_t)guest_write4_done);
}

static void expect_done(void)
{
	expect("exit code", *field(0, EXIT_CODE), EXIT_VMMCALL);
}

static void expect_incomplete(uint32_t icr2, uint32_t icr, enum ipi_failure why, uint32_t index)
{
	expect("exit code", *field(0, EXIT_CODE), EXIT_INCOMPLETE_IPI);
	expect("EXITINFO1", *field(0, EXIT_INFO_1), (uint64_t)icr2 << 32 | icr);
	expect("EXITINFO2", *field(0, EXIT_INFO_2), (uint64_t)why << 32 | index);
	expect("RIP", *field(0, SAVE_RIP), (uint64_t)guest_write4_done);
}

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

static void test_accesses(void)
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

static void test_tpr(void)
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

static void expect_taken(int vector)
{
	expect_done();
	expect("vector", *field(0, SAVE_RAX), vector);
	expect("IRR", has(0, IRR, vector), 0);
	expect("ISR", has(0, ISR, vector), 1);
	expect("PPR", *reg(0, PPR), vector & 0xf0);
}

static void test_delivery(void)
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

static void sends(uint32_t icr2, uint32_t icr)
{
	*reg(0, ICR2) = icr2;
	guest_writes(ICR, icr);
}

static void test_ipi_exits(void)
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

static void test_ipi_delivery(void)
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

static void test_logical(void)
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

static void test_vmrun(void)
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

/* --- without AVIC: APM volume 2, "Virtualizing Interrupts" ------------------------ */

/* @code with IF=1, V_TPR, and virtual interrupt 0x55 of priority @prio pending */
static void start_virq(char *code, uint32_t v_tpr, uint32_t prio)
{
	start(code);
	*field4(0, INT_CTL) = V_INTR_MASKING | V_IRQ | V_INTR_PRIO(prio) | v_tpr;
	*field4(0, INT_VECTOR) = 0x55;
	*field(0, SAVE_RFLAGS) |= RFLAGS_IF;
	*field(0, SAVE_RAX) = 0;
}

static void expect_virq(uint32_t vector)
{
	expect("exit code", *field(0, EXIT_CODE), EXIT_VMMCALL);
	expect("vector", *field(0, SAVE_RAX), vector);
	expect("V_IRQ", *field4(0, INT_CTL) & V_IRQ, vector ? 0 : V_IRQ);
}

static void test_virq(void)
{
	volatile uint32_t *apic = (uint32_t *)APIC_BAR;

	start_virq(guest_nop, 4, 5);
	run();
	expect_virq(0x55);
	start_virq(guest_nop, 6, 5);
	run();
	expect_virq(0);
	test_end("V_IRQ is taken above V_TPR, not below");

	start_virq(guest_nop, 5, 5);
	run();
	expect_virq(0);
	test_end("V_IRQ of V_TPR's own priority is not taken");

	start_virq(guest_cr8, 9, 5);
	guest_rsi = 3;
	run();
	expect_virq(0x55);
	for (int held = 0; held < 2; held++) {
		start_virq(guest_cr8_sti, 3, 5);
		*field(0, SAVE_RFLAGS) &= ~RFLAGS_IF;
		guest_rsi = held ? 9 : 3;
		run();
		expect_virq(held ? 0 : 0x55);
	}
	test_end("CR8 writes let V_IRQ in, and hold it back");

	apic[0xf0 / 4] = 0x1ff;
	apic[ICR2 / 4] = 0;
	apic[ICR / 4] = HOST_VECTOR;
	start_virq(guest_nop, 0, 5);
	*field4(0, INT_CTL) &= ~V_INTR_MASKING;
	*field4(0, INTERCEPT_MISC1) &= ~MISC1_INTR;
	gate(guest_idt, HOST_VECTOR, (uint64_t)guest_iret);
	run();
	gate(guest_idt, HOST_VECTOR, (uint64_t)guest_isr + 16 * HOST_VECTOR);
	apic[EOI / 4] = 0;
	expect_virq(0x55);
	test_end("V_IRQ stays behind a physical interrupt that the guest takes");
}

/* --- two CPUs ---------------------------------------------------------------- */

static volatile int ap_command, ap_done, ap_here;

void ap_main(void)
{
	struct __attribute__((packed)) {
		uint16_t limit;
		uint64_t base;
	} idt = { sizeof(host_idt) - 1, (uint64_t)host_idt };

	asm volatile("lidt %0" : : "m"(idt));
	*(volatile uint32_t *)(APIC_BAR + 0xf0) = 0x1ff;
	wrmsr(MSR_VM_HSAVE, (uint64_t)hsave[1]);
	ap_here = 1;
	while (true) {
		while (ap_command == ap_done)
			asm volatile("pause");
		vmrun((uint64_t)vmcb[1]);
		asm volatile("sti; nop; cli");
		ap_done = ap_command;
	}
}

static bool wait_so_long(volatile int *what, int val, uint64_t ticks)
{
	uint64_t began = rdtsc();

	while (*what != val)
		if (rdtsc() - began > ticks)
			return false;
	return true;
}

static bool wait_for(volatile int *what, int val)
{
	return wait_so_long(what, val, TIMEOUT);
}

static void delay(uint64_t ticks)
{
	for (uint64_t began = rdtsc(); rdtsc() - began < ticks; )
		;
}

static void start_ap(void)
{
	volatile uint32_t *apic = (uint32_t *)APIC_BAR;

	memcpy((void *)AP_START, ap_start, ap_start_end - ap_start);
	apic[0xf0 / 4] = 0x1ff;
	apic[ICR2 / 4] = 1 << 24;
	apic[ICR / 4] = 0x4500;
	delay(A_WHILE / 4);
	apic[ICR2 / 4] = 1 << 24;
	apic[ICR / 4] = 0x4600 | AP_START >> 12;
	expect("second CPU", wait_for(&ap_here, 1), 1);
}

/* The second CPU runs @code as virtual CPU 1, and spins or halts there. */
static void ap_runs(char *code, bool halts)
{
	uint64_t began = rdtsc(), before = guest_spins;

	vcpu_init(1, code);
	*field(1, SAVE_RFLAGS) |= RFLAGS_IF;
	*field4(1, INTERCEPT_MISC1) &= ~MISC1_HLT;
	ap_command++;
	while (halts ? rdtsc() - began < A_WHILE : guest_spins < before + 100)
		if (rdtsc() - began > TIMEOUT)
			break;
}

static void expect_ap_took(int vector)
{
	if (!wait_for(&ap_done, ap_command)) {
		expect("the second CPU's guest has ended", 0, 1);
		return;
	}
	expect("exit code", *field(1, EXIT_CODE), EXIT_VMMCALL);
	expect("vector", *field(1, SAVE_RAX), vector);
	expect("ISR", has(1, ISR, vector), 1);
	expect("IRR", has(1, IRR, vector), 0);
}

/* A number of the counters' JSON text */
static uint64_t counter(const char *name)
{
	char text[1024];
	size_t len = 0, n;
	uint64_t val = 0;

	outb(COUNTERS_PORT, 'P');
	while (len < sizeof(text) - 1 && (text[len] = inb(COUNTERS_PORT)))
		len++;
	text[len] = 0;
	for (size_t i = 0; i < len; i++) {
		for (n = 0; name[n] && text[i + n] == name[n]; n++)
			;
		if (name[n] || text[i + n] != '"' || text[i - 1] != '"')
			continue;
		for (i += n + 3; text[i] >= '0' && text[i] <= '9'; i++)
			val = val * 10 + text[i] - '0';
		return val;
	}
	return ~0ull;
}

static void test_doorbell(void)
{
	tables_init();
	ap_runs(guest_spin, false);
	outb(COUNTERS_PORT, 'R');
	set(1, IRR, 0x51);
	expect("taken without a doorbell", wait_so_long(&ap_done, ap_command, A_WHILE), 0);
	wrmsr(MSR_DOORBELL, 1);
	expect_ap_took(0x51);
	expect("sent_in_guest", counter("sent_in_guest"), 1);
	expect("recv_guest", counter("recv_guest"), 1);
	expect("recv_host", counter("recv_host"), 0);
	test_end("doorbell to a CPU in the guest: IRR is looked at");

	tables_init();
	outb(COUNTERS_PORT, 'R');
	wrmsr(MSR_DOORBELL, 1);
	wrmsr(MSR_DOORBELL, 0);
	for (uint64_t began = rdtsc(); rdtsc() - began < TIMEOUT && counter("recv_host") < 2; )
		;
	expect("sent_in_host", counter("sent_in_host"), 2);
	expect("recv_host", counter("recv_host"), 2);
	expect("recv_guest", counter("recv_guest"), 0);
	test_end("doorbell to a CPU in the host: dropped");

	tables_init();
	outb(COUNTERS_PORT, 'R');
	wrmsr(MSR_DOORBELL, 77);
	expect("sent", counter("sent"), 0);
	test_end("doorbell to no CPU");

	start(guest_rdmsr);
	guest_rsi = MSR_DOORBELL;
	run();
	expect("exit code", *field(0, EXIT_CODE), EXIT_EXCEPTION + 13);
	test_end("the doorbell register cannot be read");

	tables_init();
	ap_runs(guest_sti_hlt, true);
	set(1, IRR, 0x51);
	wrmsr(MSR_DOORBELL, 1);
	expect_ap_took(0x51);
	test_end("doorbell ends the guest's HLT");

	tables_init();
	ap_runs(guest_spin, false);
	vcpu_init(0, guest_write4);
	sends(1 << 24, 0x71);
	expect_done();
	expect_ap_took(0x71);
	test_end("IPI from guest to guest, no exit of the sender");

	for (int i = 0; i < 200 && !test_failed; i++) {
		volatile uint32_t *apic = (uint32_t *)APIC_BAR;

		tables_init();
		ap_runs(guest_spin, false);
		wrmsr(MSR_DOORBELL, 1);
		apic[ICR2 / 4] = 1 << 24;
		apic[ICR / 4] = HOST_VECTOR;
		wrmsr(MSR_DOORBELL, 1);
		expect("the second CPU's guest has ended", wait_for(&ap_done, ap_command), 1);
		expect("exit code", *field(1, EXIT_CODE), EXIT_INTR);
	}
	test_end("doorbells around a host interrupt: #VMEXIT(INTR), 200 times");

	for (int i = 0; i < 200 && !test_failed; i++) {
		tables_init();
		guest_spins = 0;
		vcpu_init(1, guest_spin);
		*field(1, SAVE_RFLAGS) |= RFLAGS_IF;
		ap_command++;			/* it enters at any time */
		delay(i * 500);
		vcpu_init(0, guest_write4);
		sends(1 << 24, 0x71);
		expect_done();
		expect_ap_took(0x71);
	}
	test_end("IPI to one that is just entering: never lost, 200 times");
}

static void say(const char *what, uint64_t n)
{
	print("# ");
	print(what);
	print_hex(n);
	print("\n");
}

/*
 * How long VMRUN takes, while this CPU's turn is long, and what comes of a
 * doorbell meanwhile, in short turns: avic_test.py knows what it must be.
 */
static void test_entry(void)
{
	uint64_t began;

	outb(TURNS_PORT, 'S');
	start(guest_nop);
	began = rdtsc();
	run();
	say("VMRUN and what follows, ticks ", rdtsc() - began);
	expect_done();

	asm volatile("pause");		/* ends the turn */
	tables_init();
	vcpu_init(1, guest_spin);
	*field(1, SAVE_RFLAGS) |= RFLAGS_IF;
	outb(COUNTERS_PORT, 'R');
	ap_command++;
	delay(1000);
	set(1, IRR, 0x51);
	wrmsr(MSR_DOORBELL, 1);
	expect_ap_took(0x51);
	expect("sent", counter("sent"), 1);
	expect("received", counter("recv_guest") + counter("recv_host"), 1);
	say("doorbells that came in VMRUN ", counter("recv_entry"));
	test_end("VMRUN looks at the IRR when it is done");
}

static void tables_for_guests_init(void)
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

static void test_cpuid(void)
{
	uint32_t a = 0x8000000a, b, c, d;

	asm volatile("cpuid" : "+a"(a), "=b"(b), "=c"(c), "=d"(d));
	expect("CPUID 8000_000A EDX[13]", d >> 13 & 1, 1);
	test_end("CPUID says AVIC");
}

void boot_main(void)
{
	outb(0x21, 0xff);		/* no interrupts of the BIOS's timer */
	outb(0xa1, 0xff);
	wrmsr(MSR_VM_HSAVE, (uint64_t)hsave[0]);
	tables_for_guests_init();
	test_cpuid();
	if (!inb(TURNS_PORT)) {
		start_ap();
		test_entry();
	} else if (!failures) {
		test_accesses();
		test_tpr();
		test_delivery();
		test_ipi_exits();
		test_ipi_delivery();
		test_logical();
		test_vmrun();
		test_virq();
		start_ap();
		test_doorbell();
	}
	print("1..");
	outb(DEBUG_PORT, '0' + tests / 10);
	outb(DEBUG_PORT, '0' + tests % 10);
	print("\n");
	asm volatile("outw %0, %1" : : "a"((uint16_t)!!failures), "Nd"((uint16_t)EXIT_PORT));
}
