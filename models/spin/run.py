#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Verifies protocol.pml and apf.pml with Spin: the protocols in many
configurations, in which every property has to hold, and seeded faults, each of
which has to violate the property that is named for it.  Called by hand, and by
the tests.

exit status: 0 all as expected, 1 something is not, 2 usage, or no Spin or gcc,
130 interrupted"""
import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import namedtuple
from pathlib import Path

HERE = Path(__file__).resolve().parent
MEGABYTES = 6000        # a verification that needs more has failed
HASH = {"fault": 18, "quick": 22, "long": 25}       # log2 of the hash table's slots
# Steps; a search that gets deeper has failed.
DEPTH = {"fault": 500_000, "quick": 1_000_000, "long": 10_000_000}

# name, flags for Spin (without -D), what is expected: "ok" or the property
# that is violated; long: not in the quick run.
Config = namedtuple("Config", "name flags expect long model", defaults=(False, "protocol.pml"))


def vmx(one, two="NONE", *more):
    return [f"SENDER1={one}", f"SENDER2={two}", *more]


def avic(one, two="NONE", *more):
    return vmx(one, two, "AVIC", *more)


PROTOCOL = [
    Config("vmx-post-post", vmx("POST", "POST"), "ok"),
    Config("vmx-post-post-same-vector", vmx("POST", "POST", "SAME_VECTOR"), "ok", True),
    Config("vmx-post-self", vmx("POST", "NONE", "SELF_POST"), "ok"),
    Config("vmx-post-toggle", vmx("POST", "NONE", "PRECISE=2", "MIGRATE"), "ok"),
    Config("vmx-post-post-toggle", vmx("POST", "POST", "PRECISE=2"), "ok", True),
    Config("vmx-post-kick-imprecise", vmx("POST", "KICK", "PRECISE=0"), "ok", True),
    Config("vmx-post-kick", vmx("POST", "KICK"), "ok", True),
    Config("vmx-post-kick-elide", vmx("POST", "KICK", "ELIDE"), "ok"),
    Config("vmx-post-kick-elide-toggle", vmx("POST", "KICK", "ELIDE", "PRECISE=2"),
           "ok", True),
    Config("vmx-post-request-elide", vmx("POST", "KICK_REQUEST", "ELIDE"), "ok", True),
    Config("vmx-post-wait", vmx("POST", "KICK_WAIT"), "ok", True),
    Config("vmx-post-post-migrate", vmx("POST", "POST", "MIGRATE"), "ok", True),
    Config("vmx-device-migrate", vmx("DEVICE", "NONE", "PI_WAKEUP", "MIGRATE"), "ok"),
    Config("vmx-post-device", vmx("POST", "DEVICE", "PI_WAKEUP"), "ok"),
    Config("vmx-post-device-migrate", vmx("POST", "DEVICE", "PI_WAKEUP", "MIGRATE"),
           "ok", True),
    Config("vmx-nested-request-elide", vmx("NESTED", "KICK_REQUEST", "ELIDE"), "ok", True),
    Config("vmx-nested-nested", vmx("NESTED", "NESTED"), "ok", True),
    Config("vmx-nested-migrate", vmx("NESTED", "NONE", "MIGRATE"), "ok"),
    Config("vmx-nested-toggle", vmx("NESTED", "NONE", "PRECISE=2", "MIGRATE"), "ok", True),
    Config("kick-kick-elide", vmx("KICK", "KICK", "ELIDE"), "ok"),
    Config("kick-request-elide", vmx("KICK", "KICK_REQUEST", "ELIDE"), "ok"),
    Config("kick-kick-kick-elide", vmx("KICK", "KICK", "SENDER3=KICK", "ELIDE"), "ok", True),
    Config("kick-wait-elide", vmx("KICK", "KICK_WAIT", "ELIDE"), "ok"),
    Config("kick-elide-migrate", vmx("KICK", "NONE", "ELIDE", "MIGRATE"), "ok"),
    Config("wait-walk-migrate", vmx("KICK_WAIT", "NONE", "SHADOW_WALK", "MIGRATE"), "ok"),
    Config("wait-wait-walk", vmx("KICK_WAIT", "KICK_WAIT", "SHADOW_WALK"), "ok", True),
    Config("kick-wait-migrate",
           vmx("KICK", "KICK_WAIT", "ELIDE", "SHADOW_WALK", "MIGRATE"), "ok", True),
    Config("avic-post-post", avic("DOORBELL", "DOORBELL"), "ok"),
    Config("avic-post-migrate", avic("DOORBELL", "NONE", "MIGRATE", "PRECISE=2"), "ok"),
    Config("avic-post-post-migrate", avic("DOORBELL", "DOORBELL", "MIGRATE"), "ok", True),
    Config("avic-post-kick-elide", avic("DOORBELL", "KICK", "ELIDE"), "ok", True),
    Config("avic-post-inhibit", avic("DOORBELL", "NONE", "INHIBIT", "ELIDE"), "ok"),
    Config("avic-post-inhibit-toggle",
           avic("DOORBELL", "NONE", "INHIBIT", "ELIDE", "PRECISE=2"), "ok", True),
    Config("vmx-post-noreduce", vmx("POST", "NONE", "NOREDUCE"), "ok", True),
    Config("kick-wait-noreduce", vmx("KICK", "KICK_WAIT", "ELIDE", "NOREDUCE"), "ok", True),
    Config("vmx-post-rests", vmx("POST", "NONE", "LTL"), "ok"),
    Config("kick-elide-rests", vmx("KICK", "NONE", "ELIDE", "LTL"), "ok"),
    Config("wait-rests", vmx("KICK_WAIT", "NONE", "LTL"), "ok"),
    Config("avic-post-rests", avic("DOORBELL", "NONE", "LTL"), "ok"),
]


def fault(name, flags, expect, suffix=""):
    words = name.lower().replace("_", "-")
    return Config(f"fault-{words}{suffix}", [*flags, f"FAULT_{name}"], expect)


FAULTS = [
    fault("NO_ENTER", vmx("POST"), "P1"),
    fault("NO_ENTER", avic("DOORBELL"), "P1", "-avic"),
    fault("ENTER_AFTER_BARRIER", vmx("POST"), "P1"),
    fault("ENTER_AFTER_BARRIER", avic("DOORBELL"), "P1", "-avic"),
    fault("NO_FASTPATH_BARRIER", vmx("POST"), "P1"),
    fault("NO_FASTPATH_BARRIER", avic("DOORBELL"), "P1", "-avic"),
    fault("NO_FASTPATH_BARRIER", vmx("KICK", "NONE", "ELIDE", "SKIP=64"), "P2", "-elide"),
    fault("NO_FASTPATH_SYNC", vmx("POST"), "P1"),
    fault("EARLY_IN_HOST", vmx("POST", "NONE", "SKIP=32"), "P1"),
    fault("EARLY_IN_HOST", avic("DOORBELL", "NONE", "SKIP=32"), "P1", "-avic"),
    fault("FLAG_BEFORE_ON", vmx("POST"), "P1"),
    fault("FLAG_BEFORE_ON", avic("DOORBELL"), "P1", "-avic"),
    fault("KICK_BY_FLAG", vmx("KICK"), "P2"),
    fault("ELIDE_NO_MODE_CHECK", vmx("KICK", "NONE", "ELIDE"), "P2"),
    fault("ELIDE_FLAG_BEFORE_MODE", vmx("KICK", "NONE", "ELIDE"), "P2"),
    fault("ELIDE_WAIT", vmx("KICK_WAIT", "NONE", "ELIDE"), "P3"),
    fault("WAIT_NOT_FOR_EXITING", vmx("KICK", "KICK_WAIT"), "P3"),
    fault("NO_WAKE", vmx("POST"), "P4"),
    fault("NO_WAKE", avic("DOORBELL"), "P4", "-avic"),
    fault("WAKE_NO_BARRIER", vmx("POST", "NONE", "SKIP=64"), "P4"),
    fault("WAKE_NO_BARRIER", avic("DOORBELL", "NONE", "SKIP=64"), "P4", "-avic"),
    fault("VMFAIL_LEAVES_FLAG", vmx("NONE"), "P5"),
    fault("VMFAIL_LEAVES_FLAG", vmx("POST", "NONE", "SKIP=32"), "P4", "-post"),
    fault("BAILOUT_LEAVES_GUEST", vmx("KICK_REQUEST"), "P5"),
    fault("BAILOUT_LEAVES_GUEST", vmx("POST", "KICK_REQUEST", "SKIP=32"), "P4", "-post"),
    fault("BAILOUT_LEAVES_GUEST", avic("DOORBELL", "KICK_REQUEST", "SKIP=32"), "P4", "-avic"),
    fault("STALE_IN_GUEST", vmx("NONE"), "P5"),
    fault("STALE_IN_GUEST", vmx("POST", "NONE", "SKIP=32"), "P4", "-post"),
    fault("WAIT_SENDS_RESCHEDULE", vmx("KICK_WAIT"), "P0"),
    fault("REQUEST_STAYS", vmx("KICK_REQUEST", "NONE", "LTL"), "rests"),
]

# At rest everybody is at their end here: Spin says who is not.
APF = [Config("apf", [], "ok", model="apf.pml"),
        Config("apf-changes", ["CHANGES=3"], "ok", True, "apf.pml"),
        Config("apf-tasks", ["TASKS=2"], "ok", True, "apf.pml"),
        Config("apf-again", ["TASKS=2", "AGAIN"], "ok", True, "apf.pml"),
        Config("apf-gets-on", ["NP"], "ok", model="apf.pml")] + [
    Config(f"fault-{name.lower().replace('_', '-')}", [f"FAULT_{name}", *more], expect, model="apf.pml")
    for name, more, expect in (
        ("JUDGED_ONCE", [], "A1"), ("FAIL_BY_WORKER", [], "A1"), ("MODE_JUDGED_ONCE", [], "A2"),
        ("SENT_TWICE", [], "A3"), ("FAILURE_KEPT", ["STAYS"], "A4"), ("NOT_FORGOTTEN", [], "A5"),
        ("FAILURE_FORGOTTEN", [], "A6"), ("SENT_FIRST", [], "end"), ("DEQUEUED_UNSENT", [], "end"),
        ("FORGOTTEN_AGAIN", ["TASKS=2", "AGAIN"], "end"),
        ("NO_REQUEST", ["NP"], "stuck"))]

Result = namedtuple("Result", "found states depth megabytes seconds every reached text")


class Failure(Exception):
    """A verification that could not be carried out, or not to its end."""


def tool_missing():
    missed = [tool for tool in ("spin", "gcc") if not shutil.which(tool)]
    if missed:
        say(f"run.py: not installed: {', '.join(missed)} (Debian packages of that name)")
    return bool(missed)


def say(text):
    print(text, file=sys.stderr, flush=True)


def run(command, cwd):
    """Runs a command in a process group of its own; returns its output."""
    with subprocess.Popen(command, cwd=cwd, text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, start_new_session=True) as child:
        try:
            out, _ = child.communicate()
        except BaseException:
            os.killpg(child.pid, signal.SIGKILL)
            raise
    return child.returncode, out


def build(config, work):
    """The model -> pan.c -> pan"""
    shutil.copy(HERE / config.model, work)
    defines = [f"-D{flag}" for flag in config.flags]
    # -o3: a statement that is merged into another one would not be counted
    status, out = run(["spin", "-a", "-o3", *defines, config.model], work)
    if status or "rror" in out or not (work / "pan.c").exists():
        raise Failure(f"spin: {out.strip()}")
    options = ["-DCOLLAPSE", "-DVECTORSZ=1024", f"-DMEMLIM={MEGABYTES}"]
    options += ["-DNP"] if "NP" in config.flags else [] if "LTL" in config.flags else ["-DSAFETY"]
    options += ["-DNOREDUCE"] if "NOREDUCE" in config.flags else []
    optimize = "-O1" if config.expect == "ok" else "-O0"    # short searches
    status, out = run(["gcc", optimize, "-w", *options, "-o", "pan", "pan.c"], work)
    if status:
        raise Failure(f"gcc: {out.strip()}")


def number(pattern, text):
    match = re.search(pattern, text, re.MULTILINE)
    if not match:
        raise Failure(f"pan: no /{pattern}/ in its report:\n{text.strip()}")
    return float(match[1])


def violation(text):
    """Which property does pan report as violated?"""
    if not re.search(r"^State-vector .* errors: [1-9]", text, re.MULTILINE):
        return "ok"
    if match := re.search(r"assertion violated \(?\(?([PAB]\d)_", text):
        return match[1]
    if "non-progress cycle" in text:
        return "stuck"
    if "acceptance cycle" in text:
        return "rests"
    if "invalid end state" in text:
        return "end"
    raise Failure(f"pan: an error of an unknown kind:\n{text.strip()}")


def check_complete(text):
    for sign in ("max search depth too small", "out of memory", "memory exceeded",
                 "MEMLIM", "VECTORSZ", "Search not completed"):
        if sign in text:
            raise Failure(f"pan: the search is not complete: {sign}")


STATE = re.compile(r"state\s+(\d+) -\(tr\s+\d+\)-> state\s+\d+\s+\[.*?\] \S+?:(\d+) => (.*)")
UNREACHED = re.compile(r"^\t\S+?:(\d+), state (\d+), ", re.MULTILINE)


def statements(work):
    """{process: {state: line}} of the whole model, from pan's own tables"""
    _, text = run(["./pan", "-d"], work)
    table, process = {}, None
    for line in text.splitlines():
        if match := re.match(r"(?:proctype|init|claim) (\w+)", line):
            process = table.setdefault(match[1], {})
        elif process is not None and (match := STATE.search(line)):
            if "-end-" not in match[3]:
                process[int(match[1])] = int(match[2])
    return table


