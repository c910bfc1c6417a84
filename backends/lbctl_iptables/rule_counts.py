"""Kernel → how many rules a flavour holds, in all its tables: those of lbctl and those of others."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbctl.model import DEFAULT_OWNER
from lbctl.spi import RuleCounts
from lbctl_iptables import drivers, layout, spelling

if TYPE_CHECKING:
    from lbctl.host import Host

_PREFIX = layout.prefix(DEFAULT_OWNER)


def count_rules(host: Host, driver: str) -> RuleCounts:
    """See `lbctl.spi.Reader`."""
    dumps = drivers.save_each(host, driver, layout.WORD.values()).values()
    rules = [line for dump in dumps for line in dump.splitlines() if line.startswith("[")]
    ours = sum(_PREFIX in rule and _is_ours(rule) for rule in rules)
    return RuleCounts(store=drivers.ALL[driver].store, managed=ours, foreign=len(rules) - ours)


def _is_ours(rule: str) -> bool:
    """Return True for a rule in a chain of some owner, and for one that leads into such a chain."""
    _, _, chain, *tokens = spelling.split(rule)
    return any(map(layout.owner_of, (chain, *layout.targets(tokens))))
