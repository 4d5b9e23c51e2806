// SPDX-License-Identifier: GPL-2.0
/*
 * Interrupts posted to a vCPU that runs L2: none may be lost or late.
 *
 * L1 runs an L2 that computes, and exits now and then.  Host threads
 * (KVM_SIGNAL_MSI) and a second vCPU (x2APIC ICR) post to it; a vector is posted
 * again when it has been handled.  One is late that waits while L1 or L2
 * computes with nothing in its way; see compute() in nested_posted_guest.c.
 * Cases differ in how the interrupts get through to L1 or L2.  In the lab on
 * Bochs bound them by COUNT: 20000 posts of each are 30 s there.
 */
#include <stdlib.h>
#include <string.h>

#include "apic.h"
#include "kvm_util.h"
#include "processor.h"
#include "stress.h"
#include "svm_util.h"
#include "vmx.h"

#include "nested_posted.h"

#define LIMIT_MS	20000
#define VCPU_SENDERS	1
/*
 * Ticks between posts of a sender, at most.  Without APICv each interrupt costs
 * a kick and two switches between L1 and L2: leave time for computing.
 */
#define VMX_GAP		20000
#define SVM_GAP		40000000

static const char * const mode_names[NR_NESTED_MODES] = {
	[VMX_EXIT]	= "VMX, exit to L1",
	[VMX_ACK]	= "VMX, exit to L1 with acknowledge",
	[VMX_DIRECT]	= "VMX, not intercepted by L1",
	[VMX_POSTED]	= "VMX, posted to L2",
	[VMX_BOTH]	= "VMX, posted to L2 and to L1",
	[SVM_MASKING]	= "SVM, exit to L1 with V_INTR_MASKING",
	[SVM_EXIT]	= "SVM, exit to L1",
	[SVM_DIRECT]	= "SVM, not intercepted by L1",
};

static bool is_vmx(enum nested_mode mode)
{
	return mode < NR_VMX_MODES;
}

static u32 allowed(u32 msr)
{
	return kvm_get_feature_msr(msr) >> 32;
}

static bool posted_possible(void)
{
	const u32 wanted = SECONDARY_EXEC_VIRTUALIZE_X2APIC_MODE |
			   SECONDARY_EXEC_APIC_REGISTER_VIRT |
			   SECONDARY_EXEC_VIRTUAL_INTR_DELIVERY;

	return allowed(MSR_IA32_VMX_TRUE_PINBASED_CTLS) & PIN_BASED_POSTED_INTR &&
	       allowed(MSR_IA32_VMX_TRUE_PROCBASED_CTLS) & CPU_BASED_TPR_SHADOW &&
	       (allowed(MSR_IA32_VMX_PROCBASED_CTLS2) & wanted) == wanted;
}

static bool possible(enum nested_mode mode)
{
	if (is_vmx(mode) != host_cpu_is_intel) {
		stress_skip("this CPU is of the other vendor");
		return false;
	}
	if (!kvm_cpu_has(is_vmx(mode) ? X86_FEATURE_VMX : X86_FEATURE_SVM)) {
		stress_skip("KVM has no nested virtualization here: load it with nested=1");
		return false;
	}
	if (nested_has_pi(mode) && !posted_possible()) {
		stress_skip("KVM offers L1 no posted interrupts here (enable_apicv=0?)");
		return false;
	}
	return true;
}

static void *guest_alloc(struct post_vm *p, size_t size, gva_t *gva)
{
	void *hva;

	*gva = vm_alloc(p->vm, size, KVM_UTIL_MIN_VADDR);
	hva = addr_gva2hva(p->vm, *gva);
	memset(hva, 0, size);
	return hva;
}

static struct nested_shared *nested_setup(struct post_vm *p,
					  enum nested_mode mode)
{
	struct nested_shared *n;
	gva_t gva, page;
	int i;

	n = guest_alloc(p, sizeof(*n), &gva);
	write_guest_global(p->vm, nested_shared, (struct nested_shared *)gva);
	n->mode = mode;
	guest_alloc(p, getpagesize(), &page);
	n->vapic = (u8 *)page;
	n->vapic_gpa = addr_gva2gpa(p->vm, page);
	guest_alloc(p, getpagesize(), &page);
	n->pi = (struct nested_pi *)page;
	n->pi_gpa = addr_gva2gpa(p->vm, page);
	if (is_vmx(mode))
		vcpu_alloc_vmx(p->vm, &page);
	else
		vcpu_alloc_svm(p->vm, &page);
	n->pages = page;

	for (i = POST_VEC_FIRST; i <= POST_VEC_LAST; i++)
		vm_install_exception_handler(p->vm, i, nested_irq);
	vm_install_exception_handler(p->vm, NESTED_NV, nested_nv_irq);
	vcpu_arch_set_entry_point(p->t[0].vcpu, nested_target);
	if (nested_has_pi(mode))
		vcpu_arch_set_entry_point(p->t[1].vcpu, nested_pi_sender);
	return n;
}

static void on_progress(struct post_vm *p)
{
	u64 posted = 0;
	unsigned int i;

	for (i = 0; i < p->nr_senders; i++)
		posted += READ_ONCE(p->s->sender[i].posted);
	stress_progress("%lu posts, %lu handled", posted,
			READ_ONCE(p->s->target.handled));
}

