// SPDX-License-Identifier: GPL-2.0
// The rename of the series' first patch, in C code: vcpu->mode's values and what is named
// after them get their names from the run loop.  What a semantic patch does not reach,
// comments, documentation and the definition of a macro, has the same names and is
// renamed by hand.  Compared with the patch by `make check` (selftests/check.py).
//
//	spatch --sp-file scripts/rename.cocci --no-includes --in-place FILE...

@@
@@
- OUTSIDE_GUEST_MODE
+ OUTSIDE_RUN_LOOP

@@
@@
- IN_GUEST_MODE
+ IN_RUN_LOOP

@@
@@
- EXITING_GUEST_MODE
+ EXITING_RUN_LOOP

@@
@@
- KVM_REQ_OUTSIDE_GUEST_MODE
+ KVM_REQ_OUTSIDE_RUN_LOOP

@@
typedef u32;
expression list es;
@@
- kvm_vcpu_exiting_guest_mode(es)
+ kvm_vcpu_exiting_run_loop(es)

@@
identifier v;
type T;
@@
- kvm_vcpu_exiting_guest_mode(T v)
+ kvm_vcpu_exiting_run_loop(T v)
 { ... }

@@
@@
 enum {
- OUTSIDE_GUEST_MODE,
+ OUTSIDE_RUN_LOOP,
- IN_GUEST_MODE,
+ IN_RUN_LOOP,
- EXITING_GUEST_MODE,
+ EXITING_RUN_LOOP,
 READING_SHADOW_PAGE_TABLES,
 };
