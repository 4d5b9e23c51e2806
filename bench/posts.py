# SPDX-License-Identifier: GPL-2.0
"""The posting benchmark, all variants in one boot of L1: what is run, the bounds of the
comparison, the table. Called by run.py, and by the tests through run_lab()."""
import shlex
from typing import NamedTuple

from bench import environment, ktap, paired, turns
from bench.kept import Kept
from bench.progress import align, Cells, clock, say
from bench.variants import Switcher, VARIANTS as KVMS
from lab import emulators, lab

VARIANTS = ("stock", "patched", "patched_off")      # what is compared in every lab
SERIES = ("patched", "bare")                        # all of it, and without what measures it
BAD = ("lost", "late", "doubled", "stalled")
# what KTAP gives of a run, and its unit
FIGURES = {"notify_sent": "events", "notify_elided": "events", "notify_spurious": "interrupts",
           "kick_ipi_sent": "IPIs", "exits": "exits", "latency_p50": "ticks",
           "latency_p99": "ticks", "send_mean": "ticks"}
PEERS = ("s4",)                                     # unsafe: shown, and held to nothing
WORKLOADS = ("compute", "exits", "fastpath", "hlt", "mixed")
IRQFD_WORKLOADS = ("irqfd-exits", "irqfd-mixed")    # the same, posted to by a host thread's eventfds
# The same, by the target's timer, which KVM posts from another CPU than an isolated one.
TIMER_WORKLOADS = ("timer-exits", "timer-hlt")
TIMER_LABS = emulators.amounts("timer")
ISOLATED = "nohz_full=1"                            # L1's command line for it
TIMER_GAP = "--gap 60000:120000"                    # later than the other CPU's own timers
# posts: per workload and variant, in the full form; quick: in the quick forms of make bench and of
# the tests; check: in the tests' full form.
# expect: seconds for the whole lab.  wasted_ratio: patched to wasted_base at most, of spurious
# notifications per post; off_tolerance: of patched_off to the same, with one seed.  To stock where the
# base is patched_off, or was not run.
LABS = emulators.amounts("post")

# Bounds of the comparison, where notifications are IPIs (vmx lab) or doorbells (avic lab).
SPURIOUS_WORKLOADS = ("exits", "mixed", *IRQFD_WORKLOADS, "timer-exits")
RATE_TOLERANCE = 0.001      # posts per tick, ticks per post: patched to the base
# A target that halts is woken more or less often, so that the ticks of a post differ by more than that from
# seed to seed: run in turns with a seed each, the bound is of the middle one.  That is good for what the
# series gains there, and not for what its counts leave of that: these are held to the series without them.
# So both are judged where that one was run, too.
IN_TURNS = {"vmx": ("hlt",)}
TURN = 10000                # posts of one, at least
COUNTS_TOLERANCE = 0.01


def workloads_of(name):
    """Of a lab, or of the host.  Where CPUs take turns a thread posts faster than a vCPU can take
    interrupts, and next to none of them needs a doorbell."""
    return WORKLOADS + (IRQFD_WORKLOADS if name not in LABS or emulators.of(name).parallel else ())


def variants_of(name):
    """What the tests compare in a lab."""
    base = LABS.get(name, {}).get("wasted_base", "stock")
    return VARIANTS if base in VARIANTS else ("stock", base, *VARIANTS[1:])


def options_of(workload):
    """Of kvm-mode-bench."""
    sender, _, what = workload.rpartition("-")
    return " ".join([f"--workload {shlex.quote(what)}", *([f"--sender {shlex.quote(sender)}"] if sender else []),
                     *([TIMER_GAP] if sender == "timer" else [])])


def seeds_of(name, workload, variant, variants, seed):
    """Of the turns, or the one.  The series, and what of @variants it is held against, alike."""
    if workload not in IN_TURNS.get(name, ()) or "bare" not in variants or \
            variant not in (*SERIES, base_of(LABS[name], variants)):
        return (seed,)
    return paired.seeds(seed)


