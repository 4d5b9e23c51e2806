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
# of both. In the environment, QEMU: another one. CPU: its -cpu. KERNEL: another one of DIRECTORY's
# than vmlinuz. PMEM: a file that is the guest's persistent memory. CONSOLE: where to keep what the
# guest prints. PAGE_OUT: page out all of its memory every so many milliseconds. OPTIONS: more of
# QEMU's. GUEST: more of the kernel's command line, for init:
#   guest.kernel=1        memory-check accesses its pages in kernel mode
#   guest.programs=1      or programs do, in a pipe
#   guest.server=1        or a web server does, for guest.seconds=N
#   guest.bystanders=1    others compute meanwhile
#   guest.disturb=1       CPUs come and go, and more, for guest.seconds=N at least
#   guest.waits=1         waits_test runs for as long
#   guest.nmis=1          with it NMIs, whose handler has page faults of its own
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
	sed -n '3,22s/^# \{0,1\}//p' "$0"
	exit "$1"
}

case ${1:-} in -h | --help) usage 0 ;; esac
[ $# -ge 1 ] || usage 2 >&2
kit=$1 calls=${2:-1000} loops=${3:-100} vcpus=${4:-2} seconds=${5:-300}
mib=${6:-0} rounds=${7:-0}
[ -w /dev/kvm ] || die "no usable /dev/kvm: load the kvm modules, or run as root" 4
kernel=${KERNEL:-vmlinuz}
initrd=guest.cpio
case " ${GUEST:-} " in *" guest.server=1 "*) initrd=server.cpio ;; esac
for file in "$kernel" $initrd; do
	[ -r "$kit/$file" ] || die "$kit has no $file: make guest-kit (server.cpio: in L1 only)" 2
done
qemu=${QEMU:-qemu-system-x86_64}
command -v "$qemu" >/dev/null || die "no $qemu: install it, or set QEMU" 2
out=${CONSOLE:-$(mktemp)}
running='' pager=''
end()
{
	for job in $running $pager; do
		kill "$job" 2>/dev/null || :
	done
	wait
	rm -f "$out.pid" "$out.page-out"
	[ -n "${CONSOLE:-}" ] || rm -f "$out"
}
trap end EXIT
trap 'exit 130' INT TERM

pmem=''
[ -z "${PMEM:-}" ] || pmem="-m 512,maxmem=2G
	-object memory-backend-file,id=pmem,share=on,mem-path=$PMEM,size=$(stat -c %s "$PMEM")
	-device virtio-pmem-pci,memdev=pmem"
# The labs' own kernel has no ACPI: of each socket SeaBIOS's MP table has one CPU.
sockets=''
[ "$kernel" = vmlinuz ] || sockets=,sockets=$vcpus
rm -f "$out.pid"
# Not migratable: so QEMU hands on what KVM offers the guest and QEMU has no name for.
# shellcheck disable=SC2086 # $pmem and $OPTIONS are many words
timeout "$seconds" "$qemu" -M q35 -accel kvm -cpu "${CPU:-host,migratable=off}" -smp "$vcpus$sockets" -m 512 \
	$pmem ${OPTIONS:-} ${PAGE_OUT:+-pidfile "$out.pid"} -nodefaults -display none -no-reboot -serial stdio -kernel "$kit/$kernel" \
	-initrd "$kit/$initrd" -append "console=ttyS0 panic=-1 quiet mitigations=off \
	cryptomgr.notests random.trust_cpu=on guest.calls=$calls guest.loops=$loops \
	guest.mib=$mib guest.rounds=$rounds ${GUEST:-}" \
	</dev/null >"$out" 2>&1 &
running=$! status=0
[ -z "${PAGE_OUT:-}" ] || {
	until [ -s "$out.pid" ] || ! kill -0 $running 2>/dev/null; do sleep 0.1; done
	"$kit/page-out" "$(cat "$out.pid")" "$PAGE_OUT" >"$out.page-out" 2>&1 &
	pager=$!
}
# QEMU stays when KVM_RUN has failed, and has shown the registers.
while kill -0 $running 2>/dev/null; do
	! grep -q '^EFER=' "$out" || kill $running 2>/dev/null || :
	sleep 0.1
done
wait $running || status=$?
running=''
[ -z "$pager" ] || {
	wait "$pager" || :
	pager=''
	echo "page-out $(cat "$out.page-out")"
}
last()
{
	grep -m 1 -E 'kvm run failed|KVM internal error|Kernel panic|BUG:|WARNING:' "$out" || true
	tail -n 3 "$out"
}
[ $status = 0 ] || die "QEMU: status $status: $(last)"
tr -d '\r' <"$out" | sed -n 's/^GUEST //p'
grep -q '^GUEST end' "$out" || die "the VM did not come to its end: $(last)"
