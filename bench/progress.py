# SPDX-License-Identifier: GPL-2.0
"""What the benchmark's runners say while they work, and their tables as text."""
import json
import os
import sys
import time

START = float(os.environ.get("KVM_MODE_START", time.time()))


def clock(seconds):
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def say(text):
    print(f"[{clock(time.time() - START)}] {text}", file=sys.stderr, flush=True)


def align(title, rows, left):
    """A table as text; the first @left columns to the left."""
    if not rows:
        return ""
    width = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    text = [title] if title else []
    for row in rows:
        text.append("  ".join(col.ljust(w) if i < left else col.rjust(w)
                              for i, (col, w) in enumerate(zip(row, width))).rstrip())
    return "\n".join(text)


class Cells:
    """Takes the output of a row of kvm-mode-bench runs apart: "CELL <words>" before each
    one, one line of JSON from each. Says which one runs and how long the rest may take."""

    def __init__(self, name, total, kept=None):
        self.name, self.kept, self.key, self.other = name, kept, None, []
        self.cells = dict(kept.cells) if kept else {}
        self.total = total - len(self.cells)
        self.count, self.last, self.begun, self.spoke = 0, 0.0, None, 0.0

    def __call__(self, line):
        if line.startswith("CELL "):
            self.key = tuple(line.split()[1:])
            self.begun = self.begun or time.time()
            self.next_cell()
        elif line.startswith("{"):
            self.cells[self.key] = json.loads(line)
            if self.kept:
                self.kept.store(self.key, self.cells[self.key])
        else:
            self.other.append(line)
            if time.time() - self.last > 20:
                self.last = time.time()
                say(f"    {line}")

    def next_cell(self):
        # Short ones would fill the screen.
        if time.time() - self.spoke > 5 or not self.count:
            self.spoke = time.time()
            say(f"  {self.name}: {self.count + 1}/{self.total} {', '.join(self.key)}"
                f"{self.remaining()}")
        self.count += 1

    def remaining(self):
        if not self.count:
            return ""
        each = (time.time() - self.begun) / self.count
        return f", about {clock(each * (self.total - self.count))} to go"
