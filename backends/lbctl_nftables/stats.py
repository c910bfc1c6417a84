"""Kernel → counts. The counters of the slot pages count new connections; their comments name endpoints.

Clients of a service with affinity pass the pages once only, so its set of endpoints counts instead. The
classic dialect counts in the rules of the endpoints' chains.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from lbctl.spi import tally
from lbctl_nftables import layout, lift
from lbctl_nftables.kernel import expressions, netlink, objects
from lbctl_nftables.kernel.spelling import spelled
from lbctl_nftables.kernel.values import KernelTable
from lbctl_nftables.observe import TableReader, tables

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence

    from lbctl.host import Host
    from lbctl.model import Family, Item, Program
    from lbctl.spi import Count
    from lbctl_nftables.kernel.values import KernelElement, KernelRule, Set


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
    held: Program | None = None,
) -> tuple[Count, ...]:
    """See `lbctl.spi.Backend.stats`. Of some services, only what `held` has of these is read."""
    if services is not None and held is not None:
        return tally(_of_items(host, owner, [i for i in held.only(services).items if i.service in services]))
    rows = (row for table in tables(host, owner) for row in _table(host, table, services))
    return tally(row for row in rows if services is None or row.service in services)


def _of_items(host: Host, owner: str, items: Iterable[Item]) -> Iterator[_Row]:
    """Yield what is counted in items that the kernel holds."""
    slots: dict[tuple[str, str], list[Item]] = {}
    chains: list[Item] = []
    counted = set()
    for item in items:
        word, kind, *names = item.key
        if kind == "element" and (layout.is_page(names[0]) or layout.is_endpoints(names[0])):
            slots.setdefault((word, names[0]), []).append(item)
            if layout.is_endpoints(names[0]):
                counted.add((word, item.service))
        elif kind == "rules" and layout.is_endpoint_chain(names[0]):
            chains.append(item)
    own = {word: KernelTable(*layout.location(owner, word)) for word in layout.WORDS}
    readers = {word: TableReader(host, table) for word, table in own.items()}
    for (word, name), mine in slots.items():
        wanted = [i for i in mine if layout.is_endpoints(name) or (word, i.service) not in counted]
        declared = readers[word].declaration(name) if wanted else None
        if declared is not None:
            found = readers[word].kernel_elements(declared, [item.key for item in wanted])
            owners = {item.service for item in wanted}
            yield from (row for row in _rows(layout.FAMILY[word], declared, found) if row.service in owners)
    for item in chains:
        word, _, chain = item.key
        if item.service is not None and (word, item.service) not in counted:
            for rule in objects.rules(host, own[word], chain):
                yield from _of_rule(readers[word], layout.FAMILY[word], rule, item.service)


def _table(host: Host, table: KernelTable, services: Collection[str] | None) -> Iterator[_Row]:
    family = layout.FAMILY[layout.word_of(*table)]
    reader = TableReader(host, table)
    named = [declared for declared in objects.sets(host, table).values() if not declared.is_anonymous]
    paged = any(layout.is_page(declared.name) for declared in named)
    if services is not None:
        pages = frozenset(layout.home(service)[0] for service in services)
        named = [declared for declared in named if _may_count(declared.name, services, pages)]
    keeping = [declared for declared in named if layout.is_endpoints(declared.name)]
    counted = {layout.service_of_set(declared.name) for declared in keeping}
    for declared in keeping:
        yield from _rows(family, declared, reader.kernel_elements(declared))
    for declared in named:
        if layout.is_page(declared.name):
            rows = _rows(family, declared, reader.kernel_elements(declared))
            yield from (row for row in rows if row.service not in counted)
    if paged:
        return
    for rule in objects.rules(host, table):
        service = layout.service_of_chain(rule.chain)
        if service and layout.is_endpoint_chain(rule.chain) and service not in counted:
            yield from _of_rule(reader, family, rule, service)


def _may_count(name: str, services: Collection[str], pages: Collection[int]) -> bool:
    """Return True for a set or map that can count for one of some services, whose slots are in `pages`."""
    if layout.is_page(name):
        return layout.number_of_page(name) in pages
    return layout.is_endpoints(name) and layout.service_of_set(name) in services


def _rows(family: Family, declared: Set, found: Sequence[KernelElement]) -> Iterator[_Row]:
    for element, (key, text, comment) in zip(found, spelled(declared, found), strict=True):
        # A set has the endpoint in its key, a page in its data.
        to = lift.to(text if declared.data_types else f": {key}")
        if comment and to and element.packets:
            counts = netlink.number(element.packets), netlink.number(element.octets)
            yield _Row(comment.partition("/")[0], family, to, *counts)


def _of_rule(reader: TableReader, family: Family, rule: KernelRule, service: str) -> Iterator[_Row]:
    to = lift.destination(expressions.spell(layout.WORD[family], rule.expressions, reader))
    for packets, size in expressions.counters(rule.expressions) if to else ():
        yield _Row(service, family, str(to), packets, size)
