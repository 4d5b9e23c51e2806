// SPDX-License-Identifier: GPL-2.0
/*
 * The machine under test: VMX, one VMCS with virtual-interrupt delivery, posted interrupts and the x2APIC's MSRs
 * virtualized, guests of a few instructions (guest.S), what is expected of a VM exit.
 */
#include "machine.h"

#define MSR_FEATURE_CONTROL	0x3a
#define MSR_VMX_BASIC		0x480
#define MSR_TRUE_PIN		0x48d
#define MSR_TRUE_CPU		0x48e
#define MSR_TRUE_EXIT		0x48f
#define MSR_TRUE_ENTRY		0x490
#define MSR_VMX_CPU_2		0x48b

#define CR0_NE			(1 << 5)
#define CR4_VMXE		(1 << 13)
#define EPT_ALL			7		/* read, write, execute */
#define EPT_WRITE_BACK		(6 << 3)
#define EPT_LARGE		(1 << 7)
#define EPT_FOUR_LEVELS		(3 << 3)

volatile uint32_t __attribute__((aligned(4096))) vapic[PAGE_SIZE / 4];
struct posted_descriptor __attribute__((aligned(64))) posted;

static uint8_t __attribute__((aligned(4096))) vmxon_region[PAGE_SIZE], vmcs[PAGE_SIZE], msr_bitmap[PAGE_SIZE],
	guest_stack[PAGE_SIZE];
static uint64_t __attribute__((aligned(4096))) ept_root[512], ept_pointers[512], ept_directories[4][512];
static uint64_t guest_idt[512], host_idt[512];

static void die(const char *why)
{
	print("Bail out! ");
	print(why);
	print("\n");
	while (true)
		asm volatile("hlt");
}

void vmwrite(uint64_t field, uint64_t val)
{
	asm volatile("vmwrite %1, %0" : : "r"(field), "r"(val) : "cc");
}

uint64_t vmread(uint64_t field)
{
	uint64_t val;

	asm volatile("vmread %1, %0" : "=r"(val) : "r"(field) : "cc");
	return val;
}

volatile uint32_t *apic(int offset)
{
	return (volatile uint32_t *)(APIC_PAGE + offset);
}

static uint32_t controls(uint32_t msr, uint32_t wanted)
{
	uint64_t allowed = rdmsr(msr);

	if (wanted & ~(allowed >> 32))
		die("a control is missing");
	return wanted | (uint32_t)allowed;
}

static void ept_init(void)
{
	ept_root[0] = (uint64_t)ept_pointers | EPT_ALL;
	for (int i = 0; i < 4; i++) {
		ept_pointers[i] = (uint64_t)ept_directories[i] | EPT_ALL;
		for (int j = 0; j < 512; j++)
			ept_directories[i][j] = ((uint64_t)i * 512 + j) * 0x200000 | EPT_ALL | EPT_LARGE |
						(i == 3 ? 0 : EPT_WRITE_BACK);
	}
	ept_directories[HOLE >> 30][0] = 0;
}

static void segment(int at, uint16_t selector, uint32_t rights)
{
	vmwrite(GUEST_ES + at, selector);
	vmwrite(GUEST_LIMITS + at, 0xffffffff);
	vmwrite(GUEST_RIGHTS + at, rights);
}

static void host_state(void)
{
	uint64_t cr0, cr4;

	asm volatile("movq %%cr0, %0" : "=r"(cr0));
	asm volatile("movq %%cr4, %0" : "=r"(cr4));
	vmwrite(HOST_CR0, cr0);
	vmwrite(HOST_CR3, (uint64_t)page_root);
	vmwrite(HOST_CR4, cr4);
	vmwrite(HOST_CS, 0x08);
	vmwrite(HOST_SS, 0x10);
	vmwrite(HOST_DS, 0x10);
	vmwrite(HOST_ES, 0x10);
	vmwrite(HOST_TR, 0x08);			/* must not be 0; nobody uses it */
	vmwrite(HOST_GDTR_BASE, (uint64_t)gdt);
	vmwrite(HOST_IDTR_BASE, (uint64_t)host_idt);
	vmwrite(HOST_RIP, (uint64_t)host_entry);
	vmwrite(GUEST_CR0, cr0);
	vmwrite(GUEST_CR3, (uint64_t)page_root);
	vmwrite(GUEST_CR4, cr4);
}

