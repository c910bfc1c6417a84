"""Kernel → counts. A rule that sends to an endpoint counts the new connections that it took."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbctl.spi import tally
from lbctl_iptables import layout
from lbctl_iptables.observe import dumps

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lbctl.host import Host
    from lbctl.spi import Count
    from lbctl_iptables.rules import Dump


def stats(host: Host, driver: str, owner: str) -> tuple[Count, ...]:
    """See `lbctl.spi.Backend.stats`."""
    return tally(row for dump in dumps(host, driver, owner).values() for row in _rows(dump))


def _rows(dump: Dump) -> Iterator[tuple[str, str, int, int]]:
    for (table, _), chain in dump.chains.items():
        for rule in chain.rules if table == layout.NAT else ():
            to, comment = rule.endpoint, rule.option("--comment")
            if to and comment:
                yield comment.partition("/")[0], to, rule.packets, rule.bytes
