// SPDX-License-Identifier: GPL-2.0
/*
 * The guests of vm_fail_test.c: two that compute and exit, and an L1 for each vendor whose
 * entries of L2 fail as they are asked to.  Built without red zone and SSE: interrupts
 * come in on the running stack.
 */
#include "apic.h"
#include "kvm_util.h"
#include "processor.h"
#include "svm_util.h"
#include "vmx.h"

#include "l2-setup.h"
#include "vm_fail.h"

#define BAD_TPR		0x10	/* bits 31:4 of the TPR threshold must be 0 */
#define RACE_TPR	8	/* must not be above VTPR's bits 7:4 */

/* VM-instruction errors */
#define ERROR_CONTROL	7
#define ERROR_HOST	8

struct fail_shared *fail_shared;

/*
 * With V_INTR_MASKING and no intercept it is L1's IF that lets interrupts into
 * L2, whose handler cannot hold back the next one after its EOI.  Each that is
 * pending by then is one more handler on the stack (some 200 bytes).  There are
 * 32 vectors, and the poster uses one again when its handler has counted: on a
 * busy machine only its pauses bound the depth.
 */
#define L2_STACK_WORDS	8192
#define L2_STACK_END	0x6b636174735f324cull
#define L2_STACK_SPARE	64	/* words that say how deep it was */

static u64 l2_stack[L2_STACK_WORDS] __aligned(16) = {
	[0 ... L2_STACK_SPARE - 1] = L2_STACK_END
};

static void take_interrupts(void)
{
	asm volatile("sti; nop; nop; cli" ::: "memory", "cc");
}

/* Until told to stop: computes, and goes to userspace once in a while */
void fail_guest_loop(void)
{
	x2apic_enable();
	GUEST_SYNC(0);
	asm volatile("sti\n\t"
		     "1: mov $64, %%ecx\n\t"
		     "2: incq %[loops]\n\t"
		     "dec %%ecx\n\t"
		     "jnz 2b\n\t"
		     "out %%al, %[port]\n\t"
		     "cmpq $0, %[stop]\n\t"
		     "je 1b\n\t"
		     "cli\n\t"
		     : [loops]"+m"(fail_shared->loops)
		     : [stop]"m"(fail_shared->stop), [port]"i"(FAIL_PORT)
		     : "rcx", "cc", "memory");
	GUEST_DONE();
}

/* The same without the way to userspace: exits are KVM's own, and signals */
void fail_guest_cpuid(void)
{
	u32 eax, ebx, ecx, edx;

	x2apic_enable();
	GUEST_SYNC(0);
	while (!READ_ONCE(fail_shared->stop)) {
		fail_shared->loops++;
		cpuid(0, &eax, &ebx, &ecx, &edx);
		take_interrupts();
	}
	GUEST_DONE();
}

/* L2 uses no register and no stack, whatever L1 leaves of them */
static __attribute__((naked)) void l2_vmcall(void)
{
	asm volatile("1: vmcall; jmp 1b");
}

static __attribute__((naked)) void l2_vmmcall(void)
{
	asm volatile("1: vmmcall; jmp 1b");
}

static __attribute__((naked)) void l2_port(void)
{
	asm volatile("1: out %%al, %[port]; vmcall; jmp 1b" :: [port]"i"(FAIL_PORT));
}

static void *l2_stack_top(void)
{
	return &l2_stack[L2_STACK_WORDS - 1];
}

/* One of the kinds asked for; GOOD is every other one */
static enum fail_kind next_kind(struct fail_shared *g, u64 *rnd)
{
	enum fail_kind kind = GOOD;

	if (rnd_next(rnd) >> 63)
		return GOOD;
	do {
		kind = rnd_below(rnd, NR_KINDS);
	} while (!(g->kinds & BIT(kind)));
	return kind;
}

static void check_stack(void)
{
	int i;

	for (i = 0; i < L2_STACK_SPARE; i++)
		GUEST_ASSERT_EQ(READ_ONCE(l2_stack[i]), L2_STACK_END);
}

static void ended(struct fail_shared *g, enum fail_kind kind, bool expected,
		  u64 reason, u64 error)
{
	if (expected) {
		g->done[kind]++;
		return;
	}
	g->wrong_kind = kind;
	g->wrong_reason = reason;
	g->wrong_error = error;
	WRITE_ONCE(g->wrong, g->wrong + 1);
}

