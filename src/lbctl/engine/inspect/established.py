"""The established connections of endpoints, as the kernel tracks them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from lbctl.host import translated_connections
from lbctl.model import Family

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lbctl.host import Host, TrackedConnection
    from lbctl.model import Address, Endpoint, Service


class Established:
    """All connections that were established when they were listed, found by the endpoint that answers."""

    def __init__(self, connections: Mapping[TrackedConnection, int]) -> None:
        self._found: dict[tuple[Address | None, int], list[tuple[TrackedConnection, int]]] = {}
        for connection, count in connections.items():
            # An endpoint without an address is any of this host.
            for address in (connection.endpoint, None):
                place = address, connection.endpoint_port
                self._found.setdefault(place, []).append((connection, count))

    @classmethod
    def on(cls, host: Host) -> Self | None:
        """Return those of a host; None where it has no `conntrack` to list them."""
        connections = translated_connections(host)
        return None if connections is None else cls(connections)

    def of(self, service: Service, endpoint: Endpoint, family: Family) -> int:
        """Return how many an endpoint has of one family that came through a service."""
        return sum(
            count
            for connection, count in self._found.get((endpoint.address, endpoint.port), ())
            if Family.of(connection.address) is family
            and any(
                listener.protocol == connection.protocol
                and listener.port == connection.port
                and listener.address in (None, connection.address)
                for listener in service.listeners
            )
        )
