"""Which connections the filters of a host drop, whatever else is let through elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from lbctl.model import Family
from lbctl_nftables import layout
from lbctl_nftables.reading import select
from lbctl_nftables.reading.grammar import Limit, Match, Nat, Strange, Unknown, Verdict, Vmap
from lbctl_nftables.reading.meaning import All, Keyed, Meaning, Never

if TYPE_CHECKING:
    from lbctl.spi import Passage
    from lbctl_nftables.reading.document import Chain, Document, Rule, Table
    from lbctl_nftables.reading.meaning import Conditions
    from lbctl_nftables.reading.select import Selector

_WORDS = {Family.IPV4: {"ip", "inet"}, Family.IPV6: {"ip6", "inet"}}
_DEEPEST = 16
_LOOPBACK = "lo"


class Drop(NamedTuple):
    """What drops a connection: a rule, or the policy of a base chain where `rule` is None."""

    chain: Chain
    rule: Rule | None


class _Outcome(NamedTuple):
    """`accept`, `drop`, `return`, or `maybe` where one cannot say."""

    what: str
    drop: Drop | None = None


_MAYBE = _Outcome("maybe")


class Filters:
    """The base chains of a document that let connections in, or through."""

    def __init__(self, document: Document) -> None:
        self._bases: dict[tuple[Family, str], list[tuple[Chain, Table, Meaning]]] = {}
        for family, words in _WORDS.items():
            for table in document.tables.values():
                # Our own refuse what is not served, and that alone.
                if table.family not in words or layout.owner_of(table.family, table.name):
                    continue
                for hook in ("input", "forward"):
                    meaning = Meaning(table, family, hook)
                    bases = [chain for chain in table.chains.values() if chain.hook == hook]
                    self._bases.setdefault((family, hook), []).extend((c, table, meaning) for c in bases)

    def drop_of(self, passage: Passage) -> Drop | None:
        """What surely drops a connection; None where nothing does, or one cannot say.

        Each base chain decides by itself, and an accept in one overrides no drop in another.
        """
        bases = self._bases.get((passage.family, "forward" if passage.outgoing else "input"), [])
        selector = _selector(passage)
        for chain, table, meaning in bases:
            outcome = _Walk(table, meaning, selector).chain(chain, 0)
            if outcome is None and chain.policy == "drop":
                return Drop(chain, None)
            if outcome is not None and outcome.drop is not None:
                return outcome.drop
        return None


def _selector(passage: Passage) -> Selector:
    """The first packet of a passage, translated already."""
    found = {
        "proto": passage.protocol,
        "dst": str(passage.address) if passage.address else None,
        "dport": str(passage.port),
        "oif": passage.outgoing,
        "iif": passage.incoming or _LOOPBACK,
        "state": "new",
        "ct status": "dnat",
        "ct direction": "original",
    }
    selector = select.Selector()
    for what, word in found.items():
        values = select.values(what, [word], passage.family) if word else None
        if values is not None and word == _LOOPBACK:
            # From outside, by whatever link.
            values = values.rest(what, passage.family)
        selector = (values and selector.narrowed(what, values)) or selector
    return selector


class _Walk:
    """One connection through the chains of a table.

    A rule that may be for it, or not, settles nothing if it drops, and leaves everything open if it accepts:
    only what is surely dropped is worth a word.
    """

    def __init__(self, table: Table, meaning: Meaning, selector: Selector) -> None:
        self._table = table
        self._meaning = meaning
        self._selector = selector

    def chain(self, chain: Chain, depth: int) -> _Outcome | None:
        """What becomes of it in a chain; None where it comes to the end."""
        if depth > _DEEPEST:
            return _MAYBE
        for rule in chain.rules:
            outcome = self._rule(chain, rule, depth)
            if outcome is not None:
                return None if outcome.what == "return" else outcome
        return None

    def _rule(self, chain: Chain, rule: Rule, depth: int) -> _Outcome | None:
        """What a rule decides; None where the next one is asked."""
        sure = True
        for statement in rule.statements:
            match statement:
                case Match():
                    holds = self._holds(statement)
                    if holds is False:
                        return None
                    sure = sure and holds is True
                case Vmap():
                    return self._dispatched(chain, rule, statement, sure=sure, depth=depth)
                case Verdict():
                    outcome = self._verdict(chain, rule, statement, sure=sure, depth=depth)
                    if outcome is not None or statement.kind != "continue":
                        return outcome
                case Limit():
                    sure = False
                case Unknown() | Nat():
                    return _MAYBE
                case _:
                    continue
        return None

    def _verdict(
        self, chain: Chain, rule: Rule, verdict: Verdict, *, sure: bool, depth: int
    ) -> _Outcome | None:
        match verdict.kind:
            case "drop":
                return _Outcome("drop", Drop(chain, rule)) if sure else None
            case "accept" | "return" as what:
                return _Outcome(what) if sure else _MAYBE
            case "jump" | "goto":
                called = self._table.chains.get(verdict.target)
                inner = self.chain(called, depth + 1) if called else None
                if inner is None:
                    # Behind a goto, the calling chain does not go on.
                    return None if verdict.kind == "jump" else _Outcome("return") if sure else _MAYBE
                if sure:
                    return inner
                return None if inner.what == "drop" and verdict.kind == "jump" else _MAYBE
            case _:
                return None

    def _dispatched(
        self, chain: Chain, rule: Rule, statement: Vmap, *, sure: bool, depth: int
    ) -> _Outcome | None:
        try:
            meant = self._meaning.of(statement)
        except Strange:
            return _MAYBE
        if not isinstance(meant, Keyed):
            return None if isinstance(meant, Never) else _MAYBE
        for conditions, element in meant.of(self._selector):
            holds = self._all((*meant.implied, *conditions))
            if holds is False or not isinstance(element.data, Verdict):
                continue
            sure = sure and holds is True
            outcome = self._verdict(chain, rule, element.data, sure=sure, depth=depth)
            if outcome is not None or sure:
                return outcome
        return None

    def _holds(self, match: Match) -> bool | None:
        """True where a condition holds, False where it does not, None where one cannot say."""
        try:
            meant = self._meaning.of(match)
        except Strange:
            return None
        match meant:
            case Never():
                return False
            case All(conditions=conditions):
                return self._all(conditions)
            case Keyed():
                answers = [self._all((*meant.implied, *c)) for c, _ in meant.of(self._selector)]
                return True if True in answers else None if None in answers else False
            case _:
                return None

    def _all(self, conditions: Conditions) -> bool | None:
        answers = [self._one(what, values) for what, values in conditions]
        return False if False in answers else None if None in answers else True

    def _one(self, what: str, values: select.Values) -> bool | None:
        mine = self._selector.get(what)
        if mine is None or any("*" in name for name in values.names):
            return None
        if mine.within(values):
            return True
        return False if mine.meet(values).empty else None
