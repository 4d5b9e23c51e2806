/* SPDX-License-Identifier: GPL-2.0 */
/*
 * How an L1 of the tests enters L2, with its general registers: nested_posted_guest.c
 * and apf_nested_guest.c.  What L2 is comes from the selftests library.
 */
#ifndef NESTED_ENTER_H
#define NESTED_ENTER_H

#include <linux/types.h>

#include "vmx.h"

/* L2's while L1 runs and the other way round; the assembly knows the order */
struct gprs {
	u64 rax, rbx, rcx, rdx, rsi, rdi, rbp;
	u64 r8, r9, r10, r11, r12, r13, r14, r15;
};

#define LOAD_GPRS							\
	"mov 0x08(%%rdi), %%rbx\n\t"					\
	"mov 0x10(%%rdi), %%rcx\n\t"					\
	"mov 0x18(%%rdi), %%rdx\n\t"					\
	"mov 0x20(%%rdi), %%rsi\n\t"					\
	"mov 0x30(%%rdi), %%rbp\n\t"					\
	"mov 0x38(%%rdi), %%r8\n\t"					\
	"mov 0x40(%%rdi), %%r9\n\t"					\
	"mov 0x48(%%rdi), %%r10\n\t"					\
	"mov 0x50(%%rdi), %%r11\n\t"					\
	"mov 0x58(%%rdi), %%r12\n\t"					\
	"mov 0x60(%%rdi), %%r13\n\t"					\
	"mov 0x68(%%rdi), %%r14\n\t"					\
	"mov 0x70(%%rdi), %%r15\n\t"

/* The pointer to them is on the stack, and L2's RDI then is */
#define STORE_GPRS							\
	"xchg %%rdi, (%%rsp)\n\t"					\
	"mov %%rbx, 0x08(%%rdi)\n\t"					\
	"mov %%rcx, 0x10(%%rdi)\n\t"					\
	"mov %%rdx, 0x18(%%rdi)\n\t"					\
	"mov %%rsi, 0x20(%%rdi)\n\t"					\
	"mov %%rbp, 0x30(%%rdi)\n\t"					\
	"mov %%r8, 0x38(%%rdi)\n\t"					\
	"mov %%r9, 0x40(%%rdi)\n\t"					\
	"mov %%r10, 0x48(%%rdi)\n\t"					\
	"mov %%r11, 0x50(%%rdi)\n\t"					\
	"mov %%r12, 0x58(%%rdi)\n\t"					\
	"mov %%r13, 0x60(%%rdi)\n\t"					\
	"mov %%r14, 0x68(%%rdi)\n\t"					\
	"mov %%r15, 0x70(%%rdi)\n\t"					\
	"popq 0x28(%%rdi)\n\t"

#define OTHER_GPRS "rbx", "rsi", "r8", "r9", "r10", "r11", "r12", "r13", \
		   "r14", "r15", "cc", "memory"

/* VMLAUNCH or VMRESUME with IF=0; 0 after a VM-Exit, 1 if it failed */
static inline u64 vmx_enter(struct gprs *gprs, u64 launched)
{
	u64 failed = launched, ptr = (u64)gprs;
	u64 rsp_field = HOST_RSP, rip_field = HOST_RIP;

	asm volatile("push %%rbp\n\t"
		     "push %%rdi\n\t"
		     "vmwrite %%rsp, %%rcx\n\t"
		     "lea 1f(%%rip), %%rcx\n\t"
		     "vmwrite %%rcx, %%rdx\n\t"
		     "test %%rax, %%rax\n\t"
		     "mov 0x00(%%rdi), %%rax\n\t"
		     LOAD_GPRS
		     "mov 0x28(%%rdi), %%rdi\n\t"
		     "jnz 2f\n\t"
		     "vmlaunch\n\t"
		     "jmp 3f\n"
		     "2: vmresume\n"
		     "3: pop %%rdi\n\t"
		     "mov $1, %%eax\n\t"
		     "jmp 4f\n"
		     "1: " STORE_GPRS
		     "mov %%rax, 0x00(%%rdi)\n\t"
		     "xor %%eax, %%eax\n"
		     "4: pop %%rbp"
		     : "+a"(failed), "+D"(ptr), "+c"(rsp_field), "+d"(rip_field)
		     :: OTHER_GPRS);
	return failed;
}

/* VMRUN saves and restores RAX; IF=1 with GIF=0 lets INTR through to L2 only */
static inline void svm_enter(struct gprs *gprs, u64 vmcb_gpa)
{
	u64 ptr = (u64)gprs;

	asm volatile("push %%rbp\n\t"
		     "push %%rdi\n\t"
		     LOAD_GPRS
		     "mov 0x28(%%rdi), %%rdi\n\t"
		     "clgi\n\t"
		     "sti\n\t"
		     "vmrun %%rax\n\t"
		     "cli\n\t"
		     "stgi\n\t"
		     STORE_GPRS
		     "pop %%rbp"
		     : "+a"(vmcb_gpa), "+D"(ptr)
		     :: "rcx", "rdx", OTHER_GPRS);
}

#endif /* NESTED_ENTER_H */
