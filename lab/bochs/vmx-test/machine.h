/* SPDX-License-Identifier: GPL-2.0 */
/* Of the conformance test: VMCS fields and registers by the SDM's names, what each file has. */
#ifndef MACHINE_H
#define MACHINE_H

#include "bare-metal.h"

#define APIC_PAGE	0xfee00000ull	/* of the CPU, which the guest reaches as well */
#define LAB_PORT	0x8a20
#define NOTIFICATION	0xf2
#define OTHER_VECTOR	0x40		/* an external interrupt */
#define HOLE		(1ull << 30)	/* nothing for the guest there */

/* VMCS */
enum {
	POSTED_VECTOR = 0x0002, GUEST_ES = 0x0800, GUEST_CS = 0x0802, GUEST_SS = 0x0804, GUEST_DS = 0x0806,
	GUEST_TR = 0x080e, INTERRUPT_STATUS = 0x0810, HOST_ES = 0x0c00, HOST_CS = 0x0c02, HOST_SS = 0x0c04,
	HOST_DS = 0x0c06, HOST_TR = 0x0c0c,
	MSR_BITMAP = 0x2004, VIRTUAL_APIC = 0x2012, POSTED_DESCRIPTOR = 0x2016, EPT_POINTER = 0x201a,
	EOI_EXIT_BITMAP = 0x201c, LINK_POINTER = 0x2800,
	PIN_CONTROLS = 0x4000, CPU_CONTROLS = 0x4002, EXCEPTIONS = 0x4004, EXIT_CONTROLS = 0x400c,
	ENTRY_CONTROLS = 0x4012, ENTRY_EVENT = 0x4016, CPU_CONTROLS_2 = 0x401e,
	INSTRUCTION_ERROR = 0x4400, EXIT_REASON = 0x4402, EXIT_EVENT = 0x4404, IDT_VECTORING = 0x4408,
	GUEST_LIMITS = 0x4800, GUEST_GDTR_LIMIT = 0x4810, GUEST_IDTR_LIMIT = 0x4812, GUEST_RIGHTS = 0x4814,
	INTERRUPTIBILITY = 0x4824, ACTIVITY = 0x4826, TIMER_VALUE = 0x482e,
	EXIT_QUALIFICATION = 0x6400, GUEST_CR0 = 0x6800, GUEST_CR3 = 0x6802, GUEST_CR4 = 0x6804,
	GUEST_GDTR_BASE = 0x6816, GUEST_IDTR_BASE = 0x6818, GUEST_DR7 = 0x681a, GUEST_RSP = 0x681c,
	GUEST_RIP = 0x681e, GUEST_RFLAGS = 0x6820,
	HOST_CR0 = 0x6c00, HOST_CR3 = 0x6c02, HOST_CR4 = 0x6c04, HOST_GDTR_BASE = 0x6c0c,
	HOST_IDTR_BASE = 0x6c0e, HOST_RIP = 0x6c16,
};

enum exit { EXIT_EXCEPTION = 0, EXIT_INTERRUPT = 1, EXIT_WINDOW = 7, EXIT_VMCALL = 18, EXIT_EOI = 45,
	    EXIT_EPT_VIOLATION = 48, EXIT_TIMER = 52 };

/* Controls */
#define INTERRUPT_EXITING	(1u << 0)	/* pin-based */
#define PREEMPTION_TIMER	(1u << 6)
#define POSTED_INTERRUPTS	(1u << 7)
#define WINDOW_EXITING		(1u << 2)	/* processor-based */
#define TPR_SHADOW		(1u << 21)
#define MSR_BITMAPS		(1u << 28)
#define SECONDARY		(1u << 31)
#define EPT			(1u << 1)	/* secondary */
#define X2APIC_MODE		(1u << 4)
#define APIC_REGISTERS		(1u << 8)
#define VIRTUAL_INTERRUPTS	(1u << 9)
#define EXIT_64_BIT		(1u << 9)
#define EXIT_ACKNOWLEDGES	(1u << 15)
#define ENTRY_64_BIT		(1u << 9)

#define BLOCKED_BY_STI		1
#define HALTED			1		/* activity state */
#define EVENT_VALID		(1u << 31)	/* external interrupts have type 0 */
#define RFLAGS_IF		(1ull << 9)

/* Registers of the virtual-APIC page, and of the APIC */
enum { TPR = 0x080, PPR = 0x0a0, EOI = 0x0b0, SVR = 0x0f0, ISR = 0x100, IRR = 0x200, ICR = 0x300,
       TIMER = 0x320, INITIAL_COUNT = 0x380, DIVIDE = 0x3e0, SELF_IPI = 0x3f0 };
#define X2_MSR(offset)	(0x800 + (offset) / 16)

/* guest.S */
extern char guest_nop[], guest_sti[], guest_sti_shadow[], guest_wrmsr[], guest_wrmsr_done[], guest_rdmsr[],
	guest_cr8[], guest_cr8_done[], guest_read_cr8[], guest_ipi[], guest_ipi_done[], guest_ipi_sti[],
	guest_ipi_sti_shadow[], guest_timer_hlt[], guest_timer_hlt_done[], guest_isr[], host_entry[];
extern uint64_t guest_rdi, guest_rsi, guest_rax;
bool vmenter(void);				/* false: it failed */
/* machine.c */
extern volatile uint32_t vapic[PAGE_SIZE / 4];
extern struct __attribute__((aligned(64))) posted_descriptor {
	uint32_t pir[8], on;
} posted;
void vmwrite(uint64_t field, uint64_t val);
uint64_t vmread(uint64_t field);
void vmx_init(void);
volatile uint32_t *apic(int offset);
void start(char *code, bool interrupts);
enum exit run(char *code);			/* another piece of code, in the same state */
enum exit enter(void);
void pend(int vector);				/* in the virtual IRR, and RVI if it is the highest */
void serve(int vector);				/* in the virtual ISR, and SVI */
bool has(int first, int vector);		/* a bit of vapic's 256 at @first */
void expect_taken(int vector, char *pushed);
void expect_not_taken(void);
void expect_status(int rvi, int svi);
/* virtual.c */
void test_entry(void);
void test_priority(void);
void test_writes(void);
void test_events(void);
/* posted.c */
void test_posted(void);
void test_external(void);
void test_hlt(void);

#endif
