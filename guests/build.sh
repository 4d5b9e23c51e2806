#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Builds the static programs that run inside L1, against a kernel tree's KVM
# selftests library: kvm-mode-bench, with --stress the project's stress tests,
# with --selftests the kernel's own. Called by the top Makefile; KERNEL_TREE
# itself is not written to.
#
#   build.sh [--stress | --selftests] KERNEL_TREE OUTDIR
set -euo pipefail

# shellcheck source=scripts/help.sh
. "$(dirname "$0")/../scripts/help.sh"

usage()
{
	echo "usage: build.sh [--stress | --selftests] KERNEL_TREE OUTDIR" >&2
	exit 2
}

die()
{
	echo "build.sh: $*" >&2
	exit 1
}

# run LOG COMMAND...: quiet unless it fails
run()
{
	local log=$1

	shift
	"$@" >"$log" 2>&1 && return
	tail -n 20 "$log" >&2
	die "failed: $* (all of its output: $log)"
}

# User-space headers of the tree, once per tree; another tree starts afresh
headers()
{
	local done=$work/headers.done

	[[ -e $done && $(<"$done") == "$tree" ]] && return
	rm -rf "$work"
	mkdir -p "$work"
	run "$work/headers.log" make -C "$tree" O="$work/headers" headers
	echo "$tree" >"$done"
}

kvm_make()
{
	make -C "$kvm" OUTPUT="$work/$1" \
		KHDR_INCLUDES="-isystem $work/headers/usr/include" "${@:2}"
}

# The constructors of the library print to stdout unless QUIET
libkvm()
{
	run "$work/libkvm.log" kvm_make libkvm -f "$here/libkvm.mk" \
		EXTRA_CFLAGS=-DQUIET "$work/libkvm/libkvm.a"
}

# compile SOURCE: an object in $work, named after the source
compile()
{
	local src=$1 name extra=()

	name=$(basename "$src" .c)
	# Guest code takes interrupts on its own stack, and they save no SSE.
	case $name in
	*_guest | *-guest) extra=(-mno-red-zone -mgeneral-regs-only) ;;
	esac
	grep -qw vm_alloc "$kvm/include/kvm_util.h" || extra+=(-include "$here/old-library.h")
	! grep -q 'prepare_vmcs.*guest_rsp' "$kvm"/include/x86*/vmx.h || extra+=(-DL2_STACK_ARGUMENT)
	gcc -std=gnu11 -O2 -g -Wall -Wextra -Werror -D_GNU_SOURCE -DQUIET \
		-DCONFIG_64BIT -U_FORTIFY_SOURCE -fno-stack-protector -fno-PIE \
		-fno-strict-aliasing -fcf-protection=none \
		-fno-builtin-memcmp -fno-builtin-memcpy -fno-builtin-memset \
		-fno-builtin-strnlen "${extra[@]}" \
		-isystem "$kvm/include" -isystem "$kvm/include/x86_64" \
		-isystem "$kvm/include/x86" \
		-isystem "$tree/tools/include" \
		-isystem "$tree/tools/arch/x86/include" \
		-isystem "$work/headers/usr/include" \
		-isystem "$kvm/.." -I "$here" -I "$program" -I "$here/../selftests/probe" -isystem "$here/../kvm" -c "$src" -o "$work/$name.o"
}

# link OUTPUT OBJECT...
link()
{
	local output=$1

	shift
	gcc -static -no-pie -pthread "${@/#/$work/}" "$work/libkvm/libkvm.a" \
		-lm -o "$work/$(basename "$output")"
	strip -o "$output.new" "$work/$(basename "$output")"
	mv "$output.new" "$output"
}

# library: what benchmarks and stress tests share
library()
{
	local src

	libkvm
	shared=()
	for src in "$here"/*.c; do
		compile "$src"
		shared+=("$(basename "$src" .c).o")
	done
}

build_bench()
{
	local src objs=()

	library
	for src in "$program"/*.c; do
		compile "$src"
		objs+=("$(basename "$src" .c).o")
	done
	link "$out/kvm-mode-bench" "${objs[@]}" "${shared[@]}"
}

# Every NAME_test.c of selftests/stress with what all of them share, and with
# its guest, NAME_guest.c, where there is one.
build_stress()
{
	local stress=$here/../selftests/stress src name objs

	library
	mkdir -p "$out/stress"
	compile "$stress/stress.c"
	compile "$stress/apf_step.c"
	for src in "$stress"/*_test.c; do
		name=$(basename "$src" .c)
		objs=("$name.o" stress.o apf_step.o "${shared[@]}")
		compile "$src"
		if [[ -e ${src/_test.c/_guest.c} ]]; then
			compile "${src/_test.c/_guest.c}"
			objs+=("${name/_test/_guest}.o")
		fi
		link "$out/stress/$name" "${objs[@]}"
	done
	install -t "$out/stress" "$stress"/*_test.sh
}

build_explore()
{
	library
	compile "$here/../selftests/explore/explore.c"
	compile "$here/../selftests/explore/explore_guest.c"
	link "$out/explore" explore.o explore_guest.o "${shared[@]}"
}

# -k: a test that cannot be linked statically is left out, and named
build_selftests()
{
	local all=$work/selftests name n

	kvm_make selftests -j2 -k LDFLAGS=-static all \
		>"$work/selftests.log" 2>&1 || true
	rm -rf "$out/selftests.new"
	mkdir -p "$out/selftests.new"
	for name in "$all" "$all"/x86_64 "$all"/x86; do
		[[ -d $name ]] || continue
		find "$name" -maxdepth 1 -type f -perm -u+x ! -name '*.[od]' \
			-exec install -s -t "$out/selftests.new" {} +
	done
	n=$(find "$out/selftests.new" -type f | wc -l)
	[[ $n -gt 0 ]] ||
		die "no selftest was built, see $work/selftests.log"
	grep -oE "\[[^]]*/selftests/[^]]*\] Error" "$work/selftests.log" |
		sed 's/^/build.sh: left out: /' >&2 || true
	rm -rf "$out/selftests"
	mv "$out/selftests.new" "$out/selftests"
	echo "build.sh: $n selftests in $out/selftests"
}

mode=bench
case ${1:-} in
--selftests | --stress | --explore)
	mode=${1#--}
	shift
	;;
esac
[[ $# -eq 2 ]] || usage
here=$(cd "$(dirname "$0")" && pwd)
program=$here/../bench/program
[[ -e $1/tools/testing/selftests/kvm/Makefile ]] ||
	die "$1 is no kernel tree with KVM selftests: unpack linux-source-6.12 and name it"
tree=$(cd "$1" && pwd)
kvm=$tree/tools/testing/selftests/kvm
mkdir -p "$2"
out=$(cd "$2" && pwd)
work=$out/kvm-mode-bench.build

headers
"build_$mode"
