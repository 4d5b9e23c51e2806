#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Runs small scenarios under every schedule of the emulated CPUs with few preemptions, in the vmx lab, on
the real modules: a CPU may be preempted at each access to the words that matter (run-loop mode, requests,
in-guest flag, posted-interrupt descriptor, what page-ready events go by), at each VM entry and exit, and
its stores may wait in a store buffer meanwhile. docs/explore.md has what that finds and what not. Prints a
table, writes BUILD/explore/results.json. Called by `make explore`.

With --mutants mutants of the series' order instead, each until it is found: how many schedules that takes. With
--litmus small tests of the emulator's own memory model.
With --commit the series as it was at an earlier commit of this repository, its faults included.
With --replay 'SCENARIO SCHEDULE' one schedule, as the table names it: each access, time downwards, a column
for each CPU; an SVG as well.

exit status: 0 all were right, 1 one was not, 125 the lab failed, 130 interrupted"""
import json
import re
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)     # the packages
from bench.progress import align, say
from lab import bases, lab, program
from selftests import mutants
from selftests.project import Project

CPUS = 4
# The first CPUs take part: the vCPU's, and one for each that posts, kicks or gives pages.
SCENARIOS = {"post-entry": 2, "post-fastpath": 2, "post-exits": 2, "post-block": 2, "two-posts-entry": 3,
             "kick-entry": 2, "kick-fastpath": 2, "request-entry": 2, "request-fastpath": 2, "wait-entry": 2,
             # With pages also those that KVM's workers are on.
             "page-entry": 4, "page-exits": 4, "page-block": 4, "page-entry-area-gone": 4,
             "page-exits-area-gone": 4, "page-block-area-gone": 4, "three-pages-entry": 4}
# Instructions of a turn: a few exits' worth, so that a guest that exits all the time lets others run.
TURN = 6000


class Litmus(NamedTuple):
    """Outcomes that x86-TSO allows, as selftests/explore/explore.c numbers them"""
    threads: int
    without: set                # a store buffer
    with_buffer: set


LITMUS = {
    "sb": Litmus(2, {1, 2, 3}, {0, 1, 2, 3}),
    "sb-fenced": Litmus(2, {1, 2, 3}, {1, 2, 3}),
    "sb-own": Litmus(2, {11, 14, 15}, {10, 11, 14, 15}),
    "mp": Litmus(2, {0, 1, 3}, {0, 1, 3}),
    "2+2w": Litmus(2, {6, 9, 10}, {6, 9, 10}),
    "iriw": Litmus(4, set(range(16)) - {10}, set(range(16)) - {10}),
}
LITMUS_K = 3
SEEN = 100                      # explore.h of the emulator


# mutant: the scenario that shows it, and with how many preemptions
MUTANTS = {
    "flag-set-late": ("post-entry", 1),
    "flag-after-barrier": ("post-entry", 1),
    "flag-not-set": ("post-entry", 1),
    "flag-before-on": ("post-entry", 2),
    "no-fastpath-barrier": ("post-fastpath", 1),
    "no-wake": ("post-block", 1),
    "elide-in-guest": ("kick-entry", 1),
    "elide-without-recheck": ("kick-entry", 1),
    "elide-wait": ("wait-entry", 1),
    "apf-overwrite": ("three-pages-entry", 1),
    "apf-ack-sends-nothing": ("three-pages-entry", 1),
}


class Found(NamedTuple):
    """Of one scenario with one set of options"""
    explored: int
    left: int
    events: int
    right: int
    wrong: int
    stuck: int
    instructions: int
    pairs: int
    both_orders: int
    seconds: float
    schedules: tuple            # (schedule, what was wrong, its number), the first ones
    seen: dict                  # litmus: outcome: in how many schedules


SUMMARY = re.compile(r"explored (\d+) schedules, (\d+) left, of (\d+) events: right (\d+) wrong (\d+) stuck (\d+), "
                     r"(\d+) instructions each, pairs (\d+) in both orders (\d+), ([\d.]+) s")


def options(scenario, k, hold, first=False, most=None):
    cpus = SCENARIOS.get(scenario) or LITMUS[scenario].threads
    words = {"k": k, "hold": int(hold), "cpus": (1 << cpus) - 1, "turn": TURN, "first": int(first)}
    if most:
        words["most"] = most
    return " ".join(f"{name}={value}" for name, value in words.items())


def read(lines):
    """{scenario: [Found for each of its commands]}"""
    found, now, schedules, seen = {}, None, [], {}
    for line in lines:
        if match := re.match(r"(\S+): explore ", line):
            now, schedules, seen = match[1], [], {}
        elif match := re.match(r"schedule (\S+): (.*), number (\d+)$", line):
            schedules.append((match[1], match[2], int(match[3])))
        elif match := re.match(r"seen (\d+) in (\d+) schedules$", line):
            seen[int(match[1]) - SEEN] = int(match[2])
        elif match := SUMMARY.match(line):
            numbers = [int(text) for text in match.groups()[:-1]]
            found.setdefault(now, []).append(Found(*numbers, float(match[10]), tuple(schedules), seen))
    return found


def run(build, commands, kvm="patched", log=None, output=None, **lab_options):
    """@commands: shell text. The lines that L1 has printed."""
    # L1 has nothing to say while it is being explored.
    done = lab.run("vmx", kvm, commands, output, build=build, explore=True, cpus=CPUS, mem=1024,
                   **{"hang": 7200, **lab_options}, log=log)
    # 1: something was wrong, which the lines say.
    if done.status not in (0, 1):
        raise lab.LabError(f"status {done.status}: " + "\n".join(done.lines[-5:]))
    if done.warnings:
        raise lab.LabError(f"L1 warned: {done.warnings}")
    return done.lines


def modules(args):
    """What run() is to be given for --kvm and --commit"""
    if not args.commit:
        return {"kvm": args.kvm}
    project = Project(args)

    def do(*argv):
        status, text = project.command(*argv)
        if status:
            raise lab.LabError(f"--commit {args.commit}: {text.strip()[-1500:]}")
        return text.split()[-1] if text else ""
    name = do("git", "rev-parse", "--short", "--verify", f"{args.commit}^{{commit}}")
    source, tree, out, archive = (project.work / f"commit-{kind}" for kind in ("source", "tree", "modules", "tar"))
    say(f"build the modules of {name}, about two minutes")
    do("rm", "-rf", source)
    source.mkdir()
    do("git", "archive", "-o", archive, "--format=tar", name)
    do("tar", "-xf", archive, "-C", source)
    prepare = source / "scripts/prepare-tree"
    do(prepare, *(["--with-probe"] if "--with-probe" in prepare.read_text() else []), "patched", project.version,
       project.source, tree)
    # With the probe of today
    do("scripts/build-modules", "--with-probe", *project.root, tree, project.release, out)
    return {"kvm": name, "initramfs": project.initramfs("explore-commit", {name: out})}


def command(scenario, what):
    """Shell text; each with a VM of its own"""
    return f"/bin/explore {scenario} '{what}'; s=$?; [ $s -le 1 ] || exit $s; [ $s = 0 ] || failed=1"


HEAD = ("scenario", "preemptions", "stores wait", "schedules", "not run", "events", "wrong", "stuck",
        "first of these", "at number", "pairs", "in both orders", "schedules/min")


def row(scenario, k, hold, found):
    first = found.schedules[0] if found.schedules else ("", "", "")
    return (scenario, str(k), "yes" if hold else "no", f"{found.explored:,}", str(found.left), str(found.events),
            str(found.wrong), str(found.stuck), f"{first[0]} {first[1]}".strip(), str(first[2]), str(found.pairs),
            str(found.both_orders), f"{60 * found.explored / max(found.seconds, 0.1):,.0f}")


def replay_command(scenario, schedule, base, kvm="patched", commit=""):
    """What somebody types to see it"""
    words = {"BASE": base if base != bases.DEFAULT else "", "COMMIT": commit, "KVM": kvm if kvm != "patched" else ""}
    return f"make explore REPLAY='{scenario} {schedule}'" + "".join(f" {k}={v}" for k, v in words.items() if v)


def explore(args):
    k, holds = args.k, {"yes": (True,), "no": (False,), "both": (False, True)}[args.hold]
    lines = []

    def line(text):
        lines.append(text)
        if SUMMARY.match(text) or " explore " in text:
            say(text)
    names = args.scenarios.split()
    run(args.build, "\n".join(
        command(name, "explore " + options(name, k, hold, args.first, args.most))
        for name in names for hold in holds) + "\nexit $failed",
        log=Path(args.build) / "log/explore.log", output=line, overlay=[overlay(args.build)], **modules(args))
    found = read(lines)
    rows = [row(name, k, hold, one) for name in names for hold, one in zip(holds, found.get(name, []))]
    print(align(None, [HEAD, *rows], 1))
    out = Path(args.build) / "explore"
    out.mkdir(exist_ok=True)
    (out / "results.json").write_text(json.dumps(
        {name: [one._asdict() for one in some] for name, some in found.items()}, indent=1) + "\n")
    bad = [one for some in found.values() for one in some if one.wrong or one.stuck]
    for name, some in found.items():
        for one in some:
            for schedule, why, _ in one.schedules[:1]:
                print(f"{name}: {why}: {replay_command(name, schedule, args.base, args.kvm, args.commit)}")
    if len(rows) != len(names) * len(holds):
        raise lab.LabError("some scenarios gave no result: see log/explore.log")
    return 1 if bad else 0


def explore_mutants(args):
    """Each until it is found; make explore has the product in the same scenarios, with K as many preemptions."""
    project = Project(args)
    image = mutants.dynamic_image(project, say, "vmx", list(MUTANTS))
    text = []
    for mutant, (scenario, k) in MUTANTS.items():
        text += [f"load-kvm {mutant} && echo MUTANT {mutant} || exit 3",
                 command(scenario, "explore " + options(scenario, k, True, True, args.most))]
    lines = run(args.build, "\n".join(text) + "\nexit 0", args.kvm, Path(args.build) / "log/explore-mutants.log",
                lambda line: SUMMARY.match(line) and say(line), initramfs=image, overlay=[overlay(args.build)])
    found, now = {}, None
    for line in lines:
        if line.startswith("MUTANT "):
            now = line.split()[1]
            found[now] = []
        elif now:
            found[now].append(line)
    rows, missed = [("mutant", *HEAD)], []
    for mutant, (scenario, k) in MUTANTS.items():
        one = next(iter(read(found.get(mutant, [])).values()), [None])[0]
        if one:
            rows.append((mutant, *row(scenario, k, True, one)))
        # Lost for good counts, an emulator that has ended does not.
        if not one or not one.schedules or not one.schedules[0][1].startswith(("wrong", "all CPUs sleep")):
            missed.append(mutant)
    print(align(None, rows, 2))
    print(f"{len(MUTANTS) - len(missed)} of {len(MUTANTS)} found" + (f", not {', '.join(missed)}" if missed else ""))
    return 1 if missed else 0


def litmus(args):
    """Is what the emulator's CPUs show of each other x86-TSO's, no more and no less?"""
    text = [command(name, "explore " + options(name, LITMUS_K, hold, most=args.most))
            for name in LITMUS for hold in (False, True)]
    lines = run(args.build, "\n".join(text), args.kvm, Path(args.build) / "log/explore-litmus.log",
                lambda line: SUMMARY.match(line) and say(line), overlay=[overlay(args.build)])
    found, wrong = read(lines), []
    rows = [("test", "stores wait", "schedules", "outcomes", "of x86-TSO's")]
    for name, test in LITMUS.items():
        if len(found.get(name, ())) != 2:
            raise lab.LabError(f"{name} gave no result: see log/explore-litmus.log")
        for one, wanted, waits in zip(found[name], (test.without, test.with_buffer), ("no", "yes")):
            seen = set(one.seen)
            rows.append((name, waits, f"{one.explored:,}", " ".join(map(str, sorted(seen))),
                         f"{len(seen & wanted)} of {len(wanted)}"))
            if seen != wanted or one.wrong or one.stuck:
                wrong.append(f"{name}, stores wait: {waits}: {sorted(seen)}, not {sorted(wanted)}")
    print(align(None, rows, 2))
    for text in wrong:
        print(f"WRONG: {text}")
    return 1 if wrong else 0


def overlay(build):
    return str(Path(build) / "lab/explore.cpio")


EVENT = re.compile(r"event (\d+) cpu (\d+) (\S) (\S+) (\S+) rip (\S+) instructions (\d+)"
                   r"(?: then cpu (\d+)(, stores wait)?)?")
KINDS = {"r": "reads", "w": "writes", "x": "changes", "E": "VM entry", "X": "VM exit", "I": "interrupt"}


class Event(NamedTuple):
    number: int
    cpu: int
    text: str
    where: str
    then: str


def events(lines, symbols):
    for line in lines:
        match = EVENT.match(line)
        if not match:
            continue
        number, cpu, kind, name, value, rip, _, then, waits = match.groups()
        text = KINDS[kind] + (f" {name}: {value}" if kind in "rwx" else f" {int(value, 16):#x}" if kind == "I" else "")
        yield Event(int(number), int(cpu), text, symbols(int(rip, 16)),
                    f"preempted: CPU {then} runs{', these stores wait' if waits else ''}" if then else "")


def symbol_finder(lines):
    """From lines of /proc/kallsyms: an address as function+offset"""
    table = sorted((int(address, 16), name) for address, kind, name in
                   (line.split()[:3] for line in lines) if kind in "tT")

    def find(address):
        below = [entry for entry in table if entry[0] <= address < entry[0] + 0x4000]
        return f"{below[-1][1]}+{address - below[-1][0]:#x}" if below else \
            "guest" if address < 1 << 47 else f"{address:#x}"
    return find


VERDICTS = "right|seen|wrong|all CPUs|does not|too many|not the run|the emulator"
WIDTH = 44


def picture(shown):
    """Time downwards, a column for each CPU"""
    cpus = sorted({event.cpu for event in shown})
    rows = ["".join(f"{f'CPU {cpu}':<{WIDTH}}" for cpu in cpus).rstrip()]
    for event in shown:
        at = cpus.index(event.cpu) * WIDTH
        rows += [" " * at + f"{event.number:>4} {event.text}", " " * (at + 5) + event.where]
        if event.then:
            rows += [" " * (at + 5) + f"-- {event.then}"]
    return "\n".join(rows)


def svg(shown):
    cpus = sorted({event.cpu for event in shown})
    lines, y = [], 30
    for cpu in cpus:
        lines.append(f'<text x="{20 + cpus.index(cpu) * 340}" y="20" font-weight="bold">CPU {cpu}</text>')
    for event in shown:
        x = 20 + cpus.index(event.cpu) * 340
        y += 30
        lines.append(f'<text x="{x}" y="{y}">{event.number} {event.text}</text>'
                     f'<text x="{x}" y="{y + 13}" fill="#777">{event.where}</text>')
        if event.then:
            y += 16
            lines.append(f'<text x="{x}" y="{y + 10}" fill="#b00">{event.then}</text>'
                         f'<path d="M10 {y + 14}H{30 + 340 * len(cpus)}" stroke="#b00"/>')
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {40 + 340 * len(cpus)} {y + 40}" font-size="12" '
            'font-family="sans-serif"><rect width="100%" height="100%" fill="#fff"/>' + "\n".join(lines) + "</svg>\n")


def replay(args):
    scenario, schedule = args.replay.split()
    # With the options that it was found with
    what = f"replay {options(scenario, 0, args.hold != 'no')} {schedule}"
    lines = run(args.build, f"{command(scenario, what)}\n"
                "grep -E ' [tT] .*(kvm|svm|vmx|vmcs|apf|apic|async|pi_)' /proc/kallsyms | sed 's/^/SYMBOL /'",
                log=Path(args.build) / "log/explore.log", overlay=[overlay(args.build)], **modules(args))
    symbols = symbol_finder([line.split(" ", 1)[1] for line in lines if line.startswith("SYMBOL ")])
    shown = list(events(lines, symbols))
    if not shown:
        raise lab.LabError("nothing to show: see log/explore.log")
    print(picture(shown))
    verdict = next(line for line in reversed(lines) if re.match(VERDICTS, line))
    print(verdict)
    out = Path(args.build) / "explore"
    out.mkdir(exist_ok=True)
    (out / "replay.svg").write_text(svg(shown))
    print(f"written: {out}/replay.svg")
    return 0 if verdict.startswith("right") else 1


def main():
    args = program.options(__doc__, base=True)
    args.add_argument("--kvm", default="patched", help="module set")
    args.add_argument("--commit", metavar="REV", help="the series as of that commit, not --kvm")
    args.add_argument("--scenarios", default=" ".join(SCENARIOS))
    args.add_argument("-k", type=int, default=1, help="preemptions at most (default: 1)")
    args.add_argument("--hold", choices=("yes", "no", "both"), default="yes",
                      help="may stores wait in a store buffer? (default: yes, each time that, or not)")
    args.add_argument("--most", type=int, help="schedules of each scenario at most")
    args.add_argument("--first", action="store_true", help="a scenario ends with its first wrong schedule")
    args.add_argument("--mutants", action="store_true", help="of the order; each until it is found")
    args.add_argument("--litmus", action="store_true", help="does the emulator show x86-TSO's outcomes, and no others?")
    args.add_argument("--replay", metavar="'SCENARIO SCHEDULE'")
    parser, args = args, program.parse(args)
    if args.commit and (args.mutants or args.litmus or args.kvm != "patched"):
        parser.error("--commit goes with neither --mutants, --litmus nor --kvm")
    return (replay if args.replay else litmus if args.litmus else explore_mutants if args.mutants
            else explore)(args)


if __name__ == "__main__":
    program.start(main)
