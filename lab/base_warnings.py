# SPDX-License-Identifier: GPL-2.0
"""Warnings of L1's kernel that are a base kernel's own: stock KVM gives them as well. Used by
lab.py, whose .warnings they are not among. Each is named by the file and the text of the
condition, not by the line, and its cause is known; check.py runs it on stock and needs it there."""
import re
from dataclasses import dataclass
from pathlib import Path

from lab import bases

LINE = re.compile(r"WARNING: (?:CPU: \d+ PID: \d+ at )?(\S+):(\d+)\b")


@dataclass(frozen=True)
class BaseWarning:
    """One of a base's traits."""
    file: str       # in the base's source
    text: str       # what its line has
    cause: str
    lab: str        # where @shown, a command, gives it on stock
    shown: str


def known_of(base):
    return [BaseWarning(**one) for one in bases.traits(base)["warnings"]]


def find(line, base, source):
    """The BaseWarning that @line, of L1's console, is in @base, or None. @source: a tree of it."""
    match = LINE.search(line)
    for known in known_of(base) if match else ():
        path = Path(source) / known.file
        # Modules built out of tree say where from there.
        if known.file.endswith("/" + match[1]) and path.is_file():
            at = path.read_text(encoding="utf-8").splitlines()[int(match[2]) - 1:int(match[2])]
            if at and known.text in at[0]:
                return known
    return None


def sort(lines, base, source):
    """(those that are not the base's, those that are)"""
    lines = list(lines)
    return ([line for line in lines if not find(line, base, source)],
            [line for line in lines if find(line, base, source)])
