# SPDX-License-Identifier: GPL-2.0
"""KTAP, the kernel's test format (Documentation/dev-tools/ktap.rst), for the runners.
A result line's data has counts as "name number" words; other figures are lines "# name number
unit" ahead of it. bench/ci/ktap-to-lava.sh takes both apart."""
import contextlib
import sys
from typing import NamedTuple

HEAD = "KTAP version 1"


class Case(NamedTuple):
    """One result."""
    ok: bool            # None: skipped, and data is the reason
    name: str           # the same in all runs: no figures in it
    data: str = ""
    figures: tuple = ()     # (name, number or None, unit)


def counts(entry, names):
    """A case's data."""
    return " ".join(f"{name} {entry[name]}" for name in names)


def result(number, case):
    """A case's lines."""
    lines = [f"# {name} {value} {unit}" for name, value, unit in case.figures
             if value is not None]
    data = " ".join(case.data.split())
    if case.ok is None:
        data = f"SKIP {data}"
    lines.append(f"{'not ok' if case.ok is False else 'ok'} {number} {case.name.replace('#', '')}"
                 + (f" # {data}" if data else ""))
    return "\n".join(lines)


def text(cases):
    return "\n".join([HEAD, f"1..{len(cases)}", *(result(*c) for c in enumerate(cases, 1))])


@contextlib.contextmanager
def instead(wanted, unusable=()):
    """Around a job that ends with KTAP if @wanted: what it prints for people goes to stderr, and
    what ends it early is said in KTAP too. Errors of @unusable: the machine cannot do it."""
    if not wanted:
        yield
        return
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except unusable as error:
        print(f"{HEAD}\n1..0 # SKIP {error}")
        raise
    except Exception as error:
        print(f"{HEAD}\nBail out! {' '.join(str(error).split())}")
        raise
