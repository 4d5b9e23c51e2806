// SPDX-License-Identifier: GPL-2.0
/*
 * Page-ready events without VM-Exits.  apf.h has the interface.
 *
 * A page-ready event is a token, written to an area that the guest has named, and
 * an interrupt.  There is one place for a token.  The guest clears it when it has
 * read the token, and then writes to MSR_KVM_ASYNC_PF_ACK, which makes the next
 * event due.
 *
 * Whoever has an event to send, the worker that got the page, the vCPU on its way
 * into the guest or the handler of the ACK, claims the place first:
 *
 *   FREE -> CLAIMED	cmpxchg(); no one else looks for an event or writes a token
 *   CLAIMED -> SENT	the token is written; the interrupt follows
 *   CLAIMED -> FREE	there is nothing to send, or it cannot be sent from here
 *   SENT -> FREE	the guest's ACK
 *
 * An event is on vcpu->async_pf.done before its worker tries to claim the place,
 * and stays there, marked as sent, until the vCPU takes it off.  Who finds the
 * place taken leaves its event to the one who frees it: after it has freed the
 * place, it looks for events again.  Litmus: apf-claim, apf-claim-ack.
 *
 * A token that the guest has not cleared is never overwritten, whatever the state
 * of the place says: a guest may clear it and not ACK, ACK and not clear it, or
 * come with a token of the host that it has left.  Litmus: apf-clear.
 *
 * A running vCPU is left alone.  It gets a posted interrupt where there is APICv
 * or AVIC, and has a request pending, whose handler maps the page and takes the
 * event off the list at the next VM-Exit, which is the ACK's at the latest.  Only
 * if the area's mapping cannot be used by a worker is the vCPU made to leave.
 */
#include <linux/atomic.h>
#include <linux/kvm_host.h>
#include <linux/spinlock.h>
#include <trace/events/kvm.h>

#include "cpuid.h"
#include "lapic.h"
#include "x86.h"

#include "apf.h"
#include "mode.h"

/* Of vcpu->arch.apf.slot, the place of the token. */
enum {
	APF_SLOT_FREE,
	APF_SLOT_CLAIMED,
	APF_SLOT_SENT,
};

#define APF_FIRST_VECTOR	16

/* What is used of struct kvm_vcpu_pv_apf_data: flags and token. */
#define APF_AREA_SIZE	sizeof(u64)

static u32 *apf_word(struct kvm_vcpu *vcpu, size_t offset)
{
	return vcpu->arch.apf.area.khva + offset;
}

static u32 *apf_token(struct kvm_vcpu *vcpu)
{
	return apf_word(vcpu, offsetof(struct kvm_vcpu_pv_apf_data, token));
}

/*
 * Lock the mapping of the area so that it can be written to.  Only the vCPU
 * itself, @own, can make a new mapping, which sleeps, and can log a page as
 * dirty, which belongs to a vCPU.
 */
static bool apf_lock_area(struct kvm_vcpu *vcpu, bool own, unsigned long *irqs)
{
	struct gfn_to_pfn_cache *area = &vcpu->arch.apf.area;

	for (;;) {
		read_lock_irqsave(&area->lock, *irqs);
		if (kvm_gpc_check(area, APF_AREA_SIZE) &&
		    (own || !kvm_slot_dirty_track_enabled(area->memslot))) {
			__release(&area->lock);		/* for sparse: handed over */
			return true;
		}
		read_unlock_irqrestore(&area->lock, *irqs);

		if (!own || kvm_gpc_refresh(area, APF_AREA_SIZE))
			return false;
	}
}

static void apf_unlock_area(struct kvm_vcpu *vcpu, unsigned long irqs)
{
	__acquire(&vcpu->arch.apf.area.lock);
	read_unlock_irqrestore(&vcpu->arch.apf.area.lock, irqs);
}

/* Written by the caller, with the area locked. */
static void apf_area_written(struct kvm_vcpu *vcpu, bool own)
{
	if (own)
		kvm_gpc_mark_dirty_in_slot(&vcpu->arch.apf.area);
}

/* Only the vCPU itself may pass over a guest that clears its token without ACK. */
static bool apf_claim(struct kvm_vcpu *vcpu, bool own)
{
	int old = atomic_read(&vcpu->arch.apf.slot);

	if (old == APF_SLOT_CLAIMED || (old == APF_SLOT_SENT && !own))
		return false;

	/* Full barrier: the claim before the event and the token.  Litmus: apf-two-senders. */
	return atomic_cmpxchg(&vcpu->arch.apf.slot, old, APF_SLOT_CLAIMED) == old;
}

