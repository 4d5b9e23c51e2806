// SPDX-License-Identifier: GPL-2.0
/*
 * Asynchronous page faults while L2 runs.  Where L1 has asked for it, a page that is
 * not there is a #PF VM-Exit of L2; else L1 is told nothing, and the vCPU waits.  In
 * no case is there a #PF in L2, and userspace, which saves and restores the vCPU's
 * events whenever it can, never sees one pending.
 */
#include <errno.h>
#include <pthread.h>
#include <string.h>

/* It comes with the patches on pages that are not present. */
#if __has_include("asm/kvm_apf.h")
#include <asm/kvm_apf.h>
#endif

#include "kvm_util.h"
#include "processor.h"
#include "svm_util.h"
#include "vmx.h"

#include "apf-vm.h"
#include "apf_nested.h"
#include "stress.h"

#ifdef MSR_KVM_ASYNC_PF_EXT
#define NR_CASES	4
#else
#define NR_CASES	3
#endif

static struct {
	u64 kicks, exposed, events;
} now;

static void interrupted(struct apf_host_vcpu *v)
{
	struct kvm_vcpu_events events;

	vcpu_events_get(v->vcpu, &events);
	now.exposed += (events.exception.pending || events.exception.injected) &&
		       events.exception.nr == PF_VECTOR;
	vcpu_events_set(v->vcpu, &events);
	now.kicks++;
}

static bool more(struct apf_vm *a)
{
	stress_progress("touched %lu announced %lu ready %lu kicks %lu", a->v[0].g->touched,
			a->v[0].g->announced, a->v[0].g->ready, now.kicks);
	return stress_time_left() && (!now.events || a->v[0].g->touched < now.events);
}

static struct apf_nested *setup_nested(struct apf_vm *a, bool vmexits, bool marked)
{
	gva_t gva, pages;
	struct apf_nested *n;

	gva = vm_alloc(a->vm, sizeof(*n), KVM_UTIL_MIN_VADDR);
	n = addr_gva2hva(a->vm, gva);
	memset(n, 0, sizeof(*n));
	write_guest_global(a->vm, apf_nested, (struct apf_nested *)gva);
	n->vmx = host_cpu_is_intel;
	n->vmexits = vmexits;
#ifdef MSR_KVM_ASYNC_PF_EXT
	if (marked) {
		n->ext_msr = MSR_KVM_ASYNC_PF_EXT;
		n->ext = KVM_ASYNC_PF_EXT_MARK;
		n->error_code = KVM_ASYNC_PF_NOT_PRESENT;
	}
#endif
	if (n->vmx)
		vcpu_alloc_vmx(a->vm, &pages);
	else
		vcpu_alloc_svm(a->vm, &pages);
	n->pages = pages;
	vm_install_exception_handler(a->vm, PF_VECTOR, apf_nested_fault);
	vm_install_exception_handler(a->vm, APF_VEC, apf_nested_ready);
	return n;
}

static void run_case(bool vmexits, bool marked, bool kick)
{
	const struct apf_setup setup = {
		.name = "nested",
		.nr_vcpus = 1,
		.seed = stress.seed,
		.pages = 64,
		.max_out = 1,
		.delay_max = 40000,
		.guest_main = apf_nested_main,
		.interrupted = kick ? interrupted : NULL,
		.kick_max = !kick ? 0 : host_cpu_is_intel ? 60000 : 4000000,
	};
	static struct apf_vm a;
	struct apf_count c;
	struct apf_nested *n;

	now.kicks = 0;
	now.exposed = 0;
	apf_vm_create(&a, &setup);
	n = setup_nested(&a, vmexits, marked);
	apf_vm_start(&a);
	apf_vm_run(&a, more);
	apf_vm_count(&a, &c);
	stress_case(c.touched && !c.lost && !c.doubled && !c.wrong && !n->wrong && !now.exposed &&
		    !a.stalled && c.announced == c.ready && !c.announced == !vmexits,
		    "touched %lu announced %lu ready %lu lost %lu doubled %lu wrong %lu exposed %lu stalled %lu kicks %lu",
		    c.touched, c.announced, c.ready, c.lost, c.doubled, c.wrong + n->wrong,
		    now.exposed, a.stalled, now.kicks);
	apf_vm_free(&a);
}

static const char help_text[] =
"Asynchronous page faults while L2 runs: exits to L1 or none, never a #PF in L2,\n"
"and none that userspace could save.  COUNT is the number of pages touched, over\n"
"all cases.";

int main(int argc, char **argv)
{
	const struct stress_options defaults = { .seconds = 15, .seed = 1 };

	stress_init(argc, argv, help_text, &defaults);
	if (!kvm_cpu_has(host_cpu_is_intel ? X86_FEATURE_VMX : X86_FEATURE_SVM))
		stress_skip_all("KVM has no nested virtualization here: load it with nested=1");
	now.events = (stress.count + NR_CASES - 1) / NR_CASES;
	stress_plan(NR_CASES);
	if (stress_case_begin("exits to L1"))
		run_case(true, false, false);
	if (stress_case_begin("exits to L1, events saved and restored"))
		run_case(true, false, true);
	if (stress_case_begin("L1 wants no exits"))
		run_case(false, false, true);
	if (NR_CASES > 3 && stress_case_begin("exits to L1 that mark themselves"))
		run_case(true, true, true);
	return stress_end();
}
