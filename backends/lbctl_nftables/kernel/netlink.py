"""Requests to nf_tables and the parts of its answers (linux/netlink.h, linux/netfilter/nf_tables.h)."""

from __future__ import annotations

import os
import struct
from errno import ENOENT
from typing import TYPE_CHECKING, NamedTuple

from lbctl.errors import ApplyFailed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from lbctl.host import Host

_NETLINK_NETFILTER = 12
_SUBSYSTEM = 10 << 8  # NFNL_SUBSYS_NFTABLES
#: Message types: NFT_MSG_NEW… and NFT_MSG_GET….
NEW_TABLE, GET_TABLE = 0, 1
NEW_CHAIN, GET_CHAIN = 3, 4
NEW_RULE, GET_RULE = 6, 7
NEW_SET, GET_SET = 9, 10
NEW_ELEMENTS, GET_ELEMENTS = 12, 13
NEW_OBJECT, GET_OBJECT = 18, 19
NEW_FLOWTABLE, GET_FLOWTABLE = 22, 23
_TABLE_NAME, _TABLE_FLAGS = 1, 2

#: NFPROTO_… by nft's words.
FAMILIES: Mapping[str, int] = {"inet": 1, "ip": 2, "arp": 3, "netdev": 5, "bridge": 7, "ip6": 10}
_FAMILY_NAMES = {number: name for name, number in FAMILIES.items()}
#: In an attribute's type: NLA_F_NESTED and NLA_F_NET_BYTEORDER, of which old kernels set neither.
TYPE_MASK = 0x3FFF
_NESTED = 0x8000
_REQUEST, _DUMP = 0x1, 0x300
#: NLM_F_DUMP_INTR of an answer: a transaction of any process was committed while it was given.
_INTERRUPTED = 0x10
_ERROR, _DONE = 2, 3
#: Objects asked for in one go: their answers have to fit into the receive buffer of a socket.
_AT_ONCE = 32
#: How often a dump is requested before the reader gives up.
_TRIES = 30
#: struct nlmsghdr (length, type, flags, sequence, port) and struct nfgenmsg (family, version, resource).
_HEADER = struct.Struct("=IHHIIBBH")
_MESSAGE = struct.Struct("=IHH8x")
_FAMILY_SIZE = 4
#: The smallest message: with a struct nfgenmsg, or with the errno of an error or of the end of a dump.
_SMALLEST = 20
_ERRNO = struct.Struct("=i")
_ATTRIBUTE = struct.Struct("=HH")


class Message(NamedTuple):
    """One part of an answer: its family and its attributes, not yet split."""

    family: str
    body: bytes


def tables(host: Host) -> Mapping[tuple[str, str], int]:
    """Return the flags (NFT_TABLE_F_…) of every table by its family and name; raises `ApplyFailed`."""
    found: dict[tuple[str, str], int] = {}
    for message in dump(host, GET_TABLE, NEW_TABLE):
        fields = attributes(message.body)
        found[message.family, text(fields.get(_TABLE_NAME, b""))] = number(fields.get(_TABLE_FLAGS, b""))
    return found


def dump(host: Host, question: int, kind: int, family: str = "", filters: bytes = b"") -> list[Message]:
    """Return all messages of type `kind` that answer a request for a dump, all from one generation.

    What the filters name and does not exist has no messages. Raises `ApplyFailed` if the kernel refuses or
    other processes keep changing its rules.
    """
    asked = request(question, family, filters)
    for _ in range(_TRIES):
        found = _complete(host, asked, kind)
        if found is not None:
            return found
    raise ApplyFailed(
        "the rules of nf_tables cannot be read: other processes keep changing them",
        hint="try again; nft monitor shows what changes",
    )


def request(question: int, family: str = "", filters: bytes = b"") -> bytes:
    """Return the request of `dump`."""
    return _request(question, family, _DUMP, filters)


def expect(host: Host, requests: Sequence[bytes]) -> None:
    """Have the host know which requests come next; see `Host.expect`."""
    host.expect(netlink=(_NETLINK_NETFILTER, requests))


def get(host: Host, question: int, kind: int, family: str, filters: bytes) -> Message | None:
    """Return one object; None if there is none. Raises `ApplyFailed` if the kernel refuses."""
    found = get_each(host, question, kind, family, [filters])
    return found[0] if found else None


