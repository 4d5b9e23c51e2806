/* SPDX-License-Identifier: GPL-2.0 */
/* Of the conformance test: the VMCB's fields and the APIC's registers by the APM's names, what each file has. */
#ifndef MACHINE_H
#define MACHINE_H

#include "bare-metal.h"

#define APIC_BAR	0xfee00000ull
#define COUNTERS_PORT	0x8a20
#define TURNS_PORT	0x8a30		/* reads as 0 where there is one */
#define EXIT_PORT	0x501
#define TIMEOUT		60000000000ull	/* TSC ticks: the machine may be busy */
#define A_WHILE		100000000ull
#define HOST_VECTOR	0x40

#define MSR_EFER	0xc0000080
#define EFER_SVME	(1 << 12)
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
#define EVENT_INJ		0x0a8
#define NEXT_RIP		0x0c8
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
#define MISC1_MSR		(1u << 28)
#define MISC1_SHUTDOWN		(1u << 31)
#define MISC2_VMRUN_VMMCALL	3u
#define AVIC_ENABLE		(1u << 31)
#define X2AVIC_ENABLE		(1u << 30)
#define V_INTR_MASKING		(1u << 24)
#define V_INTR_PRIO(n)		((n) << 16)
#define V_IRQ			(1u << 8)
#define V_TPR			0xfu
#define RFLAGS_IF		(1ull << 9)
#define RFLAGS_OF		(1ull << 11)

#define EVENT_VALID		(1u << 31)
#define EVENT_EXCEPTION		(3u << 8)
#define EVENT_INTN		(4u << 8)

#define EXIT_EXCEPTION		0x40
#define EXIT_GP			(EXIT_EXCEPTION + 13)
#define EXIT_INTR		0x60
#define EXIT_CPUID		0x72
#define EXIT_INVLPG		0x79
#define EXIT_IOIO		0x7b
#define EXIT_MSR		0x7c
#define EXIT_VMMCALL		0x81
#define EXIT_NPF		0x400
#define EXIT_INCOMPLETE_IPI	0x401
#define EXIT_NOACCEL		0x402
#define EXIT_INVALID		(~0ull)

#define PHYS_VALID		(1ull << 63)
#define PHYS_RUNNING		(1ull << 62)
#define LOG_VALID		(1u << 31)
#define MAX_INDEX		9

enum { ID = 0x20, VERSION = 0x30, TPR = 0x80, PPR = 0xa0, EOI = 0xb0, LDR = 0xd0, DFR = 0xe0, ISR = 0x100,
       TMR = 0x180, IRR = 0x200, ESR = 0x280, ICR = 0x300, ICR2 = 0x310, SELF_IPI = 0x3f0 };

enum ipi_failure { INVALID_TYPE, NOT_RUNNING, INVALID_TARGET, INVALID_PAGE, INVALID_VECTOR };

extern char guest_write4[], guest_write4_done[], guest_write2[], guest_read4[],
	guest_read4_done[], guest_nop[], guest_sti[], guest_cr8[], guest_read_cr8[],
	guest_sti_hlt[], guest_spin[], guest_rdmsr[], guest_iret[], guest_cr8_sti[], guest_isr[],
	guest_ud2[], guest_int[], guest_rdmsr_at[], guest_wrmsr[], guest_wrmsr_at[], guest_wrmsr_done[],
	guest_32_into[], guest_32_into_done[], guest_32_bound[], guest_32_bound_done[],
	guest_32_bounds[], guest_32_out[], guest_32_out_done[], guest_32_cpuid[], guest_32_invlpg[];
extern uint64_t guest_rdi, guest_rsi;
extern volatile uint64_t guest_spins;

/* An instruction, what is behind it, its bits of the VMCB's word @at, and the exit code */
extern const struct insn {
	uint64_t code, next;
	uint32_t at, bits;
	uint64_t exit;
} insns[], insns_end[];

/* guest.S */
void vmrun(uint64_t vmcb);
/* machine.c; CPU 0 is this one, pages are the backing pages of virtual CPUs 0 to 3 */
extern uint8_t vmcb[2][PAGE_SIZE], hsave[2][PAGE_SIZE], backing[4][PAGE_SIZE], access_page[PAGE_SIZE],
	io_bitmaps[4 * PAGE_SIZE];
extern uint64_t physical_table[512], guest_idt[512], host_idt[512];
extern uint32_t logical_table[1024];
volatile uint64_t *field(int cpu, int offset);
volatile uint32_t *field4(int cpu, int offset);
volatile uint32_t *reg(int page, int offset);
bool has(int page, int first, int vector);
void set(int page, int first, int vector);
void vcpu_init(int cpu, char *code);
void tables_init(void);
void start(char *code);
uint64_t run(void);
uint64_t guest_writes(int offset, uint32_t val);
void expect_fault(int offset, bool write, char *at);
void expect_trap(int offset, uint32_t info_2);
void expect_done(void);
void expect_incomplete(uint32_t icr2, uint32_t icr, enum ipi_failure why, uint32_t index);
void expect_taken(int vector);
uint64_t guest_wrmsrs(uint32_t msr, uint64_t val);
void tables_for_guests_init(void);
void sends(uint32_t icr2, uint32_t icr);
/* xavic.c */
void test_accesses(void);
void test_tpr(void);
void test_delivery(void);
void test_ipi_exits(void);
void test_ipi_delivery(void);
void test_logical(void);
void test_vmrun(void);
/* svm.c, of which AVIC is off */
void test_virq(void);
void test_next_rip(void);
void test_injection(void);
void test_32_bit(void);
/* doorbell.c */
void start_ap(void);
void test_doorbell(void);
void test_entry(void);
/* x2avic.c */
void test_x2_accesses(void);
void test_x2_interrupts(void);
void test_x2_ipis(void);
void test_x2_vmrun(void);

#endif
