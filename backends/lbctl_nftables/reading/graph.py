"""The ways of a selector's connections: a graph whose ends are endpoints or leaks, and how many go where."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, TypeVar

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lbctl_nftables.reading.document import Chain, Rule
    from lbctl_nftables.reading.grammar import Pick
    from lbctl_nftables.reading.meaning import Drawn

T = TypeVar("T")
#: All that a hash can be, as a part of its range.
ALL = Fraction(0), Fraction(1)
#: What is known of a hash: which one, and the span that it lies in. Each end is numerator and denominator:
#: a fraction takes longer to be hashed.
Hashed: TypeAlias = tuple[object, tuple[int, int], tuple[int, int]]
#: Chains that called each other, the innermost last, each with the index among its rules in question.
Frames: TypeAlias = tuple[tuple[int, int], ...]


class End(NamedTuple):
    """Where a connection ends: an endpoint, by `action` and `to`, or a leak, with `to` empty and `why`."""

    action: str
    to: str
    why: str = ""
    #: What a comment calls the endpoint.
    name: str = ""
    #: The line of a rule that put another mark in the place of one that was set before.
    over: int = 0


#: A mark that depends on more than rules say.
UNTOLD = -1


class Place(NamedTuple):
    """Where a connection is, and what it carries. `hashes` are the spans that its hash is known to lie in.

    Of a packet's mark (`meta`) and a connection's (`ct`), None is one that no rule on the way has set, and
    `UNTOLD` one of which nobody can say what it was set to.
    """

    base: int
    frames: Frames
    statement: int
    meta: int | None
    ct: int | None
    over: int = 0
    hashes: tuple[Hashed, ...] = ()


@dataclass(slots=True)
class Node:
    """A point where the way parts. Cases are first and last number, and what comes next."""

    pick: Pick | None = None
    rule: Rule | None = None
    cases: list[tuple[int, int, Place | End]] = field(default_factory=list)
    #: Numbers, where connections with them go on, and where their ways part again or end.
    onward: list[tuple[int, int, Place, Place | End]] = field(default_factory=list)


@dataclass(slots=True)
class Followed:
    """All ways of a selector's connections."""

    start: Place | End
    #: Where connections come in, and where their ways part first.
    begin: Place
    first: Place | End
    nodes: dict[Place, Node] = field(default_factory=dict)
    #: The rules that take part, in the order of their discovery.
    used: dict[int, Rule] = field(default_factory=dict)
    #: From where connections go on → the rules that they meet before their ways part again.
    trails: dict[Place, tuple[int, ...]] = field(default_factory=dict)
    #: From where connections go on → the rules that they come to, and that are for other marks than theirs.
    misses: dict[Place, tuple[int, ...]] = field(default_factory=dict)
    #: All points where the way parts, also those behind which all ways are one.
    partings: dict[Place, Node] = field(default_factory=dict)
    #: Numbers that are picked for nothing.
    idle: set[int] = field(default_factory=set)
    #: The rules that take others, of which the selected traffic is what they leave.
    spared: set[int] = field(default_factory=set)
    #: Rule → what a look-up by fields has for the connections.
    looked: dict[int, str] = field(default_factory=dict)
    _trail: list[int] = field(default_factory=list)
    _missed: list[int] = field(default_factory=list)
    #: Rule, and the numbers at which its condition holds, for conditions on picked numbers.
    drawn: dict[int, tuple[Rule, Chain, Drawn]] = field(default_factory=dict)
    #: What ended the way of a part of the selected traffic: the field, and the values that are left.
    but: dict[str, str] = field(default_factory=dict)
    passed: dict[str, str] = field(default_factory=dict)
    kept: int | None = None
    keeps: bool = False
    notes: dict[tuple[str, int], tuple[Rule, str]] = field(default_factory=dict)
    #: Endpoint → the marks with which connections go there, the packet's and the connection's, and from which
    #: of the hook's chains.
    left: dict[tuple[str, str], set[tuple[int | None, int | None, int]]] = field(default_factory=dict)
    #: The marks that connections keep.
    keep: set[int | None] = field(default_factory=set)
    #: Rules for some of the connections, by what is not known of them.
    partly: dict[int, tuple[Rule, str]] = field(default_factory=dict)
    #: By the identity of a rule, from which of the hook's chains it was come to.
    bases: dict[int, int] = field(default_factory=dict)
    #: The rules on the way that are not understood.
    strange: dict[int, Rule] = field(default_factory=dict)
    #: The part of the connections that comes to each place, once that was asked for.
    weighed: Mapping[Place | End, Fraction] = field(default_factory=dict)

    def use(self, rule: Rule) -> None:
        """A rule takes part."""
        self.used.setdefault(id(rule), rule)
        self._trail.append(id(rule))

    @property
    def met(self) -> set[int]:
        """All numbers that are picked for some of the connections."""
        return self.idle | {node.pick.ident for node in self.partings.values() if node.pick is not None}

    def miss(self, rule: Rule) -> None:
        """A rule is for another mark."""
        self._missed.append(id(rule))

    def begin_trail(self) -> None:
        """From here on, note what takes part, and what is missed."""
        self._trail.clear()
        self._missed.clear()

    def end_trail(self, place: Place) -> None:
        """What was noted is what connections meet from a place on."""
        self.trails[place] = tuple(self._trail)
        self.misses[place] = tuple(self._missed)


