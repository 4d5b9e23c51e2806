#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# build.sh IMAGE OUT: puts into OUT what boot.sh boots: the kernel of the unpacked linux-image
# package IMAGE, and an initramfs with the benchmarks. Called by the Makefile.
set -euo pipefail

# shellcheck source=scripts/help.sh
. "$(dirname "$0")/../../scripts/help.sh"

here=$(dirname "$0")
image=$1 out=$2
new=$out.new
rm -rf "$new"
mkdir -p "$new"
trap 'rm -rf "$new"' EXIT

programs=(ipi-membarrier memory-check)
for name in "${programs[@]}"; do
	gcc -O2 -Wall -Wextra -Werror -static -pthread -o "$new/$name" "$here/$name.c"
done
"$here/../../lab/mkoverlay.py" --out "$new/guest.cpio" --busybox --program hackbench \
	--add "$here/init:/init" --add "$new/ipi-membarrier:/bin/ipi-membarrier" \
	--add "$new/memory-check:/bin/memory-check"
rm "${programs[@]/#/$new/}"
cp "$image"/boot/vmlinuz-* "$new/vmlinuz"
# For L1, which has no disk: swap on a file.
xz -dc "$image"/lib/modules/*/kernel/drivers/block/loop.ko.xz >"$new/loop.ko"
rm -rf "$out"
mv "$new" "$out"
