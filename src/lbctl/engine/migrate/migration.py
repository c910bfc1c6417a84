"""The value that `plan` makes and `execute` carries out: a migration of services between two stores.

A migration is two steps and their verification: rules are added to the target, then removed from the source.
Nothing is in force between the steps that was not before or will not be after: if nftables takes part, it
decides for each new connection while both hold rules, ahead of both flavours of iptables, so that a migration
to it takes effect with the first step, and one from it with the second. Each step can be undone; undoing
both, the last one first, is the migration back.
"""

from __future__ import annotations

import json
from dataclasses import field
from enum import Enum, auto
from typing import TYPE_CHECKING

from lbctl.engine.migrate.steps import Retire, Step
from lbctl.engine.migrate.weights import ROUNDED
from lbctl.model import Intent, Plan
from lbctl.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from lbctl.engine.change.session import Session
    from lbctl.engine.inspect.compare import Comparison, Pair
    from lbctl.engine.migrate.foreign import ForeignRules


class Agreement(Enum):
    """How a service that is added relates to the one that is removed."""

    EQUAL = auto()
    #: The source does not hold it as it was applied: what was applied is added.
    RESTORED = auto()
    #: Foreign rules are of one family, and a port of this host is of both.
    NEW = auto()
    #: The target has the service already.
    PRESENT = auto()
    #: The policy gives equal shares.
    EQUALISED = auto()
    #: The shares differ by what draws or a Maglev table round.
    ROUNDED = auto()
    NONE = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    """From rules in one store to rules in another one that do the same."""

    owner: str
    source: Session
    target: Session
    come: Step
    go: Step
    #: What holds afterwards.
    intent: Intent
    #: What the intent is from, in words: the rules, the history, a file.
    origin: str
    #: The source as it is, which is worth an entry in the history.
    start: Plan | None = None
    #: Services that the source does not hold as they were applied: what was applied is added.
    drifted: frozenset[str] = frozenset()
    #: What the migrated services select: family, protocol, address, port.
    selectors: frozenset[tuple[str, ...]] = frozenset()
    #: What is migrated if it is foreign rules.
    foreign: ForeignRules | None = None
    #: Services of it that listen where lbctl has one already, and that one: their rules are only removed.
    twins: Mapping[str, str] = field(default_factory=dict)
    #: The rules that are removed beside those that are added, service by service; None for a migration back,
    #: which is only verified.
    comparison: Comparison | None = None
    #: Plans it anew; None if only its user may do that.
    again: Callable[[], Migration | None] | None = None

    @property
    def changed(self) -> bool:
        """False if there is nothing to migrate."""
        return self.come.changed or self.go.changed

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """What is removed and what is added, service by service."""
        return self.comparison.pairs if self.comparison else ()

    @property
    def plan(self) -> tuple[Session, Plan]:
        """The step with the rules managed by lbctl that hold afterwards, and its store."""
        for session, step in ((self.target, self.come), (self.source, self.go)):
            if isinstance(step, Plan):
                return session, step
        raise ValueError("a migration without rules managed by lbctl")

    @property
    def retired(self) -> str:
        """What is needed to restore the foreign rules that are removed; "" for none."""
        if not isinstance(self.go, Retire):
            return ""
        return json.dumps({"store": self.source.place, "record": self.go.record})

    def adds(self, pair: Pair) -> bool:
        """Return False for a service that the target has already."""
        return pair.b is None or pair.b.name not in self.twins.values()

    def agreement(self, pair: Pair) -> Agreement:
        """Return how a service that is added relates to the one that is removed."""
        if pair.verdict.equal:
            return Agreement.EQUAL
        if pair.b is not None and pair.b.name in self.drifted:
            return Agreement.RESTORED
        if pair.a is None and self.foreign is not None:
            return Agreement.NEW if self.adds(pair) else Agreement.PRESENT
        if pair.a is None or pair.b is None or pair.a.action != pair.b.action:
            return Agreement.NONE
        fixed = self.foreign.fixed_selectors if self.foreign else ()
        if pair.a.selector in fixed and self.adds(pair):
            return Agreement.EQUALISED
        # Draws have 31 bits; a Maglev table deviates from the weights, and is what other stores get it by.
        _, plan = self.plan
        meant = plan.effective.intent if plan.effective is not None else self.intent
        service = next((s for s in meant.services if s.name == pair.b.name), None)
        near = ROUNDED + (service.deviation() if service is not None and self.target.allow_remap else 0)
        return Agreement.ROUNDED if pair.distance < near else Agreement.NONE
