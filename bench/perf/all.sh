#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# all.sh [COMMAND...]: every recipe, one after the other; a recipe that this machine cannot run
# is skipped. Called by `make perf` in L1.
# Exit status: 0 or that of the first recipe that failed.
# shellcheck shell=dash
set -u
for recipe in count latency exits c2c; do
	echo "== $recipe"
	status=0
	"$(dirname "$0")/$recipe.sh" "$@" 2>&1 || status=$?
	case $status in 0) ;; 4) echo "skipped" ;; *) exit "$status" ;; esac
done
