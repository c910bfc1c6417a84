"""Fields and values as nft writes them → those of the engine."""

from __future__ import annotations

from functools import lru_cache
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING

from lbctl.model import Family
from lbctl_netfilter.conditions import (
    ADDRESSES,
    BITS,
    COUNTS,
    PORTS,
    Words,
    fact,
    mark_of,
    merged,
    top_of,
    words,
)
from lbctl_nftables.reading import symbols
from lbctl_nftables.reading.grammar import Strange, number, seconds

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from lbctl_netfilter.conditions import Condition, Span, Values

#: Field of nft → that of the engine, where it is called otherwise.
_NAMES: Mapping[str, str] = {
    "ip daddr": "dst", "ip6 daddr": "dst", "ip saddr": "src", "ip6 saddr": "src", "th dport": "dport",
    "th sport": "sport", "meta l4proto": "proto", "ip protocol": "proto", "ip6 nexthdr": "proto",
    "iifname": "iif", "oifname": "oif", "fib daddr type": "dst-type", "fib saddr type": "src-type",
    "ct mark": "connmark", "ct state": "state", "meta nfproto": "family", "meta protocol": "family",
    "ct original ip daddr": "ctorigdst", "ct original ip6 daddr": "ctorigdst",
    "ct original daddr": "ctorigdst", "ct original ip saddr": "ctorigsrc",
    "ct original ip6 saddr": "ctorigsrc", "ct original saddr": "ctorigsrc",
    "ct original proto-dst": "ctorigdstport", "ct original proto-src": "ctorigsrcport",
    "ct status": "ctstatus", "ct direction": "ctdir", "ct helper": "helper", "skuid": "uid", "skgid": "gid",
    "ip dscp": "dscp", "ip6 dscp": "dscp", "ip ecn": "ecn", "ip6 ecn": "ecn",
    "ip ttl": "ttl", "ip6 hoplimit": "ttl", "meta length": "length",
    "icmp type": "icmp-type", "icmpv6 type": "icmpv6-type", "ct original protocol": "ctproto",
    "ether saddr": "mac", "ibrname": "bridge-iif", "obrname": "bridge-oif", "ct expiration": "ctexpire",
    "rtclassid": "realm", "rt classid": "realm", "dccp type": "dccp-type", "ah spi": "ahspi",
    "esp spi": "espspi", "comp cpi": "ipcompspi", "tcp option 2 size": "mss",
    **{
        f"fib {address}addr . {link} type": f"{name}-type-{link}"
        for address, name in (("d", "dst"), ("s", "src"))
        for link in ("iif", "oif")
    },
}  # fmt: skip
#: Header → the protocol that a condition on one of its fields implies.
_IMPLIED: Mapping[str, str] = {
    **{name: name for name in ("tcp", "udp", "sctp", "dccp", "udplite", "ah", "esp", "icmp")},
    "comp": "ipcomp",
    "icmpv6": "ipv6-icmp",
}
#: Field of which nft asks whether it is there → the fact that this is.
_PRESENCE: Mapping[str, tuple[str, str]] = {
    "meta ipsec": ("ipsec", "in"), "meta secpath": ("ipsec", "in"), "rt ipsec": ("ipsec", "out"),
    "fib saddr . iif oif": ("rpfilter", "strict"), "fib saddr oif": ("rpfilter", "loose"),
    "fib saddr . mark . iif oif": ("rpfilter", "strict,mark"),
    "fib saddr . mark oif": ("rpfilter", "loose,mark"),
}  # fmt: skip
_IS_THERE: Mapping[str, bool] = {"exists": True, "1": True, "missing": False, "0": False}
_FAMILY_WORDS: Mapping[Family, frozenset[str]] = {
    Family.IPV4: frozenset({"ipv4", "ip"}),
    Family.IPV6: frozenset({"ipv6", "ip6"}),
}
#: Field of the engine → that by whose table of names nft reads its values.
_SYMBOLS: Mapping[str, str] = {
    "ctorigsrcport": "sport", "ctstatus": "ct status", "ctdir": "ct direction", "uid": "skuid",
    "icmp-type": "icmp type", "icmpv6-type": "icmpv6 type", "ctproto": "proto", "gid": "skgid",
    "dscp": "ip dscp", "ecn": "ip ecn", "ttl": "ip ttl", "length": "meta length", "realm": "rtclassid",
    "dccp-type": "dccp type",
    **{f"{name}-type-{link}": "dst-type" for name in ("dst", "src") for link in ("iif", "oif")},
}  # fmt: skip


