/* SPDX-License-Identifier: GPL-2.0 */
/* What vm_fail_test.c shares with its guests, vm_fail_guest.c. */
#ifndef VM_FAIL_H
#define VM_FAIL_H

#include "post-guest.h"

#define FAIL_PORT	0xe0	/* nothing in KVM answers it */
#define FAIL_VTPR	0x80	/* the TPR's place in the virtual-APIC page */

/* What L1 does to the VMCS or the VMCB ahead of an entry */
enum fail_kind {
	GOOD,		/* nothing: L2 runs and comes back with a hypercall */
	KVM_CONTROL,	/* KVM's checks of the controls reject it */
	KVM_HOST,	/* ... of the host state (Intel) */
	KVM_STATE,	/* ... of the guest state */
	HW_CONTROL,	/* only the CPU rejects it: VM-Fail (Intel) */
	RACE_CONTROL,	/* KVM or the CPU may: the host changes VTPR meanwhile (Intel) */
	HW_STATE,	/* only the CPU rejects it: VM-Exit, entry failed */
	PORT_IO,	/* L2 goes to userspace, which may break its state */
	NR_KINDS
};

/* Written by the guest, but for stop, kinds, seed and the addresses */
struct fail_shared {
	u64 stop;
	u64 kinds;		/* BIT(enum fail_kind) of those to do */
	u64 seed;
	u64 vapic_gpa;
	u64 none_enters;	/* even a good entry ends in a VM-Fail */
	u64 loops;
	u64 done[NR_KINDS];	/* ended as they must */
	u64 intr_exits;		/* entries that an interrupt of L1 ended */
	u64 triple;		/* entries that ended in a triple fault */
	u64 wrong;		/* any other end; the last of them: */
	u64 wrong_kind, wrong_reason, wrong_error;
};

struct svm_test_data;
struct vmx_pages;

/* Up to a GUEST_SYNC(), then until told to stop */
void fail_guest_loop(void);
void fail_guest_cpuid(void);
void fail_guest_vmx(struct vmx_pages *vmx);
void fail_guest_svm(struct svm_test_data *svm);

extern struct fail_shared *fail_shared;

#endif /* VM_FAIL_H */
