"""What is known of all rules of a text while they are analysed, of both families."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lbctl.model import Family
    from lbctl_netfilter.conditions import Selector
    from lbctl_netfilter.follow import Walk
    from lbctl_netfilter.ir import Origin, Rule
    from lbctl_netfilter.log import Log


class Ledger:
    """Which rules are parts of services, which are not understood, and who moves which counter."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._touched: set[Origin] = set()
        self._lost: set[Origin] = set()
        #: Counters, and the connections that move each, once for each hook.
        self.movers: dict[object, Sequence[tuple[Family, Selector]]] = {}
        #: The paths of connections, at all hooks.
        self.walks: dict[tuple[Family, Selector], list[Walk]] = {}
        #: All selectors that were followed: of these it is known which counters they move.
        self.followed: set[tuple[Family, Selector]] = set()

    @property
    def known(self) -> int:
        """The number of rules that are a part of a service, or not understood."""
        return len(self._lost | self._touched)

    def is_lost(self, origin: Origin) -> bool:
        """Return True for a rule that is reported as not understood."""
        return origin in self._lost

    def lose(self, rule: Rule, what: str, reason: str) -> None:
        """Report a rule that would matter and is not understood."""
        if rule.origin not in self._lost:
            self._lost.add(rule.origin)
            self._log.cannot(rule, what, reason)

    def touch(self, rule: Rule) -> None:
        """Note a rule that is a part of a service."""
        self._touched.add(rule.origin)

    def follow(self, mine: tuple[Family, Selector], walk: Walk) -> None:
        """Note the path of a selector's connections, and the counters on it."""
        self.followed.add(mine)
        alone = (mine,)
        for counter in walk.met:
            known = self.movers.setdefault(counter, alone)
            if isinstance(known, list):
                known.append(mine)
            elif known is not alone:
                self.movers[counter] = [*known, mine]
        if walk.met:
            self.walks.setdefault(mine, []).append(walk)

    def complete(self) -> None:
        """Have each selector once among those that move a counter; when all are followed."""
        for counter, selectors in self.movers.items():
            if len(selectors) > 1:
                self.movers[counter] = list(dict.fromkeys(selectors))
