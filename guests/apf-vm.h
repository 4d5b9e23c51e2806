/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The VM of the guest that uses asynchronous page faults (apf-guest.c): memory
 * behind userfaultfd, the thread that gives its pages, vCPU threads, what the
 * guest asks of its host.
 */
#ifndef APF_VM_H
#define APF_VM_H

#include <pthread.h>
#include <stdbool.h>

#include "kvm_util.h"

#include "apf-guest.h"
#include "messages.h"

#define PAGES_SLOT	1	/* the pages' memslot */
#define SMRAM_HANDLER	0x8000	/* from SMBASE; APM volume 2, "SMM Execution Environment" */

struct apf_host_vcpu;

struct apf_setup {
	const char *name;	/* for messages */
	unsigned int nr_vcpus;
	u64 seed;
	u64 pages;		/* per vCPU */
	u64 rounds;		/* 0: until apf_vm_run()'s caller has had enough */
	u64 max_out;
	u64 gap_max;		/* ticks, see struct apf_vcpu */
	u64 delay_max;		/* ticks until a page is given, 0 to that */
	u64 what, every;	/* APF_DO_* */
	u64 samples;		/* per vCPU, 0: no latencies */
	u64 stall_ms;		/* nothing moves for so long: tokens are lost; 0: by vendor */
	bool areas_shared;	/* the areas are a memfd, a->areas->fd */
	u32 dirty_ring;		/* bytes, 0: no ring */
	u32 pages_flags;	/* of the pages' memslot */
	/* Another guest, called like apf_guest_main(), or NULL */
	void (*guest_main)(u64 vcpu);
	u64 kick_max;		/* apf_vm_run() signals vCPU 0 after 0 to so many ticks, 0: not */
	/* On a vCPU's thread: KVM_RUN was interrupted; the guest's own requests, or NULL */
	void (*interrupted)(struct apf_host_vcpu *v);
	bool (*asked)(struct apf_host_vcpu *v, u32 what);
};

struct apf_pending {
	u64 address;		/* of the host */
	u64 due;		/* TSC */
};

struct apf_host_vcpu {
	struct apf_vm *a;
	struct kvm_vcpu *vcpu;
	struct apf_vcpu *g;	/* the host's view */
	char *pages;		/* the host's view */
	struct kvm_x86_state *fresh;	/* with APF_DO_RESET, _INIT: as it was at the start */
	struct kvm_lapic_state lapic;
	u64 *given;
	u32 *access_to_ready, *fault_to_ready, *given_to_ready;
	u64 round;
	pthread_t thread;
	bool ended;
};

struct apf_vm {
	struct apf_setup cfg;
	struct kvm_vm *vm;
	struct apf_host_vcpu v[APF_MAX_VCPUS];
	struct userspace_mem_region *areas;
	int uffd, wake_fd;
	pthread_t giver;
	bool giving, giver_stop;
	bool hold;		/* pages are not given */
	bool ended;		/* apf_vm_run() is about to return */
	struct apf_pending pending[APF_MAX_VCPUS * (APF_MAX_OUT + 2)];
	unsigned int nr_pending;
	u64 tsc_offset;
	u64 given, stalled, paused;
};

/* Sums over all vCPUs; what the guest counts, and what was lost. */
struct apf_count {
	u64 announced, ready, eaten, touched, sync, irqs, empty, enables, wakes;
	u64 lost;		/* neither came back nor were eaten */
	u64 doubled;		/* came back without being outstanding */
	u64 wrong;		/* wrong_page, again, overwritten, stray, extra_wakes */
	u64 done[APF_NR_DO];
	u64 smis;		/* taken; done[17] were asked for */
};

/* VM, memory, the giver; nothing of the guest runs yet. */
void apf_vm_create(struct apf_vm *a, const struct apf_setup *cfg);
void apf_vm_start(struct apf_vm *a);
/* Until @more says no, or nothing moves; a round that has begun is finished. */
void apf_vm_run(struct apf_vm *a, bool (*more)(struct apf_vm *a));
/* The vCPUs leave KVM_RUN, for good: to be saved.  The giver goes on. */
void apf_vm_pause(struct apf_vm *a);
/* Grows while the guest gets on */
u64 apf_vm_progress(struct apf_vm *a);
void apf_vm_count(struct apf_vm *a, struct apf_count *c);
/* What apf_count's wrong consists of, on stderr; nothing if it is 0 */
void apf_vm_tell_wrong(struct apf_vm *a);
void apf_vm_free(struct apf_vm *a);

/* A page of zeroes, present, and its addresses */
void *apf_vm_page(struct kvm_vm *vm, u64 *gva, u64 *gpa);

/*
 * For callers that run the vCPUs and give the pages themselves, without
 * apf_vm_start(): a page of vCPU @i; the areas' memslot, none if @there is false.
 */
void apf_vm_give(struct apf_vm *a, unsigned int i, u64 page);
void apf_vm_set_areas(struct apf_vm *a, bool there, u32 flags);

#endif /* APF_VM_H */
