// SPDX-License-Identifier: GPL-2.0
/*
 * SVM without AVIC: APM volume 2, "Virtualizing Interrupts", "State Saved on Exit", "Event
 * Injection".
 */
#include "machine.h"

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

void test_virq(void)
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

/* --- the next RIP (APM, "State Saved on Exit" and "Event Injection") ------------ */

static void start_plain(uint64_t code)
{
	start((char *)code);
	*field4(0, INT_CTL) = V_INTR_MASKING;
	*field(0, NEXT_RIP) = 0x1234;
}

void test_next_rip(void)
{
	memset(io_bitmaps, 0xff, sizeof(io_bitmaps));
	for (const struct insn *i = insns; i < insns_end; i++) {
		bool before = test_failed;

		start_plain(i->code);
		*field4(0, i->at) |= i->bits;
		*field(0, SAVE_RAX) = (uint64_t)vmcb[1];
		run();
		expect("exit code", *field(0, EXIT_CODE), i->exit);
		expect("RIP", *field(0, SAVE_RIP), i->code);
		expect("nRIP", *field(0, NEXT_RIP), i->next);
		if (test_failed != before) {
			print("# instruction ");
			print_hex(i - insns);
			print("\n");
		}
	}
	memset(io_bitmaps, 0, sizeof(io_bitmaps));
	test_end("intercepts of instructions: nRIP is behind them");

	start_plain((uint64_t)guest_ud2);
	expect("exit code", run(), EXIT_EXCEPTION + 6);
	expect("nRIP after #UD", *field(0, NEXT_RIP), 0);
	start_plain((uint64_t)guest_read4);
	guest_rdi = 1 << 30;
	expect("exit code", run(), EXIT_NPF);
	expect("nRIP after #NPF", *field(0, NEXT_RIP), 0);
	start_plain((uint64_t)guest_nop);
	*field4(0, GUEST_ASID) = 0;
	expect("exit code", run(), EXIT_INVALID);
	expect("nRIP after a VMRUN that fails", *field(0, NEXT_RIP), 0);
	start(guest_read4);
	*field(0, NEXT_RIP) = 0x1234;
	guest_rdi = APIC_BAR + 0x90;
	expect("exit code", run(), EXIT_NOACCEL);
	expect("nRIP after AVIC_NOACCEL", *field(0, NEXT_RIP), 0);
	test_end("other #VMEXITs: nRIP is 0");
}

/* @event is injected with RIP at guest_nop, and pushes @pushed. */
static void inject(uint32_t event, uint64_t pushed)
{
	start_plain((uint64_t)guest_nop);
	*field4(0, EVENT_INJ) = event | EVENT_VALID;
	expect("exit code", run(), EXIT_VMMCALL);
	expect("vector", *field(0, SAVE_RAX), event & 0xff);
	expect("pushed", *(uint64_t *)*field(0, SAVE_RSP), pushed);
}

/* Its delivery faults: the IDT is where the nested page table has nothing. */
static void expect_undelivered(uint32_t event, char *rip)
{
	*field(0, SAVE_IDTR + 8) = 1 << 30;
	expect("exit code", run(), EXIT_NPF);
	expect("EXITINTINFO", *field4(0, EXIT_INT_INFO), event | EVENT_VALID);
	expect("RIP", *field(0, SAVE_RIP), (uint64_t)rip);
	expect("nRIP", *field(0, NEXT_RIP), 0);
}

void test_injection(void)
{
	inject(EVENT_INTN | 0x80, 0x1234);
	inject(EVENT_EXCEPTION | 3, 0x1234);
	test_end("INTn and INT3 injected: nRIP is pushed");
	inject(EVENT_EXCEPTION | 6, (uint64_t)guest_nop);
	inject(0x80, (uint64_t)guest_nop);
	test_end("others injected: RIP is pushed");

	start_plain((uint64_t)guest_nop);
	*field4(0, EVENT_INJ) = EVENT_INTN | 0x80 | EVENT_VALID;
	expect_undelivered(EVENT_INTN | 0x80, guest_nop);
	start_plain((uint64_t)guest_nop);
	*field4(0, EVENT_INJ) = EVENT_EXCEPTION | 3 | EVENT_VALID;
	expect_undelivered(EVENT_EXCEPTION | 3, guest_nop);
	start_plain((uint64_t)guest_int);
	expect_undelivered(EVENT_INTN | 0x80, guest_int);
	test_end("their delivery faults: RIP stays, the event is reported, nRIP is 0");
}

