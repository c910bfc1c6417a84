"""Kernel → counts. A rule that sends to an endpoint counts the new connections that it took."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from lbctl.spi import tally
from lbctl_iptables import layout
from lbctl_iptables.observe import dumps

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from lbctl.host import Host
    from lbctl.model import Family, Program
    from lbctl.spi import Count
    from lbctl_iptables.rules import Dump


def stats(
    host: Host,
    driver: str,
    owner: str,
    *,
    services: Collection[str] | None = None,
    held: Program | None = None,
) -> tuple[Count, ...]:
    """See `lbctl.spi.Backend.stats`."""
    read = cast("Mapping[str, Dump] | None", held.reading) if held is not None else None
    read = dumps(host, driver, owner) if read is None else read
    rows = (row for word, dump in read.items() for row in _rows(owner, layout.FAMILY[word], dump))
    return tally(row for row in rows if services is None or row[0] in services)


def _rows(owner: str, family: Family, dump: Dump) -> Iterator[tuple[str, Family, str, int, int]]:
    for (table, name), chain in dump.chains.items():
        service = layout.service_of(owner, name, chain.text) if table == layout.NAT else None
        if service is None:
            continue
        for rule in chain.rules:
            if to := rule.endpoint:
                yield service, family, to, rule.packets, rule.bytes
