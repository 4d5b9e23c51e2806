// SPDX-License-Identifier: GPL-2.0
/*
 * What the in-guest flag is measured by, see measure.h: the counts' files, the
 * switch and the tracepoint.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/debugfs.h>
#include <linux/export.h>
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

DEFINE_PER_CPU_ALIGNED(struct kvm_mode_counts, kvm_mode_counts);
EXPORT_SYMBOL_FOR_KVM_INTERNAL(kvm_mode_counts);

static const char * const event_names[NR_KVM_MODE_EVENTS] = {
	[KVM_MODE_NOTIFY_SENT]		= "notify_sent",
	[KVM_MODE_NOTIFY_ELIDED]	= "notify_elided",
	[KVM_MODE_KICK_IPI_SENT]	= "kick_ipi_sent",
	[KVM_MODE_KICK_IPI_ELIDED]	= "kick_ipi_elided",
};

static struct dentry *kvm_mode_dir;

static int count_get(void *data, u64 *sum)
{
	unsigned long event = (unsigned long)data;
	u64 n = 0;
	int cpu;

	for_each_possible_cpu(cpu)
		n += READ_ONCE(per_cpu_ptr(&kvm_mode_counts, cpu)->n[event]);

	*sum = n;
	return 0;
}
DEFINE_SIMPLE_ATTRIBUTE(count_fops, count_get, NULL, "%llu\n");

void __init kvm_mode_measure_init(void)
{
	unsigned long event;

	kvm_mode_dir = debugfs_create_dir("kvm_mode", NULL);
	for (event = 0; event < NR_KVM_MODE_EVENTS; event++)
		debugfs_create_file(event_names[event], 0444, kvm_mode_dir,
				    (void *)event, &count_fops);
}

void kvm_mode_measure_exit(void)
{
	debugfs_remove_recursive(kvm_mode_dir);
}

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

bool kvm_mode_in_run_loop(struct kvm_vcpu *vcpu)
{
	/*
	 * The mode before apicv_active; pairs with vcpu_enter_guest().
	 * Litmus: apicv-active-run-loop, entry-run-loop.
	 */
	return smp_load_acquire(&vcpu->mode) == IN_RUN_LOOP &&
	       vcpu != kvm_get_running_vcpu();
}
EXPORT_SYMBOL_FOR_KVM_INTERNAL(kvm_mode_in_run_loop);

/*
 * As kvm_mode_in_run_loop(), with less to do: on the CPU of its run loop nobody else
 * runs.  One that is preempted meanwhile may count one more or less.
 */
void kvm_mode_count_elided(struct kvm_vcpu *vcpu)
{
	if (kvm_mode_is_precise() && READ_ONCE(vcpu->mode) == IN_RUN_LOOP &&
	    READ_ONCE(vcpu->cpu) != raw_smp_processor_id())
		kvm_mode_count(KVM_MODE_NOTIFY_ELIDED);
}
EXPORT_SYMBOL_FOR_KVM_INTERNAL(kvm_mode_count_elided);

/* Out of line, so that only this file needs the tracepoint's definition. */
void kvm_mode_trace_notify(struct kvm_vcpu *vcpu, u8 seen)
{
	trace_kvm_mode_notify(vcpu->vcpu_id, seen);
}
EXPORT_SYMBOL_FOR_KVM_INTERNAL(kvm_mode_trace_notify);
EXPORT_TRACEPOINT_SYMBOL_GPL(kvm_mode_notify);
