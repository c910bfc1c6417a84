"""What a kernel says by netlink, for hosts in memory."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lbctl.host.fake import FakeHost

GENERATION, TABLE, RULE, ERROR, DONE = 10 << 8 | 15, 10 << 8, 10 << 8 | 6, 2, 3
FAMILIES = {"inet": 1, "ip": 2, "ip6": 10}
DUMP, MULTI = 0x300, 2


def attribute(kind: int, value: bytes) -> bytes:
    size = 4 + len(value)
    return struct.pack("=HH", size, kind) + value + bytes(-size % 4)


def message(kind: int, *attributes: bytes, family: int = 0, flags: int = 0) -> bytes:
    body = b"".join(attributes)
    return struct.pack("=IHHIIBBH", 20 + len(body), kind, flags, 1, 0, family, 0, 0) + body


def failure(errno: int) -> bytes:
    """An error, or with 0 none."""
    return struct.pack("=IHHIIi", 20, ERROR, 0, 1, 0, -errno)


def table(family: str, name: str, flags: int = 0) -> bytes:
    """A part of a dump."""
    about = (
        attribute(1, name.encode() + b"\0"),
        attribute(2, flags.to_bytes(4, "big")),
        attribute(3, bytes(4)),
    )
    return message(TABLE, *about, family=FAMILIES[family], flags=MULTI)


def done(errno: int = 0) -> bytes:
    return struct.pack("=IHHIIi", 20, DONE, MULTI, 1, 0, -errno)


def rule(family: str, table: str) -> bytes:
    """A part of a dump: a rule without expressions."""
    about = (
        attribute(1, table.encode() + b"\0"),
        attribute(2, b"chain\0"),
        attribute(3, (7).to_bytes(8, "big")),
    )
    return message(RULE, *about, family=FAMILIES[family], flags=MULTI)


def has_tables(host: FakeHost, *tables: tuple[str, str], rules: int = 0) -> None:
    """Have the kernel report these tables of nf_tables, by family and name, and no generation.

    Each has so many rules. Kernels before 4.10 send those of all tables, whichever is asked for.
    """

    def answer(_: int, request: bytes) -> bytes | None:
        _, kind, flags = struct.unpack_from("=IHH", request)
        if not flags & DUMP:
            return None
        if kind == RULE + 1:
            mine = [each for each in tables if FAMILIES[each[0]] == request[16]]
            return b"".join([*(rule(*each) for each in mine for _ in range(rules)), done()])
        return b"".join([*(table(*each) for each in tables), done()])

    host.asked = answer
