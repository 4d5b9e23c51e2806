// SPDX-License-Identifier: GPL-2.0
/*
 * Lets the stress tests kick a vCPU the ways that KVM itself does, and look at
 * the run-loop mode and the in-guest flag while it runs.  For tests only: it
 * is built and loaded by them, never installed.  kvm-mode-probe.h documents the
 * interface.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/file.h>
#include <linux/kvm_host.h>
#include <linux/miscdevice.h>
#include <linux/module.h>

#include "kvm-mode-probe.h"

#ifdef HAVE_EXECUTION_MODE
#define REQ_OUTSIDE	KVM_REQ_OUTSIDE_RUN_LOOP

static int flag_of(struct kvm_vcpu *vcpu)
{
	return READ_ONCE(vcpu->arch.execution_mode);
}
#else
#define REQ_OUTSIDE	KVM_REQ_OUTSIDE_GUEST_MODE

static int flag_of(struct kvm_vcpu *vcpu)
{
	return PROBE_NO_FLAG;
}
#endif

/* A vCPU's file has a name of KVM's making and KVM's operations. */
static struct kvm_vcpu *vcpu_of(struct file *file)
{
	struct module *owner = file->f_op->owner;
	const char *name = file->f_path.dentry->d_name.name;

	if (!owner || strncmp(owner->name, "kvm", 3))
		return NULL;
	if (strncmp(name, "kvm-vcpu:", 9))
		return NULL;

	return file->private_data;
}

static int operate(unsigned int cmd, struct kvm_vcpu *vcpu)
{
	switch (cmd) {
	case PROBE_READ:
		return 0;
	case PROBE_KICK:
		kvm_vcpu_kick(vcpu);
		return 0;
	case PROBE_REQUEST:
		BUILD_BUG_ON(PROBE_REQUEST_BIT != KVM_REQ_UNBLOCK);
		kvm_make_all_cpus_request(vcpu->kvm, KVM_REQ_UNBLOCK);
		return 0;
	case PROBE_WAIT:
		kvm_make_all_cpus_request(vcpu->kvm, REQ_OUTSIDE);
		return 0;
	default:
		return -ENOTTY;
	}
}

static int probe(unsigned int cmd, struct kvm_mode_probe *p)
{
	struct kvm_vcpu *vcpu;
	struct file *file;
	int r = -EINVAL;

	file = fget(p->vcpu_fd);
	if (!file)
		return -EBADF;

	vcpu = vcpu_of(file);
	if (vcpu)
		r = operate(cmd, vcpu);

	if (!r) {
		/* Counted with plain stores by the vCPU's thread; on x86 whole. */
		p->exits = data_race(vcpu->stat.exits);
		/* exits before the others: see kvm-mode-probe.h */
		smp_rmb();
		p->mode = READ_ONCE(vcpu->mode);
		p->flag = flag_of(vcpu);
		p->cpu = READ_ONCE(vcpu->cpu);
		p->requests = READ_ONCE(vcpu->requests);
	}
	fput(file);

	return r;
}

static long probe_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	void __user *argp = (void __user *)arg;
	struct kvm_mode_probe p;
	int r;

	if (copy_from_user(&p, argp, sizeof(p)))
		return -EFAULT;

	r = probe(cmd, &p);
	if (!r && copy_to_user(argp, &p, sizeof(p)))
		r = -EFAULT;

	return r;
}

static const struct file_operations probe_fops = {
	.owner = THIS_MODULE,
	.unlocked_ioctl = probe_ioctl,
};

static struct miscdevice probe_device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "kvm-mode-probe",
	.fops = &probe_fops,
	.mode = 0600,
};
module_misc_device(probe_device);

MODULE_DESCRIPTION("Kicks and reads of vcpu->mode for the kvm-mode stress tests");
MODULE_LICENSE("GPL");
