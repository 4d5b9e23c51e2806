#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# fetch.sh DOWNLOADS OUTDIR: gets the Bochs 3.0 source tarball and the BIOS images of Debian
# trixie, the former to DOWNLOADS, the latter to OUTDIR. Called by `make lab-setup`.
# Works with an apt state of its own: changes nothing in the host's, installs nothing.
# Mirror and keyring are the host's. What is there and whole is not fetched again.
set -euo pipefail

# shellcheck source=scripts/help.sh
. "$(dirname "$0")/../../scripts/help.sh"

suite=trixie
tarball=bochs_3.0+dfsg.orig.tar.xz

die()
{
	echo "fetch.sh: $*" >&2
	exit 1
}

# shellcheck source=lab/private-apt.sh
. "$(dirname "$0")/../private-apt.sh"

# SHA256 of the tarball in the Sources index that apt has verified.
expected_sum()
{
	# shellcheck disable=SC2016 # apt's own variable
	private_apt indextargets --format '$(FILENAME)' 'Created-By: Sources' |
		while read -r index; do /usr/lib/apt/apt-helper cat-file "$index"; done |
		awk -v file="$tarball" '
			/^Checksums-Sha256:/ { inside = 1; next }
			/^[^ ]/ { inside = 0 }
			inside && $3 == file && !n++ { print $1 }'
}

# The .dsc may be gone (404) when a newer one has replaced it; the tarball stays.
fetch_tarball()
{
	local sum

	sum=$(expected_sum)
	[ -n "$sum" ] || die "$suite has no $tarball any more"
	(cd "$state" && private_apt source --download-only bochs) >"$state/log" 2>&1 || true
	[ -s "$state/$tarball" ] || {
		tail -n 5 "$state/log" >&2
		die "$tarball could not be fetched"
	}
	echo "$sum  $state/$tarball" | sha256sum --check --quiet || die "$tarball: wrong checksum"
	mv "$state/$tarball" "$downloads/$tarball"
}

fetch_bios()
{
	(cd "$state" && private_apt download bochsbios vgabios) || die "BIOS packages could not be fetched"
	for deb in "$state"/bochsbios_*.deb "$state"/vgabios_*.deb; do
		dpkg -x "$deb" "$state/bios"
	done
	mv "$state/bios/usr/share/bochs/BIOS-bochs-latest" "$outdir/"
	mv "$state/bios/usr/share/vgabios/vgabios.bin" "$outdir/VGABIOS-lgpl-latest"
}

main()
{
	[ $# -eq 2 ] || die "usage: fetch.sh DOWNLOADS OUTDIR"
	mkdir -p "$1" "$2"
	downloads=$(realpath "$1")
	outdir=$(realpath "$2")
	if [ -s "$downloads/$tarball" ] && [ -s "$outdir/BIOS-bochs-latest" ] &&
		[ -s "$outdir/VGABIOS-lgpl-latest" ]; then
		return
	fi
	state=$(mktemp -d "$downloads/.apt-XXXXXX")
	# shellcheck disable=SC2064 # the value of now
	trap "rm -rf '$state'" EXIT
	setup_private_apt "$state" "$suite"
	[ -s "$downloads/$tarball" ] || fetch_tarball
	fetch_bios
	echo "fetch.sh: $downloads/$tarball and the BIOS images in $outdir"
}

main "$@"
