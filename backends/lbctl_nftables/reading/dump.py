"""A live kernel → a text for `read`. Table by table: one that nft cannot list must not hide the others."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from lbctl_nftables import drivers
from lbctl_nftables.drivers import nft
from lbctl_nftables.kernel import netlink

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lbctl.host import Host

#: nft's own words for a table that iptables-nft made.
_FOREIGN = " is managed by iptables-nft, do not touch!"
_FAMILIES = {"ip", "ip6", "inet"}


class Listed(NamedTuple):
    """A table and its text; where nft cannot list it, the command that would."""

    family: str
    name: str
    text: str


def dump(host: Host, driver: str) -> str:
    """See `lbctl.spi.Reader`."""
    return "".join(table.text for table in listed(host, driver))


def listed(
    host: Host, driver: str, *, but: Callable[[str, str], bool] = lambda *_: False, handles: bool = False
) -> Iterator[Listed]:
    """The tables of a live kernel `but` those of some family and name; with the handles of their rules.

    The command reads wherever there is one: to list a table of others has crashed nft 1.0.6, and the library
    would take this process with it. A table that cannot be listed stays as the command that would list it,
    which a reader reports. Tables of iptables-nft are another store, with its own reader.
    """
    by = nft if host.which("nft") else drivers.ALL[driver]
    # The library has an option for it, which nobody has needed yet.
    option = ("--handle",) if handles and by is nft else ()
    for family, name in netlink.tables(host):
        if family in _FAMILIES and not but(family, name):
            found = by.read(host, *option, "list", "table", family, name, json=False)
            if _FOREIGN in found.err or _FOREIGN in found.out:
                continue
            text = found.out if not found.code else f"list table {family} {name}\n"
            yield Listed(family, name, text)
