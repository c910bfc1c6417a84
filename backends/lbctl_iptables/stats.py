"""Kernel → counts. The counter of a ladder's rule counts the new connections that it took."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbctl.spi import Count
from lbctl_iptables import drivers, layout
from lbctl_iptables.rules import parse

if TYPE_CHECKING:
    from lbctl.host import Host


def stats(host: Host, driver: str, owner: str) -> tuple[Count, ...]:
    """See `lbctl.spi.Backend.stats`."""
    sums: dict[tuple[str, str], tuple[int, int]] = {}
    for word in layout.WORD.values():
        chains, _ = parse(drivers.save(host, driver, word), owner)
        for rule in (rule for rules in chains.values() for rule in rules):
            to, comment = rule.endpoint, rule.option("--comment")
            if to and comment:
                key = comment.split("/")[0], to
                packets, size = sums.get(key, (0, 0))
                sums[key] = packets + rule.packets, size + rule.bytes
    return tuple(
        Count(service=service, to=to, connections=packets, packets=packets, bytes=size)
        for (service, to), (packets, size) in sums.items()
    )
