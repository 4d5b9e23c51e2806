#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# fetch.sh DOWNLOADS OUTDIR: provides herd7, which runs the litmus tests, as
# OUTDIR/herd7.  It comes from Debian's herdtools7, which no supported Debian
# release has yet and which wants a newer libc than theirs.  Hence the packages
# are unpacked with all that they depend on, not installed, and herd7 runs with
# the dynamic linker and the libraries of its own suite.  Changes nothing in the
# host, and needs no package that a Debian with apt lacks.
set -euo pipefail

# shellcheck source=scripts/help.sh
. "$(dirname "$0")/../../scripts/help.sh"

suites=(forky sid)

die() {
	echo "fetch-herd7: $*" >&2
	exit 1
}

usage() {
	echo "usage: $0 DOWNLOADS OUTDIR"
	echo "Unpacks Debian's herd7 with its libraries, for OUTDIR/herd7.  The packages"
	echo "stay in DOWNLOADS; with them there, no network is needed."
}

# shellcheck source=lab/private-apt.sh
. "$(dirname "$0")/../../lab/private-apt.sh"

# The Release file of a suite under development may be past its Valid-Until on a
# mirror that lags.  Its signature is checked all the same.
accept_old_release() {
	{
		[ -z "${APT_CONFIG:-}" ] || cat "$APT_CONFIG"
		echo 'Acquire::Check-Valid-Until "false";'
	} >"$1/apt.conf"
	export APT_CONFIG=$1/apt.conf
}

# download SUITE: its herdtools7, and the closure of what that depends on, to
# $downloads.  Apt works on an empty system, so it leaves nothing out.
download() {
	local dir=$state/$1

	mkdir "$dir" || return
	accept_old_release "$dir" || return
	setup_private_apt "$dir" "$1"
	private_apt install -y --download-only --no-install-recommends herdtools7 ||
		die "cannot download herdtools7 from $1; is there a network?"
	rm -rf "$downloads" && mkdir "$dir/debs" &&
		mv "$dir"/cache/archives/*.deb "$dir/debs/" && mv "$dir/debs" "$downloads"
}

download_any() {
	local suite

	for suite in "${suites[@]}"; do
		# In a subshell, so that the next suite follows one that failed.
		(download "$suite") && return
	done
	die "no herdtools7 in ${suites[*]}; look at what apt said, then run again"
}

# Only what herd7 needs of the packages, which is a tenth of them.
unpack() {
	local deb lib

	for deb in "$downloads"/*.deb; do
		dpkg-deb -x "$deb" "$new/root" ||
			die "$deb: cannot unpack; remove $downloads and run again"
	done
	lib=$(find "$new/root" -name 'ld-linux*.so.*' -type f -print -quit)
	[ -n "$lib" ] || die "no dynamic linker in $downloads; remove it and run again"
	mv "$(dirname "$lib")" "$new/lib"
	ln -s "$(basename "$lib")" "$new/lib/ld.so"
	mkdir "$new/bin"
	mv "$new/root/usr/bin/herd7" "$new/bin/"
	mv "$new/root/usr/share/herdtools7/herd" "$new/share"
	rm -rf "$new/root" "$new/lib/gconv"
}

write_wrapper() {
	cat >"$1" <<-'END'
		#!/bin/sh
		here=$(dirname "$(realpath "$0")")
		exec "$here/lib/ld.so" --library-path "$here/lib" "$here/bin/herd7" \
			-set-libdir "$here/share" "$@"
	END
	chmod 755 "$1"
}

# works HERD7: it runs a test, with a model out of its own files.
works() {
	printf 'C x\n{}\nP0(int *x) { *x = 1; }\nexists (x=1)\n' >"$state/x.litmus"
	"$1" -model sc.cat "$state/x.litmus" >"$state/log" 2>&1 &&
		grep -q '^Observation x Always' "$state/log"
}

main() {
	case ${1:-} in -h | --help) usage; return ;; esac
	[ $# -eq 2 ] || { usage >&2; exit 2; }
	downloads=$(realpath -m "$1") outdir=$(realpath -m "$2")
	mkdir -p "$(dirname "$downloads")" "$(dirname "$outdir")"
	# On the same file systems as the results, for mv to be atomic.
	state=$(mktemp -d "$downloads.apt.XXXXXX")
	trap 'rm -rf "$state" "${new:-}"' EXIT
	if [ -x "$outdir/herd7" ] && works "$outdir/herd7"; then return; fi
	new=$(mktemp -d "$outdir.XXXXXX")
	compgen -G "$downloads/herdtools7_*.deb" >/dev/null || download_any
	unpack
	write_wrapper "$new/herd7"
	works "$new/herd7" || die "herd7 does not run; remove $downloads and run again"
	chmod 755 "$new"
	rm -rf "$outdir"
	mv "$new" "$outdir"
	echo "herd7 $("$outdir/herd7" -version)"
}

main "$@"
