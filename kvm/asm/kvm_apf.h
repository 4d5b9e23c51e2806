/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * How a guest is told of a page that is not present, if it wants that otherwise than
 * by the flags of struct kvm_vcpu_pv_apf_data.  Documentation/virt/kvm/x86/msr.rst.
 *
 * PROVISIONAL: nobody has assigned the numbers of the MSR and of the features yet.
 */
#ifndef _UAPI_ASM_X86_KVM_APF_H
#define _UAPI_ASM_X86_KVM_APF_H

#include <linux/types.h>

/* CPUID leaf KVM_CPUID_FEATURES, EAX: there is the MSR, and the bit in it. */
#define KVM_FEATURE_ASYNC_PF_MARK	19
/* The same, bit KVM_ASYNC_PF_EXT_FAIL; and memslots may have KVM_MEM_ASYNC_PF_FAIL. */
#define KVM_FEATURE_ASYNC_PF_FAIL	20
/* The same, bit KVM_ASYNC_PF_EXT_PRED and a page. */
#define KVM_FEATURE_ASYNC_PF_PRED	21
/* The same, bit KVM_ASYNC_PF_EXT_AGAIN.  24 is KVM_FEATURE_CLOCKSOURCE_STABLE_BIT. */
#define KVM_FEATURE_ASYNC_PF_AGAIN	25

/*
 * The guest writes it while bit 0 of MSR_KVM_ASYNC_PF_EN is 0, userspace at any
 * time.  Reset, INIT and the guest's write of 0 to that bit clear it.  0: what there
 * is without it.  Bits that have no name here, or whose feature the guest has not
 * got, are reserved: #GP.
 */
#define MSR_KVM_ASYNC_PF_EXT		0x4b564de0

/*
 * The announcement is a #PF with the error code below and the token in CR2.  No memory is
 * written.  There is none in kernel mode, but for KVM_ASYNC_PF_EXT_PRED:
 * KVM_ASYNC_PF_SEND_ALWAYS is reserved.
 */
#define KVM_ASYNC_PF_EXT_MARK		0x1

/* RSVD without P: no CPU makes it (SDM, "Page-Fault Exceptions"). */
#define KVM_ASYNC_PF_NOT_PRESENT	0xaaaa

/*
 * An access to a page that will not come is a #PF with the error code below, in user
 * mode and in kernel mode, in a guest in long mode, if the page's memslot allows it.
 * CR2 has the linear address, or KVM_ASYNC_PF_NO_ADDRESS where the CPU does not say
 * which it is.  The bit needs KVM_ASYNC_PF_EXT_MARK.
 */
#define KVM_ASYNC_PF_EXT_FAIL		0x2

/* KVM_ASYNC_PF_NOT_PRESENT, and bit 14. */
#define KVM_ASYNC_PF_FAILED		0xeaaa

/* No address of the guest's: it is not canonical, with 5-level paging neither. */
#define KVM_ASYNC_PF_NO_ADDRESS		0x8000000000000000ull

/*
 * KVM_SET_USER_MEMORY_REGION2: where this memory cannot be had the guest is told, if
 * it wants to know.  Else KVM_RUN fails with EFAULT; the exit reason is
 * KVM_EXIT_MEMORY_FAULT then.
 * Chosen when the memslot is made.  Not with KVM_MEM_GUEST_MEMFD.
 */
#define KVM_MEM_ASYNC_PF_FAIL		0x100

/*
 * There is an announcement in kernel mode as well, while struct
 * kvm_async_pf_predicate says that the guest can sleep.  Bits 63:12 of the MSR are
 * the GPA of the page that has it at KVM_ASYNC_PF_PRED_OFFSET.  KVM reads it when the
 * guest writes the MSR, #GP if it is not what is described here; and when KVM_RUN is
 * entered after userspace has written the MSR: until it is what is described here
 * there is no announcement in kernel mode.  So the guest leaves it as it is while the
 * bit is set.  For L2's pages it is not asked.  The bit needs KVM_ASYNC_PF_EXT_MARK,
 * and memory that KVM can read: a VM of type KVM_X86_DEFAULT_VM, without SEV.
 */
#define KVM_ASYNC_PF_EXT_PRED		0x4
#define KVM_ASYNC_PF_EXT_PAGE		0xfffffffffffff000ull
#define KVM_ASYNC_PF_PRED_OFFSET	0x800

#define KVM_ASYNC_PF_PRED_MAGIC		0x64657270	/* "pred" */
#define KVM_ASYNC_PF_PRED_VERSION	1
#define KVM_ASYNC_PF_PRED_LOADS		16

/*
 * A word of the guest's memory, little endian, at a multiple of its size: (word &
 * @mask) == @value is to hold.  It does not hold for a word that is not there, or is
 * not present in the host.
 */
struct kvm_async_pf_load {
	__u64 address;		/* GPA; with @base, what is added to that load's word */
	__u64 mask;		/* 0: the word is only the base of others */
	__u64 value;		/* no bit that @mask has not */
	__u8 size;		/* 4, 8 */
	__u8 base;		/* 0: none; n: that of loads[n - 1], an earlier one */
	__u8 reserved[6];	/* 0 */
};

/* The guest can sleep if all of it holds, and interrupts are enabled. */
struct kvm_async_pf_predicate {
	__u32 magic;
	__u16 version;
	__u16 nr_loads;		/* 1 to KVM_ASYNC_PF_PRED_LOADS */
	__u64 reserved;		/* 0 */
	struct kvm_async_pf_load loads[];
};

/*
 * A page that is not ready yet is announced again, with the same token, if it is
 * accessed again where that is possible: another task can sleep as well.  Its first
 * announcement may be at a later access, too.  It is ready once, for all tasks that
 * wait for its token then.  Without this bit the vCPU waits.  The bit needs
 * KVM_ASYNC_PF_EXT_MARK.
 */
#define KVM_ASYNC_PF_EXT_AGAIN		0x20

#endif /* _UAPI_ASM_X86_KVM_APF_H */
