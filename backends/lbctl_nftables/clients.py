"""The clients of services with affinity, as they come from other rules and go to others."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbctl.errors import ApplyFailed
from lbctl.model import Family, Remembered
from lbctl_nftables import affinity, drivers, layout, script
from lbctl_nftables.observe import observe, read_tables

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from lbctl.host import Host

#: How often clients are brought in; each time, some others may have been placed meanwhile.
_TRIES = 5


def clients(host: Host, driver: str, owner: str) -> tuple[Remembered, ...]:
    """See `lbctl.spi.Moving`."""
    return tuple(_known(host, driver, owner))


def _known(host: Host, driver: str, owner: str) -> list[Remembered]:
    found: list[Remembered] = []
    for word, objects in read_tables(host, driver, owner):
        family = layout.FAMILY[word]
        named = affinity.sets(objects)
        for name, value in named.items():
            service = layout.service_of_set(name)
            if not layout.is_affinity(name) or service is None:
                continue
            places = affinity.places(named.get(layout.endpoints_of_affinity(name), {}))
            leads = {layout.kept(word, place): _shown(place, family) for place in places}
            found += [
                Remembered(service, family, entry.client, leads[entry.endpoint], max(1, entry.seconds))
                for entry in affinity.entries(value)
                if entry.endpoint in leads
            ]
    return found


def clients_of(host: Host, text: str, services: Mapping[str, Collection[int]]) -> tuple[Remembered, ...]:
    """See `lbctl.spi.Retiring`. Maps that people write have no shape in common."""
    del host, text, services
    return ()


def remember(host: Host, driver: str, owner: str, clients: Sequence[Remembered]) -> None:
    """See `lbctl.spi.Moving`."""
    if not clients:
        return
    held = observe(host, driver, owner)
    for _ in range(_TRIES):
        known = {each[:3] for each in _known(host, driver, owner)}
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
    """An element of a set of endpoints, as `Endpoint.to`."""
    address, dot, port = place.rpartition(" . ")
    if not dot:
        return port
    return f"[{address}]:{port}" if family is Family.IPV6 else f"{address}:{port}"
