/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the stress tests ask of kvm-mode-probe.ko: an ioctl interface on
 * PROBE_PATH.  Included by the module and by the tests.
 *
 * Every call takes struct kvm_mode_probe with vcpu_fd set, a file descriptor
 * of a vCPU, and fills in the rest, sampled after the operation, each field on
 * its own, but exits before the others: while exits stays what it was in one
 * sample, the vCPU has not left the guest since before that sample's mode,
 * flag and requests were read.  Errors: EBADF (no such descriptor), EINVAL (not of a vCPU),
 * EFAULT, ENOTTY.  The calls take no lock that KVM_RUN holds.
 */
#ifndef KVM_MODE_PROBE_H
#define KVM_MODE_PROBE_H

#include <linux/ioctl.h>
#include <linux/types.h>

#define PROBE_PATH	"/dev/kvm-mode-probe"

/* Values of mode, on stock KVM too */
#define PROBE_OUTSIDE_RUN_LOOP	0
#define PROBE_IN_RUN_LOOP	1
#define PROBE_EXITING_RUN_LOOP	2

/* Values of flag */
#define PROBE_NO_FLAG		(-1)	/* stock KVM */
#define PROBE_IN_HOST		0
#define PROBE_ENTERING		1
#define PROBE_IN_GUEST		2

struct kvm_mode_probe {
	__s32 vcpu_fd;
	__s32 mode;		/* vcpu->mode */
	__s32 flag;		/* vcpu->arch.execution_mode */
	__s32 cpu;		/* vcpu->cpu */
	__u64 requests;		/* vcpu->requests */
	__u64 exits;		/* vcpu->stat.exits */
};

/* Only the sample */
#define PROBE_READ	_IOWR('k', 0, struct kvm_mode_probe)
/* kvm_vcpu_kick(): without a request */
#define PROBE_KICK	_IOWR('k', 1, struct kvm_mode_probe)
/* kvm_make_all_cpus_request(): PROBE_REQUEST_BIT of the VM's vCPUs, no waiting */
#define PROBE_REQUEST	_IOWR('k', 2, struct kvm_mode_probe)
/* The same, waiting until all of them have left the run loop; no request stays */
#define PROBE_WAIT	_IOWR('k', 3, struct kvm_mode_probe)

#define PROBE_REQUEST_BIT	2	/* KVM_REQ_UNBLOCK: taken back before entry */

#endif /* KVM_MODE_PROBE_H */
