"""Values as rules of iptables have them: addresses, ports, marks and probabilities as text."""

from __future__ import annotations

import socket
from functools import lru_cache
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import TYPE_CHECKING

from lbctl.model import Family, decimal
from lbctl_iptables.pick import DRAW
from lbctl_netfilter.conditions import BITS, EVERY_BIT, merged

if TYPE_CHECKING:
    from lbctl_netfilter.conditions import Spans

#: Services that old texts name. A reader looks nothing up on the host that it runs on.
_SERVICES = {
    "ftp-data": 20, "ftp": 21, "ssh": 22, "telnet": 23, "smtp": 25, "domain": 53, "bootps": 67, "bootpc": 68,
    "tftp": 69, "http": 80, "www": 80, "http-alt": 8080, "webcache": 8080, "pop3": 110, "sunrpc": 111,
    "ntp": 123, "imap": 143, "imap2": 143, "snmp": 161, "bgp": 179, "ldap": 389, "https": 443,
    "submissions": 465, "syslog": 514, "submission": 587, "ldaps": 636, "imaps": 993, "pop3s": 995,
    "openvpn": 1194, "mysql": 3306, "postgresql": 5432, "sip": 5060, "redis": 6379,
}  # fmt: skip


class UnreadableValue(ValueError):
    """A value that cannot be read: why."""


@lru_cache(maxsize=1 << 16)
def addresses(text: str, family: Family) -> Spans | None:
    """Return an address, a network or a range `a-b`; None for all of them. Raise `UnreadableValue`."""
    low, dash, high = text.partition("-")
    if dash:
        first, last = addresses(low, family), addresses(high, family)
        if first is None or last is None or first[0][0] > last[0][1]:
            raise UnreadableValue("a range of addresses whose end is below its start")
        return ((first[0][0], last[0][1]),)
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
                    raise UnreadableValue(f"/{length} is longer than an address")
            else:
                mask = int.from_bytes(socket.inet_pton(kind, tail), "big")
                length = mask.bit_count()
                if mask != (((1 << length) - 1) << (bits - length)):
                    raise UnreadableValue("a mask with gaps")
    except (OSError, ValueError) as error:
        if isinstance(error, UnreadableValue):
            raise
        raise UnreadableValue("not an address of this family") from None
    first_of = value >> (bits - length) << (bits - length)
    return ((first_of, first_of + (1 << (bits - length)) - 1),) if length else None


@lru_cache(maxsize=1 << 16)
def ports(text: str) -> Spans | None:
    """`80`, `http`, `8000:8003`, `80,443`; None for all ports. Raise `UnreadableValue`."""
    found: list[tuple[int, int]] = []
    for part in text.split(","):
        low, colon, high = part.partition(":")
        first = _port(low) if low or not colon else 0
        last = (_port(high) if high else 65535) if colon else first
        if first > last:
            raise UnreadableValue("a range of ports whose end is below its start")
        found.append((first, last))
    spans = merged(found)
    return None if spans == ((0, 65535),) else spans


def _port(text: str) -> int:
    if (found := decimal(text, 5)) is not None and found <= 65535:
        return found
    if (known := _SERVICES.get(text.lower())) is not None:
        return known
    raise UnreadableValue("an unknown name of a port")


def counts(text: str) -> Spans | None:
    """Return a number or a range `a:b`, decimal or hexadecimal; None for what is neither."""
    low, colon, high = text.partition(":")
    try:
        first = bits_of(low) if low else 0
        last = (bits_of(high) if high else EVERY_BIT) if colon else first
    except ValueError:
        return None
    return ((first, last),) if first <= last else None


def masked(text: str) -> tuple[int, int]:
    """Return a mark and its mask, as written. Raise `ValueError`."""
    value, slash, mask = text.partition("/")
    return bits_of(value), bits_of(mask) if slash else EVERY_BIT


def bits_of(text: str) -> int:
    """Return a number of 32 bits, as written. Raise `ValueError`."""
    if len(text) > 12 or not text.isascii():
        raise ValueError(text[:12])
    octal = len(text) > 1 and text[0] == "0" and decimal(text, 12) is not None
    found = int(text, 8 if octal else 0)
    if not 0 <= found <= EVERY_BIT:
        raise ValueError(text)
    return found


def number(text: str) -> int | None:
    """Return a decimal number of 32 bits; None for anything else."""
    found = decimal(text)
    return found if found is not None and found <= EVERY_BIT else None


@lru_cache(maxsize=1 << 12)
def stored_chance(text: str) -> int | None:
    """Return what the kernel keeps of a probability: the nearest of 2^31; None for what is no probability."""
    if not text.isascii() or "_" in text or len(text) > 64:
        return None
    try:
        value = float(text)
    except ValueError:
        return None
    if value != value:
        return 0
    if not 0 <= value <= 1:
        return None
    # As iptables: lround of a double, of which halves go up.
    return int(value * DRAW + 0.5)


def family_of(text: str) -> Family | None:
    """Return the family of an address or network, with a port or not; None for anything else."""
    head = text.partition("/")[0].partition(",")[0]
    if head.startswith("["):
        head = head[1:].partition("]")[0]
    if head.count(":") >= 2:
        try:
            IPv6Address(head.partition("-")[0])
        except AddressValueError:
            return None
        return Family.IPV6
    head = head.partition(":")[0].partition("-")[0]
    if head.count(".") == 3:
        try:
            IPv4Address(head)
        except AddressValueError:
            return None
        return Family.IPV4
    return None
