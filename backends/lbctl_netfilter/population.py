"""The population: one period of connections in the order of their arrival, and the states of each.

The connections that share a state are the bits of one number, so that a rule costs as much as there are
different states, and not as there are connections.
"""

from __future__ import annotations

from enum import Enum
from fractions import Fraction
from functools import lru_cache
from math import gcd, lcm
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, TypeVar

from lbctl_netfilter.conditions import size

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from lbctl_netfilter.conditions import Spans
    from lbctl_netfilter.ir import Rule

T = TypeVar("T")
#: A whole number where nothing is left to chance: it is much faster.
Odds: TypeAlias = "Fraction | int"
#: Chance → the places that have it, as bits.
Chances: TypeAlias = "Mapping[Odds, int]"


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


class Population:
    """State → chance → the places of the period that have this chance of it, as bits. It never changes."""

    __slots__ = ("_mass", "length", "states")

    def __init__(self, length: int = 1, states: Mapping[ConnectionState, Chances] | None = None) -> None:
        self.length = length
        self.states: Mapping[ConnectionState, Chances] = {} if states is None else states
        self._mass: Fraction | None = None

    @classmethod
    def of(cls, sequence: Sequence[ConnectionState]) -> Population:
        """Return a period of these states."""
        return cls.collect(len(sequence), [(state, 1, 1 << i) for i, state in enumerate(sequence)])

    @classmethod
    def collect(cls, length: int, parts: Iterable[tuple[ConnectionState, Odds, int]]) -> Population:
        """Return what these parts are together, each a state with a chance and its places."""
        states: dict[ConnectionState, dict[Odds, int]] = {}
        for state, chance, places in parts:
            known = states.get(state)
            if known is None:
                states[state] = {chance: places}
            else:
                _put(known, chance, places)
        return cls(length, states)

    def __bool__(self) -> bool:
        return bool(self.states)

    def parts(self) -> Iterator[tuple[ConnectionState, Odds, int]]:
        """Yield every state with a chance and its places."""
        for state, chances in self.states.items():
            for chance, places in chances.items():
                yield state, chance, places

    def joined(self, other: Population) -> Population:
        """Return these with what else the same connections may be; the shorter period is repeated."""
        if not other:
            return self
        if not self:
            return other
        return ended([(None, self), (None, other)])

    def repeated(self, times: int) -> Population:
        """Return the same period so many times."""
        if times == 1:
            return self
        every = repeated(self.length, times)
        return Population(
            self.length * times,
            {
                state: {chance: places * every for chance, places in chances.items()}
                for state, chances in self.states.items()
            },
        )

    def split(self, places: int) -> tuple[Population, Population]:
        """Return those at these places, and the others."""
        taken: dict[ConnectionState, Chances] = {}
        left: dict[ConnectionState, Chances] = {}
        for state, chances in self.states.items():
            mine = {chance: found for chance, bits in chances.items() if (found := bits & places)}
            if mine:
                taken[state] = mine
                chances = {chance: found for chance, bits in chances.items() if (found := bits & ~places)}
            if chances:
                left[state] = chances
        return Population(self.length, taken), Population(self.length, left)

    def part(self, share: Fraction) -> tuple[Population, Population]:
        """Return a share of each connection, and what is left of it."""
        taken: dict[ConnectionState, Chances] = {}
        left: dict[ConnectionState, Chances] = {}
        other = 1 - share
        for state, chances in self.states.items():
            mine: dict[Odds, int] = {}
            rest: dict[Odds, int] = {}
            for chance, places in chances.items():
                exact = chance * share
                part = _rounded(exact)
                # To subtract one long fraction from another takes ten times longer.
                remainder = chance * other if part is exact else chance - part
                mine[part] = mine.get(part, 0) | places
                rest[remainder] = rest.get(remainder, 0) | places
            taken[state], left[state] = mine, rest
        return Population(self.length, taken), Population(self.length, left)

    def mean(self) -> Population:
        """Return a period of one place, with what the places of this one have on average."""
        states: dict[ConnectionState, Chances] = {}
        for state, chances in self.states.items():
            total = sum(chance * places.bit_count() for chance, places in chances.items())
            states[state] = {Fraction(total, self.length): 1}
        return Population(1, states)

    def scaled(self, share: Odds) -> Population:
        """Return a share of each connection."""
        if share == 1:
            return self
        parts = ((state, chance * share, places) for state, chance, places in self.parts())
        return self.collect(self.length, parts)

    @property
    def mass(self) -> Fraction:
        """How much of all connections it is."""
        if self._mass is None:
            self._mass = self._weighed()
        return self._mass

    def _weighed(self) -> Fraction:
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

    def masses(self) -> Chances:
        """How much of a connection is here → the places where it is that much."""
        if len(self.states) == 1:
            return next(iter(self.states.values()))
        found: dict[Odds, int] = {}
        for _, chance, places in self.parts():
            _put(found, chance, places)
        return found

    def sequence(self, called: Iterable[T]) -> list[T]:
        """Return what the state of each connection is called; empty where some may be in several.

        `called` is in the order of the states.
        """
        if self.size() != self.length:
            return []
        found: dict[int, T] = {}
        for chances, name in zip(self.states.values(), called, strict=True):
            for chance, places in chances.items():
                if chance != 1:
                    return []
                found.update(dict.fromkeys(bits(places), name))
        return [found[place] for place in range(self.length)]

    def size(self) -> int:
        """Return how many states its connections may be in, in all."""
        return sum([places.bit_count() for chances in self.states.values() for places in chances.values()])


