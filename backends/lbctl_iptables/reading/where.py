"""Which connections a rule is about, as values: what is in what, and what two have in common."""

from __future__ import annotations

import socket
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from lbctl.model import Family, decimal

if TYPE_CHECKING:
    from collections.abc import Iterable

#: The first bits of an address, as a number with all bits, and how many they are.
Net: TypeAlias = tuple[int, int]
#: Ranges of ports, sorted and apart.
Ports: TypeAlias = tuple[tuple[int, int], ...]
BITS = {Family.IPV4: 32, Family.IPV6: 128}
NOT = "! "
LOCAL = ("dst-type", "LOCAL")
LOCAL_SOURCE, REMOTE_SOURCE = ("src-type", "LOCAL"), ("src-type", NOT + "LOCAL")

#: Services that old texts name. A reader looks nothing up on the host that it runs on.
_SERVICES = {
    "ftp-data": 20,
    "ftp": 21,
    "ssh": 22,
    "telnet": 23,
    "smtp": 25,
    "domain": 53,
    "bootps": 67,
    "bootpc": 68,
    "tftp": 69,
    "http": 80,
    "www": 80,
    "http-alt": 8080,
    "webcache": 8080,
    "pop3": 110,
    "sunrpc": 111,
    "ntp": 123,
    "imap": 143,
    "imap2": 143,
    "snmp": 161,
    "bgp": 179,
    "ldap": 389,
    "https": 443,
    "submissions": 465,
    "syslog": 514,
    "submission": 587,
    "ldaps": 636,
    "imaps": 993,
    "pop3s": 995,
    "openvpn": 1194,
    "mysql": 3306,
    "postgresql": 5432,
    "sip": 5060,
    "redis": 6379,
}


class Unclear(ValueError):
    """A value that cannot be read: what, and why."""


class Where(NamedTuple):
    """Connections with all of this; "", None and () are no condition. `extra` is sorted."""

    protocol: str = ""
    dst: Net | None = None
    dport: Ports | None = None
    extra: tuple[tuple[str, str], ...] = ()


EVERYTHING = Where()


@lru_cache(maxsize=1 << 16)
def net(text: str, family: Family) -> Net | None:
    """An address or a network; None for all of them. Raises `Unclear`."""
    head, slash, tail = text.partition("/")
    bits = BITS[family]
    kind = socket.AF_INET if family is Family.IPV4 else socket.AF_INET6
    try:
        value = int.from_bytes(socket.inet_pton(kind, head), "big")
        length = bits
        if slash:
            if (found := decimal(tail)) is not None:
                length = found
                if length > bits:
                    raise Unclear(f"/{length} is longer than an address")
            else:
                mask = int.from_bytes(socket.inet_pton(kind, tail), "big")
                length = mask.bit_count()
                if mask != (((1 << length) - 1) << (bits - length)):
                    raise Unclear("a mask with holes")
    except (OSError, ValueError) as error:
        if isinstance(error, Unclear):
            raise
        raise Unclear("no address of this family") from None
    return (value >> (bits - length) << (bits - length), length) if length else None


def show_net(value: Net, family: Family) -> str:
    """As `203.0.113.10` or `10.0.0.0/8`."""
    number, length = value
    address = IPv4Address(number) if family is Family.IPV4 else IPv6Address(number)
    return str(address) if length == BITS[family] else f"{address}/{length}"


@lru_cache(maxsize=1 << 16)
def ports(text: str) -> Ports | None:
    """`80`, `http`, `8000:8003`, `80,443`; None for all ports. Raises `Unclear`."""
    found: list[tuple[int, int]] = []
    for part in text.split(","):
        low, colon, high = part.partition(":")
        first = _port(low) if low or not colon else 0
        last = (_port(high) if high else 65535) if colon else first
        if first > last:
            raise Unclear("a range of ports that runs backwards")
        found.append((first, last))
    merged: list[tuple[int, int]] = []
    for first, last in sorted(found):
        if merged and first <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    return None if merged == [(0, 65535)] else tuple(merged)


def _port(text: str) -> int:
    if (found := decimal(text, 5)) is not None and found <= 65535:
        return found
    if (known := _SERVICES.get(text.lower())) is not None:
        return known
    raise Unclear("a port by a name that is not known here")


def show_ports(value: Ports) -> str:
    """`80`, `8000-8003`, `80,443`."""
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in value)


def inside(net_: Net, of: Net, bits: int) -> bool:
    """True where all addresses of one are in the other."""
    return net_[1] >= of[1] and net_[0] >> (bits - of[1]) == of[0] >> (bits - of[1])


def _ports_inside(mine: Ports, of: Ports) -> bool:
    return all(any(a <= low and high <= b for a, b in of) for low, high in mine)


@lru_cache(maxsize=1 << 14)
def _ports_meet(one: Ports, other: Ports) -> Ports:
    return tuple(sorted((max(a, c), min(b, d)) for a, b in one for c, d in other if max(a, c) <= min(b, d)))


def covers(rule: Where, given: Where, bits: int) -> bool | None:
    """True where the rule sees all of these connections, False where none, None where perhaps some."""
    if rule is given or rule == given:
        return True
    if rule.protocol and rule.protocol != given.protocol:
        return None if not given.protocol else False
    partly = False
    if rule.dst is not None:
        if given.dst is None:
            partly = True
        elif not inside(given.dst, rule.dst, bits):
            if not inside(rule.dst, given.dst, bits):
                return False
            partly = True
    if rule.dport is not None:
        if given.dport is None:
            partly = True
        elif not _ports_inside(given.dport, rule.dport):
            if not _ports_meet(rule.dport, given.dport):
                return False
            partly = True
    if rule.extra and rule.extra != given.extra:
        found = _extras(rule.extra, given.extra, bits)
        if found is False:
            return False
        partly |= found is None
    return None if partly else True


