// SPDX-License-Identifier: GPL-2.0
/*
 * AVIC on two CPUs: doorbells and IPIs between guests; how long a VMRUN takes.
 */
#include "machine.h"

static volatile int ap_command, ap_done, ap_here;

void ap_main(void)
{
	struct __attribute__((packed)) {
		uint16_t limit;
		uint64_t base;
	} idt = { sizeof(host_idt) - 1, (uint64_t)host_idt };

	asm volatile("lidt %0" : : "m"(idt));
	*(volatile uint32_t *)(APIC_BAR + 0xf0) = 0x1ff;
	wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_SVME);
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

void start_ap(void)
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

void test_doorbell(void)
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
	expect("exit code", guest_wrmsrs(MSR_DOORBELL, 0x1000), EXIT_GP);
	test_end("the doorbell register cannot be read; its reserved bits");

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

/*
 * How long VMRUN takes, while this CPU's turn is long, and what comes of a
 * doorbell meanwhile, in short turns: avic_test.py knows what it must be.
 */
void test_entry(void)
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
