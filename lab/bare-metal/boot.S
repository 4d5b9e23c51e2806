/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Entry of a program without an operating system, a PVH kernel for an emulator: from 32-bit protected mode, and
 * on the second CPU from real mode, to C in long mode, boot_main() and ap_main(); 4 GiB mapped to themselves.
 */
#define KERNEL_CS	0x08
#define KERNEL_DS	0x10
#define AP_START	0x8000		/* where the second CPU starts: page 8 */
#define STACK_SIZE	0x4000

	.section .note, "a", @note	/* XEN_ELFNOTE_PHYS32_ENTRY */
	.long	4, 4, 18
	.asciz	"Xen"
	.long	entry

	.text
	.code32
	.globl	entry
entry:
	cli
	movl	$boot_stack + STACK_SIZE, %esp
	/* 4 GiB, mapped to themselves in pages of 2 MiB */
	movl	$page_directories, %edi
	movl	$0x87, %eax
	movl	$2048, %ecx
1:	movl	%eax, (%edi)
	addl	$0x200000, %eax
	addl	$8, %edi
	loop	1b
	movl	$page_directories + 7, %eax
	movl	$page_pointers, %edi
	movl	$4, %ecx
2:	movl	%eax, (%edi)
	addl	$0x1000, %eax
	addl	$8, %edi
	loop	2b
	movl	$page_pointers + 7, page_root
	movl	$boot_main, %ebx
	jmp	to_long_mode

/* %ebx: where to go, %esp: stack */
to_long_mode:
	movl	$page_root, %eax
	movl	%eax, %cr3
	movl	$0x620, %eax		/* PAE, OSFXSR, OSXMMEXCPT */
	movl	%eax, %cr4
	movl	$0xc0000080, %ecx	/* EFER: LME */
	rdmsr
	orl	$0x100, %eax
	wrmsr
	movl	$0x80000011, %eax
	movl	%eax, %cr0
	lgdt	gdt_pointer
	ljmp	$KERNEL_CS, $3f
	.code64
3:	movl	$KERNEL_DS, %eax
	movl	%eax, %ds
	movl	%eax, %es
	movl	%eax, %ss
	movl	%ebx, %ebx
	call	*%rbx
4:	hlt
	jmp	4b

/* Copied to AP_START */
	.code16
	.globl	ap_start, ap_start_end
ap_start:
	cli
	xorw	%ax, %ax
	movw	%ax, %ds
	lgdtl	AP_START + ap_gdt_pointer - ap_start
	movl	$0x11, %eax
	movl	%eax, %cr0
	ljmpl	$0x18, $ap_protected
	.balign	8
ap_gdt_pointer:
	.word	gdt_end - gdt - 1
	.long	gdt
ap_start_end:
	.code32
ap_protected:
	movl	$KERNEL_DS, %eax
	movl	%eax, %ds
	movl	%eax, %ss
	movl	$ap_stack + STACK_SIZE, %esp
	movl	$ap_main, %ebx
	jmp	to_long_mode

	.code64
/* The host's interrupts: counted, EOI */
	.globl	host_isr
host_isr:
	pushq	%rdi
	incq	host_interrupts
	movl	$0xfee000b0, %edi
	movl	$0, (%rdi)
	popq	%rdi
	iretq

	.data
	.balign	16
	.globl	gdt, gdt_end, host_interrupts
host_interrupts: .quad 0, 0
gdt:	.quad	0
	.quad	0x00af9b000000ffff	/* 64-bit code */
	.quad	0x00cf93000000ffff	/* data */
	.quad	0x00cf9b000000ffff	/* 32-bit code */
gdt_end:
gdt_pointer:
	.word	gdt_end - gdt - 1
	.quad	gdt

	.bss
	.balign	4096
	.globl	page_root
page_root: .skip 4096
page_pointers: .skip 4096
page_directories: .skip 4 * 4096
boot_stack: .skip STACK_SIZE
ap_stack: .skip STACK_SIZE

	.section .note.GNU-stack, "", @progbits
