"""What the kernel does, held against what the intent wants."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

from lbctl.host import translated_connections
from lbctl.model import diff
from lbctl.spi import census

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lbctl.engine.session import Session
    from lbctl.host import TrackedConnection
    from lbctl.model import Endpoint, Intent, Service, State
    from lbctl.spi import Census, Count


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointStatus:
    """One endpoint. `established` is None where connections cannot be listed on this host.

    `wanted` is the exact share of its slots, `by_weight` what its weight alone would give: two numbers for
    Maglev tables, else the same.
    """

    name: str
    to: str
    state: State
    weight: int
    wanted: Fraction
    by_weight: Fraction
    actual: Fraction
    connections: int
    established: int | None
    packets: int
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceStatus:
    """One service; `connections` is the sum over its endpoints since their rules were loaded.

    `slots` has the number of slots in each family, `deviation` is `Service.deviation`.
    """

    name: str
    listen: tuple[str, ...]
    scheduler: str
    slots: tuple[int, ...]
    deviation: Fraction
    connections: int
    endpoints: tuple[EndpointStatus, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """`in_sync` is False where `lbctl apply` would change something."""

    backend: str
    driver: str
    in_sync: bool
    #: What every place of this host holds, whoever put it there.
    stores: tuple[Census, ...]
    services: tuple[ServiceStatus, ...]


def status(session: Session, intent: Intent) -> Status:
    """Read the kernel's counters and connections for every service of an intent."""
    wanted = session.compile(intent)
    in_sync = not diff(session.held(intent.owner, like=wanted), wanted)
    counts = session.backend.stats(session.host, session.driver, intent.owner)
    counted: dict[str, dict[str, Count]] = {}
    for count in counts:
        counted.setdefault(count.service, {})[count.to] = count
    connections = translated_connections(session.host)
    return Status(
        backend=session.backend.name,
        driver=session.driver,
        in_sync=in_sync,
        stores=census(session.host, session.candidates),
        services=tuple(_service(s, counted.get(s.name, {}), connections) for s in intent.services),
    )


def _service(
    service: Service, own: Mapping[str, Count], connections: tuple[TrackedConnection, ...] | None
) -> ServiceStatus:
    total = sum(count.connections for count in own.values())
    wanted, by_weight = service.shares(), service.by_weight()
    endpoints = []
    for endpoint in service.endpoints:
        count = own.get(endpoint.to)
        taken = count.connections if count else 0
        endpoints.append(
            EndpointStatus(
                name=endpoint.name,
                to=endpoint.to,
                state=endpoint.state,
                weight=endpoint.weight,
                wanted=wanted[endpoint.to],
                by_weight=by_weight[endpoint.to],
                actual=Fraction(taken, total) if total else Fraction(0),
                connections=taken,
                established=None if connections is None else _established(service, endpoint, connections),
                packets=count.packets if count else 0,
                bytes=count.bytes if count else 0,
            )
        )
    return ServiceStatus(
        name=service.name,
        listen=tuple(str(listener) for listener in service.listeners),
        scheduler=service.scheduler,
        slots=tuple(len(service.slots(family)) for family in service.families),
        deviation=service.deviation(),
        connections=total,
        endpoints=tuple(endpoints),
    )


def _established(service: Service, endpoint: Endpoint, connections: tuple[TrackedConnection, ...]) -> int:
    return sum(
        connection.endpoint_port == endpoint.port
        and endpoint.address in (None, connection.endpoint)
        and any(
            listener.protocol == connection.protocol
            and listener.port == connection.port
            and listener.address in (None, connection.address)
            for listener in service.listeners
        )
        for connection in connections
    )
