"""How packets reach an endpoint: translated, or by direct server return.

With *direct server return* this host rewrites nothing but the MAC addresses of a packet and hands it to an
endpoint on the same layer-2 segment, which has the listener's address itself and replies to the client
directly. So the destination address and port stay as they are, replies do not pass this host, and this host
tracks no connection.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import TYPE_CHECKING

from lbctl.values import dataclass

if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv6Address

#: The address of one network card, as the kernel prints it.
_MAC = re.compile(r"[0-9a-f]{2}(?::[0-9a-f]{2}){5}\Z")


class Forward(StrEnum):
    """How packets reach an endpoint."""

    NAT = "nat"
    DSR = "dsr"


@dataclass(frozen=True, slots=True, kw_only=True)
class Hop:
    """The next hop to an endpoint: the interface that its segment is on, and the MAC addresses of both ends.

    `source` is the MAC address of the interface, `mac` that of the endpoint.
    """

    address: IPv4Address | IPv6Address
    device: str
    source: str
    mac: str

    def __post_init__(self) -> None:
        for mac in (self.source, self.mac):
            check_mac(mac)


def check_mac(mac: str) -> str:
    """`mac` itself, or ValueError for what is no address of a single network card."""
    if not _MAC.match(mac) or int(mac[:2], 16) & 1 or mac == "00:00:00:00:00:00":
        raise ValueError(f"{mac!r} is not the MAC address of a network card, as in 52:54:00:12:34:56")
    return mac
