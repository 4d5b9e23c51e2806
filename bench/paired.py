# SPDX-License-Identifier: GPL-2.0
"""Variants compared in rounds. Each round runs all of them with a seed of its own, so that a run is
compared with one that ran minutes, not a whole series, before or behind it, and did the same: the
seeds are the sample, and a figure of one variant is paired with that of another by its seed.

The ratio is taken in each round. The middle one is given with the least and the greatest, between
which the true median ratio lies with a confidence of 1 - 2^(1 - rounds), if the rounds are
independent: the sign test's interval, for which the ratios may be distributed in any way. An
interval with 1 in it is "no difference seen". Of many comparisons some differ by chance; family()
says how many of a table's would if none did. Emulators repeat: where every round gives the same, the
seeds change nothing there, and the interval says nothing of chance."""
import statistics
from typing import NamedTuple

ROUNDS = 6


def seeds(seed, rounds=ROUNDS):
    """Of the rounds, @seed 1 or more; those of another @seed are others."""
    first = (seed - 1) * max(rounds, ROUNDS) + 1
    return range(first, first + rounds)


def level(rounds):
    """The interval's confidence"""
    return 1 - 2.0 ** (1 - rounds)


class Compared(NamedTuple):
    """A ratio, and its interval"""
    middle: float
    least: float
    greatest: float
    rounds: int

    @property
    def differs(self):
        return not self.least <= 1 <= self.greatest

    @property
    def fixed(self):
        """Did the seeds change nothing?"""
        return self.rounds > 1 and self.least == self.greatest

    def __str__(self):
        text = f"{self.middle:.3f} ({self.least:.3f} to {self.greatest:.3f})"
        if not self.differs:
            return text + ": no difference seen"
        return text + (": the same in each round" if self.fixed else "")


def compared(ones, others):
    """Compared, of the rounds' figures of two variants, in the order of their seeds; None if a round has
    nothing to divide by"""
    if not ones or not all(others) or len(ones) != len(others):
        return None
    ratios = [a / b for a, b in zip(ones, others)]
    return Compared(statistics.median(ratios), min(ratios), max(ratios), len(ratios))


def family(found):
    """[text] on all comparisons of a table"""
    found = [one for one in found if one and one.rounds > 1]
    if not found:
        return []
    sampled = [one for one in found if not one.fixed]
    chance = sum(1 - level(one.rounds) for one in sampled)
    fixed = len(found) - len(sampled)
    return [f"{sum(one.differs for one in found)} of {len(found)} comparisons differ from 1; were there no "
            f"difference at all, at most {chance:.1f} would by chance"
            + (f" ({fixed} are the same in each round)" if fixed else "")]
