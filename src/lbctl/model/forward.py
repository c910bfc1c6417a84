"""How packets reach an endpoint: translated, or by direct server return.

With *direct server return* this host rewrites nothing but the MAC addresses of a packet and hands it to an
endpoint on the same layer-2 segment, which has the listener's address itself and replies to the client
directly. So the destination address and port stay as they are, replies do not pass this host, and this host
tracks no connection.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum, StrEnum, auto
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from lbctl.model.intent import Address, Endpoint, Listener

#: The address of one network card, as the kernel prints it.
MAC = re.compile(r"[0-9a-f]{2}(?::[0-9a-f]{2}){5}\Z")


class Forward(StrEnum):
    """How packets reach an endpoint."""

    NAT = "nat"
    DSR = "dsr"


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
    #: The kernel is given the interfaces one by one.
    INTERFACE_PATTERN = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Hop:
    """The next hop to an endpoint: the interface that its segment is on, and the MAC addresses of both ends.

    `source` is the MAC address of the interface, `mac` that of the endpoint.
    """

    address: Address
    device: str
    source: str
    mac: str

    def __post_init__(self) -> None:
        for mac in (self.source, self.mac):
            check_mac(mac)


def check_mac(mac: str) -> str:
    """`mac` itself, or ValueError for what is no address of a single network card."""
    if not MAC.match(mac) or int(mac[:2], 16) & 1 or mac == "00:00:00:00:00:00":
        raise ValueError(f"{mac!r} is not the MAC address of a network card, as in 52:54:00:12:34:56")
    return mac


def dsr_obstacles(
    listeners: Iterable[Listener],
    endpoints: Iterable[Endpoint],
    *,
    local_clients: bool,
    translates_source: bool,
    affinity: bool,
    interfaces: Iterable[str],
) -> Iterator[DsrObstacle]:
    """Yield what keeps a service from direct server return."""
    listeners, endpoints = tuple(listeners), tuple(endpoints)
    ports = {port for each in listeners for port in (each.port, each.last_port)}
    if any(listener.address is None for listener in listeners):
        yield DsrObstacle.ANY_ADDRESS
    if any(listener.protocol not in {"tcp", "udp"} for listener in listeners):
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
    if any(name.endswith("*") for name in interfaces):
        yield DsrObstacle.INTERFACE_PATTERN
