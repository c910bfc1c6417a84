"""What connections meet behind the hook that gave them an endpoint: another source.

Their destination is the endpoint's now, their marks are those that they got on the way, and what they asked
for is still known; all else of them is not. So a rule is for all of them, for none, or for those that meet
some condition more.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from lbctl.model import SourceNat, decimal
from lbctl_nftables.reading import grammar, select
from lbctl_nftables.reading.grammar import (
    Computed,
    Concat,
    Limit,
    Lookup,
    Match,
    Nat,
    Pick,
    SetMark,
    Strange,
    Unknown,
    Update,
    Verdict,
    Vmap,
)
from lbctl_nftables.reading.graph import UNTOLD
from lbctl_nftables.reading.hook import MARK, Hook, TooMuch, calls, marks_set, reach
from lbctl_nftables.reading.meaning import All, Keyed, Learned, Never, one
from lbctl_nftables.reading.select import Selector, Values

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from lbctl.model import Family
    from lbctl_nftables.reading.document import Chain, Document, Rule
    from lbctl_nftables.reading.grammar import Operand, Statement
    from lbctl_nftables.reading.graph import Followed
    from lbctl_nftables.reading.hook import Purse
    from lbctl_nftables.reading.meaning import Meaning

#: Conditions under which a rule is for connections, beyond what is known of them.
Conditions: TypeAlias = frozenset[tuple[str, Values]]
#: The marks of a packet and of its connection.
_Marks: TypeAlias = tuple[int | None, int | None]

#: What is no condition on a field: chance, a memory, or what other rules left.
_MORE = ("more", select.named("more"))
#: Back through the link on which they came in.
_BACK = ("oif", select.named("iif"))
_LOCAL = ("src-type", select.named("local"))
#: Not through the loopback interface, as a condition of connections that this host makes.
_OUTWARD = ("oif", Values(None, frozenset({"lo"}), True, ""))
#: What stays as it is when connections get another destination.
_KEPT = ("proto", "src", "sport", "iif")
_REPLACING = {"snat", "masquerade"}
#: Chains that lead from one to the next, up to which they are followed.
_DEEPEST = 16
_NONE: Conditions = frozenset()


class Met(NamedTuple):
    """A rule that replaces the source of connections, or may, and for which ones it does."""

    rule: Rule
    conditions: Conditions


class Later:
    """The chains of one family behind the hooks that map connections.

    `bases` tells the base chains of hooks, one hook after another.
    """

    def __init__(
        self, document: Document, family: Family, bases: Callable[..., list[Chain]], purse: Purse
    ) -> None:
        self._document = document
        self._family = family
        self._bases = bases
        behind = bases(family, "postrouting")
        #: True where the text has what NAT does behind the routing.
        self._whole = any(chain.kind == "nat" and chain.declared for chain in behind)
        self.at = Hook(document, family, "postrouting", behind, marking=False, purse=purse)
        #: By hook, and which of its chains gave an endpoint: what connections pass from then on.
        self._passed: dict[tuple[int, int], tuple[Chain, ...]] = {}
        self._known: dict[object, Sequence[Met]] = {}

    @cached_property
    def _behind(self) -> list[Chain]:
        return reach(self._document, self.at.bases)

    @cached_property
    def _replaces(self) -> bool:
        """True where some rule may replace a source."""
        found = {(chain.family, chain.table, chain.name) for chain in self._behind}
        return any(
            isinstance(s, Unknown) or (isinstance(s, Nat) and s.kind in _REPLACING)
            for chain in self._behind
            for rule in chain.rules
            for s in rule.statements
        ) or any(
            (chain.family, chain.table, target) not in found
            for chain in self._behind
            for _, target in calls(chain, self._document)
        )

    @cached_property
    def _asked(self) -> frozenset[str]:
        """The fields of which the rules ask something."""
        found: set[str] = set()
        for chain in self._behind:
            meaning = self.at.meaning(chain)
            for statement in (s for rule in chain.rules for s in rule.statements):
                found.update(_fields(meaning, statement))
        return frozenset(found)

    @cached_property
    def _apart(self) -> bool:
        """True where rules may tell one endpoint from another, or its network from others."""
        return not self._asked.isdisjoint({"dst", "dport", "src"})

    def source_nat(
        self, hook: Hook, selector: Selector, followed: Followed, *, ours: bool
    ) -> tuple[SourceNat | None, tuple[int, ...]]:
        """When the client's address is replaced; None where rules do not say, or there is no word for it.

        The lines are of the rules for which there is none. `ours` are lbctl's rules.
        """
        answers: dict[SourceNat | None, None] = {}
        lines: set[int] = set()
        told: set[object] = set()
        for (action, to), ways in followed.left.items():
            for meta, ct, base in ways if action == "dnat" else ():
                sort = to if self._apart else "", meta, ct, base
                if sort in told:
                    continue
                told.add(sort)
                known = _endpoint(to, selector, self._family)
                try:
                    met = self._met(known, (meta, ct), self._passing(hook, base)) if self._replaces else ()
                except TooMuch:
                    return None, ()
                answers[_answer(met, known.get("dst"))] = None
                lines |= {each.rule.line for each in met}
        if set(answers) == {SourceNat.NEVER}:
            return SourceNat.NEVER if ours or self._whole else None, ()
        if SourceNat.HAIRPIN in answers:
            answers.pop(SourceNat.NEVER, None)
        answer = next(iter(answers), None) if len(answers) == 1 else None
        return answer, () if answer else tuple(sorted(lines))

    def _passing(self, hook: Hook, base: int) -> tuple[Chain, ...]:
        """The chains that connections pass from the one on that gave them an endpoint."""
        key = id(hook), base
        if key not in self._passed:
            rest = [chain for chain in hook.bases[base + 1 :] if chain.kind != "nat"]
            between = self._bases(self._family, "forward") if hook.name == "prerouting" else []
            chains = [*rest, *between, *self.at.bases]
            self._passed[key] = tuple(
                chain for chain in chains if chain.kind == "nat" or marks_set(self._document, [chain])
            )
        return self._passed[key]

    def _met(self, known: Mapping[str, Values], marks: _Marks, passed: tuple[Chain, ...]) -> Sequence[Met]:
        """The rules that may replace the source of some connections, in chains one after another."""
        asked = tuple((what, found) for what, found in known.items() if what in self._asked)
        key = asked, marks, tuple(map(id, passed))
        if key not in self._known:
            walk = _Walk(self.at, known, marks)
            walk.through(passed)
            self._known[key] = walk.met
        return self._known[key]


class _Walk:
    """Connections with one endpoint on their way through chains.

    They leave a rule `on` to the next one, or its chain `back` to where it was entered, `accepted`,
    `dropped`, or with their source `replaced`.
    """

    def __init__(self, at: Hook, fields: Mapping[str, Values], marks: _Marks) -> None:
        self._at = at
        self._fields = fields
        self._marks = {name: mark or 0 for name, mark in zip(MARK.values(), marks, strict=True)}
        #: Sets that hold pairs of a link with itself.
        self._pairs: set[str] = set()
        self._depth = 0
        self.met: list[Met] = []

    def through(self, bases: Iterable[Chain]) -> None:
        """Follow connections through base chains: an accept in one leads to the next."""
        under = _NONE
        for base in bases:
            left = self._chain(base, under)
            if left <= {"dropped", "replaced"}:
                return
            if "dropped" in left:
                under |= {_MORE}

    def _chain(self, chain: Chain, under: Conditions) -> set[str]:
        """Follow connections through a chain; how they leave it."""
        left: set[str] = set()
        self._depth += 1
        for rule in chain.rules:
            self._at.purse.spend()
            before = dict(self._marks)
            asked, ways = self._rule(chain, rule, under)
            if asked:
                # What some have met is not known of the others.
                same = self._marks.items() & before.items()
                self._marks = dict.fromkeys(before, UNTOLD) | dict(same)
            left |= ways - {"on"}
            if not asked and "on" not in ways:
                break
            if ways & {"back", "accepted", "dropped"}:
                under |= {_MORE}
        else:
            left.add("back")
        self._depth -= 1
        return left

    def _rule(self, chain: Chain, rule: Rule, under: Conditions) -> tuple[Conditions, set[str]]:
        """What a rule asks that is not known, and how those leave the chain for which it is."""
        meaning = self._at.meaning(chain)
        asked = _NONE
        for statement in rule.statements:
            match statement:
                case Match():
                    found = self._match(meaning, statement)
                    if found is None:
                        return asked, {"on"}
                    asked |= found
                case Vmap():
                    more, ways = self._dispatched(meaning, chain, rule, statement, under | asked)
                    return asked | more, ways
                case Limit():
                    asked |= {_MORE}
                case Update(name=name, key=key):
                    if key == "iif . iif" and not asked:
                        self._pairs.add(name)
                case SetMark(where=where, value=value):
                    self._set_mark(MARK[where], value)
                case Nat(kind=kind) if kind in _REPLACING and self._at.is_for(chain, statement):
                    if isinstance(statement.address, (Lookup, Pick)):
                        asked |= {_MORE}
                    self.met.append(Met(rule, under | asked))
                    return asked, {"replaced"}
                case Nat():
                    return asked, {"on"}
                case Unknown():
                    # It may do anything.
                    self.met.append(Met(rule, under | asked | {_MORE}))
                    return asked | {_MORE}, {"accepted"}
                case Verdict(kind="continue"):
                    pass
                case Verdict():
                    return asked, self._verdict(chain, rule, statement, under | asked)
        return asked, {"on"}

    def _verdict(self, chain: Chain, rule: Rule, verdict: Verdict, under: Conditions) -> set[str]:
        if not verdict.target:
            return {{"accept": "accepted", "drop": "dropped", "return": "back"}.get(verdict.kind, "on")}
        called = self._at.called_by(chain, verdict.target, rule)
        if called is None or self._depth >= _DEEPEST:
            self.met.append(Met(rule, under | {_MORE}))
            return {"on", "accepted"}
        left = self._chain(called, under)
        if verdict.kind == "goto" or "back" not in left:
            return left
        return (left - {"back"}) | {"on"}

    def _dispatched(
        self, meaning: Meaning, chain: Chain, rule: Rule, vmap: Vmap, under: Conditions
    ) -> tuple[Conditions, set[str]]:
        """What becomes of connections by the verdicts of a map."""
        try:
            meant = meaning.of(vmap)
        except Strange:
            meant = None
        if isinstance(meant, Never):
            return _NONE, {"on"}
        if not isinstance(meant, Keyed):
            self.met.append(Met(rule, under | {_MORE}))
            return frozenset({_MORE}), {"accepted"}
        ways: set[str] = set()
        for conditions, element in meant.near(self._known):
            self._at.purse.spend()
            more = self._open((*meant.implied, *conditions))
            if more is None or not isinstance(element.data, Verdict):
                continue
            ways |= self._verdict(chain, rule, element.data, under | more)
            if not more:
                return _NONE, ways
        return (frozenset({_MORE}), ways | {"on"}) if ways else (_NONE, {"on"})

    def _match(self, meaning: Meaning, match: Match) -> Conditions | None:
        """What a condition asks that is not known of the connections; None where it does not hold."""
        try:
            meant = meaning.of(match)
        except Strange:
            return frozenset({_MORE})
        match meant:
            case Never():
                return None
            case All(conditions=conditions):
                return self._open(conditions)
            case Keyed():
                possible = [
                    more
                    for conditions, _ in meant.near(self._known)
                    if (more := self._open((*meant.implied, *conditions))) is not None
                ]
                if not possible or _NONE in possible:
                    return _NONE if possible else None
                return possible[0] if len(possible) == 1 else frozenset({_MORE})
            case Learned(name=name) if match.op == "==" and isinstance(match.key, Concat):
                links = {each.name for each in match.key.parts}
                if name in self._pairs and links == {"iif", "oif"} and len(match.key.parts) == 2:
                    return frozenset({_BACK})
        return frozenset({_MORE})

    def _open(self, conditions: Iterable[tuple[str, Values]]) -> Conditions | None:
        """Those of some conditions that may hold or not; None where one does not."""
        found: set[tuple[str, Values]] = set()
        for what, asked in conditions:
            mine = self._known(what)
            if mine is None or (what == "ct status" and asked.but):
                found.add((what, asked))
            elif not mine.within(asked):
                if mine.meet(asked).empty:
                    return None
                found.add((what, asked))
        return frozenset(found)

    def _known(self, what: str) -> Values | None:
        bits = select.bits_of(what)
        if bits is None:
            return self._fields.get(what)
        name, mask = bits
        mark = self._marks[name]
        return None if mark == UNTOLD else select.exactly(mark & mask)

    def _set_mark(self, name: str, value: Operand | Computed | None) -> None:
        mark = UNTOLD
        if isinstance(value, Computed):
            before = self._marks[MARK[value.of]]
            mark = before if before == UNTOLD else value.value(before)
        elif isinstance(value, tuple):
            try:
                mark = grammar.number(one(value))
            except Strange:
                mark = UNTOLD
        self._marks[name] = mark


def _answer(met: Sequence[Met], address: Values | None) -> SourceNat | None:
    kinds = {_kind(each.conditions, address) for each in met}
    if SourceNat.ALWAYS in kinds or not kinds:
        return SourceNat.ALWAYS if kinds else SourceNat.NEVER
    return kinds.pop() if len(kinds) == 1 else None


def _kind(conditions: Conditions, address: Values | None) -> SourceNat | None:
    if not conditions:
        return SourceNat.ALWAYS
    if conditions == {_BACK} or (_LOCAL in conditions and conditions <= {_LOCAL, _OUTWARD}):
        return SourceNat.HAIRPIN
    [(what, clients), *more] = conditions
    if what != "src" or more or address is None or not clients.spans or len(clients.spans) > 1:
        return None
    # A client in the endpoint's network, to which the endpoint would answer without us.
    [(low, high)] = clients.spans
    size = high - low + 1
    network = not size & (size - 1) and not low % size
    return SourceNat.HAIRPIN if network and address.within(clients) else None


def _endpoint(to: str, selector: Selector, family: Family) -> Mapping[str, Values]:
    """What is known of connections of a selector once they have an endpoint."""
    known = {what: found for what in _KEPT if (found := selector.get(what)) is not None}
    known |= {
        "ct status": select.named("dnat"),
        "ct direction": select.named("original"),
        "state": select.named("new"),
    }
    host, port = _place(to)
    given = {
        "dst": select.values("dst", [host], family) if host else None,
        "dport": select.values("dport", [port], family) if port else None,
    }
    for what, before in (("dst", "ctorigdst"), ("dport", "ctorigdstport")):
        asked = selector.get(what)
        found = given[what] or asked
        known |= {before: asked} if asked is not None else {}
        known |= {what: found} if found is not None else {}
    return known


def _place(to: str) -> tuple[str, str]:
    """The address and the port of an endpoint; "" for what stays as it was."""
    if not set(to) & {".", ":"}:
        return "", to if decimal(to, 5) is not None else ""
    if to.count(":") == 1 or to.startswith("["):
        host, _, port = to.rpartition(":")
        return host.strip("[]"), port
    return to, ""


def _fields(meaning: Meaning, statement: Statement) -> Iterator[str]:
    """The names of the fields that a statement asks for."""
    if isinstance(statement, (Match, Vmap)):
        try:
            meant = meaning.of(statement)
        except Strange:
            return
        if isinstance(meant, Keyed):
            yield from (*meant.names, *(what for what, _ in meant.implied))
        elif isinstance(meant, All):
            yield from (what for what, _ in meant.conditions)
