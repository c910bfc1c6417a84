"""Slots while some endpoints get less than their weight: they failed a check, or are returning after one.

A *part* says how much of its weight an endpoint gets: 0 where it is out, less than 1 while it returns, 1
for all.

**Hash tables** are built from all members, whatever their parts are. A slot that its endpoint does not get
goes to the holder of another slot: the first one that has its share, along a walk through the table that
depends on the slot alone. So a change of one endpoint's part changes the slots of that endpoint only, those
that others take for it included; and hosts that disagree about an endpoint disagree about its slots only.

**Turns** are scheduled anew among those that are left, with exact shares. Where endpoints are checked, a
table has more slots than the weights need: enough that the table without one endpoint has as many, if that
is possible. Then the kernel's counter goes on where it is.
"""

from __future__ import annotations

import hashlib
from fractions import Fraction
from functools import lru_cache
from itertools import combinations_with_replacement, cycle
from math import isqrt, lcm
from typing import TYPE_CHECKING

from lbctl.model.schedule import schedule, slot_count

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

WHOLE = Fraction(1)
NONE = Fraction(0)

#: Slots of a padded table: at most so many for each endpoint, and in all. A change of a padded table rewrites
#: all of its slots, so that more would cost more than the counter is worth.
PADDING = 16
MAX_PADDED = 256
#: Slots in which the lightest endpoint returns, where there is space for them.
STEPS = 8
#: Endpoints that fail at once and for which the number of slots is kept, and failures that are looked at.
_TOGETHER, _LOOKS = 3, 64
#: Places of a walk, behind which the endpoint is drawn among all that are left.
_WALK = 64


@lru_cache(maxsize=4096)
def padded(weights: tuple[int, ...], *, ramps: bool) -> int:
    """Return the number of slots for endpoints that may fail: a multiple of `slot_count(weights)`.

    With `ramps`, the lightest gets several slots, so that it can return in steps.
    """
    count = slot_count(weights)
    limit = max(count, min(PADDING * len(weights), MAX_PADDED))
    if ramps:
        light = min(weights, default=1) * count // (sum(weights) or 1)
        steps = -(-STEPS // max(light, 1))
        count *= max(1, min(steps, limit // max(count, 1)))
    for left in _failures(weights):
        wider = lcm(count, slot_count(left))
        if wider <= limit:
            count = wider
    return count


def _failures(weights: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Yield the weights that are left when a few endpoints fail, the commonest failures first."""
    kinds = sorted(set(weights), key=lambda weight: (-weights.count(weight), weight))
    looks = 0
    for together in range(1, min(_TOGETHER, len(weights) - 1) + 1):
        for failed in combinations_with_replacement(kinds, together):
            left = list(weights)
            for weight in failed:
                if weight not in left:
                    break
                left.remove(weight)
            else:
                yield tuple(left)
            looks += 1
            if looks >= _LOOKS:
                return


@lru_cache(maxsize=4096)
def turns(weights: tuple[int, ...], parts: tuple[Fraction, ...], count: int) -> tuple[int, ...]:
    """Return a table of turns: indices into `weights`, with exact shares of all that have a part of 1.

    The table has `count` slots where these can be shared exactly, else as many as `padded` says. An
    endpoint with a part below 1 gets that part of its slots, rounded up, spread evenly; the others take the
    rest in turn. All parts are above 0; where none is 1, all count as 1.
    """
    if count % (slot_count(weights) or 1):
        count = padded(weights, ramps=False)
    table = list(schedule(weights)) * (count // (slot_count(weights) or 1))
    whole = [index for index, part in enumerate(parts) if part == WHOLE]
    if not whole or len(whole) == len(parts):
        return tuple(table)
    others = cycle(schedule(tuple(weights[index] for index in whole)))
    for index, part in enumerate(parts):
        if part == WHOLE:
            continue
        own = [place for place, holder in enumerate(table) if holder == index]
        for place in _not_given(own, part):
            table[place] = -1
    return tuple([whole[next(others)] if holder < 0 else holder for holder in table])


def _not_given(own: Sequence[int], part: Fraction) -> Iterator[int]:
    """Yield the slots that an endpoint does not get: with a larger part, only fewer of them."""
    given = -(-part.numerator * len(own) // part.denominator)
    order = sorted(range(len(own)), key=spread)
    return (own[index] for index in order[given:])


def spread(index: int) -> int:
    """Return the order in which slots are given back: neighbours one after another as late as possible."""
    return int(f"{index:016b}"[::-1], 2)


@lru_cache(maxsize=256)
def bypassed(table: tuple[int, ...], parts: tuple[Fraction, ...], seed: int) -> tuple[int, ...]:
    """Return a table of a hash in which each endpoint has only its part of its own slots.

    `table` holds indices into `parts`. Only slots that their endpoint does not get are changed. Where no
    part is above 0, the table is returned as it is; where none is 1, those above 0 count as 1.
    """
    if WHOLE not in parts:
        parts = tuple([WHOLE if part else NONE for part in parts])
    if WHOLE not in parts or all(part == WHOLE for part in parts):
        return table
    live = bytearray(b"\1") * len(table)
    for index, part in enumerate(parts):
        if part < WHOLE:
            own = [slot for slot, holder in enumerate(table) if holder == index]
            given = -(-part.numerator * len(own) // part.denominator)
            for slot in sorted(own, key=lambda slot: _number("give", seed, slot))[given:]:
                live[slot] = 0
    left = [index for index, part in enumerate(parts) if part == WHOLE]
    prime = _prime(len(table))
    result = list(table)
    for slot, alive in enumerate(live):
        if not alive:
            place = next((place for place in _walk(slot, seed, len(table), prime) if live[place]), None)
            result[slot] = _drawn(left, seed, slot) if place is None else table[place]
    return tuple(result)


def _walk(slot: int, seed: int, size: int, prime: int) -> Iterator[int]:
    """Yield the places of a table that are tried for a slot, in the slot's own order."""
    number = _number("walk", seed, slot)
    place, skip = number % prime, (number >> 32) % (prime - 1) + 1 if prime > 2 else 1
    for _ in range(_WALK):
        if place < size:
            yield place
        place = (place + skip) % prime


def _drawn(left: Iterable[int], seed: int, slot: int) -> int:
    """Return the one of `left` that a slot prefers."""
    return max(left, key=lambda index: _number(f"draw {index}", seed, slot))


def _number(what: str, seed: int, slot: int) -> int:
    digest = hashlib.blake2b(f"lbctl {what} {seed} {slot}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")


@lru_cache(maxsize=1024)
def _prime(least: int) -> int:
    """Return the smallest prime that is not below `least`."""
    number = max(least, 2)
    while any(number % divisor == 0 for divisor in range(2, isqrt(number) + 1)):
        number += 1
    return number


def period(slots: Sequence[object]) -> int:
    """Return the length of the shortest beginning of `slots` that they repeat."""
    count = len(slots)
    for length in _divisors(count):
        if all(slots[place] == slots[place - length] for place in range(length, count)):
            return length
    return count


def _divisors(number: int) -> Iterator[int]:
    return (each for each in range(1, number + 1) if number % each == 0)
