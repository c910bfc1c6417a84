"""The links of a host and who is known on them: read from the kernel by rtnetlink, or from what `ip` prints.

The latter on a host whose kernel nothing can ask for us. Busybox prints the same as iproute2.
"""

from __future__ import annotations

import re
import struct
from ipaddress import ip_address
from typing import TYPE_CHECKING

from lbctl.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from lbctl.host.host import Host
    from lbctl.model import Address

_NETLINK_ROUTE = 0
#: RTM_… of linux/rtnetlink.h.
_NEW_LINK, _GET_LINK, _NEW_NEIGHBOUR, _GET_NEIGHBOUR = 16, 18, 28, 30
#: NLM_F_REQUEST and NLM_F_DUMP.
_DUMP = 0x301
_HEADER = struct.Struct("=IHHII")
#: struct ifinfomsg: family, type, index, flags; struct ndmsg: family, index, state, flags, type.
_LINK = struct.Struct("=BxHiII")
_NEIGHBOUR = struct.Struct("=BxxxiHBB")
_ATTRIBUTE = struct.Struct("=HH")
#: IFLA_…, NDA_….
_LINK_ADDRESS, _LINK_NAME, _LINK_MTU = 1, 3, 4
_ADDRESS, _CARD = 1, 2
#: ARPHRD_ETHER.
_ETHERNET = 1
#: NUD_VALID of net/neighbour.h: REACHABLE, STALE, DELAY, PROBE, NOARP, PERMANENT.
_VALID = 0x02 | 0x04 | 0x08 | 0x10 | 0x40 | 0x80
_CARD_SIZE = 6
#: `ip -o link show`; an interface that has another end is NAME@OTHER.
_LINK_LINE = re.compile(
    r"(?m)^(?P<index>\d{1,9}): (?P<name>[^:@\s]+)[^:\s]*: .*?\bmtu (?P<mtu>\d{1,9})\b"
    r"(?:.*?\blink/ether (?P<mac>[0-9a-f]{2}(?::[0-9a-f]{2}){5})\b)?"
)
#: `ip neigh show`.
_NEIGHBOUR_LINE = re.compile(
    r"(?m)^(?P<address>[0-9a-f.:]+) dev (?P<device>\S+) "
    r".*?\blladdr (?P<mac>[0-9a-f]{2}(?::[0-9a-f]{2}){5})\b.* "
    r"(?:REACHABLE|STALE|DELAY|PROBE|NOARP|PERMANENT)\s*$"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A network interface. `mac` is "" for one that is no Ethernet; `mtu` is in bytes."""

    index: int
    name: str
    mac: str
    mtu: int


def links(host: Host) -> tuple[Link, ...]:
    """Return the links of this network namespace; () where neither the kernel nor `ip` can be asked."""
    if not host.speaks_netlink():
        return _printed_links(host)
    found = []
    for body in _dump(host, _GET_LINK, _NEW_LINK, _LINK.pack(0, 0, 0, 0, 0)):
        _, kind, index, _, _ = _LINK.unpack_from(body)
        fields = _attributes(body[_LINK.size :])
        card = fields.get(_LINK_ADDRESS, b"") if kind == _ETHERNET else b""
        found.append(
            Link(
                index=index,
                name=fields.get(_LINK_NAME, b"").rstrip(b"\0").decode(errors="backslashreplace"),
                mac=card.hex(":") if len(card) == _CARD_SIZE else "",
                mtu=struct.unpack("=I", fields.get(_LINK_MTU, bytes(4)))[0],
            )
        )
    return tuple(found)


def link_names(host: Host) -> Mapping[int, str]:
    """Return the names of links by their indexes."""
    return {link.index: link.name for link in links(host)}


def neighbours(host: Host) -> Mapping[tuple[int, Address], str]:
    """Return the MAC addresses that the kernel knows, by the index of the link and the neighbour's address.

    Those that it has given up, or still asks for, are left out.
    """
    if not host.speaks_netlink():
        return _printed_neighbours(host)
    found: dict[tuple[int, Address], str] = {}
    for body in _dump(host, _GET_NEIGHBOUR, _NEW_NEIGHBOUR, _NEIGHBOUR.pack(0, 0, 0, 0, 0)):
        _, index, state, _, _ = _NEIGHBOUR.unpack_from(body)
        fields = _attributes(body[_NEIGHBOUR.size :])
        address, card = fields.get(_ADDRESS, b""), fields.get(_CARD, b"")
        if state & _VALID and len(address) in {4, 16} and len(card) == _CARD_SIZE:
            found[index, ip_address(address)] = card.hex(":")
    return found


def _printed_links(host: Host) -> tuple[Link, ...]:
    ip = host.which("ip")
    text = host.listing([ip, "-o", "link", "show"]).out if ip is not None else ""
    return tuple(
        Link(index=int(found["index"]), name=found["name"], mac=found["mac"] or "", mtu=int(found["mtu"]))
        for found in _LINK_LINE.finditer(text)
    )


def _printed_neighbours(host: Host) -> Mapping[tuple[int, Address], str]:
    ip = host.which("ip")
    if ip is None:
        return {}
    indexes = {link.name: link.index for link in _printed_links(host)}
    found: dict[tuple[int, Address], str] = {}
    for line in _NEIGHBOUR_LINE.finditer(host.run([ip, "neigh", "show"]).out):
        address = _address(line["address"])
        if address is not None and line["device"] in indexes:
            found[indexes[line["device"]], address] = line["mac"]
    return found


def _address(text: str) -> Address | None:
    try:
        return ip_address(text)
    except ValueError:
        return None


def _dump(host: Host, question: int, kind: int, body: bytes) -> Iterator[bytes]:
    """Yield the bodies of the messages of type `kind` that answer a request for a dump."""
    request = _HEADER.pack(_HEADER.size + len(body), question, _DUMP, 1, 0) + body
    answer = host.netlink(_NETLINK_ROUTE, request) or b""
    place = 0
    while place + _HEADER.size <= len(answer):
        length, found, _, _, _ = _HEADER.unpack_from(answer, place)
        if found == kind:
            yield answer[place + _HEADER.size : place + length]
        place += max((length + 3) & ~3, _HEADER.size)


def _attributes(data: bytes) -> Mapping[int, bytes]:
    found: dict[int, bytes] = {}
    place = 0
    while place + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, place)
        found[kind & 0x3FFF] = data[place + _ATTRIBUTE.size : place + length]
        place += max((length + 3) & ~3, _ATTRIBUTE.size)
    return found
