"""New connections through chains: counters as automata, draws and hashes as parts, marks as they change.

A counter that sees whole connections is followed through the period, which grows until it comes round; one
that sees parts of them is in each of its positions equally often in the long run, as it is where its period
would be too long.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from math import gcd
from typing import TYPE_CHECKING, NamedTuple

from lbctl_iptables.pick import DRAW
from lbctl_iptables.reading import where as w
from lbctl_iptables.reading.meaning import Act, Asked, Chance, Marked, Nodes, Nth, Recent, marked
from lbctl_iptables.reading.stream import EXACT_BITS, Out, State, Stream, turns
from lbctl_iptables.reading.where import EVERYTHING, LOCAL, NOT, Where

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lbctl_iptables.reading.meaning import Meaning
    from lbctl_iptables.reading.program import Program
    from lbctl_iptables.reading.stream import Odds

#: Longest period that is followed.
LONGEST = 1 << 14
#: States that connections of one period may be in, in all: each draw on a mark may double them.
MOST_STATES = 1 << 15
#: Connections that are followed one by one.
MOST_TURNS = 1024
#: Rules asked for all services of a text, for each rule of it, and at least.
_WORK, _LEAST_WORK = 60, 300_000


class TooMuch(Exception):
    """Rules whose ways are too many to follow."""


_ONE = Fraction(1)


class Visit(NamedTuple):
    """One rule that connections came to: how many of all came, and how many it took."""

    meaning: Meaning
    came: Fraction
    took: Fraction
    #: A number for the way on which they came: rules of one chain that were met one after another.
    way: int
    #: All that was asked of them until here.
    path: Where


@dataclass(slots=True)
class _Frame:
    """A chain that connections are in."""

    rules: Iterator[Meaning]
    #: Those on their way, and those that a rule sent back to where they came from.
    on: Stream
    back: Stream
    #: How much of all connections is on its way.
    came: Fraction
    #: The `way` and `path` of its visits.
    way: int
    path: Where
    #: True where those that come out of it go on in the chain before the last one.
    goto: bool


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
        self.long = False
        #: True where connections ask one counter more than once, and it is not known what that does.
        self.twice = False
        #: What the first connections meet, before the period begins.
        self.starts: list[State] = []
        self.seeds: dict[tuple[str, int], int] = {}
        self.overwritten: list[tuple[Meaning, Meaning, Fraction]] = []
        self.unread: list[Meaning] = []
        #: Connections that a rule of the hook's own chain sends past all others.
        self.returned: dict[int, Fraction] = {}
        #: Where connections are followed one by one: the place of each counter.
        self.turns: dict[tuple[Meaning, int], int] | None = None
        #: Before which of the visits connections came into a chain of the kernel.
        self.entered: list[tuple[int, str]] = []
        #: What connections meet on average that were followed one by one.
        self.met: list[Visit] = []
        #: What became of those that are no longer on their way.
        self.ended = Stream()
        self._frames: list[_Frame] = []
        self._ways = 0

    def chain(self, program: Program, stream: Stream) -> Stream:
        """What of a stream is still on its way behind a chain's last rule. Raises `TooMuch`."""
        frames = self._frames = [self._frame(program, stream, stream.mass(), EVERYTHING)]
        while True:
            frame = frames[-1]
            for meaning in frame.rules:
                inner = self._rule(meaning, frame)
                if inner is not None:
                    frames.append(inner)
                    break
            else:
                frames.pop()
                frame.on.add(frame.back)
                if not frames:
                    return frame.on
                outer = frames[-1]
                (outer.back if frame.goto else outer.on).add(frame.on)
                self._settle(outer)

    def _frame(
        self, program: Program, on: Stream, came: Fraction, path: Where, *, goto: bool = False
    ) -> _Frame:
        rules = program.candidates(self.given)
        self.budget.spend(1 + len(rules))
        self._ways += 1
        return _Frame(iter(rules), on, Stream(), came, self._ways, path, goto)

    def _settle(self, frame: _Frame) -> None:
        """After a rule took some, or changed them."""
        if len(frame.on.states) > 1:
            # Each costs as much as several rules.
            self.budget.spend(len(frame.on.states) * (4 + (frame.on.length >> 9)))
            if frame.on.size() > MOST_STATES:
                if frame.on.length == 1:
                    raise TooMuch
                # As for a counter whose period would be too long.
                self._average(frame.on)
        frame.came = frame.on.mass()
        # Long fractions too: what is done to one takes many times what is done to a short one.
        self.budget.spend(frame.came.denominator.bit_length() >> 7)
        if frame.came.denominator.bit_length() > 3 * EXACT_BITS:
            raise TooMuch

    def _average(self, *streams: Stream) -> None:
        """Follow the period no further: these connections, and those that left the same chain, on average."""
        self.long = True
        for stream in (*streams, self._frames[-1].back, self.ended):
            stream.mean()

    def _rule(self, meaning: Meaning, frame: _Frame) -> _Frame | None:
        """One rule, and the chain that it leads to."""
        seen = w.covers(meaning.where, self.given, self.bits)
        if not seen:
            if seen is None:
                self._exception(meaning)
            return None
        if meaning.unclear is not None:
            self.unread.append(meaning)
            return None
        act = meaning.act
        if act is Act.GO_ON and not meaning.steps:
            return None
        if act is Act.JUMP and meaning.target not in self.programs:
            return None
        there = w.meet(frame.path, meaning.where, self.bits)
        if there is None:
            return None
        came = frame.came
        if not came:
            # Nothing comes here any more; endpoints that nobody reaches are worth a word.
            if act is Act.TO:
                self.visits.append(Visit(meaning, came, came, frame.way, there))
            return None
        if meaning.steps:
            taken, frame.on = self._asked(meaning, frame.on, there)
            took = taken.mass()
        else:
            taken, frame.on = frame.on, Stream()
            took = came
        self.visits.append(Visit(meaning, came, took, frame.way, there))
        if not took:
            return None
        if act is Act.RETURN and len(self._frames) == 1:
            self.returned[meaning.rule.line] = took
        if (act is Act.JUMP or act is Act.GOTO) and (program := self.programs.get(meaning.target)):
            return self._frame(program, taken, took, there, goto=act is Act.GOTO)
        self._act(meaning, taken, frame)
        self._settle(frame)
        return None

    def _exception(self, meaning: Meaning) -> None:
        """A rule for some of the connections, by something that services are not told apart by."""
        if not meaning.excepts:
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

    # -- matches: each gives those that match, and the others

    def _asked(self, meaning: Meaning, stream: Stream, there: Where) -> tuple[Stream, Stream]:
        taken, left = stream, Stream()
        for number, step in enumerate(meaning.steps):
            if not taken:
                break
            match step:
                case Nth():
                    found, others = self._nth(step, number, meaning, taken, left, there)
                case Chance():
                    found, others = self._drawn(step, taken)
                case Nodes():
                    found, others = self._hashed(step, taken)
                case Marked():
                    found, others = _with_mark(step, taken)
                case Recent():
                    if step.asks:
                        self.recent.append((step, meaning))
                    # A client that is new is in no list.
                    found, others = _all(taken, step.asks == step.inverted)
                case Asked():
                    found, others = _all(taken, bool(w.covers(step.where, self.given, self.bits)))
            left.add(others)
            taken = found
        return taken, left

    def _nth(
        self, step: Nth, number: int, meaning: Meaning, taken: Stream, left: Stream, there: Where
    ) -> tuple[Stream, Stream]:
        every, inverted = step.every, step.inverted
        if step.packet >= every:
            # The counter starts behind its end, and comes round after 2^32 connections.
            return _all(taken, inverted)
        if every == 1:
            return _all(taken, not inverted)
        if self.turns is not None:
            # The counter asked by one connection.
            turn = self.turns.get((meaning, number), 0)
            self.turns[meaning, number] = (turn + 1) % every
            return _all(taken, (turn == step.packet) != inverted)
        self.modes.add("nth")
        self.counters.append((meaning, number))
        if there != self.given:
            self.wide[meaning] = there
        masses = taken.masses()
        if masses.keys() == {1}:
            whole = masses[1].bit_count()
            rounds = every // gcd(whole, every)
            if rounds * taken.length <= LONGEST:
                self.budget.spend(rounds * taken.length >> 7)
                places = turns(masses[1], taken.length, rounds, every, step.packet)
                taken.repeat(rounds)
                found = taken.split(places)
                return (taken, found) if inverted else (found, taken)
            self._average(taken, left)
        return taken.part(Fraction(every - 1 if inverted else 1, every)), taken

    def _drawn(self, step: Chance, taken: Stream) -> tuple[Stream, Stream]:
        stored = DRAW - step.stored if step.inverted else step.stored
        if stored in {0, DRAW}:
            return _all(taken, stored == DRAW)
        self.modes.add("random")
        return taken.part(Fraction(stored, DRAW)), taken

    def _hashed(self, step: Nodes, taken: Stream) -> tuple[Stream, Stream]:
        self.modes.add("hash")
        self.seeds[step.key] = max(step.total, self.seeds.get(step.key, 0))
        found, others = Stream(taken.length), Stream(taken.length)
        for state, chance, places in taken.parts():
            known = {key: (low, high) for key, low, high in state.nodes}
            low, high = known.get(step.key, (Fraction(0), _ONE))
            cuts = {low, high}
            for a, b in step.parts:
                cuts |= {cut for cut in (a, b) if low < cut < high}
            ends = sorted(cuts)
            self.budget.spend(len(ends) * (1 + len(known)))
            for a, b in pairwise(ends):
                inside = any(first <= a and b <= last for first, last in step.parts)
                known[step.key] = (a, b)
                nodes = tuple(sorted((key, *span) for key, span in known.items()))
                chosen = found if inside != step.inverted else others
                chosen.put(state._replace(nodes=nodes), chance * Fraction(b - a) / (high - low), places)
        return found, others

    # -- targets that lead into no chain

    def _act(self, meaning: Meaning, taken: Stream, frame: _Frame) -> None:
        match meaning.act:
            case Act.TO:
                if len(meaning.to) == 1:
                    self.end(taken, Out("to", meaning.to[0][0], meaning))
                    return
                if meaning.to:
                    self.modes.add(meaning.own_mode or "random")
                for to, part in meaning.to:
                    self.end(taken, Out("to", to, meaning), part)
            case Act.END:
                self.end(taken, Out("leak", f"{meaning.target} in line {meaning.rule.line}", meaning))
            case Act.UNKNOWN:
                words = f"{meaning.target} in line {meaning.rule.line}, which is not in the text"
                self.end(taken, Out("leak", words, meaning))
            case Act.RETURN:
                frame.back.add(taken)
            case Act.MARK:
                changed = Stream(taken.length)
                for state, chance, places in taken.parts():
                    part = Fraction(chance * places.bit_count(), taken.length)
                    changed.put(self._marked(meaning, state, part), chance, places)
                frame.on.add(changed)
            case _:
                frame.on.add(taken)

    def end(self, stream: Stream, out: Out, share: Odds = 1) -> None:
        """A share of all connections of a stream ends in one way."""
        ended = self.ended
        if ended and ended.length != stream.length:
            ended = Stream()
        ended.length = stream.length
        for state, chance, places in stream.parts():
            ended.put(State(out, *state[1:]), chance if share == 1 else chance * share, places)
        if ended is not self.ended:
            self.ended.add(ended)

    def accepted(self) -> Stream:
        """Those that an ACCEPT sent past the rest of a table, which are on their way to the next one."""
        ended, self.ended = self.ended, Stream(self.ended.length)
        found = Stream(ended.length)
        for state, chance, places in ended.parts():
            out = state.out
            if out is not None and out.kind == "leak" and out.text.startswith("ACCEPT "):
                found.put(state._replace(out=None), chance, places)
            else:
                self.ended.put(state, chance, places)
        return found

    def _marked(self, meaning: Meaning, state: State, part: Fraction) -> State:
        connection, operation, _, mask = marking = meaning.marking or (False, "xset", 0, 0)
        packet_after, connection_after = marked(marking, state.mark, state.connmark)
        if operation == "save":
            return state._replace(connmark=connection_after, connection_by=state.by or state.connection_by)
        if operation == "restore":
            return state._replace(mark=packet_after, by=state.connection_by or state.by)
        before, after = (state.connmark, connection_after) if connection else (state.mark, packet_after)
        who = state.connection_by if connection else state.by
        same_bits = who is not None and who.marking is not None and bool(who.marking[3] & mask)
        if who is not None and who is not meaning and before != after and who.picks and same_bits:
            self.overwritten.append((who, meaning, part))
        if connection:
            return state._replace(connmark=after, connection_by=meaning)
        return state._replace(mark=after, by=meaning)


def _all(stream: Stream, taken: bool) -> tuple[Stream, Stream]:
    return (stream, Stream()) if taken else (Stream(), stream)


def _with_mark(step: Marked, stream: Stream) -> tuple[Stream, Stream]:
    found, others = Stream(stream.length), Stream(stream.length)
    for state, chances in stream.states.items():
        mark = state.connmark if step.connection else state.mark
        chosen = found if ((mark & step.mask) == step.value) != step.inverted else others
        chosen.states[state] = chances
    return found, others


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