def reached_lines(work, text):
    """Returns (all, reached): sets of (process, line) of the model."""
    every, reached = set(), set()
    for process, states in statements(work).items():
        section = re.search(rf"^unreached in proctype {process}\n((?:\t.*\n)*)",
                            text, re.MULTILINE)
        if not section:
            continue                    # the claim
        missed = {int(m[2]) for m in UNREACHED.finditer(section[1])}
        every |= {(process, line) for line in states.values()}
        reached |= {(process, line) for state, line in states.items() if state not in missed}
    return every, reached


def verify(config, work):
    """Runs one configuration; returns its Result."""
    build(config, work)
    say(f"  {config.name}: searching")
    kind = "fault" if config.expect != "ok" else "long" if config.long else "quick"
    options = [f"-m{DEPTH[kind]}", f"-w{HASH[kind]}"]
    options += ["-E"] if config.model == "protocol.pml" else []     # it looks for itself
    options += ["-a"] if "LTL" in config.flags else ["-l", "-f"] if "NP" in config.flags else []
    start = time.monotonic()
    _, text = run(["./pan", *options], work)
    seconds = time.monotonic() - start
    found = violation(text)
    every, reached = set(), set()
    if found == "ok":
        check_complete(text)
        every, reached = reached_lines(work, text)
    return Result(found, int(number(r"^\s*(\d+) states, stored", text)),
                  int(number(r"depth reached (\d+)", text)),
                  number(r"^\s*([\d.]+)\s+total actual memory usage", text),
                  seconds, every, reached, text)


