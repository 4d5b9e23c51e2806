#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# c2c.sh [COMMAND...]: which cache lines bounce between CPUs while COMMAND runs, by precise
# memory sampling: perf c2c. The flag is in struct kvm_vcpu_arch (docs/placement.md says in which
# line, and with what). Needs a CPU that samples memory accesses (Intel PEBS, AMD IBS): emulators
# and most virtual machines do not. POSTS, STORM, PERF: recipe.sh.
# Exit status: 0, 1 a failure, 4 this machine cannot; else the command's.
# shellcheck shell=dash
# shellcheck source=bench/perf/recipe.sh
. "$(dirname "$0")/recipe.sh"

"$perf" c2c record -o "$work/probe" -- true >"$work/err" 2>&1 ||
	die "no memory sampling here: $(tail -n 1 "$work/err")" 4
under "$perf" c2c record -a -o "$work/data" -- "$@"
"$perf" c2c report -i "$work/data" --stdio 2>"$work/err" | sed -n '/Shared Data Cache Line Table/,$p' |
	head -n 60
