#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""What it is worth that the guest's list of words says where its kernel can sleep: a task touches pages in
kernel mode that are not there, another one computes while the first one sleeps.  The guest is told in user mode
only (as Linux asks for: the vCPU halts), always (it waits by itself where it cannot sleep), or by its list.
Prints a table, writes BUILD/bench/tasks.json.  Called by `make tasks`.

exit status: 0 done, 1 an event was lost, or came where the guest cannot sleep, 125 the lab failed"""
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)     # the packages
from bench import kept, latency, paired
from bench.progress import align
from bench.variants import Switcher
from lab import program, side_by_side

LABS = {"vmx": 4, "avic": 2}        # rounds of 64 pages, of each run
TOLD = (("stock", "user"), ("stock", "always"), ("patched", "user"), ("patched", "always"), ("patched", "list"))
HELD = (0, 25, 75)                  # accesses in a hundred where the guest cannot sleep
BASE = ("patched", "always")        # what the list is held against
BAD = ("lost", "forbidden", "wrong_page", "missing", "stalled")
HEAD = ("cannot sleep", "KVM", "told", "pages", "slept", "waited by itself", "KVM waited", "exits/page",
        "other's work/Mtick", "pages/Mtick", "other's work, to always", "exits, to always")
NOTE = ("The other task computes while the first one sleeps, and only then: there is no timer's tick, and so nothing "
        "for it where the vCPU waits. A real guest's may run on an interrupt while KVM has halted the vCPU.")


def script(rounds, seed):
    """Shell text; a line "CELL held variant told seed" precedes each run's JSON."""
    switch, lines = Switcher(), ["failed=0"]
    for variant, told in TOLD:
        lines += switch.lines(variant)
        for held in HELD:
            for turn in paired.seeds(seed):
                lines += [f"echo CELL {held} {variant} {told} {turn}",
                          f"kvm-mode-bench tasks --json --told {told} --held {held} --rounds {rounds} "
                          f"--seed {turn} || failed=1"]
    return "\n".join([*lines, "exit $failed"])


def run_lab(name, build, seed=1, log=None):
    """{(held, variant, told): [cell of each seed]}"""
    wanted = len(TOLD) * len(HELD) * paired.ROUNDS
    cells = latency.run_cells(name, build, script(LABS[name], seed), "runs of two tasks", wanted, "stock",
                              hang=600, log=log)
    found = {}
    for (held, variant, told, _), cell in sorted(cells.items(), key=lambda item: int(item[0][3])):
        found.setdefault((int(held), variant, told), []).append(cell)
    return found


def per_page(cell):
    return cell["exits"] / cell["pages"]


def work(cell):
    """The other task's, per million ticks"""
    return cell["other"] * 1e6 / cell["ticks"]


def pages(cell):
    return cell["pages"] * 1e6 / cell["ticks"]


def ratio(found, held, told, figure):
    if told == BASE or (figure is work and told[1] == "user"):
        return None
    return paired.compared(*([figure(cell) for cell in found[held, *which]] for which in (told, BASE)))


def rows(found):
    made = [HEAD]
    for (held, variant, told), cells in sorted(found.items(), key=lambda item: (item[0][0], TOLD.index(item[0][1:]))):
        def total(*keys):
            return f"{sum(cell[keys[0]] - sum(cell[key] for key in keys[1:]) for cell in cells):,}"

        def mean(figure):
            return sum(map(figure, cells)) / len(cells)
        made.append((f"{held}%", variant, told, total("pages"), total("slept"), total("halted"),
                     total("pages", "announced"),
                     f"{mean(per_page):.2f}", f"{mean(work):,.0f}", f"{mean(pages):.2f}",
                     *(str(ratio(found, held, (variant, told), figure) or "") for figure in (work, per_page))))
    return made


def comparisons(found):
    return [ratio(found, held, told, figure) for held in HELD for told in TOLD for figure in (work, per_page)]


def broken(name, found):
    return [f"{name}: {held}%, {variant}, {told}, seed {cell['seed']}: {key} {cell[key]}"
            for (held, variant, told), cells in found.items() for cell in cells for key in BAD if cell[key]]


def run(args):
    """[what does not hold]"""
    out = Path(args.build) / "bench"
    out.mkdir(parents=True, exist_ok=True)
    kept.use(out / "kept-tasks")
    names = args.labs.split()
    jobs = [(name, args.build, args.seed, out / f"{name}-tasks.log") for name in names]
    results = dict(zip(names, side_by_side.run(run_lab, jobs, len(jobs))))
    wrong = sum((broken(name, found) for name, found in results.items()), [])
    for name, found in results.items() if not wrong else ():
        print(align(f"{name} lab: two tasks, {paired.ROUNDS} seeds; ratios are paired by seed, with the least and the "
                    "greatest", rows(found), 3), NOTE, *paired.family(comparisons(found)), "", sep="\n", flush=True)
    (out / "tasks.json").write_text(json.dumps(
        {name: {" ".join(map(str, key)): cells for key, cells in found.items()}
         for name, found in results.items()}, indent=1) + "\n")
    kept.forget()
    return wrong


def main():
    args = program.options(__doc__)
    args.add_argument("--labs", default=" ".join(LABS))
    args.add_argument("--seed", type=int, default=1)
    wrong = run(args.parse_args())
    for line in wrong:
        print(f"FAILED: {line}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    program.start(main)
