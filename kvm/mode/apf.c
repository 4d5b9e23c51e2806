// SPDX-License-Identifier: GPL-2.0
/*
 * Page-ready events without VM-Exits.  apf.h has the interface.
 *
 * A page-ready event is a token, written to an area that the guest has named, and
 * an interrupt.  There is one place for a token: the guest clears it when it has
 * read the token, and then writes to MSR_KVM_ASYNC_PF_ACK.  A token that is not 0
 * is never overwritten, whoever has left it there.
 *
 * vcpu->async_pf.lock makes one step of it for all senders: the look at the vCPU's
 * state, the choice of the event, the token, the interrupt.  So an event that one
 * sender leaves alone, as the place is taken, is seen by the ACK that frees it.
 *
 * The worker that got the page sends the event, and leaves a running vCPU alone:
 * the vCPU gets a posted interrupt where there is APICv or AVIC, and has a request
 * pending, whose handler maps the page and takes the event off the list at the
 * next VM-Exit, which is the ACK's at the latest.  Only if the area cannot be
 * written to by a worker is the vCPU made to leave.
 *
 * Nothing is sent while the vCPU is not in KVM_RUN.  Its memory, its local APIC
 * and its MSRs are userspace's then, to be saved and loaded in any order; and there
 * need be no VMM any more, nor memory where the area was.
 */
#include <linux/kthread.h>
#include <linux/kvm_host.h>
#include <linux/mm.h>
#include <linux/sched/mm.h>
#include <linux/spinlock.h>
#include <linux/timer.h>
#include <linux/uaccess.h>
#include <trace/events/kvm.h>

#include "cpuid.h"
#include "lapic.h"
#include "x86.h"

#include "apf.h"
#include "mode.h"

/* Those below are exceptions': the guest has not named its own yet. */
#define APF_FIRST_VECTOR	32

/* How often an area that cannot be written to is tried again, in jiffies. */
#define APF_RETRY		max(HZ / 100, 1)

/* How often the area is made present at once; reclaim may be as fast. */
#define APF_FAULTS		3

static gpa_t apf_area(struct kvm_vcpu *vcpu)
{
	return READ_ONCE(vcpu->arch.apf.msr_en_val) & ~0x3full;
}

/*
 * The token's address in the host, or an error hva: no writable memory of the
 * guest's.  With kvm->srcu read-locked, which keeps the memslot.
 */
static unsigned long apf_token_hva(struct kvm_vcpu *vcpu, bool *logged)
{
	gpa_t gpa = apf_area(vcpu) + offsetof(struct kvm_vcpu_pv_apf_data, token);
	struct kvm_memory_slot *slot = gfn_to_memslot(vcpu->kvm, gpa_to_gfn(gpa));
	unsigned long hva = gfn_to_hva_memslot(slot, gpa_to_gfn(gpa));

	if (logged)
		*logged = slot && kvm_slot_dirty_track_enabled(slot);
	return kvm_is_error_hva(hva) ? hva : hva + offset_in_page(gpa);
}

static u32 apf_vector(struct kvm_vcpu *vcpu)
{
	return READ_ONCE(vcpu->arch.apf.msr_int_val) & KVM_ASYNC_PF_VEC_MASK;
}

static bool apf_has_token(struct kvm_async_pf *work)
{
	return work->wakeup_all || work->notpresent_injected;
}

/*
 * The oldest event that is to be sent.  It stays valid while the lock is held: the
 * vCPU takes off the list what was sent, and everything when the guest disables
 * the mechanism, after it has waited for the workers.
 */
static struct kvm_async_pf *apf_next(struct kvm_vcpu *vcpu)
{
	struct kvm_async_pf *work;

	list_for_each_entry(work, &vcpu->async_pf.done, link) {
		if (apf_has_token(work) && !work->arch.sent)
			return work;
	}
	return NULL;
}

/*
 * Can the guest get an event now?  If not, it is due when the vCPU runs, has
 * enabled its local APIC, or has named its vector: each makes the request.
 * Litmus: apf-pause.
 */
