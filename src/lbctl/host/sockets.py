"""Who listens on this host: the sockets of this network namespace, from the kernel's own lists.

The lists do not tell whether a socket on all IPv6 addresses takes IPv4 too: it does unless the process, or
the default of the namespace (bindv6only), says otherwise. A process that sets this
option itself is not recognised.
"""

from __future__ import annotations

import sys
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING

from lbctl.model import Family, Protocol, join
from lbctl.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from lbctl.host.host import Host
    from lbctl.model import Address

_NET = "/proc/thread-self/net"
#: Protocol → the number of the state of a socket that takes what comes (net/tcp_states.h): LISTEN; for
#: datagrams CLOSE, which is one that is connected to nobody.
_STATE: Mapping[Protocol, str] = {Protocol.TCP: "0A", Protocol.UDP: "07"}
_ENDPOINTS = f"{_NET}/sctp/eps"
#: Place of the state in a line of an SCTP endpoint, its number for LISTEN, the places of port and addresses.
_SCTP_STATE, _SCTP_LISTENS, _SCTP_PORT, _SCTP_ADDRESSES = 3, "10", 5, 8
_ANY = IPv6Address("::")


@dataclass(frozen=True, slots=True, kw_only=True)
class Listening:
    """A socket that takes new connections of one family; `address` may be the unspecified one."""

    protocol: Protocol
    family: Family
    address: Address
    port: int

    def __str__(self) -> str:
        return join(self.address, self.port)


def listening(host: Host, protocol: Protocol) -> tuple[Listening, ...] | None:
    """Return the sockets of a protocol that listen; None where the kernel has no list of them."""
    host.expect(reads=["/proc/sys/net/ipv6/bindv6only", *(f"{_NET}/{protocol}{end}" for end in ("", "6"))])
    both = (host.read("/proc/sys/net/ipv6/bindv6only") or "0").strip() == "0"
    found: list[Listening] = []
    bound = _sctp(host) if protocol is Protocol.SCTP else _plain(host, protocol)
    if bound is None:
        return None
    for address, port in bound:
        families = [Family.of(address)]
        if address == _ANY and both:
            families.append(Family.IPV4)
        elif isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
            address, families = address.ipv4_mapped, [Family.IPV4]
        found += [Listening(protocol=protocol, family=f, address=address, port=port) for f in families]
    return tuple(found)


def _plain(host: Host, protocol: Protocol) -> list[tuple[Address, int]] | None:
    texts = [host.read(f"{_NET}/{protocol}{suffix}") for suffix in ("", "6")]
    if texts[0] is None:
        return None
    lines = [line.split() for text in texts for line in (text or "").splitlines()[1:]]
    bound = (line[1].split(":") for line in lines if len(line) > 3 and line[3] == _STATE[protocol])
    return [(_address(address), int(port, 16)) for address, port in bound]


def _address(digits: str) -> Address:
    """Return an address as the kernel prints it: words of 32 bits in the byte order of this machine."""
    words = [bytes.fromhex(digits[i : i + 8]) for i in range(0, len(digits), 8)]
    packed = b"".join(word[::-1] if sys.byteorder == "little" else word for word in words)
    return IPv4Address(packed) if len(packed) == 4 else IPv6Address(packed)


def _sctp(host: Host) -> list[tuple[Address, int]] | None:
    text = host.read(_ENDPOINTS)
    return None if text is None else list(_sctp_endpoints(text))


def _sctp_endpoints(text: str) -> Iterator[tuple[Address, int]]:
    for words in map(str.split, text.splitlines()[1:]):
        if len(words) <= _SCTP_ADDRESSES or words[_SCTP_STATE] != _SCTP_LISTENS:
            continue
        for address in words[_SCTP_ADDRESSES:]:
            # The kernel marks the primary one.
            plain = address.lstrip("*")
            kind = IPv6Address if ":" in plain else IPv4Address
            yield kind(plain), int(words[_SCTP_PORT])
