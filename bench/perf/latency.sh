#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# latency.sh [COMMAND...]: latencies out of tracepoints, while COMMAND runs: from the IPI of a
# kick to the VM-Exit of the CPU it went to, and from the moment an interrupt is accepted for a
# vCPU to the entry that takes it into the guest. perf record, perf script, latency.awk.
#
# A posted interrupt that finds its vCPU in the guest causes no event in the host: those are
# counted, and have no latency here (kvm-mode-bench ipi measures it in the guest). Each event
# that is recorded costs time of its own. POSTS, STORM, PERF: recipe.sh.
# Exit status: 0, 1 a failure, 4 no KVM here; else the command's.
# shellcheck shell=dash
# shellcheck source=bench/perf/recipe.sh
. "$(dirname "$0")/recipe.sh"

# No build IDs, and no symbols: reading them takes longer than most commands. Whether KVM sends an
# IPI is told by the modules' addresses.
under "$perf" record -a -N -B -o "$work/data" -m 1024 -e kvm:kvm_entry -e kvm:kvm_exit \
	-e kvm:kvm_apic_accept_irq -e kvm:kvm_apicv_accept_irq -e kvm:kvm_inj_virq \
	-e ipi:ipi_send_cpu "$@"
: >"$work/none"
"$perf" script --kallsyms "$work/none" -i "$work/data" --ns -F pid,tid,cpu,time,event,trace >"$work/events" 2>"$work/err" ||
	die "perf script: $(tail -n 1 "$work/err")"
lost=$("$perf" report --kallsyms "$work/none" -i "$work/data" --stats 2>/dev/null | awk '/LOST/ { n += $NF } END { print n + 0 }')
[ "$lost" = 0 ] || echo "$lost records were lost: shorten the run"
grep '^kvm' /proc/modules >"$work/modules" || die "KVM is built into this kernel, not a module" 4
awk -f "$(dirname "$0")/latency.awk" "$work/modules" "$work/events" | sort -k1,1 -k2,2n >"$work/latencies"
awk -v summary=1 -f "$(dirname "$0")/latency.awk" "$work/latencies"
