"""The sets and maps of one table → what each of their elements asks, for one family."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeAlias, TypeVar

from lbctl.model import MAX_SLOTS
from lbctl_netfilter.conditions import (
    BITS,
    EVERY_BIT,
    Words,
    mark_of,
    merged,
    rest,
    single,
    spans_rest,
    values_meet,
    words,
)
from lbctl_netfilter.ir import Memory
from lbctl_nftables import layout
from lbctl_nftables.reading import symbols
from lbctl_nftables.reading.grammar import number
from lbctl_nftables.reading.syntax import (
    ANYTHING,
    Concat,
    Element,
    Field,
    Masked,
    NumberExpression,
    Ref,
    Relational,
    UnsupportedSyntax,
    Update,
    Vmap,
)
from lbctl_nftables.reading.values import condition, field_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from lbctl.model import Family
    from lbctl_netfilter.conditions import Condition, Span, Spans, Values
    from lbctl_netfilter.draft import Draft
    from lbctl_nftables.reading.document import NftTable
    from lbctl_nftables.reading.syntax import Key, Members, Source

T = TypeVar("T")
#: What an element of a look-up asks, and the element.
Entry: TypeAlias = "tuple[tuple[Condition, ...], Element]"
#: Picked numbers, from the first to the last, counted from 0, and the element that they lead to.
Numbered: TypeAlias = "tuple[int, int, Element]"
_EVERY_PORT = ((0, 0xFFFF),)
#: Pairs of elements that are held against each other.
_MOST_PAIRS = 1 << 16
_LINKS = {"iif", "oif"}


class Asked(NamedTuple):
    """The fields of a key, and what they ask by themselves: `tcp dport` asks for TCP."""

    fields: tuple[str, ...]
    implied: tuple[Condition, ...]


class Lookups:
    """The sets and maps of a table, and those that its rules have in place."""

    def __init__(self, table: NftTable, family: Family) -> None:
        self._members = table.members
        self._family = family
        self._learned, self.links = _learned(table)
        self._is_managed = layout.owner_of(table.family, table.name) is not None
        #: What elements ask, with these: what is known by its identity has to stay.
        self._entries: dict[object, tuple[Members, list[Entry]]] = {}
        self._pages: dict[str, dict[int, Element]] = {}
        self._keys: dict[Source, Asked | None] = {}

    def members(self, members: Members) -> Sequence[Element]:
        """Return the elements of a set or map; raise `UnsupportedSyntax` for one that is not in the text."""
        if not isinstance(members, Ref):
            return members
        found = self._members.get(members.name)
        if found is None:
            raise UnsupportedSyntax(f"@{members.name}")
        return found.elements

    def memory(self, members: Members) -> Memory | None:
        """Return the list of clients that a set or map is, if packets fill it."""
        if not isinstance(members, Ref) or members.name not in self._learned:
            return None
        seconds, key = self._learned[members.name]
        by = "destination address" if "daddr" in key and "saddr" not in key else "source address"
        return Memory("map", members.name, asks=True, inverted=False, seconds=seconds, by=by)

    def is_link(self, members: Members, key: Source) -> bool:
        """Return True for a set of pairs of a link with itself, asked for the ways in and out."""
        return (
            isinstance(members, Ref)
            and members.name in self.links
            and isinstance(key, Concat)
            and {part.name for part in key.parts} == _LINKS
        )

    def is_crossing(self, members: Members) -> bool:
        """Return True for pairs of links that the rules behind would let pass: lbctl's own shortcut."""
        return self._is_managed and isinstance(members, Ref) and members.name == layout.CROSSED

    def asked(self, source: Source) -> Asked | None:
        """Return the fields of a key; None for those of the other family. Raise `UnsupportedSyntax`."""
        if source not in self._keys:
            self._keys[source] = self._asked(source)
        return self._keys[source]

    def _asked(self, source: Source) -> Asked | None:
        match source:
            case NumberExpression():
                raise UnsupportedSyntax(source.kind)
            case Concat():
                parts = source.parts
            case Masked():
                parts = (source.field,)
            case Field():
                parts = (source,)
        fields: list[str] = []
        implied: dict[Condition, None] = {}
        for part in parts:
            found = field_of(part.name, self._family)
            if found is None:
                return None
            fields.append(found[0])
            if found[1] is not None:
                implied["proto", words(found[1])] = None
        if isinstance(source, Masked):
            fields = [_masked(source, fields[0])]
        return Asked(tuple(fields), tuple(implied))

    def entries(self, key: Source, members: Members) -> list[Entry]:
        """Return what each element of a look-up asks, none of the other family's.

        Raise `UnsupportedSyntax` for values that are none of their fields.
        """
        asked = self.asked(key)
        if asked is None:
            return []
        known = (id(members) if not isinstance(members, Ref) else members.name, asked)
        if known not in self._entries:
            self._entries[known] = members, list(self._each(asked, self.members(members)))
        return self._entries[known][1]

    def _each(self, asked: Asked, elements: Sequence[Element]) -> Iterator[Entry]:
        others: list[Element] = []
        taken: list[Condition] = []
        for element in elements:
            if element.key == ANYTHING:
                others.append(element)
                continue
            if len(element.key) != len(asked.fields):
                raise UnsupportedSyntax(" . ".join(element.key))
            pairs = zip(asked.fields, element.key, strict=True)
            made = [condition(field, [text], self._family) for field, text in pairs]
            conditions = tuple([pair for pair in made if pair is not None])
            if len(conditions) == len(made):
                taken.append(conditions[0])
                yield (*asked.implied, *conditions), element
        for element in others:
            if len(asked.fields) != 1:
                raise UnsupportedSyntax("*")
            yield (*asked.implied, *self._rest(asked.fields[0], [values for _, values in taken])), element

    def _rest(self, field: str, taken: Sequence[Values]) -> tuple[Condition, ...]:
        """Return what is left of a field."""
        if not taken:
            return ()
        if any(isinstance(values, Words) for values in taken):
            names = [name for values in taken if isinstance(values, Words) for name in values.names or ()]
            return ((field, Words(None, frozenset(names))),)
        spans = merged(span for values in taken if not isinstance(values, Words) for span in values)
        others = rest(field, spans, BITS[self._family])
        return ((field, others),) if others is not None else ()

    def overlap(self, key: Source, members: Members) -> bool:
        """Return True if packets may match two elements: in concatenations, nft takes such intervals."""
        entries = [conditions for conditions, _ in self.entries(key, members)]
        wide = [each for each in entries if any(_is_wide(values) for _, values in each)]
        if len(wide) * len(entries) > _MOST_PAIRS:
            return True
        return any(
            one is not other and all(values_meet(a[1], b[1]) for a, b in zip(one, other, strict=True))
            for one in wide
            for other in entries
        )

    def cases(
        self, draft: Draft, pick: NumberExpression, members: Members, data_of: Callable[[Element], T | None]
    ) -> tuple[tuple[Spans, T], ...]:
        """Return the numbers, counted from 0, that lead to each of the data that the elements of a map have.

        The draft notes a map with keys that are never picked.
        """
        numbered, has_more = self._numbered(pick, members)
        draft.remarks += ("packet-out-of-range",) if has_more else ()
        found: dict[T, list[Span]] = {}
        for low, high, element in numbered:
            if (data := data_of(element)) is not None:
                found.setdefault(data, []).append((low, high))
        return tuple((merged(spans), data) for data, spans in found.items())

    def _numbered(self, pick: NumberExpression, members: Members) -> tuple[list[Numbered], bool]:
        """Return what a map has for the numbers that can be picked, and True if it has some for no number.

        Other rules may use the rest of a named map, so that only a map in place has too many.
        """
        if isinstance(members, Ref):
            return list(self._of_page(pick, members)), False
        inside: list[tuple[int, int, int, Element]] = []
        for place, element in enumerate(members):
            low, high = _numbers(element.key, pick.modulus, pick.offset)
            if element.key != ANYTHING and high >= 0 and low < pick.modulus:
                inside.append((max(low, 0), min(high, pick.modulus - 1), place, element))
        others = [element for element in members if element.key == ANYTHING]
        found: list[Numbered] = []
        begin = 0
        for low, high, _, element in sorted(inside, key=lambda entry: entry[:3]):
            # nft takes no two elements for one number.
            if max(low, begin) <= high:
                found.append((max(low, begin), high, element))
                begin = high + 1
        for element in others[:1]:
            left = spans_rest(merged((low, high) for low, high, _ in found), pick.modulus - 1)
            found += [(low, high, element) for low, high in left]
        return found, len(inside) + len(others) < len(members)

    def _of_page(self, pick: NumberExpression, members: Ref) -> Iterator[Numbered]:
        page = self._page(members)
        if pick.modulus <= len(page):
            for value in range(pick.modulus):
                element = page.get(value + pick.offset)
                if element is not None:
                    yield value, value, element
        else:
            for value, element in page.items():
                if 0 <= value - pick.offset < pick.modulus:
                    yield value - pick.offset, value - pick.offset, element

    def _page(self, members: Ref) -> dict[int, Element]:
        """Return the numbers of a named map, which many look-ups may share."""
        known = self._pages.get(members.name)
        if known is None:
            known = self._pages[members.name] = {}
            for element in self.members(members):
                low, high = _numbers(element.key, 1 << 32)
                for each in range(low, min(high, low + MAX_SLOTS) + 1):
                    known.setdefault(each, element)
        return known


