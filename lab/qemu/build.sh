#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Builds the svm lab's QEMU from Debian trixie's source, with patches/ applied,
# into OUTDIR, in the layout of fetch.sh, whose firmware (SHARE) it takes.  Called
# by the Makefile for `make qemu`, about 4 minutes on 2 CPUs.  Meson, of which
# QEMU wants a newer one than Debian 12 has, comes from trixie too, unpacked.
#
#   build.sh DOWNLOADS SHARE OUTDIR
set -euo pipefail

# shellcheck source=scripts/help.sh
. "$(dirname "$0")/../../scripts/help.sh"

here=$(cd "$(dirname "$0")" && pwd)

die() {
	echo "build-qemu: $*" >&2
	exit 1
}

# shellcheck source=lab/private-apt.sh
. "$here/../private-apt.sh"

# The .dsc may answer 404 while the tarball is there: that is enough.
download() {
	setup_private_apt "$state" trixie
	mkdir "$state/source"
	cd "$state/source"
	private_apt source --download-only qemu || true
	private_apt download meson python3-pycotap || die "cannot download meson from trixie"
	compgen -G 'qemu_10.0.*.orig.tar.xz' >/dev/null ||
		die "trixie's mirror gave no QEMU source; is there a network?"
	rm -rf "$downloads"
	mv "$state/source" "$downloads"
	cd /
}

unpack() {
	local p

	mkdir "$state/qemu" "$state/python"
	tar xf "$downloads"/qemu_10.0.*.orig.tar.xz -C "$state/qemu" --strip-components=1
	for p in "$downloads"/*.deb; do
		dpkg-deb -x "$p" "$state/python"
	done
	# The firmware is not in Debian's source; it comes from its packages.
	echo 'roms = []' > "$state/qemu/pc-bios/meson.build"
	# What L1 has (lab/emulators.py), the ports that avic_test.py's program talks through, and the
	# disk of the machines of selftests/install.py.
	printf 'CONFIG_%s=y\n' Q35 SERIAL_ISA ISA_DEBUG VIRTIO_PCI VIRTIO_BLK \
		> "$state/qemu/configs/devices/x86_64-softmmu/l1.mak"
	for p in "$here"/patches/*.patch; do
		patch -d "$state/qemu" -p1 --fuzz=0 --batch < "$p" ||
			die "$(basename "$p") does not apply to $(ls "$downloads"/*.orig.tar.xz)"
	done
}

build() {
	export PYTHONPATH=$state/python/usr/lib/python3/dist-packages
	mkdir "$state/build"
	cd "$state/build"
	../qemu/configure --python=/usr/bin/python3 --target-list=x86_64-softmmu \
		--without-default-features --without-default-devices --with-devices-x86_64=l1 \
		--enable-tcg --enable-kvm --enable-system --enable-trace-backends=nop --disable-docs \
		--disable-install-blobs --disable-debug-info
	precompile
	ninja qemu-system-x86_64
	cd /
}

# Each of a thousand files begins with the same header.  The
# compiler takes what was made with the file's own macros, which differ by library.
precompile() {
	local command library gch=../qemu/include/qemu/osdep.h.gch

	ninja config-poison.h
	mkdir "$gch"
	for library in libcommon libqemuutil libqemu-x86_64-softmmu; do
		command=$(jq -r --arg of "$library.a.p/" '[.[] | select(.output | startswith($of))][0].command' \
			compile_commands.json | sed -E 's/ -M[DQF].*//')
		bash -c "$command -x c-header ${gch%.gch} -o $gch/$library"
	done
}

[ $# -eq 3 ] || { echo "usage: $0 DOWNLOADS SHARE OUTDIR" >&2; exit 2; }
downloads=$(realpath -m "$1") share=$(realpath "$2") outdir=$(realpath -m "$3")
mkdir -p "$(dirname "$downloads")" "$(dirname "$outdir")"
state=$(mktemp -d "$outdir.build.XXXXXX")
trap 'rm -rf "$state"' EXIT
[ -d "$downloads" ] || download
unpack
build
mkdir "$state/out"
strip -o "$state/out/qemu-system-x86_64" "$state/build/qemu-system-x86_64"
cp -rL "$share" "$state/out/share"
"$state/out/qemu-system-x86_64" --version | head -n 1 || die "the QEMU built does not run"
rm -rf "$outdir"
mv "$state/out" "$outdir"
