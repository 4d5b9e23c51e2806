# SPDX-License-Identifier: GPL-2.0
"""The latency benchmarks of kvm-mode-bench, all variants in one boot of L1: what is run,
and what the runs say: the ratio of two medians, as paired.py has it. Called by run.py."""
import math
import statistics

from bench import ktap, paired
from bench.kept import Kept
from bench.progress import Cells, say
from bench.variants import Switcher, VARIANTS
from lab import emulators, lab

ROUNDS = paired.ROUNDS

BASELINE = "stock"
SENDS = ("stock", "s4", "patched", "patched_off")
IPIS = ("stock", "ipi", "s4", "patched", "patched_off")     # posted by a vCPU
OURS = ("stock", "patched")
KICKS = ("stock", "s4", "patched", "patched_kicks")

# form: (arguments, variants, rounds: 0 is ROUNDS). Where the target exits by itself an operation
# meets it in the guest or in the host, a coin's throw: these need more samples for a median.
MORE = 4
FORMS = {
    "exit": ("exit", SENDS, 0),
    "exit-fastpath": ("exit --op fastpath", SENDS, 0),
    "window": ("exit --window", SENDS, 1),
    "window-fastpath": ("exit --window --op fastpath", SENDS, 1),
    "ipi-self": ("ipi --form self", OURS, 0),
    "ipi": ("ipi", IPIS, 0),
    "ipi-exits": ("ipi --target exits", IPIS, 0),
    "ipi-fastpath": ("ipi --target fastpath", IPIS, 0),
    "ipi-hlt": ("ipi --target hlt", SENDS, 0),
    "ipi-xapic": ("ipi --xapic", OURS, 0),
    "ipi-multicast": ("ipi --form multicast", OURS, 0),
    "ipi-broadcast": ("ipi --form broadcast", OURS, 0),
    "timer": ("timer", OURS, 0),
    "timer-hlt": ("timer --target hlt", OURS, 0),
    "kick-signal": ("kick --how signal", OURS, 0),
    "kick-signal-hlt": ("kick --how signal --target hlt", OURS, 0),
    "kick-nmi": ("kick --how nmi", OURS, 0),
    "kick-plain": ("kick --how plain", KICKS, 0),
    "kick-plain-exits": ("kick --how plain --target exits", KICKS, 0),
    "kick-request": ("kick --how request", KICKS, 0),
    "kick-request-exits": ("kick --how request --target exits", KICKS, 0),
    "kick-request-fastpath": ("kick --how request --target fastpath", KICKS, 0),
    "kick-wait": ("kick --how wait", OURS, 0),
    "kick-wait-exits": ("kick --how wait --target exits", OURS, 0),
}

LABS = emulators.amounts("latency")     # samples: of one run
TIMEOUT = 4 * 3600          # of a busy machine; a run without output ends much earlier

RUN_KEYS = ("seed", "count", "lost", "tsc_backwards", "min", "p50", "p90", "p99", "p999", "max",
            "mean", "exits", "notify_sent", "notify_elided", "notify_spurious",
            "kick_ipi_sent", "tries")
WINDOW_KEYS = ("after_exit_p50", "after_exit_max", "before_entry_p50", "before_entry_max",
               "watched", "unseen", "turn_ticks")


# Those that some form runs on
SHOWN = tuple(v for v in VARIANTS if any(v in known for _, known, _ in FORMS.values()))


def total(forms, variants, rounds):
    return sum(min(rounds, FORMS[f][2] or rounds) for f in forms for v in variants
               if v in FORMS[f][1])


def script(name, forms, variants, seed, switch, rounds=ROUNDS, samples=None):
    """Shell text; a line "CELL form variant seed" precedes each run's JSON. A run that is
    skipped, as the probe's where it is not loaded, leaves no JSON."""
    setup, lines = LABS[name], ["failed=0"]
    for number, turn in enumerate(paired.seeds(seed, rounds)):
        for variant in variants:
            lines += switch.lines(variant)
            for form in forms:
                arguments, known, turns = FORMS[form]
                if variant not in known or (turns and number >= turns):
                    continue
                lines.append(f"echo CELL {form} {variant} {turn}")
                many = (samples or setup["samples"]) * (MORE if "--target" in arguments and
                                                        "hlt" not in arguments else 1)
                lines.append(f"kvm-mode-bench {arguments} --json --seed {turn} --samples "
                             f"{many} {setup['extra']} || {{ s=$?; [ $s = 4 ] || failed=1; }}")
    return "\n".join(lines + ["exit $failed"])


