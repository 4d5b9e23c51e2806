// SPDX-License-Identifier: GPL-2.0
/*
 * The guest's predicate: can it sleep?  apf_pred.h has the interface.
 *
 * Read from the guest's memory once, verified there, and kept as it was then.  Its
 * words are read again for each verdict, without faulting: a verdict takes at most
 * KVM_ASYNC_PF_PRED_LOADS reads.
 */
#include <linux/kvm_host.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/uaccess.h>

#include "smm.h"
#include "x86.h"

#include "apf_ext.h"
#include "apf_pred.h"

struct kvm_apf_predicate {
	unsigned int nr;
	struct kvm_async_pf_load loads[KVM_ASYNC_PF_PRED_LOADS];
};

static bool load_is_valid(const struct kvm_async_pf_load *load, unsigned int i)
{
	u64 word = load->size == sizeof(u32) ? U32_MAX : U64_MAX;

	if (load->size != sizeof(u32) && load->size != sizeof(u64))
		return false;

	if (load->base > i || (!load->base && !IS_ALIGNED(load->address, load->size)))
		return false;

	return !(load->mask & ~word) && !(load->value & ~load->mask) &&
	       !memchr_inv(load->reserved, 0, sizeof(load->reserved));
}

/* With one look at each byte: the guest may write there meanwhile. */
static bool read_predicate(struct kvm *kvm, gpa_t gpa, struct kvm_apf_predicate *p)
{
	struct kvm_async_pf_predicate head;
	unsigned int i;

	if (kvm_read_guest(kvm, gpa, &head, sizeof(head)))
		return false;

	if (head.magic != KVM_ASYNC_PF_PRED_MAGIC ||
	    head.version != KVM_ASYNC_PF_PRED_VERSION || head.reserved ||
	    !head.nr_loads || head.nr_loads > ARRAY_SIZE(p->loads))
		return false;

	p->nr = head.nr_loads;
	if (kvm_read_guest(kvm, gpa + sizeof(head), p->loads, p->nr * sizeof(p->loads[0])))
		return false;

	for (i = 0; i < p->nr; i++) {
		if (!load_is_valid(&p->loads[i], i))
			return false;
	}
	return true;
}

/*
 * The list that the MSR names takes the place of the one before.  1: it is none; -ENOMEM.
 * If a signal comes first there is no list, and KVM_RUN is entered again to read it.
 */
static int take_predicate(struct kvm_vcpu *vcpu)
{
	gpa_t gpa = (vcpu->arch.apf.msr_ext_val & KVM_ASYNC_PF_EXT_PAGE) + KVM_ASYNC_PF_PRED_OFFSET;
	struct kvm_apf_predicate found = {}, *p = NULL;
	int r;

	r = kvm_apf_fault_in(gfn_to_hva_prot(vcpu->kvm, gpa_to_gfn(gpa), NULL), 0);
	if (r && r != -EINTR)
		return 1;

	if (!r) {
		if (!read_predicate(vcpu->kvm, gpa, &found))
			return 1;

		p = kmemdup(&found, sizeof(found), GFP_KERNEL_ACCOUNT);
		if (!p)
			return -ENOMEM;
	}

	kvm_apf_free_predicate(vcpu);
	vcpu->arch.apf.predicate = p;
	return 0;
}

int kvm_apf_set_ext_page(struct kvm_vcpu *vcpu, u64 data, bool host_initiated)
{
	u64 old = vcpu->arch.apf.msr_ext_val;
	int r = 0;

	if (kvm_apf_set_ext(vcpu, data, host_initiated))
		return 1;

	if (data & KVM_ASYNC_PF_EXT_PRED && !host_initiated)
		r = take_predicate(vcpu);
	else
		kvm_apf_free_predicate(vcpu);

	if (r)
		vcpu->arch.apf.msr_ext_val = old;
	return r;
}

void kvm_apf_load_predicate(struct kvm_vcpu *vcpu)
{
	take_predicate(vcpu);
}

/* If it is present.  Not torn, but of eight bytes on a 32-bit host. */
static bool read_word(struct kvm *kvm, gpa_t gpa, unsigned int size, u64 *word)
{
	unsigned long hva = gfn_to_hva_prot(kvm, gpa_to_gfn(gpa), NULL);
	u32 half;
	int r;

	if (kvm_is_error_hva(hva))
		return false;

	hva += offset_in_page(gpa);
	pagefault_disable();
	if (size == sizeof(u64)) {
		r = get_user(*word, (u64 __user *)hva);
	} else {
		r = get_user(half, (u32 __user *)hva);
		*word = half;
	}
	pagefault_enable();
	return !r;
}

static bool holds(struct kvm *kvm, const struct kvm_apf_predicate *p)
{
	u64 words[KVM_ASYNC_PF_PRED_LOADS];
	const struct kvm_async_pf_load *load;
	unsigned int i;
	gpa_t gpa;

	for (i = 0; i < p->nr; i++) {
		load = &p->loads[i];
		gpa = load->address + (load->base ? words[load->base - 1] : 0);
		if (!IS_ALIGNED(gpa, load->size) ||
		    !read_word(kvm, gpa, load->size, &words[i]) ||
		    (words[i] & load->mask) != load->value)
			return false;
	}
	return true;
}

bool kvm_apf_can_sleep(struct kvm_vcpu *vcpu)
{
	const struct kvm_apf_predicate *p = vcpu->arch.apf.predicate;

	vcpu->arch.apf.can_sleep = p && kvm_apf_marks(vcpu) && !is_smm(vcpu) &&
				   vcpu->arch.apf.msr_ext_val & KVM_ASYNC_PF_EXT_PRED &&
				   holds(vcpu->kvm, p);
	return vcpu->arch.apf.can_sleep;
}

bool kvm_apf_forbidden(struct kvm_vcpu *vcpu)
{
	bool masked;
	int cpl;

	if (!kvm_apf_marks(vcpu) || is_guest_mode(vcpu))
		return false;

	masked = !kvm_x86_call(interrupt_allowed)(vcpu, false);
	cpl = kvm_x86_call(get_cpl)(vcpu);
	if (!masked && !is_smm(vcpu) && (cpl || vcpu->arch.apf.can_sleep))
		return false;

	vcpu_err(vcpu, "a page is announced where the guest cannot sleep: CPL %d, interrupts %s, rIP 0x%lx\n",
		 cpl, masked ? "held back" : "enabled", kvm_rip_read(vcpu));
	return true;
}

void kvm_apf_free_predicate(struct kvm_vcpu *vcpu)
{
	kfree(vcpu->arch.apf.predicate);
	vcpu->arch.apf.predicate = NULL;
}
