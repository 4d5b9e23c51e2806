// SPDX-License-Identifier: GPL-2.0
/*
 * The guest of apf_nested_test.c: L1, which has enabled asynchronous page faults,
 * and L2, which touches pages that are not there.  Counts in the struct apf_vcpu
 * that other guests of apf-vm.c use as well.
 */
#include <asm/kvm_para.h>

#include "apic.h"
#include "kvm_util.h"
#include "processor.h"
#include "svm_util.h"
#include "vmx.h"

#include "apf_nested.h"
#include "l2-setup.h"
#include "nested_enter.h"

#define EOI_MSR		(APIC_BASE_MSR + (APIC_EOI >> 4))
#define EXIT_EXCEPTION	0	/* SDM: "Exception or non-maskable interrupt (NMI)" */
#define INTR_VECTOR	0xff
#define HYPERCALL_LEN	3
#define SVM_EXIT_PF	(SVM_EXIT_EXCP_BASE + PF_VECTOR)

struct apf_nested *apf_nested;

static bool in_l2;

static struct apf_vcpu *l1(void)
{
	return &apf_guest_vcpus[0];
}

static struct apf_area *area(void)
{
	return (void *)l1()->area[0];
}

/* Neither L1 nor L2 has page faults of its own. */
void apf_nested_fault(struct ex_regs *regs)
{
	GUEST_FAIL("a #PF in L%u at %lx, flags %u", in_l2 ? 2 : 1, regs->rip,
		   READ_ONCE(area()->flags));
}

static void token_came(struct apf_vcpu *v, u32 token)
{
	u64 i;

	for (i = 0; i < v->nr_out && v->out[i].token != token; i++)
		;
	if (i == v->nr_out) {
		v->unknown++;
		return;
	}
	v->out[i] = v->out[--v->nr_out];
	v->ready++;
}

void apf_nested_ready(struct ex_regs *regs)
{
	struct apf_vcpu *v = l1();
	u32 token = READ_ONCE(area()->token);

	(void)regs;
	GUEST_ASSERT(!in_l2);
	v->irqs++;
	wrmsr(EOI_MSR, 0);
	if (token == APF_WAKE_ALL) {
		v->wakes++;
		v->wake_due[0] = 0;
	} else {
		token_came(v, token);
	}
	WRITE_ONCE(area()->token, 0);
	wrmsr(MSR_KVM_ASYNC_PF_ACK, 1);
}

static void l2_main(void)
{
	struct apf_vcpu *v = l1();
	u64 page, value;

	for (;;) {
		for (page = 0; page < v->nr_pages; page++) {
			value = READ_ONCE(*(u64 *)(v->pages + page * PAGE_SIZE));
			v->wrong_page += value != apf_page_value(page, v->round);
			v->touched++;
		}
		if (apf_nested->vmx)
			asm volatile("vmcall" ::: "memory");
		else
			asm volatile("vmmcall" ::: "memory");
	}
}

static void window(void)
{
	asm volatile("sti; nop; cli" ::: "memory");
}

static void page_fault_exit(u64 token, u64 error_code)
{
	struct apf_vcpu *v = l1();

	apf_nested->pf_exits++;
	apf_nested->wrong += error_code != apf_nested->error_code ||
			     READ_ONCE(area()->flags) !=
			     (apf_nested->error_code ? 0 : KVM_PV_REASON_PAGE_NOT_PRESENT);
	WRITE_ONCE(area()->flags, 0);
	v->announced++;
	GUEST_ASSERT(v->nr_out < APF_MAX_OUT);
	v->out[v->nr_out++].token = token;
	/*
	 * Or L2 runs again: the host makes the vCPU wait for the page, or L2 finds it
	 * there before its token has come, and goes on to the next one.
	 */
	while (v->nr_out && rnd_below(&v->rnd, 64))
		window();
}

static void round_done(void)
{
	struct apf_vcpu *v = l1();

	while (v->nr_out)
		window();
	v->round++;
	apf_ask(APF_ASK_ROUND);
}