/* Everything that a kind or an exit changes, as it must be for a good entry */
static void vmx_restore(u64 *rnd, u64 pin, u64 cpu)
{
	bool exiting = rnd_next(rnd) >> 63;

	vmwrite(PIN_BASED_VM_EXEC_CONTROL,
		pin | (exiting ? PIN_BASED_EXT_INTR_MASK : 0));
	vmwrite(CPU_BASED_VM_EXEC_CONTROL, cpu);
	vmwrite(CR3_TARGET_COUNT, 0);
	vmwrite(HOST_CR0, get_cr0());
	vmwrite(VMCS_LINK_POINTER, -1ull);
	vmwrite(GUEST_RIP, (u64)l2_vmcall);
	vmwrite(GUEST_RSP, (u64)l2_stack_top());
	vmwrite(GUEST_RFLAGS, rnd_next(rnd) >> 63 ? 0x202 : 2);
	vmwrite(GUEST_TR_AR_BYTES, 0x8b);
	vmwrite(GUEST_INTERRUPTIBILITY_INFO, 0);
}

static void vmx_break(struct fail_shared *g, enum fail_kind kind, u64 pin, u64 cpu)
{
	switch (kind) {
	case KVM_CONTROL:
		vmwrite(CR3_TARGET_COUNT, 5);
		break;
	case KVM_HOST:
		vmwrite(HOST_CR0, 0);
		break;
	case KVM_STATE:
		vmwrite(VMCS_LINK_POINTER, 1);
		break;
	case HW_CONTROL:
		vmwrite(CPU_BASED_VM_EXEC_CONTROL, cpu | CPU_BASED_TPR_SHADOW);
		vmwrite(VIRTUAL_APIC_PAGE_ADDR, g->vapic_gpa);
		vmwrite(TPR_THRESHOLD, BAD_TPR);
		break;
	case RACE_CONTROL:
		/*
		 * The CPU looks again at each entry of L2.  KVM loses what it injects into
		 * L2 with one that fails, stock KVM too: have it exit for interrupts.
		 */
		vmwrite(PIN_BASED_VM_EXEC_CONTROL, pin | PIN_BASED_EXT_INTR_MASK);
		vmwrite(CPU_BASED_VM_EXEC_CONTROL, cpu | CPU_BASED_TPR_SHADOW);
		vmwrite(VIRTUAL_APIC_PAGE_ADDR, g->vapic_gpa);
		vmwrite(TPR_THRESHOLD, RACE_TPR);
		break;
	case HW_STATE:
		vmwrite(GUEST_RFLAGS, 0);
		break;
	case PORT_IO:
		/* L1 does not look after an event that a triple fault cuts off. */
		vmwrite(GUEST_RFLAGS, 2);
		vmwrite(GUEST_RIP, (u64)l2_port);
		break;
	default:
		break;
	}
}

/* @error: the VM-instruction error, 0 if the entry ended in a VM-Exit */
static void vmx_judge(struct fail_shared *g, enum fail_kind kind, u64 error)
{
	u64 reason = error ? 0 : vmreadz(VM_EXIT_REASON);
	const u64 bad_state = EXIT_REASON_FAILED_VMENTRY |
			      EXIT_REASON_INVALID_STATE;

	if (kind == GOOD && g->none_enters)
		kind = HW_CONTROL;
	if (kind == RACE_CONTROL && error != ERROR_CONTROL)
		kind = GOOD;
	switch (kind) {
	case KVM_CONTROL:
	case HW_CONTROL:
	case RACE_CONTROL:
		ended(g, kind, error == ERROR_CONTROL,
		      reason, error);
		break;
	case KVM_HOST:
		ended(g, kind, error == ERROR_HOST,
		      reason, error);
		break;
	case KVM_STATE:
	case HW_STATE:
		ended(g, kind, !error && reason == bad_state, reason, error);
		break;
	default:
		if (!error && reason == EXIT_REASON_EXTERNAL_INTERRUPT)
			g->intr_exits++;
		else if (!error && kind == PORT_IO &&
			 reason == EXIT_REASON_TRIPLE_FAULT)
			g->triple++;
		else
			ended(g, kind, !error && reason == EXIT_REASON_VMCALL,
			      reason, error);
		break;
	}
}

/* VMLAUNCH or VMRESUME, whichever it must be; @launched follows */
static u64 vmx_enter(struct vmx_pages *vmx, u64 *rnd, bool *launched)
{
	if (*launched && !rnd_below(rnd, 4)) {
		GUEST_ASSERT(!vmclear(vmx->vmcs_gpa));
		GUEST_ASSERT(!vmptrld(vmx->vmcs_gpa));
		*launched = false;
	}
	if (*launched ? vmresume() : vmlaunch())
		return vmreadz(VM_INSTRUCTION_ERROR) ?: -1ull;
	if (!(vmreadz(VM_EXIT_REASON) & EXIT_REASON_FAILED_VMENTRY))
		*launched = true;
	return 0;
}

