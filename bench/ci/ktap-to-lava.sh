#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# Runs a command that prints KTAP, or reads KTAP from standard input, and hands each
# result and each figure to LAVA as it comes.  Called by the steps of kvm-mode.yaml on
# the machine under test: POSIX sh and tr, nothing else.  README.md says what becomes what.
# usage: ktap-to-lava.sh NAME [COMMAND [ARGUMENT...]]
# exit status: 0 whatever the results are, since LAVA ends a test at a step that fails;
# 2 wrong usage
# Figures and data are lists of words, hence not quoted, and set -f:
# shellcheck disable=SC2086
set -uf

# Alone, in the kit: no scripts/help.sh there
[ "${1-}" != --help ] || { sed -n 's/^# \(usage: .*\)/\1/p' "$0"; exit 0; }

# hand_over CASE ARGUMENT...
hand_over()
{
	id=$(printf %s "$1" | tr -cs A-Za-z0-9_.- _)
	shift
	lava-test-case "$id" "$@"
}

# named CASE: $of is it as LAVA has it, with a number if a result before had that name, as the
# second one would take the first one's place.
named()
{
	first=$(printf %s "$1" | tr -cs A-Za-z0-9_.- _)
	of=$first repeats=1
	while case $names in *"/$of/"*) true ;; *) false ;; esac; do
		repeats=$((repeats + 1)) of=$first-$repeats
	done
	names=$names/$of/
}

is_number()
{
	case $1 in
	*[!0-9.]* | *.*.* | .* | *. | '') return 1 ;;
	esac
}

# figure KEY NUMBER UNIT, as a diagnostic line has it ahead of its result; others have not
figure()
{
	[ $# -eq 3 ] && is_number "$2" || return 0
	case $1 in
	*[!A-Za-z0-9_.-]*) ;;
	*) figures="$figures $*" ;;
	esac
}

# counts WORD...: "key number" in a result line's data
counts()
{
	key=
	for word in "$@"; do
		word=${word%[,;]}
		case $word in
		'' | *[!0-9]*) ;;
		*) [ -z "$key" ] || figures="$figures $key $word count" ;;
		esac
		case $word in
		*[!a-z_]*) key= ;;
		*) key=$word ;;
		esac
	done
}

# result pass|fail "NUMBER [- ][CASE][ # DATA]"
result()
{
	verdict=$1 number=${2%% *} data=
	of=${2#"$number"} of=${of%%#*} of=${of# } of=${of#- } of=$name.${of:-$number}
	case $2 in *' # '*) data=${2#* # } ;; esac
	seen=$((seen + 1))
	[ "$number" = "$seen" ] || broken="result $number where $seen should be"
	case $data in
	SKIP*) verdict=skip figures='' ;;
	*) counts $data ;;
	esac
	named "${of% }"
	hand_over "$of" --result "$verdict"
	set -- $figures
	while [ $# -ge 3 ]; do
		hand_over "$of.$1" --result "$verdict" --measurement "$2" --units "$3"
		shift 3
	done
	figures=
}

line()
{
	case $1 in
	'KTAP version 1' | 'TAP version 1'[34]) started=yes ;;
	'1..0 # SKIP'*) planned=0 skipped=yes ;;
	'1..'*) planned=${1#1..} ;;
	'ok '[0-9]*) result pass "${1#ok }" ;;
	'not ok '[0-9]*) result fail "${1#not ok }" ;;
	'Bail out!'*) broken=$1 ;;
	'# '*) figure ${1#\# } ;;
	esac
}

# The whole is a case as well where its results do not say how it went.
end()
{
	[ "$seen" = "$planned" ] || broken=${broken:-"$seen results, planned: $planned"}
	[ -n "$started" ] || broken='no KTAP'
	if [ -n "$broken" ]; then
		echo "ktap-to-lava.sh: $name: $broken" >&2
		hand_over "$name" --result fail
	elif [ -n "$skipped" ]; then
		hand_over "$name" --result skip
	fi
}

if [ $# -eq 0 ]; then
	echo 'usage: ktap-to-lava.sh NAME [COMMAND [ARGUMENT...]]' >&2
	exit 2
fi
name=$1
shift
[ $# -gt 0 ] || set -- cat
return=$(printf '\r')
"$@" | {
	seen=0 planned='not said' started='' skipped='' broken='' figures='' names=''
	while IFS= read -r text || [ -n "$text" ]; do
		printf '%s\n' "$text"
		line "${text%"$return"}" </dev/null
	done
	end
}
exit 0