static void guest_state(void)
{
	segment(0, 0x10, 0xc093);		/* ES */
	segment(2, 0x08, 0xa09b);		/* CS */
	segment(4, 0x10, 0xc093);
	segment(6, 0x10, 0xc093);
	for (int at = 8; at <= 12; at += 2)
		segment(at, 0, 1 << 16);	/* FS, GS, LDTR: not usable */
	segment(14, 0x18, 0x8b);		/* TR */
	vmwrite(GUEST_LIMITS + 14, 0x67);
	vmwrite(GUEST_GDTR_BASE, (uint64_t)gdt);
	vmwrite(GUEST_GDTR_LIMIT, gdt_end - gdt - 1);
	vmwrite(GUEST_IDTR_LIMIT, sizeof(guest_idt) * 2 - 1);
	vmwrite(GUEST_DR7, 0x400);
	vmwrite(LINK_POINTER, ~0ull);
}

static void control_state(void)
{
	vmwrite(CPU_CONTROLS_2, controls(MSR_VMX_CPU_2, EPT | X2APIC_MODE | APIC_REGISTERS |
					 VIRTUAL_INTERRUPTS));
	vmwrite(EXIT_CONTROLS, controls(MSR_TRUE_EXIT, EXIT_64_BIT | EXIT_ACKNOWLEDGES));
	vmwrite(ENTRY_CONTROLS, controls(MSR_TRUE_ENTRY, ENTRY_64_BIT));
	vmwrite(EXCEPTIONS, ~0u);
	vmwrite(EPT_POINTER, (uint64_t)ept_root | EPT_FOUR_LEVELS | 6);
	vmwrite(MSR_BITMAP, (uint64_t)msr_bitmap);
	vmwrite(VIRTUAL_APIC, (uint64_t)vapic);
	vmwrite(POSTED_DESCRIPTOR, (uint64_t)&posted);
	vmwrite(POSTED_VECTOR, NOTIFICATION);
}

static void idt_init(void)
{
	struct __attribute__((packed)) {
		uint16_t limit;
		uint64_t base;
	} idt = { sizeof(host_idt) - 1, (uint64_t)host_idt };

	for (int i = 0; i < 256; i++)
		gate(guest_idt, i, (uint64_t)guest_isr + 16 * i);
	gate(host_idt, NOTIFICATION, (uint64_t)host_isr);
	gate(host_idt, OTHER_VECTOR, (uint64_t)host_isr);
	asm volatile("lidt %0" : : "m"(idt));
}

void vmx_init(void)
{
	uint64_t region = (uint64_t)vmxon_region, current = (uint64_t)vmcs, cr0, cr4;
	bool failed;

	idt_init();
	ept_init();
	*apic(SVR) = 0x1ff;
	*apic(DIVIDE) = 0xb;
	if (!(rdmsr(MSR_FEATURE_CONTROL) & 1))
		wrmsr(MSR_FEATURE_CONTROL, 5);
	asm volatile("movq %%cr0, %0" : "=r"(cr0));
	asm volatile("movq %0, %%cr0" : : "r"(cr0 | CR0_NE));
	asm volatile("movq %%cr4, %0" : "=r"(cr4));
	asm volatile("movq %0, %%cr4" : : "r"(cr4 | CR4_VMXE));
	*(uint32_t *)vmxon_region = *(uint32_t *)vmcs = rdmsr(MSR_VMX_BASIC) & 0x7fffffff;
	asm volatile("vmxon %1; setna %0" : "=qm"(failed) : "m"(region) : "cc", "memory");
	if (failed)
		die("VMXON fails");
	asm volatile("vmclear %1; setna %0" : "=qm"(failed) : "m"(current) : "cc", "memory");
	asm volatile("vmptrld %0" : : "m"(current) : "cc", "memory");
	host_state();
	guest_state();
	control_state();
}

