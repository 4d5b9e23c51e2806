// SPDX-License-Identifier: GPL-2.0
/*
 * The part of the in-guest flag that is not on a hot path: the switch
 * kvm.precise_notify and the tracepoint, which kvm_mode_notify() uses.  mode.h
 * has the protocol.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/kstrtox.h>
#include <linux/moduleparam.h>

#include "mode.h"

#define CREATE_TRACE_POINTS
#include "trace.h"

/*
 * On: notify by the in-guest flag.  Off: notify by the run-loop mode, which is
 * what KVM without the flag does.  May be switched at any moment.
 */
DEFINE_STATIC_KEY_TRUE(kvm_precise_notify);
EXPORT_SYMBOL_FOR_KVM_INTERNAL(kvm_precise_notify);

static int precise_notify_set(const char *val, const struct kernel_param *kp)
{
	bool on;
	int r;

	r = kstrtobool(val, &on);
	if (r)
		return r;

	if (on)
		static_branch_enable(&kvm_precise_notify);
	else
		static_branch_disable(&kvm_precise_notify);

	return 0;
}

static int precise_notify_get(char *buf, const struct kernel_param *kp)
{
	return sysfs_emit(buf, "%c\n", static_key_enabled(&kvm_precise_notify) ?
				       'Y' : 'N');
}

static const struct kernel_param_ops precise_notify_ops = {
	.set = precise_notify_set,
	.get = precise_notify_get,
};

module_param_cb(precise_notify, &precise_notify_ops, NULL, 0644);
__MODULE_PARM_TYPE(precise_notify, "bool");
MODULE_PARM_DESC(precise_notify, "Notify vCPUs by the in-guest flag (default: on)");

/* Out of line, so that only this file needs the tracepoint's definition. */
void kvm_mode_trace_notify(struct kvm_vcpu *vcpu, enum kvm_execution_mode seen)
{
	trace_kvm_mode_notify(vcpu->vcpu_id, seen);
}
EXPORT_SYMBOL_FOR_KVM_INTERNAL(kvm_mode_trace_notify);
EXPORT_TRACEPOINT_SYMBOL_GPL(kvm_mode_notify);
