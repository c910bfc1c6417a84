"""Whether the kernel holds exactly a program, to the last byte of each slot.

`observe` spells out what the kernel holds, to compare and to show it. Of 10,000 services that takes a third
of the time of a first apply, and most of it goes to their 100,000 slots. To say yes or no, it is enough to
write down the bytes that each slot must have and to look for them among those that the kernel has.
"""

from __future__ import annotations

import socket
import sys
from typing import TYPE_CHECKING, TypeAlias

from lbctl_nftables import layout
from lbctl_nftables.kernel import elements
from lbctl_nftables.observe import TableReader, tables

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lbctl.host import Host
    from lbctl.model import Item, Key, Program
    from lbctl_nftables.kernel.objects import Set, Table

#: The key, the data and the comment of an element, as the kernel has them.
_Slot: TypeAlias = tuple[bytes, bytes, bytes]


def holds(host: Host, program: Program) -> bool:
    """True if the kernel holds this program, and nothing else in the tables of its owner."""
    slots: dict[tuple[str, str], list[Item]] = {}
    rest: dict[Key, str] = {}
    for item in program.items:
        word, kind, *names = item.key
        if kind == "element" and layout.is_page(names[0]):
            slots.setdefault((word, names[0]), []).append(item)
        else:
            rest[item.key] = item.text
    for table in tables(host, program.owner):
        reader = TableReader(host, table)
        for item in reader.items(slots=False):
            if rest.pop(item.key, None) != item.text:
                return False
            if item.key[1] == "map" and layout.is_page(item.key[2]):
                wanted = slots.pop((table.family, item.key[2]), [])
                page = reader.declaration(item.key[2])
                if page is None or _slots(host, table, page) != _meant(wanted):
                    return False
    return not rest and not slots


def _slots(host: Host, table: Table, page: Set) -> set[_Slot] | None:
    """The slots of a page; None if one has something that no slot has."""
    found = elements.elements(host, table, page)
    if any(each.key_end or each.code or each.timeout or each.more for each in found):
        return None
    return {(each[0], each[2], each[10].rstrip(b"\0")) for each in found}


def _meant(items: Iterable[Item]) -> set[_Slot]:
    """The slots that items of a page are in the kernel: keys in host order, all else in network order."""
    known: dict[str, bytes] = {}
    meant: set[_Slot] = set()
    for item in items:
        comment, _, data = item.text.removeprefix('comment "').partition('" : ')
        value = known.get(data)
        if value is None:
            value = known[data] = _value(data)
        meant.add((int(item.key[3]).to_bytes(4, sys.byteorder), value, comment.encode()))
    return meant


def _value(data: str) -> bytes:
    """A port, or an address and a port in four bytes more."""
    address, _, port = data.rpartition(" . ")
    number = int(port).to_bytes(2, "big")
    if not address:
        return number
    return (
        socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address) + number + bytes(2)
    )