/* Until all have been posted; or the time is up, and the senders told so */
static void senders_wait(struct post_vm *p)
{
	u64 over = 0, handled = 0, moved = now_ms();
	unsigned int i;

	while (__atomic_load_n(&p->s->senders_done, __ATOMIC_ACQUIRE) <
	       p->nr_senders) {
		sleep_ms(10);
		on_progress(p);
		if (!over && !stress_time_left()) {
			over = 1;
			for (i = 0; i < p->nr_senders; i++)
				WRITE_ONCE(p->s->sender[i].quota, 0);
		}
		if (READ_ONCE(p->s->target.handled) != handled)
			moved = now_ms();
		handled = READ_ONCE(p->s->target.handled);
		if (now_ms() - moved > 2 * LIMIT_MS)
			stress_die("%s: nothing handled for %u ms, at %lu",
				   p->cfg.name, 2 * LIMIT_MS, handled);
	}
}

/* Until everything posted has been handled, counted for each vector */
static void drain(struct post_vm *p, struct post_count *c)
{
	u64 start = now_ms();

	do {
		sleep_ms(1);
		post_vm_account(p, c);
	} while (c->lost && now_ms() - start < p->cfg.stall_ms);
}

static bool verdict(struct post_vm *p, struct nested_shared *n,
		    struct post_count *c)
{
	stress_note("%lu entries of L2, exits: %lu hypercalls, %lu CPUIDs, %lu interrupts",
		    n->entries, n->hypercalls, n->cpuids, n->intr_exits);
	stress_note("longest wait %lu ticks, late is above %lu; %lu ticks computed",
		    c->res.late_max_wait, p->s->late_bound,
		    p->s->target.compute);
	stress_note("handled: %lu in L1, %lu in L2", n->in_l1, n->in_l2);
	if (nested_has_pi(n->mode))
		stress_note("L2's: %lu posts, %lu late; notified in L1: %lu; synced by L1: %lu",
			    p->s->sender[0].posted, p->s->sender[0].res.late,
			    n->nv_in_l1, n->synced);
	if (c->stalled)
		stress_note("%lu senders waited %lu ms for a vector to be handled",
			    c->stalled, p->cfg.stall_ms);
	return !c->lost && !c->res.late && !c->stalled &&
	       !c->doubled && c->posted && n->hypercalls &&
	       p->s->target.compute > p->s->late_bound &&
	       (!nested_has_pi(n->mode) || n->in_l2 > n->synced);
}

static unsigned int host_senders(enum nested_mode mode)
{
	if (mode == VMX_POSTED)
		return 0;
	return is_vmx(mode) ? 2 : 1;
}

static struct post_setup setup_of(enum nested_mode mode)
{
	struct post_setup cfg = {
		.name = mode_names[mode],
		.workload = POST_COMPUTE,
		.senders = VCPU_SENDERS,
		.host_senders = host_senders(mode),
		.posts = stress.count ?: UINT32_MAX,
		.seed = stress.seed,
		.gap_max = is_vmx(mode) ? VMX_GAP : SVM_GAP,
		.exit_gap_max = is_vmx(mode) ? 5000 : 50000,
		.long_every = 8,
		.stall_ms = LIMIT_MS / 2,
		.timeout_s = 2 * LIMIT_MS / 1000,
		.no_samples = true,
	};

	return cfg;
}

static void run(enum nested_mode mode)
{
	long long sent = count_read("notify_sent"), elided = count_read("notify_elided");
	struct post_setup cfg = setup_of(mode);
	struct nested_shared *n;
	struct post_count c;
	struct post_vm p;
	u64 start;
	bool ok;

	if (!stress_case_begin(mode_names[mode]) || !possible(mode))
		return;
	post_vm_create(&p, &cfg, 64);
	n = nested_setup(&p, mode);
	post_vm_start(&p);
	start = now_us();
	post_vm_go(&p);
	senders_wait(&p);
	start = now_us() - start;
	drain(&p, &c);
	WRITE_ONCE(n->stop, 1);
	post_vm_stop(&p);
	post_vm_harvest(&p, &c);
	ok = verdict(&p, n, &c);
	if (sent >= 0)
		stress_note("notify_sent %lld, notify_elided %lld",
			    count_read("notify_sent") - sent,
			    count_read("notify_elided") - elided);
	stress_note("rate %.0f posts/s", c.posted * 1e6 / start);
	stress_case(ok, "posts %lu lost %lu doubled %lu late %lu", c.posted, c.lost, c.doubled,
		    c.res.late);
	post_vm_free(&p);
}

int main(int argc, char **argv)
{
	static const struct stress_options defaults = { 12, 0, 1 };
	int mode;

	stress_init(argc, argv,
		    "Interrupts posted to a vCPU that runs L2 are neither lost nor late.\n"
		    "COUNT: of posts, for each case.", &defaults);
	stress_plan(NR_NESTED_MODES);
	for (mode = 0; mode < NR_NESTED_MODES; mode++)
		run(mode);
	return stress_end();
}
