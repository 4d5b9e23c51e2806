# SPDX-License-Identifier: GPL-2.0
# What the recipes share: the command that is measured, and what must be there. Sourced by
# them; each takes a command to measure, or measures a run of kvm-mode-bench. Needs root.
# shellcheck shell=dash
set -eu
perf=${PERF:-perf}

die()
{
	echo "$(basename "$0"): $1" >&2
	exit "${2:-1}"
}

# The recipe's own head, as --help.
usage()
{
	sed -n '3,/^[^#]/{/shellcheck/d; s/^# \{0,1\}//p}' "$0"
	exit 0
}

case ${1:-} in -h | --help) usage ;; esac
command -v "$perf" >/dev/null || die "no $perf: install linux-perf, or set PERF"
[ "$(id -u)" = 0 ] || die "tracepoints need root"
[ -d /sys/kernel/tracing/events/kvm ] || die "no KVM tracepoints: load the kvm modules, mount tracefs" 4
if [ $# -eq 0 ]; then
	# shellcheck disable=SC2086 # options
	set -- kvm-mode-bench post --workload exits --posts "${POSTS:-20000}" --no-trace-kicks \
		${STORM:-}
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

has_event()
{
	[ -d "/sys/kernel/tracing/events/$1" ]
}

# Runs the command under perf; its output only when something fails.
under()
{
	"$@" >"$work/out" 2>&1 || {
		status=$?
		cat "$work/out" >&2
		die "$perf or the command failed" "$status"
	}
}
