"""What traffic a rule selects: sets of values of fields, compared exactly.

Ports, marks and addresses are spans of numbers, all else is a set of words. `Values.text` is how a person
wrote it, for as long as nothing was taken away from it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache, partial
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING, TypeAlias

from lbctl.model import Family
from lbctl_nftables.reading import symbols
from lbctl_nftables.reading.grammar import Strange, number, seconds

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from lbctl_nftables.reading.grammar import Key

Spans: TypeAlias = tuple[tuple[int, int], ...]

ADDRESSES = {"dst", "src", "ctorigdst"}
PORTS = {"dport", "sport", "ctorigdstport"}
MARKS = {"mark", "connmark"}
_EVERY_BIT = 0xFFFFFFFF
#: What a protocol may be called.
_PROTOCOL = re.compile(r"[A-Za-z0-9.+-]+")


@dataclass(frozen=True, slots=True)
class Values:
    """The values of one field that are selected. `spans` for numbers; else `names`, or all but these."""

    spans: Spans | None
    names: frozenset[str]
    but: bool
    text: str = field(compare=False)

    @property
    def empty(self) -> bool:
        """True where no value is selected."""
        return not self.spans if self.spans is not None else not self.names and not self.but

    @property
    def single(self) -> int | str | None:
        """The one value that is selected; None for more."""
        if self.spans is not None:
            return self.spans[0][0] if len(self.spans) == 1 and self.spans[0][0] == self.spans[0][1] else None
        return next(iter(self.names)) if len(self.names) == 1 and not self.but else None

    def within(self, other: Values) -> bool:
        """True where every value of these is one of the others'."""
        return self.meet(other) == self

    def meet(self, other: Values) -> Values:
        """The values of both."""
        if self.spans is not None and other.spans is not None:
            spans = _meet(self.spans, other.spans)
            text = self.text if spans == self.spans else other.text if spans == other.spans else ""
            return Values(spans, frozenset(), False, text)
        if not self.but and not other.but:
            names, but = self.names & other.names, False
        elif self.but and other.but:
            names, but = self.names | other.names, True
        else:
            these, those = (other, self) if self.but else (self, other)
            names, but = these.names - those.names, False
        made = Values(None, names, but, "")
        text = self.text if made == self else other.text if made == other else ",".join(sorted(names))
        return Values(None, names, but, text)

    def rest(self, what: str, family: Family) -> Values:
        """All other values of the field."""
        text = self.text.removeprefix("!= ") if self.text.startswith("!= ") else f"!= {self.text}"
        if self.spans is None:
            return Values(None, self.names, not self.but, text)
        return Values(_rest(self.spans, _top(what, family)), frozenset(), False, text)

    def written(self, what: str, family: Family) -> str:
        """The values as text."""
        if self.text or self.spans is None:
            return self.text
        ends = [(_spell(what, a, family), _spell(what, b, family)) for a, b in self.spans]
        return ",".join(a if a == b else f"{a}-{b}" for a, b in ends)


def values(what: str, keys: Iterable[str], family: Family, text: str = "") -> Values | None:
    """The values that some words stand for; None where they are none of this family. Raises `Strange`."""
    spelled = _without_host_bits if what in ADDRESSES else partial(_canonical, what)
    written = [spelled(word) for word in keys]
    text = text or ",".join(written)
    if _is_number(what):
        spans: list[tuple[int, int]] = []
        for word in written:
            span = _span(what, word, family)
            if span is not None:
                spans.append(span)
        return Values(_merged(spans), frozenset(), False, text)
    names = frozenset(written)
    if what != "proto":
        return Values(None, names, False, text)
    for name in names:
        if not _PROTOCOL.fullmatch(name):
            raise Strange(name)
    return Values(None, names, False, ",".join(sorted(names)))


def compared(what: str, op: str, word: str, family: Family) -> Values:
    """The values that stand in a relation to one; raises `Strange` for fields that have no order."""
    span = _span(what, _canonical(what, word), family) if _is_number(what) else None
    if span is None:
        raise Strange(op)
    first, last, top = *span, _top(what, family)
    low, high = {"<": (0, first - 1), "<=": (0, last), ">": (last + 1, top), ">=": (first, top)}[op]
    spans = ((low, high),) if low <= high else ()
    return Values(spans, frozenset(), False, "")


def everything(what: str, family: Family) -> Values:
    """All values of a field."""
    if _is_number(what):
        return Values(((0, _top(what, family)),), frozenset(), False, "")
    return Values(None, frozenset(), True, "")


def exactly(value: int) -> Values:
    """One number."""
    return Values(((value, value),), frozenset(), False, "")


def named(*names: str) -> Values:
    """Some words."""
    return Values(None, frozenset(names), False, ",".join(names))