#: All connections, as they arrive.
WHOLE = Population(1, {START: {1: 1}})
#: No connection.
EMPTY = Population()


def _put(known: dict[Odds, int], chance: Odds, places: int) -> None:
    """Have connections at these places have one more chance of a state."""
    for other, theirs in list(known.items()):
        if both := theirs & places:
            known[other] ^= both
            if not known[other]:
                del known[other]
            known[other + chance] = known.get(other + chance, 0) | both
            places ^= both
    if places:
        known[chance] = known.get(chance, 0) | places


def ended(parts: Sequence[tuple[Out | None, Population]]) -> Population:
    """Return what these are together, of which those with an end have left the path."""
    length = lcm(*[part.length for _, part in parts])
    states: dict[ConnectionState, Chances] = {}
    for out, part in parts:
        for state, chances in part.repeated(length // part.length).states.items():
            end = state if out is None else ConnectionState(out, *state[1:])
            known = states.get(end)
            if known is not None:
                both = dict(known)
                for chance, places in chances.items():
                    _put(both, chance, places)
                chances = both
            states[end] = chances
    return Population(length, states)


# -- picking numbers

#: Longest period that is followed.
LONGEST = 1 << 16
#: Longest period of a population whose picks are remembered: most ladders have one of a few shapes.
_SHORT = 1 << 10
#: Chances that a population has at most to be remembered.
_FEW_CHANCES = 8


def _is_plain(stream: Population) -> bool:
    """Return True for what is small enough to be remembered, and may come again."""
    if stream.length > _SHORT or len(stream.states) != 1:
        return False
    [chances] = stream.states.values()
    return len(chances) <= _FEW_CHANCES


def counted(stream: Population, every: int, groups: tuple[Spans, ...]) -> Sequence[Population] | None:
    """Return those that get a number of each group from a counter below `every`, and the others.

    None where parts of connections come to it, or the period would be too long.
    """
    return (_known_counted if _is_plain(stream) else _counted)(stream, every, groups)


def _counted(stream: Population, every: int, groups: tuple[Spans, ...]) -> Sequence[Population] | None:
    masses = stream.masses()
    if masses.keys() != {1}:
        return None
    rounds = every // gcd(masses[1].bit_count(), every)
    if rounds * stream.length > LONGEST:
        return None
    others, found = stream.repeated(rounds), []
    for places in turns(masses[1], stream.length, rounds, every, groups):
        part, others = others.split(places)
        found.append(part)
    return [*found, others]


_known_counted = lru_cache(maxsize=1 << 11)(_counted)


def drawn(stream: Population, modulus: int, groups: tuple[Spans, ...]) -> Sequence[Population]:
    """Return parts of each connection, by how many of the numbers each group has, and what is left."""
    return (_known_drawn if _is_plain(stream) else _drawn)(stream, modulus, groups)


def _drawn(stream: Population, modulus: int, groups: tuple[Spans, ...]) -> Sequence[Population]:
    found, left = [], modulus
    for spans in groups:
        count = size(spans)
        if not count:
            part = EMPTY
        elif count == left:
            part, stream = stream, EMPTY
        else:
            part, stream = stream.part(ratio(count, left))
        found.append(part)
        left -= count
    return [*found, stream]


_known_drawn = lru_cache(maxsize=1 << 11)(_drawn)


def turns(places: int, length: int, rounds: int, every: int, groups: Sequence[Spans]) -> Sequence[int]:
    """Of those at some places of a period, through so many rounds: which get the numbers of each group.

    One after another gets the numbers from 0 to `every` - 1, again and again.
    """
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
