"""The established connections of endpoints, as the kernel tracks them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self, TypeAlias

from lbctl.host import translated_connections
from lbctl.model import Family, hidden

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from lbctl.host import Host, TrackedConnection
    from lbctl.model import Address, Endpoint, Listener, Service

    #: Where connections are answered: an endpoint's address and port, as far as it has them.
    _Place: TypeAlias = tuple[Address | None, int | None]


class Established:
    """All connections that were established when they were listed, found by the endpoint that answers."""

    def __init__(self, connections: Mapping[TrackedConnection, int], services: Iterable[Service]) -> None:
        self._found: dict[_Place, list[tuple[TrackedConnection, int]]] = {}
        for connection, count in connections.items():
            address, port = connection.endpoint, connection.endpoint_port
            # An endpoint without an address is any of this host.
            places: list[_Place] = [(address, port), (None, port)]
            if port == connection.port:
                # One without a port has that of the connection.
                places.append((address, None))
            for place in places:
                self._found.setdefault(place, []).append((connection, count))
        #: Service → the listeners of others that decide ahead of its own.
        self._ahead: dict[str, list[Listener]] = {}
        for wider in hidden(services).values():
            for listener, hiding in wider.items():
                for service in hiding:
                    self._ahead.setdefault(service.name, []).append(listener)

    @classmethod
    def on(cls, host: Host, services: Iterable[Service]) -> Self | None:
        """Return those of a host that has these services; None where it has no `conntrack` to list them."""
        connections = translated_connections(host)
        return None if connections is None else cls(connections, services)

    def of(self, service: Service, endpoint: Endpoint, family: Family) -> int:
        """Return how many an endpoint has of one family that came through a service."""
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