def get_each(host: Host, question: int, kind: int, family: str, filters: Sequence[bytes]) -> list[Message]:
    """Return the objects that there are, asked for by a filter each; raises as `get`."""
    found: list[Message] = []
    for first in range(0, len(filters), _AT_ONCE):
        asked = [_request(question, family, 0, each) for each in filters[first : first + _AT_ONCE]]
        found += _complete(host, b"".join(asked), kind) or []
    return found


def attribute(kind: int, value: bytes) -> bytes:
    """Return an attribute of a request, padded to four bytes."""
    size = _ATTRIBUTE.size + len(value)
    return _ATTRIBUTE.pack(size, kind) + value + bytes(-size % 4)


def nest(kind: int, *members: bytes) -> bytes:
    """Return an attribute that holds others."""
    return attribute(kind | _NESTED, b"".join(members))


def name(kind: int, value: str) -> bytes:
    """Return an attribute that holds a name."""
    return attribute(kind, value.encode(errors="surrogateescape") + b"\0")


def attributes(body: bytes) -> dict[int, bytes]:
    """Return the values of attributes by their types, without flags; of several of one type the last one."""
    # As `each`, without a generator: most of what is read of a large table comes by here.
    found: dict[int, bytes] = {}
    unpack, place, end = _ATTRIBUTE.unpack_from, 0, len(body)
    while place + 4 <= end:
        size, kind = unpack(body, place)
        found[kind & TYPE_MASK] = body[place + 4 : place + size]
        place += (size + 3) & ~3 or 4
    return found


def each(body: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the type, without flags, and the value of each attribute in order."""
    unpack, place, end = _ATTRIBUTE.unpack_from, 0, len(body)
    while place + 4 <= end:
        size, kind = unpack(body, place)
        yield kind & TYPE_MASK, body[place + 4 : place + size]
        place += (size + 3) & ~3 or 4


def headed(body: bytes) -> Iterator[tuple[bytes, int, bytes]]:
    """Yield the header, the type, without flags, and the value of each attribute in order."""
    place = 0
    while place + 4 <= len(body):
        size, kind = _ATTRIBUTE.unpack_from(body, place)
        yield body[place : place + 4], kind & TYPE_MASK, body[place + 4 : place + size]
        place += max((size + 3) & ~3, 4)


def number(value: bytes) -> int:
    """Return an attribute's integer; nf_tables writes its own in network byte order."""
    return int.from_bytes(value, "big")


def text(value: bytes) -> str:
    """Return an attribute's string."""
    return value.rstrip(b"\0").decode(errors="surrogateescape")


def _request(question: int, family: str, flags: int, filters: bytes = b"") -> bytes:
    size = _HEADER.size + len(filters)
    kind = _SUBSYSTEM | question
    return _HEADER.pack(size, kind, _REQUEST | flags, 1, 0, FAMILIES.get(family, 0), 0, 0) + filters


def _complete(host: Host, request: bytes, kind: int) -> list[Message] | None:
    """Return the messages of an answer; None if the rules changed meanwhile."""
    answer = host.netlink(_NETLINK_NETFILTER, request)
    if answer is None:
        raise ApplyFailed("the kernel cannot be asked for its rules of nf_tables")
    found: list[Message] = []
    for part, flags, payload in _parts(answer):
        if flags & _INTERRUPTED:
            return None
        if part == _SUBSYSTEM | kind:
            family = payload[0]
            found.append(Message(_FAMILY_NAMES.get(family, str(family)), payload[_FAMILY_SIZE:]))
        elif part in {_ERROR, _DONE}:
            errno = -_ERRNO.unpack_from(payload)[0]
            if errno and errno != ENOENT:
                raise ApplyFailed(f"the kernel does not report its rules of nf_tables: {os.strerror(errno)}")
    return found


def _parts(answer: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Yield the type, the flags and the payload of each message of an answer."""
    place, end = 0, len(answer)
    while place + _SMALLEST <= end:
        size, kind, flags = _MESSAGE.unpack_from(answer, place)
        yield kind, flags, answer[place + _MESSAGE.size : place + size]
        place += max((size + 3) & ~3, _SMALLEST)
