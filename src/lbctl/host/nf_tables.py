"""What nf_tables reports of itself to every user of it (linux/netfilter/nfnetlink.h, nf_tables.h)."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lbctl.host.host import Host
    from lbctl.host.reports import Reports

_NETLINK_NETFILTER = 12
#: NFNLGRP_NFTABLES, and where a message has its type.
_GROUP, _TYPE = 7, 4
#: NFNL_SUBSYS_NFTABLES with NFT_MSG_NEWGEN and NFT_MSG_GETGEN; NLM_F_REQUEST; NFTA_GEN_ID, and its size.
_NEW, _GET, _REQUEST = 10 << 8 | 15, 10 << 8 | 16, 1
_ID, _ID_SIZE = 1, 4
#: NFT_MSG_NEWTABLE and NFT_MSG_GETTABLE, NLM_F_DUMP, and NFTA_TABLE_NAME.
_NEW_TABLE, _GET_TABLE, _DUMP, _NAME = 10 << 8, 10 << 8 | 1, 0x300, 1
#: NFPROTO_IPV4 and NFPROTO_IPV6.
_FAMILIES = {2: "ip", 10: "ip6"}
#: struct nlmsghdr (length, type, flags, sequence, port) and struct nfgenmsg (family, version, resource).
_HEADER = struct.Struct("=IHHIIBBH")
_ATTRIBUTE = struct.Struct("=HH")


#: The request for the number of the rules' generation.
GET_GENERATION = _HEADER.pack(_HEADER.size, _GET, _REQUEST, 1, 0, 0, 0, 0)

_GET_TABLES = _HEADER.pack(_HEADER.size, _GET_TABLE, _REQUEST | _DUMP, 1, 0, 0, 0, 0)


def rules_generation(host: Host) -> int | None:
    """Return the number of the rules' generation, which every transaction increments.

    It counts those of all processes, of nft as of iptables-nft, in this network namespace. None if the kernel
    does not report it.
    """
    answer = host.netlink(_NETLINK_NETFILTER, GET_GENERATION) or b""
    if len(answer) < _HEADER.size or _HEADER.unpack_from(answer)[1] != _NEW:
        return None
    number = _attributes(answer, _HEADER.size, _HEADER.unpack_from(answer)[0]).get(_ID, b"")
    return int.from_bytes(number, "big") if len(number) == _ID_SIZE else None


def expect_tables(host: Host, times: int) -> None:
    """Have the host know that `rules_tables` is asked so often next; see `Host.expect`."""
    host.expect(netlink=(_NETLINK_NETFILTER, [_GET_TABLES] * times))


def rules_tables(host: Host) -> frozenset[tuple[str, str]] | None:
    """Return the tables of IPv4 and IPv6 as family (`ip`, `ip6`) and name; None if it cannot be asked."""
    answer = host.netlink(_NETLINK_NETFILTER, _GET_TABLES)
    if answer is None:
        return None
    found: set[tuple[str, str]] = set()
    place = 0
    while place + _HEADER.size <= len(answer):
        size, kind, _, _, _, family, _, _ = _HEADER.unpack_from(answer, place)
        if kind == _NEW_TABLE and family in _FAMILIES:
            name = _attributes(answer, place + _HEADER.size, place + size).get(_NAME, b"")
            found.add((_FAMILIES[family], name.rstrip(b"\0").decode(errors="surrogateescape")))
        place += max((size + 3) & ~3, _HEADER.size)
    return frozenset(found)


def rule_reports(host: Host) -> Reports | None:
    """Return the kernel's reports of transactions, one each, of whatever process; see `rules_generation`.

    While they are subscribed to, a transaction costs the kernel more: a fifth, where it adds 50,000 elements
    (Linux 6.18).
    """
    return host.subscribe(_NETLINK_NETFILTER, (_GROUP,), {_TYPE: [struct.pack("=H", _NEW)]})


def _attributes(message: bytes, place: int, end: int) -> dict[int, bytes]:
    """Return the attributes of a message from `place` up to `end`, as values by their types."""
    found: dict[int, bytes] = {}
    while place + _ATTRIBUTE.size <= min(end, len(message)):
        size, kind = _ATTRIBUTE.unpack_from(message, place)
        found[kind] = message[place + _ATTRIBUTE.size : place + size]
        place += max((size + 3) & ~3, _ATTRIBUTE.size)
    return found