def either_port(asked: Asked, entries: Sequence[Entry]) -> Spans | None:
    """Return the ports that a set of pairs has for the source, with any destination, and the other way round.

    It is how iptables-translate writes `--ports`. The kernel asks such a set once, however many of its
    elements overlap.
    """
    found: dict[str, list[Span]] = {"sport": [], "dport": []}
    if set(asked.fields) != found.keys():
        return None
    for conditions, _ in entries:
        ports = {field: values for field, values in conditions if field in found and values != _EVERY_PORT}
        if len(ports) != 1:
            return None
        [(field, values)] = ports.items()
        found[field] += values  # type: ignore[arg-type]
    sports, dports = merged(found["sport"]), merged(found["dport"])
    return sports if sports == dports else None


def _is_wide(values: Values) -> bool:
    return single(values) is None


def _masked(source: Masked, field: str) -> str:
    """Return some bits of a field as a field of the engine."""
    if mark_of(field) is None:
        return symbols.masked(source.field.name, source.mask)
    return field if source.mask == EVERY_BIT else f"{field}/{source.mask:#x}"


def only(key: Key) -> str:
    """Return the only part of a key; raise `UnsupportedSyntax`."""
    if len(key) != 1:
        raise UnsupportedSyntax(" . ".join(key))
    return key[0]


