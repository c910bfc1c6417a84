"""Where a service is reached, and where it leads."""

from __future__ import annotations

import re
from dataclasses import field
from ipaddress import ip_address

from lbctl.model.addresses import MAX_PORT, Address, Family, check_address, check_port, join, split
from lbctl.model.forward import check_mac
from lbctl.model.kinds import Protocol, State
from lbctl.values import dataclass

MAX_WEIGHT = 4096
#: A service's, endpoint's or owner's name. It becomes a part of rules, so nothing that a rule language could
#: read otherwise is ever let in. `\Z`, since `$` would allow a newline.
NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """Where a service is reached: at one port, or at each port of a range.

    `address` is None for "any address of this host". Of the listeners that match a connection one decides:
    one with a single port before one with a range, and among these one with an address before one without.
    """

    protocol: Protocol
    #: The port, or the first of a range.
    port: int
    address: Address | None = None
    #: The last port of a range, `port` itself for a single port.
    last_port: int = 0

    def __post_init__(self) -> None:
        check_port(self.port)
        check_address(self.address)
        if not self.last_port:
            object.__setattr__(self, "last_port", self.port)
        elif not self.port <= self.last_port <= MAX_PORT:
            raise ValueError(f"ports {self.port}-{self.last_port} are no range")

    def __str__(self) -> str:
        return f"{join(self.address, self.ports)}/{self.protocol}"

    @property
    def is_range(self) -> bool:
        """True for a range of ports."""
        return self.last_port != self.port

    @property
    def ports(self) -> str:
        """`80` or `20000-50000`."""
        return f"{self.port}-{self.last_port}" if self.is_range else str(self.port)

    def matches(self, port: int, address: Address) -> bool:
        """Return True for a destination of connections that this listener is for, if they have its protocol.

        Whether `address` is one of this host is not looked at.
        """
        return self.port <= port <= self.last_port and self.address in (None, address)

    def meets(self, other: Listener) -> bool:
        """Return True if a connection can match both."""
        return (
            self.protocol is other.protocol
            and self.port <= other.last_port
            and other.port <= self.last_port
            and (self.address is None or other.address is None or self.address == other.address)
        )

    def overlaps(self, other: Listener) -> bool:
        """Return True if a connection can match both, and a rule is missing which of them decides."""
        return self.is_range is other.is_range and self.meets(other)


@dataclass(frozen=True, slots=True, kw_only=True, init=False)
class Endpoint:
    """Who serves connections. `address` is None for a process on this host, listening on `port`.

    `port` is None for an address that connections reach with the destination port that their clients chose.
    """

    port: int | None
    address: Address | None
    name: str
    weight: int
    state: State
    #: The MAC address that packets are sent to, where the file fixes it; "" for that of the neighbour table.
    mac: str = ""
    #: The endpoint as rules and reports show it: `8001`, `10.0.0.1:80`, `[2001:db8::1]:80`, `10.0.0.1`.
    to: str = field(init=False, repr=False, compare=False)

    # Written out, since an intent may have a hundred thousand: checked first, then each field is set once.
    def __init__(
        self,
        *,
        port: int | None = None,
        address: Address | None = None,
        name: str = "",
        weight: int = 1,
        state: State = State.ACTIVE,
        mac: str = "",
    ) -> None:
        if port is not None:
            check_port(port)
        elif address is None:
            raise ValueError("an endpoint has a port, an address, or both")
        check_address(address)
        if not 1 <= weight <= MAX_WEIGHT:
            raise ValueError(f"weight {weight} is not between 1 and {MAX_WEIGHT}")
        to = join(address, port)
        if name and name != to and not NAME.match(name):
            raise ValueError(f"endpoint name {name!r} is not a name")
        if mac:
            check_mac(mac)
        put = object.__setattr__
        put(self, "port", port)
        put(self, "address", address)
        put(self, "name", name or to)
        put(self, "weight", weight)
        put(self, "state", state)
        put(self, "mac", mac)
        put(self, "to", to)

    def serves(self, family: Family) -> bool:
        """Return True if connections of `family` can be sent here."""
        return self.address is None or Family.of(self.address) is family


def parse_endpoint(text: str) -> Endpoint:
    """Return the endpoint whose `to` is a text, e.g. "8001" or "10.0.0.1:80"; raises `ValueError`."""
    address, port = split(text)
    endpoint = Endpoint(port=int(port) if port else None, address=ip_address(address) if address else None)
    if endpoint.to != text:
        raise ValueError(f"{text!r}: write {endpoint.to!r}")
    return endpoint
