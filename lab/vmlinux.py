# SPDX-License-Identifier: GPL-2.0
"""Turn a packaged vmlinuz into what the vmx lab puts straight into RAM: decompressing it
inside Bochs would cost every run time. Used by emulators.py.
"""

import gzip
import lzma
import os
import struct
import subprocess
from pathlib import Path

HEADER = 4096                   # of a flat file: where it goes, its PVH entry
MAGIC = b"LABFLAT1"
PT_LOAD, PT_NOTE = 1, 4
XEN_ELFNOTE_PHYS32_ENTRY = 18
ZSTD = b"\x28\xb5\x2f\xfd"


class KernelError(Exception):
    """The kernel image is not one this can handle."""


def payload(image):
    """The compressed vmlinux within a bzImage (boot protocol 2.08 and later)."""
    if image[0x202:0x206] != b"HdrS":
        raise KernelError("not a bzImage")
    protected = (image[0x1f1] + 1) * 512
    offset, length = struct.unpack_from("<II", image, 0x248)
    return image[protected + offset:protected + offset + length]


def decompress(data):
    if data.startswith(ZSTD):   # the last four bytes are the kernel's own size field
        done = subprocess.run(["zstd", "-dc"], input=data[:-4], capture_output=True,
                              check=False)
        if done.returncode:
            raise KernelError(f"zstd: {done.stderr.decode().strip()}")
        return done.stdout
    if data.startswith(b"\xfd7zXZ"):
        return lzma.LZMADecompressor().decompress(data)
    if data.startswith(b"\x1f\x8b"):
        return gzip.decompress(data[:-4])
    if data.startswith(b"\x7fELF"):
        return data
    raise KernelError("unknown compression")


def program_headers(elf):
    offset, = struct.unpack_from("<Q", elf, 32)
    size, count = struct.unpack_from("<HH", elf, 54)
    for n in range(count):
        kind, _, file_offset, _, paddr, file_size, _, _ = \
            struct.unpack_from("<IIQQQQQQ", elf, offset + n * size)
        yield kind, file_offset, paddr, file_size


def pvh_entry(notes):
    position = 0
    while position + 12 <= len(notes):
        name_size, size, kind = struct.unpack_from("<III", notes, position)
        data = position + 12 + (name_size + 3 & ~3)
        if kind == XEN_ELFNOTE_PHYS32_ENTRY and notes[position + 12:data].startswith(b"Xen\0"):
            return int.from_bytes(notes[data:data + size], "little")
        position = data + (size + 3 & ~3)
    return None


def flatten(elf):
    """(load address, PVH entry, memory image)"""
    headers = list(program_headers(elf))
    loads = [h for h in headers if h[0] == PT_LOAD and h[3]]
    entries = [pvh_entry(elf[o:o + s]) for kind, o, _, s in headers if kind == PT_NOTE]
    entry = next((e for e in entries if e), None)
    if not loads or entry is None:
        raise KernelError("no PVH entry (CONFIG_PVH)")
    base = min(paddr for _, _, paddr, _ in loads)
    flat = bytearray(max(paddr + size for _, _, paddr, size in loads) - base)
    for _, offset, paddr, size in loads:
        flat[paddr - base:paddr - base + size] = elf[offset:offset + size]
    return base, entry, flat


def flat_file(kernel, directory):
    """(path, load address of the file, entry), made in @directory when it is not there
    yet or older than @kernel. Several runs may do this at once: the last rename wins."""
    path = Path(directory) / (kernel.name + ".flat")
    if not path.exists() or path.stat().st_mtime < kernel.stat().st_mtime:
        base, entry, flat = flatten(decompress(payload(kernel.read_bytes())))
        part = path.with_name(f"{path.name}.part{os.getpid()}")
        try:
            with open(part, "wb") as out:
                out.write((MAGIC + struct.pack("<QQ", base, entry)).ljust(HEADER, b"\0"))
                out.write(flat)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    with open(path, "rb") as file:
        header = file.read(24)
    if header[:8] != MAGIC:
        raise KernelError(f"{path} is damaged: remove it")
    base, entry = struct.unpack_from("<QQ", header, 8)
    return path, base - HEADER, entry
