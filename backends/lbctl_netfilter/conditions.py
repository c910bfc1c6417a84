"""Sets of packets: the values of each field, compared exactly.

Addresses, ports, marks and counts are spans of numbers; all else is words. A front end names fields as `when`
of a reading has them (`src`, `iif`, `dst-type`, …); bits of a mark are a field of their own, `mark/0xf0`, and
a condition of which nothing but its truth matters is a *fact*, such as `set=blocked src`.
"""

from __future__ import annotations

from enum import Enum
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from lbctl.model import Family, decimal

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

#: First and last number.
Span: TypeAlias = tuple[int, int]
#: Sorted, and with a gap between each two.
Spans: TypeAlias = tuple[Span, ...]

BITS = {Family.IPV4: 32, Family.IPV6: 128}
EVERY_BIT = 0xFFFFFFFF
EVERY_FLAG = 0xFF
ADDRESSES = frozenset({"dst", "src", "ctorigdst", "ctorigsrc"})
PORTS = frozenset({"dport", "sport", "ctorigdstport", "ctorigsrcport"})
MARKS = frozenset({"mark", "connmark"})
#: Fields with other numbers, which are spelled in decimals.
COUNTS = frozenset(
    {
        "uid", "gid", "dscp", "ecn", "length", "ttl", "iifgroup", "oifgroup", "icmp-type", "icmpv6-type",
        "mss", "realm", "ctexpire", "ahspi", "espspi", "ipcompspi",
    }
)  # fmt: skip
_TOPS = {
    "ttl": 255, "dscp": 63, "ecn": 3, "icmp-type": 255, "icmpv6-type": 255, "length": 0xFFFF, "mss": 0xFFFF,
    "ipcompspi": 0xFFFF,
}  # fmt: skip
_TCP_FLAGS = ("fin", "syn", "rst", "psh", "ack", "urg", "ece", "cwr")
#: Spans that are spelled one by one.
_MANY = 256


class Words(NamedTuple):
    """Words of a field: some (`names`; None: any), `but` not these. A word may end in `*`, a wildcard."""

    names: frozenset[str] | None
    but: frozenset[str] = frozenset()


Values: TypeAlias = "Spans | Words"
Condition: TypeAlias = "tuple[str, Values]"


class Coverage(Enum):
    """How many of some connections a rule is for. `SOME` may be none or all of them."""

    ALL = "all"
    SOME = "some"
    NONE = "none"

    __hash__ = object.__hash__


ALL, SOME, NONE = Coverage.ALL, Coverage.SOME, Coverage.NONE
_NO_WORDS: frozenset[str] = frozenset()
YES, NO = Words(frozenset({"yes"})), Words(None, frozenset({"yes"}))


class Selector(NamedTuple):
    """Connections with all of this; None and () are no condition. `extra` has each field once, sorted."""

    proto: Words | None = None
    dst: Spans | None = None
    dport: Spans | None = None
    extra: tuple[Condition, ...] = ()

    def get(self, field: str) -> Values | None:
        """Return the values of a field; None where any will do."""
        match field:
            case "proto":
                return self.proto
            case "dst":
                return self.dst
            case "dport":
                return self.dport
        return next((values for name, values in self.extra if name == field), None)

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """All fields that are asked for."""
        head = (("proto", self.proto), ("dst", self.dst), ("dport", self.dport))
        return (*((name, values) for name, values in head if values is not None), *self.extra)


EVERYTHING = Selector()


# -- making conditions


def words(*names: str) -> Words:
    """Any of these."""
    return Words(frozenset(names))


LOCAL: Condition = ("dst-type", words("local"))
LOCAL_SOURCE: Condition = ("src-type", words("local"))
REMOTE_SOURCE: Condition = ("src-type", Words(None, frozenset({"local"})))


def exactly(number: int) -> Spans:
    """One number."""
    return ((number, number),)


def fact(name: str, value: str, *, inverted: bool = False) -> Condition:
    """Return a condition of which nothing but its truth is known: `when` has `name`, with `value`."""
    return f"{name}={value}", NO if inverted else YES


def mark_field(*, connection: bool, mask: int = EVERY_BIT) -> str:
    """Return the field of some bits of a mark."""
    name = "connmark" if connection else "mark"
    return name if mask == EVERY_BIT else f"{name}/{mask:#x}"


