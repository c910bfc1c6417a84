"""Least connections: slots that are dealt again, from time to time, by how many connections are established.

Kernel rules cannot count what is established, so nothing can look for the least loaded endpoint at each new
connection, as IPVS does. But a table of slots can be made that leads the next connections to where they lack:
with c connections established, of which a part s stays, and a weight w, endpoint i is to get the part

    max(0, w·L - s·c) / a

of the next N connections, where a is the part of these that is still there at the end, and the level L is
such that all parts add up to N. That is what IPVS's `wlc` would do with the next N, one after another. What
stays is taken from what ended since the count before: s = exp(-h) and a = (1 - s) / h, if connections end at
the rate h.

The bound: an endpoint is as far from its fair part as the forecast is wrong, |N' - N|·(its table share), plus
the connections that end otherwise than forecast, plus N'/M for M slots, plus 1. `bench/least.py` holds it
against IPVS's definition by simulation.
"""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache
from math import exp, expm1, floor
from typing import TYPE_CHECKING

from lbctl.model.rotation import spread
from lbctl.model.schedule import schedule

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Slots of a table for each endpoint, at least in all, and at most if they are enough for one each.
EACH, LEAST, MOST = 16, 64, 256
#: Rates of ending that count as none, and that make no difference to faster ones.
_SLOWEST, _FASTEST = 1e-6, 20.0


def slots_for(endpoints: int) -> int:
    """Return the number of slots of a table; while endpoints fail it stays, as does the counter."""
    return max(LEAST, min(EACH * endpoints, MOST), endpoints)


def deal(
    weights: Sequence[Fraction | int],
    established: Sequence[int],
    arrivals: int,
    slots: int,
    ending: Sequence[float] = (),
) -> tuple[int, ...]:
    """Return how many of `slots` each endpoint gets, so that `arrivals` new connections level the load.

    `ending` is the rate at which connections of each endpoint end, as a part of them for the time in which so
    many arrive; none for connections that stay. Each endpoint gets one slot at least: a count that is wrong,
    or an agent that ends, takes none out. `slots` are at least as many as endpoints.
    """
    rates = [min(max(rate, 0.0), _FASTEST) for rate in ending or [0.0] * len(weights)]
    alive = [-expm1(-rate) / rate if rate > _SLOWEST else 1.0 for rate in rates]
    kept = [count * exp(-rate) for count, rate in zip(established, rates, strict=True)]
    level = _level(weights, kept, alive, max(arrivals, 1))
    lacking = [
        Fraction(max(0.0, float(weight) * level - stays) / part)
        for weight, stays, part in zip(weights, kept, alive, strict=True)
    ]
    return apportioned(lacking, slots)


def _level(
    weights: Sequence[Fraction | int], kept: Sequence[float], alive: Sequence[float], arrivals: int
) -> float:
    """Return the connections for a weight of 1 that all to whom arrivals go have in the end."""
    loads = sorted(
        (stays / float(weight), float(weight) / part, stays / part)
        for weight, stays, part in zip(weights, kept, alive, strict=True)
    )
    weight, total, level = 0.0, float(arrivals), 0.0
    for load, own, has in loads:
        if weight and level <= load:
            break
        weight, total = weight + own, total + has
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
