/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the stress tests and the `kick` benchmark ask of kvm-mode-probe.ko: an
 * ioctl interface on PROBE_PATH.  Included by the module and by them.
 *
 * All calls but PROBE_WATCH take struct kvm_mode_probe with vcpu_fd set, a file
 * descriptor of a vCPU, and until_out_ms, usually 0, and fill in the rest,
 * sampled after the operation, each field on its own, but exits before the
 * others: while exits stays what it was in one sample, the vCPU has not left
 * the guest since before that sample's mode, flag and requests were read.
 * Errors: EBADF (no such descriptor), EINVAL (not of a vCPU), EFAULT, ENOTTY.
 * The calls take no lock that KVM_RUN holds.
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
#define PROBE_IN_GUEST		1

struct kvm_mode_probe {
	__s32 vcpu_fd;
	__s32 mode;		/* vcpu->mode */
	__s32 flag;		/* vcpu->arch.execution_mode */
	__s32 cpu;		/* vcpu->cpu */
	__u64 requests;		/* vcpu->requests */
	__u64 exits;		/* vcpu->stat.exits */
	/*
	 * Not 0: wait behind the operation until mode is not EXITING_RUN_LOOP, at
	 * most for so long; out_ticks is the TSC from before the operation to then,
	 * 0 if that did not happen.
	 */
	__u32 until_out_ms;
	__s32 mode_before;	/* vcpu->mode ahead of the operation */
	__u64 out_ticks;
};

/* Only the sample */
#define PROBE_READ	_IOWR('k', 0, struct kvm_mode_probe)
/* kvm_vcpu_kick(): without a request */
#define PROBE_KICK	_IOWR('k', 1, struct kvm_mode_probe)
/* kvm_make_all_cpus_request(): PROBE_REQUEST_BIT of the VM's vCPUs, no waiting */
#define PROBE_REQUEST	_IOWR('k', 2, struct kvm_mode_probe)
/* The same, waiting until all of them have left the run loop; no request stays */
#define PROBE_WAIT	_IOWR('k', 3, struct kvm_mode_probe)

/*
 * Busy-waits on this CPU and writes down each change of the vCPU's states that
 * it sees, until nr records are nearly full or the states stay as they are for
 * quiet_ms; nr is then the number of records.  Two changes that are closer
 * than one turn of the loop, some ten instructions, come out as one.  A record
 * whose mode is PROBE_AWAY means that nobody looked from its tsc to that of the
 * next record: a turn took more than PROBE_AWAY_TICKS, as an interrupt does, or
 * the call was over.  Errors: as above, EINVAL for an nr below 4 or above
 * PROBE_WATCH_MAX, ENOMEM, EINTR.
 */
#define PROBE_WATCH	_IOWR('k', 4, struct kvm_mode_watch)
#define PROBE_WATCH_MAX	0x100000
#define PROBE_AWAY	(-1)
#define PROBE_AWAY_TICKS	500

struct kvm_mode_change {
	__u64 tsc;		/* of this CPU, right after the change was seen */
	__s32 mode;
	__s32 flag;
};

struct kvm_mode_watch {
	__s32 vcpu_fd;
	__u32 quiet_ms;
	__u32 nr;
	__u32 turns;		/* that the loop took, modulo 2^32 */
	__u64 changes;		/* address of struct kvm_mode_change[nr] */
};

/* Where the vCPU's words are, physical addresses: for the explorer's emulator to watch */
#define PROBE_WHERE	_IOWR('k', 5, struct kvm_mode_where)

struct kvm_mode_where {
	__s32 vcpu_fd;
	__u32 unused;
	__u64 mode, flag, requests;	/* flag: 0 on stock KVM */
	__u64 apf, apf_size;	/* vcpu->arch.apf */
	__u64 apf_done;		/* vcpu->async_pf.done */
};

#define PROBE_REQUEST_BIT	2	/* KVM_REQ_UNBLOCK: taken back before entry */

#endif /* KVM_MODE_PROBE_H */
