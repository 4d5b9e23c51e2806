#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# fetch-lava.sh DOWNLOADS OUTDIR: provides LAVA's own schemas, as the Python package
# OUTDIR/lava_common, for check-definition.py.  Debian has them in lava-common, which its
# newer releases lack; hence the package of the last one that has it is unpacked, not
# installed.  Called by the Makefile.
set -euo pipefail

# shellcheck source=scripts/help.sh
. "$(dirname "$0")/../../scripts/help.sh"

suite=bookworm

die()
{
	echo "fetch-lava: $*" >&2
	exit 1
}

# shellcheck source=lab/private-apt.sh
. "$(dirname "$0")/../../lab/private-apt.sh"

download()
{
	setup_private_apt "$state" "$suite"
	mkdir "$state/debs"
	(cd "$state/debs" && private_apt download lava-common) ||
		die "cannot download lava-common from $suite"
	rm -rf "$downloads"
	mv "$state/debs" "$downloads"
}

[ $# -eq 2 ] || die "usage: $0 DOWNLOADS OUTDIR"
downloads=$(realpath -m "$1") outdir=$(realpath -m "$2")
mkdir -p "$(dirname "$downloads")" "$(dirname "$outdir")"
# On the same file systems as the results, for mv to be atomic.
state=$(mktemp -d "$downloads.apt.XXXXXX")
new=$(mktemp -d "$outdir.XXXXXX")
trap 'rm -rf "$state" "$new"' EXIT
compgen -G "$downloads/lava-common_*.deb" >/dev/null || download
dpkg-deb -x "$downloads"/lava-common_*.deb "$new/root" ||
	die "cannot unpack; remove $downloads and run again"
rm -rf "$outdir"
mkdir "$outdir"
mv "$new/root/usr/lib/python3/dist-packages/lava_common" "$outdir/"
