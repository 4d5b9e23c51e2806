#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""What a Linux guest gains that is told of pages which are not present by their error code, in kernel mode
too: a whole VM whose memory the host swaps out all the time. On each CPU a thread visits pages, in user mode,
as a file's in kernel mode, or by programs in a pipe, another one, the bystander, computes, and one gets a
request every 20 ms. Or nginx reads files, in kernel mode, for 16 connections. The guest's kernel is the same in
each row; where KVM or QEMU offers it nothing new it does as one without the series' patches: it sleeps in user
mode only, and the vCPU halts elsewhere until the disk has read the page. In the svm lab. Prints a table, writes
BUILD/bench/guest-waits.json. Called by `make guest-waits`.

exit status: 0 done, 1 the guest computed wrong, or more was announced than got ready, 125 the lab failed"""
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)     # the packages
from bench import kept, latency, paired
from bench.progress import align
from bench.variants import Switcher
from lab import program

LAB = "svm"
LIMIT, MIB, ROUNDS, VCPUS, SECONDS = 104, 64, 1, 2, 400     # of pressure.sh
LATE = 10                                                   # milliseconds that the swap's disk takes
SERVED = 20                                                 # seconds that the server's clients take
ROWS = ("stock", "patched, nothing new offered", "patched")
BASE = ROWS[0]
# What init is told
MODES = {"user": "guest.bystanders=1", "kernel": "guest.bystanders=1 guest.kernel=1",
         "programs": "guest.bystanders=1 guest.programs=1", "server": f"guest.server=1 guest.seconds={SERVED}"}


def cpu_of(row):
    """QEMU's -cpu. With migratable=off it hands on what it has no name for, and so all that is new."""
    return "host" if row == ROWS[1] else "host,migratable=off"


HEAD = ("pages visited by", "KVM", "announced", "slept for in user mode", "in kernel mode", "vCPU halted", "pages/s",
        "bystanders' work/s", "request's p50", "p99, us", "pages/s, to stock", "bystanders, to stock", "p50, to stock",
        "p99, to stock", "sum of both, to stock")
NOTE = ("Times are the guest's, on an emulated machine: only their ratios say something. The sum of both, pages and "
        "bystanders: each as a share of what it is on stock. A server's requests are its clients', as wrk counts them: "
        "with those that a slow one has kept it from making.")


def script(modes, seed, late):
    """Shell text; a line "CELL mode row turn", the row by its number, precedes each run's JSON."""
    switch, lines = Switcher(), []
    for turn in paired.seeds(seed):
        # Each round begins with another row.
        for row in ROWS[turn % len(ROWS):] + ROWS[:turn % len(ROWS)]:
            lines += switch.lines(row.split(",")[0])
            for mode in modes:
                lines += [f"GUEST='{MODES[mode]}' KERNEL=vmlinuz-guest LATE={late} CPU={cpu_of(row)} "
                          f"pressure.sh /guest {LIMIT} {MIB} {ROUNDS} {VCPUS} {SECONDS} "
                          ">/tmp/out || { cat /tmp/out; exit 1; }",
                          f"echo CELL {mode} {ROWS.index(row)} {turn}",
                          "tell() { sed -n \"s/^$1 //p\" /tmp/out; }",
                          "echo \"{\\\"memory\\\":$(tell memory),\\\"waits\\\":$(tell waits),\\\"announced\\\":"
                          "$(tell kvm_async_pf_not_present),\\\"ready\\\":$(tell kvm_async_pf_ready)}\""]
    return "\n".join(lines)


def run_lab(build, modes, late, seed=1, log=None):
    """{(mode, row): [cell of each round]}"""
    wanted = len(ROWS) * len(modes) * paired.ROUNDS
    cells = latency.run_cells(LAB, build, script(modes, seed, late), "whole VMs", wanted, "stock", hang=SECONDS + 30,
                              log=log, overlay=[Path(build) / "lab" / name for name in
                                                ("guest.cpio", "guest-kernel.cpio", "server.cpio")])
    found = {}
    for (mode, row, _), cell in sorted(cells.items(), key=lambda item: int(item[0][2])):
        found.setdefault((mode, ROWS[int(row)]), []).append(cell)
    return found


def speed(cell):
    return cell["memory"]["visited"] / cell["memory"]["seconds"]


def work(cell):
    """The bystanders', who are not beside the server"""
    return cell["memory"].get("computed", 0) / cell["memory"]["seconds"]


FIGURES = (speed, work, lambda cell: cell["memory"]["request_p50"], lambda cell: cell["memory"]["request_p99"])


def both(found, mode, row):
    """Of each round, the mean of the two shares of what BASE did; none without bystanders"""
    if not all(map(work, found[mode, BASE])):
        return []
    return [(speed(a) / speed(b) + work(a) / work(b)) / 2
            for a, b in zip(found[mode, row], found[mode, BASE])]


def ratios(found, mode, row):
    """[paired.Compared or None] of FIGURES, both"""
    if row == BASE:
        return [None] * (len(FIGURES) + 1)
    pairs = [[[figure(cell) for cell in found[mode, which]] for which in (row, BASE)] for figure in FIGURES]
    return [paired.compared(*pair) for pair in pairs] + [paired.compared(both(found, mode, row), [1] * paired.ROUNDS)]


def rows(modes, found):
    made = [HEAD]
    for mode in modes:
        for row in ROWS:
            cells = found[mode, row]
            told, user, kernel = (sum(values) for values in zip(*(
                (cell["announced"], cell["waits"]["user"], cell["waits"]["kernel"]) for cell in cells)))
            made.append((mode, row, f"{told:,}", f"{user:,}", f"{kernel:,}", f"{told - user - kernel:,}",
                         *(f"{mean:,.0f}" if mean else "-" for mean in
                           (sum(map(figure, cells)) / len(cells) for figure in FIGURES)),
                         *(str(one or "") for one in ratios(found, mode, row))))
    return made


def broken(found):
    return [f"{' '.join(key)}, round {n}: {cell}" for key, cells in found.items() for n, cell in enumerate(cells, 1)
            # One that is announced again is ready once.
            if cell["memory"]["wrong"] or (key[1] != ROWS[-1] and cell["announced"] > cell["ready"])]


def main():
    args = program.options(__doc__)
    args.add_argument("--seed", type=int, default=1)
    args.add_argument("--late", type=int, default=LATE, metavar="MS", help="that the disk takes for each request, of "
                      "L1's time, in which its CPUs do little (default: %(default)s)")
    args.add_argument("--mode", action="append", choices=MODES, help="how pages are accessed (default: all of these)")
    args = args.parse_args()
    modes = args.mode or list(MODES)
    out = Path(args.build) / "bench"
    out.mkdir(parents=True, exist_ok=True)
    kept.use(out / "kept-guest-waits")
    found = run_lab(args.build, modes, args.late, args.seed, out / "svm-guest-waits.log")
    compared = [one for mode in modes for row in ROWS for one in ratios(found, mode, row)]
    print(align(f"{LAB} lab: a Linux guest whose memory is swapped out to a disk that takes {args.late} ms, "
                f"{paired.ROUNDS} rounds; ratios are paired by "
                "round, with the least and the greatest", rows(modes, found), 2), NOTE, *paired.family(compared), sep="\n",
          flush=True)
    (out / "guest-waits.json").write_text(json.dumps({" ".join(key): cells for key, cells in found.items()}, indent=1)
                                          + "\n")
    kept.forget()
    for line in broken(found):
        print(f"FAILED: {line}", file=sys.stderr)
    return 1 if broken(found) else 0


if __name__ == "__main__":
    program.start(main)
