"""Kernel → how many rules are in the tables of lbctl."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbctl.host import ModuleState, kernel_module
from lbctl.spi import RuleCounts
from lbctl_nftables import layout
from lbctl_nftables.kernel import objects
from lbctl_nftables.kernel.values import KernelTable

if TYPE_CHECKING:
    from lbctl.host import Host


def count_rules(host: Host, driver: str) -> RuleCounts:  # noqa: ARG001 (the protocol's)
    """See `lbctl.spi.Reader`. Elements of maps are no rules."""
    if kernel_module(host, "nf_tables") is ModuleState.LOADABLE:
        return RuleCounts(store=layout.NAME, managed=0, foreign=None)
    ours = sum(
        sum(1 for _ in objects.rules(host, KernelTable(word, name)))
        for word, name in objects.tables(host)
        if layout.owner_of(word, name)
    )
    return RuleCounts(store=layout.NAME, managed=ours, foreign=None)
