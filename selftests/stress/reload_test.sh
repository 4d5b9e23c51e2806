#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# KVM is unloaded and loaded again while other processes try to open /dev/kvm and to make
# VMs, and while VMs are torn down that were killed with pages held.  Runs in the labs, where
# load-kvm is; skips elsewhere.  KTAP; exit status 0 passed, 1 failed, 4 skipped.
# usage: reload_test.sh [-n RELOADS] [-c CASE]	(-d and -s, as other tests have them, say nothing here)
# shellcheck shell=dash
set -u
[ "${1-}" != --help ] || { sed -n 's/^# \(usage: .*\)/\1/p' "$0"; exit 0; }
reloads=5
case=
while getopts n:c:d:s: option; do
	case $option in
	n) reloads=$OPTARG ;;
	c) case=$OPTARG ;;
	d | s) ;;
	*) exit 2 ;;
	esac
done
done_file=/tmp/reload-done
here=$(dirname "$0")

echo "KTAP version 1"
if ! command -v load-kvm >/dev/null || [ ! -d /lab/kvm/patched ]; then
	echo "1..0 # SKIP no load-kvm here: this runs in the labs"
	exit 4
fi
echo "1..2"
failed=0

# result NUMBER ok? TEXT
result()
{
	if [ "$2" = yes ]; then
		echo "ok $1 $3"
	else
		echo "not ok $1 $3; $(cat /tmp/load-kvm.err)"
		failed=1
	fi
}

# asked_for NUMBER NAME: else the case is skipped, and said to be.
asked_for()
{
	case $2 in *"$case"*) return 0 ;; esac
	echo "ok $1 $2 # SKIP not asked for"
	return 1
}

# Opens until told to stop; each success is a byte in $1.
opener()
{
	while [ ! -e "$done_file" ]; do
		(exec 3</dev/kvm) 2>/dev/null && printf x >>"$1"
	done
}

# Loads a set as soon as what holds the module lets go; busy counts.
load()
{
	tries=0
	until load-kvm "$1" 2>/tmp/load-kvm.err; do
		busy=$((busy + 1))
		tries=$((tries + 1))
		[ "$tries" -lt 2000 ] || return 1
	done
}

racing_open()
{
	rm -f "$done_file" /tmp/opened.*
	opener /tmp/opened.1 &
	opener /tmp/opened.2 &
	busy=0
	n=0
	while [ "$n" -lt "$reloads" ] && load stock && load patched; do
		n=$((n + 1))
		echo "# reloaded $n of $reloads times" >&2
	done
	touch "$done_file"
	wait
	opened=$(cat /tmp/opened.* 2>/dev/null | wc -c)
	[ "$n" = "$reloads" ] && [ "$opened" -gt 0 ] && [ -c /dev/kvm ] && good=yes || good=no
	result 1 "$good" "$1 # reloads $n wanted $reloads opened $opened found_busy $busy"
}

# Kills a VM of which so many pages were announced to be away that some still are: workers
# sleep for them.  Nothing but the VM's own end keeps the module from going.
kill_vm()
{
	# Not the trace itself: events can come as fast as it is read.
	echo 'hist:keys=common_pid' >$event/trigger || return
	"$here/apf_test" -d 1000 -c 'many at once' -s "$1" >/dev/null 2>&1 &
	until [ "$(sed -n 's/.*Hits: //p' $event/hist)" -ge $((64 + $1)) ]; do
		kill -0 $! 2>/dev/null || return
		sleep 0.01
	done
	echo '!hist:keys=common_pid' >$event/trigger
	kill -KILL $!
}

killed_vm()
{
	event=/sys/kernel/tracing/events/kvm/kvm_async_pf_not_present
	busy=0
	n=0
	while [ "$n" -lt $((reloads * 4)) ] && kill_vm "$n" && load patched; do
		wait
		n=$((n + 1))
		echo "# killed and reloaded $n of $((reloads * 4)) times" >&2
	done
	[ "$n" = $((reloads * 4)) ] && [ -c /dev/kvm ] && good=yes || good=no
	result 2 "$good" "$1 # reloads $n wanted $((reloads * 4)) found_busy $busy"
}

name="reload with a racing open"
! asked_for 1 "$name" || racing_open "$name"
name="unload beside the end of a killed VM"
! asked_for 2 "$name" || killed_vm "$name"
exit $failed
