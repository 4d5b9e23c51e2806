#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# build.sh IMAGE OUT: puts into OUT what boot.sh boots: the kernel of the unpacked linux-image
# package IMAGE, and an initramfs with the benchmarks. Called by the Makefile.
set -euo pipefail

here=$(dirname "$0")
image=$1 out=$2
new=$out.new
rm -rf "$new"
mkdir -p "$new"
trap 'rm -rf "$new"' EXIT

gcc -O2 -Wall -Wextra -Werror -static -pthread -o "$new/ipi-membarrier" "$here/ipi-membarrier.c"
"$here/../../lab/mkoverlay.py" --out "$new/guest.cpio" --busybox --program hackbench \
	--add "$here/init:/init" --add "$new/ipi-membarrier:/bin/ipi-membarrier"
rm "$new/ipi-membarrier"
cp "$image"/boot/vmlinuz-* "$new/vmlinuz"
rm -rf "$out"
mv "$new" "$out"