static bool apf_may_send(struct kvm_vcpu *vcpu)
{
	lockdep_assert_held(&vcpu->async_pf.lock);

	if (!READ_ONCE(vcpu->arch.apf.runs) || !kvm_pv_async_pf_enabled(vcpu) ||
	    apf_vector(vcpu) < APF_FIRST_VECTOR)
		return false;

	/* One that is disabled meanwhile refuses the interrupt. */
	return data_race(kvm_lapic_enabled(vcpu));
}

/*
 * An interrupt for a token that lies in its place.  The local APIC refuses it if
 * the guest has disabled it just now.
 */
static void apf_interrupt(struct kvm_vcpu *vcpu)
{
	struct kvm_lapic_irq irq = {
		.delivery_mode = APIC_DM_FIXED,
		.vector = apf_vector(vcpu),
	};

	vcpu->arch.apf.pageready_pending = true;
	vcpu->arch.apf.irq_owed = !kvm_apic_set_irq(vcpu, &irq, NULL);
}

/* 0 becomes @token.  1: the guest has not cleared the last one.  -EFAULT: not present. */
static int apf_put_token(unsigned long hva, u32 token)
{
	u32 __user *place = (u32 __user *)hva;
	u32 old = 0;
	int r;

	pagefault_disable();
	r = __try_cmpxchg_user(place, &old, token, fault);
	pagefault_enable();
	return r;
}

/* Is there an event, or an interrupt, for the vCPU itself or for a worker to send? */
static bool apf_due(struct kvm_vcpu *vcpu, bool own)
{
	if (!apf_may_send(vcpu))
		return false;

	/*
	 * What waits for the ACK is the vCPU's, so that with many events outstanding
	 * not each worker looks at their place in vain; and so is what it owes.
	 */
	if (!own && (vcpu->arch.apf.pageready_pending || vcpu->arch.apf.irq_owed))
		return false;

	return vcpu->arch.apf.irq_owed || apf_next(vcpu);
}

static int apf_send(struct kvm_vcpu *vcpu, struct kvm_async_pf *work, unsigned long hva)
{
	u32 token = work->wakeup_all ? ~0 : work->arch.token;
	int r = apf_put_token(hva, token);

	if (r)
		return r;

	trace_kvm_async_pf_ready(token, work->cr2_or_gpa);
	WRITE_ONCE(work->arch.sent, true);
	apf_interrupt(vcpu);
	return 0;
}

/*
 * A token may lie in its place that has no interrupt.  0: there is none, so that
 * the next one can be sent; else as apf_put_token().
 */
static int apf_send_owed(struct kvm_vcpu *vcpu, unsigned long hva)
{
	u32 token;

	if (copy_from_user_nofault(&token, (void __user *)hva, sizeof(token)))
		return -EFAULT;

	vcpu->arch.apf.irq_owed = false;
	if (token)
		apf_interrupt(vcpu);
	return token ? 1 : 0;
}

/*
 * Send the oldest event, if there is one, with the VM's mm in use and kvm->srcu
 * read-locked.  1: sent; 0: not, and the guest's ACK is due, or whatever else it
 * waits for.  -EFAULT: the area is not present, or only the vCPU may write there,
 * which alone can log a page as dirty.
 */
static int apf_try_send(struct kvm_vcpu *vcpu, bool own)
{
	struct kvm_async_pf *work;
	unsigned long hva;
	bool logged;
	int r = 0;

	if (!apf_due(vcpu, own))
		return 0;

	hva = apf_token_hva(vcpu, &logged);
	if (kvm_is_error_hva(hva) || (logged && !own))
		return -EFAULT;

	if (vcpu->arch.apf.irq_owed)
		r = apf_send_owed(vcpu, hva);

	work = apf_next(vcpu);
	if (r || !work)
		return r < 0 ? r : 0;

	r = apf_send(vcpu, work, hva);
	if (!r && logged)
		mark_page_dirty(vcpu->kvm, gpa_to_gfn(apf_area(vcpu)));
	return r < 0 ? r : !r;
}

