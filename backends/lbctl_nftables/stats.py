"""Kernel → counts. The counters of the slot pages count new connections; their comments name endpoints.

Clients of a service with affinity pass the pages once only, so its set of endpoints counts instead. The
classic dialect counts in the rules of the endpoints' chains.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from lbctl.spi import tally
from lbctl_nftables import layout, lift
from lbctl_nftables.kernel import elements, expressions, netlink, objects
from lbctl_nftables.kernel.spelling import spelled
from lbctl_nftables.observe import TableReader, tables

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from lbctl.host import Host
    from lbctl.model import Family, Program
    from lbctl.spi import Count
    from lbctl_nftables.kernel.objects import KernelRule, KernelTable, Set


class _Row(NamedTuple):
    """What one counter of a service counted for one endpoint in one family."""

    service: str
    family: Family
    to: str
    packets: int
    size: int


def stats(
    host: Host,
    driver: str,  # noqa: ARG001 (the protocol's)
    owner: str,
    *,
    services: Collection[str] | None = None,
    held: Program | None = None,  # noqa: ARG001 (counters are read apart from rules)
) -> tuple[Count, ...]:
    """See `lbctl.spi.Backend.stats`."""
    rows = (row for table in tables(host, owner) for row in _table(host, table, services))
    return tally(row for row in rows if services is None or row.service in services)


def _table(host: Host, table: KernelTable, services: Collection[str] | None) -> Iterator[_Row]:
    named = [declared for declared in objects.sets(host, table).values() if not declared.is_anonymous]
    paged = any(layout.is_page(declared.name) for declared in named)
    if services is not None:
        pages = frozenset(layout.home(service)[0] for service in services)
        named = [declared for declared in named if _may_count(declared.name, services, pages)]
    keeping = [declared for declared in named if layout.is_endpoints(declared.name)]
    counted = {layout.service_of_set(declared.name) for declared in keeping}
    for declared in keeping:
        yield from _rows(host, table, declared)
    for declared in named:
        if layout.is_page(declared.name):
            yield from (row for row in _rows(host, table, declared) if row.service not in counted)
    if paged:
        return
    reader = TableReader(host, table)
    for rule in objects.rules(host, table):
        service = layout.service_of_chain(rule.chain)
        if service and layout.is_endpoint_chain(rule.chain) and service not in counted:
            yield from _of_rule(reader, table, rule, service)


def _may_count(name: str, services: Collection[str], pages: Collection[int]) -> bool:
    """Return True for a set or map that can count for one of some services, whose slots are in `pages`."""
    if layout.is_page(name):
        return layout.number_of_page(name) in pages
    return layout.is_endpoints(name) and layout.service_of_set(name) in services


def _rows(host: Host, table: KernelTable, declared: Set) -> Iterator[_Row]:
    family = layout.FAMILY[table.family]
    found = elements.elements(host, table, declared)
    for element, (key, text, comment) in zip(found, spelled(declared, found), strict=True):
        # A set has the endpoint in its key, a page in its data.
        to = lift.to(text if declared.data_types else f": {key}")
        if comment and to and element.packets:
            counts = netlink.number(element.packets), netlink.number(element.octets)
            yield _Row(comment.partition("/")[0], family, to, *counts)


def _of_rule(reader: TableReader, table: KernelTable, rule: KernelRule, service: str) -> Iterator[_Row]:
    to = lift.destination(expressions.spell(table.family, rule.expressions, reader))
    for packets, size in expressions.counters(rule.expressions) if to else ():
        yield _Row(service, layout.FAMILY[table.family], str(to), packets, size)
