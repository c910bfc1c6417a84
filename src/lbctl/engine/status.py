"""What the kernel does, held against what the intent wants.

Whether the two differ is cheap to say, as often as one likes: where the kernel's generation is the one that
lbctl last knew, no rule is read. What the kernel counted has to be read.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, TypeAlias

from lbctl.host import translated_connections
from lbctl.model import Action, diff, diff_services, touched
from lbctl.spi import census

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lbctl.engine.session import Session
    from lbctl.host import TrackedConnection
    from lbctl.model import Address, Change, Endpoint, Intent, Service, ServiceChange, State
    from lbctl.spi import Census, Count

#: The address and port of an endpoint → the connections that it answers, and how many there are of each.
_Established: TypeAlias = "dict[tuple[Address | None, int], list[tuple[TrackedConnection, int]]]"


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
class Drift:
    """Where the kernel differs from an intent; what counts connections is no difference."""

    backend: str
    driver: str
    #: What to change to make the kernel hold the intent, and the services concerned.
    changes: tuple[Change, ...]
    services: tuple[ServiceChange, ...]
    #: Other stores that hold rules of the same owner: they balance the same connections too.
    elsewhere: tuple[str, ...]

    @property
    def in_sync(self) -> bool:
        """False where `lbctl apply` would change something, or refuse to."""
        return not self.changes and not self.elsewhere


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """Every service of an intent, as it is in the kernel."""

    drift: Drift
    #: What every place of this host holds, whoever put it there.
    stores: tuple[Census, ...]
    services: tuple[ServiceStatus, ...]


def drift(session: Session, intent: Intent, *, follow: bool = False) -> Drift:
    """Where the kernel differs from an intent. Changes nothing.

    With `follow`, the rules are looked for in other stores where the chosen one has none.
    """
    return _drift(session, intent, follow=follow)[1]


def _drift(session: Session, intent: Intent, *, follow: bool) -> tuple[Session, Drift]:
    """The session of the store that was looked at, and what was found."""
    wanted = session.compile(intent)
    held = session.held(intent.owner, like=wanted)
    others = session.elsewhere(intent.owner)
    if follow and others and not held:
        return _drift(others[0], intent, follow=False)
    changes = diff(held, wanted)
    if not changes:
        session.memory.keep(session.choice.driver.store, wanted.at(held.generation))
    concerned = touched(changes)
    was, will = session.backend.lift(held.only(concerned)), session.backend.lift(wanted.only(concerned))
    return session, Drift(
        backend=session.backend.name,
        driver=session.driver,
        changes=changes,
        services=tuple(s for s in diff_services(was, will, changes) if s.action is not Action.NONE),
        elsewhere=tuple(other.choice.driver.store for other in others),
    )


def status(session: Session, intent: Intent, *, follow: bool = False) -> Status:
    """Read the kernel's counters and connections for every service of an intent; see `drift`."""
    session, found = _drift(session, intent, follow=follow)
    counts = session.backend.stats(session.host, session.driver, intent.owner)
    counted: dict[str, dict[str, Count]] = {}
    for count in counts:
        counted.setdefault(count.service, {})[count.to] = count
    translated = translated_connections(session.host)
    connections = None if translated is None else _by_endpoint(translated)
    return Status(
        drift=found,
        stores=census(session.host, session.candidates),
        services=tuple(_service(s, counted.get(s.name, {}), connections) for s in intent.services),
    )


def _service(service: Service, own: Mapping[str, Count], connections: _Established | None) -> ServiceStatus:
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


def _by_endpoint(connections: Mapping[TrackedConnection, int]) -> _Established:
    found: _Established = {}
    for connection, count in connections.items():
        # An endpoint without an address is any of this host.
        for address in (connection.endpoint, None):
            found.setdefault((address, connection.endpoint_port), []).append((connection, count))
    return found


def _established(service: Service, endpoint: Endpoint, connections: _Established) -> int:
    return sum(
        count
        for connection, count in connections.get((endpoint.address, endpoint.port), ())
        if any(
            listener.protocol == connection.protocol
            and listener.port == connection.port
            and listener.address in (None, connection.address)
            for listener in service.listeners
        )
    )
