"""A live kernel → a text for `read`. Table by table: one that nft cannot list must not hide the others."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbctl.errors import ApplyFailed
from lbctl_nftables import drivers
from lbctl_nftables.drivers import nft

if TYPE_CHECKING:
    from lbctl.host import Host

#: nft's own words for a table that iptables-nft made.
_FOREIGN = " is managed by iptables-nft, do not touch!"
_FAMILIES = {"ip", "ip6", "inet"}


def dump(host: Host, driver: str) -> str:
    """See `lbctl.spi.Reader`.

    The command reads wherever there is one: to list a table of others has crashed nft 1.0.6, and the library
    would take this process with it. A table that cannot be listed stays in the text as the command that
    would list it, which the reader reports. Tables of iptables-nft are another store, with its own reader.
    """
    by = nft if host.which("nft") else drivers.ALL[driver]
    tables = by.read(host, "list", "tables", json=False)
    if tables.code:
        raise ApplyFailed(f"nft refused: {drivers.explain('list tables', tables.err)}")
    texts = []
    for line in tables.out.splitlines():
        match line.split():
            case ["table", family, name] if family in _FAMILIES:
                listed = by.read(host, "list", "table", family, name, json=False)
                if _FOREIGN in listed.err or _FOREIGN in listed.out:
                    continue
                texts.append(listed.out if not listed.code else f"list table {family} {name}\n")
    return "".join(texts)
