"""The established connections of endpoints: as the kernel tracks them, or as rules of a backend know them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self, TypeAlias, assert_never

from lbctl.host import connection_counts, translated_connections
from lbctl.model import Family, Forward, hidden
from lbctl.spi import Learner

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from lbctl.engine.change.session import Session
    from lbctl.host import TrackedConnection
    from lbctl.model import Address, Endpoint, Listener, Service

    #: Where connections are answered: an endpoint's address and port, as far as it has them.
    _Place: TypeAlias = tuple[Address | None, int | None]
    #: By service and family, `Endpoint.to` → connections; None if they are unknown.
    _Untracked: TypeAlias = Mapping[tuple[str, Family], Mapping[str, int] | None]


class Established:
    """All connections that were established when they were listed, found by the endpoint that answers."""

    def __init__(
        self,
        connections: Mapping[TrackedConnection, int] | None,
        services: Iterable[Service],
        *,
        untracked: _Untracked | None = None,
    ) -> None:
        """`connections` is None where they cannot be listed; `untracked` has what a `Learner` knows."""
        self._listed = connections is not None
        self._untracked = untracked or {}
        self._found: dict[_Place, list[tuple[TrackedConnection, int]]] = {}
        for connection, count in (connections or {}).items():
            address, port = connection.endpoint, connection.endpoint_port
            # An endpoint without an address is any of this host.
            places: list[_Place] = [(address, port), (None, port)]
            if port == connection.port:
                # One without a port has that of the connection.
                places.append((address, None))
            for place in places:
                self._found.setdefault(place, []).append((connection, count))
        #: Service → the listeners of other services that decide before its own.
        self._ahead: dict[str, list[Listener]] = {}
        for wider in hidden(services).values():
            for listener, hiding in wider.items():
                for service in hiding:
                    self._ahead.setdefault(service.name, []).append(listener)

    @classmethod
    def on(cls, session: Session, owner: str, services: Iterable[Service]) -> Self:
        """Return those of an owner's services, as they are carried out."""
        services, backend = tuple(services), session.backend
        untracked: dict[tuple[str, Family], Mapping[str, int] | None] = {}
        if isinstance(backend, Learner):
            host, driver = session.host, session.driver
            untracked = {
                (service.name, family): backend.connections(host, driver, owner, service, family)
                for service in services
                if service.forward is Forward.DSR
                for family in service.families
            }
        protocols = {listener.protocol for service in services for listener in service.listeners}
        connections = connection_counts(session.host, sorted(protocols))
        if connections is None:
            # Where the kernel cannot be asked without a tool, as on another host.
            connections = translated_connections(session.host)
        return cls(connections, services, untracked=untracked)

    def of(self, service: Service, endpoint: Endpoint, family: Family) -> int | None:
        """Return how many an endpoint has of one family that came through a service; None if unknown."""
        match service.forward:
            case Forward.DSR:
                known = self._untracked.get((service.name, family))
                return None if known is None else known.get(endpoint.to, 0)
            case Forward.NAT:
                return self._tracked(service, endpoint, family) if self._listed else None
        assert_never(service.forward)

    def _tracked(self, service: Service, endpoint: Endpoint, family: Family) -> int:
        return sum(
            count
            for connection, count in self._found.get((endpoint.address, endpoint.port), ())
            if Family.of(connection.address) is family
            and _is_for(connection, service.listeners)
            and not _is_for(connection, self._ahead.get(service.name, ()))
        )


def _is_for(connection: TrackedConnection, listeners: Iterable[Listener]) -> bool:
    """Return True if a connection came for one of these listeners."""
    return any(
        listener.protocol == connection.protocol and listener.matches(connection.port, connection.address)
        for listener in listeners
    )
