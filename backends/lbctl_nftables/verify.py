"""Whether the kernel holds exactly a program, to the last slot.

`observe` spells out what the kernel holds, to compare and to show it. Of 10,000 services that takes a third
of the time of a first apply, and most of it goes to their 100,000 slots. To say yes or no, all slots of a
page are spelled out at once.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, TypeAlias

from lbctl_nftables import layout
from lbctl_nftables.kernel import datatypes, elements
from lbctl_nftables.observe import readers

if TYPE_CHECKING:
    from lbctl.host import Host
    from lbctl.model import Key, Program
    from lbctl_nftables.kernel.values import KernelTable, Set

#: Key → text.
_Slots: TypeAlias = dict[str, str]


def holds(host: Host, program: Program) -> bool:
    """Return True if the kernel holds this program, and nothing else in the tables of its owner."""
    pages = {item.key[2] for item in program.of_kind("map") if layout.is_page(item.key[2])}
    slots: dict[str, dict[str, _Slots]] = {word: {page: {} for page in pages} for word in layout.WORDS}
    rest: dict[Key, str] = {}
    for key, text, _ in program.items:
        if key[1] == "element" and key[2] in pages:
            slots[key[0]][key[2]][key[3]] = text
        else:
            rest[key] = text
    for reader in readers(host, program.owner):
        table = reader.table
        for item in reader.items(slots=False):
            if rest.pop(item.key, None) != item.text:
                return False
        for name, wanted in slots.pop(layout.word_of(*table)).items():
            page = reader.declaration(name)
            if page is not None and _slots(host, table, page) != wanted:
                return False
    # What is missing with its page, or with its table, is missing among the rest too.
    return not rest


def _slots(host: Host, table: KernelTable, page: Set) -> _Slots | None:
    """Return the slots of a page; None if one has something that no slot has."""
    found = elements.elements(host, table, page)
    if not found:
        return {}
    # By columns: what is done for each element in turn takes three times as long.
    key, key_end, value, code, _, _, _, _, timeout, _, comment, more = zip(*found, strict=True)
    sizes = {*map(len, value)}
    if any(key_end) or any(code) or any(timeout) or any(more) or {*map(len, key)} != {4} or len(sizes) != 1:
        return None
    keys = struct.unpack(f"={len(key)}I", b"".join(key))
    named = [each.rstrip(b"\0") for each in comment]
    match sizes.pop():
        case 2:
            ports = struct.unpack(f">{len(value)}H", b"".join(value))
            texts = [b'comment "%b" : %d' % each for each in zip(named, ports, strict=True)]
        case 4:
            addresses = struct.iter_unpack(">4B", b"".join(value))
            texts = [
                b'comment "%b" : %d.%d.%d.%d' % (name, *address)
                for name, address in zip(named, addresses, strict=True)
            ]
        case 8:
            places = struct.iter_unpack(">4BHxx", b"".join(value))
            texts = [
                b'comment "%b" : %d.%d.%d.%d . %d' % (name, *place)
                for name, place in zip(named, places, strict=True)
            ]
        case 12:
            texts = [
                b'comment "%b" : 0x%b' % (name, cards.hex().encode())
                for name, cards in zip(named, value, strict=True)
            ]
        case (16 | 20) as size:
            data = datatypes.speller(page.data_types, size)
            pairs = zip(named, value, strict=True)
            texts = [b'comment "%b" : %b' % (name, data(place).encode()) for name, place in pairs]
        case _:
            return None
    decoded = b"\n".join(texts).decode(errors="replace").split("\n")
    # A comment of another program may have lines.
    return dict(zip(map(str, keys), decoded, strict=True)) if len(decoded) == len(keys) else None
