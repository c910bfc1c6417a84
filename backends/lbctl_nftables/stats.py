"""Kernel → counts. The counters of the slot pages count new connections; their comments name endpoints.

Clients of a service with affinity pass the pages once only, so its set of endpoints counts instead.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbctl.spi import tally
from lbctl_nftables import layout, lift, spell
from lbctl_nftables.observe import elements, read_tables

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lbctl.host import Host
    from lbctl.spi import Count
    from lbctl_nftables.spell import Json


def stats(host: Host, driver: str, owner: str) -> tuple[Count, ...]:
    """See `lbctl.spi.Backend.stats`."""
    tables = read_tables(host, driver, owner)
    return tally(row for _, objects in tables for row in _table(objects))


def _table(objects: list[Json]) -> Iterator[tuple[str, str, int, int]]:
    sets = [
        value for entry in objects if layout.is_endpoints((value := entry.get("set", {})).get("name", ""))
    ]
    counted = {layout.service_of_set(value["name"]) for value in sets}
    for value in sets:
        yield from _rows(value)
    for entry in objects:
        yield from (row for row in _counted(entry) if row[0] not in counted)


def _counted(entry: Json) -> Iterator[tuple[str, str, int, int]]:
    match entry:
        case {"map": dict(page)}:
            yield from _rows(page)
        case {"rule": {"chain": str(chain), "expr": list(statements)}} if layout.is_endpoint_chain(chain):
            service = layout.service_of_chain(chain)
            to = lift.destination(spell.rule(statements))
            for statement in statements:
                match statement:
                    case {"counter": {"packets": int(packets), "bytes": int(size)}} if service and to:
                        yield service, to, packets, size


def _rows(page: Json) -> Iterator[tuple[str, str, int, int]]:
    for _, key, data in elements(page):
        body = key.get("elem", {}) if isinstance(key, dict) else {}
        # A set has the endpoint in its key, a page in its data.
        place = data if data != "" else body.get("val")
        comment, to = body.get("comment"), lift.to(f": {spell.element_key(place)}")
        # Some versions list what an element carries as statements of it.
        statements = body.get("stmt")
        for statement in (body, *(statements if isinstance(statements, list) else [])):
            match statement:
                case {"counter": {"packets": int(packets), "bytes": int(size)}} if comment and to:
                    yield comment.split("/")[0], to, packets, size