/* --- in compatibility mode, where there are INTO and BOUND ---------------------- */

#define CS_32_BIT	0xc9bull	/* D, not L */

/* @code, 32 bit, with OF=@of */
static void start_32_bit(char *code, bool of)
{
	start_plain((uint64_t)code);
	*field4(0, SAVE_CS) = 0x08 | CS_32_BIT << 16;
	*field(0, SAVE_RFLAGS) |= of ? RFLAGS_OF : 0;
	*field(0, SAVE_RAX) = 0;
}

void test_32_bit(void)
{
	start_32_bit(guest_32_into, true);
	expect("exit code", run(), EXIT_EXCEPTION + 4);
	expect("RIP", *field(0, SAVE_RIP), (uint64_t)guest_32_into);
	expect("nRIP", *field(0, NEXT_RIP), (uint64_t)guest_32_into_done);
	start_32_bit(guest_32_into, false);
	expect("exit code, OF=0", run(), EXIT_VMMCALL);
	expect("RIP, OF=0", *field(0, SAVE_RIP), (uint64_t)guest_32_into_done);
	start_32_bit(guest_32_into, true);
	*field4(0, INTERCEPT_EXCEPTIONS) = 0;
	expect("exit code, no intercept", run(), EXIT_VMMCALL);
	expect("vector", *field(0, SAVE_RAX), 4);
	expect("pushed", *(uint64_t *)*field(0, SAVE_RSP), (uint64_t)guest_32_into_done);
	test_end("32 bit: nRIP is behind INTO, which is #OF only with OF=1");

	start_32_bit(guest_32_into_done, false);
	*field4(0, EVENT_INJ) = EVENT_EXCEPTION | 4 | EVENT_VALID;
	expect("exit code", run(), EXIT_VMMCALL);
	expect("vector", *field(0, SAVE_RAX), 4);
	expect("pushed", *(uint64_t *)*field(0, SAVE_RSP), 0x1234);
	start_32_bit(guest_32_into, true);
	*field4(0, INTERCEPT_EXCEPTIONS) = 0;
	expect_undelivered(EVENT_EXCEPTION | 4, guest_32_into);
	test_end("32 bit: INTO injected pushes nRIP; its delivery faults");

	start_32_bit(guest_32_bound, false);
	guest_rdi = (uint64_t)guest_32_bounds;
	guest_rsi = 1;
	expect("exit code, inside", run(), EXIT_VMMCALL);
	start_32_bit(guest_32_bound, false);
	guest_rsi = 3;
	expect("exit code, outside", run(), EXIT_EXCEPTION + 5);
	expect("RIP", *field(0, SAVE_RIP), (uint64_t)guest_32_bound);
	expect("nRIP", *field(0, NEXT_RIP), (uint64_t)guest_32_bound_done);
	test_end("32 bit: BOUND is a fault, nRIP is behind it all the same");

	start_32_bit(guest_32_out, false);
	*field4(0, INTERCEPT_MISC1) |= 1u << 27;
	memset(io_bitmaps, 0xff, sizeof(io_bitmaps));
	expect("exit code", run(), EXIT_IOIO);
	expect("next RIP of an IOIO", *field(0, EXIT_INFO_2), (uint64_t)guest_32_out_done);
	expect("nRIP", *field(0, NEXT_RIP), (uint64_t)guest_32_out_done);
	memset(io_bitmaps, 0, sizeof(io_bitmaps));
	start_32_bit(guest_32_cpuid, false);
	*field4(0, INTERCEPT_MISC1) |= 1u << 18;
	expect("exit code", run(), EXIT_CPUID);
	expect("nRIP", *field(0, NEXT_RIP), (uint64_t)guest_32_cpuid + 2);
	/* An address of 16 bits has no SIB byte. */
	start_32_bit(guest_32_invlpg, false);
	*field4(0, INTERCEPT_MISC1) |= 1u << 25;
	expect("exit code", run(), EXIT_INVLPG);
	expect("nRIP", *field(0, NEXT_RIP), (uint64_t)guest_32_invlpg + 6);
	test_end("32 bit: nRIP is behind instructions of their own lengths");
}