/* As KVM does it for the guest: a signal ends it.  A user access would spin then. */
int kvm_apf_fault_in(unsigned long hva, unsigned int flags)
{
	int r = -EFAULT;

	if (!kvm_is_error_hva(hva))
		r = get_user_pages_unlocked(hva, 1, NULL, flags | FOLL_INTERRUPTIBLE);
	if (r == 1)
		return 0;
	return r < 0 ? r : -EFAULT;
}

static void apf_send_own(struct kvm_vcpu *vcpu)
{
	int r, tries = APF_FAULTS;

	do {
		spin_lock(&vcpu->async_pf.lock);
		r = apf_try_send(vcpu, true);
		spin_unlock(&vcpu->async_pf.lock);
		if (r >= 0)
			return;
	} while (tries-- && !kvm_apf_fault_in(apf_token_hva(vcpu, NULL), FOLL_WRITE));

	/* The memslot is gone, or the host's mapping; nobody tells when it is back. */
	mod_timer(&vcpu->arch.apf.retry, jiffies + APF_RETRY);
}

static void apf_retry(struct timer_list *timer)
{
	struct kvm_vcpu *vcpu = container_of(timer, struct kvm_vcpu, arch.apf.retry);

	kvm_make_request(KVM_REQ_APF_READY, vcpu);
	kvm_make_request(KVM_REQ_UNBLOCK, vcpu);
	kvm_vcpu_kick(vcpu);
}

/*
 * By a worker.  false: the vCPU has to do it.  An area that is not present is not
 * waited for, as the vCPU waits for the workers of what it takes off the list.
 */
static bool apf_send_remote(struct kvm_vcpu *vcpu)
{
	struct mm_struct *mm = vcpu->kvm->mm;
	int idx, r;

	spin_lock(&vcpu->async_pf.lock);
	r = apf_due(vcpu, false);
	spin_unlock(&vcpu->async_pf.lock);
	if (!r || !mmget_not_zero(mm))
		return true;

	kthread_use_mm(mm);
	idx = srcu_read_lock(&vcpu->kvm->srcu);
	spin_lock(&vcpu->async_pf.lock);
	r = apf_try_send(vcpu, false);
	spin_unlock(&vcpu->async_pf.lock);
	srcu_read_unlock(&vcpu->kvm->srcu, idx);
	kthread_unuse_mm(mm);
	mmput(mm);

	return r >= 0;
}

/*
 * A page has become ready; called by its worker, and by the vCPU itself for the
 * event that wakes all, which it sends when it runs.  The event is on the list.
 * The caller wakes the vCPU if it blocks: the page may be what it waits for.
 *
 * The request comes first: the vCPU may ACK the event before this returns, and is
 * to map the page then.  Nobody needs to be kicked for that.
 */
void kvm_arch_async_page_present_queued(struct kvm_vcpu *vcpu)
{
	kvm_make_request(KVM_REQ_APF_READY, vcpu);
	kvm_make_request(KVM_REQ_UNBLOCK, vcpu);
	if (vcpu == kvm_get_running_vcpu())
		return;

	/*
	 * The request before the flag; pairs with the barriers after
	 * kvm_mode_enter() and in kvm_mode_reenter().  Litmus: entry-request.
	 */
	smp_mb__after_atomic();

	if (apf_send_remote(vcpu))
		return;

	/* A vCPU in the host will find the request before it enters. */
	if (kvm_mode_read(vcpu) == KVM_EXEC_HOST)
		kvm_vcpu_wake_up(vcpu);
	else
		kvm_vcpu_kick(vcpu);
}

/* Take an event off the list that needs no token any more, or none at all. */
bool kvm_arch_can_dequeue_async_page_present(struct kvm_vcpu *vcpu,
					     struct kvm_async_pf *work)
{
	/* Its sender still has the lock, which is taken before it is freed. */
	return !kvm_pv_async_pf_enabled(vcpu) || !apf_has_token(work) ||
	       READ_ONCE(work->arch.sent);
}

