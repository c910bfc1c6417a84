"""New connections through chains: counters as automata, draws and hashes as parts, marks as they change.

A stream is one period of connections, in the order in which they come. Each place of it holds the states
that the connection there may be in, with their chances: one state where nothing is left to chance. A counter
that sees whole connections is followed through the period, which grows until it comes round; one that sees
parts of them is in each of its positions equally often in the long run, as it is where its period would be
too long.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise
from math import gcd
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from lbctl_iptables.pick import DRAW
from lbctl_iptables.reading import where as w
from lbctl_iptables.reading.meaning import Act, Asked, Chance, Marked, Nodes, Nth, Recent
from lbctl_iptables.reading.where import LOCAL, NOT, Where

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from lbctl_iptables.reading.meaning import Meaning, Step

#: Longest period that is followed.
LONGEST = 1 << 14
#: Chains that lead from one to the next.
DEEPEST = 100
#: States that connections of one period may be in, in all: each draw on a mark may double them.
MOST_STATES = 1 << 15
#: Connections that are followed one by one.
MOST_TURNS = 1024
#: Rules asked for all services of a text, for each rule of it, and at least.
_WORK, _LEAST_WORK = 60, 2_000_000


class TooMuch(Exception):
    """Rules whose ways are too many to follow."""


class Out(NamedTuple):
    """Where a connection ends: `to`, or `leak` with the words for it."""

    kind: str
    text: str
    meaning: Meaning | None


class State(NamedTuple):
    """A connection on its way. `nodes` says which parts of which hashes its client is in."""

    out: Out | None = None
    mark: int = 0
    connmark: int = 0
    #: Who set the mark, and the connection's mark, last.
    by: Meaning | None = None
    connection_by: Meaning | None = None
    nodes: tuple[tuple[tuple[str, int], Fraction, Fraction], ...] = ()


#: Whole numbers where nothing is left to chance: they are much faster.
Place: TypeAlias = "dict[State, Fraction | int]"
Stream: TypeAlias = "list[Place]"

START = State()
_ONE = Fraction(1)
_BACK = Out("back", "", None)


@dataclass(slots=True)
class Visit:
    """One rule that connections came to: how many of all came, and how many it took."""

    meaning: Meaning
    came: Fraction
    took: Fraction
    #: A number for the way on which they came: rules of one chain that were met one after another.
    way: int
    #: All that was asked of them until here.
    path: Where


class Program:
    """The rules of one chain, found by what they ask for."""

    def __init__(self, name: str, meanings: Sequence[Meaning], bits: int, policy: str | None) -> None:
        self.name = name
        self.meanings = [m for m in meanings if m.possible]
        self.policy = policy
        self._bits = bits
        self._index: dict[tuple[w.Net | None, int | None], list[int]] | None = None
        self._wide: list[int] = []
        self._lengths: list[int] = []
        if len(self.meanings) > 24:
            self._build()

    def _build(self) -> None:
        index: dict[tuple[w.Net | None, int | None], list[int]] = {}
        lengths = set()
        for i, meaning in enumerate(self.meanings):
            where = meaning.where
            if where.dport is None:
                index.setdefault((where.dst, None), []).append(i)
            elif sum(b - a + 1 for a, b in where.dport) <= 32:
                for a, b in where.dport:
                    for port in range(a, b + 1):
                        index.setdefault((where.dst, port), []).append(i)
            else:
                self._wide.append(i)
                continue
            if where.dst is not None:
                lengths.add(where.dst[1])
        self._index = index
        self._lengths = sorted(lengths)

    def candidates(self, given: Where) -> Iterable[Meaning]:
        """The rules that can be for these connections, in their order; some of them are not."""
        if self._index is None:
            return self.meanings
        nets: list[w.Net | None] = [None]
        if given.dst is not None:
            value, length = given.dst
            for each in self._lengths:
                if each <= length:
                    shift = self._bits - each
                    nets.append((value >> shift << shift, each))
        ports: tuple[int | None, ...] = (None,) if given.dport is None else (None, given.dport[0][0])
        found = list(self._wide)
        for net in nets:
            for port in ports:
                found += self._index.get((net, port), ())
        found.sort()
        return [self.meanings[i] for i in found]


class Walk:
    """The way of the connections of one selector through the chains of one hook."""

    def __init__(self, programs: dict[str, Program], given: Where, bits: int, budget: Budget) -> None:
        self.programs = programs
        self.given = given
        self.bits = bits
        self.budget = budget
        self.visits: list[Visit] = []
        self.modes: set[str] = set()
        self.recent: list[tuple[Recent, Meaning]] = []
        self.wide: dict[Meaning, Where] = {}
        #: Counters in the order in which they were asked: a rule, and which of its matches.
        self.counters: list[tuple[Meaning, int]] = []
        self.except_: set[tuple[str, str]] = set()
        self.unclear: list[Meaning] = []
        self.long = False
        #: True where connections ask one counter more than once, and it is not known what that does.
        self.twice = False
        #: What the first connections meet, before the period begins.
        self.starts: Stream = []
        self.seeds: dict[tuple[str, int], int] = {}
        self.overwritten: list[tuple[Meaning, Meaning, Fraction]] = []
        self.unread: list[Meaning] = []
        #: Connections that a rule of the hook's own chain sends past all others.
        self.returned: dict[int, Fraction] = {}
        #: Where connections are followed one by one: the place of each counter.
        self.turns: dict[tuple[Meaning, int], int] | None = None
        self._depth = 0
        self._ways = 0

    def chain(self, program: Program, stream: Stream, path: Where) -> Stream:
        """What is left of a stream, and what became of the rest, behind the chain's last rule."""
        self._depth += 1
        if self._depth > DEEPEST:
            raise TooMuch
        self._ways += 1
        way = self._ways
        given, bits = self.given, self.bits
        came = _mass(stream)
        for meaning in program.candidates(given):
            self.budget.spend()
            seen = w.covers(meaning.where, given, bits)
            if not seen:
                if seen is None:
                    self._exception(meaning)
                continue
            if meaning.unclear is not None:
                self.unread.append(meaning)
                continue
            act = meaning.act
            if act is Act.GO_ON and not meaning.steps:
                continue
            if act is Act.JUMP and meaning.target not in self.programs:
                continue
            there = w.meet(path, meaning.where, bits)
            if there is None:
                continue
            if not came:
                # Nothing comes here any more; endpoints that nobody reaches are worth a word.
                if act is Act.TO:
                    self.visits.append(Visit(meaning, came, came, way, there))
                continue
            taken, left = self._asked(meaning, stream, there) if meaning.steps else _active(stream)
            took = _mass(taken) if meaning.steps else came
            self.visits.append(Visit(meaning, came, took, way, there))
            if not took:
                stream = left
                continue
            if act is Act.RETURN and self._depth == 1:
                self.returned[meaning.rule.line] = took
            stream = self._act(meaning, taken, left, there)
            if sum(map(len, stream)) > MOST_STATES:
                if len(stream) == 1:
                    raise TooMuch
                # As for a counter whose period would be too long.
                self.long = True
                stream = _mean(stream)
            if act is Act.JUMP:
                came = _mass(stream)
            elif act is not Act.MARK and act is not Act.GO_ON:
                came -= took
        self._depth -= 1
        return [_came_back(place) for place in stream]

    def _exception(self, meaning: Meaning) -> None:
        """A rule for some of the connections, by something that services are not told apart by."""
        if meaning.act not in {Act.END, Act.RETURN} or meaning.steps or meaning.unclear is not None:
            return
        bare = meaning.where._replace(extra=())
        if w.covers(bare, self.given, self.bits) is not True:
            return
        pairs = [pair for pair in meaning.where.extra if pair not in self.given.extra]
        if len(pairs) == 1:
            name, value = pairs[0]
            if (name, value) == LOCAL:
                return
            self.except_.add((name, value[len(NOT) :] if value.startswith(NOT) else NOT + value))

    # -- matches

    def _asked(self, meaning: Meaning, stream: Stream, there: Where) -> tuple[Stream, Stream]:
        taken, left = _active(stream)
        for number, step in enumerate(meaning.steps):
            taken, left = self._step(step, number, meaning, taken, left, there)
        return taken, left

    def _step(
        self, step: Step, number: int, meaning: Meaning, taken: Stream, left: Stream, there: Where
    ) -> tuple[Stream, Stream]:
        match step:
            case Nth():
                return self._nth(step, number, meaning, taken, left, there)
            case Chance():
                stored = DRAW - step.stored if step.inverted else step.stored
                if 0 < stored < DRAW and any(taken):
                    self.modes.add("random")
                return _parted(taken, left, Fraction(stored, DRAW))
            case Nodes():
                return self._hashed(step, taken, left)
            case Marked():
                for here, rest in zip(taken, left, strict=True):
                    for state in list(here):
                        mark = state.connmark if step.connection else state.mark
                        if ((mark & step.mask) == step.value) == step.inverted:
                            _put(rest, state, here.pop(state))
                return taken, left
            case Recent():
                if step.asks and any(taken):
                    self.recent.append((step, meaning))
                # A client that is new is in no list.
                return (taken, left) if step.asks == step.inverted else _none(taken, left)
            case Asked():
                inside = w.covers(step.where, self.given, self.bits)
                return (taken, left) if inside else _none(taken, left)

    def _nth(
        self, step: Nth, number: int, meaning: Meaning, taken: Stream, left: Stream, there: Where
    ) -> tuple[Stream, Stream]:
        every = step.every
        if not any(taken):
            return taken, left
        if step.packet >= every:
            # The counter starts behind its end, and comes round after 2^32 connections.
            return (taken, left) if step.inverted else _none(taken, left)
        if every == 1:
            return _none(taken, left) if step.inverted else (taken, left)
        if self.turns is not None:
            return self._turned(step, (meaning, number), taken, left)
        self.modes.add("nth")
        self.counters.append((meaning, number))
        if there != self.given:
            self.wide[meaning] = there
        masses = [sum(place.values()) if place else 0 for place in taken]
        if all(mass in (0, 1) for mass in masses):
            whole = sum(map(bool, masses))
            rounds = every // gcd(whole, every)
            if rounds * len(taken) <= LONGEST:
                self.budget.spend(rounds * len(taken) // 8)
                return _counted(step, masses, taken, left, rounds)
            self.long = True
            taken, left = _mean(taken), _mean(left)
        part = Fraction(every - 1 if step.inverted else 1, every)
        return _parted(taken, left, part)

    def _turned(
        self, step: Nth, key: tuple[Meaning, int], taken: Stream, left: Stream
    ) -> tuple[Stream, Stream]:
        """The counter asked by one connection."""
        turns = self.turns if self.turns is not None else {}
        turn = turns.get(key, 0)
        turns[key] = (turn + 1) % step.every
        return (taken, left) if (turn == step.packet) != step.inverted else _none(taken, left)

    def _hashed(self, step: Nodes, taken: Stream, left: Stream) -> tuple[Stream, Stream]:
        if any(taken):
            self.modes.add("hash")
            self.seeds[step.key] = max(step.total, self.seeds.get(step.key, 0))
        for here, rest in zip(taken, left, strict=True):
            for state in list(here):
                part = here.pop(state)
                known = {key: (low, high) for key, low, high in state.nodes}
                low, high = known.get(step.key, (Fraction(0), _ONE))
                cuts = {low, high}
                for a, b in step.parts:
                    cuts |= {cut for cut in (a, b) if low < cut < high}
                ends = sorted(cuts)
                for a, b in pairwise(ends):
                    inside = any(first <= a and b <= last for first, last in step.parts)
                    known[step.key] = (a, b)
                    nodes = tuple(sorted((key, *span) for key, span in known.items()))
                    parted = state._replace(nodes=nodes)
                    chosen = here if inside != step.inverted else rest
                    self.budget.spend()
                    _put(chosen, parted, part * Fraction(b - a) / (high - low))
        return taken, left

    # -- targets

    def _act(self, meaning: Meaning, taken: Stream, left: Stream, there: Where) -> Stream:
        match meaning.act:
            case Act.TO:
                if len(meaning.to) > 1:
                    self.modes.add(meaning.own_mode or "random")
                outs = [(Out("to", to, meaning), part) for to, part in meaning.to]
                return _joined(_ended(taken, outs), left)
            case Act.END:
                words = f"{meaning.target} in line {meaning.rule.line}"
                return _joined(_ended(taken, [(Out("leak", words, meaning), _ONE)]), left)
            case Act.RETURN:
                return _joined(_ended(taken, [(_BACK._replace(meaning=meaning), _ONE)]), left)
            case Act.UNKNOWN:
                words = f"{meaning.target} in line {meaning.rule.line}, which is not in the text"
                return _joined(_ended(taken, [(Out("leak", words, meaning), _ONE)]), left)
            case Act.MARK:
                for place in taken:
                    for state in list(place):
                        part = place.pop(state)
                        _put(place, self._marked(meaning, state, part, len(taken)), part)
                return _joined(taken, left)
            case Act.JUMP | Act.GOTO:
                program = self.programs.get(meaning.target)
                if program is None:
                    return _joined(taken, left)
                behind = self.chain(program, taken, there)
                if meaning.act is Act.GOTO:
                    behind = _ended(behind, [(_BACK, _ONE)])
                return _joined(behind, left)
            case _:
                return _joined(taken, left)

    def _marked(self, meaning: Meaning, state: State, part: Fraction | int, length: int) -> State:
        connection, operation, value, mask = meaning.marking or (False, "xset", 0, 0)
        if operation == "save":
            return state._replace(
                connmark=(state.connmark & ~mask) | (state.mark & mask),
                connection_by=state.by or state.connection_by,
            )
        if operation == "restore":
            return state._replace(
                mark=(state.mark & ~mask) | (state.connmark & mask), by=state.connection_by or state.by
            )
        before = state.connmark if connection else state.mark
        after = (before & ~mask) | value if operation == "set" else (before & ~mask) ^ value
        who = state.connection_by if connection else state.by
        same_bits = who is not None and who.marking is not None and bool(who.marking[3] & mask)
        if who is not None and who is not meaning and before != after and who.picks and same_bits:
            self.overwritten.append((who, meaning, Fraction(part, length)))
        if connection:
            return state._replace(connmark=after & 0xFFFFFFFF, connection_by=meaning)
        return state._replace(mark=after & 0xFFFFFFFF, by=meaning)


@dataclass(slots=True)
class Budget:
    """Work that is left."""

    left: int = field(default=_LEAST_WORK)

    @classmethod
    def of(cls, rules: int) -> Budget:
        """Enough for any text of so many rules that is not made to take long."""
        return cls(max(_LEAST_WORK, _WORK * rules))

    def spend(self, amount: int = 1) -> None:
        """Raises `TooMuch` where nothing is left."""
        self.left -= amount
        if self.left < 0:
            raise TooMuch


def _put(place: Place, state: State, part: Fraction | int) -> None:
    place[state] = place[state] + part if state in place else part


def _active(stream: Stream) -> tuple[Stream, Stream]:
    """Those that are still on their way, and the others."""
    taken: Stream = []
    left: Stream = []
    for place in stream:
        on: Place = {}
        off: Place = {}
        for state, part in place.items():
            if state.out is None:
                on[state] = part
            else:
                off[state] = part
        taken.append(on)
        left.append(off)
    return taken, left


def _none(taken: Stream, left: Stream) -> tuple[Stream, Stream]:
    for here, rest in zip(taken, left, strict=True):
        for state, part in here.items():
            _put(rest, state, part)
        here.clear()
    return taken, left


def _parted(taken: Stream, left: Stream, share: Fraction) -> tuple[Stream, Stream]:
    """`share` of each that is taken stays so."""
    if share == 1:
        return taken, left
    if share == 0:
        return _none(taken, left)
    for here, rest in zip(taken, left, strict=True):
        for state, part in here.items():
            _put(rest, state, part * (1 - share))
            here[state] = part * share
    return taken, left


def _counted(
    step: Nth, masses: Sequence[Fraction | int], taken: Stream, left: Stream, rounds: int
) -> tuple[Stream, Stream]:
    """The counter followed through so many rounds of the period."""
    more: Stream = []
    rest: Stream = []
    every, packet, inverted = step.every, step.packet, step.inverted
    turn = 0
    for _ in range(rounds):
        for mass, here, other in zip(masses, taken, left, strict=True):
            if not mass:
                more.append({})
                rest.append(other if rounds == 1 else dict(other))
                continue
            if (turn == packet) != inverted:
                more.append(dict(here))
                rest.append(other if rounds == 1 else dict(other))
            else:
                more.append({})
                if other:
                    merged = dict(other)
                    for state, part in here.items():
                        _put(merged, state, part)
                    rest.append(merged)
                else:
                    rest.append(dict(here))
            turn = turn + 1 if turn + 1 < every else 0
    return more, rest


def _mean(stream: Stream) -> Stream:
    """The stream as one place, with what its places have on average."""
    mean: Place = {}
    for place in stream:
        for state, part in place.items():
            _put(mean, state, Fraction(part, len(stream)))
    return [mean]


def _mass(stream: Stream) -> Fraction:
    total: Fraction | int = 0
    for place in stream:
        for state, part in place.items():
            if state.out is None:
                total += part
    return ratio(total, len(stream))


@lru_cache(maxsize=1 << 14)
def ratio(part: Fraction | int, of: int) -> Fraction:
    """A fraction; services have few different ones, and each costs as much as following a rule."""
    return Fraction(part, of)


def _ended(stream: Stream, outs: Sequence[tuple[Out, Fraction]]) -> Stream:
    """All that are still on their way end."""
    ended: Stream = []
    for place in stream:
        now: Place = {}
        for state, part in place.items():
            if state.out is not None:
                _put(now, state, part)
                continue
            for out, share in outs:
                _put(now, state._replace(out=out), part * share if share != 1 else part)
        ended.append(now)
    return ended


def _joined(one: Stream, other: Stream) -> Stream:
    """Two streams of the same connections, place by place; the shorter one is repeated."""
    if len(one) != len(other):
        length = len(one) * len(other) // gcd(len(one), len(other))
        one = one if len(one) == length else [dict(one[i % len(one)]) for i in range(length)]
        other = other if len(other) == length else [dict(other[i % len(other)]) for i in range(length)]
    for here, more in zip(one, other, strict=True):
        for state, part in more.items():
            _put(here, state, part)
    return one


def _came_back(place: Place) -> Place:
    """Those that a rule sent back are on their way again, in the chain that they came from."""
    if not any(state.out is not None and state.out.kind == "back" for state in place):
        return place
    now: Place = {}
    for state, part in place.items():
        back = state.out is not None and state.out.kind == "back"
        _put(now, state._replace(out=None) if back else state, part)
    return now
