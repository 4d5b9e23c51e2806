// SPDX-License-Identifier: GPL-2.0
/*
 * The guest's side of asynchronous page faults: what MSR_KVM_ASYNC_PF_EN, _INT and
 * _ACK do and refuse, as docs/apf.md says.
 */
#include <string.h>

#include <asm/kvm_para.h>

#include "kvm_util.h"
#include "processor.h"

#include "apf-vm.h"
#include "apf_abi.h"
#include "stress.h"

#define READ_ONLY_SLOT	3

static const char * const names[ABI_NR_CASES] = {
	[ABI_HIDDEN]	= "MSRs hidden without CPUID",
	[ABI_RESERVED]	= "reserved bits and vectors",
	[ABI_NO_VECTOR]	= "no vector yet",
	[ABI_LEGACY]	= "without bit 3",
	[ABI_CHANNELS]	= "flags and token apart",
	[ABI_BAD_AREA]	= "area that cannot be",
};

static bool asked(struct apf_host_vcpu *v, u32 what)
{
	struct kvm_vcpu *vcpu = v->vcpu;

	switch (what) {
	case ABI_ASK_HOLD:
		__atomic_store_n(&v->a->hold, true, __ATOMIC_SEQ_CST);
		return true;
	case ABI_ASK_GIVE:
		__atomic_store_n(&v->a->hold, false, __ATOMIC_SEQ_CST);
		return true;
	case ABI_ASK_SET_VECTOR:
		vcpu_set_msr(vcpu, MSR_KVM_ASYNC_PF_INT, 5);
		return true;
	}
	return false;
}

static void hide(struct kvm_vcpu *vcpu)
{
	vcpu_enable_cap(vcpu, KVM_CAP_ENFORCE_PV_FEATURE_CPUID, 1);
	vcpu_clear_cpuid_entry(vcpu, KVM_CPUID_FEATURES);
}

static struct apf_abi *setup_abi(struct apf_vm *a, enum abi_case test)
{
	struct apf_abi *abi;
	gva_t gva;

	gva = vm_alloc(a->vm, sizeof(*abi), KVM_UTIL_MIN_VADDR);
	abi = addr_gva2hva(a->vm, gva);
	memset(abi, 0, sizeof(*abi));
	write_guest_global(a->vm, apf_abi, (struct apf_abi *)gva);
	abi->test = test;
	vm_install_exception_handler(a->vm, PF_VECTOR, apf_abi_fault);
	vm_install_exception_handler(a->vm, APF_VEC, apf_abi_ready);
	vm_userspace_mem_region_add(a->vm, VM_MEM_SRC_ANONYMOUS, ABI_READ_ONLY_GPA,
				    READ_ONLY_SLOT, 1, KVM_MEM_READONLY);
	if (test == ABI_HIDDEN)
		hide(a->v[0].vcpu);
	return abi;
}

static bool more(struct apf_vm *a)
{
	(void)a;
	return true;
}

static void run_case(enum abi_case test)
{
	const struct apf_setup setup = {
		.name = names[test],
		.nr_vcpus = 1,
		.seed = stress.seed,
		.pages = 16,
		.max_out = 1,
		.stall_ms = 60000,
		.guest_main = apf_abi_main,
		.asked = asked,
	};
	static struct apf_vm a;
	struct apf_abi *abi;

	apf_vm_create(&a, &setup);
	abi = setup_abi(&a, test);
	apf_vm_start(&a);
	apf_vm_run(&a, more);
	stress_case(abi->checks && !abi->failed && !a.stalled,
		    "checks %lu stalled %lu, first failure in line %lu", abi->checks, a.stalled,
		    abi->failed);
	apf_vm_free(&a);
}

static const char help_text[] =
"What the guest's MSRs of asynchronous page faults do and refuse.  Runs once,\n"
"whatever -d and -n say.";

int main(int argc, char **argv)
{
	const struct stress_options defaults = { .seconds = 60, .seed = 1 };
	unsigned int i;

	stress_init(argc, argv, help_text, &defaults);
	stress_plan(ABI_NR_CASES);
	for (i = 0; i < ABI_NR_CASES; i++)
		if (stress_case_begin(names[i]))
			run_case(i);
	return stress_end();
}
