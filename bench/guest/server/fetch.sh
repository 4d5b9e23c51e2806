#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# fetch.sh DOWNLOADS OUTDIR: Debian's nginx, of this machine's release, unpacked into OUTDIR. It is
# not installed: that would start one here. Called by the Makefile.
set -euo pipefail

# shellcheck source=scripts/help.sh
. "$(dirname "$0")/../../../scripts/help.sh"

die()
{
	echo "fetch-nginx: $*" >&2
	exit 1
}

# shellcheck source=lab/private-apt.sh
. "$(dirname "$0")/../../../lab/private-apt.sh"

download()
{
	# shellcheck disable=SC1091 # not ours
	setup_private_apt "$state" "$(. /etc/os-release && echo "$VERSION_CODENAME")"
	mkdir "$state/debs"
	(cd "$state/debs" && private_apt download nginx) || die "cannot download nginx"
	rm -rf "$downloads"
	mv "$state/debs" "$downloads"
}

[ $# -eq 2 ] || { echo "usage: $0 DOWNLOADS OUTDIR" >&2; exit 2; }
downloads=$(realpath -m "$1") outdir=$(realpath -m "$2")
mkdir -p "$(dirname "$downloads")" "$(dirname "$outdir")"
state=$(mktemp -d "$outdir.apt.XXXXXX")
trap 'rm -rf "$state"' EXIT

[ -d "$downloads" ] || download
dpkg-deb -x "$downloads"/nginx_*.deb "$state/out" || die "cannot unpack; remove $downloads and run again"
[ -x "$state/out/usr/sbin/nginx" ] || die "the package has no /usr/sbin/nginx"
rm -rf "$outdir"
mv "$state/out" "$outdir"
