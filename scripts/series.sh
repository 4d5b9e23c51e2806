# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0
# The series and the kernel it is for: sourced by prepare-tree and make-series, which set
# here (this repository), base, source (the kernel's) and new (the tree to make), and
# provide die().
# shellcheck disable=SC2154 # those variables

check_base() {
	local have
	[ -f "$source/Makefile" ] || die "no kernel source in $source"
	have=$(awk -F ' *= *' '/^VERSION|^PATCHLEVEL/ { v = v "." $2 } END { print substr(v, 2) }' \
		"$source/Makefile")
	[ "$have" = "$base" ] || die "$source is Linux $have, not $base"
	[ -d "$here/patches/$base" ] || die "no patches for Linux $base; supported: $(ls "$here/patches")"
}

# Everything that the series touches, other architectures included where the source has them.
copy_base() {
	(cd "$source" && tar cf - arch/*/kvm arch/*/include/asm/kvm*.h \
		include/linux/kvm*.h virt/kvm Documentation/virt/kvm \
		tools/testing/selftests/kvm) | tar xf - -C "$new"
}

# land PATCH: the sources that do not depend on the kernel version, those that come with
# a patch, by its file name, or all if it is empty.
land() {
	local from to with
	while read -r from to with; do
		case $from in '' | '#'*) continue ;; esac
		case $1 in "" | *"-$with.patch") ;; *) continue ;; esac
		case $to in
		tools/*/x86/*) [ -d "$new/${to%%/x86/*}/x86" ] || to=${to/\/x86\///x86_64/} ;;
		esac
		install -D -m 644 "$here/$from" "$new/$to"
	done < "$here/patches/landing"
}
