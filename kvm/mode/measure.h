/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the in-guest flag is measured by: counts of each CPU, a tracepoint, and
 * the switch kvm.precise_notify.  Nothing else depends on it.  Included by mode.h,
 * which has the protocol.
 *
 * Senders run on any number of CPUs at a time.  They write their own CPU's counts
 * only, which share no cache line with another CPU's.
 */
#ifndef __KVM_X86_MODE_MEASURE_H
#define __KVM_X86_MODE_MEASURE_H

#include <linux/jump_label.h>
#include <linux/kvm_host.h>
#include <linux/percpu.h>
#include <linux/tracepoint-defs.h>

/*
 * Events since kvm.ko was loaded, on all VMs of the host.  Files of the same names
 * in debugfs, in kvm_mode/, give the sums over CPUs.
 *
 * NOTIFY_SENT: posted-interrupt IPIs and AVIC doorbells sent.  NOTIFY_ELIDED:
 * those left out because of the flag, that is, the run-loop mode would have had
 * them sent.  KICK_IPI_SENT, KICK_IPI_ELIDED: IPIs of kicks that do not wait.
 */
enum kvm_mode_event {
	KVM_MODE_NOTIFY_SENT,
	KVM_MODE_NOTIFY_ELIDED,
	KVM_MODE_KICK_IPI_SENT,
	KVM_MODE_KICK_IPI_ELIDED,
	NR_KVM_MODE_EVENTS,
};

struct kvm_mode_counts {
	u64 n[NR_KVM_MODE_EVENTS];
};

DECLARE_PER_CPU_ALIGNED(struct kvm_mode_counts, kvm_mode_counts);

static __always_inline void kvm_mode_count(enum kvm_mode_event event)
{
	this_cpu_inc(kvm_mode_counts.n[event]);
}

/* By the flag @vcpu is in the host.  Would it have been notified without the flag? */
void kvm_mode_count_elided(struct kvm_vcpu *vcpu);

void kvm_mode_measure_init(void);
void kvm_mode_measure_exit(void);

DECLARE_STATIC_KEY_TRUE(kvm_precise_notify);

static __always_inline bool kvm_mode_is_precise(void)
{
	return static_branch_likely(&kvm_precise_notify);
}

/*
 * precise_notify is off: is @vcpu in the run loop, that is from long before
 * VM-Enter until long after VM-Exit?  No for the vCPU that this very CPU runs, as
 * when it posts to itself from a fastpath exit handler; it is in the host.
 */
bool kvm_mode_in_run_loop(struct kvm_vcpu *vcpu);

DECLARE_TRACEPOINT(kvm_mode_notify);

void kvm_mode_trace_notify(struct kvm_vcpu *vcpu, u8 seen);

/*
 * A sender decides.  A NOP when the tracepoint is off.  Behind the IPI its argument
 * would cost every sender a saved register, so it comes first.
 */
static __always_inline void kvm_mode_trace(struct kvm_vcpu *vcpu, u8 seen)
{
	if (tracepoint_enabled(kvm_mode_notify))
		kvm_mode_trace_notify(vcpu, seen);
}

#endif /* __KVM_X86_MODE_MEASURE_H */