/* A new guest, about to run @code, nothing pending and nothing in service */
void start(char *code, bool interrupts)
{
	memset((void *)vapic, 0, sizeof(vapic));
	memset(&posted, 0, sizeof(posted));
	vmwrite(PIN_CONTROLS, controls(MSR_TRUE_PIN, INTERRUPT_EXITING | POSTED_INTERRUPTS));
	vmwrite(CPU_CONTROLS, controls(MSR_TRUE_CPU, TPR_SHADOW | MSR_BITMAPS | SECONDARY));
	vmwrite(INTERRUPT_STATUS, 0);
	for (int i = 0; i < 4; i++)
		vmwrite(EOI_EXIT_BITMAP + i * 2, 0);
	vmwrite(ENTRY_EVENT, 0);
	vmwrite(INTERRUPTIBILITY, 0);
	vmwrite(ACTIVITY, 0);
	vmwrite(GUEST_IDTR_BASE, (uint64_t)guest_idt);
	vmwrite(GUEST_RSP, (uint64_t)guest_stack + PAGE_SIZE - 64);
	vmwrite(GUEST_RIP, (uint64_t)code);
	vmwrite(GUEST_RFLAGS, interrupts ? 2 | RFLAGS_IF : 2);
}

enum exit enter(void)
{
	if (!vmenter()) {
		print("# VM entry: error ");
		print_hex(vmread(INSTRUCTION_ERROR));
		print("\n");
		test_failed = true;
	}
	return vmread(EXIT_REASON);
}

enum exit run(char *code)
{
	vmwrite(GUEST_RIP, (uint64_t)code);
	return enter();
}

static volatile uint32_t *word(int first, int vector)
{
	return vapic + first / 4 + vector / 32 * 4;
}

bool has(int first, int vector)
{
	return *word(first, vector) >> vector % 32 & 1;
}

void pend(int vector)
{
	uint64_t status = vmread(INTERRUPT_STATUS);

	*word(IRR, vector) |= 1u << vector % 32;
	if (vector > (int)(status & 0xff))
		vmwrite(INTERRUPT_STATUS, (status & 0xff00) | vector);
}

void serve(int vector)
{
	*word(ISR, vector) |= 1u << vector % 32;
	vmwrite(INTERRUPT_STATUS, (vmread(INTERRUPT_STATUS) & 0xff) | vector << 8);
}

void expect_status(int rvi, int svi)
{
	expect("interrupt status", vmread(INTERRUPT_STATUS), rvi | svi << 8);
}

/* @pushed: the RIP that it came at */
void expect_taken(int vector, char *pushed)
{
	expect("exit reason", vmread(EXIT_REASON), EXIT_VMCALL);
	expect("vector", guest_rax, vector);
	expect("IRR", has(IRR, vector), 0);
	expect("ISR", has(ISR, vector), 1);
	expect("SVI", vmread(INTERRUPT_STATUS) >> 8, vector);
	expect("PPR", vapic[PPR / 4], vector & 0xf0);
	expect("RIP pushed", *(uint64_t *)vmread(GUEST_RSP), (uint64_t)pushed);
}

void expect_not_taken(void)
{
	expect("exit reason", vmread(EXIT_REASON), EXIT_VMCALL);
	expect("SVI", vmread(INTERRUPT_STATUS) >> 8, 0);
	expect("in the handler", vmread(GUEST_RIP) >= (uint64_t)guest_isr, 0);
}
