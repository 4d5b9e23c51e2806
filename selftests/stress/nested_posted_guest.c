// SPDX-License-Identifier: GPL-2.0
/*
 * The guest of nested_posted_test.c: L1, which runs L2 on vCPU 0, and L2, which
 * computes.  Both use the post benchmark's accounting (post-guest.c).  Built
 * without red zone and SSE: interrupts come in on the running stack.
 */
#include "apic.h"
#include "kvm_util.h"
#include "processor.h"
#include "svm_util.h"
#include "vmx.h"

#include "l2-setup.h"
#include "nested_enter.h"
#include "nested_posted.h"

#define X2APIC_MSR(reg)	(APIC_BASE_MSR + ((reg) >> 4))
#define PI_ON		0
#define INTR_VALID	BIT(31)
#define INTR_VECTOR	0xff
#define CPUID_LEN	2
#define HYPERCALL_LEN	3

struct nested_shared *nested_shared;

static bool in_l2;

void nested_irq(struct ex_regs *regs)
{
	struct nested_shared *n = nested_shared;

	if (in_l2)
		n->in_l2++;
	else
		n->in_l1++;
	post_guest_irq(regs);
}

/* What it is about is in the PIR, and L1 looks there before it enters L2. */
void nested_nv_irq(struct ex_regs *regs)
{
	(void)regs;
	nested_shared->nv_in_l1++;
	wrmsr(X2APIC_MSR(APIC_EOI), 0);
}

/* Like that of the post benchmark: only undisturbed steps count as computed */
static void compute(struct post_shared *s, u64 ticks)
{
	u64 last = rdtsc(), irqs = READ_ONCE(s->target.irqs);
	u64 done = 0, steps;

	for (steps = 0; done < ticks && steps < ticks; steps++) {
		u64 now = rdtsc(), step = now - last;
		u64 irqs_now = READ_ONCE(s->target.irqs);

		if (irqs_now == irqs && step < s->gap_cap) {
			done += step;
			WRITE_ONCE(s->target.compute, s->target.compute + step);
		}
		last = now;
		irqs = irqs_now;
		if (READ_ONCE(nested_shared->stop))
			break;
	}
}

static void compute_some(struct post_shared *s, u64 *rnd)
{
	if (!rnd_below(rnd, s->long_every))
		compute(s, s->long_ticks);
	else
		compute(s, rnd_below(rnd, s->exit_gap_max + 1));
}

static void hypercall(void)
{
	if (nested_shared->mode < NR_VMX_MODES)
		asm volatile("vmcall" ::: "memory");
	else
		asm volatile("vmmcall" ::: "memory");
}

/* L2, on a stack of its own, for ever; L1 sees that it is to stop */
static void l2_main(void)
{
	struct post_shared *s = post_guest_shared;
	u64 rnd = rnd_stream(s->seed, 100);
	u32 eax, ebx, ecx, edx;

	for (;;) {
		compute_some(s, &rnd);
		if (READ_ONCE(nested_shared->stop) || rnd_next(&rnd) >> 63)
			hypercall();
		else
			cpuid(0, &eax, &ebx, &ecx, &edx);
	}
}

static void *l2_stack_top(struct nested_shared *n)
{
	return &n->stack[ARRAY_SIZE(n->stack) - 1];
}

/* As the CPU does on a notification, for what came while L2 did not run */
static void pi_sync(struct nested_shared *n)
{
	u64 pir, status = vmreadz(GUEST_INTR_STATUS);
	u32 rvi = status & 0xff;
	int i, bit;

	if (!__atomic_fetch_and(&n->pi->control, ~BIT_ULL(PI_ON),
				__ATOMIC_SEQ_CST))
		return;
	for (i = 0; i < 4; i++) {
		pir = __atomic_exchange_n(&n->pi->pir[i], 0, __ATOMIC_SEQ_CST);
		for (; pir; pir &= pir - 1) {
			bit = i * 64 + __builtin_ctzll(pir);
			*(u32 *)(n->vapic + APIC_IRR + bit / 32 * 0x10) |=
				BIT(bit % 32);
			if ((u32)bit > rvi)
				rvi = bit;
			n->synced++;
		}
	}
	vmwrite(GUEST_INTR_STATUS, (status & 0xff00) | rvi);
}

