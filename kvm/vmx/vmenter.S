/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The write of the in-guest flag after VM-Exit, as a macro.  Included and called
 * by the base kernel's vmx/vmenter.S, in __vmx_vcpu_run() only.
 *
 * C has set the flag, ahead of the last look at the PIR, see mode.h.
 */

/*
 * KVM_MODE_VMX_EXIT - the vCPU is out of the guest
 * @vmx:	register that holds the struct vcpu_vmx pointer
 *
 * One MOVB of an immediate: no register but @vmx is read, none is written,
 * EFLAGS are untouched.  Runs in .noinstr.text with IRQs off.
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