def straighten(followed: Followed) -> None:
    """Take out the partings behind which all ways are one: a number is picked there that changes nothing.

    A counter that changes something at another parting moves on at all of them.
    """
    order = _order(followed)
    counting: set[int] = set()
    while True:
        beyond: dict[Place, Place | End] = {}
        cases: dict[Place, list[tuple[int, int, Place | End]]] = {}
        for place in reversed(order):
            node = followed.nodes[place]
            cases[place] = [(low, high, _beyond(beyond, after)) for low, high, after in node.cases]
            [only, *others] = {after for _, _, after in cases[place]}
            if not others and _counter(node) not in counting:
                beyond[place] = only
        left = {_counter(followed.nodes[place]) for place in order if place not in beyond}
        kept = left & {_counter(followed.nodes[place]) for place in beyond} - {None}
        if not kept:
            break
        counting |= {ident for ident in kept if ident is not None}
    followed.start = _beyond(beyond, followed.start)
    followed.nodes = {place: node for place, node in followed.nodes.items() if place not in beyond}
    for place, node in followed.nodes.items():
        node.cases = cases[place]


def _counter(node: Node) -> int | None:
    """Which counter a parting moves."""
    return node.pick.ident if node.pick is not None and node.pick.kind == "inc" else None


def _beyond(beyond: dict[Place, Place | End], after: Place | End) -> Place | End:
    return beyond.get(after, after) if isinstance(after, Place) else after


def shares(followed: Followed) -> dict[End, Fraction]:
    """The part of the connections that comes to each end, each pick taken for itself."""
    return {place: share for place, share in _weighed(followed).items() if isinstance(place, End)}


def weights(followed: Followed) -> dict[int, tuple[Fraction, Fraction]]:
    """By the identity of a rule: the part of the connections that comes to it, and the part that it takes."""
    came: dict[int, Fraction] = dict.fromkeys(followed.trails[followed.begin], ALL[1])
    left: dict[int, Fraction] = {}
    for number in followed.misses[followed.begin]:
        came[number] = left[number] = ALL[1]
    at: dict[Place | End, Fraction] = {followed.first: ALL[1]}
    for place in _in_order(followed.first, {place: _next(node) for place, node in followed.partings.items()}):
        node, weight, missed = followed.partings[place], at[place], next_rule(place)
        rule = id(node.rule)
        came[rule] = came.get(rule, Fraction(0)) + weight
        known = {onward: to for _, _, onward, to in node.onward}
        for part, onward in _parts([(low, high, go) for low, high, go, _ in node.onward], node.pick, place):
            share = part if weight == 1 else weight * part
            # Where a rule goes on behind its pick, it is no other one.
            same = onward.frames == place.frames and onward.statement > 0
            for number in followed.trails[onward]:
                if not (same and number == rule):
                    came[number] = came.get(number, Fraction(0)) + share
            for number in followed.misses[onward]:
                if not (same and number == rule):
                    came[number] = came.get(number, Fraction(0)) + share
                left[number] = left.get(number, Fraction(0)) + share
            if onward.frames == missed.frames and not onward.statement:
                left[rule] = left.get(rule, Fraction(0)) + share
            at[known[onward]] = at.get(known[onward], Fraction(0)) + share
    left |= {number: share for number, share in came.items() if number in followed.spared}
    return {number: (share, share - left.get(number, 0)) for number, share in came.items()}


def _next(node: Node) -> list[Place]:
    return [to for _, _, _, to in node.onward if isinstance(to, Place)]


