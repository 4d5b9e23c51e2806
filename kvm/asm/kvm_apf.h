/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * How a guest is told of a page that is not present, if it wants that otherwise than
 * by the flags of struct kvm_vcpu_pv_apf_data.  Documentation/virt/kvm/x86/msr.rst.
 *
 * PROVISIONAL: nobody has assigned the numbers of the MSR and of the features yet.
 */
#ifndef _UAPI_ASM_X86_KVM_APF_H
#define _UAPI_ASM_X86_KVM_APF_H

/* CPUID leaf KVM_CPUID_FEATURES, EAX: there is the MSR, and the bit in it. */
#define KVM_FEATURE_ASYNC_PF_MARK	19
/* The same, bit KVM_ASYNC_PF_EXT_FAIL; and memslots may have KVM_MEM_ASYNC_PF_FAIL. */
#define KVM_FEATURE_ASYNC_PF_FAIL	20

/*
 * The guest writes it while bit 0 of MSR_KVM_ASYNC_PF_EN is 0, userspace at any
 * time.  Reset, INIT and the guest's write of 0 to that bit clear it.  0: what there
 * is without it.  Bits that have no name here, or whose feature the guest has not
 * got, are reserved: #GP.
 */
#define MSR_KVM_ASYNC_PF_EXT		0x4b564de0

/*
 * The announcement is a #PF with the error code below and the token in CR2.  No memory is
 * written.  There is none in kernel mode: KVM_ASYNC_PF_SEND_ALWAYS is reserved.
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

#endif /* _UAPI_ASM_X86_KVM_APF_H */
