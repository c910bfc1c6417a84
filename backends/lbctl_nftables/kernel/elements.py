"""The elements of a set or map.

A large table has a hundred thousand of them, nearly all of one layout. So the first element of an answer is
walked attribute by attribute, which gives a pattern for its whole layout; the pattern then splits all that
follow in one pass. An answer that the pattern does not cover to the last byte is walked as a whole.
"""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from lbctl.lazy import imported_on_call
from lbctl.values import dataclass
from lbctl_nftables.kernel import netlink
from lbctl_nftables.kernel.values import KernelElement

# Few hosts need it: those where no program speaks netlink.
with imported_on_call(globals()):
    from lbctl_nftables.kernel.described import described_table

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from lbctl.host import Host
    from lbctl_nftables.kernel.values import KernelTable, Set

#: NFTA_SET_ELEM_LIST_…
_TABLE, _SET, _ELEMENTS, _MEMBER = 1, 2, 3, 1
#: NFTA_SET_ELEM_…
_KEY, _DATA, _FLAGS, _TIMEOUT, _EXPIRATION, _USERDATA, _EXPRESSION = 1, 2, 3, 4, 5, 6, 7
_KEY_END, _EXPRESSIONS = 10, 11
#: NFTA_DATA_…, NFTA_VERDICT_…
_VALUE, _VERDICT, _CODE, _CHAIN = 1, 2, 1, 2
#: NFTA_EXPR_…, NFTA_COUNTER_…
_NAME, _BODY, _BYTES, _PACKETS = 1, 2, 1, 2
_COUNTER = b"counter\0"
#: NFTNL_UDATA_SET_ELEM_COMMENT of nft's own data about an element: type and length, a byte each.
_COMMENT = 0
#: Fewer elements than this are walked sooner than a pattern is made.
_FEW = 8
#: Patterns that are kept.
_KEPT = 16


def requests(table: KernelTable, sets: Iterable[Set]) -> list[bytes]:
    """Return the requests of `elements` for some sets."""
    return [
        netlink.request(netlink.GET_ELEMENTS, table.family, _filters(table, each))
        for each in sets
        if not _is_empty(each)
    ]


def elements(host: Host, table: KernelTable, declared: Set) -> list[KernelElement]:
    """Return the elements of a set or map, in no order; a set that is no longer there has none."""
    if not host.speaks_netlink():
        return list(described_table(host, table).elements.get(declared.name, ()))
    if _is_empty(declared):
        return []
    filters = _filters(table, declared)
    found: list[KernelElement] = []
    for message in netlink.dump(host, netlink.GET_ELEMENTS, netlink.NEW_ELEMENTS, table.family, filters):
        found += _split(netlink.attributes(message.body).get(_ELEMENTS, b""))
    return found


def _filters(table: KernelTable, declared: Set) -> bytes:
    return netlink.name(_TABLE, table.name) + netlink.name(_SET, declared.name)


def _is_empty(declared: Set) -> bool:
    """Return True for a set that need not be asked for.

    The kernel finds a set by walking through all of them: with thousands, that takes longest.
    """
    return declared.count == 0 and not declared.is_interval


def elements_at(host: Host, table: KernelTable, name: str, keys: Iterable[bytes]) -> list[KernelElement]:
    """Return the elements of a set or map, none with intervals, that have one of these keys."""
    if not host.speaks_netlink():
        wanted = frozenset(keys)
        return [each for each in described_table(host, table).elements.get(name, ()) if each.key in wanted]
    head = netlink.name(_TABLE, table.name) + netlink.name(_SET, name)
    filters = [
        head
        + netlink.nest(_ELEMENTS, netlink.nest(_MEMBER, netlink.nest(_KEY, netlink.attribute(_VALUE, key))))
        for key in keys
    ]
    answers = netlink.get_each(host, netlink.GET_ELEMENTS, netlink.NEW_ELEMENTS, table.family, filters)
    regions = [netlink.attributes(answer.body).get(_ELEMENTS, b"") for answer in answers]
    return list(_split(b"".join([region + bytes(-len(region) % 4) for region in regions])))


def _split(region: bytes) -> Iterable[KernelElement]:
    """Return the elements of one part of an answer."""
    if not region:
        return ()
    size = int.from_bytes(region[:2], sys.byteorder)
    if len(region) < _FEW * size:
        return _walk(region)
    layout = _LAYOUTS.of(region[: (size + 3) & ~3])
    rows = layout.pattern.findall(region) if layout else []
    if layout and layout.covers(rows, len(region)):
        return map(KernelElement._make, rows)
    return _walk(region)


def _walk(region: bytes) -> Iterator[KernelElement]:
    """Yield the elements one by one, attribute by attribute."""
    for _, body in netlink.each(region):
        found: dict[str, bytes] = {}
        more: list[str] = []
        for field, value in _leaves(body, _TREE):
            if field in KernelElement._fields:
                found[field] = value
            else:
                more.append(field)
        found["more"] = " ".join(more).encode()
        yield KernelElement._make(found.get(field, b"") for field in KernelElement._fields)