def run_lab(name, build, forms=tuple(FORMS), variants=SHOWN, seed=1, rounds=ROUNDS,
            samples=None, log=None, **options):
    """One boot of L1. Returns {form: {variant: summary}}."""
    forms = [form for form in forms if form not in LABS[name]["without"]]
    text = script(name, forms, variants, seed, Switcher(), rounds, samples)
    return summarize(run_cells(name, build, text, "short runs for latencies",
                               total(forms, variants, rounds), variants[0],
                               hang=LABS[name]["hang"], log=log, **options))


def run_cells(name, build, text, what, wanted, variant, **options):
    """One boot of L1 with the KVM of @variant, in which @text is run. Returns the JSON behind
    each "CELL <words>" line, by its words; an error if there are not @wanted of them."""
    options = {"timeout": TIMEOUT, "build": build, **options}
    kept = Kept(name, text, VARIANTS[variant][0], **options)
    collector = Cells(name, wanted, kept)
    say(f"{name} lab: boot, then {collector.total} {what}" + kept.said())
    if not collector.total:
        return collector.cells
    result = lab.run(name, VARIANTS[variant][0], kept.text, output=collector, **options)
    missing = wanted - len(collector.cells)
    if missing:
        raise lab.LabError("\n".join([f"{name}: {missing} of {wanted} runs gave no result, "
                                      f"status {result.status}:"] + collector.other[-10:]))
    return collector.cells


def run_of(values, clock, vcpus, seed, **known):
    """Another tool's measurements, in any order, in the form of a run of kvm-mode-bench; what
    it does not say is None."""
    values = sorted(values)
    percentiles = [at(values, percent) for percent in range(101)]
    return {**dict.fromkeys(RUN_KEYS), "clock": clock, "vcpus": vcpus, "seed": int(seed),
            "count": len(values), "lost": 0, "tsc_backwards": 0, "percentiles": percentiles,
            "min": values[0], "p50": percentiles[50], "p90": percentiles[90],
            "p99": percentiles[99], "p999": at(values, 99.9), "max": values[-1],
            "mean": sum(values) / len(values), **known}


def at(values, percent):
    """Nearest rank, as distribution.c."""
    return values[max(math.ceil(len(values) * percent / 100) - 1, 0)]


def summarize(cells):
    """{(form, variant, seed): JSON of one run} to {form: {variant: summary}}"""
    grouped = {}
    for (form, variant, _), cell in sorted(cells.items(), key=lambda item: int(item[0][2])):
        grouped.setdefault(form, {}).setdefault(variant, []).append(cell)
    return {form: {variant: summary(runs) for variant, runs in by_variant.items()}
            for form, by_variant in grouped.items()}


def middle(runs, key):
    return statistics.median_low(run[key] for run in runs)


def summary(runs):
    """Each figure is the middle one of the runs, max the greatest, counts the sums."""
    drawn = runs[0].get("drawn")
    entry = {
        "clock": runs[0]["clock"], "vcpus": runs[0]["vcpus"],
        "count": sum(run["count"] for run in runs),
        "lost": sum(run["lost"] for run in runs),
        "tsc_backwards": sum(run["tsc_backwards"] for run in runs),
        **{key: middle(runs, key) for key in ("min", "p50", "p90", "p99")},
        "max": max(run["max"] for run in runs),
        "p50_spread": [min(run["p50"] for run in runs), max(run["p50"] for run in runs)],
        "percentiles": [statistics.median_low(column) for column in
                        zip(*(run["percentiles"] for run in runs))],
        "runs": [{key: run[key] for key in RUN_KEYS} for run in runs],
    }
    if drawn is not None:
        entry["window"] = {**{key: middle(runs, key) for key in WINDOW_KEYS},
                           "drawn_ticks": runs[0]["drawn_ticks"], "drawn": drawn}
    return entry


