/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Tracepoints of the in-guest flag, in the event system "kvm" like KVM's own.
 * Fired from measure.c, read with perf or trace-cmd.
 */
#if !defined(_TRACE_KVM_MODE_H) || defined(TRACE_HEADER_MULTI_READ)
#define _TRACE_KVM_MODE_H

#include <linux/tracepoint.h>

#undef TRACE_SYSTEM
#define TRACE_SYSTEM kvm

/* kvm_execution_mode is an enum; let perf and trace-cmd know its values. */
TRACE_DEFINE_ENUM(KVM_EXEC_HOST);
TRACE_DEFINE_ENUM(KVM_EXEC_GUEST);

/*
 * A sender decides whether to notify @vcpu_id: @seen is the flag (or, with
 * precise_notify off, what the run-loop mode stands for).  An IPI or a doorbell
 * goes out next if it is "guest"; except that no CPU rings its own.
 */
TRACE_EVENT(kvm_mode_notify,
	TP_PROTO(unsigned int vcpu_id, u8 seen),
	TP_ARGS(vcpu_id, seen),

	TP_STRUCT__entry(
		__field(unsigned int,	vcpu_id)
		__field(u8,		seen)
	),

	TP_fast_assign(
		__entry->vcpu_id	= vcpu_id;
		__entry->seen		= seen;
	),

	TP_printk("vcpu %u seen %s", __entry->vcpu_id,
		  __print_symbolic(__entry->seen,
				   { KVM_EXEC_HOST,		"host" },
				   { KVM_EXEC_GUEST,		"guest" }))
);

#endif /* _TRACE_KVM_MODE_H */

#undef TRACE_INCLUDE_PATH
#define TRACE_INCLUDE_PATH ../../arch/x86/kvm/mode
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_FILE trace

/* This part must be outside protection */
#include <trace/define_trace.h>
