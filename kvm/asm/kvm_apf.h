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

/*
 * The guest writes it while bit 0 of MSR_KVM_ASYNC_PF_EN is 0, userspace at any
 * time.  Reset, INIT and the guest's write of 0 to that bit clear it.  0: what there
 * is without it.  Bits that have no name here, or whose feature the guest has not
 * got, are reserved: #GP.
 */
#define MSR_KVM_ASYNC_PF_EXT		0x4b564de0

/*
 * The event is a #PF with the error code below and the token in CR2.  No memory is
 * written.  There is none in kernel mode: KVM_ASYNC_PF_SEND_ALWAYS is reserved.
 */
#define KVM_ASYNC_PF_EXT_MARK		0x1

/* RSVD without P: no CPU makes it (SDM, "Page-Fault Exceptions"). */
#define KVM_ASYNC_PF_NOT_PRESENT	0xaaaa

#endif /* _UAPI_ASM_X86_KVM_APF_H */
