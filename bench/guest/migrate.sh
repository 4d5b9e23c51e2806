#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# migrate.sh: boot.sh's VM, which moves to another QEMU on this machine when it begins its work, by
# post-copy: it goes on there at once, and pages that it accesses and that have not come yet are asked
# for, by userfaultfd. Takes boot.sh's arguments; prints its lines, and one on the move.
#
# In the environment, RATE: KiB a second of the pages that nobody has asked for, for SLOW seconds, else 4096
# for 12; then all that come. QEMU: else L1's own, which has lab/qemu/patches/0020; without that a guest
# cannot be offered what is new of KVM. And what boot.sh takes from it, but CONSOLE.
# Exit status: as boot.sh; 1 also if the VM has come to its end without all of its pages.
# shellcheck shell=dash
set -eu

case ${1:-} in -h | --help)
	sed -n '3,10s/^# \{0,1\}//p' "$0"
	exit 0
	;;
esac
boot=$(dirname "$0")/boot.sh
rate=${RATE:-4096} slow=${SLOW:-12}
case $rate$slow in *[!0-9]*)
	echo "migrate: RATE=$rate, SLOW=$slow: a number each" >&2
	exit 2
	;;
esac
CPU=${CPU:-host}
[ -n "${QEMU:-}" ] || QEMU=qemu-async-pf OPTIONS="-L /usr/share/qemu ${OPTIONS:-}"
export CPU QEMU
there=$(mktemp -d)
running=''
end()
{
	for job in $running; do
		kill "$job" 2>/dev/null || :
	done
	wait
	rm -rf "$there"
}
trap end EXIT
trap 'exit 130' INT TERM

# With what both VMs and their monitors have said; what these echo has escape sequences.
die()
{
	echo "migrate: $1" >&2
	for name in from to; do
		tail -n 3 "$there/$name.lines" 2>/dev/null
		tr -d '\r' <"$there/$name.said" 2>/dev/null | grep -v "$(printf '\033')" | tail -n 5
	done >&2
	exit 1
}

# begin NAME BOOT'S-ARGUMENT...
begin()
{
	name=$1
	shift
	mkfifo "$there/$name.in" "$there/$name.out"
	cat "$there/$name.out" >"$there/$name.said" &
	running="$running $!"
	monitor="-chardev pipe,id=monitor,path=$there/$name -monitor chardev:monitor"
	[ "$name" = from ] || monitor="$monitor -incoming defer"
	OPTIONS="${OPTIONS:-} $monitor" CONSOLE=$there/$name "$boot" "$@" >"$there/$name.lines" 2>&1 &
	running="$running $!"
}

# until_has FILE TEXT: while both VMs run, as far as they have begun
until_has()
{
	until grep -qs "$2" "$there/$1"; do
		kill -0 "$from" 2>/dev/null || die "the first VM is at its end"
		kill -0 "${to:-$from}" 2>/dev/null || die "the second VM is at its end"
		sleep 0.2
	done
}

# A monitor that nobody has opened yet would lose it.
tell()
{
	echo "$2" 1<>"$there/$1.in"
}

begin from "$@"
from=$!
until_has from '^GUEST kernel'
begin to "$@"
to=$!
for name in from to; do
	until_has $name.said '(qemu)'
	tell $name "migrate_set_capability postcopy-ram on"
done
tell from "migrate_set_parameter max-postcopy-bandwidth ${rate}K"
tell to "migrate_incoming unix:$there/socket"
until [ -S "$there/socket" ]; do
	kill -0 $to 2>/dev/null || die "the second VM is at its end"
	sleep 0.1
done
until_has from '^GUEST begins'
tell from "migrate -d unix:$there/socket"
tell from migrate_start_postcopy
sleep "$slow"
tell from "migrate_set_parameter max-postcopy-bandwidth 0"
while kill -0 $from 2>/dev/null && kill -0 $to 2>/dev/null; do
	tell from "info migrate"
	sleep 1
	! grep -q '^Migration status: completed' "$there/from.said" || break
done
kill -0 $to 2>/dev/null || die "the VM was at its end before all of its pages had come"
until_has from.said '^Migration status: completed'
status=0
wait $to || status=$?
tr -d '\r' <"$there/from" | sed -n 's/^GUEST //p'
cat "$there/to.lines"
echo "moved, $(tr -d '\r' <"$there/from.said" | sed -n 's/^postcopy request count: //p' | tail -n 1) pages asked for"
[ $status = 0 ] || exit $status