/* Has a page become ready since pages were mapped?  With the lock. */
static bool apf_unmapped(struct kvm_vcpu *vcpu)
{
	struct kvm_async_pf *work;

	list_for_each_entry(work, &vcpu->async_pf.done, link) {
		if (!work->arch.mapped)
			return true;
	}
	return false;
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
		kvm_apf_page_mapped(vcpu, work);
		spin_lock(&vcpu->async_pf.lock);
	}
	spin_unlock(&vcpu->async_pf.lock);
}

void kvm_apf_process(struct kvm_vcpu *vcpu)
{
	/* It does not block, and may be about to enter. */
	kvm_clear_request(KVM_REQ_UNBLOCK, vcpu);

	apf_send_own(vcpu);
	apf_map_pages(vcpu);
	kvm_check_async_pf_completion(vcpu);
}

void kvm_apf_unblock(struct kvm_vcpu *vcpu)
{
	apf_send_own(vcpu);

	/* KVM has halted it for a page.  If it is this one it can go on. */
	spin_lock(&vcpu->async_pf.lock);
	if (apf_unmapped(vcpu))
		vcpu->arch.apf.halted = false;
	spin_unlock(&vcpu->async_pf.lock);
}

/* Events that were left to the ACK are found on the list now.  Litmus: apf-ack. */
void kvm_apf_ack(struct kvm_vcpu *vcpu)
{
	spin_lock(&vcpu->async_pf.lock);
	vcpu->arch.apf.pageready_pending = false;
	spin_unlock(&vcpu->async_pf.lock);

	kvm_apf_process(vcpu);
}

/*
 * In the fastpath: is there something for kvm_apf_process()?  Events that only
 * wait for the place can stay on the list until the last one is sent.
 */
static bool apf_to_process(struct kvm_vcpu *vcpu)
{
	return apf_unmapped(vcpu) ||
	       (!list_empty(&vcpu->async_pf.done) && !apf_next(vcpu));
}

bool kvm_apf_ack_irqoff(struct kvm_vcpu *vcpu, u64 data)
{
	bool more;

	/* These locks sleep there. */
	if (IS_ENABLED(CONFIG_PREEMPT_RT))
		return false;

	if (!guest_pv_has(vcpu, KVM_FEATURE_ASYNC_PF_INT) ||
	    !kvm_msr_allowed(vcpu, MSR_KVM_ASYNC_PF_ACK, KVM_MSR_FILTER_WRITE))
		return false;

	if (!(data & 1))
		return true;

	/* Its holder may be interrupted. */
	if (!spin_trylock(&vcpu->async_pf.lock))
		return false;

	vcpu->arch.apf.pageready_pending = false;
	more = apf_try_send(vcpu, true) < 0 || apf_to_process(vcpu);
	spin_unlock(&vcpu->async_pf.lock);

	if (more)
		kvm_make_request(KVM_REQ_APF_READY, vcpu);
	return true;
}

int kvm_apf_set_vector(struct kvm_vcpu *vcpu, u64 data)
{
	if (data & ~KVM_ASYNC_PF_VEC_MASK)
		return -EINVAL;

	/* The one that a sender has found good is the one that it sends. */
	spin_lock(&vcpu->async_pf.lock);
	WRITE_ONCE(vcpu->arch.apf.msr_int_val, data);
	spin_unlock(&vcpu->async_pf.lock);

	kvm_make_request(KVM_REQ_APF_READY, vcpu);
	return 0;
}

bool kvm_apf_put_flags(struct kvm_vcpu *vcpu, u32 flags)
{
	gpa_t gpa = apf_area(vcpu) + offsetof(struct kvm_vcpu_pv_apf_data, flags);

	return !kvm_write_guest(vcpu->kvm, gpa, &flags, sizeof(flags));
}