/* Full barrier: the claim is given up before the caller looks again. */
static void apf_unclaim(struct kvm_vcpu *vcpu, bool sent)
{
	atomic_xchg(&vcpu->arch.apf.slot, sent ? APF_SLOT_SENT : APF_SLOT_FREE);
}

/* The guest's ACK, or a new area.  A claim ends by itself. */
static void apf_free(struct kvm_vcpu *vcpu)
{
	atomic_cmpxchg(&vcpu->arch.apf.slot, APF_SLOT_SENT, APF_SLOT_FREE);

	/*
	 * The place before the list and the token; pairs with apf_unclaim(), and
	 * with the worker's barrier.  Litmus: apf-claim-ack, apf-clear.
	 */
	smp_mb();
}

static bool apf_has_token(struct kvm_async_pf *work)
{
	return work->wakeup_all || work->notpresent_injected;
}

/*
 * The oldest event that is to be sent.  It stays valid for the holder of the claim:
 * the vCPU takes off the list what was sent, and everything when the guest
 * disables the mechanism, after it has waited for the workers.
 */
static struct kvm_async_pf *apf_next(struct kvm_vcpu *vcpu)
{
	struct kvm_async_pf *work, *next = NULL;

	spin_lock(&vcpu->async_pf.lock);
	list_for_each_entry(work, &vcpu->async_pf.done, link) {
		if (apf_has_token(work) && !work->arch.sent) {
			next = work;
			break;
		}
	}
	spin_unlock(&vcpu->async_pf.lock);

	return next;
}

/*
 * Under the claim.  -ENOENT: there is nothing to send any more; -EBUSY: the guest
 * has not cleared its last token; -EAGAIN: the area cannot be written to from here.
 */
static int apf_write_token(struct kvm_vcpu *vcpu, bool own)
{
	struct kvm_async_pf *work = apf_next(vcpu);
	unsigned long irqs;
	int r = -EBUSY;

	if (!work)
		return -ENOENT;

	if (!apf_lock_area(vcpu, own, &irqs))
		return -EAGAIN;

	if (!READ_ONCE(*apf_token(vcpu))) {
		if (work->wakeup_all)
			work->arch.token = ~0;
		trace_kvm_async_pf_ready(work->arch.token, work->cr2_or_gpa);
		WRITE_ONCE(*apf_token(vcpu), work->arch.token);
		apf_area_written(vcpu, own);

		/*
		 * From here on the vCPU may free it; pairs with the acquire in
		 * kvm_arch_can_dequeue_async_page_present().  Litmus: apf-sent.
		 * Still with the lock: kvm_apf_start() tells by it which events
		 * went to the old area.
		 */
		smp_store_release(&work->arch.sent, true);
		r = 0;
	}
	apf_unlock_area(vcpu, irqs);

	return r;
}

static bool apf_token_is_cleared(struct kvm_vcpu *vcpu, bool own)
{
	unsigned long irqs;
	bool cleared;

	if (!apf_lock_area(vcpu, own, &irqs))
		return false;

	cleared = !READ_ONCE(*apf_token(vcpu));
	apf_unlock_area(vcpu, irqs);
	return cleared;
}

/*
 * An interrupt for a token that was written.  The local APIC refuses it if the
 * guest has disabled it just now; the vCPU sends it when it is enabled again.
 */
static void apf_interrupt(struct kvm_vcpu *vcpu)
{
	struct kvm_lapic_irq irq = {
		.delivery_mode = APIC_DM_FIXED,
		.vector = READ_ONCE(vcpu->arch.apf.vec),
	};

	if (kvm_apic_set_irq(vcpu, &irq, NULL))
		return;

	WRITE_ONCE(vcpu->arch.apf.irq_owed, true);
	kvm_make_request(KVM_REQ_APF_READY, vcpu);
}

/*
 * Send an event if there is one and the guest can take it.  Returns false if only
 * the vCPU itself can do it.  An event that the guest cannot take now is due when
 * it has written to the ACK's MSR, enabled its local APIC or named its vector.
 */
