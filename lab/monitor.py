# SPDX-License-Identifier: GPL-2.0
"""What a QEMU that hangs can tell of its CPUs: asked through its QMP socket (QEMU's
manual, "QEMU Machine Protocol"). Used by emulators.py."""

import contextlib
import json
import os
import re
import socket

SECONDS = 5.0
# Of `info registers` and `info lapic`: where the CPU stands, whether it takes interrupts
# (RFL, HLT; APR's line has the TPR), and its timer. A CPU with its vector in neither IRR nor
# ISR, a count of 0 and HLT=1 has lost its timer interrupt.
REGISTERS = re.compile(r"^((?:RIP|REQ)=.*)", re.MULTILINE)
LAPIC = re.compile(r"^((?:LVTT|Timer|ISR|IRR|APR)\b.*)", re.MULTILINE)


def command(stream, name, **arguments):
    """One QMP command's answer, events skipped."""
    stream.write(json.dumps({"execute": name, "arguments": arguments}) + "\n")
    stream.flush()
    for line in stream:
        answer = json.loads(line)
        if "return" in answer or "error" in answer:
            return answer.get("return", "")
    return ""


def ask(stream, text, **arguments):
    return command(stream, "human-monitor-command", **{"command-line": text, **arguments})


@contextlib.contextmanager
def opened(folder):
    place = os.open(folder, os.O_PATH)
    try:
        yield place
    finally:
        os.close(place)


def cpus(folder, name, count):
    """Lines on each of @count CPUs, asked through socket @name in @folder; [] when QEMU does
    not answer."""
    found = []
    try:
        with opened(folder) as place, socket.socket(socket.AF_UNIX) as plug:
            plug.settimeout(SECONDS)
            plug.connect(f"/proc/self/fd/{place}/{name}")   # a socket's path has 107 letters
            with plug.makefile("rw", encoding="utf-8", errors="replace") as stream:
                stream.readline()                       # the greeting
                command(stream, "qmp_capabilities")
                for cpu in range(count):
                    lines = REGISTERS.findall(ask(stream, "info registers", **{"cpu-index": cpu}))
                    lines += LAPIC.findall(ask(stream, f"info lapic {cpu}"))
                    found += [f"cpu {cpu}: " + " ".join(line.split()) for line in lines]
    except (OSError, ValueError):
        pass
    return found
