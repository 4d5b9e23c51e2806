# SPDX-License-Identifier: GPL-2.0
"""What a QEMU that hangs can tell of its CPUs: asked through its QMP socket (QEMU's
manual, "QEMU Machine Protocol")."""

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


IF, GIF = 0x200, 1              # of RFL and of HF2


def deaf(lines):
    """Numbers of the CPUs, of what cpus() returned, that sleep in HLT with IF and GIF set and an
    interrupt in IRR above PPR.  No CPU does that: QEMU has lost the request, or not woken the
    CPU's thread."""
    text, found = "\n".join(lines), []
    for cpu in sorted(set(re.findall(r"^cpu (\d+):", text, re.MULTILINE)), key=int):
        own = "\n".join(re.findall(rf"^cpu {cpu}: (.*)", text, re.MULTILINE))
        flags = re.search(r"^RIP=.* RFL=([0-9a-f]+) .* HLT=1", own, re.MULTILINE)
        state = re.search(r"^REQ=.* HF2=([0-9a-f]+)", own, re.MULTILINE)
        irr = [int(n) for n in re.findall(r"\b\d+\b", (re.findall(r"^IRR (.*)", own, re.MULTILINE)
                                                       or [""])[0])]
        ppr = re.search(r"^APR .* PPR 0x([0-9a-f]+)", own, re.MULTILINE)
        if (flags and state and irr and ppr and int(flags[1], 16) & IF and
                int(state[1], 16) & GIF and max(irr) >> 4 > int(ppr[1], 16) >> 4):
            found.append(int(cpu))
    return found


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
