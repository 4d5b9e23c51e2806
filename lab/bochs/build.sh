#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# build.sh [--explore] TARBALL OUTDIR: builds the vmx lab's Bochs from Debian's source tarball with
# lab/bochs/patches, and its boot sector, into OUTDIR. Called by `make lab-setup`. With --explore
# also with lab/bochs/explore, as Bochs' instrumentation: called by `make explore`.
# The BIOS images are not built: fetch.sh gets Debian's (the tarball lacks them).
set -euo pipefail

# shellcheck source=scripts/help.sh
. "$(dirname "$0")/../../scripts/help.sh"

here=$(cd "$(dirname "$0")" && pwd)

die()
{
	echo "build.sh: $*" >&2
	exit 1
}

need()
{
	local tool

	for tool in "$@"; do
		command -v "$tool" >/dev/null || die "$tool is missing: install build-essential, xz-utils and patch"
	done
}

apply_patches()
{
	local patch

	while read -r patch; do
		case "$patch" in '' | '#'*) continue ;; esac
		patch -p1 --forward --silent -d "$1" <"$here/patches/$patch" ||
			die "$patch does not apply: is the tarball Bochs 3.0?"
	done <"$here/patches/series"
}

# Bochs knows the folders of its instrumentation by name: in the place of an example.
add_explorer()
{
	cp "$here"/explore/instrument.* "$1/instrument/example0/"
	cp "$here/explore/explore.h" "$1/cpu/"
	# Strings in one go are accesses that instrumentation is not told of.
	more=(--enable-instrumentation=instrument/example0 --disable-repeat-speedups)
}

configure_and_make()
{
	cd "$1"
	# No debugger and no plugins: speed. The idle hack is a separate patch of Debian's
	# package and so not in the tarball; patches/ has a better one.
	./configure --with-nogui --enable-smp --enable-x86-64 --enable-cpu-level=6 \
		--enable-vmx=2 --enable-svm --enable-avx --enable-evex --enable-pci \
		--enable-all-optimizations --enable-fpu --disable-docbook \
		--disable-debugger --disable-plugins "${more[@]}" CXXFLAGS="${CXXFLAGS:--O2}"
	make -j"$(nproc)"
	strip bochs
}

boot_sector()
{
	as --32 -o "$2/boot.o" "$1/boot.S"
	ld -m elf_i386 -Ttext 0x7c00 --oformat binary -o "$2/boot.bin" "$2/boot.o"
}

main()
{
	local tarball outdir work explore=''
	more=()

	[ "${1-}" != --explore ] || { explore=yes; shift; }
	[ $# -eq 2 ] || die "usage: build.sh [--explore] TARBALL OUTDIR"
	[ -r "$1" ] || die "$1 is missing: run fetch.sh"
	need g++ make patch xz as ld strip
	tarball=$(realpath "$1")
	mkdir -p "$2"
	outdir=$(realpath "$2")
	work=$(mktemp -d "$outdir/.build-XXXXXX")
	# shellcheck disable=SC2064 # the value of now
	trap "rm -rf '$work'" EXIT
	mkdir "$work/src"
	tar -xf "$tarball" -C "$work/src" --strip-components=1
	apply_patches "$work/src"
	[ -z "$explore" ] || add_explorer "$work/src"
	(configure_and_make "$work/src") >"$work/log" 2>&1 || {
		tail -n 20 "$work/log" >&2
		die "the build failed"
	}
	boot_sector "$here" "$work"
	mv "$work/boot.bin" "$outdir/boot.bin"
	mv "$work/src/bochs" "$outdir/bochs"
	echo "build.sh: $outdir/bochs"
}

main "$@"