def trace(config, work):
    """The run that violates the property, step by step."""
    _, text = run(["./pan", "-r", "-n", f"{config.model}.trail"], work)
    return text


def report(config, result):
    """One line for stdout; returns whether all is as expected."""
    good = result.found == config.expect
    line = f"{'ok' if good else 'FAIL'} {config.name}: "
    if not good:
        line += f"expected {config.expect}, found {result.found}: "
    elif config.expect != "ok":
        line += f"violates {config.expect}: "
    line += (f"{result.states:,} states, depth {result.depth:,}, "
             f"{result.megabytes:,.0f} MB, {result.seconds:.1f} s")
    if result.every:
        line += f", {len(result.reached)} of {len(result.every)} lines reached"
    print(line, flush=True)
    return good


def run_one(config, base):
    """Returns (as expected?, lines, reached lines)."""
    work = base / config.name
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        result = verify(config, work)
    except Failure as failure:
        print(f"FAIL {config.name}: {str(failure).splitlines()[0]}", flush=True)
        say(str(failure))
        return False, set(), set()
    if result.found != "ok":
        (work / "trace").write_text(trace(config, work))
    good = report(config, result)
    if not good:
        say(f"  flags: {' '.join(config.flags)}")
        say("  (--work keeps the trace)")
    return good, result.every, result.reached


