// SPDX-License-Identifier: GPL-2.0
/* User mode of a guest, its host's side; user-mode.h has what it is for. */
#include "kvm_util.h"
#include "processor.h"

#include "user-mode.h"

#define ENTRIES		512
#define PRESENT		BIT_ULL(0)
#define USER		BIT_ULL(2)
#define LARGE		BIT_ULL(7)
#define ADDRESS		0x000ffffffffff000ull
#define CODE_64		0x00affb000000ffffull	/* SDM volume 3A, "Segment Descriptors" */
#define DATA		0x00cff3000000ffffull
#define TSS_RSP0	4			/* "Task Management in 64-bit Mode" */

/* Of one vCPU */
static u8 handlers_stack[16 * 1024] __aligned(16);

static void allow_pages(struct kvm_vm *vm, u64 table, int level)
{
	u64 *entries = addr_gpa2hva(vm, table);
	unsigned int i;

	for (i = 0; i < ENTRIES; i++) {
		if (!(entries[i] & PRESENT))
			continue;
		entries[i] |= USER;
		if (level > 1 && !(entries[i] & LARGE))
			allow_pages(vm, entries[i] & ADDRESS, level - 1);
	}
}

void user_mode_allow(struct kvm_vcpu *vcpu)
{
	struct kvm_sregs sregs;
	u64 *gdt;

	vcpu_sregs_get(vcpu, &sregs);
	gdt = addr_gva2hva(vcpu->vm, sregs.gdt.base);
	gdt[USER_CS / 8] = CODE_64;
	gdt[USER_DS / 8] = DATA;
	*(u64 *)((char *)addr_gva2hva(vcpu->vm, sregs.tr.base) + TSS_RSP0) =
		(u64)handlers_stack + sizeof(handlers_stack);
	allow_pages(vcpu->vm, sregs.cr3 & ADDRESS, sregs.cr4 & X86_CR4_LA57 ? 5 : 4);
}
