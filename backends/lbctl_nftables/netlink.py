"""What nf_tables says by netlink, and nft not at all, not truly or not cheaply (linux/netfilter/nf_tables.h).

A question is one short message, and the answers are short too: where reading 10,000 services takes seconds,
this takes microseconds.
"""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING, NamedTuple

from lbctl.errors import ApplyFailed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from lbctl.host import Host

_NETLINK_NETFILTER = 12
_SUBSYSTEM = 10 << 8  # NFNL_SUBSYS_NFTABLES
_NEW_TABLE, _GET_TABLE, _NEW_GENERATION, _GET_GENERATION = 0, 1, 15, 16
_TABLE_NAME, _TABLE_FLAGS, _GENERATION_ID = 1, 2, 1
_FAMILIES = {1: "inet", 2: "ip", 3: "arp", 5: "netdev", 7: "bridge", 10: "ip6"}
_REQUEST, _DUMP = 0x1, 0x300
#: Of an answer: rules changed while it was given.
_INTERRUPTED = 0x10
_ERROR, _DONE = 2, 3
#: struct nlmsghdr (length, type, flags, sequence, port) and struct nfgenmsg (family, version, resource).
_HEADER = struct.Struct("=IHHIIBBH")
_ATTRIBUTE = struct.Struct("=HH")
#: What an error, or the end of a dump, has behind its struct nlmsghdr: errno, negative.
_ERRNO = struct.Struct("=16xi")


def generation(host: Host) -> int | None:
    """The number of the rules' generation; None where the kernel does not tell."""
    for answer in _messages(_ask(host, _GET_GENERATION) or b""):
        if answer.kind == _SUBSYSTEM | _NEW_GENERATION:
            return _number(answer.attributes, _GENERATION_ID)
    return None


def tables(host: Host) -> Mapping[tuple[str, str], int]:
    """The flags (NFT_TABLE_F_…) of every table by its family and name; raises `ApplyFailed`.

    To list tables, nft 1.0.6 reads all that is in them, others' too, which takes seconds, and has crashed it.
    Where one has flags, its JSON shows whatever its memory holds.
    """
    found: dict[tuple[str, str], int] = {}
    said = _ask(host, _GET_TABLE, _DUMP)
    if said is None:
        raise ApplyFailed("the kernel cannot be asked for its tables of nf_tables")
    for answer in _messages(said):
        if answer.flags & _INTERRUPTED:
            return tables(host)
        if answer.kind in {_ERROR, _DONE} and answer.errno:
            why = os.strerror(answer.errno)
            raise ApplyFailed(f"the kernel does not tell its tables of nf_tables: {why}")
        if answer.kind == _SUBSYSTEM | _NEW_TABLE:
            name = answer.attributes.get(_TABLE_NAME, b"").rstrip(b"\0").decode(errors="surrogateescape")
            family = _FAMILIES.get(answer.family, str(answer.family))
            found[family, name] = _number(answer.attributes, _TABLE_FLAGS) or 0
    return found


class _Message(NamedTuple):
    """A part of an answer."""

    kind: int
    flags: int
    family: int
    attributes: Mapping[int, bytes]
    #: Of an error, or the end of a dump.
    errno: int


def _ask(host: Host, question: int, flags: int = 0) -> bytes | None:
    """The answer to a question; None where it cannot be asked."""
    header = _HEADER.pack(_HEADER.size, _SUBSYSTEM | question, _REQUEST | flags, 1, 0, 0, 0, 0)
    return host.netlink(_NETLINK_NETFILTER, header)


def _messages(said: bytes) -> Iterator[_Message]:
    while len(said) >= _HEADER.size:
        length, kind, flags, _, _, family, *_ = _HEADER.unpack_from(said)
        attributes = dict(_attributes(said[_HEADER.size : length]))
        yield _Message(kind, flags, family, attributes, -_ERRNO.unpack_from(said)[0])
        said = said[max((length + 3) & ~3, _HEADER.size) :]


def _attributes(body: bytes) -> Iterator[tuple[int, bytes]]:
    while len(body) >= _ATTRIBUTE.size:
        size, attribute = _ATTRIBUTE.unpack_from(body)
        yield attribute, body[_ATTRIBUTE.size : size]
        body = body[max((size + 3) & ~3, _ATTRIBUTE.size) :]


def _number(attributes: Mapping[int, bytes], attribute: int) -> int | None:
    value = attributes.get(attribute, b"")
    return int.from_bytes(value, "big") if len(value) == 4 else None