void fail_guest_vmx(struct vmx_pages *vmx)
{
	struct fail_shared *g = fail_shared;
	u64 rnd = rnd_stream(g->seed, 1), pin, cpu;
	bool launched = false;

	x2apic_enable();
	GUEST_ASSERT(prepare_for_vmx_operation(vmx));
	GUEST_ASSERT(load_vmcs(vmx));
	l2_vmx_setup(vmx, l2_vmcall, l2_stack_top());
	pin = vmreadz(PIN_BASED_VM_EXEC_CONTROL);
	cpu = vmreadz(CPU_BASED_VM_EXEC_CONTROL) | CPU_BASED_USE_MSR_BITMAPS;
	vmx_restore(&rnd, pin, cpu);
	g->none_enters = vmx_enter(vmx, &rnd, &launched) == ERROR_CONTROL;
	GUEST_SYNC(0);
	while (!READ_ONCE(g->stop)) {
		enum fail_kind kind = next_kind(g, &rnd);

		vmx_restore(&rnd, pin, cpu);
		vmx_break(g, kind, pin, cpu);
		vmx_judge(g, kind, vmx_enter(vmx, &rnd, &launched));
		take_interrupts();
		WRITE_ONCE(g->loops, g->loops + 1);
	}
	GUEST_DONE();
}

static void svm_restore(struct vmcb *vmcb, u64 *rnd)
{
	struct vmcb_control_area *control = &vmcb->control;

	control->asid = 1;
	control->event_inj = 0;
	control->intercept &= ~BIT_ULL(INTERCEPT_INTR);
	control->int_ctl = 0;
	if (rnd_next(rnd) >> 63)
		control->intercept |= BIT_ULL(INTERCEPT_INTR);
	if (rnd_next(rnd) >> 63)
		control->int_ctl = V_INTR_MASKING_MASK;
	vmcb->save.efer = rdmsr(MSR_EFER);
	vmcb->save.rip = (u64)l2_vmmcall;
	vmcb->save.rsp = (u64)l2_stack_top();
	vmcb->save.rflags = rnd_next(rnd) >> 63 ? 0x202 : 2;
}

static void svm_break(struct vmcb *vmcb, enum fail_kind kind)
{
	switch (kind) {
	case KVM_CONTROL:
		vmcb->control.asid = 0;
		break;
	case KVM_STATE:
		vmcb->save.efer &= ~EFER_SVME;
		break;
	case HW_STATE:
		/* An exception has no vector 2, that is NMI. */
		vmcb->control.event_inj = SVM_EVTINJ_VALID |
					  SVM_EVTINJ_TYPE_EXEPT | NMI_VECTOR;
		break;
	default:
		break;
	}
}

static void svm_judge(struct fail_shared *g, enum fail_kind kind, u32 code)
{
	if (kind != GOOD)
		ended(g, kind, code == (u32)SVM_EXIT_ERR, code, 0);
	else if (code == SVM_EXIT_INTR)
		g->intr_exits++;
	else
		ended(g, kind, code == SVM_EXIT_VMMCALL, code, 0);
}

/* GIF is 0 but for L2; IF is 1 then, as it holds interrupts of L1 back there */
static void svm_enter(u64 vmcb_gpa)
{
	asm volatile("push %%rbp\n\t"
		     "clgi; sti; vmrun %%rax; cli; stgi\n\t"
		     "pop %%rbp\n\t"
		     : "+a"(vmcb_gpa) :
		     : "rbx", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10",
		       "r11", "r12", "r13", "r14", "r15", "cc", "memory");
}

void fail_guest_svm(struct svm_test_data *svm)
{
	struct fail_shared *g = fail_shared;
	u64 rnd = rnd_stream(g->seed, 1);

	x2apic_enable();
	l2_svm_setup(svm, l2_vmmcall, l2_stack_top());
	GUEST_SYNC(0);
	while (!READ_ONCE(g->stop)) {
		enum fail_kind kind = next_kind(g, &rnd);

		svm_restore(svm->vmcb, &rnd);
		svm_break(svm->vmcb, kind);
		svm_enter(svm->vmcb_gpa);
		check_stack();
		svm_judge(g, kind, svm->vmcb->control.exit_code);
		take_interrupts();
		WRITE_ONCE(g->loops, g->loops + 1);
	}
	GUEST_DONE();
}
