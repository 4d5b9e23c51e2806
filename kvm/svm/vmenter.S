/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The writes of the in-guest flag on SVM's entry path, as macros.  Included
 * and called by the base kernel's svm/vmenter.S, in __svm_vcpu_run() and
 * __svm_sev_es_vcpu_run().
 *
 * Both macros read no register but @svm, and write none.
 * Both run in .noinstr.text with GIF=0.
 */

/*
 * KVM_MODE_SVM_ENTER - the vCPU is in the guest from here on
 * @svm:	register that holds the struct vcpu_svm pointer, normally RDI
 *
 * Call it when every guest register is loaded but the one that holds @svm.
 * RAX holds the physical address of the VMCB.  What may follow is the load of
 * that last register, the base's buffer clearing, and VMRUN.  A SEV-ES guest's
 * registers are loaded by VMRUN itself, so there @svm lives on.
 *
 * A full barrier follows, as smp_mb() has it: a sender that does not see this
 * value rings no doorbell, and VMRUN's evaluation of the vIRR has to find what
 * it has written.  Clobbers EFLAGS.  Pairs with the barriers after the write of
 * the vIRR, see svm_deliver_interrupt().  Litmus: avic-vmrun.
 */
.macro KVM_MODE_SVM_ENTER svm:req
	movb $KVM_EXEC_GUEST, SVM_vcpu_execution_mode(\svm)
	lock addl $0, -4(%_ASM_SP)
.endm

/*
 * KVM_MODE_SVM_EXIT - the vCPU is out of the guest
 * @svm:	register that holds the struct vcpu_svm pointer
 *
 * Call it after #VMEXIT as soon as @svm is back in a register, ahead of VMSAVE
 * and VMLOAD.  All other registers still hold the guest's values (SEV-ES: the
 * host's, from the save area).  The fixup of a fault on VMRUN has to resume in
 * front of it.
 */
.macro KVM_MODE_SVM_EXIT svm:req
	movb $KVM_EXEC_HOST, SVM_vcpu_execution_mode(\svm)
.endm