@lru_cache(maxsize=1 << 10)
def bits_of(what: str) -> tuple[str, int] | None:
    """Which of the marks a field is, and which bits of it, as of `mark & 0xf`; None for any other field."""
    name, _, bits = what.partition(" & ")
    if name not in MARKS:
        return None
    try:
        return name, int(bits, 16) if bits else _EVERY_BIT
    except ValueError:
        # Names of bits.
        return None


def _is_number(what: str) -> bool:
    return what in ADDRESSES or what in PORTS or bits_of(what) is not None


@lru_cache(maxsize=1 << 16)
def _span(what: str, word: str, family: Family) -> tuple[int, int] | None:
    """The first and last number that a word stands for; None for an address of the other family."""
    first, dash, last = word.partition("-")
    if dash:
        low, high = _span(what, first, family), _span(what, last, family)
        if low is None or high is None:
            return None
        if low[0] > high[1]:
            raise Strange(word)
        return low[0], high[1]
    if what in ADDRESSES:
        return _addresses(word, family)
    value = number(word, bits=16 if what in PORTS else 32)
    return value, value


def _canonical(what: str, word: str) -> str:
    """The one spelling of a value of a field, whichever options nft listed it with."""
    if what == "ct expiration":
        time = seconds(word)
        return word if time is None else str(time)
    return symbols.canonical(what, word)


def _without_host_bits(word: str) -> str:
    """A network as it is listed: nft takes 10.0.0.1/8 for 10.0.0.0/8."""
    if "/" not in word or "-" in word:
        return word
    try:
        return str(ip_network(word, strict=False))
    except ValueError:
        raise Strange(word) from None


def _addresses(word: str, family: Family) -> tuple[int, int] | None:
    try:
        if "/" in word:
            network = ip_network(word, strict=False)
            span = int(network.network_address), int(network.broadcast_address)
            version = network.version
        else:
            address = ip_address(word)
            span = int(address), int(address)
            version = address.version
    except ValueError:
        # A host's name, which is never looked up.
        raise Strange(word) from None
    return span if (version == 4) == (family is Family.IPV4) else None


def _top(what: str, family: Family) -> int:
    if what in ADDRESSES:
        return (1 << 32) - 1 if family is Family.IPV4 else (1 << 128) - 1
    return 0xFFFF if what in PORTS else 0xFFFFFFFF


def _spell(what: str, value: int, family: Family) -> str:
    if what in ADDRESSES:
        return str(ip_network((value, 32 if family is Family.IPV4 else 128)).network_address)
    return str(value) if what in PORTS else hex(value)


def _merged(spans: Sequence[tuple[int, int]]) -> Spans:
    merged: list[tuple[int, int]] = []
    for low, high in sorted(spans):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = merged[-1][0], max(high, merged[-1][1])
        else:
            merged.append((low, high))
    return tuple(merged)


def _meet(these: Spans, those: Spans) -> Spans:
    if these == those:
        return these
    met = []
    mine = other = 0
    while mine < len(these) and other < len(those):
        low, high = max(these[mine][0], those[other][0]), min(these[mine][1], those[other][1])
        if low <= high:
            met.append((low, high))
        if these[mine][1] < those[other][1]:
            mine += 1
        else:
            other += 1
    return tuple(met)


def _rest(spans: Spans, top: int) -> Spans:
    left, low = [], 0
    for first, last in spans:
        if low < first:
            left.append((low, first - 1))
        low = last + 1
    if low <= top:
        left.append((low, top))
    return tuple(left)


@dataclass(frozen=True, slots=True)
class Selector:
    """Conditions that hold together: one set of values for each field, in the order of their coming."""

    fields: tuple[tuple[str, Values], ...] = ()

    def get(self, what: str) -> Values | None:
        """The values of a field; None where it does not matter."""
        for name, found in self.fields:
            if name == what:
                return found
        return None

    def narrowed(self, what: str, by: Values) -> Selector | None:
        """These conditions and one more; None where nothing is left."""
        before = self.get(what)
        if before is None:
            return None if by.empty else Selector(tuple(sorted([*self.fields, (what, by)], key=_by_name)))
        met = before.meet(by)
        if met.empty:
            return None
        if met == before:
            return self
        return Selector(tuple((name, met if name == what else found) for name, found in self.fields))


def _by_name(pair: tuple[str, Values]) -> str:
    return pair[0]


def joined(address: str | None, port: str | None) -> str:
    """An endpoint: `8001`, `10.0.0.1`, `10.0.0.1:80`, `[2001:db8::1]:80`."""
    if address is None:
        return port or ""
    if port is None:
        return address
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def key_values(names: Sequence[str], key: Key, family: Family) -> list[tuple[str, Values]] | None:
    """The conditions that a concatenated key stands for; None where it can match nothing here."""
    if len(names) != len(key):
        raise Strange(" . ".join(key))
    made = []
    for name, word in zip(names, key, strict=True):
        found = values(name, [word], family)
        if found is None or found.empty:
            return None
        made.append((name, found))
    return made
