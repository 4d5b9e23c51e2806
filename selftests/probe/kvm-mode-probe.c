// SPDX-License-Identifier: GPL-2.0
/*
 * Lets tests and benchmarks kick a vCPU the ways that KVM itself does, and look at
 * the run-loop mode and the in-guest flag while it runs.  For tests only: it
 * is built and loaded by them, never installed.  kvm-mode-probe.h documents the
 * interface.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/file.h>
#include <linux/kvm_host.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/sched/signal.h>
#include <linux/vmalloc.h>

#include <asm/tsc.h>

#include "kvm-mode-probe.h"

#ifdef HAVE_EXECUTION_MODE
#define REQ_OUTSIDE	KVM_REQ_OUTSIDE_RUN_LOOP

static int flag_of(struct kvm_vcpu *vcpu)
{
	return READ_ONCE(vcpu->arch.execution_mode);
}

static u64 where_flag(struct kvm_vcpu *vcpu)
{
	return virt_to_phys(&vcpu->arch.execution_mode);
}
#else
#define REQ_OUTSIDE	KVM_REQ_OUTSIDE_GUEST_MODE

static int flag_of(struct kvm_vcpu *vcpu)
{
	return PROBE_NO_FLAG;
}

static u64 where_flag(struct kvm_vcpu *vcpu)
{
	return 0;
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

/* Ticks since @start when @vcpu is not on its way out of the run loop any more, or 0. */
static u64 wait_until_out(struct kvm_vcpu *vcpu, u64 start, u32 limit_ms)
{
	u64 limit = (u64)limit_ms * tsc_khz;
	u64 ticks;

	do {
		bool out = READ_ONCE(vcpu->mode) != PROBE_EXITING_RUN_LOOP;

		ticks = rdtsc_ordered() - start;
		if (out)
			return ticks;
		cpu_relax();
	} while (ticks < limit);

	return 0;
}

static int probe(unsigned int cmd, struct kvm_mode_probe *p)
{
	struct kvm_vcpu *vcpu;
	struct file *file;
	int r = -EINVAL;
	u64 start;

	file = fget(p->vcpu_fd);
	if (!file)
		return -EBADF;

	vcpu = vcpu_of(file);
	if (vcpu) {
		p->mode_before = READ_ONCE(vcpu->mode);
		start = rdtsc_ordered();
		r = operate(cmd, vcpu);
	}

	if (!r) {
		p->out_ticks = 0;
		if (p->until_out_ms)
			p->out_ticks = wait_until_out(vcpu, start, p->until_out_ms);
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

/* The number of records, or an error.  w->nr is at least 4. */
static int watch_vcpu(struct kvm_vcpu *vcpu, struct kvm_mode_watch *w,
		      struct kvm_mode_change *changes)
{
	u64 last = rdtsc_ordered(), quiet = (u64)w->quiet_ms * tsc_khz, until = last + quiet;
	int mode = PROBE_AWAY, flag = PROBE_AWAY;
	u32 n = 0, turns = 0;

	while (n + 3 <= w->nr) {
		int new_mode = READ_ONCE(vcpu->mode), new_flag = flag_of(vcpu);
		u64 now = rdtsc_ordered();
		bool away = now - last > PROBE_AWAY_TICKS;

		turns++;
		if (likely(new_mode == mode && new_flag == flag && !away)) {
			last = now;
			if (likely(now < until))
				continue;
			break;
		}

		if (away)
			changes[n++] = (struct kvm_mode_change) { last, PROBE_AWAY, 0 };
		if (new_mode != mode || new_flag != flag)
			until = now + quiet;
		last = now;
		mode = new_mode;
		flag = new_flag;
		changes[n++] = (struct kvm_mode_change) { now, mode, flag };
		if (n % 1024)
			continue;
		if (fatal_signal_pending(current))
			return -EINTR;
		cond_resched();
	}
	changes[n++] = (struct kvm_mode_change) { last, PROBE_AWAY, 0 };
	w->turns = turns;

	return n;
}

static int watch(struct kvm_mode_watch *w)
{
	struct kvm_mode_change *changes;
	struct kvm_vcpu *vcpu;
	struct file *file;
	int r = -EINVAL;

	if (w->nr < 4 || w->nr > PROBE_WATCH_MAX)
		return -EINVAL;

	changes = vcalloc(w->nr, sizeof(*changes));
	if (!changes)
		return -ENOMEM;

	file = fget(w->vcpu_fd);
	if (!file) {
		vfree(changes);
		return -EBADF;
	}

	vcpu = vcpu_of(file);
	if (vcpu)
		r = watch_vcpu(vcpu, w, changes);
	fput(file);

	if (r >= 0) {
		w->nr = r;
		r = 0;
		if (copy_to_user(u64_to_user_ptr(w->changes), changes,
				 array_size(w->nr, sizeof(*changes))))
			r = -EFAULT;
	}
	vfree(changes);

	return r;
}

static long watch_ioctl(void __user *argp)
{
	struct kvm_mode_watch w;
	int r;

	if (copy_from_user(&w, argp, sizeof(w)))
		return -EFAULT;

	r = watch(&w);
	if (!r && copy_to_user(argp, &w, sizeof(w)))
		r = -EFAULT;

	return r;
}

static long where_ioctl(void __user *argp)
{
	struct kvm_mode_where w;
	struct kvm_vcpu *vcpu;
	struct file *file;
	int r = -EINVAL;

	if (copy_from_user(&w, argp, sizeof(w)))
		return -EFAULT;

	file = fget(w.vcpu_fd);
	if (!file)
		return -EBADF;

	vcpu = vcpu_of(file);
	if (vcpu) {
		w.mode = virt_to_phys(&vcpu->mode);
		w.flag = where_flag(vcpu);
		w.requests = virt_to_phys(&vcpu->requests);
		w.apf = virt_to_phys(&vcpu->arch.apf);
		w.apf_size = sizeof(vcpu->arch.apf);
		w.apf_done = virt_to_phys(&vcpu->async_pf.done);
		r = copy_to_user(argp, &w, sizeof(w)) ? -EFAULT : 0;
	}
	fput(file);

	return r;
}

static long probe_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	void __user *argp = (void __user *)arg;
	struct kvm_mode_probe p;
	int r;

	if (cmd == PROBE_WATCH)
		return watch_ioctl(argp);
	if (cmd == PROBE_WHERE)
		return where_ioctl(argp);

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
