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
#: NFNL_SUBSYS_NFTABLES with NFT_MSG_NEWGEN and NFT_MSG_GETGEN; NLM_F_REQUEST; NFTA_GEN_ID and its size.
_NEW, _GET, _REQUEST = 10 << 8 | 15, 10 << 8 | 16, 1
_ID, _ID_SIZE = 1, 8
#: struct nlmsghdr (length, type, flags, sequence, port) and struct nfgenmsg (family, version, resource).
_HEADER = struct.Struct("=IHHIIBBH")
_ATTRIBUTE = struct.Struct("=HH")


#: The request for the number of the rules' generation.
GET_GENERATION = _HEADER.pack(_HEADER.size, _GET, _REQUEST, 1, 0, 0, 0, 0)


def rules_generation(host: Host) -> int | None:
    """Return the number of the rules' generation, which every transaction increments.

    It counts those of all processes, of nft as of iptables-nft, in this network namespace. None if the kernel
    does not report it.
    """
    answer = host.netlink(_NETLINK_NETFILTER, GET_GENERATION) or b""
    if len(answer) < _HEADER.size or _HEADER.unpack_from(answer)[1] != _NEW:
        return None
    place, end = _HEADER.size, min(len(answer), _HEADER.unpack_from(answer)[0])
    while place + _ID_SIZE <= end:
        size, kind = _ATTRIBUTE.unpack_from(answer, place)
        if kind == _ID and size == _ID_SIZE:
            return int.from_bytes(answer[place + 4 : place + 8], "big")
        place += max((size + 3) & ~3, 4)
    return None


def rule_reports(host: Host) -> Reports | None:
    """Return the kernel's reports of transactions, one each, of whatever process; see `rules_generation`.

    While they are subscribed to, a transaction costs the kernel more: a fifth, where it adds 50,000 elements
    (Linux 6.18).
    """
    return host.subscribe(_NETLINK_NETFILTER, (_GROUP,), {_TYPE: [struct.pack("=H", _NEW)]})
