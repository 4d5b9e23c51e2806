# SPDX-License-Identifier: GPL-2.0
"""Builds programs that run in an emulator without an operating system, of bare-metal/ and a folder of their own:
conformance tests of the emulators. Used by qemu/avic_test.py and bochs/vmx_test.py."""
import subprocess
from pathlib import Path

HERE = Path(__file__).resolve().parent / "bare-metal"
FLAGS = ["-O2", "-Wall", "-Wextra", "-Werror", "-std=gnu11", "-ffreestanding", "-fno-pie",
         "-fno-stack-protector", "-mno-red-zone", "-mgeneral-regs-only", "-fcf-protection=none",
         "-no-pie", "-nostdlib", "-static", "-Wl,--build-id=none", "-Wl,-z,noexecstack",
         "-Wl,--no-warn-rwx-segments", "-I", HERE]


def build(folder, out):
    """An ELF file with a PVH entry, of what is in @folder"""
    sources = [path for place in (HERE, Path(folder)) for path in sorted(place.glob("*.[cS]"))]
    subprocess.run(["gcc", *FLAGS, "-T", HERE / "program.ld", "-o", out, *sources], check=True)
