#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# pressure.sh: a whole VM whose memory the host swaps out all the time: boot.sh within a memory
# cgroup of LIMIT MiB, so that pages come back asynchronously. The guest checks the contents of
# MIB MiB, ROUNDS times. Prints boot.sh's lines, and how many asynchronous page faults there were,
# by KVM's tracepoints. For L1; as root on a host that has cgroup v2, it uses its swap if there is
# some. Else swap is a disk in memory, null_blk, for as long as it runs, and for the whole host.
#
#   pressure.sh DIRECTORY [LIMIT [MIB [ROUNDS [VCPUS [SECONDS]]]]]
#
# In the environment, LATE: milliseconds that this disk takes for each request, a read or a write;
# 1 to 1000, else 1. BOOT: migrate.sh instead of boot.sh. And what that takes from it.
# Exit status: as boot.sh; 1 also for wrong contents, 2 if there is no swap to be had.
# shellcheck shell=dash
set -eu

die()
{
	echo "pressure: $1" >&2
	exit "${2:-1}"
}

case ${1:-} in -h | --help)
	sed -n '3,13s/^# \{0,1\}//p' "$0"
	exit 0
	;;
esac
[ $# -ge 1 ] || die "which directory? see --help" 2
kit=$1 limit=${2:-192} mib=${3:-200} rounds=${4:-3} vcpus=${5:-2} seconds=${6:-600}
trace=/sys/kernel/tracing/events/kvm
group=/sys/fs/cgroup/kvm-mode-pressure
late=${LATE:-1}
disk=/dev/nullb0 loaded='' swaps=''

cleanup()
{
	for event in kvm_async_pf_not_present kvm_async_pf_ready; do
		echo '!hist:keys=common_type' >"$trace/$event/trigger" 2>/dev/null || true
	done
	[ -z "$swaps" ] || swapoff $disk || true
	[ -z "$loaded" ] || modprobe -r null_blk 2>/dev/null || rmmod null_blk || true
	rmdir "$group" 2>/dev/null || true
}
# A request that is done within submit_bio() would be no reason for KVM to go on without the page.
make_swap()
{
	[ ! -e /sys/module/null_blk ] || die "no swap, and null_blk, which could be some, is in use" 2
	options="nr_devices=1 gb=$((mib / 256 + 1)) memory_backed=1 irqmode=2 completion_nsec=${late}000000"
	loaded=1
	# shellcheck disable=SC2086 # $options are many
	modprobe null_blk $options 2>/dev/null || {
		insmod "$kit/configfs.ko" 2>/dev/null || true
		insmod "$kit/null_blk.ko" $options || {
			loaded=''
			die "no swap, and no null_blk to make some of" 2
		}
	}
	# It keeps what is swapped out in memory, and nothing tells it of what is not needed any more.
	mkswap $disk $(((mib * 2 + 128) * 1024)) >/dev/null
	swaps=1
	swapon $disk
}

case $late in
*[!0-9]* | 0* | ????*) [ "$late" = 1000 ] || die "LATE=$late: milliseconds, 1 to 1000" 2 ;;
esac
trap cleanup EXIT
trap 'exit 130' INT TERM

[ -e /sys/fs/cgroup/cgroup.controllers ] || mount -t cgroup2 none /sys/fs/cgroup 2>/dev/null ||
	die "no cgroup v2 at /sys/fs/cgroup" 2
if [ "$(wc -l </proc/swaps)" -lt 2 ]; then
	make_swap
elif [ -n "${LATE:-}" ]; then
	die "LATE is for a swap that pressure.sh makes itself: swapoff what there is, or leave LATE out" 2
fi
echo +memory >/sys/fs/cgroup/cgroup.subtree_control
mkdir -p "$group"
echo $((limit * 1024 * 1024)) >"$group/memory.max"
for event in kvm_async_pf_not_present kvm_async_pf_ready; do
	echo 'hist:keys=common_type' >"$trace/$event/trigger" || die "no tracepoints of KVM's" 4
done

# Of all VMs; no such count on stock.
sent=/sys/kernel/debug/kvm_mode/apf_ready_sent
[ ! -e $sent ] || before=$(cat $sent)
(
	sh -c 'echo $PPID' >"$group/cgroup.procs"
	exec "$(dirname "$0")/${BOOT:-boot.sh}" "$kit" 0 0 "$vcpus" "$seconds" "$mib" "$rounds"
) >/tmp/pressure.out || die "${BOOT:-boot.sh}: status $?: $(cat /tmp/pressure.out)"
cat /tmp/pressure.out
for event in kvm_async_pf_not_present kvm_async_pf_ready; do
	echo "$event $(sed -n 's/ *Hits: //p' "$trace/$event/hist")"
done
[ ! -e $sent ] || echo "apf_ready_sent $(($(cat $sent) - before))"
echo "pages swapped in $(sed -n 's/^pswpin //p' /proc/vmstat), out $(sed -n 's/^pswpout //p' /proc/vmstat)"
grep -q '"wrong":0,' /tmp/pressure.out || die "wrong contents"