@lru_cache(maxsize=1 << 10)
def field_of(name: str, family: Family) -> tuple[str, str | None] | None:
    """A field as the engine has it, and the protocol that it implies; None for one of the other family."""
    header, _, what = name.partition(" ")
    if header in {"ip", "ip6"} and (header == "ip") != (family is Family.IPV4):
        return None
    protocol = _IMPLIED.get(header)
    if protocol is not None and what in {"dport", "sport"}:
        return what, protocol
    return _NAMES.get(name, name), protocol


def is_family(values: Words, family: Family) -> bool:
    """True where a condition on the family of packets holds for one."""
    mine = _FAMILY_WORDS[family]
    return bool(values.names & mine) if values.names is not None else not values.but & mine


def condition(field: str, texts: Iterable[str], family: Family) -> Condition | None:
    """Any of these values of a field; None where they are none of this family. Raise `Strange`."""
    written = list(texts)
    if len(written) == 1 and (there := _IS_THERE.get(written[0])) is not None:
        known = _PRESENCE.get(field)
        if known is None and field.startswith("tcp option ") and " " not in field[11:]:
            known = "tcp-option", field[11:]
        if known is not None:
            return fact(*known, inverted=not there)
    if _is_number(field):
        try:
            spans = merged(span for text in written if (span := _span(field, text, family)) is not None)
        except Strange:
            if field not in COUNTS or len(written) != 1:
                raise
            # A user's name, which is looked up by nobody here.
            return fact(field, written[0])
        return (field, spans) if spans else None
    names = [_word(field, text) for text in written]
    return (field, words(*names)) if names else None


def _word(field: str, text: str) -> str:
    text = symbols.canonical(_SYMBOLS.get(field, field), text)
    if field == "proto" and not set(text) <= _PROTOCOL:
        raise Strange(text)
    return text.lower() if field == "mac" else text


_PROTOCOL = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.+-")


def compared(field: str, op: str, text: str, family: Family) -> Values:
    """The values that stand in a relation to one; raise `Strange` for fields that have no order."""
    span = _span(field, text, family) if _is_number(field) else None
    if span is None:
        raise Strange(op)
    first, last, top = *span, top_of(field, BITS[family])
    low, high = {"<": (0, first - 1), "<=": (0, last), ">": (last + 1, top), ">=": (first, top)}[op]
    return ((low, high),) if low <= high else ()


def _is_number(field: str) -> bool:
    return field in ADDRESSES or field in PORTS or field in COUNTS or mark_of(field) is not None


@lru_cache(maxsize=1 << 16)
def _span(field: str, text: str, family: Family) -> Span | None:
    """The first and last number that a word stands for; None for an address of the other family."""
    if field not in ADDRESSES:
        text = symbols.canonical(_SYMBOLS.get(field, field), text)
        known = symbols.span(_SYMBOLS.get(field, field), text)
        if known is not None and known[0] <= known[1]:
            return known
    first, dash, last = text.partition("-")
    if dash:
        low, high = _span(field, first, family), _span(field, last, family)
        if low is None or high is None:
            return None
        if low[0] > high[1]:
            raise Strange(text)
        return low[0], high[1]
    if field in ADDRESSES:
        return _addresses(text, family)
    time = seconds(text) if field == "ctexpire" else None
    value = number(text, bits=16 if field in PORTS else 32) if time is None else time
    return value, value


def _addresses(text: str, family: Family) -> Span | None:
    try:
        if "/" in text:
            network = ip_network(text, strict=False)
            span = int(network.network_address), int(network.broadcast_address)
            version = network.version
        else:
            address = ip_address(text)
            span = int(address), int(address)
            version = address.version
    except ValueError:
        # A host's name, which is never looked up.
        raise Strange(text) from None
    return span if (version == 4) == (family is Family.IPV4) else None