static bool apf_send(struct kvm_vcpu *vcpu, bool own)
{
	int r;

	/* Vectors below are exceptions': the guest has not named its own yet. */
	if (!kvm_pv_async_pf_enabled(vcpu) || !kvm_lapic_enabled(vcpu) ||
	    READ_ONCE(vcpu->arch.apf.vec) < APF_FIRST_VECTOR)
		return true;

	do {
		if (!apf_next(vcpu) || !apf_claim(vcpu, own))
			return true;

		r = apf_write_token(vcpu, own);
		apf_unclaim(vcpu, !r);

		/*
		 * What has come meanwhile was left to this claim: another event,
		 * or the guest's ACK.  Litmus: apf-claim, apf-clear.
		 */
	} while (r == -ENOENT || (r == -EBUSY && apf_token_is_cleared(vcpu, own)));

	if (r)
		return r != -EAGAIN;

	apf_interrupt(vcpu);
	if (!own)
		atomic64_inc(&vcpu->stat.apf_ready_sent);
	return true;
}

/*
 * A page has become ready; called by its worker, and by the vCPU itself for the
 * event that wakes all.  The event is on the list.
 *
 * The request comes first: the vCPU may ACK the event before this returns, and is
 * to map the page then.  Nobody needs to be kicked for that.
 */
void kvm_arch_async_page_present_queued(struct kvm_vcpu *vcpu)
{
	bool asked;
	int idx;

	kvm_make_request(KVM_REQ_APF_READY, vcpu);

	/*
	 * The event before the place, see apf_claim(); pairs with apf_free() and
	 * apf_unclaim().  Litmus: apf-claim, apf-claim-ack.
	 * The request before the flag; pairs with the barriers after
	 * kvm_mode_enter() and in kvm_mode_reenter().  Litmus: entry-request.
	 */
	smp_mb__after_atomic();

	idx = srcu_read_lock(&vcpu->kvm->srcu);
	asked = !apf_send(vcpu, false);
	srcu_read_unlock(&vcpu->kvm->srcu, idx);

	if (!asked)
		return;

	/* A vCPU in the host will find the request before it enters. */
	atomic64_inc(&vcpu->stat.apf_ready_asked);
	if (kvm_mode_read(vcpu) == IN_HOST_MODE)
		kvm_vcpu_wake_up(vcpu);
	else
		kvm_vcpu_kick(vcpu);
}

/* Take an event off the list that needs no token any more, or none at all. */
bool kvm_arch_can_dequeue_async_page_present(struct kvm_vcpu *vcpu,
					     struct kvm_async_pf *work)
{
	if (!kvm_pv_async_pf_enabled(vcpu) || !apf_has_token(work))
		return true;

	/*
	 * Freed after the last use by its sender; pairs with apf_write_token().
	 * Litmus: apf-sent.
	 */
	return smp_load_acquire(&work->arch.sent);
}

/*
 * Map the pages of all events, sent or not.  Then the ACKs of those that wait for
 * the place need nothing but the next token.  Only the vCPU takes events off the
 * list, so that it can go along it without the lock, which protects the adding.
 */
static void apf_map_pages(struct kvm_vcpu *vcpu)
{
	struct kvm_async_pf *work;

	spin_lock(&vcpu->async_pf.lock);
	list_for_each_entry(work, &vcpu->async_pf.done, link) {
		if (work->arch.mapped)
			continue;

		spin_unlock(&vcpu->async_pf.lock);
		kvm_arch_async_page_ready(vcpu, work);
		work->arch.mapped = true;
		spin_lock(&vcpu->async_pf.lock);
	}
	spin_unlock(&vcpu->async_pf.lock);
}

void kvm_apf_process(struct kvm_vcpu *vcpu)
{
	if (READ_ONCE(vcpu->arch.apf.irq_owed) && kvm_lapic_enabled(vcpu)) {
		WRITE_ONCE(vcpu->arch.apf.irq_owed, false);
		apf_interrupt(vcpu);
	}

	apf_send(vcpu, true);
	apf_map_pages(vcpu);
	kvm_check_async_pf_completion(vcpu);
}

/*
 * In the fastpath: is there something for kvm_apf_process()?  Events that only
 * wait for the place can stay on the list until the last one is sent.
 */
static bool apf_to_process(struct kvm_vcpu *vcpu)
{
	bool unmapped = false, waiting = false, any = false;
	struct kvm_async_pf *work;

	spin_lock(&vcpu->async_pf.lock);
	list_for_each_entry(work, &vcpu->async_pf.done, link) {
		any = true;
		unmapped |= !work->arch.mapped;
		waiting |= apf_has_token(work) && !work->arch.sent;
	}
	spin_unlock(&vcpu->async_pf.lock);

	return unmapped || (any && !waiting);
}

void kvm_apf_ack(struct kvm_vcpu *vcpu)
{
	apf_free(vcpu);
	kvm_apf_process(vcpu);
}

