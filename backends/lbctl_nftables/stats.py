"""Kernel → counts. The counters of the slot pages count new connections; their comments name endpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbctl.spi import Count
from lbctl_nftables import lift, spell
from lbctl_nftables.observe import element, read_tables

if TYPE_CHECKING:
    from lbctl.host import Host


def stats(host: Host, driver: str, owner: str) -> tuple[Count, ...]:
    """See `lbctl.spi.Backend.stats`."""
    sums: dict[tuple[str, str], tuple[int, int]] = {}
    for _, objects in read_tables(host, driver, owner):
        for entry in objects:
            for pair in entry.get("map", {}).get("elem", []):
                body = pair[0].get("elem", {}) if isinstance(pair[0], dict) else {}
                counter = body.get("counter")
                _, comment = element(pair[0])
                to = lift.to(f": {spell.element_key(pair[1])}")
                if isinstance(counter, dict) and comment and to:
                    packets, size = sums.get((comment.split("/")[0], to), (0, 0))
                    sums[comment.split("/")[0], to] = packets + counter["packets"], size + counter["bytes"]
    return tuple(
        Count(service=service, to=to, connections=packets, packets=packets, bytes=size)
        for (service, to), (packets, size) in sums.items()
    )
