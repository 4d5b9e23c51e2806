/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Entry of the AVIC conformance test, which QEMU loads as a PVH kernel: from 32-bit
 * protected mode, and on the second CPU from real mode, to C in long mode; the
 * switch to a guest and back; the guest's code.  Built by avic_test.py.
 */
#define KERNEL_CS	0x08
#define KERNEL_DS	0x10
#define AP_START	0x8000		/* where the second CPU starts: page 8 */
#define STACK_SIZE	0x4000

	.section .note, "a", @note	/* XEN_ELFNOTE_PHYS32_ENTRY */
	.long	4, 4, 18
	.asciz	"Xen"
	.long	start

	.text
	.code32
	.globl	start
start:
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
	movl	$0xc0000080, %ecx	/* EFER: LME, SVME */
	rdmsr
	orl	$0x1100, %eax
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
/* void vmrun(u64 vmcb): the guest's general registers but RAX and RSP are the host's */
	.globl	vmrun
vmrun:
	pushq	%rbx
	pushq	%rbp
	pushq	%r12
	pushq	%r13
	pushq	%r14
	pushq	%r15
	pushq	%rdi
	movq	%rdi, %rax
	movq	guest_rdi, %rdi
	movq	guest_rsi, %rsi
	clgi
	sti				/* V_INTR_MASKING: host interrupts end the guest */
	vmload	%rax
	vmrun	%rax
	vmsave	%rax
	cli
	stgi
	popq	%rax
	popq	%r15
	popq	%r14
	popq	%r13
	popq	%r12
	popq	%rbp
	popq	%rbx
	ret

/* The second CPU's own interrupt: only its EOI */
	.globl	host_isr
host_isr:
	pushq	%rdi
	movl	$0xfee000b0, %edi
	movl	$0, (%rdi)
	popq	%rdi
	iretq

/* The guest: RDI and RSI are set, a VMMCALL ends it. */
	.globl	guest_write4, guest_write4_done, guest_write2, guest_read4, guest_read4_done
	.globl	guest_nop, guest_sti, guest_cr8, guest_read_cr8, guest_sti_hlt, guest_spin
	.globl	guest_isr, guest_rdmsr, guest_iret, guest_cr8_sti
guest_write4:
	movl	%esi, (%rdi)
guest_write4_done:
	vmmcall
guest_write2:
	movw	%si, (%rdi)
	vmmcall
guest_read4:
	movl	(%rdi), %eax
guest_read4_done:
	vmmcall
guest_nop:
	nop
	vmmcall
guest_sti:
	sti
	nop
	nop
	vmmcall
guest_cr8:
	movq	%rsi, %cr8
	vmmcall
guest_cr8_sti:
	movq	%rsi, %cr8
	sti
	nop
	nop
	vmmcall
guest_read_cr8:
	movq	%cr8, %rax
	vmmcall
guest_rdmsr:
	movl	%esi, %ecx
	rdmsr
	vmmcall
guest_iret:
	iretq
guest_sti_hlt:
	sti
	hlt
	vmmcall
/* Until an interrupt is handled, whose handler ends it */
guest_spin:
	incq	guest_spins
	pause
	jmp	guest_spin

/* One entry for each vector, 16 bytes apart: RAX = vector */
	.balign	16
guest_isr:
	.set	vector, 0
	.rept	256
	.balign	16
	movl	$vector, %eax
	vmmcall
	jmp	.
	.set	vector, vector + 1
	.endr

	.data
	.balign	16
	.globl	gdt, gdt_end, guest_rdi, guest_rsi, guest_spins
gdt:	.quad	0
	.quad	0x00af9b000000ffff	/* 64-bit code */
	.quad	0x00cf93000000ffff	/* data */
	.quad	0x00cf9b000000ffff	/* 32-bit code */
gdt_end:
gdt_pointer:
	.word	gdt_end - gdt - 1
	.quad	gdt
guest_rdi: .quad 0
guest_rsi: .quad 0
guest_spins: .quad 0

	.bss
	.balign	4096
	.globl	page_root
page_root: .skip 4096
page_pointers: .skip 4096
page_directories: .skip 4 * 4096
boot_stack: .skip STACK_SIZE
ap_stack: .skip STACK_SIZE

	.section .note.GNU-stack, "", @progbits