def _leaves(body: bytes, tree: Mapping[int, _Node]) -> Iterator[tuple[str, bytes]]:
    """Yield the fields of an element with their values; what is no field of it has its number."""
    for kind, value in netlink.each(body):
        match tree.get(kind, f"attribute-{kind}"):
            case "comment":
                yield "comment", _comment(value)
            case str(field):
                yield field, value
            case bytes(literal) if literal != value:
                yield netlink.text(value), value
            case bytes():
                pass
            case members:
                yield from _leaves(value, members)


def _comment(userdata: bytes) -> bytes:
    """Return the comment among nft's own data; empty if there is none.

    The rest concerns nft's listings only.
    """
    place = 0
    while place + 2 <= len(userdata):
        kind, size = userdata[place], userdata[place + 1]
        if kind == _COMMENT:
            return userdata[place + 2 : place + 2 + size]
        place += 2 + size
    return b""


@dataclass(frozen=True, slots=True)
class _Layout:
    """The pattern of elements of one layout, with a group for each field of `KernelElement`."""

    pattern: re.Pattern[bytes]
    #: The size of an element without its strings.
    fixed: int
    #: The fields that are strings: their lengths vary.
    strings: tuple[int, ...]

    def covers(self, rows: list[tuple[bytes, ...]], size: int) -> bool:
        """Return True if these rows are all there is: each begins where the one before it ends."""
        varying = sum(len(row[place]) for place in self.strings for row in rows)
        return len(rows) * self.fixed + varying == size


class _Layouts:
    """The layouts met last. All large sets together have a handful."""

    def __init__(self) -> None:
        self._known: tuple[_Layout, ...] = ()

    def of(self, member: bytes) -> _Layout | None:
        """Return the layout of an element; None for one that has no pattern."""
        for layout in self._known:
            found = layout.pattern.match(member)
            if found is not None and found.end() == len(member):
                return layout
        made = _layout(member)
        if made is not None:
            self._known = (made, *self._known[: _KEPT - 1])
        return made


class _Piece(NamedTuple):
    """A part of a pattern, and which field its group holds."""

    pattern: bytes
    field: int | None = None


def _layout(member: bytes) -> _Layout | None:
    """Return the layout of an element; None if it has other fields than `KernelElement`, or another order."""
    pieces = list(_pieces(member, {_MEMBER: _TREE}))
    order = [piece.field for piece in pieces if piece.field is not None]
    if any(piece is _UNKNOWN for piece in pieces) or order != sorted(set(order)):
        return None
    source, done = [], 0
    for pattern, field in pieces:
        if field is not None:
            source.append(b"()" * (field - done))
            done = field + 1
        source.append(pattern)
    source.append(b"()" * (len(KernelElement._fields) - done))
    strings = tuple(field for field in order if field in _STRINGS)
    whole = re.compile(b"".join(source), re.DOTALL)
    found = whole.match(member)
    if found is None or found.end() != len(member):
        return None
    fixed = len(member) - sum(len(found[field + 1]) for field in strings)
    return _Layout(whole, fixed, strings)


def _pieces(body: bytes, tree: Mapping[int, _Node]) -> Iterator[_Piece]:
    """Yield the pattern of attributes that a tree of fields describes, piece by piece."""
    for head, kind, value in netlink.headed(body):
        padding = b"\0" * (-len(value) % 4)
        exact = _Piece(re.escape(head))
        # A string's length is in the headers of all that hold it.
        varying = _Piece(b".." + re.escape(head[2:]))
        match tree.get(kind):
            case None:
                yield _UNKNOWN
            case bytes(literal):
                yield _Piece(re.escape(head + literal + padding)) if value == literal else _UNKNOWN
            case "chain":
                yield from (varying, _Piece(rb"([^\0]+\0+)", _PLACES["chain"]))
            case "comment":
                yield varying
                yield _Piece(rb"\0.") if value[:1] == bytes([_COMMENT]) else _UNKNOWN
                yield _Piece(rb"([ -~]*\0+)", _PLACES["comment"])
            case str(field):
                yield exact
                yield _Piece(b"(.{%d})%s" % (len(value), re.escape(padding)), _PLACES[field])
            case members:
                inner = list(_pieces(value, members))
                varies = any(piece.field in _STRINGS for piece in inner)
                yield varying if varies else exact
                yield from inner


_LAYOUTS = _Layouts()
_UNKNOWN = _Piece(b"")
_PLACES = {field: place for place, field in enumerate(KernelElement._fields)}
_STRINGS = {_PLACES["chain"], _PLACES["comment"]}
_Node: TypeAlias = "str | bytes | Mapping[int, _Node]"
_COUNTED: _Node = {_NAME: _COUNTER, _BODY: {_BYTES: "octets", _PACKETS: "packets"}}
_TREE: Mapping[int, _Node] = {
    _KEY: {_VALUE: "key"},
    _KEY_END: {_VALUE: "key_end"},
    _DATA: {_VALUE: "value", _VERDICT: {_CODE: "code", _CHAIN: "chain"}},
    _EXPRESSION: _COUNTED,
    _EXPRESSIONS: {_MEMBER: _COUNTED},
    _FLAGS: "flags",
    _TIMEOUT: "timeout",
    _EXPIRATION: "expiration",
    _USERDATA: "comment",
}
