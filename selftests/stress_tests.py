# SPDX-License-Identifier: GPL-2.0
"""The table of the stress tests, stress/tests.toml, and the shell commands that it comes to."""
import tomllib
from pathlib import Path
from typing import NamedTuple

from lab import bases

FOLDER = Path(__file__).resolve().parent / "stress"
TABLE = tomllib.loads((FOLDER / "tests.toml").read_text())["test"]



class Command(NamedTuple):
    """One test's run: shell text, without its folder, the parameters of KVM for it, and whether
    another KVM may be loaded behind it."""
    text: str
    on: str
    reloads: bool


def options(amount):
    if isinstance(amount, int):
        return f" -d 1000 -n {amount}"
    if amount.startswith("-"):
        return f" {amount}"
    return f" -d {amount.removesuffix(' s')}" if amount else ""


def for_base(text, base):
    """@text, with parameters of KVM as @base has them."""
    return text.format(early_check=bases.traits(base)["early_check"])


def commands(job, lab, base):
    """[Command]: what @job (quick, full, soak, turns) runs in @lab."""
    return [Command(test["name"] + options(test[job][lab]), for_base(test.get("on", ""), base),
                    test.get("reloads", False))
            for test in TABLE if lab in test.get(job, {})]


def debug_commands(seconds):
    """[text]: what a debug kernel runs in about so many seconds."""
    some = [test for test in TABLE if "debug" in test]
    shares = sum(test["debug"] for test in some)
    return [f"{test['name']} -d {max(seconds * test['debug'] // shares, 5)}" for test in some]


def farm():
    """[name]: what machines of a CI farm run."""
    return [test["name"] for test in TABLE if test.get("farm", True)]
