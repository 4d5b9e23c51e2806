/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The switch to a guest and back, and the guest's code.
 */
	.text
/* void vmrun(u64 vmcb): the guest's general registers but RAX, RCX, which is 0, and RSP are the host's */
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
	xorl	%ecx, %ecx
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

/* The guest: RDI and RSI are set, a VMMCALL ends it. */
	.globl	guest_write4, guest_write4_done, guest_write2, guest_read4, guest_read4_done
	.globl	guest_nop, guest_sti, guest_cr8, guest_read_cr8, guest_sti_hlt, guest_spin
	.globl	guest_isr, guest_rdmsr, guest_iret, guest_cr8_sti, guest_ud2, guest_int
	.globl	guest_rdmsr_at, guest_wrmsr, guest_wrmsr_at, guest_wrmsr_done
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
guest_rdmsr_at:
	rdmsr
	shlq	$32, %rdx
	orq	%rdx, %rax
	vmmcall
guest_wrmsr:
	movl	%esi, %ecx
	movq	%rdi, %rax
	movq	%rdi, %rdx
	shrq	$32, %rdx
guest_wrmsr_at:
	wrmsr
guest_wrmsr_done:
	vmmcall
guest_iret:
	iretq
guest_ud2:
	ud2
guest_int:
	int	$0x80
	vmmcall
guest_sti_hlt:
	sti
	hlt
	vmmcall
/* Until an interrupt is handled, whose handler ends it */
guest_spin:
	incq	guest_spins
	pause
	jmp	guest_spin

/* In a 32-bit segment */
	.code32
	.globl	guest_32_into, guest_32_into_done, guest_32_bound, guest_32_bound_done, guest_32_bounds
	.globl	guest_32_out, guest_32_out_done, guest_32_cpuid, guest_32_invlpg
guest_32_into:
	into
guest_32_into_done:
	vmmcall
guest_32_bound:
	bound	%esi, (%edi)
guest_32_bound_done:
	vmmcall
guest_32_bounds:
	.long	1, 2
guest_32_out:
	outl	%eax, $0x80
guest_32_out_done:
	vmmcall
guest_32_cpuid:
	cpuid
guest_32_invlpg:
	addr16 invlpg 0x1234(%bx, %si)
	.code64

/*
 * An instruction with an intercept: bit @bit of the VMCB's word at @at, or none, for a #VMEXIT with @exit.
 * struct insn of machine.h.
 */
	.macro	intercepted at, bit, exit, insn:vararg
	.pushsection .data
	.quad	1f, 2f
	.long	\at, 1 << \bit
	.quad	\exit
	.popsection
1:	\insn
2:	vmmcall
	.endm

	.pushsection .data
	.balign	8
	.globl	insns, insns_end
insns:
	.popsection
	/* Reads and writes of CRs and DRs */
	intercepted 0x000, 0, 0x000, movq %cr0, %rax
	intercepted 0x000, 3, 0x003, movq %cr3, %r15
	intercepted 0x000, 19, 0x013, movq %rax, %cr3
	intercepted 0x000, 24, 0x018, movq %r8, %cr8
	intercepted 0x004, 0, 0x020, movq %db0, %rax
	intercepted 0x004, 22, 0x036, movq %rax, %db6
	/* INT3 */
	intercepted 0x008, 3, 0x043, int3
	intercepted 0x008, 3, 0x043, .byte 0x67, 0xcc
	/* The first word of instructions */
	intercepted 0x00c, 6, 0x066, sidt 0x1000(%rdi, %rsi, 2)
	intercepted 0x00c, 7, 0x067, sgdt (%rdi)
	intercepted 0x00c, 8, 0x068, sldt %ax
	intercepted 0x00c, 9, 0x069, str (%r8)
	intercepted 0x00c, 10, 0x06a, lidt (%rdi)
	intercepted 0x00c, 11, 0x06b, lgdt 8(%rdi)
	intercepted 0x00c, 12, 0x06c, lldt %cx
	intercepted 0x00c, 13, 0x06d, ltr %cx
	intercepted 0x00c, 14, 0x06e, rdtsc
	intercepted 0x00c, 15, 0x06f, rdpmc
	intercepted 0x00c, 16, 0x070, pushfq
	intercepted 0x00c, 17, 0x071, popfq
	intercepted 0x00c, 18, 0x072, cpuid
	intercepted 0x00c, 18, 0x072, .byte 0x66, 0x48, 0x0f, 0xa2
	intercepted 0x00c, 20, 0x074, iretq
	intercepted 0x00c, 21, 0x075, int $0x80
	intercepted 0x00c, 21, 0x075, .byte 0xcd, 3
	intercepted 0x00c, 22, 0x076, invd
	intercepted 0x00c, 23, 0x077, pause
	intercepted 0x00c, 24, 0x078, hlt
	intercepted 0x00c, 24, 0x078, .byte 0x66, 0x66, 0x40, 0xf4
	intercepted 0x00c, 25, 0x079, invlpg (%rdi)
	intercepted 0x00c, 25, 0x079, invlpg %gs:0x12345678(%r8, %r9, 8)
	intercepted 0x00c, 26, 0x07a, invlpga
	intercepted 0x00c, 27, 0x07b, inb $0x80, %al
	intercepted 0x00c, 27, 0x07b, outl %eax, %dx
	intercepted 0x00c, 27, 0x07b, rep outsb
	intercepted 0x00c, 28, 0x07c, rdmsr
	intercepted 0x00c, 28, 0x07c, wrmsr
	/* The second */
	intercepted 0x010, 1, 0x081, vmmcall
	intercepted 0x010, 2, 0x082, vmload
	intercepted 0x010, 3, 0x083, vmsave
	intercepted 0x010, 4, 0x084, stgi
	intercepted 0x010, 5, 0x085, clgi
	intercepted 0x010, 7, 0x087, rdtscp
	intercepted 0x010, 8, 0x088, .byte 0xf1
	intercepted 0x010, 9, 0x089, wbinvd
	intercepted 0x010, 10, 0x08a, monitor
	intercepted 0x010, 11, 0x08b, mwait
	.pushsection .data
insns_end:
	.popsection

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
	.balign	8
	.globl	guest_rdi, guest_rsi, guest_spins
guest_rdi: .quad 0
guest_rsi: .quad 0
guest_spins: .quad 0

	.section .note.GNU-stack, "", @progbits
