/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The writes of the in-guest flag on VMX's entry path, as macros.  Included
 * and called by the base kernel's vmx/vmenter.S, in __vmx_vcpu_run() only.
 *
 * Both macros are one MOVB of an immediate: no register but @vmx is read, none
 * is written, EFLAGS are untouched.  Both run in .noinstr.text with IRQs off.
 */

/*
 * KVM_MODE_VMX_ENTER - the vCPU is in the guest from here on
 * @vmx:	register that holds the struct vcpu_vmx pointer
 *
 * Call it when every guest register is loaded but the one that holds @vmx.
 * EFLAGS may be live (VMLAUNCH or VMRESUME) and stay so.  What may follow is
 * the load of that last register, the base's buffer clearing, and VM-Enter.
 *
 * The full barrier that this write does not have was executed in C, between
 * KVM_EXEC_ENTERING and the last look at the PIR: senders treat both values
 * alike.
 */
.macro KVM_MODE_VMX_ENTER vmx:req
	movb $KVM_EXEC_GUEST, VMX_vcpu_execution_mode(\vmx)
.endm

/*
 * KVM_MODE_VMX_EXIT - the vCPU is out of the guest
 * @vmx:	register that holds the struct vcpu_vmx pointer
 *
 * Call it on both ways out of VM-Enter:
 *  - after VM-Exit, as soon as @vmx is back in a register.  All other registers
 *    still hold the guest's values.
 *  - after VM-Fail and after a fault on VMLAUNCH/VMRESUME, neither of which
 *    passes vmx_vmexit.
 */
.macro KVM_MODE_VMX_EXIT vmx:req
	movb $KVM_EXEC_HOST, VMX_vcpu_execution_mode(\vmx)
.endm
