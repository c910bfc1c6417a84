"""What a rule does to the two marks, the packet's and the connection's: one affine value."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

EVERY_BIT = 0xFFFFFFFF


class Marking(NamedTuple):
    """The mark that is written becomes `(packet & P) ^ (connection & C) ^ flip`."""

    #: True where the connection's mark is written.
    connection: bool
    packet: int
    kept: int
    #: None where what is written is not known.
    flip: int | None

    @classmethod
    def constant(cls, value: int, *, connection: bool = False) -> Marking:
        """Return all bits set to a number."""
        return cls(connection, 0, 0, value)

    @classmethod
    def bits(cls, mask: int, flip: int, *, connection: bool = False) -> Marking:
        """Its own bits of `mask` stay, and those of `flip` are turned over."""
        return cls(connection, 0 if connection else mask, mask if connection else 0, flip)

    @classmethod
    def unknown(cls, *, connection: bool = False) -> Marking:
        """Set to something that depends on more than the rules."""
        return cls(connection, 0, 0, None)

    @property
    def copies(self) -> bool:
        """True where one mark is copied to the other."""
        return bool(self.packet if self.connection else self.kept)

    @property
    def written(self) -> int:
        """The bits that it may change."""
        return (~(self.kept if self.connection else self.packet) & EVERY_BIT) | (self.flip or 0)

    def apply(self, packet: int | None, connection: int | None) -> tuple[int | None, int | None]:
        """Both marks behind the rule; None if that depends on an unknown one."""
        value: int | None = None
        known = (packet is not None or not self.packet) and (connection is not None or not self.kept)
        if known and self.flip is not None:
            value = ((packet or 0) & self.packet) ^ ((connection or 0) & self.kept) ^ self.flip
        return (packet, value) if self.connection else (value, connection)


#: More marks than this are not listed one by one.
_MOST = 4096


def possible(markings: Collection[Marking]) -> Mapping[bool, set[int]] | None:
    """Return what the marks may be, the packet's (False) and the connection's.

    None where these are too many.
    """
    found: dict[bool, set[int]] = {False: {0}, True: {0}}
    growing = True
    while growing:
        growing = False
        for marking in markings:
            if marking.flip is None:
                return None
            packets = found[False] if marking.packet else {0}
            connections = found[True] if marking.kept else {0}
            if len(packets) * len(connections) > _MOST:
                return None
            made = {
                (packet & marking.packet) ^ (connection & marking.kept) ^ marking.flip
                for packet in packets
                for connection in connections
            }
            if not made <= found[marking.connection]:
                found[marking.connection] |= made
                growing = True
            if len(found[marking.connection]) > _MOST:
                return None
    return found
