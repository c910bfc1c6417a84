"""Kernel → counts. The counter of a ladder's rule counts the new connections that it took."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbctl.spi import tally
from lbctl_iptables.observe import dumps
from lbctl_iptables.rules import parse

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lbctl.host import Host
    from lbctl.spi import Count


def stats(host: Host, driver: str, owner: str) -> tuple[Count, ...]:
    """See `lbctl.spi.Backend.stats`."""
    return tally(row for dump in dumps(host, driver).values() for row in _rows(dump, owner))


def _rows(dump: str, owner: str) -> Iterator[tuple[str, str, int, int]]:
    chains, _ = parse(dump, owner)
    for rule in (rule for rules in chains.values() for rule in rules):
        to, comment = rule.endpoint, rule.option("--comment")
        if to and comment:
            yield comment.split("/")[0], to, rule.packets, rule.bytes