static void window(void)
{
	asm volatile("sti; nop; cli" ::: "memory");
}

/* What IDT delivery would have done */
static void dispatch(u64 info)
{
	struct ex_regs regs = { .vector = info & INTR_VECTOR };

	GUEST_ASSERT(info & INTR_VALID);
	if (regs.vector == NESTED_NV)
		nested_nv_irq(&regs);
	else
		nested_irq(&regs);
}

static void vmx_handle(struct nested_shared *n)
{
	u64 reason = vmreadz(VM_EXIT_REASON);

	switch (reason) {
	case EXIT_REASON_EXTERNAL_INTERRUPT:
		n->intr_exits++;
		if (n->mode == VMX_ACK || nested_has_pi(n->mode))
			dispatch(vmreadz(VM_EXIT_INTR_INFO));
		return;
	case EXIT_REASON_VMCALL:
		n->hypercalls++;
		break;
	case EXIT_REASON_CPUID:
		n->cpuids++;
		break;
	default:
		GUEST_FAIL("L2 ended with VM-Exit %lu", reason);
	}
	vmwrite(GUEST_RIP, vmreadz(GUEST_RIP) +
			   vmreadz(VM_EXIT_INSTRUCTION_LEN));
}

static void vmx_posted_setup(struct nested_shared *n)
{
	u64 cpu = vmreadz(CPU_BASED_VM_EXEC_CONTROL);

	vmwrite(PIN_BASED_VM_EXEC_CONTROL,
		vmreadz(PIN_BASED_VM_EXEC_CONTROL) | PIN_BASED_POSTED_INTR);
	vmwrite(CPU_BASED_VM_EXEC_CONTROL,
		cpu | CPU_BASED_TPR_SHADOW | CPU_BASED_USE_MSR_BITMAPS |
		CPU_BASED_ACTIVATE_SECONDARY_CONTROLS);
	vmwrite(SECONDARY_VM_EXEC_CONTROL,
		SECONDARY_EXEC_VIRTUALIZE_X2APIC_MODE |
		SECONDARY_EXEC_APIC_REGISTER_VIRT |
		SECONDARY_EXEC_VIRTUAL_INTR_DELIVERY);
	vmwrite(VIRTUAL_APIC_PAGE_ADDR, n->vapic_gpa);
	vmwrite(POSTED_INTR_DESC_ADDR, n->pi_gpa);
	vmwrite(POSTED_INTR_NV, NESTED_NV);
	vmwrite(EOI_EXIT_BITMAP0, 0);
	vmwrite(EOI_EXIT_BITMAP1, 0);
	vmwrite(EOI_EXIT_BITMAP2, 0);
	vmwrite(EOI_EXIT_BITMAP3, 0);
}

static void vmx_setup(struct nested_shared *n)
{
	struct vmx_pages *vmx = (void *)n->pages;

	GUEST_ASSERT(prepare_for_vmx_operation(vmx));
	GUEST_ASSERT(load_vmcs(vmx));
	l2_vmx_setup(vmx, l2_main, l2_stack_top(n));
	vmwrite(GUEST_RFLAGS, 0x202);
	vmwrite(CPU_BASED_VM_EXEC_CONTROL,
		vmreadz(CPU_BASED_VM_EXEC_CONTROL) | CPU_BASED_USE_MSR_BITMAPS);
	if (n->mode != VMX_DIRECT)
		vmwrite(PIN_BASED_VM_EXEC_CONTROL,
			vmreadz(PIN_BASED_VM_EXEC_CONTROL) |
			PIN_BASED_EXT_INTR_MASK);
	if (n->mode == VMX_ACK || nested_has_pi(n->mode))
		vmwrite(VM_EXIT_CONTROLS, vmreadz(VM_EXIT_CONTROLS) |
					  VM_EXIT_ACK_INTR_ON_EXIT);
	if (nested_has_pi(n->mode))
		vmx_posted_setup(n);
}

/*
 * L1's own computing: interrupts for L1 get through there, L2's do not, so with
 * a descriptor of L2's there is none.
 */
static void l1_rest(struct post_shared *s, struct nested_shared *n, u64 *rnd)
{
	window();
	if (nested_has_pi(n->mode) || rnd_below(rnd, 4))
		return;
	asm volatile("sti" ::: "memory");
	compute(s, rnd_below(rnd, s->exit_gap_max + 1));
	asm volatile("cli" ::: "memory");
}

