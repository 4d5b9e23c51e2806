#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# count.sh [COMMAND...]: how often, on the whole machine, while COMMAND runs: VM-Exits and
# entries, interrupts delivered to vCPUs, what senders of posted interrupts and doorbells saw
# (the series' tracepoint; "host" is a notification that was left out), IPIs sent, and
# reschedule IPIs taken. perf stat with tracepoint filters. POSTS, STORM, PERF: recipe.sh.
# Exit status: 0, 1 a failure, 4 no KVM here; else the command's.
# shellcheck shell=dash
# shellcheck source=bench/perf/recipe.sh
. "$(dirname "$0")/recipe.sh"

notify=
if has_event kvm/kvm_mode_notify; then
	notify="-e kvm:kvm_mode_notify --filter seen==0 -e kvm:kvm_mode_notify --filter seen==1"
else
	echo "stock KVM: no kvm:kvm_mode_notify"
fi
# shellcheck disable=SC2086 # lists
under "$perf" stat -a -o "$work/stat" -x, -e kvm:kvm_exit -e kvm:kvm_entry \
	-e kvm:kvm_apic_accept_irq -e kvm:kvm_apicv_accept_irq -e kvm:kvm_inj_virq \
	-e ipi:ipi_send_cpu -e irq_vectors:reschedule_entry $notify "$@"
awk -F, 'BEGIN { split("saw host: not notified,saw guest: notified", saw, ",") }
	/^[0-9]/ { name = $3; if (name == "kvm:kvm_mode_notify") name = name " (" saw[++n] ")"
		printf "%12d  %s\n", $1, name }' "$work/stat"
