#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# exits.sh [COMMAND...]: VM-Exits by reason, their number and the time in the host that each
# took, while COMMAND runs: perf kvm stat record and report. POSTS, STORM, PERF: recipe.sh.
# Exit status: 0, 1 a failure, 4 no KVM here; else the command's.
# shellcheck shell=dash
# shellcheck source=bench/perf/recipe.sh
. "$(dirname "$0")/recipe.sh"

under "$perf" kvm --host stat record -o "$work/data" "$@"
# The report is written to standard error.
"$perf" kvm --host -i "$work/data" stat report >"$work/report" 2>&1 ||
	die "perf kvm stat report: $(tail -n 1 "$work/report")"
grep -v '^$' "$work/report"
