"""A live kernel → a text for `read`, table by table: one that cannot be read must not hide the others."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from lbctl.errors import ApplyFailed
from lbctl_nftables import drivers, layout, listing
from lbctl_nftables.kernel import objects
from lbctl_nftables.kernel.values import KernelTable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lbctl.host import Host

#: nft's own words for a table that iptables-nft made.
_OF_IPTABLES = " is managed by iptables-nft, do not touch!"
_FAMILIES = {"ip", "ip6", "inet", "netdev"}


class Listed(NamedTuple):
    """A table and its text; if it cannot be read, the command that would list it, with the reason."""

    family: str
    name: str
    text: str


def dump(host: Host, driver: str) -> str:
    """See `lbctl.spi.Reader`."""
    return "".join(table.text for table in listed(host, driver))


def listed(
    host: Host, driver: str, *, but: Callable[[str, str], bool] = lambda *_: False, handles: bool = False
) -> Iterator[Listed]:
    """Yield the tables of a live kernel `but` those of some family and name, with the handles of their rules.

    Tables managed by lbctl are read by netlink, whichever nft wrote them; foreign ones are listed by nft. A
    table that cannot be listed stays as the command that would list it, which a reader reports. Tables of
    iptables-nft are another store, with its own reader.
    """
    for family, name in objects.tables(host):
        if family not in _FAMILIES or but(family, name):
            continue
        if layout.owner_of(family, name) is not None:
            text: str | None = listing.text_of(host, KernelTable(family, name), handles=handles)
        else:
            text = _foreign(host, driver, KernelTable(family, name), handles=handles)
        if text is not None:
            yield Listed(family, name, text)


def _foreign(host: Host, driver: str, table: KernelTable, *, handles: bool) -> str | None:
    """Return the text of a foreign table; None for one of iptables-nft."""
    instead = f"list table {table.family} {table.name}"
    try:
        done = drivers.list_table(host, driver, *table, handles=handles)
    except ApplyFailed as error:
        return f"{instead} # {error.message}\n"
    if _OF_IPTABLES in done.err + done.out:
        return None
    return f"{instead}\n" if done.code else done.out
