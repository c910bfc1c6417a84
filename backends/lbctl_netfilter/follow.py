"""New connections through chains: counters as automata, draws and hashes as parts, marks as they change.

A counter that sees whole connections is followed through the period, which grows until it comes round; one
that sees parts of them is in each of its positions equally often in the long run, as it is where its period
would be too long.
"""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, NamedTuple

from lbctl.values import dataclass
from lbctl_netfilter.budget import BudgetExceeded
from lbctl_netfilter.conditions import (
    ALL,
    EVERYTHING,
    SOME,
    covered,
    covers,
    mark_field,
    meet,
    place_of,
    size,
    spans_rest,
    unmarked,
)
from lbctl_netfilter.index import matters
from lbctl_netfilter.ir import MODES, Act, Draw, DrawMark, MarkIs, Match, Memory, PickKind, SetMark
from lbctl_netfilter.parts import At, Parts
from lbctl_netfilter.population import (
    EMPTY,
    EXACT_BITS,
    START,
    End,
    Out,
    Population,
    counted,
    drawn,
    ended,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from lbctl_netfilter.budget import Budget
    from lbctl_netfilter.conditions import Selector, Spans
    from lbctl_netfilter.index import ChainIndex
    from lbctl_netfilter.ir import Base, Branch, Pick, Rule, Switch
    from lbctl_netfilter.marks import Marking
    from lbctl_netfilter.population import Chances, ConnectionState, Odds

#: States that connections of one period may be in, in all: each draw on a mark may double them.
MOST_STATES = 1 << 15
_ONE = Fraction(1)


class Visit(NamedTuple):
    """A rule that connections arrived at: how many of all, and how many it matched (None: unknown)."""

    rule: Rule
    arriving: Fraction
    matched: Fraction | None
    #: A number for the frame in which they came: rules of one chain that were met one after another.
    frame: int
    #: All that was asked of them until here.
    path: Selector


@dataclass(slots=True)
class _Frame:
    """A chain that connections are in."""

    chain: str
    rules: Iterator[Rule]
    #: Those on their path, and those that a rule sent back to where they came from.
    on: Population
    back: Population
    #: How much of all connections is on its path.
    arriving: Fraction
    #: The `frame` and `path` of its visits.
    number: int
    path: Selector
    #: Where those that come out of it go on; None for a base chain.
    outer: _Frame | None
    #: True where they go on behind the chain that `outer` is, and not in it.
    goto: bool


class Walk:
    """The path of the connections of one selector through the chains of one hook."""

    def __init__(
        self,
        chains: Mapping[str, ChainIndex],
        given: Selector,
        bits: int,
        budget: Budget,
        *,
        later: bool = False,
    ) -> None:
        self.chains = chains
        self.given = given
        self.bits = bits
        self.budget = budget
        #: True for packets behind the first one of a connection.
        self.later = later
        #: True in a chain of kind `nat`.
        self.nat = False
        self.visits: list[Visit] = []
        self.modes: set[str] = set()
        self.memories: list[tuple[Memory, Rule]] = []
        self.wide: dict[Rule, Selector] = {}
        #: Counters in the order in which they were asked, each with a rule that asks it.
        self.counters: list[tuple[object, Rule]] = []
        #: Picks that were made for connections, whether or not that changes anything.
        self.met: dict[object, Rule] = {}
        #: Those of them that are not made in a chain of NAT, which sees first packets alone.
        self.of_packets: list[object] = []
        #: Connections for which some rules do something else.
        self.parts = Parts(chains, given, bits, budget)
        #: Rules of which it is not known whether they match.
        self.doubts: dict[Rule, None] = {}
        #: Rules of which a counter counts before the rest of the rule selects, with what it counts.
        self.early: dict[Rule, Selector] = {}
        self.long = False
        #: True where connections ask one counter more than once, and it is not known what that does.
        self.twice = False
        #: What the first connections meet, before the period begins.
        self.starts: list[ConnectionState] = []
        self.hashes: dict[object, Pick] = {}
        #: A hash by which all connections get their endpoints at once, and these.
        self.table: Switch | None = None
        self.overwritten: list[tuple[Rule, Rule, Fraction]] = []
        #: Connections that a rule of the hook's own chain sends past all others.
        self.returned: dict[int, Fraction] = {}
        #: Where connections are followed one by one: the position of each counter.
        self.turns: dict[object, int] | None = None
        #: Before which of the visits connections came into a base chain.
        self.entered: list[tuple[int, str]] = []
        #: What connections meet on average that were followed one by one.
        self.averaged: list[Visit] = []
        #: Those that are no longer on their path, with what became of them.
        self._ended: list[tuple[Out | None, Population]] = []
        self._frames: list[_Frame] = []
        self._numbers = 0

    def enter(self, base: Base) -> None:
        """Come to a base chain."""
        self.nat = base.kind == "nat"
        self.parts.next_base(nat=self.nat)

    def chain(self, name: str, stream: Population) -> Population:
        """Return what of a population is still on its path behind a chain's last rule.

        Raise `BudgetExceeded`.
        """
        frames = self._frames = [self._frame(name, stream, stream.mass, EVERYTHING)]
        while True:
            frame = frames[-1]
            for rule in frame.rules:
                inner = self._rule(rule, frame)
                if inner:
                    frames += reversed(inner)
                    break
            else:
                frames.pop()
                on = frame.on.joined(frame.back)
                outer = frame.outer
                if outer is None:
                    return on
                if frame.goto:
                    outer.back = outer.back.joined(on)
                else:
                    outer.on = outer.on.joined(on)
                self._settle(outer)

    def _frame(
        self,
        name: str,
        on: Population,
        arriving: Fraction,
        path: Selector,
        outer: _Frame | None = None,
        *,
        goto: bool = False,
    ) -> _Frame:
        rules = self.chains[name].candidates(self.given)
        self.budget.spend(1 + len(rules))
        self._numbers += 1
        return _Frame(name, iter(rules), on, EMPTY, arriving, self._numbers, path, outer, goto)

    def _settle(self, frame: _Frame) -> None:
        """After a rule took some, or changed them."""
        on = frame.on
        if len(on.states) > 1:
            # Each costs as much as several rules.
            self.budget.spend(len(on.states) * (4 + (on.length >> 9)))
            if on.size() > MOST_STATES:
                if on.length == 1:
                    raise BudgetExceeded
                # As for a counter whose period would be too long.
                self._average()
                on = frame.on = on.mean()
        frame.arriving = on.mass
        # Long fractions too: what is done to one takes many times what is done to a short one.
        length = frame.arriving.denominator.bit_length()
        if length >> 7:
            self.budget.spend(length >> 7)
        if length > 3 * EXACT_BITS:
            raise BudgetExceeded

    def _average(self) -> None:
        """Follow the period no further: those that left the chain are known on average from now on."""
        self.long = True
        frame = self._frames[-1]
        frame.back = frame.back.mean()
        self._ended = [(out, part.mean()) for out, part in self._ended]

    def _rule(self, rule: Rule, frame: _Frame) -> list[_Frame]:  # noqa: C901, PLR0912 (hot path, no more calls)
        """One rule, and the chains that it leads to."""
        if not (rule.later if self.later else rule.first) or rule.refused:
            return []
        coverage = covers(rule.where, self.given)
        if coverage is not ALL:
            if coverage is SOME and frame.arriving:
                self._part(rule, frame)
            return []
        act = rule.act
        if act is Act.GO_ON and not rule.steps:
            return []
        if rule.opaque is not None:
            self._doubt(rule, frame)
            return []
        if act is Act.JUMP and rule.target not in self.chains:
            return []
        there = meet(frame.path, rule.where, self.bits)
        if there is None:
            return []
        arriving = frame.arriving
        if not arriving:
            # Nothing comes here any more; endpoints that no connection reaches are worth a finding.
            if rule.maps:
                self.visits.append(Visit(rule, arriving, arriving, frame.number, there))
            return []
        if rule.steps:
            if not self._may_match(rule, frame, there):
                return []
            matching, frame.on = self._asked(rule, frame.on, there)
            matched = matching.mass
        else:
            matching, frame.on = frame.on, EMPTY
            matched = arriving
        if act is Act.SWITCH and rule.switch is not None and matched:
            return self._switched(rule, rule.switch, matching, frame, arriving, there)
        self.visits.append(Visit(rule, arriving, matched, frame.number, there))
        if not matched:
            return []
        if act is Act.RETURN and frame.outer is None:
            self.returned[rule.line] = matched
        if (act is Act.JUMP or act is Act.GOTO) and rule.target in self.chains:
            return [self._frame(rule.target, matching, matched, there, frame, goto=act is Act.GOTO)]
        self._act(rule, matching, frame)
        self._settle(frame)
        return []

    def _doubt(self, rule: Rule, frame: _Frame) -> None:
        """A rule that may or may not match: the others go on."""
        if not frame.arriving or not matters(rule, self.chains):
            return
        self.doubts[rule] = None
        self.visits.append(Visit(rule, frame.arriving, None, frame.number, frame.path))

    def _part(self, rule: Rule, frame: _Frame) -> None:
        """A rule for some of the connections."""
        at = At(frame.on, frame.arriving == 1, frame.outer is None)
        self.parts.meet(rule, frame.path, at)

    def _may_match(self, rule: Rule, frame: _Frame, there: Selector) -> bool:
        """False where conditions behind a counter are not met: it counts, and that is all."""
        may = True
        for step in rule.steps:
            if isinstance(step, Match):
                may &= covers(step.where, self.given) is ALL
                if covers(step.where, there) is not ALL:
                    self.early[rule] = there
        if not may:
            self._part(rule, frame)
            for number, each in enumerate(rule.steps):
                if isinstance(each, Draw):
                    self._meet(_identity(each.pick, rule, number), rule)
        return may

    def _meet(self, identity: object, rule: Rule) -> None:
        self.met[identity] = rule
        if not self.nat:
            self.of_packets.append(identity)

    # -- steps: each gives those that match, and the others

    def _asked(self, rule: Rule, stream: Population, there: Selector) -> tuple[Population, Population]:
        taken, left = stream, EMPTY
        for number, step in enumerate(rule.steps):
            if not taken:
                break
            match step:
                case Draw():
                    found, others = self._drawn(step, number, rule, taken, there)
                case MarkIs():
                    found, others = self._with_mark(step, rule, taken)
                case SetMark():
                    found, others = self._set(rule, step.marking, taken), EMPTY
                case DrawMark():
                    found, others = self._marked_by(step, number, rule, taken, there)
                case Memory():
                    if step.asks:
                        self.memories.append((step, rule))
                    # A client that is new is in no list.
                    found, others = _all(taken, step.asks == step.inverted)
                case Match():
                    found, others = taken, EMPTY
            if self.long and others and others.length < left.length:
                left = left.mean()
            left = left.joined(others)
            taken = found
        return taken, left

    def _drawn(
        self, step: Draw, number: int, rule: Rule, taken: Population, there: Selector
    ) -> tuple[Population, Population]:
        hits = size(step.hits)
        if hits == 0 or hits == step.pick.modulus:
            self._meet(_identity(step.pick, rule, number), rule)
            return _all(taken, hits > 0)
        found, others = self._parted(step.pick, (step.hits,), number, rule, taken, there)
        return found, others

    def _marked_by(
        self, step: DrawMark, number: int, rule: Rule, taken: Population, there: Selector
    ) -> tuple[Population, Population]:
        groups = tuple([spans for spans, _ in step.cases])
        *parts, others = self._parted(step.pick, groups, number, rule, taken, there)
        found = EMPTY
        for part, (_, marking) in zip(parts, step.cases, strict=True):
            found = found.joined(self._set(rule, marking, part))
        return found, others

    def _parted(
        self,
        pick: Pick,
        groups: tuple[Spans, ...],
        number: int,
        rule: Rule,
        taken: Population,
        there: Selector,
    ) -> Sequence[Population]:
        """Those that get a number of each group, and at last all others."""
        identity = _identity(pick, rule, number)
        self._meet(identity, rule)
        if pick.modulus == 1:
            return _at(next((i for i, spans in enumerate(groups) if spans), len(groups)), groups, taken)
        if pick.kind is PickKind.COUNTER and self.turns is not None:
            # The counter asked by one connection.
            turn = self.turns.get(identity, 0)
            self.turns[identity] = (turn + 1) % pick.modulus
            hit = (i for i, spans in enumerate(groups) if any(a <= turn <= b for a, b in spans))
            return _at(next(hit, len(groups)), groups, taken)
        self.modes.add(MODES[pick.kind])
        match pick.kind:
            case PickKind.COUNTER:
                self.counters.append((identity, rule))
                if there != self.given and there != unmarked(self.given):
                    self.wide[rule] = there
                return self._counted(pick, groups, taken)
            case PickKind.DICE:
                return drawn(taken, pick.modulus, groups)
            case PickKind.HASH:
                return self._hashed(pick, identity, groups, taken)

    def _counted(self, pick: Pick, groups: tuple[Spans, ...], taken: Population) -> Sequence[Population]:
        found = counted(taken, pick.modulus, groups)
        if found is not None:
            self.budget.spend(max(part.length for part in found) >> 7)
            return found
        if taken.masses().keys() == {1}:
            self._average()
            taken = taken.mean()
        return drawn(taken, pick.modulus, groups)

    def _hashed(
        self, pick: Pick, identity: object, groups: Sequence[Spans], taken: Population
    ) -> list[Population]:
        known_pick = self.hashes.get(identity)
        if known_pick is None or known_pick.modulus < pick.modulus:
            self.hashes[identity] = pick
        total = pick.modulus
        rest = spans_rest(tuple(sorted(span for spans in groups for span in spans)), total - 1)
        found: list[list[tuple[ConnectionState, Odds, int]]] = [[] for _ in range(len(groups) + 1)]
        pieces = sorted(
            (Fraction(low, total), Fraction(high + 1, total), i)
            for i, spans in enumerate([*groups, rest])
            for low, high in spans
        )
        for state, chance, places in taken.parts():
            known = {key: (low, high) for key, low, high in state.nodes}
            low, high = known.get(identity, (Fraction(0), _ONE))
            self.budget.spend(len(pieces) * (1 + len(known)))
            for a, b, i in pieces:
                first, last = max(a, low), min(b, high)
                if first >= last:
                    continue
                known[identity] = (first, last)
                nodes = tuple(sorted(((key, *span) for key, span in known.items()), key=repr))
                part = chance * (last - first) / (high - low)
                found[i].append((state._replace(nodes=nodes), part, places))
        return [Population.collect(taken.length, parts) for parts in found]

    def _with_mark(self, step: MarkIs, rule: Rule, stream: Population) -> tuple[Population, Population]:
        if matters(rule, self.chains):
            self.parts.asked(rule, step)
        asked = self.given.get(mark_field(connection=step.connection, mask=step.mask))
        if asked is not None and all(
            (state.connection_by if step.connection else state.by) is None for state in stream.states
        ):
            return _all(stream, covered(step.values, asked) is ALL)
        found: dict[ConnectionState, Chances] = {}
        others: dict[ConnectionState, Chances] = {}
        for state, chances in stream.states.items():
            mark = state.connmark if step.connection else state.mark
            if mark is None:
                self.doubts[rule] = None
            met = mark is not None and any(low <= mark & step.mask <= high for low, high in step.values)
            (found if met else others)[state] = chances
        return Population(stream.length, found), Population(stream.length, others)

    def _set(self, rule: Rule, marking: Marking, stream: Population) -> Population:
        self.parts.set(marking)
        changed: list[tuple[ConnectionState, Odds, int]] = []
        for state, chance, places in stream.parts():
            mass = chance * places.bit_count()
            changed.append((self._marked(rule, marking, state, mass, stream.length), chance, places))
        return Population.collect(stream.length, changed)

    def _marked(
        self, rule: Rule, marking: Marking, state: ConnectionState, mass: Odds, of: int
    ) -> ConnectionState:
        packet, connection = marking.apply(state.mark, state.connmark)
        if marking.copies:
            if marking.connection:
                return state._replace(connmark=connection, connection_by=state.by or state.connection_by)
            return state._replace(mark=packet, by=state.connection_by or state.by)
        before, after = (state.connmark, connection) if marking.connection else (state.mark, packet)
        who = state.connection_by if marking.connection else state.by
        if who is not None and who is not rule and before != after and who.picks:
            same_bits = any(each.written & marking.written for each in who.markings)
            if same_bits:
                self.overwritten.append((who, rule, Fraction(mass, of)))
        if marking.connection:
            return state._replace(connmark=connection, connection_by=rule)
        return state._replace(mark=packet, by=rule)

    # -- targets

    def _switched(
        self,
        rule: Rule,
        switch: Switch,
        matching: Population,
        frame: _Frame,
        arriving: Fraction,
        there: Selector,
    ) -> list[_Frame]:
        """Those that a picked number sends to one target or another."""
        pick, cases = switch
        identity = _identity(pick, rule, -1)
        groups = tuple([spans for spans, _ in cases])
        at_once = pick.kind is PickKind.HASH and all(target.act is Act.TO for _, target in cases)
        at_once &= all(key != identity for state in matching.states for key, _, _ in state.nodes)
        if at_once and len(cases) > 1:
            # Nothing else asks for the places of clients: parts are enough.
            self._meet(identity, rule)
            self.modes.add(MODES[pick.kind])
            self.hashes[identity] = pick
            if arriving == 1 and matching.states.keys() == {START}:
                self.table = switch
            *parts, missed = drawn(matching, pick.modulus, groups)
        else:
            *parts, missed = self._parted(pick, groups, -1, rule, matching, there)
        matched = arriving - missed.mass - frame.on.mass
        self.visits.append(Visit(rule, arriving, matched, frame.number, there))
        frame.on = frame.on.joined(missed)
        frames: list[_Frame] = []
        for part, (_, target) in zip(parts, cases, strict=True):
            if part:
                frames += self._targeted(rule, target, part, frame, there)
        self._settle(frame)
        return frames

    def _targeted(
        self, rule: Rule, target: Branch, part: Population, frame: _Frame, there: Selector
    ) -> list[_Frame]:
        match target.act:
            case Act.TO:
                self.end(part, Out(End.ENDPOINT, target.to, rule, target.name))
            case Act.JUMP | Act.GOTO if target.to in self.chains:
                goto = target.act is Act.GOTO
                return [self._frame(target.to, part, part.mass, there, frame, goto=goto)]
            case Act.RETURN:
                frame.back = frame.back.joined(part)
            case Act.ACCEPT | Act.DROP:
                end = End.ACCEPTED if target.act is Act.ACCEPT else End.LOST
                self.end(part, Out(end, f"{target.to} in line {rule.line}", rule))
            case _:
                frame.on = frame.on.joined(part)
        return []

    def _act(self, rule: Rule, taken: Population, frame: _Frame) -> None:
        match rule.act:
            case Act.TO:
                if len(rule.to) == 1:
                    self.end(taken, Out(End.ENDPOINT, self._endpoint(rule, rule.to[0][0]), rule))
                    return
                if rule.to:
                    self.modes.add(rule.own_mode or "random")
                for to, part in rule.to:
                    self.end(taken.scaled(part), Out(End.ENDPOINT, to, rule))
            case Act.ACCEPT:
                self.end(taken, Out(End.ACCEPTED, f"{rule.target} in line {rule.line}", rule))
            case Act.DROP:
                self.parts.dropped()
                self.end(taken, Out(End.LOST, f"{rule.target} in line {rule.line}", rule))
            case Act.UNKNOWN:
                words = f"{rule.target} in line {rule.line}, which is not in the text"
                self.end(taken, Out(End.LOST, words, rule))
            case Act.RETURN:
                frame.back = frame.back.joined(taken)
            case _:
                frame.on = frame.on.joined(taken)

    def _endpoint(self, rule: Rule, to: str) -> str:
        """Return an endpoint, without a port where that of the connection lies in the range and stays."""
        if not keeps_port(rule, self.given):
            return to
        host = to.rpartition(":")[0] if place_of(to, self.bits)[0] is not None else ""
        return host.strip("[]") or "local"

    def end(self, stream: Population, out: Out) -> None:
        """Some connections end in one way."""
        self._ended.append((out, stream))

    def accepted(self) -> Population:
        """Those that were accepted in a base chain, which are on their way to the next one."""
        found, others = EMPTY, []
        for out, part in self._ended:
            if out is not None and out.end is End.ACCEPTED:
                found = found.joined(part)
            else:
                others.append((out, part))
        self._ended = others
        return found

    def result(self, on: Population) -> Population:
        """Return what became of all connections, of which some came to the end of the rules."""
        parts, self._ended = [(None, on), *self._ended], []
        return ended(parts)


def keeps_port(rule: Rule, given: Selector) -> bool:
    """Return True if the ports of all connections lie in the range of a rule's endpoint, and stay."""
    if rule.ports is None or given.dport is None:
        return False
    low, high = rule.ports
    return all(low <= first and last <= high for first, last in given.dport)


def _identity(pick: Pick, rule: Rule, number: int) -> object:
    return (rule, number) if pick.key is None else pick.key


def _all(stream: Population, taken: bool) -> tuple[Population, Population]:
    return (stream, EMPTY) if taken else (EMPTY, stream)


def _at(number: int, groups: Sequence[Spans], stream: Population) -> Sequence[Population]:
    """Return all connections in one of some groups, or behind these."""
    return [stream if i == number else EMPTY for i in range(len(groups) + 1)]


def numbers_of(switch: Switch) -> list[Branch | None]:
    """Return the target of each number."""
    made: list[Branch | None] = [None] * switch.pick.modulus
    for spans, target in switch.cases:
        for low, high in spans:
            made[low : high + 1] = [target] * (high - low + 1)
    return made
