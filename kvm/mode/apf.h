/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Page-ready events of asynchronous page faults: how a token and its interrupt
 * reach the guest.  Called by x86.c for the MSRs, the request and the fastpath,
 * and by generic KVM's workers (virt/kvm/async_pf.c).
 *
 * The guest's side is MSR_KVM_ASYNC_PF_EN, _INT and _ACK, see
 * Documentation/virt/kvm/x86/msr.rst.
 */
#ifndef __KVM_X86_APF_H
#define __KVM_X86_APF_H

#include <linux/kvm_host.h>

/*
 * All of these are the vCPU's own: called by its thread, or with its mutex held,
 * and kvm->srcu read-locked where they may touch the guest's memory.
 */

/* At the creation of the vCPU, before anything else here. */
void kvm_apf_init(struct kvm_vcpu *vcpu);

/*
 * KVM_RUN begins, or ends: then nothing is sent until the next one begins.
 * Userspace saves and loads the vCPU's state in between.
 */
void kvm_apf_run(struct kvm_vcpu *vcpu, bool runs);

/*
 * MSR_KVM_ASYNC_PF_EN becomes @data, which enables the mechanism: with an area of
 * struct kvm_vcpu_pv_apf_data, another one than before perhaps.  Nothing is written
 * there before the vCPU runs.  -EFAULT if the guest names an area that is not in
 * its writable memory; the MSR is as it was then.  The caller queues the event that
 * wakes all.
 */
int kvm_apf_start(struct kvm_vcpu *vcpu, u64 data, bool host_initiated);

/*
 * MSR_KVM_ASYNC_PF_EN becomes @data, which does not enable the mechanism.  Nothing
 * is sent when this returns; the caller waits for the workers then.  May sleep.
 */
void kvm_apf_stop(struct kvm_vcpu *vcpu, u64 data);

/*
 * The interrupt's vector.  -EINVAL for a reserved bit.  While it is below 32 events
 * are held back.
 */
int kvm_apf_set_vector(struct kvm_vcpu *vcpu, u64 data);

/* Tell the guest of a page that is not present; false if it cannot be told. */
bool kvm_apf_put_flags(struct kvm_vcpu *vcpu, u32 flags);

/*
 * The event of a page that is not present is deferred to where it is made: the #PF,
 * or where L2 runs its exit to L1.  Until then it is no exception, and userspace sees
 * nothing of it.  kvm_apf_announce() returns whether it is due now, and writes the
 * flags; kvm_apf_forget(): the page has come first.  kvm_apf_announced(), without flags:
 * a token is to be sent when the page is ready; false: it is.
 */
void kvm_apf_defer(struct kvm_vcpu *vcpu, struct kvm_async_pf *work);
bool kvm_apf_announce(struct kvm_vcpu *vcpu, u32 *token);
bool kvm_apf_announced(struct kvm_vcpu *vcpu, struct kvm_async_pf *work);
void kvm_apf_forget(struct kvm_vcpu *vcpu, struct kvm_async_pf *work);

/* Its page is mapped, and may be faulted on anew: called once for each event. */
void kvm_apf_page_mapped(struct kvm_vcpu *vcpu, struct kvm_async_pf *work);

/*
 * Makes a page of the guest's present, for FOLL_* @flags; may be gone again at once.
 * -EINTR: a signal has come; else an error if it cannot be had.  May sleep.
 */
int kvm_apf_fault_in(unsigned long hva, unsigned int flags);

/* Before each entry with KVM_REQ_APF_READY.  May sleep. */
void kvm_apf_process(struct kvm_vcpu *vcpu);

/*
 * The same for a vCPU that blocks: send what can be sent, whose interrupt may end
 * its HLT, and let it go on if it waits for a page.  The request is left for the
 * entry, at which pages are mapped.  May sleep.
 */
void kvm_apf_unblock(struct kvm_vcpu *vcpu);

/* The guest has handled an event: send the next one.  May sleep. */
void kvm_apf_ack(struct kvm_vcpu *vcpu);

/* The same in the fastpath, IRQs disabled; false: take the slow path. */
bool kvm_apf_ack_irqoff(struct kvm_vcpu *vcpu, u64 data);

#endif /* __KVM_X86_APF_H */