@lru_cache(maxsize=1 << 10)
def tcp_flags(mask: int, value: int) -> str:
    """Return a value of some bits of the TCP flags, in the form of iptables: `syn/syn,ack`."""
    names = [
        ",".join(name for bit, name in enumerate(_TCP_FLAGS) if bits >> bit & 1) for bits in (value, mask)
    ]
    return f"{names[0] or 'none'}/{'all' if mask == EVERY_FLAG else names[1]}"


@lru_cache(maxsize=1 << 12)
def mark_of(field: str) -> tuple[bool, int] | None:
    """Return whose mark a field is (True: the connection's), and which bits; None for any other field."""
    name, _, mask = field.partition("/")
    if name not in MARKS:
        return None
    return name == "connmark", int(mask, 16) if mask else EVERY_BIT


def of(*conditions: Condition, bits: int) -> Selector | None:
    """Connections that meet all conditions; None where these exclude each other."""
    made: Selector | None = EVERYTHING
    for field, values in conditions:
        made = made and meet(made, _one(field, values), bits)
    return made


def _one(field: str, values: Values) -> Selector:
    match field:
        case "proto":
            return Selector(proto=values)  # type: ignore[arg-type]
        case "dst":
            return Selector(dst=values)  # type: ignore[arg-type]
        case "dport":
            return Selector(dport=values)  # type: ignore[arg-type]
    return Selector(extra=((field, values),))


def narrowed(selector: Selector, field: str, values: Values, bits: int) -> Selector | None:
    """With one more condition; None where nothing is left."""
    return meet(selector, _one(field, values), bits)


def without(selector: Selector, *fields: str) -> Selector:
    """Without what is asked of some fields."""
    return Selector(
        None if "proto" in fields else selector.proto,
        None if "dst" in fields else selector.dst,
        None if "dport" in fields else selector.dport,
        tuple([pair for pair in selector.extra if pair[0] not in fields]),
    )


def unmarked(selector: Selector) -> Selector:
    """Without what is asked of marks."""
    marks = [field for field, _ in selector.extra if mark_of(field) is not None]
    return without(selector, *marks) if marks else selector


# -- spans


def merged(spans: Iterable[Span]) -> Spans:
    """Spans in their order, those that touch as one."""
    made: list[Span] = []
    for low, high in sorted(spans):
        if made and low <= made[-1][1] + 1:
            made[-1] = made[-1][0], max(high, made[-1][1])
        else:
            made.append((low, high))
    return tuple(made)


def spans_meet(these: Spans, those: Spans) -> Spans:
    """Return the numbers of both."""
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


def spans_rest(spans: Spans, top: int) -> Spans:
    """Return all other numbers up to `top`."""
    left, low = [], 0
    for first, last in spans:
        if low < first:
            left.append((low, first - 1))
        low = last + 1
    if low <= top:
        left.append((low, top))
    return tuple(left)


def size(spans: Spans) -> int:
    """Return how many numbers these are."""
    if len(spans) == 1:
        return spans[0][1] - spans[0][0] + 1
    return sum([high - low + 1 for low, high in spans])


def single(values: Values | None) -> int | str | None:
    """Return the only value; None where there are several."""
    if values is None:
        return None
    if isinstance(values, Words):
        if values.names is None or values.but or len(values.names) != 1:
            return None
        [name] = values.names
        return None if name.endswith("*") else name
    return values[0][0] if len(values) == 1 and values[0][0] == values[0][1] else None


def top_of(field: str, bits: int) -> int:
    """Return the largest number of a field. `bits` are those of an address."""
    if field in ADDRESSES:
        return (1 << bits) - 1
    if (mark := mark_of(field)) is not None:
        return mark[1]
    return 0xFFFF if field in PORTS else _TOPS.get(field, EVERY_BIT)


# -- words


def _is(word: str, pattern: str) -> bool:
    return word == pattern or (pattern.endswith("*") and word.startswith(pattern[:-1]))


def _words_within(mine: Words, of_: Words) -> bool:
    if mine.names is None:
        return of_.names is None and all(any(_is(x, y) for y in mine.but) for x in of_.but)
    return all(
        (of_.names is None or any(_is(name, pattern) for pattern in of_.names))
        and all(
            not (_is(name, x) or _is(x, name)) or any(_is(x, y) for y in mine.but if not _is(name, y))
            for x in of_.but
        )
        for name in mine.names
    )


