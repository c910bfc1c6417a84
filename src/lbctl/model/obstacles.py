"""What a service cannot have together with `takeover` or direct server return."""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING

from lbctl.model.kinds import Protocol, Scheduler, SourceNat

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from lbctl.model.endpoints import Endpoint, Listener

#: Those whose packets direct server return sends on.
_DIRECT_PROTOCOLS = frozenset({Protocol.TCP, Protocol.UDP})


class Obstacle(Enum):
    """Why another host cannot take over the established connections of a service."""

    #: Only a hash of the client leads to the same endpoint on two hosts.
    SCHEDULER = auto()
    #: Endpoints reply to an address of the host that the connection was opened through.
    SOURCE_NAT = auto()
    #: Processes of the host itself end with it.
    LOCAL_ENDPOINTS = auto()
    #: The kernel tracks an association from its handshake on, and lets no other packet begin one.
    SCTP = auto()


class DsrObstacle(Enum):
    """Why a service cannot use direct server return."""

    #: "Any address of this host" would include those that only this host has.
    ANY_ADDRESS = auto()
    #: New connections are recognized by the flags of TCP; datagrams have no beginning.
    PROTOCOL = auto()
    #: A process of this host needs no other host.
    LOCAL_ENDPOINTS = auto()
    #: The port of a packet stays as it is.
    PORT = auto()
    #: Packets of this host itself enter by no network interface.
    LOCAL_CLIENTS = auto()
    #: Replies go from the endpoint to the client.
    SOURCE_NAT = auto()
    #: A hash keeps a client anyway; the other schedulers choose for each connection.
    AFFINITY = auto()
    #: Least connections are counted by the kernel's tracking.
    SCHEDULER = auto()
    #: The kernel is given the interfaces one by one.
    INTERFACE_PATTERN = auto()


def takeover_obstacles(
    scheduler: Scheduler,
    source_nat: SourceNat,
    listeners: Iterable[Listener],
    endpoints: Iterable[Endpoint],
) -> Iterator[Obstacle]:
    """Yield what keeps another host from taking over the connections of a service."""
    if scheduler not in {Scheduler.SOURCE_HASH, Scheduler.MAGLEV}:
        yield Obstacle.SCHEDULER
    if source_nat is SourceNat.ALWAYS:
        yield Obstacle.SOURCE_NAT
    if any(endpoint.address is None for endpoint in endpoints):
        yield Obstacle.LOCAL_ENDPOINTS
    if any(listener.protocol is Protocol.SCTP for listener in listeners):
        yield Obstacle.SCTP


def dsr_obstacles(
    listeners: Iterable[Listener],
    endpoints: Iterable[Endpoint],
    *,
    local_clients: bool,
    translates_source: bool,
    affinity: bool,
    scheduler: Scheduler,
    interfaces: Iterable[str],
) -> Iterator[DsrObstacle]:
    """Yield what keeps a service from direct server return."""
    listeners, endpoints = tuple(listeners), tuple(endpoints)
    ports = {port for each in listeners for port in (each.port, each.last_port)}
    if any(listener.address is None for listener in listeners):
        yield DsrObstacle.ANY_ADDRESS
    if any(listener.protocol not in _DIRECT_PROTOCOLS for listener in listeners):
        yield DsrObstacle.PROTOCOL
    if any(endpoint.address is None for endpoint in endpoints):
        yield DsrObstacle.LOCAL_ENDPOINTS
    elif any(endpoint.port is not None and ports != {endpoint.port} for endpoint in endpoints):
        yield DsrObstacle.PORT
    if local_clients:
        yield DsrObstacle.LOCAL_CLIENTS
    if translates_source:
        yield DsrObstacle.SOURCE_NAT
    if affinity:
        yield DsrObstacle.AFFINITY
    if scheduler is Scheduler.LEAST_CONNECTIONS:
        yield DsrObstacle.SCHEDULER
    if any(name.endswith("*") for name in interfaces):
        yield DsrObstacle.INTERFACE_PATTERN
