"""Kernel → how many rules are in the tables of lbctl; to list those of others has crashed nft."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbctl.host import ModuleState, kernel_module
from lbctl.spi import Census
from lbctl_nftables import drivers, layout, netlink

if TYPE_CHECKING:
    from lbctl.host import Host


def census(host: Host, driver: str) -> Census:
    """See `lbctl.spi.Counting`. Elements of maps are no rules."""
    if kernel_module(host, "nf_tables") is ModuleState.LOADABLE:
        return Census(store=layout.NAME, ours=0, others=None)
    ours = 0
    for word, name in netlink.tables(host):
        if layout.owner_of(word, name):
            ours += sum("rule" in entry for entry in drivers.read_table(host, driver, word, name))
    return Census(store=layout.NAME, ours=ours, others=None)
