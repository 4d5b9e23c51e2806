#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# lost-page.sh: a whole VM, by boot.sh, with persistent memory that is a file, which loses its last
# quarter while the guest uses it. Prints boot.sh's lines. For L1, or as root on a host.
#
#   lost-page.sh DIRECTORY [VCPUS [SECONDS]]
#
# DIRECTORY: as boot.sh's, with pmem.img.gz, an ext4 file system in which a file `data` is. GUEST,
# KERNEL, QEMU: see there. The guest is told with kvm.async_pf_fail=1, which is not set here.
# Exit status: as boot.sh.
# shellcheck shell=dash
set -eu

die()
{
	echo "lost-page: $1" >&2
	exit "${2:-1}"
}

case ${1:-} in -h | --help)
	sed -n '3,10s/^# \{0,1\}//p' "$0"
	exit 0
	;;
esac
[ $# -ge 1 ] || die "which directory? see --help" 2
kit=$1 vcpus=${2:-2} seconds=${3:-120}
[ -r "$kit/pmem.img.gz" ] || die "$kit has no pmem.img.gz: make guest-kit" 2

work=$(mktemp -d)
watcher=''
trap '[ -z "$watcher" ] || kill "$watcher" 2>/dev/null || :; rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
gunzip -c "$kit/pmem.img.gz" >"$work/pmem"
size=$(stat -c %s "$work/pmem")
(
	while ! grep -q 'GUEST lost-page ready' "$work/console" 2>/dev/null; do sleep 0.05; done
	truncate -s $((size * 3 / 4)) "$work/pmem"
) &
watcher=$!
status=0
PMEM=$work/pmem CONSOLE=$work/console GUEST="${GUEST:-} guest.lost=1" \
	"$(dirname "$0")/boot.sh" "$kit" 0 0 "$vcpus" "$seconds" || status=$?
exit $status
