"""What conditions and look-ups stand for, in one family and at one hook: names are resolved here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from lbctl.model import Family
from lbctl_nftables.reading import select, symbols
from lbctl_nftables.reading.grammar import (
    ANYTHING,
    Concat,
    Element,
    Field,
    Lookup,
    Masked,
    Match,
    Pick,
    Ref,
    Source,
    Strange,
    Update,
    Vmap,
    number,
)
from lbctl_nftables.reading.select import Values

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lbctl_nftables.reading.document import Members, Table

Conditions: TypeAlias = tuple[tuple[str, Values], ...]
Spans: TypeAlias = tuple[tuple[int, int], ...]
#: What is known of a field of some traffic; None where it may have any value.
Known: TypeAlias = "Callable[[str], Values | None]"

_NAMES = {
    "ip daddr": "dst", "ip6 daddr": "dst", "ip saddr": "src", "ip6 saddr": "src", "th dport": "dport",
    "th sport": "sport", "meta l4proto": "proto", "ip protocol": "proto", "ip6 nexthdr": "proto",
    "iif": "iif", "iifname": "iif", "oif": "oif", "oifname": "oif", "fib daddr type": "dst-type",
    "fib saddr type": "src-type", "ct mark": "connmark", "ct state": "state", "meta nfproto": "family",
    "meta protocol": "family", "ct original ip daddr": "ctorigdst", "ct original ip6 daddr": "ctorigdst",
    "ct original daddr": "ctorigdst", "ct original proto-dst": "ctorigdstport",
}  # fmt: skip
_TRANSPORTS = ("tcp", "udp", "sctp", "dccp", "udplite")
_FAMILY_WORDS = {
    Family.IPV4: {"ipv4", "ip"},
    Family.IPV6: {"ipv6", "ip6"},
}
_RANDOM = "meta random"
#: Elements of a set that are told one by one; a larger one is told by its name.
_MANY = 256


@dataclass(frozen=True, slots=True)
class All:
    """Conditions that must all hold; none are always true."""

    conditions: Conditions


@dataclass(frozen=True, slots=True)
class Drawn:
    """A picked number, counted from 0, lies in one of these spans."""

    pick: Pick
    spans: Spans


@dataclass(frozen=True, slots=True)
class Never:
    """Nothing is selected."""


@dataclass(frozen=True, slots=True)
class Learned:
    """A client that packets have put into a set: those that came before."""

    name: str


@dataclass(slots=True)
class Keyed:
    """The elements of a look-up by fields: those of one value each by their key, and the others in order."""

    names: tuple[str, ...]
    implied: Conditions
    exact: dict[tuple[int | str | None, ...], tuple[Conditions, Element]] = field(default_factory=dict)
    wide: list[tuple[Conditions, Element]] = field(default_factory=list)
    every: list[tuple[Conditions, Element]] = field(default_factory=list)
    #: Which of the fields are known → their values → the elements with these.
    _sorted: dict[tuple[int, ...], dict[object, list[tuple[Conditions, Element]]]] = field(
        default_factory=dict
    )

    def of(self, known: Known) -> list[tuple[Conditions, Element]]:
        """The elements that some of the traffic may meet of which that much is known."""
        singles = self._singles(known)
        return self.every if None in singles else self._hit(singles)

    def covering(self, known: Known) -> list[tuple[Conditions, Element]]:
        """The elements that all of that traffic may meet."""
        singles = self._singles(known)
        return self.wide if None in singles else self._hit(singles)

    def near(self, known: Known) -> list[tuple[Conditions, Element]]:
        """As `of`, without those that the fields of which one value is known leave out."""
        singles = self._singles(known)
        told = tuple(place for place, single in enumerate(singles) if single is not None)
        if len(told) == len(singles):
            return self._hit(singles)
        if told not in self._sorted:
            made = self._sorted[told] = {}
            for key, entry in self.exact.items():
                made.setdefault(tuple(key[place] for place in told), []).append(entry)
        return [*self._sorted[told].get(tuple(singles[place] for place in told), ()), *self.wide]

    def _singles(self, known: Known) -> tuple[int | str | None, ...]:
        return tuple(found.single if (found := known(name)) else None for name in self.names)

    def _hit(self, singles: tuple[int | str | None, ...]) -> list[tuple[Conditions, Element]]:
        hit = self.exact.get(singles)
        return [hit] if hit is not None else self.wide


Meant: TypeAlias = All | Drawn | Never | Learned | Keyed


class Meaning:
    """The meaning of what stands in one table, for one family at one hook."""

    def __init__(self, table: Table, family: Family, hook: str) -> None:
        self._table = table
        self.family = family
        self._hook = hook
        self._made: dict[int, Meant] = {}
        self._kept: list[object] = []
        self.learned = _learned(table)

    def of(self, statement: Match | Vmap | Lookup) -> Meant:
        """What a condition or the key of a look-up means; raises `Strange`."""
        made = self._made.get(id(statement))
        if made is None:
            made = self._match(statement) if isinstance(statement, Match) else self._lookup(statement)
            self._made[id(statement)] = made
            self._kept.append(statement)
        return made

    def elements(self, members: Ref | tuple[Element, ...]) -> Sequence[Element]:
        """The elements of a set or map, which may be a declared one."""
        if not isinstance(members, Ref):
            return members
        found = self._table.members.get(members.name)
        return found.elements if found else ()

    def declared(self, members: Ref | tuple[Element, ...]) -> Members | None:
        """The declaration behind a name."""
        return self._table.members.get(members.name) if isinstance(members, Ref) else None

    def _match(self, match: Match) -> Meant:
        keys = [element.key for element in self.elements(match.members)]
        key = match.key
        if isinstance(key, Pick):
            return Drawn(key, _within(key, match.op, [one(k) for k in keys]))
        if isinstance(key, Masked) and key.field.name == _RANDOM:
            if key.mask & (key.mask + 1):
                raise Strange("bits with gaps")
            return self._random(match, keys, key.mask + 1)
        if isinstance(key, Field) and key.name == _RANDOM:
            return self._random(match, keys, 1 << 32)
        if isinstance(match.members, Ref):
            if match.members.name in self.learned:
                return Learned(match.members.name)
            if match.members.name not in self._table.members:
                raise Strange(f"@{match.members.name}")
        names, implied = self._names(key)
        if names is None:
            return Never()
        if len(names) > 1:
            if match.op != "==":
                raise Strange(match.op)
            return self._table_of(names, implied, [Element(each) for each in keys])
        text = f"@{match.members.name}" if isinstance(match.members, Ref) and len(keys) > _MANY else ""
        words = [one(each) for each in keys]
        if match.op in {"<", ">", "<=", ">="}:
            if len(words) != 1:
                raise Strange(match.op)
            return self._settled(
                names[0], select.compared(names[0], match.op, words[0], self.family), implied
            )
        if ANYTHING in keys:
            return Never() if match.op == "!=" else All(implied)
        found = select.values(names[0], words, self.family, text)
        if found is None:
            return Never()
        if match.op == "!=":
            found = found.rest(names[0], self.family)
        return self._settled(names[0], found, implied)

    def _random(self, match: Match, keys: Sequence[tuple[str, ...]], modulus: int) -> Drawn:
        pick = Pick("random", modulus)
        return Drawn(pick, _within(pick, match.op, [one(key) for key in keys]))

    def _settled(self, name: str, found: Values, implied: Conditions) -> Meant:
        """A condition, where it is not decided by the family or the hook."""
        if name == "family":
            mine = bool(found.names & _FAMILY_WORDS[self.family])
            return All(implied) if mine is not found.but else Never()
        if name == "src-type" and self._hook in {"prerouting", "output"} and found.names == {"local"}:
            # What this host sends has an address of its own, and what comes in from elsewhere has not.
            return All(implied) if (self._hook == "output") is not found.but else Never()
        if found.empty:
            return Never()
        return All((*implied, (name, found)))

    def _lookup(self, lookup: Vmap | Lookup) -> Meant:
        if isinstance(lookup.members, Ref):
            if lookup.members.name in self.learned:
                return Learned(lookup.members.name)
            if lookup.members.name not in self._table.members:
                raise Strange(f"@{lookup.members.name}")
        key = lookup.key
        if isinstance(key, Pick):
            return Drawn(key, ())
        names, implied = self._names(key)
        if names is None:
            return Never()
        return self._table_of(names, implied, self.elements(lookup.members))

    def _table_of(self, names: tuple[str, ...], implied: Conditions, elements: Sequence[Element]) -> Meant:
        made = Keyed(names, implied)
        for element in elements:
            if element.key == ANYTHING:
                raise Strange("*")
            conditions = select.key_values(names, element.key, self.family)
            if conditions is None:
                continue
            singles = tuple(found.single for _, found in conditions)
            entry = tuple(conditions), element
            if None in singles:
                made.wide.append(entry)
            else:
                made.exact.setdefault(singles, entry)
            made.every.append(entry)
        return made

    def _names(self, key: Source) -> tuple[tuple[str, ...] | None, Conditions]:
        """The names of the fields of a key, and what they say by themselves; None for the other family."""
        if isinstance(key, Masked):
            return (symbols.masked(_NAMES.get(key.field.name, key.field.name), key.mask),), ()
        if isinstance(key, Pick):
            raise Strange(key.kind)
        names, implied = [], []
        for part in key.parts if isinstance(key, Concat) else (key,):
            header, _, what = part.name.partition(" ")
            if header in {"ip", "ip6"} and (header == "ip") != (self.family is Family.IPV4):
                return None, ()
            if header in _TRANSPORTS and what in {"dport", "sport"}:
                names.append(what)
                found = Values(None, frozenset({header}), False, header)
                implied.append(("proto", found))
            else:
                names.append(_NAMES.get(part.name, part.name))
        return tuple(names), tuple(implied)


def one(key: tuple[str, ...]) -> str:
    """The only part of a key; raises `Strange`."""
    if len(key) != 1:
        raise Strange(" . ".join(key))
    return key[0]


def _within(pick: Pick, op: str, words: Sequence[str]) -> Spans:
    """Where a picked number, counted from 0, satisfies a relation."""
    spans = []
    for word in words:
        first, dash, last = word.partition("-")
        low = number(first)
        high = number(last) if dash else low
        if op in {"<", "<="}:
            low, high = 0, low - (op == "<")
        elif op in {">", ">="}:
            low, high = low + (op == ">"), 1 << 32
        spans.append((low - pick.offset, high - pick.offset))
    inside = [(max(low, 0), min(high, pick.modulus - 1)) for low, high in sorted(spans)]
    inside = [(low, high) for low, high in inside if low <= high]
    if op != "!=":
        return tuple(inside)
    outside, begin = [], 0
    for low, high in inside:
        if begin < low:
            outside.append((begin, low - 1))
        begin = max(begin, high + 1)
    return (*outside, *([(begin, pick.modulus - 1)] if begin < pick.modulus else []))


def _learned(table: Table) -> dict[str, int | None]:
    """The sets and maps that packets fill, and how long an entry stays."""
    found: dict[str, int | None] = {}
    for chain in table.chains.values():
        for rule in chain.rules:
            for statement in rule.statements:
                if isinstance(statement, Update):
                    declared = table.members.get(statement.name)
                    stays = statement.timeout or (declared.timeout if declared else None)
                    found[statement.name] = stays or found.get(statement.name)
    for name, members in table.members.items():
        if members.dynamic:
            found.setdefault(name, members.timeout)
    return found