void kvm_apf_defer(struct kvm_vcpu *vcpu, struct kvm_async_pf *work)
{
	vcpu->arch.apf.deferred = work;
	kvm_make_request(KVM_REQ_EVENT, vcpu);
}

/*
 * The worker looks at notpresent_injected once the work is on the list.  It is
 * either there, so that the guest need not be told any more; or the worker finds that
 * there is a token to send, and one that was announced before stays so.  The lock
 * decides.  Litmus: apf-announce.
 */
bool kvm_apf_announced(struct kvm_vcpu *vcpu, struct kvm_async_pf *work)
{
	bool waiting;

	spin_lock(&vcpu->async_pf.lock);
	waiting = list_empty(&work->link);
	if (waiting)
		work->notpresent_injected = true;
	spin_unlock(&vcpu->async_pf.lock);
	return waiting;
}

bool kvm_apf_announce(struct kvm_vcpu *vcpu, u32 *token)
{
	struct kvm_async_pf *work = vcpu->arch.apf.deferred;
	bool announced;

	if (!work || kvm_is_exception_pending(vcpu))
		return false;

	vcpu->arch.apf.deferred = NULL;
	*token = work->arch.token;
	if (!kvm_apf_put_flags(vcpu, KVM_PV_REASON_PAGE_NOT_PRESENT))
		return false;

	announced = kvm_apf_announced(vcpu, work);
	if (!announced)
		kvm_apf_put_flags(vcpu, 0);
	return announced;
}

void kvm_apf_forget(struct kvm_vcpu *vcpu, struct kvm_async_pf *work)
{
	if (vcpu->arch.apf.deferred == work)
		vcpu->arch.apf.deferred = NULL;
}

void kvm_apf_init(struct kvm_vcpu *vcpu)
{
	timer_setup(&vcpu->arch.apf.retry, apf_retry, 0);
}

/* The MSR and what goes with it, for all senders at once. */
static void apf_set_en(struct kvm_vcpu *vcpu, u64 data)
{
	spin_lock(&vcpu->async_pf.lock);
	WRITE_ONCE(vcpu->arch.apf.msr_en_val, data);
	vcpu->arch.apf.pageready_pending = false;
	/* A token that is there already: of a VM that was saved, or of userspace's. */
	vcpu->arch.apf.irq_owed = kvm_pv_async_pf_enabled(vcpu);
	spin_unlock(&vcpu->async_pf.lock);
}

int kvm_apf_start(struct kvm_vcpu *vcpu, u64 data, bool host_initiated)
{
	unsigned long hva = gfn_to_hva(vcpu->kvm, gpa_to_gfn(data));

	/* Userspace may load the MSRs before it has made the memory. */
	if (!host_initiated && kvm_is_error_hva(hva))
		return -EFAULT;

	apf_set_en(vcpu, data);
	kvm_make_request(KVM_REQ_APF_READY, vcpu);
	return 0;
}

void kvm_apf_stop(struct kvm_vcpu *vcpu, u64 data)
{
	apf_set_en(vcpu, data);
	timer_delete_sync(&vcpu->arch.apf.retry);
	vcpu->arch.apf.deferred = NULL;
}

void kvm_apf_run(struct kvm_vcpu *vcpu, bool runs)
{
	/* Nobody sends: the vCPU takes the lock to enable the mechanism. */
	if (!kvm_pv_async_pf_enabled(vcpu)) {
		WRITE_ONCE(vcpu->arch.apf.runs, runs);
		return;
	}

	spin_lock(&vcpu->async_pf.lock);
	WRITE_ONCE(vcpu->arch.apf.runs, runs);
	spin_unlock(&vcpu->async_pf.lock);

	/* What was held back meanwhile, also by the ACK that userspace has written. */
	if (runs && (vcpu->arch.apf.irq_owed || !list_empty_careful(&vcpu->async_pf.done)))
		kvm_make_request(KVM_REQ_APF_READY, vcpu);
}
