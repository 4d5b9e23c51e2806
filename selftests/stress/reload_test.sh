#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# KVM is unloaded and loaded again while other processes try to open /dev/kvm
# and to make VMs.  Runs in the labs, where load-kvm is; skips elsewhere.
# KTAP; exit status 0 passed, 1 failed, 4 skipped.
# usage: reload_test.sh [RELOADS]
# shellcheck shell=dash
set -u
reloads=${1:-5}
done_file=/tmp/reload-done

echo "KTAP version 1"
if ! command -v load-kvm >/dev/null || [ ! -d /lab/kvm/patched ]; then
	echo "1..0 # SKIP no load-kvm here: this runs in the labs"
	exit 4
fi
echo "1..1"

# Opens until told to stop; each success is a byte in $1.
opener()
{
	while [ ! -e "$done_file" ]; do
		(exec 3</dev/kvm) 2>/dev/null && printf x >>"$1"
	done
}

rm -f "$done_file" /tmp/opened.*
opener /tmp/opened.1 &
opener /tmp/opened.2 &
busy=0
n=0
while [ "$n" -lt "$reloads" ]; do
	for set in stock patched; do
		# An opener may hold the module for a moment.
		until load-kvm "$set" 2>/tmp/load-kvm.err; do
			busy=$((busy + 1))
			[ "$busy" -lt 1000 ] || break 3
		done
	done
	n=$((n + 1))
	echo "# reloaded $n of $reloads times" >&2
done
touch "$done_file"
wait
opened=$(cat /tmp/opened.* 2>/dev/null | wc -c)
text="reload with a racing open # reloads $n wanted $reloads opened $opened found_busy $busy"
if [ "$n" = "$reloads" ] && [ "$opened" -gt 0 ] && [ -c /dev/kvm ]; then
	echo "ok 1 $text"
	exit 0
fi
echo "not ok 1 $text; $(cat /tmp/load-kvm.err)"
exit 1
