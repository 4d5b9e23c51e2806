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
	[ -d "$here/patches/$base" ] || die "no patches for Linux $base; supported: $(cd "$here/patches" && echo [0-9]*)"
}

# Everything that the series touches, other architectures included where the source has them.  Not
# by tar, to which a file has changed when series-check makes a link to it meanwhile.
copy_base() {
	local to
	to=$(realpath "$new")
	(cd "$source" && cp -a --parents -t "$to" arch/*/kvm arch/*/include/asm/kvm*.h \
		include/linux/kvm*.h virt/kvm Documentation/virt/kvm tools/testing/selftests/kvm)
}

# copy_guest_base TREE: what the set `guest` changes besides.
copy_guest_base() {
	local name names to
	to=$(realpath "$1")
	names=$(patches_in guest)
	for name in $names; do
		sed -n 's,^--- a/,,p' "$(patch_file "$name")"
	done | sort -u | (cd "$source" && xargs cp -a --parents --no-clobber -t "$to")
}

# patch_file NAME: a patch of the base's own or of all bases; nothing where the base has none.
patch_file() {
	local file
	for file in "$here/patches/$base/$1.patch" "$here/patches/common/$1.patch"; do
		[ ! -e "$file" ] || { echo "$file"; return; }
	done
}

# set_of NAME: the set of mails that a patch belongs to.
set_of() {
	awk -v name="$1" '!/^#/ && $2 == name { print $1 }' "$here/patches/series"
}

# patches: the names of the base's patches, in order.
patches() {
	local set name bases
	while read -r set name bases; do
		case $set in '' | '#'*) continue ;; esac
		case " $bases " in "  " | *" $base "*) ;; *) continue ;; esac
		[ -n "$(patch_file "$name")" ] || die "there is no patch $name for Linux $base"
		echo "$name"
	done < "$here/patches/series"
}

# sets: of mails, in order.
sets() {
	awk '!/^#/ && NF && !seen[$1]++ { print $1 }' "$here/patches/series"
}

# host_patches: the names of those that change KVM, and not what a guest of it runs.
host_patches() {
	local name known
	known=$(patches)
	for name in $known; do
		[ "$(set_of "$name")" = guest ] || echo "$name"
	done
}

# patches_in SET...: those of these sets only.
patches_in() {
	local known name set
	known=$(sets)
	for set; do
		grep -qxF -- "$set" <<<"$known" || die "patches/series has no set $set"
	done
	known=$(patches)
	for name in $known; do
		case " $* " in *" $(set_of "$name") "*) echo "$name" ;; esac
	done
}

# Each patch has its place, and each source arrives with one.
check_names() {
	local from to with file known
	known=$(patches)
	for file in "$here/patches/$base"/*.patch; do
		file=$(basename "$file" .patch)
		grep -qxF -- "$file" <<<"$known" || die "patches/series has no $file for Linux $base"
	done
	for file in "$here/patches/common"/*.patch; do
		[ -n "$(set_of "$(basename "$file" .patch)")" ] || die "patches/series has no $(basename "$file")"
	done
	while read -r from to with; do
		case $from in '' | '#'*) continue ;; esac
		grep -qxF -- "$with" <<<"$known" ||
			die "patches/landing: $from is to land with $with, which is no patch of Linux $base"
	done < "$here/patches/landing"
}

# land NAME: the sources that do not depend on the kernel version, those that come with a patch.
land() {
	local from to with
	while read -r from to with; do
		case $from in '' | '#'*) continue ;; esac
		[ "$1" = "$with" ] || continue
		case $to in
		tools/*/x86/*) [ -d "$new/${to%%/x86/*}/x86" ] || to=${to/\/x86\///x86_64/} ;;
		esac
		install -D -m 644 "$here/$from" "$new/$to"
	done < "$here/patches/landing"
}
