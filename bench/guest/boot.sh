#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# boot.sh: boots a distribution's kernel under QEMU with -accel kvm, as a whole VM on the KVM
# of this machine (or of L1), which runs an IPI benchmark and hackbench; prints their results,
# one line each. Called by whole_vm.py, or by hand on a host:
#
#   boot.sh DIRECTORY [CALLS [LOOPS [VCPUS [SECONDS [MIB ROUNDS]]]]]
#
# DIRECTORY: vmlinuz and guest.cpio, as `make guest-kit` makes them. CALLS: of membarrier().
# LOOPS: of hackbench. SECONDS: after which it is given up. MIB, ROUNDS: of memory-check instead
# of both. QEMU: another one.
# Exit status: 0, 1 the VM did not come to its end, 2 wrong usage, 4 no usable /dev/kvm.
# shellcheck shell=dash
set -eu

die()
{
	echo "boot: $1" >&2
	exit "${2:-1}"
}

usage()
{
	sed -n '3,12s/^# \{0,1\}//p' "$0"
	exit "$1"
}

case ${1:-} in -h | --help) usage 0 ;; esac
[ $# -ge 1 ] || usage 2 >&2
kit=$1 calls=${2:-1000} loops=${3:-100} vcpus=${4:-2} seconds=${5:-300}
mib=${6:-0} rounds=${7:-0}
[ -w /dev/kvm ] || die "no usable /dev/kvm: load the kvm modules, or run as root" 4
for file in vmlinuz guest.cpio; do
	[ -r "$kit/$file" ] || die "$kit has no $file: make guest-kit" 2
done
qemu=${QEMU:-qemu-system-x86_64}
command -v "$qemu" >/dev/null || die "no $qemu: install it, or set QEMU" 2
out=$(mktemp)
trap 'rm -f "$out"' EXIT
trap 'exit 130' INT TERM

timeout "$seconds" "$qemu" -M q35 -accel kvm -cpu host -smp "$vcpus" -m 512 \
	-nodefaults -display none -no-reboot -serial stdio -kernel "$kit/vmlinuz" \
	-initrd "$kit/guest.cpio" -append "console=ttyS0 panic=-1 quiet mitigations=off \
	cryptomgr.notests random.trust_cpu=on guest.calls=$calls guest.loops=$loops \
	guest.mib=$mib guest.rounds=$rounds" \
	</dev/null >"$out" 2>&1 || die "QEMU: status $?: $(tail -n 3 "$out")"
tr -d '\r' <"$out" | sed -n 's/^GUEST //p'
grep -q '^GUEST end' "$out" || die "the VM did not come to its end: $(tail -n 3 "$out")"