static void vmx_run(struct post_shared *s, struct nested_shared *n)
{
	u64 rnd = rnd_stream(s->seed, 101), launched = 0;
	struct gprs gprs = { 0 };

	while (!READ_ONCE(n->stop)) {
		if (nested_has_pi(n->mode))
			pi_sync(n);
		WRITE_ONCE(in_l2, true);
		if (vmx_enter(&gprs, launched))
			GUEST_FAIL("L2 cannot be entered: VM-instruction error %lu",
				   vmreadz(VM_INSTRUCTION_ERROR));
		WRITE_ONCE(in_l2, false);
		launched = 1;
		n->entries++;
		vmx_handle(n);
		l1_rest(s, n, &rnd);
	}
}

static void svm_setup(struct nested_shared *n)
{
	struct svm_test_data *svm = (void *)n->pages;
	struct vmcb_control_area *control = &svm->vmcb->control;

	l2_svm_setup(svm, l2_main, l2_stack_top(n));
	svm->vmcb->save.rflags = 0x202;
	control->intercept |= BIT_ULL(INTERCEPT_CPUID);
	if (n->mode != SVM_DIRECT)
		control->intercept |= BIT_ULL(INTERCEPT_INTR);
	if (n->mode == SVM_MASKING)
		control->int_ctl = V_INTR_MASKING_MASK;
}

static void svm_handle(struct nested_shared *n, struct vmcb *vmcb)
{
	switch (vmcb->control.exit_code) {
	case SVM_EXIT_INTR:
		n->intr_exits++;
		break;
	case SVM_EXIT_VMMCALL:
		n->hypercalls++;
		vmcb->save.rip += HYPERCALL_LEN;
		break;
	case SVM_EXIT_CPUID:
		n->cpuids++;
		vmcb->save.rip += CPUID_LEN;
		break;
	default:
		GUEST_FAIL("L2 ended with #VMEXIT %#x",
			   (u32)vmcb->control.exit_code);
	}
}

static void svm_run(struct post_shared *s, struct nested_shared *n)
{
	struct svm_test_data *svm = (void *)n->pages;
	u64 rnd = rnd_stream(s->seed, 101);
	struct gprs gprs = { 0 };

	while (!READ_ONCE(n->stop)) {
		WRITE_ONCE(in_l2, true);
		svm_enter(&gprs, svm->vmcb_gpa);
		WRITE_ONCE(in_l2, false);
		n->entries++;
		svm_handle(n, svm->vmcb);
		l1_rest(s, n, &rnd);
	}
}

static void wait_for_go(struct post_shared *s)
{
	__atomic_add_fetch(&s->ready, 1, __ATOMIC_SEQ_CST);
	while (!__atomic_load_n(&s->go, __ATOMIC_ACQUIRE))
		;
}

void nested_target(struct post_shared *s, u64 vcpu)
{
	struct nested_shared *n = nested_shared;

	(void)vcpu;
	x2apic_enable();
	if (n->mode < NR_VMX_MODES)
		vmx_setup(n);
	else
		svm_setup(n);
	wait_for_go(s);
	s->t_start = rdtsc();
	if (n->mode < NR_VMX_MODES)
		vmx_run(s, n);
	else
		svm_run(s, n);
	GUEST_DONE();
}

static void send_pi(void *arg, u32 vector)
{
	struct nested_pi *pi = arg;

	__atomic_fetch_or(&pi->pir[vector / 64], BIT_ULL(vector % 64),
			  __ATOMIC_SEQ_CST);
	if (__atomic_fetch_or(&pi->control, BIT_ULL(PI_ON), __ATOMIC_SEQ_CST) &
	    BIT_ULL(PI_ON))
		return;
	wrmsr(X2APIC_MSR(APIC_ICR), APIC_INT_ASSERT | APIC_DEST_PHYSICAL |
				    APIC_DM_FIXED | NESTED_NV);
}

void nested_pi_sender(struct post_shared *s, u64 vcpu)
{
	x2apic_enable();
	post_sender_run(s, vcpu - 1, NULL, send_pi, nested_shared->pi, 0);
	GUEST_DONE();
}
