"""Fields and values as nft writes them → those of the engine."""

from __future__ import annotations

from functools import lru_cache
from ipaddress import ip_address, ip_network
from socket import AF_INET, inet_pton
from typing import TYPE_CHECKING

from lbctl.model import Family
from lbctl_netfilter.conditions import (
    ADDRESSES,
    BITS,
    COUNTS,
    EVERY_BIT,
    PORTS,
    Words,
    address,
    fact,
    mark_of,
    merged,
    spans_rest,
    top_of,
    words,
)
from lbctl_netfilter.ir import MarkIs
from lbctl_nftables.reading import symbols
from lbctl_nftables.reading.grammar import number, seconds
from lbctl_nftables.reading.syntax import UnsupportedSyntax

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from lbctl_netfilter.conditions import Condition, Span, Values
    from lbctl_netfilter.draft import Draft

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
#: Fields of which nothing is decided before connections arrive.
_PLAIN_FIELDS = frozenset({"dst", "dport", "src", "sport", "proto", "iif", "oif"})
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
_OPTION = "tcp option "
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
    """Return a field as the engine has it, and the protocol that it implies.

    None for one of the other family.
    """
    header, _, what = name.partition(" ")
    if header in {"ip", "ip6"} and (header == "ip") != (family is Family.IPV4):
        return None
    if name.startswith(_OPTION):
        option, *rest = what.split(" ")[1:]
        known = symbols.span("tcp option", option)
        name = " ".join((_OPTION.strip(), option if known is None else str(known[0]), *rest))
    protocol = _IMPLIED.get(header)
    if protocol is not None and what in {"dport", "sport"}:
        return what, protocol
    return _NAMES.get(name, name), protocol


def ask(draft: Draft, conditions: Iterable[Condition], *, inverted: bool = False) -> None:
    """Have a draft ask for conditions, but for what the family or the state of connections decides."""
    for field, values in conditions:
        if field in _PLAIN_FIELDS:
            draft.add(field, values, inverted)
        elif not isinstance(values, Words):
            marked = mark_of(field)
            if marked is not None:
                met = spans_rest(values, EVERY_BIT) if inverted else values
                draft.step(MarkIs(*marked, met))
            else:
                draft.add(field, values, inverted)
        else:
            _ask_words(draft, field, values, inverted)


def _ask_words(draft: Draft, field: str, values: Words, inverted: bool) -> None:
    names = values.names or frozenset()
    match field:
        case "family":
            mine = not names.isdisjoint(_FAMILY_WORDS[draft.family])
            if mine is inverted:
                draft.never()
        case "state":
            states = {part for name in names for part in name.split("|")}
            draft.packets(
                first=("new" in states) is not inverted, later=("established" in states) is not inverted
            )
        case "ctdir":
            draft.first &= ("original" in names) is not inverted
        case _:
            draft.add(field, values, inverted)


def condition(field: str, texts: Iterable[str], family: Family) -> Condition | None:
    """Any of these values of a field; None where they are none of this family. Raise `UnsupportedSyntax`."""
    written = list(texts)
    if len(written) == 1 and (there := _IS_THERE.get(written[0])) is not None:
        option = field.removeprefix(_OPTION)
        is_option = option != field and " " not in option
        known = ("tcp-option", option) if is_option else _PRESENCE.get(field)
        if known is not None:
            return fact(*known, inverted=not there)
    if _is_number(field):
        try:
            spans = merged(span for text in written if (span := numbers(field, text, family)) is not None)
        except UnsupportedSyntax:
            if field not in COUNTS or len(written) != 1:
                raise
            # A user's name: nothing of this host is looked up.
            return fact(field, written[0])
        return (field, spans) if spans else None
    names = [_word(field, text) for text in written]
    return (field, words(*names)) if names else None


def _word(field: str, text: str) -> str:
    text = symbols.canonical(_SYMBOLS.get(field, field), text)
    if field == "proto" and not set(text) <= _PROTOCOL:
        raise UnsupportedSyntax(text)
    return text.lower() if field == "mac" else text


_PROTOCOL = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.+-")


def compared(field: str, op: str, text: str, family: Family) -> Values:
    """The values that stand in a relation to one; raise `UnsupportedSyntax` for fields that have no order."""
    span = numbers(field, text, family) if _is_number(field) else None
    if span is None:
        raise UnsupportedSyntax(op)
    first, last, top = *span, top_of(field, BITS[family])
    low, high = {"<": (0, first - 1), "<=": (0, last), ">": (last + 1, top), ">=": (first, top)}[op]
    return ((low, high),) if low <= high else ()


def _is_number(field: str) -> bool:
    return field in ADDRESSES or field in PORTS or field in COUNTS or mark_of(field) is not None


@lru_cache(maxsize=1 << 16)
def numbers(field: str, text: str, family: Family) -> Span | None:
    """Return the first and last number that a word stands for; None for an address of the other family."""
    if field not in ADDRESSES:
        text = symbols.canonical(_SYMBOLS.get(field, field), text)
        known = symbols.span(_SYMBOLS.get(field, field), text)
        if known is not None and known[0] <= known[1]:
            return known
    first, dash, last = text.partition("-")
    if dash:
        low, high = numbers(field, first, family), numbers(field, last, family)
        if low is None or high is None:
            return None
        if low[0] > high[1]:
            raise UnsupportedSyntax(text)
        return low[0], high[1]
    if field in ADDRESSES:
        return _addresses(text, family)
    time = seconds(text) if field == "ctexpire" else None
    value = number(text, bits=16 if field in PORTS else 32) if time is None else time
    return value, value


def _addresses(text: str, family: Family) -> Span | None:
    number = _number_of(text)
    if number is not None:
        return (number, number) if family is Family.IPV4 else None
    try:
        if "/" in text:
            network = ip_network(text, strict=False)
            span = int(network.network_address), int(network.broadcast_address)
            version = network.version
        else:
            single = ip_address(text)
            span = int(single), int(single)
            version = single.version
    except ValueError:
        # A host's name, which is never looked up.
        raise UnsupportedSyntax(text) from None
    return span if (version == 4) == (family is Family.IPV4) else None


def _number_of(text: str) -> int | None:
    """Return the number of an IPv4 address; None for anything else. `ip_address` takes four times as long."""
    try:
        return int.from_bytes(inet_pton(AF_INET, text))
    except (OSError, ValueError):
        return None


def host_of(text: str, family: Family) -> str | None:
    """Return an address as it is shown; None for one of the other family. Raise `UnsupportedSyntax`."""
    if _number_of(text) is not None:
        # Without leading zeros, which are refused.
        return text if family is Family.IPV4 else None
    span = _addresses(text, family)
    if span is not None and span[0] != span[1]:
        raise UnsupportedSyntax(text)
    return None if span is None else str(address(span[0], BITS[family]))
