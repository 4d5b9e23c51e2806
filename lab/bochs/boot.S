/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Boot sector of the vmx lab's disk. Bochs has already put an uncompressed kernel, the
 * initramfs and a PVH start-info page in RAM (optramimage): this adds the BIOS memory map
 * to that page and enters the kernel as the PVH boot protocol says. Built by build.sh;
 * the page's layout is emulators.py's, START_INFO and the offsets below it.
 */
	.set	PAGE, 0x90000
	.set	MAP_ENTRIES, 48		/* in struct hvm_start_info */
	.set	ENTRY, 0xf0		/* physical address of the kernel's PVH entry */
	.set	MAP, 0x100

	.code16
	.globl	_start
_start:
	cli
	movw	$PAGE >> 4, %ax
	movw	%ax, %ds
	movw	%ax, %es
	xorw	%ax, %ax
	movw	%ax, %ss
	movw	$0x7c00, %sp
	xorl	%ebx, %ebx
	movw	$MAP, %di
next:
	movl	$0xe820, %eax
	movl	$0x534d4150, %edx	/* "SMAP" */
	movl	$20, %ecx
	int	$0x15
	jc	enter
	addw	$24, %di		/* PVH entries are 4 bytes longer, zero */
	incl	MAP_ENTRIES
	testl	%ebx, %ebx
	jnz	next
enter:
	cli
	inb	$0x92, %al		/* A20 */
	orb	$2, %al
	outb	%al, $0x92
	lgdtl	%cs:gdt_pointer
	movl	%cr0, %eax
	orb	$1, %al
	movl	%eax, %cr0
	ljmpl	$8, $protected

	.code32
protected:
	movw	$16, %ax
	movw	%ax, %ds
	movw	%ax, %es
	movw	%ax, %ss
	movl	$PAGE, %ebx
	jmp	*PAGE + ENTRY

	.balign	8
gdt:
	.quad	0
	.quad	0x00cf9b000000ffff	/* flat code */
	.quad	0x00cf93000000ffff	/* flat data */
gdt_pointer:
	.word	gdt_pointer - gdt - 1
	.long	gdt
	.org	510
	.word	0xaa55
