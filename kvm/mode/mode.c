// SPDX-License-Identifier: GPL-2.0
/*
 * The part of the in-guest flag that is not on a hot path: the switch
 * kvm.precise_notify and the tracepoint, which kvm_mode_notify() uses.  mode.h
 * has the protocol.
 */
#include <linux/moduleparam.h>

#include "mode.h"

#define CREATE_TRACE_POINTS
#include "trace.h"

/*
 * On: notify by the in-guest flag.  Off: notify by the run-loop mode, which is
 * what KVM without the flag does.  May be switched at any moment, and costs
 * nothing then, unlike a static key, whose switching interrupts every CPU:
 * measurements that alternate between the two would measure that as well.
 */
bool __read_mostly kvm_precise_notify = true;
EXPORT_SYMBOL_GPL(kvm_precise_notify);
module_param_named(precise_notify, kvm_precise_notify, bool, 0644);
MODULE_PARM_DESC(precise_notify, "Notify vCPUs by the in-guest flag (default: on)");

/* Out of line, so that only this file needs the tracepoint's definition. */
void kvm_mode_trace_notify(struct kvm_vcpu *vcpu, enum kvm_execution_mode seen,
			   bool sent)
{
	trace_kvm_mode_notify(vcpu->vcpu_id, seen, sent);
}
EXPORT_SYMBOL_GPL(kvm_mode_trace_notify);
EXPORT_TRACEPOINT_SYMBOL_GPL(kvm_mode_notify);
