"""Weights → slots → exact shares: the one idea that every scheduler and every backend shares.

A slot sequence says who gets the 1st, 2nd, … connection before it starts over. It is built by smooth
weighted round robin, the algorithm known from nginx and LVS: each step credits every endpoint with its
weight, takes the one with the most credit (the first of equals) and charges it the sum of the weights.
Weights 3:2:1 give `a b a c b a`: exact over a period, and spread out within it.
"""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from functools import lru_cache
from math import gcd
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence

    T = TypeVar("T", bound=Hashable)


@lru_cache(maxsize=4096)
def schedule(weights: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shortest smooth sequence of indices into `weights` that gives each its exact share.

    Length: sum of the weights divided by their greatest common divisor; empty for no weights.
    """
    if len(set(weights)) <= 1:
        return tuple(range(len(weights)))
    divisor = gcd(*weights)
    steps = [w // divisor for w in weights]
    total = sum(steps)
    credit = [0] * len(steps)
    slots = []
    for _ in range(total):
        credit = [c + s for c, s in zip(credit, steps, strict=True)]
        best = credit.index(max(credit))
        credit[best] -= total
        slots.append(best)
    return tuple(slots)


def slot_count(weights: Sequence[int]) -> int:
    """Return the length of `schedule(weights)`, without making it."""
    return sum(weights) // gcd(*weights) if weights else 0


def weight_shares(weights: Sequence[int]) -> tuple[Fraction, ...]:
    """Return each weight's part of their sum: what `schedule` gives exactly, and a Maglev table nearly."""
    return tuple(Fraction(weight, sum(weights)) for weight in weights)


def shares(slots: Sequence[T]) -> Mapping[T, Fraction]:
    """Return each value in `slots` → its part of them, in order of appearance."""
    if not slots:
        return {}
    # Most services give each endpoint one slot; counting them takes five times as long.
    found = dict.fromkeys(slots, _part(1, len(slots)))
    if len(found) < len(slots):
        found = {value: _part(count, len(slots)) for value, count in Counter(slots).items()}
    return found


@lru_cache(maxsize=4096)
def _part(count: int, of: int) -> Fraction:
    # A fraction costs as much as all the counting; services have few different ones.
    return Fraction(count, of)
