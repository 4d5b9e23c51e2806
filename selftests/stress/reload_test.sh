#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# KVM is unloaded and loaded again while other processes try to open /dev/kvm and to make
# VMs, and while VMs are torn down that were killed with pages held.  Runs in the labs, where
# load-kvm is; skips elsewhere.  KTAP; exit status 0 passed, 1 failed, 4 skipped.
# usage: reload_test.sh [-n RELOADS]	(-d and -s, as other tests have them, say nothing here)
# shellcheck shell=dash
set -u
reloads=5
while getopts n:d:s: option; do
	case $option in
	n) reloads=$OPTARG ;;
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
result 1 "$good" "reload with a racing open # reloads $n wanted $reloads opened $opened found_busy $busy"

# Kills a VM of which so many pages were announced to be away that some still are: workers
# sleep for them.  Nothing but the VM's own end keeps the module from going.
kill_vm()
{
	echo 1 >$events/kvm_async_pf_not_present/enable || return
	"$here/apf_test" -d 1000 -c 'many at once' -s "$1" >/dev/null 2>&1 &
	until [ "$(grep -c kvm_async_pf_not_present: $trace/trace)" -ge $((64 + $1)) ]; do
		kill -0 $! 2>/dev/null || return
		sleep 0.01
	done
	kill -KILL $!
}

trace=/sys/kernel/tracing
events=$trace/events/kvm
busy=0
n=0
while [ "$n" -lt $((reloads * 4)) ] && kill_vm "$n" && load patched; do
	wait
	n=$((n + 1))
	echo "# killed and reloaded $n of $((reloads * 4)) times" >&2
done
[ "$n" = $((reloads * 4)) ] && [ -c /dev/kvm ] && good=yes || good=no
result 2 "$good" "unload beside the end of a killed VM # reloads $n wanted $((reloads * 4)) found_busy $busy"
exit $failed
