"""Shares and slots of existing rules → the weights and the order of endpoints that give them."""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache
from math import gcd, lcm
from typing import TYPE_CHECKING

from lbctl.model import MAX_SLOTS, MAX_WEIGHT

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lbctl.model import AnalysedService

#: What draws give is off from the fraction that was meant by less than this.
ROUNDED = Fraction(1, 1 << 26)
#: Slots times endpoints for which the order of the endpoints is worked out.
_MOST_SLOTS = 1 << 18


class NotExpressible(Exception):
    """What an intent cannot express, in words."""


def order(slots: Sequence[str], weights: Mapping[str, int]) -> list[str]:
    """Return the order of endpoints that gives these slots: of two due at once, the first is taken."""
    seen = list(dict.fromkeys(slots)) or list(weights)
    total = sum(weights.values())
    if len(seen) == total:
        # Each has one slot of them.
        return seen
    if len(slots) % total or len(slots) * len(seen) > _MOST_SLOTS:
        return seen
    before: dict[str, set[str]] = {to: set() for to in seen}
    credit = dict.fromkeys(seen, 0)
    for chosen in slots[:total]:
        for to in seen:
            credit[to] += weights[to]
        best = max(credit.values())
        if credit[chosen] != best:
            return seen
        for to in seen:
            if to != chosen and credit[to] == best:
                before[to].add(chosen)
        credit[chosen] -= total
    ordered: list[str] = []
    while len(ordered) < len(seen):
        free = next((to for to in seen if to not in ordered and before[to] <= set(ordered)), None)
        if free is None:
            return seen
        ordered.append(free)
    return ordered


def weights_of(service: AnalysedService) -> dict[str, int]:
    """Return endpoint → weight, the smallest that give its share; raises `NotExpressible`."""
    shares = {backend.to: backend.share for backend in service.backends}
    if service.mode == "random":
        near = {to: _near(share) for to, share in shares.items()}
        if all(near.values()) and sum(near.values()) == 1:
            shares = near
    whole = lcm(*(share.denominator for share in shares.values()))
    numbers = {to: share.numerator * (whole // share.denominator) for to, share in shares.items()}
    divisor = gcd(*numbers.values())
    weights = {to: number // divisor for to, number in numbers.items()}
    if max(weights.values()) > MAX_WEIGHT or sum(weights.values()) > MAX_SLOTS:
        raise NotExpressible("shares that no weights give")
    return weights


@lru_cache(maxsize=1 << 12)
def _near(share: Fraction) -> Fraction:
    """Return the fraction that a draw stands for; 0 if there is none near."""
    near = share.limit_denominator(MAX_SLOTS)
    return near if abs(near - share) < ROUNDED else Fraction(0)
