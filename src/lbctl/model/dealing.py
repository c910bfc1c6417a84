"""Least connections: slots that are dealt again, from time to time, by how many connections are established.

Kernel rules cannot count what is established, so nothing can look for the least loaded endpoint at each new
connection, as IPVS does. But a table of slots can be made that leads the next connections to where they lack:
with c connections established and a weight w, endpoint i is to get the part

    w·max(0, L - c/w)

of the next N connections, where the level L is such that these parts add up to N. That is what IPVS's `wlc`
would do with the next N connections, one after another, if none ended meanwhile.

The bound, against an endpoint's fair part w/W of all that are established, once a table has been in force for
the time in which N' connections arrived and D ended: |N' - N|·(s - w/W) + N'/M + D + 1, where s is the share
of the endpoint in the table and M the number of slots. So a table is as good as the forecast N, and as fresh
as the last count. `bench/least.py` holds both against IPVS's definition.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from math import floor
from typing import TYPE_CHECKING

from lbctl.model.rotation import spread
from lbctl.model.schedule import schedule

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lbctl.model.intent import Family

#: Slots of a table for each endpoint, at least in all, and at most if they are enough for one each.
EACH, LEAST, MOST = 16, 64, 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Deal:
    """How many slots an endpoint (`Endpoint.to`) was dealt in a family, of as many as `slots_for` says."""

    family: Family
    to: str
    slots: int

    def __post_init__(self) -> None:
        if self.slots < 1:
            raise ValueError(f"{self.slots} slots were dealt to {self.to}")


def slots_for(endpoints: int) -> int:
    """Return the number of slots of a table; while endpoints fail it stays, as does the counter."""
    return max(LEAST, min(EACH * endpoints, MOST), endpoints)


def deal(
    weights: Sequence[Fraction | int], established: Sequence[int], arrivals: int, slots: int
) -> tuple[int, ...]:
    """Return how many of `slots` each endpoint gets, so that `arrivals` new connections level the load.

    Each gets one at least: a count that is wrong, or an agent that ends, takes no endpoint out.
    `slots` are at least as many as endpoints.
    """
    level = _level(weights, established, max(arrivals, 1))
    lacking = [max(Fraction(0), w * level - c) for w, c in zip(weights, established, strict=True)]
    return apportioned(lacking, slots)


def _level(weights: Sequence[Fraction | int], established: Sequence[int], arrivals: int) -> Fraction:
    """Return the connections for a weight of 1 that all whom arrivals go to have after that."""
    loads = sorted((Fraction(c) / w, Fraction(w)) for w, c in zip(weights, established, strict=True))
    weight, total, level = Fraction(0), Fraction(arrivals), Fraction(0)
    for load, own in loads:
        if weight and level <= load:
            break
        weight, total = weight + own, total + load * own
        level = total / weight
    return level


def apportioned(parts: Sequence[Fraction], slots: int) -> tuple[int, ...]:
    """Return whole numbers of slots, 1 at least, as the parts are: rounded down, then by the largest rest."""
    free, total = slots - len(parts), sum(parts, Fraction(0)) or Fraction(1)
    exact = [part * free / total for part in parts]
    found = [floor(each) for each in exact]
    left = free - sum(found)
    order = sorted(range(len(parts)), key=lambda i: (found[i] - exact[i], i))
    for place in range(left):
        found[order[place % len(order)]] += 1
    return tuple([each + 1 for each in found])


@lru_cache(maxsize=4096)
def laid_out(usual: tuple[int, ...], dealt: tuple[int, ...]) -> tuple[int, ...]:
    """Return a table of indices in which each has as many slots as it was dealt.

    As many slots as can be are where they are if all are dealt their `usual` number: to deal again changes
    the others. Both numbers add up to the same.
    """
    length = sum(usual)
    short = schedule(usual)
    table = list(short * (length // len(short)))
    for index, count in enumerate(dealt):
        own = [place for place, holder in enumerate(table) if holder == index]
        for number in sorted(range(len(own)), key=spread)[count:]:
            table[own[number]] = -1
    more = [max(0, dealt[i] - usual[i]) for i in range(len(dealt))]
    if not any(more):
        return tuple(table)
    pattern = schedule(tuple([each for each in more if each]))
    takers = [i for i, each in enumerate(more) if each]
    free = [place for place, holder in enumerate(table) if holder < 0]
    for number, place in enumerate(free):
        table[place] = takers[pattern[number % len(pattern)]]
    return tuple(table)