def _extras(rule: tuple[tuple[str, str], ...], given: tuple[tuple[str, str], ...], bits: int) -> bool | None:
    partly = False
    for pair in rule:
        if pair in given:
            continue
        answer: bool | None = None
        for name, value in given:
            if name == pair[0]:
                one = _one(name, pair[1], value, bits)
                if one is not None:
                    answer = one
                    break
        if answer is False:
            return False
        partly |= answer is None
    return None if partly else True


#: Conditions of which a connection has exactly one value, spelled in one way.
_SINGLE = frozenset(
    {"iif", "oif", "proto", "mark", "connmark", "mac", "fragment", "uid", "dst-type", "src-type"}
)
_NETS = frozenset({"src", "dst", "ctorigdst"})
_PORTS = frozenset({"sport", "dport", "ctorigdstport"})


def _one(name: str, rule: str, given: str, bits: int) -> bool | None:
    """True where `given` implies `rule`, False where it excludes it."""
    rule_not, given_not = rule.startswith(NOT), given.startswith(NOT)
    r, g = rule.removeprefix(NOT), given.removeprefix(NOT)
    if r == g:
        return rule_not == given_not
    if name in _NETS and "-" not in r + g:
        family = Family.IPV4 if bits == 32 else Family.IPV6
        a, b = net(r, family), net(g, family)
        if a is None or b is None:
            return None
        in_rule, in_given = inside(b, a, bits), inside(a, b, bits)
        if not given_not:
            if in_rule:
                return not rule_not
            if not in_given:
                return rule_not
        elif (rule_not and in_given and not in_rule) or (rule_not and in_rule):
            return None
        elif given_not and not rule_not and in_given:
            return False
        return None
    if name in _PORTS:
        a_ports, b_ports = ports(r), ports(g)
        if a_ports is None or b_ports is None or given_not:
            return None
        if _ports_inside(b_ports, a_ports):
            return not rule_not
        if not _ports_meet(a_ports, b_ports):
            return rule_not
        return None
    if name in _SINGLE and not given_not and "+" not in r + g and "," not in r + g:
        if name in {"dst-type", "src-type"} or "/" in r + g:
            return None
        return rule_not
    if name == "iif" or name == "oif":
        return _interfaces(r, g, rule_not, given_not)
    return None


def _interfaces(rule: str, given: str, rule_not: bool, given_not: bool) -> bool | None:
    if given_not:
        return None
    if rule.endswith("+"):
        if given.rstrip("+").startswith(rule[:-1]):
            return not rule_not
        if not given.endswith("+") or not rule[:-1].startswith(given[:-1]):
            return rule_not
    return None


def exact(pair: tuple[str, str], bits: int) -> tuple[str, str | Net] | None:
    """A condition that only those meet who have the very same one, or a network inside; None for others."""
    name, value = pair
    if value.startswith(NOT) or name in _PORTS or "+" in value:
        return None
    if name not in _NETS:
        return name, value
    if "-" in value:
        # A range may stand beside a network.
        return f"{name} range", value
    found = net(value, Family.IPV4 if bits == 32 else Family.IPV6)
    return None if found is None else (name, found)


def alone(name: str, value: str | Net | None, bits: int) -> bool:
    """True where whoever has this value of a condition can have no part that has another."""
    if isinstance(value, tuple):
        return value[1] == bits
    return value is not None and name in _SINGLE - {"dst-type", "src-type"} and not set("/,") & set(value)


def around(net_: Net | None, length: int | None, bits: int) -> Net | None:
    """The network of this length that a network is in."""
    if net_ is None or length is None or net_[1] < length:
        return None
    shift = bits - length
    return net_[0] >> shift << shift, length


def meet(one: Where, other: Where, bits: int) -> Where | None:
    """Connections that are in both; None where there is none."""
    if other is EVERYTHING:
        return one
    if one is EVERYTHING:
        return other
    if one.protocol and other.protocol and one.protocol != other.protocol:
        return None
    dst = one.dst
    if other.dst is not None:
        if dst is None or inside(other.dst, dst, bits):
            dst = other.dst
        elif not inside(dst, other.dst, bits):
            return None
    dport = one.dport
    if other.dport is not None:
        if dport is None:
            dport = other.dport
        elif dport != other.dport:
            dport = _ports_meet(dport, other.dport)
            if not dport:
                return None
    extra = one.extra
    if other.extra and other.extra != extra:
        if not extra:
            extra = other.extra
        else:
            merged = _merged(extra, other.extra, bits)
            if merged is None:
                return None
            extra = merged
    protocol = one.protocol or other.protocol
    if protocol == one.protocol and dst is one.dst and dport is one.dport and extra is one.extra:
        return one
    return Where(protocol, dst, dport, extra)


def _merged(
    one: tuple[tuple[str, str], ...], other: tuple[tuple[str, str], ...], bits: int
) -> tuple[tuple[str, str], ...] | None:
    kept = dict.fromkeys(one)
    for name, value in other:
        drop: list[tuple[str, str]] = []
        needed = True
        for mine in kept:
            if mine[0] != name:
                continue
            implied = _one(name, value, mine[1], bits)
            if implied is False:
                return None
            if implied:
                needed = False
                break
            if _one(name, mine[1], value, bits):
                drop.append(mine)
        if needed:
            for pair in drop:
                del kept[pair]
            kept[name, value] = None
    return tuple(sorted(kept))


def extras(pairs: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """Conditions in their one order."""
    return tuple(sorted(set(pairs)))