static void vmx_handle(void)
{
	u64 reason = vmreadz(VM_EXIT_REASON);

	switch (reason) {
	case EXIT_EXCEPTION:
		GUEST_ASSERT_EQ(vmreadz(VM_EXIT_INTR_INFO) & INTR_VECTOR, (u64)PF_VECTOR);
		page_fault_exit(vmreadz(EXIT_QUALIFICATION), vmreadz(VM_EXIT_INTR_ERROR_CODE));
		break;
	case EXIT_REASON_EXTERNAL_INTERRUPT:
		apf_nested->intr_exits++;
		break;
	case EXIT_REASON_VMCALL:
		round_done();
		vmwrite(GUEST_RIP, vmreadz(GUEST_RIP) + vmreadz(VM_EXIT_INSTRUCTION_LEN));
		break;
	default:
		GUEST_FAIL("L2 ended with VM-Exit %lu", reason);
	}
}

static void svm_handle(struct vmcb *vmcb)
{
	switch (vmcb->control.exit_code) {
	case SVM_EXIT_PF:
		page_fault_exit(vmcb->control.exit_info_2, vmcb->control.exit_info_1);
		break;
	case SVM_EXIT_INTR:
		apf_nested->intr_exits++;
		break;
	case SVM_EXIT_VMMCALL:
		round_done();
		vmcb->save.rip += HYPERCALL_LEN;
		break;
	default:
		GUEST_FAIL("L2 ended with #VMEXIT %#x", (u32)vmcb->control.exit_code);
	}
}

static void *l2_stack_top(void)
{
	return &apf_nested->stack[ARRAY_SIZE(apf_nested->stack) - 1];
}

static void vmx_setup(void)
{
	struct vmx_pages *vmx = (void *)apf_nested->pages;

	GUEST_ASSERT(prepare_for_vmx_operation(vmx));
	GUEST_ASSERT(load_vmcs(vmx));
	l2_vmx_setup(vmx, l2_main, l2_stack_top());
	vmwrite(GUEST_RFLAGS, 0x202);
	vmwrite(PIN_BASED_VM_EXEC_CONTROL,
		vmreadz(PIN_BASED_VM_EXEC_CONTROL) | PIN_BASED_EXT_INTR_MASK);
}

static void svm_setup(struct svm_test_data *svm)
{
	l2_svm_setup(svm, l2_main, l2_stack_top());
	svm->vmcb->save.rflags = 0x202;
	svm->vmcb->control.intercept |= BIT_ULL(INTERCEPT_INTR);
	svm->vmcb->control.int_ctl = V_INTR_MASKING_MASK;
}

static void run(struct apf_vcpu *v)
{
	struct svm_test_data *svm = (void *)apf_nested->pages;
	struct gprs gprs = { 0 };
	u64 launched = 0;

	while (!READ_ONCE(v->stop) || v->nr_out) {
		WRITE_ONCE(in_l2, true);
		if (!apf_nested->vmx)
			svm_enter(&gprs, svm->vmcb_gpa);
		else if (vmx_enter(&gprs, launched))
			GUEST_FAIL("L2 cannot be entered: VM-instruction error %lu",
				   vmreadz(VM_INSTRUCTION_ERROR));
		WRITE_ONCE(in_l2, false);
		launched = 1;
		apf_nested->entries++;
		if (apf_nested->vmx)
			vmx_handle();
		else
			svm_handle(svm->vmcb);
		window();
	}
}

void apf_nested_main(u64 vcpu)
{
	struct apf_vcpu *v = &apf_guest_vcpus[vcpu];

	v->rnd = rnd_stream(v->seed, 1);
	x2apic_enable();
	if (apf_nested->vmx)
		vmx_setup();
	else
		svm_setup((void *)apf_nested->pages);
	wrmsr(MSR_KVM_ASYNC_PF_INT, APF_VEC);
	v->wake_due[0] = 1;
	if (apf_nested->ext_msr)
		wrmsr(apf_nested->ext_msr, apf_nested->ext);
	wrmsr(MSR_KVM_ASYNC_PF_EN, v->area_gpa[0] | KVM_ASYNC_PF_ENABLED |
	      (apf_nested->ext_msr ? 0 : KVM_ASYNC_PF_SEND_ALWAYS) | KVM_ASYNC_PF_DELIVERY_AS_INT |
	      (apf_nested->vmexits ? KVM_ASYNC_PF_DELIVERY_AS_PF_VMEXIT : 0));
	run(v);
	while (READ_ONCE(v->wake_due[0]))
		window();
	GUEST_DONE();
}
