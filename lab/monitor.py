# SPDX-License-Identifier: GPL-2.0
"""What a QEMU that hangs can tell of its CPUs: asked through its QMP socket (QEMU's
manual, "QEMU Machine Protocol")."""

import contextlib
import json
import os
import re
import socket
import time

SECONDS = 5.0
SAMPLES, APART = 3, 1.0         # of a machine that hangs; seconds
# Of `info registers` and `info lapic`: where the CPU stands, whether it takes interrupts
# (RFL, HLT; APR's line has the TPR), and its timer. A CPU with its vector in neither IRR nor
# ISR, a count of 0 and HLT=1 has lost its timer interrupt.
REGISTERS = re.compile(r"^((?:RIP|REQ)=.*)", re.MULTILINE)
LAPIC = re.compile(r"^((?:LVTT|Timer|ISR|IRR|APR)\b.*)", re.MULTILINE)


IF, GIF = 0x200, 1              # of RFL and of HF2
REQUESTED = 0x12                # of REQ: CPU_INTERRUPT_HARD, CPU_INTERRUPT_POLL


def deaf(samples):
    """{CPU: what is wrong} of @samples, each what cpus() returned a second after the one before:
    CPUs that sleep in HLT with IF and GIF set and an interrupt in IRR above PPR, and of which
    nothing has moved from the first sample to the last.  A CPU is so for a moment whenever an
    interrupt wakes it; none stays so."""
    texts = [_by_cpu(lines) for lines in samples]
    if len(texts) < 2:
        return {}
    return {cpu: _asleep(own) for cpu, own in texts[0].items()
            if _asleep(own) and all(text.get(cpu) == own for text in texts)}


def _by_cpu(lines):
    """{CPU: its lines}, without its timer's, which goes on whatever the CPU does."""
    found = {}
    for number, rest in re.findall(r"^cpu (\d+): (?!Timer)(.*)", "\n".join(lines), re.MULTILINE):
        found.setdefault(int(number), []).append(rest)
    return {cpu: "\n".join(own) for cpu, own in found.items()}


def _asleep(own):
    """Which part of the emulator has failed the CPU, "" if none has."""
    flags = re.search(r"^RIP=.* RFL=([0-9a-f]+) .* HLT=1", own, re.MULTILINE)
    state = re.search(r"^REQ=([0-9a-f]+) HF2=([0-9a-f]+)", own, re.MULTILINE)
    irr = re.search(r"^IRR (.*)", own, re.MULTILINE)
    ppr = re.search(r"^APR .* PPR 0x([0-9a-f]+)", own, re.MULTILINE)
    if not (flags and state and irr and ppr):
        return ""
    vector = max(map(int, re.findall(r"\d+", irr[1])), default=0)
    if not (int(flags[1], 16) & IF and int(state[2], 16) & GIF and vector >> 4 > int(ppr[1], 16) >> 4):
        return ""
    return ("not woken, the request is there" if int(state[1], 16) & REQUESTED else
            "the local APIC's request is lost")


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


def samples(look):
    """What @look() returns, some times, far enough apart for a CPU that is alive to move."""
    found = [look()]
    while found[0] and len(found) < SAMPLES:
        time.sleep(APART)
        found.append(look())
    return found
