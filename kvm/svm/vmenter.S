/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The write of the in-guest flag after #VMEXIT, as a macro.  Included and called
 * by the base kernel's svm/vmenter.S, in __svm_vcpu_run() and
 * __svm_sev_es_vcpu_run().
 *
 * C has set the flag, see mode.h.  VMRUN evaluates the vIRR after that, so that
 * there is nothing to write or to order ahead of it.
 */

/*
 * KVM_MODE_SVM_EXIT - the vCPU is out of the guest
 * @svm:	register that holds the struct vcpu_svm pointer
 *
 * Reads no register but @svm and writes none.  Runs in .noinstr.text with GIF=0.
 *
 * Call it after #VMEXIT as soon as @svm is back in a register, ahead of VMSAVE
 * and VMLOAD.  All other registers still hold the guest's values (SEV-ES: the
 * host's, from the save area).  The fixup of a fault on VMRUN has to resume in
 * front of it.
 */
.macro KVM_MODE_SVM_EXIT svm:req
	movb $KVM_EXEC_HOST, SVM_vcpu_execution_mode(\svm)
.endm
