/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Names of the KVM selftests library of Linux 7.2, for one that does not have
 * them yet.  Included ahead of each file by guests/build.sh, and by tests.mk in a
 * kernel tree, if the library has no vm_alloc().
 */
#define gva_t			vm_vaddr_t
#define vm_alloc		vm_vaddr_alloc
#define pin_self_to_cpu		kvm_pin_this_task_to_pcpu
