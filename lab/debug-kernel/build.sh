#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Builds a debug kernel for L1 in the svm lab, from the base's source, in the
# layout of an unpacked linux-image package.  Called by the top Makefile for
# `make debug-kernel`; scripts/build-modules then builds KVM against OUT/build.
#
#   build.sh kasan|kcsan SOURCE OUT
set -euo pipefail

# shellcheck source=scripts/help.sh
. "$(dirname "$0")/../../scripts/help.sh"

usage()
{
	echo "usage: build.sh kasan|kcsan SOURCE OUT" >&2
	exit 2
}

die()
{
	echo "debug-kernel: $*" >&2
	exit 1
}

# Options that were asked for and did not come out as asked
check_config()
{
	local line name missing=()

	while read -r line; do
		name=${line#"# "}
		name=${name%%[= ]*}
		case $line in
		CONFIG_*=*) grep -qx "$line" "$obj/.config" || missing+=("$line") ;;
		"# CONFIG_"*) ! grep -q "^$name=" "$obj/.config" || missing+=("$line") ;;
		esac
	done < <(cat "$here/common.config" "$here/$variant.config")
	[ ${#missing[@]} -eq 0 ] || die "not possible in this source: ${missing[*]}"
}

configure()
{
	mkdir -p "$obj"
	make -C "$source" O="$obj" tinyconfig
	# A later line overrides an earlier one in olddefconfig's eyes.
	cat "$here/common.config" "$here/$variant.config" >> "$obj/.config"
	make -C "$source" O="$obj" olddefconfig
	check_config
}

install_image()
{
	local release

	release=$(make -s -C "$source" O="$obj" kernelrelease)
	rm -rf "${out:?}/boot" "${out:?}/lib"
	mkdir -p "$out/boot"
	make -C "$source" O="$obj" INSTALL_MOD_PATH="$out" INSTALL_MOD_STRIP=1 modules_install
	rm -f "$out/lib/modules/$release/build"
	cp "$obj/arch/x86/boot/bzImage" "$out/boot/vmlinuz-$release"
	cp "$obj/vmlinux" "$out/boot/vmlinux-$release"
	echo "$release" > "$out/version"
}

[ $# -eq 3 ] || usage
variant=$1 source=$(realpath "$2") out=$(realpath -m "$3")
here=$(cd "$(dirname "$0")" && pwd)
[ -f "$here/$variant.config" ] || usage
[ -f "$source/Kconfig" ] || die "no kernel source in $source: run make lab-setup"
obj=$out/build

configure
make -C "$source" O="$obj" -j"$(nproc)" bzImage modules
install_image
