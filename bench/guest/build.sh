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

programs=(ipi-membarrier memory-check lost-page stop-check)
add=()
for name in "${programs[@]}"; do
	add+=(--add "$new/$name:/bin/$name")
	gcc -O2 -Wall -Wextra -Werror -static -pthread -o "$new/$name" "$here/$name.c"
done
"$here/../../lab/mkoverlay.py" --out "$new/guest.cpio" --busybox --program hackbench \
	--add "$here/init:/init" "${add[@]}"
rm "${programs[@]/#/$new/}"
# A file system with a file that takes the last three quarters of it.
mkdir "$new/pmem"
truncate -s 24M "$new/pmem/data"
PATH=$PATH:/sbin mke2fs -q -t ext4 -b 4096 -O ^has_journal -d "$new/pmem" "$new/pmem.img" 32M >/dev/null
gzip "$new/pmem.img"
rm -r "$new/pmem"
cp "$image"/boot/vmlinuz-* "$new/vmlinuz"
# For L1, which has no disk: what takes memory away from a VM, and where to.
gcc -O2 -Wall -Wextra -Werror -static -o "$new/page-out" "$here/page-out.c"
for module in drivers/block/null_blk/null_blk fs/configfs/configfs; do
	xz -dc "$image"/lib/modules/*/kernel/$module.ko.xz >"$new/${module##*/}.ko"
done
rm -rf "$out"
mv "$new" "$out"
