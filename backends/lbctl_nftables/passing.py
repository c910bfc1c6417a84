"""Which connections the filters of a host drop, whatever else is let through elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbctl.model import Family
from lbctl.spi import ACCEPTED, OPEN, Fate, either
from lbctl_nftables import layout
from lbctl_nftables.reading import select
from lbctl_nftables.reading.grammar import Limit, Match, Nat, Strange, Unknown, Verdict, Vmap
from lbctl_nftables.reading.meaning import All, Keyed, Meaning, Never
from lbctl_nftables.reading.select import Selector

if TYPE_CHECKING:
    from collections.abc import Callable

    from lbctl.spi import Passage
    from lbctl_nftables.reading.document import Chain, Document, Rule, Table
    from lbctl_nftables.reading.meaning import Conditions

_WORDS = {Family.IPV4: {"ip", "inet"}, Family.IPV6: {"ip6", "inet"}}
_LOOPBACK = "lo"


class Filters:
    """The base chains of a document that let connections in, or through."""

    def __init__(self, document: Document, evidence: Callable[[Chain, Rule | None], str]) -> None:
        self._evidence = evidence
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

    def drops(self, passage: Passage) -> str | None:
        """What surely drops a connection; None where nothing does, or one cannot say.

        Each base chain decides by itself, and an accept in one overrides no drop in another.
        """
        bases = self._bases.get((passage.family, "forward" if passage.outgoing else "input"))
        selector = _selector(passage) if bases else Selector()
        for chain, table, meaning in bases or ():
            end = Fate("drop", self._evidence(chain, None)) if chain.policy == "drop" else ACCEPTED
            fate = _Way(table, meaning, selector, self._evidence).through(chain, end)
            if fate is not None and fate.what == "drop":
                return fate.by
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
    selector = Selector()
    for what, word in found.items():
        values = select.values(what, [word], passage.family) if word else None
        if values is not None and word == _LOOPBACK:
            # From outside, by whatever link.
            values = values.rest(what, passage.family)
        selector = (values and selector.narrowed(what, values)) or selector
    return selector


class _Way:
    """A connection on its way through the chains of a table."""

    def __init__(
        self,
        table: Table,
        meaning: Meaning,
        selector: Selector,
        evidence: Callable[[Chain, Rule | None], str],
    ) -> None:
        self._table = table
        self._meaning = meaning
        self._selector = selector
        self._evidence = evidence
        self._known: dict[str, Fate | None] = {}

    def through(self, chain: Chain, end: Fate | None = None) -> Fate | None:
        """What becomes of it in a chain, from its `end` back to its first rule."""
        if chain.name in self._known:
            return self._known[chain.name]
        # Of a chain that leads to itself, nothing is said.
        self._known[chain.name] = OPEN
        fate = end
        for rule in reversed(chain.rules):
            fate = self._met(chain, rule, fate, end)
        self._known[chain.name] = fate
        return fate

    def _met(self, chain: Chain, rule: Rule, behind: Fate | None, end: Fate | None) -> Fate | None:
        """What becomes of it from a rule on; `behind` it, if the rule does nothing, and at the `end`."""
        sure = True
        for statement in rule.statements:
            match statement:
                case Match():
                    holds = self._holds(statement)
                    if holds is False:
                        return behind
                    sure = sure and holds is True
                case Limit():
                    sure = False
                case Vmap():
                    taken = self._dispatched(chain, rule, statement, behind, end)
                    return taken if sure else either(taken, behind)
                case Verdict(kind="continue"):
                    continue
                case Verdict():
                    taken = self._taken(chain, rule, statement, behind, end)
                    return taken if sure else either(taken, behind)
                case Unknown() | Nat():
                    return OPEN
                case _:
                    continue
        return behind

    def _taken(
        self, chain: Chain, rule: Rule, verdict: Verdict, behind: Fate | None, end: Fate | None
    ) -> Fate | None:
        called = self._table.chains.get(verdict.target)
        match verdict.kind:
            case "drop":
                return Fate("drop", self._evidence(chain, rule))
            case "accept":
                return ACCEPTED
            case "jump" if called:
                return self.through(called) or behind
            case "goto" if called:
                return self.through(called) or end
            case "return":
                return end
            case _:
                return OPEN

    def _dispatched(
        self, chain: Chain, rule: Rule, statement: Vmap, behind: Fate | None, end: Fate | None
    ) -> Fate | None:
        """What becomes of it by the verdict that a map has for it."""
        try:
            meant = self._meaning.of(statement)
        except Strange:
            return OPEN
        if not isinstance(meant, Keyed):
            return behind if isinstance(meant, Never) else OPEN
        fate = behind
        for conditions, element in reversed(meant.of(self._selector.get)):
            holds = self._all((*meant.implied, *conditions))
            if holds is not False and isinstance(element.data, Verdict):
                taken = self._taken(chain, rule, element.data, behind, end)
                fate = taken if holds else either(taken, fate)
        return fate

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
                answers = [self._all((*meant.implied, *c)) for c, _ in meant.of(self._selector.get)]
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
