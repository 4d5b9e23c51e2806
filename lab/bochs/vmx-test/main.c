// SPDX-License-Identifier: GPL-2.0
/*
 * Conformance of Bochs' virtual and posted interrupts with Intel's SDM, case by case, without a hypervisor: this
 * program runs guests of a few instructions and looks at the VM exit and at the virtual-APIC page. Run by
 * vmx_test.py.
 */
#include "machine.h"

void ap_main(void)
{
}

void boot_main(void)
{
	outb(0x21, 0xff);		/* no interrupts of the BIOS's timer */
	outb(0xa1, 0xff);
	outb(LAB_PORT, 'F');		/* from here on VM entries take time */
	vmx_init();
	test_entry();
	test_priority();
	test_writes();
	test_events();
	test_posted();
	test_external();
	test_hlt();
	tests_done();
}
