"""What nf_tables says by netlink and nft has no word for, or no true one (linux/netfilter/nf_tables.h).

A question is one short message, and so is its answer: where reading 10,000 services takes seconds, this takes
microseconds.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lbctl.host import Host

_NETLINK_NETFILTER = 12
_SUBSYSTEM = 10 << 8  # NFNL_SUBSYS_NFTABLES
_NEW_TABLE, _GET_TABLE, _NEW_GENERATION, _GET_GENERATION = 0, 1, 15, 16
_TABLE_NAME, _TABLE_FLAGS, _GENERATION_ID = 1, 2, 1
_FAMILIES = {"ip": 2, "ip6": 10}
_REQUEST = 1
#: struct nlmsghdr (length, type, flags, sequence, port) and struct nfgenmsg (family, version, resource).
_HEADER = struct.Struct("=IHHIIBBH")
_ATTRIBUTE = struct.Struct("=HH")


def generation(host: Host) -> int | None:
    """The number of the rules' generation; None where the kernel does not tell."""
    return _number(_ask(host, _GET_GENERATION, _NEW_GENERATION), _GENERATION_ID)


def table_flags(host: Host, family: str, name: str) -> int:
    """The flags of a table (NFT_TABLE_F_…); 0 where the kernel does not tell, or has no such table."""
    named = name.encode() + b"\0"
    size = _ATTRIBUTE.size + len(named)
    attribute = _ATTRIBUTE.pack(size, _TABLE_NAME) + named + bytes(-size % 4)
    return _number(_ask(host, _GET_TABLE, _NEW_TABLE, _FAMILIES[family], attribute), _TABLE_FLAGS) or 0


def _ask(
    host: Host, question: int, answer: int, family: int = 0, attributes: bytes = b""
) -> Mapping[int, bytes]:
    """The attributes of the answer to a question; none where there is another one, or none at all."""
    size = _HEADER.size + len(attributes)
    header = _HEADER.pack(size, _SUBSYSTEM | question, _REQUEST, 1, 0, family, 0, 0)
    said = host.netlink(_NETLINK_NETFILTER, header + attributes)
    if said is None or len(said) < _HEADER.size:
        return {}
    length, kind, *_ = _HEADER.unpack_from(said)
    found: dict[int, bytes] = {}
    place, end = _HEADER.size, min(length, len(said))
    while kind == _SUBSYSTEM | answer and place + _ATTRIBUTE.size <= end:
        size, attribute = _ATTRIBUTE.unpack_from(said, place)
        found[attribute] = said[place + _ATTRIBUTE.size : min(place + size, end)]
        place += max((size + 3) & ~3, _ATTRIBUTE.size)
    return found


def _number(attributes: Mapping[int, bytes], attribute: int) -> int | None:
    value = attributes.get(attribute, b"")
    return int.from_bytes(value, "big") if len(value) == 4 else None
