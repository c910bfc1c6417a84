"""One rule → what it means: what it asks, and what it then does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbctl_iptables.reading import targets
from lbctl_iptables.reading import where as w
from lbctl_iptables.reading.conditions import Conditions, conditions
from lbctl_iptables.reading.meaning import Act, Meaning
from lbctl_iptables.reading.where import Unclear, Where

if TYPE_CHECKING:
    from collections.abc import Collection

    from lbctl_iptables.reading.grammar import Match
    from lbctl_iptables.reading.ruleset import Rule, Table


class Understanding:
    """Understands the rules of one family. `marks` says whether the text itself sets marks."""

    def __init__(self, *, marks: bool) -> None:
        self._marks = marks
        self._room = targets.MOST_RANGED
        #: By all but the destination, the conditions of each destination; and the matches themselves, so that
        #: no others can have the same identity.
        self._known: dict[object, tuple[dict[str, Conditions], list[Match]]] = {}

    def chains(self, table: Table) -> dict[str, list[Meaning]]:
        """Chain → what its rules mean."""
        return {
            chain.name: [self.rule(rule, table.chains) for rule in chain.rules]
            for chain in table.chains.values()
        }

    def rule(self, rule: Rule, chains: Collection[str]) -> Meaning:
        """What a rule means."""
        spec = rule.spec
        if spec.source or spec.inverted or spec.obsolete:
            asked = conditions(rule, marks=self._marks)
        else:
            key = (spec.protocol, spec.incoming, spec.outgoing, spec.fragment, *map(id, spec.matches))
            known = self._known.get(key)
            if known is None:
                known = self._known[key] = ({}, spec.matches)
            found = known[0].get(spec.destination)
            if found is None:
                found = known[0][spec.destination] = self._with_destination(rule, known[0])
            asked = found
        meaning = Meaning(
            rule,
            asked.where,
            asked.steps,
            Act.GO_ON,
            asked.picks,
            asked.asks_mark,
            possible=asked.possible,
            unclear=asked.unclear,
            remarks=asked.remarks,
        )
        targets.understand(meaning, chains, self._room)
        if len(meaning.to) > 1:
            self._room -= len(meaning.to)
        return meaning

    def _with_destination(self, rule: Rule, known: dict[str, Conditions]) -> Conditions:
        """The conditions of a rule, made of those without a destination where they are the same otherwise."""
        without = known.get("")
        if without is None:
            without = known[""] = conditions(rule, marks=self._marks, destination=False)
        if without.where.dst is None:
            try:
                found = w.net(rule.spec.destination, rule.family)
            except Unclear:
                pass
            else:
                # Dumps have one of these a rule: both kinds of `replace` take longer than all that they copy.
                protocol, _, dport, extra = without.where
                return Conditions(
                    Where(protocol, found, dport, extra),
                    without.steps,
                    without.picks,
                    without.asks_mark,
                    without.possible,
                    without.unclear,
                    without.remarks,
                )
        return conditions(rule, marks=self._marks)