@lru_cache(maxsize=1 << 12)
def _words_meet(one: Words, other: Words) -> Words | None:
    if one.names is None or other.names is None:
        names = other.names if one.names is None else one.names
    else:
        names = frozenset(
            a if _is(a, b) else b for a in one.names for b in other.names if _is(a, b) or _is(b, a)
        )
    but = one.but | other.but
    if names is None:
        return Words(None, but)
    names = frozenset(name for name in names if not any(_is(name, x) for x in but))
    but = frozenset(x for x in but if any(_is(x, name) for name in names))
    return Words(names, but) if names else None


@lru_cache(maxsize=1 << 14)
def _words_covered(rule: Words, given: Words) -> Coverage:
    if _words_within(given, rule):
        return ALL
    return SOME if _words_meet(rule, given) is not None else NONE


# -- comparing


def covered(rule: Values, given: Values | None) -> Coverage:
    """Return how many of some values a rule is for; None are any values."""
    if given is None:
        return SOME
    if rule is given or rule == given:
        return ALL
    if isinstance(rule, Words):
        return _words_covered(rule, given) if isinstance(given, Words) else SOME
    if isinstance(given, Words):
        return SOME
    if len(rule) == 1 and len(given) == 1:
        [(low, high)], [(first, last)] = rule, given
        if low <= first and last <= high:
            return ALL
        return NONE if last < low or high < first else SOME
    met = spans_meet(rule, given)
    return ALL if met == given else SOME if met else NONE


def covers(rule: Selector, given: Selector) -> Coverage:
    """Return how many of these connections a rule is for."""
    if rule is given or rule == given:
        return ALL
    partly = False
    proto, dst, dport, extra = rule
    if proto is not None and proto != given.proto:
        found = covered(proto, given.proto)
        if found is NONE:
            return NONE
        partly = found is SOME
    if dst is not None:
        found = covered(dst, given.dst)
        if found is NONE:
            return NONE
        partly |= found is SOME
    if dport is not None:
        found = covered(dport, given.dport)
        if found is NONE:
            return NONE
        partly |= found is SOME
    if extra and extra != given.extra:
        known = dict(given.extra)
        for field, values in extra:
            found = covered(values, known.get(field))
            if found is NONE:
                return NONE
            partly |= found is SOME
    return SOME if partly else ALL


def unmet(rule: Selector, given: Selector) -> list[Condition]:
    """Return the conditions of a rule that not all of these connections are known to meet."""
    return [
        (field, values) for field, values in rule.conditions if covered(values, given.get(field)) is not ALL
    ]


def values_meet(one: Values, other: Values) -> Values | None:
    """Return the values of both; None where there are none."""
    if one == other:
        return one
    if isinstance(one, Words):
        return _words_meet(one, other) if isinstance(other, Words) else one
    return one if isinstance(other, Words) else spans_meet(one, other) or None


def rest(field: str, values: Values, bits: int) -> Values | None:
    """Return all other values of a field; None where these have no expression."""
    if not isinstance(values, Words):
        return spans_rest(values, top_of(field, bits))
    if values.names is None:
        return Words(values.but)
    return None if values.but else Words(None, values.names)


def meet(one: Selector, other: Selector, bits: int) -> Selector | None:  # noqa: ARG001 (one pass)
    """Connections that are in both; None where there is none."""
    if other is EVERYTHING:
        return one
    if one is EVERYTHING:
        return other
    proto, dst, dport, extra = one
    if other.proto is not None and other.proto != proto:
        proto = other.proto if proto is None else _words_meet(proto, other.proto)
        if proto is None:
            return None
    if other.dst is not None and other.dst != dst:
        dst = other.dst if dst is None else spans_meet(dst, other.dst)
        if not dst:
            return None
    if other.dport is not None and other.dport != dport:
        dport = other.dport if dport is None else spans_meet(dport, other.dport)
        if not dport:
            return None
    if other.extra and other.extra != extra:
        both = _extra_meet(extra, other.extra)
        if both is None:
            return None
        extra = both
    if proto is one.proto and dst is one.dst and dport is one.dport and extra is one.extra:
        return one
    return Selector(proto, dst, dport, extra)


def _extra_meet(one: tuple[Condition, ...], other: tuple[Condition, ...]) -> tuple[Condition, ...] | None:
    """All of both; None where they exclude each other."""
    if not one:
        return other
    known = dict(one)
    for field, values in other:
        mine = known.get(field)
        both = values if mine is None else values_meet(mine, values)
        if both is None:
            return None
        known[field] = both
    return tuple(sorted(known.items(), key=_by_field))


