"""How a front end spells the rules that would be right: the engine says what, a front end says how."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lbctl.model import AnalysedService
    from lbctl_netfilter.conditions import Selector
    from lbctl_netfilter.ir import Rule

#: Rules, one a line; empty where they cannot be spelled.
Lines: TypeAlias = tuple[str, ...]


class Corrections(Protocol):
    """Rules that were read, changed in one thing, in the form of the text that they come from."""

    def own(self, rules: Sequence[Rule]) -> Lines:
        """Return the rules as they are."""

    def equal(self, rules: Sequence[Rule], service: AnalysedService | None, *, by_chance: bool) -> Lines:
        """Return the rules as a ladder of equal parts, of which the last one takes all that is left."""

    def caught(self, rules: Sequence[Rule], service: AnalysedService, *, by_chance: bool) -> Lines:
        """Return the rules of a ladder, the last one without its pick."""

    def alike(self, rules: Sequence[Rule]) -> Lines:
        """Return the rules with what the first one asks for; each picks and does what it did."""

    def behind(self, rule: Rule) -> Lines:
        """Return the rule with its pick behind all other conditions."""

    def apart(
        self,
        rules: Sequence[Rule],
        listeners: Sequence[Selector],
        hook: str,
        services: Sequence[AnalysedService],
    ) -> Lines:
        """Return a ladder for each of the listeners that share one."""

    def unmarked(self, before: Sequence[Rule], rule: Rule) -> Lines:
        """Rules that mark, and one behind them for what none of them has marked."""

    def remembered(self, rules: Sequence[Rule]) -> Lines:
        """Rules that mark new connections alone, between those that restore a mark and save it."""

    def outward(self, rules: Sequence[Rule]) -> Lines:
        """Rules for arriving connections, and the same for those that this host makes to itself."""