bool kvm_apf_ack_irqoff(struct kvm_vcpu *vcpu, u64 data)
{
	/* These locks sleep there. */
	if (IS_ENABLED(CONFIG_PREEMPT_RT))
		return false;

	if (!guest_pv_has(vcpu, KVM_FEATURE_ASYNC_PF_INT) ||
	    !kvm_msr_allowed(vcpu, MSR_KVM_ASYNC_PF_ACK, KVM_MSR_FILTER_WRITE))
		return false;

	if (!(data & 1))
		return true;

	apf_free(vcpu);
	if (!apf_send(vcpu, false) || apf_to_process(vcpu))
		kvm_make_request(KVM_REQ_APF_READY, vcpu);
	return true;
}

int kvm_apf_set_vector(struct kvm_vcpu *vcpu, u64 data, bool host_initiated)
{
	if (data & ~KVM_ASYNC_PF_VEC_MASK)
		return -EINVAL;

	/* The local APIC delivers none of these.  Userspace restores what was there. */
	if (data < APF_FIRST_VECTOR && !host_initiated)
		return -EINVAL;

	vcpu->arch.apf.msr_int_val = data;
	WRITE_ONCE(vcpu->arch.apf.vec, data);
	kvm_make_request(KVM_REQ_APF_READY, vcpu);
	return 0;
}

bool kvm_apf_put_flags(struct kvm_vcpu *vcpu, u32 flags)
{
	unsigned long irqs;

	if (!apf_lock_area(vcpu, true, &irqs))
		return false;

	WRITE_ONCE(*apf_word(vcpu, offsetof(struct kvm_vcpu_pv_apf_data, flags)), flags);
	apf_area_written(vcpu, true);
	apf_unlock_area(vcpu, irqs);
	return true;
}

void kvm_apf_defer(struct kvm_vcpu *vcpu, struct kvm_async_pf *work)
{
	vcpu->arch.apf.nested_work = work;
	kvm_make_request(KVM_REQ_EVENT, vcpu);
}

/*
 * The worker looks at notpresent_injected once the work is on the list.  It is
 * either there, and has become ready without the guest having been told, or the
 * worker finds that there is a token to send.  The lock decides.
 */
bool kvm_apf_announce(struct kvm_vcpu *vcpu, u32 *token)
{
	struct kvm_async_pf *work = vcpu->arch.apf.nested_work;
	bool waiting;

	if (!work || kvm_is_exception_pending(vcpu))
		return false;

	vcpu->arch.apf.nested_work = NULL;
	*token = work->arch.token;
	if (!kvm_apf_put_flags(vcpu, KVM_PV_REASON_PAGE_NOT_PRESENT))
		return false;

	spin_lock(&vcpu->async_pf.lock);
	waiting = list_empty(&work->link);
	work->notpresent_injected = waiting;
	spin_unlock(&vcpu->async_pf.lock);

	if (!waiting)
		kvm_apf_put_flags(vcpu, 0);
	return waiting;
}

void kvm_apf_forget(struct kvm_vcpu *vcpu, struct kvm_async_pf *work)
{
	if (vcpu->arch.apf.nested_work == work)
		vcpu->arch.apf.nested_work = NULL;
}

void kvm_apf_init(struct kvm_vcpu *vcpu)
{
	kvm_gpc_init(&vcpu->arch.apf.area, vcpu->kvm);
}

int kvm_apf_start(struct kvm_vcpu *vcpu, gpa_t gpa)
{
	if (kvm_is_error_hva(gfn_to_hva(vcpu->kvm, gpa_to_gfn(gpa))))
		return -EFAULT;

	/*
	 * What was sent is in the old area, to which nobody writes from here on: an
	 * event that wakes all and is left on the list will be for the new one.  A
	 * page of it that is not there yet is tried again.
	 */
	kvm_gpc_deactivate(&vcpu->arch.apf.area);
	kvm_check_async_pf_completion(vcpu);
	kvm_gpc_activate(&vcpu->arch.apf.area, gpa, APF_AREA_SIZE);
	apf_free(vcpu);
	return 0;
}

void kvm_apf_stop(struct kvm_vcpu *vcpu)
{
	kvm_gpc_deactivate(&vcpu->arch.apf.area);
	atomic_set(&vcpu->arch.apf.slot, APF_SLOT_FREE);
	vcpu->arch.apf.irq_owed = false;
	vcpu->arch.apf.nested_work = NULL;
}
