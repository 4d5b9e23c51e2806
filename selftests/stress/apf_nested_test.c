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

#include "kvm_util.h"
#include "processor.h"
#include "svm_util.h"
#include "vmx.h"

#include "apf-vm.h"
#include "apf_nested.h"
#include "stress.h"

static struct {
	u64 kicks, exposed, events;
	bool stop;
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

static void *kicker_fn(void *data)
{
	struct apf_vm *a = data;
	u64 rnd = rnd_stream(a->cfg.seed, 7), start, ticks;

	pin_self_to_cpu(1);
	while (!__atomic_load_n(&now.stop, __ATOMIC_ACQUIRE)) {
		start = rdtsc();
		ticks = rnd_below(&rnd, host_cpu_is_intel ? 60000 : 4000000);
		while (rdtsc() - start < ticks)
			;
		if (!__atomic_load_n(&a->v[0].ended, __ATOMIC_ACQUIRE))
			pthread_kill(a->v[0].thread, POST_SIGNAL);
	}
	return NULL;
}

static bool more(struct apf_vm *a)
{
	stress_progress("touched %lu announced %lu ready %lu kicks %lu", a->v[0].g->touched,
			a->v[0].g->announced, a->v[0].g->ready, now.kicks);
	return stress_time_left() && (!now.events || a->v[0].g->touched < now.events);
}

static struct apf_nested *setup_nested(struct apf_vm *a, bool vmexits)
{
	gva_t gva, pages;
	struct apf_nested *n;

	gva = vm_alloc(a->vm, sizeof(*n), KVM_UTIL_MIN_VADDR);
	n = addr_gva2hva(a->vm, gva);
	memset(n, 0, sizeof(*n));
	write_guest_global(a->vm, apf_nested, (struct apf_nested *)gva);
	n->vmx = host_cpu_is_intel;
	n->vmexits = vmexits;
	if (n->vmx)
		vcpu_alloc_vmx(a->vm, &pages);
	else
		vcpu_alloc_svm(a->vm, &pages);
	n->pages = pages;
	vm_install_exception_handler(a->vm, PF_VECTOR, apf_nested_fault);
	vm_install_exception_handler(a->vm, APF_VEC, apf_nested_ready);
	return n;
}

static void run_case(bool vmexits, bool kick)
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
	};
	static struct apf_vm a;
	struct apf_count c;
	struct apf_nested *n;
	pthread_t kicker;

	now.kicks = 0;
	now.exposed = 0;
	now.stop = false;
	apf_vm_create(&a, &setup);
	n = setup_nested(&a, vmexits);
	apf_vm_start(&a);
	if (kick)
		thread_start(&kicker, -1, kicker_fn, &a);
	apf_vm_run(&a, more);
	__atomic_store_n(&now.stop, true, __ATOMIC_RELEASE);
	if (kick)
		pthread_join(kicker, NULL);
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
	now.events = (stress.count + 2) / 3;
	stress_plan(3);
	if (stress_case_begin("exits to L1"))
		run_case(true, false);
	if (stress_case_begin("exits to L1, events saved and restored"))
		run_case(true, true);
	if (stress_case_begin("L1 wants no exits"))
		run_case(false, true);
	return stress_end();
}
