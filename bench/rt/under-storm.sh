#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# One measurement of the host's scheduling while a guest runs on CPU 0 and is posted
# interrupts from another vCPU: cyclictest on CPU 0 at FIFO 80, or hackbench on all CPUs.
# One line of JSON: what cyclictest or hackbench said, and what the storm did meanwhile.
# Runs in L1 and on a host; called by scheduling.py, or by hand:
#
#   under-storm.sh cyclictest|hackbench idle|storm|busy LOOPS [INTERVAL_US [HISTOGRAM_NS]]
#
# idle: no guest; storm: the guest; busy: the guest, and hackbench on all CPUs beside
# cyclictest. STORM: more options for kvm-mode-bench post. Needs root.
# Exit status: 0, 1 nothing was measured, 2 wrong usage, 4 KVM cannot be used here.
# shellcheck shell=dash
set -eu

usage()
{
	sed -n '3,12s/^# \{0,1\}//p' "$0"
	exit "$1"
}

case ${1:-} in -h | --help) usage 0 ;; esac
[ $# -ge 3 ] || usage 2 >&2
what=$1 load=$2 loops=$3 interval=${4:-200} histogram=${5:-100000}
seed=${SEED:-1}
work=$(mktemp -d)
jobs_=

end_jobs()
{
	# shellcheck disable=SC2086 # a list
	[ -z "$jobs_" ] || kill $jobs_ 2>/dev/null || true
	wait
	rm -rf "$work"
}
trap end_jobs EXIT
trap 'exit 130' INT TERM

die()
{
	echo "under-storm: $1" >&2
	exit "${2:-1}"
}

exits()
{
	cat /sys/kernel/debug/kvm/exits 2>/dev/null || echo 0
}

# Interrupts of a line of /proc/interrupts, all CPUs.
interrupts()
{
	awk -v line="$1:" '$1 == line { for (i = 2; $i ~ /^[0-9]+$/; i++) n += $i } END { print n + 0 }' \
		/proc/interrupts
}

start_storm()
{
	local tries=0

	# shellcheck disable=SC2086 # options
	kvm-mode-bench post --workload mixed --posts 50000000 --timeout 86400 --seed "$seed" \
		--no-trace-kicks ${STORM:-} >"$work/storm" 2>&1 &
	storm=$!
	jobs_=$storm
	while [ "$(exits)" -lt 1000 ]; do
		kill -0 "$storm" 2>/dev/null || { wait "$storm" || die "$(tail -n 1 "$work/storm")" $?; }
		tries=$((tries + 1))
		[ "$tries" -lt 3000 ] || die "the guest does not run"
		sleep 0.01
	done
}

start_load()
{
	while :; do hackbench -g 1 -f 4 -l 1000 >/dev/null 2>&1 || exit; done &
	jobs_="$jobs_ $!"
}

measure()
{
	case $what in
	cyclictest)
		cyclictest -a 0 -t 1 -p 80 -N -q -i "$interval" -l "$loops" -h "$histogram" \
			--histfile=/dev/null --json="$work/json" >"$work/out" 2>&1 ||
			die "$(tail -n 1 "$work/out")"
		tr -d '\n\t' <"$work/json"
		;;
	hackbench)
		hackbench -g 1 -f 4 -l "$loops" >"$work/out" 2>&1 || die "$(tail -n 1 "$work/out")"
		sed -n 's/^Time: \(.*\)/{"seconds": \1}/p' "$work/out"
		;;
	*) usage 2 >&2 ;;
	esac
}

case $load in
idle) ;;
storm) start_storm ;;
busy) start_storm; start_load ;;
*) usage 2 >&2 ;;
esac
before=$(exits) wasted=$(interrupts PIN)
found=$(measure)
[ -n "$found" ] || die "$what said nothing"
[ "$load" = idle ] || kill -0 "$storm" 2>/dev/null || die "the guest ended: $(tail -n 1 "$work/storm")"
printf '{"exits": %s, "notify_spurious": %s, "found": %s}\n' \
	$(($(exits) - before)) $(($(interrupts PIN) - wasted)) "$found"
