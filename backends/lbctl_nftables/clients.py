"""The clients of services with affinity, as they come from other rules and go to others."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbctl.errors import ApplyFailed
from lbctl.model import Family, Remembered
from lbctl_nftables import affinity, drivers, layout, script
from lbctl_nftables.kernel import elements, objects
from lbctl_nftables.observe import observe, tables

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from lbctl.host import Host
    from lbctl_nftables.kernel.values import KernelTable, Set

#: How often clients are brought in; each time, some others may have been placed meanwhile.
_TRIES = 5


def clients(host: Host, driver: str, owner: str) -> tuple[Remembered, ...]:  # noqa: ARG001 (the protocol's)
    """See `lbctl.spi.Migrator`."""
    return tuple(_known(host, owner))


def _known(host: Host, owner: str) -> list[Remembered]:
    found: list[Remembered] = []
    for table in tables(host, owner):
        declared = objects.sets(host, table)
        for name in filter(layout.is_affinity, declared):
            found += _remembered(host, table, declared, name)
    return found


def _remembered(
    host: Host, table: KernelTable, declared: Mapping[str, Set], name: str
) -> Iterator[Remembered]:
    """Yield the entries of one map of clients that lead to endpoints of its service."""
    family, service = layout.FAMILY[table.family], layout.service_of_set(name)
    endpoints = declared.get(layout.endpoints_of_affinity(name))
    if service is None or endpoints is None:
        return
    places = affinity.places(endpoints, elements.elements(host, table, endpoints))
    leads = {layout.kept(table.family, place): _shown(place, family) for place in places}
    for entry in affinity.entries(declared[name], elements.elements(host, table, declared[name])):
        if entry.endpoint in leads:
            to = leads[entry.endpoint]
            yield Remembered(service, family, entry.client, to, max(1, entry.seconds))


def clients_of(host: Host, text: str, services: Mapping[str, Collection[int]]) -> tuple[Remembered, ...]:
    """See `lbctl.spi.Migrator`. Maps that people write have no shape in common."""
    del host, text, services
    return ()


def remember(host: Host, driver: str, owner: str, clients: Sequence[Remembered]) -> None:
    """See `lbctl.spi.Migrator`."""
    if not clients:
        return
    held = observe(host, driver, owner)
    for _ in range(_TRIES):
        known = {each[:3] for each in _known(host, owner)}
        text = script.remember(owner, [each for each in clients if each[:3] not in known], held)
        if not text:
            return
        try:
            drivers.load(host, driver, text)
        except ApplyFailed:
            # One of them came just now, and was placed.
            continue
        return


def _shown(place: str, family: Family) -> str:
    """Return an element of a set of endpoints, as `Endpoint.to`."""
    address, dot, port = place.rpartition(" . ")
    if not dot:
        return place
    return f"[{address}]:{port}" if family is Family.IPV6 else f"{address}:{port}"
