/* SPDX-License-Identifier: GPL-2.0 */
/*
 * VM entry and exit, and the guest's code.
 */
	.text
/* bool vmenter(void): the guest's general registers but RAX, RCX and RDX are the host's or the variables below */
	.globl	vmenter, host_entry
vmenter:
	pushq	%rbx
	pushq	%rbp
	pushq	%r12
	pushq	%r13
	pushq	%r14
	pushq	%r15
	movl	$0x6c14, %edx		/* HOST_RSP */
	vmwrite	%rsp, %rdx
	movq	guest_rdi, %rdi
	movq	guest_rsi, %rsi
	xorl	%eax, %eax
	xorl	%ecx, %ecx
	cmpb	$0, launched
	jne	1f
	vmlaunch
	jmp	2f
1:	vmresume
2:	xorl	%eax, %eax
	jmp	3f
host_entry:
	movq	%rax, guest_rax
	movb	$1, launched
	movl	$1, %eax
3:	popq	%r15
	popq	%r14
	popq	%r13
	popq	%r12
	popq	%rbp
	popq	%rbx
	ret

/* The guest: RDI and RSI are set, a VMCALL ends it. */
	.globl	guest_nop, guest_sti, guest_sti_shadow, guest_wrmsr, guest_wrmsr_done, guest_rdmsr
	.globl	guest_cr8, guest_cr8_done, guest_read_cr8, guest_ipi, guest_ipi_done, guest_ipi_sti
	.globl	guest_ipi_sti_shadow, guest_timer_hlt, guest_timer_hlt_done, guest_isr
guest_nop:
	nop
	vmcall
guest_sti:
	sti
	nop
guest_sti_shadow:
	nop
	vmcall
guest_wrmsr:
	movl	%esi, %ecx
	movl	%edi, %eax
	xorl	%edx, %edx
	wrmsr
guest_wrmsr_done:
	nop
	vmcall
guest_rdmsr:
	movl	%esi, %ecx
	rdmsr
	vmcall
guest_cr8:
	movq	%rsi, %cr8
guest_cr8_done:
	nop
	vmcall
guest_read_cr8:
	movq	%cr8, %rax
	vmcall
/* Writes the CPU's own ICR */
guest_ipi:
	movl	%esi, (%rdi)
guest_ipi_done:
	nop
	nop
	vmcall
guest_ipi_sti:
	movl	%esi, (%rdi)
	nop
	nop
	sti
	nop
guest_ipi_sti_shadow:
	nop
	vmcall
/* Has the CPU's own timer send vector RSI, and sleeps */
guest_timer_hlt:
	movl	%esi, 0x320(%rdi)
	movl	$2000, 0x380(%rdi)
	sti
	hlt
guest_timer_hlt_done:
	nop
	vmcall

/* One entry for each vector, 16 bytes apart: RAX = vector */
	.balign	16
guest_isr:
	.set	vector, 0
	.rept	256
	.balign	16
	movl	$vector, %eax
	vmcall
	jmp	.
	.set	vector, vector + 1
	.endr

	.data
	.balign	8
	.globl	guest_rdi, guest_rsi, guest_rax
guest_rdi: .quad 0
guest_rsi: .quad 0
guest_rax: .quad 0
launched: .byte 0

	.section .note.GNU-stack, "", @progbits