def check_coverage(every, reached):
    """Every statement of the models is reached by some configuration."""
    missed = sorted(every - reached)
    for model, process, line in missed:
        source = (HERE / model).read_text().splitlines()
        print(f"FAIL never reached: {model}, {process}, line {line}: {source[line - 1].strip()}")
    if every and not missed:
        print(f"ok coverage: all {len(every)} lines with statements were reached")
    return not missed


def chosen(args):
    configs = PROTOCOL + FAULTS + APF
    if args.only:
        configs = [c for c in configs if re.search(args.only, c.name)]
    elif not args.long:
        configs = [c for c in configs if not c.long]
    return configs


def run_all(configs, base, whole):
    bad, every, reached = 0, set(), set()
    start = time.monotonic()
    for number_, config in enumerate(configs, 1):
        say(f"[{number_}/{len(configs)}] {config.name}: {' '.join(config.flags)}")
        good, lines, hit = run_one(config, base)
        bad += not good
        every |= {(config.model, *line) for line in lines}
        reached |= {(config.model, *line) for line in hit}
    if whole:
        bad += not check_coverage(every, reached)
    total = len(configs) + whole
    print(f"{total - bad} passed, {bad} failed, {time.monotonic() - start:.0f} s")
    return 1 if bad else 0


def arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--quick", action="store_true", help="the small configurations (default)")
    form.add_argument("--long", action="store_true", help="all configurations")
    form.add_argument("--only", metavar="REGEX", help="those whose names match")
    parser.add_argument("--work", type=Path, metavar="DIR",
                        help="keep what is built, and traces, there (default: a temporary one)")
    parser.add_argument("--list", action="store_true", help="list the configurations")
    return parser.parse_args()


def main():
    args = arguments()
    configs = chosen(args)
    if args.list:
        for config in configs:
            print(f"{config.name}: {' '.join(config.flags)}: {config.expect}")
        return 0
    if tool_missing():
        return 2
    if not configs:
        say("run.py: no such configuration, see --list")
        return 2
    if args.work:
        return run_all(configs, args.work.resolve(), not args.only)
    with tempfile.TemporaryDirectory(prefix="spin-") as base:
        return run_all(configs, Path(base), not args.only)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        say("run.py: interrupted")
        sys.exit(130)
