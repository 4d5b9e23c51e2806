# SPDX-License-Identifier: GPL-2.0
# Sourced by programs ahead of all else: with --help, the comment at their head is printed.
# shellcheck shell=sh
if [ "${1-}" = --help ]; then
	sed -n '3,/^[^#]/{/^# shellcheck/d;s/^# \{0,1\}//p;}' "$0"
	exit 0
fi