def span_of(text: str) -> Span:
    """Return the first and last of `7` or `7-9`; raise `UnsupportedSyntax`."""
    first, dash, last = text.partition("-")
    low = number(first)
    return low, number(last) if dash else low


def _numbers(key: Key, modulus: int, offset: int = 0) -> Span:
    """Return the numbers that a key of a map stands for, counted from 0; raise `UnsupportedSyntax`."""
    if key == ANYTHING:
        return 0, modulus - 1
    low, high = span_of(only(key))
    return low - offset, high - offset


def _learned(table: NftTable) -> tuple[dict[str, tuple[int | None, str]], frozenset[str]]:
    """Return the sets and maps that packets fill, and those of links among them.

    Each of the former with how long an entry stays, and its key.
    """
    found: dict[str, tuple[int | None, str]] = {}
    links: set[str] = set()
    rules = (rule for chain in table.chains.values() for rule in chain.rules)
    for rule in rules:
        for place, update in enumerate(rule.statements):
            if isinstance(update, Update):
                declared = table.members.get(update.name)
                stays = update.timeout or (declared.timeout if declared else None)
                before = found.get(update.name, (None, ""))
                found[update.name] = stays or before[0], update.key
                asked = any(isinstance(each, (Relational, Vmap)) for each in rule.statements[:place])
                if update.key == "iif . iif" and not asked:
                    links.add(update.name)
    for name, members in table.members.items():
        if members.dynamic:
            found.setdefault(name, (members.timeout, ""))
    return found, frozenset(links)
