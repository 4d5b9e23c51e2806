# SPDX-License-Identifier: GPL-2.0
"""Finished cells of a run that was interrupted, from which the next one goes on. They are kept
under a hash of all that they depend on: the shell text of their part of the run, the lab's options
and the files that L1 and its emulator are made of. A run that gets to its end keeps nothing."""
import hashlib
import json
import shutil
import sys
from pathlib import Path

from lab import lab

_folder = None
count = 0       # of cells that were kept, in this process


def use(folder):
    """Cells are kept there from now on, also by processes that are begun later."""
    global _folder
    _folder = Path(folder)


def forget():
    if _folder:
        shutil.rmtree(_folder, ignore_errors=True)


def digest(text, options):
    found = hashlib.sha256(text.encode())
    for name in ("lab", "base", "kernel", "cpus", "mem", "quantum", "flight", "spread", "entry",
                 "x2avic", "icount", "append"):
        found.update(f"\n{name} {getattr(options, name)}".encode())
    for path in lab.inputs(options):
        with open(path, "rb") as file:
            found.update(hashlib.file_digest(file, "sha256").digest())
    return found.hexdigest()[:16]


def without_idle_loads(lines):
    """Loading a KVM that nothing is run on takes time, in silence."""
    starts = [0, *(i for i, line in enumerate(lines) if line.startswith("load-kvm ")), len(lines) - 1]
    blocks = [lines[start:end] for start, end in zip(starts, starts[1:])]
    used = [block for i, block in enumerate(blocks)
            if not i or any(line.startswith("echo CELL ") for line in block)]
    return sum(used, []) + lines[-1:]


class Kept:
    """Of one boot of L1: .cells by the words behind CELL, .text without the commands for them.
    Each command stands on the line behind its "echo CELL <words>"; others are run again."""

    def __init__(self, name, text, variant, **options):
        self.text, self.cells, self.folder = text, {}, None
        if _folder:
            self.folder = _folder / digest(text, lab.Options(lab=name, kvm=variant, **options))
            self.folder.mkdir(parents=True, exist_ok=True)
            entries = [json.loads(path.read_text()) for path in self.folder.glob("*.json")]
            self._take_out({tuple(entry["key"]): entry["cell"] for entry in entries})
            global count
            count += len(self.cells)

    def _take_out(self, known):
        left, lines = [], iter(self.text.split("\n"))
        for line in lines:
            key = tuple(line.split()[2:]) if line.startswith("echo CELL ") else None
            if key in known:
                self.cells[key] = known[key]
                next(lines)
            else:
                left.append(line)
        if self.cells:
            self.text = "\n".join(without_idle_loads(left))

    def said(self):
        return (f"; {len(self.cells)} are kept from the run that was interrupted"
                if self.cells else "")

    def store(self, key, cell):
        if not self.folder:
            return
        new = self.folder / "new"
        try:
            new.write_text(json.dumps({"key": key, "cell": cell}))
            new.rename(self.folder / f"{'_'.join(key)}.json")
        except OSError as error:        # a full disk: the run itself needs nothing of it
            print(f"bench: {self.folder}: {error.strerror}; nothing more is kept of this part",
                  file=sys.stderr)
            self.folder = None
