"""The population: one period of connections in the order of their arrival, and the states of each.

The connections that share a state are the bits of one number, so that a rule costs as much as there are
different states, and not as there are connections.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from fractions import Fraction
from functools import lru_cache
from math import lcm
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lbctl_netfilter.conditions import Spans
    from lbctl_netfilter.ir import Rule

#: A whole number where nothing is left to chance: it is much faster.
Odds: TypeAlias = "Fraction | int"


class End(Enum):
    """How a connection leaves the rules."""

    ENDPOINT = "endpoint"
    ACCEPTED = "accepted"
    LOST = "lost"

    __hash__ = object.__hash__


class Out(NamedTuple):
    """Where a connection ends: at an endpoint, or elsewhere, with the words for it."""

    end: End
    text: str
    rule: Rule | None
    #: What a comment calls the endpoint.
    name: str | None = None


class ConnectionState(NamedTuple):
    """A connection on its path. `nodes` says which parts of which hashes its client is in.

    A mark is None where the rules do not say what it is.
    """

    out: Out | None = None
    mark: int | None = 0
    connmark: int | None = 0
    #: The rules that set the mark, and the connection's mark, last.
    by: Rule | None = None
    connection_by: Rule | None = None
    nodes: tuple[tuple[object, Fraction, Fraction], ...] = ()


START = ConnectionState()
#: Bits of a denominator beyond which a share is rounded: those of 130 draws in a row.
EXACT_BITS = 1 << 12


@dataclass(slots=True)
class Population:
    """State → chance → the places of the period that have this chance of it, as bits."""

    length: int = 1
    states: dict[ConnectionState, dict[Odds, int]] = field(default_factory=dict)

    @classmethod
    def of(cls, sequence: Sequence[ConnectionState]) -> Population:
        """Return a period of these states."""
        made = cls(len(sequence))
        for i, state in enumerate(sequence):
            made.put(state, 1, 1 << i)
        return made

    def __bool__(self) -> bool:
        return bool(self.states)

    def parts(self) -> Iterator[tuple[ConnectionState, Odds, int]]:
        """Yield every state with a chance and its places."""
        for state, chances in self.states.items():
            for chance, places in chances.items():
                yield state, chance, places

    def put(self, state: ConnectionState, chance: Odds, places: int) -> None:
        """Connections at these places have one more chance of a state."""
        known = self.states.get(state)
        if known is None:
            self.states[state] = {chance: places}
            return
        for other, theirs in list(known.items()):
            if both := theirs & places:
                known[other] ^= both
                if not known[other]:
                    del known[other]
                known[other + chance] = known.get(other + chance, 0) | both
                places ^= both
        if places:
            known[chance] = known.get(chance, 0) | places

    def add(self, other: Population) -> None:
        """Take in what else the same connections may be; the shorter period is repeated."""
        if not other:
            return
        if not self:
            self.length, self.states = other.length, other.states
            return
        if self.length != other.length:
            length = lcm(self.length, other.length)
            self.repeat(length // self.length)
            other.repeat(length // other.length)
        for part in other.parts():
            self.put(*part)

    def repeat(self, times: int) -> None:
        """The same period so many times."""
        if times > 1:
            every = repeated(self.length, times)
            for chances in self.states.values():
                for chance in chances:
                    chances[chance] *= every
            self.length *= times

    def split(self, places: int) -> Population:
        """Those at these places, which leave this stream."""
        taken = Population(self.length)
        for state, chances in list(self.states.items()):
            mine = {chance: found for chance, bits in chances.items() if (found := bits & places)}
            if mine:
                taken.states[state] = mine
                rest = {chance: found for chance, bits in chances.items() if (found := bits & ~places)}
                if rest:
                    self.states[state] = rest
                else:
                    del self.states[state]
        return taken

    def part(self, share: Fraction) -> Population:
        """Return a share of each, which leaves this stream."""
        taken = Population(self.length)
        other = 1 - share
        for state, chances in self.states.items():
            mine: dict[Odds, int] = {}
            rest: dict[Odds, int] = {}
            for chance, places in chances.items():
                exact = chance * share
                part = _rounded(exact)
                # To subtract one long fraction from another takes ten times longer.
                left = chance * other if part is exact else chance - part
                mine[part] = mine.get(part, 0) | places
                rest[left] = rest.get(left, 0) | places
            taken.states[state], self.states[state] = mine, rest
        return taken

    def mean(self) -> None:
        """Make it a period of one place, with what its places have on average."""
        for state, chances in self.states.items():
            total = sum(chance * places.bit_count() for chance, places in chances.items())
            self.states[state] = {Fraction(total, self.length): 1}
        self.length = 1

    def mass(self) -> Fraction:
        """How much of all connections it is."""
        if self.length == 1:
            # Long fractions are, mostly, of one place and one chance: that one is the sum as it stands.
            first, *others = [chance for chances in self.states.values() for chance in chances] or [0]
            mass = first if isinstance(first, Fraction) else Fraction(first)
            for chance in others:
                mass += chance
            return mass
        total: Odds = 0
        for chances in self.states.values():
            for chance, places in chances.items():
                total += chance * places.bit_count()
        return ratio(total, self.length)

    def masses(self) -> dict[Odds, int]:
        """How much of a connection is here → the places where it is that much."""
        if len(self.states) == 1:
            return next(iter(self.states.values()))
        found = Population(self.length)
        for _, chance, places in self.parts():
            found.put(START, chance, places)
        return found.states.get(START, {})

    def sequence(self) -> list[ConnectionState]:
        """Return the state of each connection; empty where some may be in several."""
        if self.size() != self.length:
            return []
        found = [START] * self.length
        for state, chance, places in self.parts():
            if chance != 1:
                return []
            for i in bits(places):
                found[i] = state
        return found

    def size(self) -> int:
        """Return how many states its connections may be in, in all."""
        return sum(places.bit_count() for chances in self.states.values() for places in chances.values())


#: Longest period of which what a counter does is remembered: most ladders have a few shapes.
_SHORT = 1 << 10


def turns(places: int, length: int, rounds: int, every: int, groups: tuple[Spans, ...]) -> Sequence[int]:
    """Of those at some places of a period, through so many rounds: which get the numbers of each group.

    One after another gets the numbers from 0 to `every` - 1, again and again.
    """
    if rounds * length <= _SHORT:
        return _known_turns(places, length, rounds, every, groups)
    return _turns(places, length, rounds, every, groups)


def _turns(places: int, length: int, rounds: int, every: int, groups: tuple[Spans, ...]) -> list[int]:
    order = bits(places)
    found = []
    for spans in groups:
        at: list[int] = []
        for low, high in spans:
            for turn in range(low, high + 1):
                for number in range(turn, len(order) * rounds, every):
                    done, i = divmod(number, len(order))
                    at.append(done * length + order[i])
        found.append(placed(at, length * rounds))
    return found


_known_turns = lru_cache(maxsize=1 << 12)(_turns)


def placed(numbers: Sequence[int], length: int) -> int:
    """Numbers below `length` as places."""
    if len(numbers) < 32:
        found = 0
        for number in numbers:
            found |= 1 << number
        return found
    # To set one bit of a long number after another takes the square of its length.
    made = bytearray((length >> 3) + 1)
    for number in numbers:
        made[number >> 3] |= 1 << (number & 7)
    return int.from_bytes(made, "little")


def _rounded(share: Fraction) -> Fraction:
    """A share that many draws in a row made is exact to so many bits, and what is left of it all the rest."""
    if share.denominator.bit_length() <= EXACT_BITS:
        return share
    return Fraction(round(share * (1 << EXACT_BITS)), 1 << EXACT_BITS)


def bits(places: int) -> Sequence[int]:
    """Places as numbers."""
    return _known_bits(places) if places >> _SHORT == 0 else _bits(places)


def _bits(places: int) -> list[int]:
    if places.bit_count() < places.bit_length() >> 4:
        found = []
        while places:
            lowest = places & -places
            found.append(lowest.bit_length() - 1)
            places ^= lowest
        return found
    return [i for i, bit in enumerate(bin(places)[:1:-1]) if bit == "1"]


_known_bits = lru_cache(maxsize=1 << 12)(_bits)


def repeated(length: int, times: int) -> int:
    """Return what makes of the places of a period those of so many periods, by multiplication."""
    return ((1 << length * times) - 1) // ((1 << length) - 1)


@lru_cache(maxsize=1 << 14)
def ratio(part: Odds, of: int) -> Fraction:
    """Return a fraction; services have few different ones, and each costs as much as following a rule."""
    return Fraction(part, of)