def _weighed(followed: Followed) -> Mapping[Place | End, Fraction]:
    if not followed.weighed:
        met: dict[Place | End, Fraction] = {followed.start: ALL[1]}
        for place in _order(followed):
            weight = met[place]
            for part, after in _parts(followed.nodes[place].cases, followed.nodes[place].pick, place):
                # Most connections come to one picking rule, all of them: fractions cost.
                share = part if weight == 1 else weight * part
                met[after] = met[after] + share if after in met else share
        followed.weighed = met
    return followed.weighed


def _parts(cases: Sequence[tuple[int, int, T]], pick: Pick | None, place: Place) -> list[tuple[Fraction, T]]:
    """What part of the connections at a parting goes where, in the order of the numbers."""
    if pick is None:
        return []
    low, high = known_hash(place, pick)
    if (low, high) == ALL:
        # Counted in whole numbers: a table of a hash may have 65,521.
        numbers: dict[T, int] = {}
        for first, last, after in cases:
            numbers[after] = numbers.get(after, 0) + last - first + 1
        return [(_fraction(count, pick.modulus), after) for after, count in numbers.items()]
    counted: dict[T, Fraction] = {}
    for first, last, after in cases:
        met = min(high, Fraction(last + 1, pick.modulus)) - max(low, Fraction(first, pick.modulus))
        counted[after] = counted.get(after, Fraction(0)) + met / (high - low)
    return [(part, after) for after, part in counted.items()]


@lru_cache(maxsize=4096)
def _fraction(count: int, of: int) -> Fraction:
    return Fraction(count, of)


def _order(followed: Followed) -> list[Place]:
    ways = {
        place: [after for _, _, after in node.cases if isinstance(after, Place)]
        for place, node in followed.nodes.items()
    }
    return _in_order(followed.start, ways)


def _in_order(start: Place | End, ways: Mapping[Place, Sequence[Place]]) -> list[Place]:
    """The partings, each before those that it leads to."""
    if isinstance(start, End):
        return []
    done: set[Place] = set()
    order: list[Place] = []
    work: list[tuple[Place, bool]] = [(start, False)]
    while work:
        place, left = work.pop()
        if left:
            order.append(place)
            continue
        if place in done:
            continue
        done.add(place)
        work.append((place, True))
        work += [(after, False) for after in ways[place]]
    order.reverse()
    return order


def sequence(followed: Followed, limit: int) -> list[End] | None:
    """Where one connection after the other goes, until all counters are where they were at first.

    None where that takes more than `limit` connections.
    """
    counters: dict[int, int] = {}
    made: list[End] = []
    away = 0
    while len(made) < limit:
        place = followed.start
        while isinstance(place, Place):
            node = followed.nodes[place]
            pick = node.pick
            if pick is None:
                return None
            value = counters.get(pick.ident, 0)
            following = (value + 1) % pick.modulus
            away += (value == 0) - (following == 0) if pick.modulus > 1 else 0
            counters[pick.ident] = following
            place = _case(node, value)
        made.append(place)
        if not away:
            return made
    return None


def _case(node: Node, value: int) -> Place | End:
    cases = node.cases
    low, high = 0, len(cases) - 1
    while low < high:
        middle = (low + high) // 2
        if cases[middle][1] < value:
            low = middle + 1
        else:
            high = middle
    return cases[low][2]


def next_rule(place: Place) -> Place:
    """The place at the next rule. Asked for at each one, and `_replace` would take several times as long."""
    base, frames, _, meta, ct, over, hashes = place
    number, index = frames[-1]
    return Place(base, (*frames[:-1], (number, index + 1)), 0, meta, ct, over, hashes)


def hash_key(pick: Pick) -> object:
    """What makes two hashes the same number for the same connection."""
    if pick.kind == "symhash":
        return "symhash"
    return (pick.of, pick.seed) if pick.seed is not None else pick.ident


def known_hash(place: Place, pick: Pick) -> tuple[Fraction, Fraction]:
    key = hash_key(pick)
    return next(
        ((_fraction(*low), _fraction(*high)) for known, low, high in place.hashes if known == key), ALL
    )


def narrowed_hash(place: Place, pick: Pick, low: int, high: int) -> tuple[Hashed, ...] | None:
    """What is known of a connection's hashes after one lay between two numbers; None where it cannot."""
    key = hash_key(pick)
    first, last = known_hash(place, pick)
    first, last = max(first, _fraction(low, pick.modulus)), min(last, _fraction(high + 1, pick.modulus))
    if first >= last:
        return None
    here = key, first.as_integer_ratio(), last.as_integer_ratio()
    return (*(each for each in place.hashes if each[0] != key), here)