def is_void(entry):
    """Interrupts that were handled before they were sent: the CPUs' TSCs differ."""
    return entry["tsc_backwards"] > 0


def ratio(entry, base):
    """paired.Compared of the rounds' medians, or None."""
    if is_void(entry) or is_void(base):
        return None
    return paired.compared([run["p50"] for run in entry["runs"]], [run["p50"] for run in base["runs"]])


def verdict(entry, base):
    found = ratio(entry, base)
    return "void: the CPUs' TSCs differ" if found is None else str(found)


def verdicts(forms):
    """{form: {variant: text}} against the baseline of the same form."""
    return {form: {variant: verdict(entry, by_variant[BASELINE])
                   for variant, entry in by_variant.items() if variant != BASELINE}
            for form, by_variant in forms.items() if BASELINE in by_variant}


def family(forms):
    """[text] on all comparisons of rows()"""
    return paired.family([ratio(entry, by_variant[BASELINE]) for by_variant in forms.values()
                          if BASELINE in by_variant for variant, entry in by_variant.items()
                          if variant != BASELINE and "window" not in entry])


def method(forms):
    """What a row's figures are."""
    rounds = max(len(e["runs"]) for by in forms.values() for e in by.values())
    if rounds < 2:
        return "of one run"
    return (f"the middle one of {rounds} runs; ratio of medians with its "
            f"{paired.level(rounds):.0%} interval")


def broken(name, forms):
    """What was lost; the peer is unsafe, and is not held to it."""
    return [f"{name} {form} {variant}: {entry['lost']} lost"
            for form, by_variant in forms.items() for variant, entry in by_variant.items()
            if entry["lost"] and variant != "s4"]


def cases(name, forms):
    """[ktap.Case], as broken()."""
    found = []
    for form, by_variant in forms.items():
        for variant, entry in by_variant.items():
            if variant == "s4":
                continue
            times = [] if is_void(entry) else [(key, entry[key], "ticks")
                                               for key in ("p50", "p90", "p99", "max")]
            window = [(key, entry["window"][key], "ticks") for key in WINDOW_KEYS[:4]
                      if "window" in entry and entry["window"]["watched"]]
            against = ratio(entry, by_variant[BASELINE]) if BASELINE in by_variant else None
            if against and variant != BASELINE:
                times.append(("p50_against_stock", f"{against[0]:.3f}", "ratio"))
            found.append(ktap.Case(not entry["lost"], f"{name} {form} {variant}",
                                   ktap.counts(entry, ("count", "lost", "tsc_backwards")),
                                   (*times, *window)))
    return found


def rows(forms):
    """Of a table; the first row has the columns' names."""
    found = [("latency", "variant", "count", "lost", "p50", "runs' p50", "p90", "p99", "max",
              "p50 against stock")]
    said = verdicts(forms)
    for form, by_variant in forms.items():
        for variant, e in by_variant.items():
            if "window" in e:
                continue        # these have a table of their own
            low, high = e["p50_spread"]
            figures = [f"{e[key]:,}" for key in ("p50", "p90", "p99", "max")]
            if is_void(e):
                figures = ["-"] * 4
            found.append((form, variant, f"{e['count']:,}", f"{e['lost']:,}", figures[0],
                          "-" if is_void(e) else f"{low:,}-{high:,}", *figures[1:],
                          said.get(form, {}).get(variant, "")))
    return found


def window_rows(forms):
    found = [("round trip of", "variant", "ticks", "seen in guest after the exit", "at most",
              "before the entry", "at most", "watched", "never left", "resolution")]
    for form, by_variant in forms.items():
        for variant, entry in by_variant.items():
            if "window" not in entry:
                continue
            w = entry["window"]
            found.append((form, variant, f"{entry['p50']:,}",
                          *(f"{w[key]:,}" if w["watched"] else "-" for key in WINDOW_KEYS)))
    return found if len(found) > 1 else []