def script(name, workloads, posts, seed, extra, switch):
    """Shell text; a line "CELL workload variant seed" precedes each run's JSON.  @posts: {variant: how
    many in each workload}"""
    lines = ["failed=0"]
    for variant, count in posts.items():
        lines += switch.lines(variant)
        for workload in workloads:
            seeds = seeds_of(name, workload, variant, posts, seed)
            each = count if len(seeds) == 1 else max(count // len(seeds), TURN)
            for turn in seeds:
                lines.append(f"echo CELL {workload} {variant} {turn}")
                lines.append(f"kvm-mode-bench post --json {extra} --posts {each} --seed {turn} "
                             f"{options_of(workload)} || failed=1")
    return "\n".join([environment.SHELL, *lines, "exit $failed"])


def run_lab(name, build, workloads=None, variants=None, posts=None, seed=1,
            log=None, share=1, **options):
    """One boot of L1, by default with all workloads of the lab, and what is compared there; @posts in
    each for what a bound compares, one in @share of that for the rest.  Returns
    ({workload: {variant: cell}}, lab.Result); the result's environment is what L1 said of itself."""
    setup, workloads = LABS[name], workloads or workloads_of(name)
    variants = variants or variants_of(name)
    most = posts or setup["posts"]
    counts = {v: most if v in compared(name, variants) else max(most // share, 1) for v in variants}
    options = {"timeout": setup["expect"] * 6, "build": build, "hang": setup["hang"], "log": log,
               **options}
    text = script(name, workloads, counts, seed, setup["extra"], Switcher())
    kept = Kept(name, text, KVMS[variants[0]][0], **options)
    runs = sum(len(seeds_of(name, w, v, variants, seed)) for w in workloads for v in variants)
    collector = Cells(name, runs, kept)
    say(f"{name} lab: boot, then {collector.total} runs" + kept.said()
        + (f" (about {clock(setup['expect'])})" if posts is None else ""))
    result = lab.run(name, KVMS[variants[0]][0], kept.text, output=collector, **options)
    result.environment = environment.parse(collector.other)
    return arrange(name, collector, workloads, variants, seed), result


def run_timers(name, build, variants=None, posts=None, seed=1, **options):
    """As run_lab(), of TIMER_WORKLOADS"""
    return run_lab(name, build, TIMER_WORKLOADS, variants, posts or TIMER_LABS[name]["posts"], seed,
                   append=ISOLATED, **options)


def arrange(name, collector, workloads, variants, seed):
    """{workload: {variant: cell}}, or an error that shows the last lines."""
    last = collector.other[-10:]
    if not collector.cells:
        raise lab.LabError("\n".join([f"{name}: the benchmark did not run:"] + last))
    cells = {}
    for workload in workloads:
        for variant in variants:
            found = [collector.cells.get((workload, variant, str(turn)))
                     for turn in seeds_of(name, workload, variant, variants, seed)]
            if None in found:
                raise lab.LabError("\n".join(
                    [f"{name}: no result for {workload}, {variant}:"] + last))
            for cell in found:
                cell["workload"] = workload
                fill_in(cell)
            cells.setdefault(workload, {})[variant] = found[0] if len(found) == 1 else turns.merged(found)
    return cells


def fill_in(cell):
    """What KVM does not count is taken from the emulator: on stock, notifications; wasted
    doorbells anywhere."""
    seen = notifications(cell)
    if seen and cell.get("notify_sent") is None:
        cell["notify_sent"] = seen["sent"]
    if seen and cell.get("notify_spurious") is None:
        cell["notify_spurious"] = seen["recv_host"]


def notifications(cell):
    """The emulator's counts of posted interrupts' IPIs, or of doorbells; None without such."""
    emulator = cell.get("emulator") or {}
    return emulator.get("doorbell") or emulator.get("vectors", {}).get("0xf2")


def per_million(cell, metric):
    return cell[metric] * 1e6 / cell["posted"] if cell[metric] is not None else None


def guarantees(name, cells):
    """Nothing lost, late or doubled, and no sender gave up, in any workload and variant."""
    return [f"{name} {workload} {variant}: {metric} {cell[metric]}"
            for workload, by_variant in cells.items()
            for variant, cell in by_variant.items() if variant not in PEERS
            for metric in BAD if cell[metric]]


class Bound(NamedTuple):
    """A ratio that has to stay within a limit."""
    holds: bool
    what: str
    ratio: float
    limit: str

    def __str__(self):
        return f"{self.what} {self.ratio:.3f} ({self.limit})"

    def data(self):
        """Of results.json."""
        return {"what": self.what, "ratio": round(self.ratio, 6), "limit": self.limit,
                "holds": self.holds}


def verdict(bound):
    """A bound of results.json, for people."""
    return f"{'holds' if bound['holds'] else 'MISSED'}: {Bound(**bound)}"


def bounds(name, cells):
    """[Bound]"""
    found = []
    for workload, cell in cells.items():
        base = baseline(name, cell)
        if name not in LABS or base not in cell:
            continue
        for variant in (v for v in SERIES if v in cell):
            if emulators.of(name).notifies:
                found += wasted(workload, cell, LABS[name], variant)
            if emulators.of(name).parallel and workload not in TIMER_WORKLOADS:    # no sender
                found += speed_of(workload, cell, variant, *held_to(name, workload, cell, base, variant))
        # Of timers there are too few for it.
        if emulators.of(name).notifies and "patched_off" in cell and workload not in TIMER_WORKLOADS:
            found += off_as_base(workload, cell, LABS[name])
    return found


def wasted_to(cell, variant, base):
    """Spurious notifications per post, @variant to @base"""
    return per_million(cell[variant], "notify_spurious") / max(per_million(cell[base], "notify_spurious"), 1)


def wasted(workload, cell, limits, variant="patched"):
    """[Bound] of spurious notifications."""
    if workload not in SPURIOUS_WORKLOADS:
        return []
    most, base = limits["wasted_ratio"], base_of(limits, cell)
    ratio = wasted_to(cell, variant, base)
    return [Bound(ratio <= most, f"{workload}: spurious notifications per post, {variant}/{base}", ratio,
                  f"at most {most}")]


def off_as_base(workload, cell, limits):
    """[Bound]: the series notifying by the run-loop mode wastes what its base does."""
    base = base_of_off(limits, cell)
    if workload not in SPURIOUS_WORKLOADS or base not in cell:
        return []
    tolerance, ratio = limits["off_tolerance"], wasted_to(cell, "patched_off", base)
    return [Bound(abs(ratio - 1) <= tolerance, f"{workload}: the same, patched_off/{base}", ratio,
                  f"within {tolerance:.0%} of 1")]


def base_of(limits, cells):
    """The variant that the series is held against."""
    base = limits.get("wasted_base")
    return base if base in cells else "stock"


def base_of_off(limits, cells):
    """The variant that patched_off is held against."""
    base = base_of(limits, cells)
    return base if base != "patched_off" else "stock"


def compared(name, variants):
    """Those that a bound of the lab may compare."""
    off = ("patched_off", base_of_off(LABS[name], variants)) if emulators.of(name).notifies else ()
    return (*SERIES, base_of(LABS[name], variants), *off)


def baseline(name, cells):
    """The same, of a lab or of the host."""
    return base_of(LABS.get(name, {}), cells)


def held_to(name, workload, cell, base, variant):
    """(the variant that the speed of @variant is held to, or None; how closely)"""
    if workload not in IN_TURNS.get(name, ()):
        return base, RATE_TOLERANCE
    if "bare" not in cell:
        return None, None
    return (base, RATE_TOLERANCE) if variant == "bare" else ("bare", COUNTS_TOLERANCE)


def speed_of(workload, cell, variant, base, tolerance):
    """[Bound] of posts per tick, and of ticks per post; where they were run in turns, of the middle one."""
    if not base:
        return []
    what = (f"{workload}: posts per tick, {variant}/{base}",
            f"{workload}: ticks that a sender spends in one post, {variant}/{base}")
    limit = f"at least {1 - tolerance}", f"at most {1 + tolerance}"
    speed, cost = (turns.compared(cell[variant], cell[base], figure) for figure in ("posts_per_mtick", "send_mean"))
    if speed and cost:
        what, speed, cost = [f"{text}, over seeds" for text in what], speed.middle, cost.middle
    else:
        rate = {v: cell[v]["posted"] / cell[v]["ticks"] for v in (base, variant)}
        speed = rate[variant] / rate[base]
        cost = cell[variant]["send_mean"] / cell[base]["send_mean"]
    return [Bound(speed >= 1 - tolerance, what[0], speed, limit[0]),
            Bound(cost <= 1 + tolerance, what[1], cost, limit[1])]


def cases(name, cells):
    """[ktap.Case]: the guarantees, then the bounds."""
    found = [ktap.Case(not any(cell[key] for key in BAD), f"{name} {workload} {variant}",
                       ktap.counts(cell, ("posted", *BAD)),
                       tuple((key, cell[key], unit) for key, unit in FIGURES.items()))
             for workload, by_variant in cells.items()
             for variant, cell in by_variant.items() if variant not in PEERS]
    return found + bound_cases(name, bounds(name, cells))


def bound_cases(name, found):
    """[ktap.Case] of these bounds"""
    return [ktap.Case(b.holds, f"{name} {b.what}", f"({b.limit})", (("ratio", f"{b.ratio:.3f}", "ratio"),))
            for b in found]


def remainder(cells):
    """[text]: where the notifications that were wasted went to, by the emulator's
    count.  "In flight": the target had left the guest when the ICR was written,
    but so shortly before that the sender had read the flag already."""
    found = []
    for workload, by_variant in cells.items():
        for variant, cell in by_variant.items():
            seen = notifications(cell)
            if not seen or not seen["recv_host"]:
                continue
            after = f"up to {seen['exit_to_send_max']:,} ticks " if "exit_to_send_max" in seen else ""
            entered = seen.get("recv_host_after_entry", 0)
            found.append(f"{workload} {variant}: {seen['recv_host']:,} of {seen['sent']:,} taken "
                         f"by the host: {seen['recv_host_sent_in_guest']:,} sent while the "
                         f"target was in the guest, {seen['recv_host_sent_in_host'] - entered:,} sent "
                         f"{after}after it had left"
                         + (f", {entered:,} before it entered once more" if entered else ""))
    return found


def number(value):
    return "-" if value is None else f"{value:,}"


def rows_of(cells):
    head = ("workload", "variant", "posted", "lost", "late", "notify", "elided",
            "spurious", "spur/M", "kick IPIs", "exits", "p50", "p99", "max", "send",
            "posts/Mtick")
    rows = [head]
    for workload, by_variant in cells.items():
        for variant, cell in by_variant.items():
            per_m = per_million(cell, "notify_spurious")
            rows.append((workload, variant, number(cell["posted"]), number(cell["lost"]),
                         number(cell["late"]), number(cell["notify_sent"]),
                         number(cell["notify_elided"]), number(cell["notify_spurious"]),
                         "-" if per_m is None else f"{per_m:,.0f}",
                         number(cell["kick_ipi_sent"]), number(cell["exits"]),
                         number(cell["latency_p50"]), number(cell["latency_p99"]),
                         number(cell["latency_max"]), f"{cell['send_mean']:,.1f}",
                         f"{cell['posted'] * 1e6 / cell['ticks']:.4g}"))
    return rows


def table(name, cells):
    return align(f"{name} lab", rows_of(cells), 2)
