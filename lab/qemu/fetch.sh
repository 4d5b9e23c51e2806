#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Provides a QEMU for the svm lab in OUTDIR: the installed one where it is new
# enough, else the distribution's backport, unpacked, not installed.  Called by
# the Makefile.
#
# Seen with QEMU 7.2, thread=multi, while VMs come and go: L1 panics with "Oops:
# int3" at a static key in __schedule(), on stock in two of three runs of 75
# seconds, and once on patched.  A CPU executes an INT3 that the kernel's text
# patching has taken back, i.e. a stale translation.  With 10.0 it is rare;
# patches/0004 mends what is left of it there.  Hence the oldest version of which
# that is known.
#
#   fetch.sh DOWNLOADS OUTDIR
set -euo pipefail

# shellcheck source=scripts/help.sh
. "$(dirname "$0")/../../scripts/help.sh"

minimum=10.0
packages=(qemu-system-x86 qemu-system-data seabios)

die() {
	echo "fetch-qemu: $*" >&2
	exit 1
}

version_of() {
	"$1" --version 2>/dev/null | sed -nE '1s/.*version ([0-9.]+).*/\1/p'
}

new_enough() {
	[ -n "$1" ] && [ "$(printf '%s\n' "$minimum" "$1" | sort -V | head -n 1)" = "$minimum" ]
}

# shellcheck source=lab/private-apt.sh
. "$(dirname "$0")/../private-apt.sh"

download() {
	local pkg suite
	# shellcheck disable=SC1091 # not ours
	suite=$(. /etc/os-release && echo "$VERSION_CODENAME")-backports
	setup_private_apt "$state" "$suite"
	mkdir "$state/debs"
	for pkg in "${packages[@]}"; do
		(cd "$state/debs" && private_apt download "$pkg") ||
			die "cannot download $pkg from $suite"
	done
	rm -rf "$downloads"
	mv "$state/debs" "$downloads"
}

unpack() {
	local pkg
	for pkg in "${packages[@]}"; do
		dpkg-deb -x "$downloads/$pkg"_*.deb "$new/root" ||
			die "$pkg: cannot unpack; remove $downloads and run again"
	done
	mv "$new/root/usr/bin/qemu-system-x86_64" "$new/"
	mkdir "$new/share"
	cp -L "$new"/root/usr/share/{qemu,seabios}/*.{bin,rom} "$new/share/" 2>/dev/null || true
	rm -rf "$new/root"
	[ -f "$new/share/bios-256k.bin" ] || die "the packages hold no BIOS"
}

[ $# -eq 2 ] || { echo "usage: $0 DOWNLOADS OUTDIR" >&2; exit 2; }
downloads=$(realpath -m "$1") outdir=$(realpath -m "$2")
mkdir -p "$(dirname "$downloads")" "$(dirname "$outdir")"
state=$(mktemp -d "$outdir.apt.XXXXXX")
new=$(mktemp -d "$outdir.XXXXXX")
trap 'rm -rf "$new" "$state"' EXIT

installed=$(command -v qemu-system-x86_64) || die "qemu-system-x86 is not installed"
if new_enough "$(version_of "$installed")"; then
	ln -s "$installed" "$new/qemu-system-x86_64"
else
	[ -d "$downloads" ] || download
	unpack
fi
found=$(version_of "$new/qemu-system-x86_64")
new_enough "$found" || die "QEMU '$found' does not run or is older than $minimum"
chmod 755 "$new"
rm -rf "$outdir"
mv "$new" "$outdir"
echo "QEMU $found"
