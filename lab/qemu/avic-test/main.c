// SPDX-License-Identifier: GPL-2.0
/*
 * Conformance of QEMU's emulated SVM and AVIC with AMD's APM, case by case, without a hypervisor: this
 * program runs guests of a few instructions and looks at the #VMEXIT and at the backing page. Run by
 * avic_test.py.
 */
#include "machine.h"

static void test_cpuid(void)
{
	uint32_t a = 0x8000000a, b, c, d;

	asm volatile("cpuid" : "+a"(a), "=b"(b), "=c"(c), "=d"(d));
	expect("CPUID 8000_000A EDX[13]", d >> 13 & 1, 1);
	expect("CPUID 8000_000A EDX[18]", d >> 18 & 1, 1);
	expect("CPUID 8000_000A EDX[3]", d >> 3 & 1, 1);
	test_end("CPUID says AVIC, x2AVIC and NRIPS");
}

void boot_main(void)
{
	outb(0x21, 0xff);		/* no interrupts of the BIOS's timer */
	outb(0xa1, 0xff);
	wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_SVME);
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
		test_x2_accesses();
		test_x2_interrupts();
		test_x2_ipis();
		test_x2_vmrun();
		test_virq();
		test_next_rip();
		test_injection();
		test_32_bit();
		start_ap();
		test_doorbell();
	}
	tests_done();
	asm volatile("outw %0, %1" : : "a"((uint16_t)!!failures), "Nd"((uint16_t)EXIT_PORT));
}
