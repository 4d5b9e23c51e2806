# SPDX-License-Identifier: GPL-2.0
"""The bases: kernels that patches/ has a folder for. What tools have to know of one beside its
patches is in its traits.toml, where there is something: see KNOWN."""
import tomllib
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / "patches"

KNOWN = {
    # A parameter of kvm-intel with which L1's controls are checked ahead of the entry, and not by it.
    "early_check": "",
    # Preemption is lazy, unless asked for otherwise.
    "lazy_preemption": False,
    # Its KTAP parser takes results without a name.
    "nameless_results": False,
    # Warnings of its own, which stock KVM gives as well: base_warnings.py.
    "warnings": [],
}


def names():
    """All of them, oldest first."""
    return sorted((path.name for path in FOLDER.glob("[0-9]*")),
                  key=lambda name: [int(part) for part in name.split(".")])


# The oldest is the one that is taken where none is named.
DEFAULT = names()[0]


def version(base):
    """The kernel's version: 6.12-rt is 6.12 with PREEMPT_RT."""
    return base.removesuffix("-rt")


def traits(base):
    """KNOWN, with what is different in @base: from the base that it is like in that, if it names one."""
    path = FOLDER / version(base) / "traits.toml"
    own = tomllib.loads(path.read_text()) if path.exists() else {}
    like = own.pop("like", None)
    if own.keys() - KNOWN.keys():
        raise ValueError(f"{path}: not known: {sorted(own.keys() - KNOWN.keys())}")
    if like and like not in names():
        raise ValueError(f"{path}: like {like}, which is no base")
    return (traits(like) if like else KNOWN) | own
