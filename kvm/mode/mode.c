// SPDX-License-Identifier: GPL-2.0
/*
 * The part of the in-guest flag that is not on the entry path: the switch
 * kvm.precise_notify, the counters and the tracepoint.  Called by interrupt
 * delivery through kvm_mode_notify(); mode.h has the protocol.
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
EXPORT_SYMBOL_GPL(kvm_precise_notify);

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

/**
 * kvm_mode_account - Count one decision and make it traceable
 * @vcpu:	target of the notification
 * @seen:	what the sender knew of @vcpu
 * @sent:	%true if an IPI or a doorbell went out
 *
 * Runs on the sender's CPU, any number of senders at a time, hence the atomic
 * counters.  Orders nothing.
 */
void kvm_mode_account(struct kvm_vcpu *vcpu, enum kvm_execution_mode seen,
		      bool sent)
{
	if (sent)
		atomic64_inc(&vcpu->stat.notify_sent);
	else
		atomic64_inc(&vcpu->stat.notify_elided);

	trace_kvm_mode_notify(vcpu->vcpu_id, seen, sent);
}
EXPORT_SYMBOL_GPL(kvm_mode_account);
