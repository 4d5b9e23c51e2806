# SPDX-License-Identifier: GPL-2.0
"""Asynchronous page faults: what a page-ready event costs, all variants in one boot of L1.
Called by run.py.

The svm lab runs with -icount, where time is instructions: a vCPU that computes without pause
beside three busy CPUs on a machine of two would show the machine's scheduler. Unbound work is
kept off the vCPU's CPU in L1, as on hosts that set CPUs aside for vCPUs."""
from bench import ktap, latency, posts
from bench.variants import Switcher
from lab import emulators

LABS = emulators.amounts("apf")     # most_exits: patched to stock, per event
VARIANTS = ("stock", "unbound", "patched")
ROUNDS = 8                      # of 256 pages
# form: arguments
FORMS = {f"{target}-{n}": f"--target {target} --outstanding {n}"
         for target in ("compute", "hlt") for n in (1, 8, 64)}
OTHERS_CPUS = "echo e > /sys/devices/virtual/workqueue/cpumask || exit 1"

TIMES = (("access_to_ready", "p50"), ("access_to_ready", "p99"), ("fault_to_ready", "p50"),
         ("given_to_ready", "p50"))
MOST_LATENCY = 1.10             # the same, access to ready, p50 of one event at once

BAD = ("lost", "doubled", "wrong")
SUMS = ("events", *BAD, "exits", "forced_exits", "kick_ipi_traced")
FIGURES = {"exits_per_event": "exits", "forced_exits": "exits", "kick_ipi_traced": "IPIs",
           "events_per_mtick": "events"}


def script(name, seed, switch, rounds, variants):
    lines = ["failed=0", OTHERS_CPUS]
    for variant in variants:
        lines += switch.lines(variant)
        for form, arguments in FORMS.items():
            lines += [f"echo CELL {form} {variant}",
                      f"kvm-mode-bench apf --json --rounds {rounds} --seed {seed} {arguments} "
                      f"{LABS[name]['extra']} || failed=1"]
    return "\n".join([*lines, "exit $failed"])


def forced(cell):
    """VM-Exits that reschedule IPIs forced, KVM's kicks and the scheduler's for a worker: those
    sent while the CPU was in the guest, where the emulator counts them, else all that it got."""
    if cell["emulator"]:
        return cell["emulator"]["vectors"]["0xfd"]["sent_in_guest"]
    return cell["reschedules"]


def total(forms):
    """One variant: sums over its forms, and the forms."""
    entry = {key: sum(cell[key] or 0 for cell in forms.values()) for key in SUMS}
    return {**entry, "exits_per_event": round(entry["exits"] / max(entry["events"], 1), 3),
            "forms": forms}


def run_lab(name, build, seed=1, rounds=ROUNDS, log=None, variants=VARIANTS):
    """Returns {variant: total and forms}."""
    cells = latency.run_cells(name, build, script(name, seed, Switcher(), rounds, variants), "runs of apf",
                              len(FORMS) * len(variants), variants[0], hang=400, log=log,
                              icount=LABS[name]["icount"])
    for cell in cells.values():
        cell["forced_exits"] = forced(cell)
    return {variant: total({form: cells[form, variant] for form in FORMS})
            for variant in variants}


def time_bounds(variants):
    stock, patched = (variants[v]["forms"] for v in ("stock", "patched"))
    for form in FORMS:
        if form.endswith("-1"):
            old, new = (f[form]["access_to_ready"]["p50"] for f in (stock, patched))
            yield posts.Bound(new <= MOST_LATENCY * old,
                              f"apf: {form}: access to ready, p50, patched/stock", new / old,
                              f"at most {MOST_LATENCY}")
        old, new = (f[form]["events_per_mtick"] for f in (stock, patched))
        yield posts.Bound(new >= old, f"apf: {form}: events per Mtick, patched/stock", new / old,
                          "at least 1")


def bounds(name, variants):
    """[posts.Bound]: without APICv a page-ready event may cost what it costs stock."""
    if not variants:
        return []
    most = LABS[name]["most_exits"]
    old, new = (variants[v]["exits_per_event"] for v in ("stock", "patched"))
    found = [posts.Bound(new <= most * old, "apf: VM-Exits per event, patched/stock",
                         new / old, f"at most {most}")]
    if name == "vmx":
        forced_exits = variants["patched"]["forced_exits"]
        found.append(posts.Bound(not forced_exits, "apf: VM-Exits forced by reschedule IPIs, patched",
                                 forced_exits, "0"))
    # Not of the quick form's few events
    timed = emulators.of(name).parallel and set(VARIANTS) <= set(variants)
    return found + (list(time_bounds(variants)) if timed else [])


def verdicts(name, variants):
    return [posts.verdict(b.data()) for b in bounds(name, variants)]


def broken(name, variants):
    return [f"{name} apf {variant}: {key} {entry[key]}" for variant, entry in variants.items()
            for key in BAD if entry[key]] + \
           [f"{name} {b}" for b in bounds(name, variants) if not b.holds]


def cases(name, variants):
    """[ktap.Case], as broken()."""
    return [ktap.Case(not any(cell[key] for key in BAD), f"{name} apf {form} {variant}",
                      ktap.counts(cell, ("events", *BAD)),
                      tuple((key, cell[key], unit) for key, unit in FIGURES.items()))
            for variant, entry in variants.items() for form, cell in entry["forms"].items()] + \
           [ktap.Case(b.holds, f"{name} {b.what}", f"({b.limit})",
                      (("ratio", f"{b.ratio:.3f}", "ratio"),)) for b in bounds(name, variants)]


def number(value):
    return "-" if value is None else f"{value:,}"


def rows(variants):
    """Of a table; the first row has the columns' names."""
    found = [("target, at once", "variant", "events", "lost", "doubled", "exits/event",
              "forced exits", "kicks", "sent", "asked", "access-ready p50", "p99",
              "#PF-ready p50", "given-ready p50", "events/Mtick")]
    for form in FORMS:
        for variant, entry in variants.items():
            cell = entry["forms"][form]
            times = [cell[key][p] for key, p in TIMES]
            found.append((form, variant, *map(number, (cell["events"], cell["lost"],
                                                       cell["doubled"])),
                          f"{cell['exits_per_event']:.3f}",
                          *map(number, (cell["forced_exits"], cell["kick_ipi_traced"],
                                        cell["apf_ready_sent"], cell["apf_ready_asked"], *times)),
                          f"{cell['events_per_mtick']:.1f}"))
    return found