def _by_field(pair: Condition) -> str:
    return pair[0]


# -- spelling


def is_negative(field: str, values: Values, bits: int) -> bool:
    """Return True for values that are best named by those that are left out."""
    if isinstance(values, Words):
        return values.names is None
    top = top_of(field, bits)
    if mark_of(field) is not None:
        return size(values) > 1 == size(spans_rest(values, top))
    return len(values) > 1 and values[0][0] == 0 and values[-1][1] == top


@lru_cache(maxsize=1 << 14)
def spelled(field: str, values: Values, bits: int) -> str:
    """Return the values of a field in their one spelling: `80,443`, `10.0.0.0/8`, `! eth*`, `0x1/0xff`."""
    if is_negative(field, values, bits):
        others = values.but if isinstance(values, Words) else spans_rest(values, top_of(field, bits))
        return f"! {_spelled(field, Words(others) if isinstance(values, Words) else others, bits)}"  # type: ignore[arg-type]
    if isinstance(values, Words) and values.but:
        return f"{_spelled(field, Words(values.names), bits)}, ! {_spelled(field, Words(values.but), bits)}"
    return _spelled(field, values, bits)


def _spelled(field: str, values: Values, bits: int) -> str:
    if isinstance(values, Words):
        _, is_fact, text = field.partition("=")
        return text if is_fact else ",".join(sorted(values.names or _NO_WORDS))
    shown = ",".join(_span(field, low, high, bits) for low, high in values[:_MANY])
    return shown if len(values) <= _MANY else f"{shown},… ({len(values)} in all)"


def _span(field: str, low: int, high: int, bits: int) -> str:
    if field in ADDRESSES:
        count = high - low + 1
        if not count & (count - 1) and not low % count:
            text = str(address(low, bits))
            return text if count == 1 else f"{text}/{bits - count.bit_length() + 1}"
        return f"{address(low, bits)}-{address(high, bits)}"
    mark = mark_of(field)
    if mark is None:
        return str(low) if low == high else f"{low}-{high}"
    mask = "" if mark[1] == EVERY_BIT else f"/{mark[1]:#x}"
    return f"{low:#x}{mask}" if low == high else f"{low:#x}-{high:#x}{mask}"


def address(number: int, bits: int) -> IPv4Address | IPv6Address:
    """Return an address of so many bits."""
    return IPv4Address(number) if bits == 32 else IPv6Address(number)


def name_of(field: str) -> str:
    """Return what `when` calls a field: `mark` for some of its bits, `set` for a fact about a set."""
    return field.partition("=")[0].partition("/")[0]


def when(conditions: Sequence[Condition], bits: int) -> dict[str, str]:
    """Conditions as `when` has them; several of one name with a comma and a blank between."""
    made: dict[str, dict[str, None]] = {}
    for field, values in conditions:
        made.setdefault(name_of(field), {})[spelled(field, values, bits)] = None
    return {name: ", ".join(texts) for name, texts in made.items()}


def described(selector: Selector, bits: int) -> str:
    """Connections in words, for a sentence."""
    proto = selector.proto
    named = proto is not None and proto.names is not None
    parts = [f"{spelled('proto', proto, bits)} connections" if proto is not None and named else "connections"]
    if selector.dst is not None:
        parts.append(f"to {spelled('dst', selector.dst, bits)}")
    if selector.dport is not None:
        parts.append(f"to port {spelled('dport', selector.dport, bits)}")
    others = [*selector.extra, *([("proto", proto)] if proto is not None and not named else [])]
    parts += [f"with {name_of(field)} {spelled(field, values, bits)}" for field, values in others]
    return " ".join(parts)


# -- an endpoint's place


@lru_cache(maxsize=1 << 16)
def place_of(to: str, bits: int) -> tuple[int | None, int | None]:
    """Return the address and the port of an endpoint as it is shown; None for what stays as it was."""
    if (alone := decimal(to, 5)) is not None:
        return None, alone
    host, colon, port = to.rpartition(":") if to.count(":") == 1 or to.startswith("[") else (to, "", "")
    try:
        made = IPv4Address(host) if bits == 32 else IPv6Address(host.strip("[]"))
    except ValueError:
        made = None
    return None if made is None else int(made), decimal(port, 5) if colon else None
