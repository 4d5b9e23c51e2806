#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Builds a small kernel from the base's source: small.config and CONFIG on top of tinyconfig, in
# the layout of an unpacked linux-image package.  Called by the top Makefile, for L1's debug
# kernels, against whose OUT/build scripts/build-modules then builds KVM, and for the guest's.
#
#   build.sh SOURCE OUT CONFIG...
set -euo pipefail

# shellcheck source=scripts/help.sh
. "$(dirname "$0")/../../scripts/help.sh"

usage()
{
	echo "usage: build.sh SOURCE OUT CONFIG..." >&2
	exit 2
}

die()
{
	echo "small-kernel: $*" >&2
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
	done < <(cat "${configs[@]}")
	[ ${#missing[@]} -eq 0 ] || die "not possible in this source: ${missing[*]}"
}

configure()
{
	mkdir -p "$obj"
	make -C "$source" O="$obj" tinyconfig
	# A later line overrides an earlier one in olddefconfig's eyes.
	cat "${configs[@]}" >> "$obj/.config"
	make -C "$source" O="$obj" olddefconfig
	check_config
}

install_image()
{
	local release

	release=$(make -s -C "$source" O="$obj" kernelrelease)
	rm -rf "${out:?}/boot" "${out:?}/lib"
	mkdir -p "$out/boot"
	[ ${#modules[@]} -eq 0 ] ||
		make -C "$source" O="$obj" INSTALL_MOD_PATH="$out" INSTALL_MOD_STRIP=1 modules_install
	rm -f "$out/lib/modules/$release/build"
	cp "$obj/arch/x86/boot/bzImage" "$out/boot/vmlinuz-$release"
	cp "$obj/vmlinux" "$out/boot/vmlinux-$release"
	echo "$release" > "$out/version"
}

[ $# -ge 3 ] || usage
source=$(realpath "$1") out=$(realpath -m "$2")
shift 2
configs=("$(dirname "$0")/small.config" "$@")
[ -f "$source/Kconfig" ] || die "no kernel source in $source: run make lab-setup"
obj=$out/build

configure
modules=()
! grep -qx CONFIG_MODULES=y "$obj/.config" || modules=(modules)
make -C "$source" O="$obj" -j"$(nproc)" bzImage "${modules[@]}"
install_image
