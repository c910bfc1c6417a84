"""The types of nft's values: bytes as the kernel holds them ↔ text as lbctl writes it.

A set's declaration names its types by numbers that nft chose (its enum datatypes) and the kernel only keeps;
types of a concatenation take six bits each. Some values are in the host's byte order, as the kernel's
expressions give them: integers of numgen and jhash, marks, interfaces.
"""

from __future__ import annotations

import socket
import sys
from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

Speller: TypeAlias = "Callable[[bytes], str]"

#: nft's numbers of types, as far as any of ours, or of what is likely beside them, has them.
_NAMES: Mapping[int, str] = {
    2: "nf_proto",
    4: "integer",
    5: "string",
    7: "ipv4_addr",
    8: "ipv6_addr",
    9: "ether_addr",
    10: "ether_type",
    12: "inet_proto",
    13: "inet_service",
    19: "mark",
    20: "iface_index",
    26: "ct_state",
    27: "ct_dir",
    28: "ct_status",
    38: "fib_addrtype",
    41: "ifname",
}
#: Both MAC addresses of a frame; nft calls all of which it knows the size alone "integer".
LINK_ADDRESSES = "link_addresses"
_BITS = 6
#: NFT_DATA_VERDICT, the type of a verdict map's data.
VERDICT = 0xFFFFFF00
#: Bytes of a value; concatenations pad each to four.
_SIZES: Mapping[str, int] = {
    "nf_proto": 1,
    "integer": 4,
    "ipv4_addr": 4,
    "ipv6_addr": 16,
    "ether_addr": 6,
    "ether_type": 2,
    "iface_type": 2,
    LINK_ADDRESSES: 12,
    "inet_proto": 1,
    "inet_service": 2,
    "mark": 4,
    "iface_index": 4,
    "ct_state": 4,
    "ct_dir": 1,
    "ct_status": 4,
    "fib_addrtype": 4,
    "ifname": 16,
}
#: The types behind `typeof`, by the expression or its first word.
_TYPEOF: Mapping[str, str] = {
    "numgen": "integer",
    "jhash": "integer",
    "meta mark": "mark",
    "meta l4proto": "inet_proto",
    "ip saddr": "ipv4_addr",
    "ip daddr": "ipv4_addr",
    "ip6 saddr": "ipv6_addr",
    "ip6 daddr": "ipv6_addr",
    "@ll,0,96": LINK_ADDRESSES,
    "iif": "iface_index",
    "oif": "iface_index",
    "iifname": "ifname",
    "oifname": "ifname",
    "th dport": "inet_service",
    "th sport": "inet_service",
    "tcp sport": "inet_service",
    "udp sport": "inet_service",
    "tcp dport": "inet_service",
    "udp dport": "inet_service",
    "sctp dport": "inet_service",
}
_HOST_ORDER = sys.byteorder
#: Of the kernel's linux/rtnetlink.h, RTN_….
ADDRESS_TYPES: Mapping[int, str] = {
    0: "unspec",
    1: "unicast",
    2: "local",
    3: "broadcast",
    4: "anycast",
    5: "multicast",
    6: "blackhole",
    7: "unreachable",
    8: "prohibit",
}
#: Of linux/if_ether.h, ETH_P_…, and of linux/if_arp.h, ARPHRD_….
_ETHER_TYPES: Mapping[int, str] = {0x0800: "ip", 0x86DD: "ip6"}
_LINK_TYPES: Mapping[int, str] = {1: "ether"}
_PROTOCOLS: Mapping[int, str] = {6: "tcp", 17: "udp", 132: "sctp"}
#: NF_CT_STATE_BIT(…) and IPS_… of linux/netfilter/nf_conntrack_common.h.
_FLAGS: Mapping[str, Mapping[int, str]] = {
    "ct_state": {1: "invalid", 2: "established", 4: "related", 8: "new", 64: "untracked"},
    "ct_status": {1: "expected", 2: "seen-reply", 4: "assured", 8: "confirmed", 16: "snat", 32: "dnat"},
}
#: LOOPBACK_IFINDEX: the kernel gives it to the loopback interface of every network namespace.
_LOOPBACK = 1


def names(number: int, size: int = 0) -> tuple[str, ...]:
    """Return the names of the types behind a set's key or data type, in order; `size` is that of all."""
    found: list[str] = []
    while number:
        found.insert(0, _NAMES.get(number & (1 << _BITS) - 1, f"type-{number & (1 << _BITS) - 1}"))
        number >>= _BITS
    if found == ["integer"] and size == _SIZES[LINK_ADDRESSES]:
        return (LINK_ADDRESSES,)
    return tuple(found)


def declared(words: str) -> tuple[str, ...]:
    """Return the names of the types behind `type …` or `typeof …` of a declaration."""
    kind, _, rest = words.partition(" ")
    parts = rest.split(" . ")
    if kind == "type":
        return tuple(parts)
    return tuple(_TYPEOF.get(part) or _TYPEOF.get(part.split(" ")[0], part) for part in parts)


def size_of(types: Sequence[str]) -> int:
    """Return how many bytes a value of these types has; 0 if a type's size is not known."""
    if len(types) == 1:
        return _SIZES.get(types[0], 0)
    sizes = [_SIZES.get(word, 0) for word in types]
    return sum((size + 3) & ~3 for size in sizes) if all(sizes) else 0


def places(types: Sequence[str]) -> list[tuple[int, int]]:
    """Return where the value of each type begins and ends; nothing if a type's size is not known."""
    found: list[tuple[int, int]] = []
    begin = 0
    for word in types if size_of(types) else ():
        found.append((begin, begin + _SIZES[word]))
        begin = (found[-1][1] + 3) & ~3
    return found


@lru_cache(maxsize=256)
def speller(types: tuple[str, ...], size: int) -> Speller:
    """Return the function that spells a value of these types and of this size."""
    if size_of(types) != size or not types:
        return _hexadecimal
    spellers = [_SPELLERS.get(word, _hexadecimal) for word in types]
    parts = [(spell, *place) for spell, place in zip(spellers, places(types), strict=True)]
    match parts:
        case [(only, _, _)]:
            return only
        case [(first, _, middle), (second, begin, end)]:
            # Two parts have most values of all: addresses with ports.
            return lambda value: f"{first(value[:middle])} . {second(value[begin:end])}"
        case _:
            return lambda value: " . ".join([spell(value[a:b]) for spell, a, b in parts])


def spell(types: tuple[str, ...], value: bytes) -> str:
    """Return a value's text."""
    return speller(types, len(value))(value)


def encode(types: tuple[str, ...], text: str) -> bytes | None:
    """Return a value's bytes; None for a text that these types do not have."""
    words = text.split(" . ") if len(types) > 1 else [text]
    if len(words) != len(types):
        return None
    try:
        parts = [_ENCODERS[kind](word) for kind, word in zip(types, words, strict=True)]
    except (KeyError, ValueError, OverflowError):
        return None
    return parts[0] if len(parts) == 1 else b"".join(part + bytes(-len(part) % 4) for part in parts)


def flags(kind: str, mask: int) -> str | None:
    """Return the names of the bits of a mask, of connection states or status; None for others."""
    known = _FLAGS.get(kind, {})
    found = [word for bit, word in known.items() if mask & bit]
    return ",".join(found) if found and mask & ~sum(known) == 0 else None


def _hexadecimal(value: bytes) -> str:
    return f"0x{value.hex()}"


def _in_host_order(value: bytes) -> str:
    return str(int.from_bytes(value, _HOST_ORDER))


def _in_network_order(value: bytes) -> str:
    return str(int.from_bytes(value, "big"))


def _ipv6(value: bytes) -> str:
    text = socket.inet_ntop(socket.AF_INET6, value)
    # The C library and Python differ in addresses that have an IPv4 address inside.
    return str(IPv6Address(value)) if "." in text else text


def _protocol(value: bytes) -> str:
    return _PROTOCOLS.get(value[0]) or str(value[0])


def _interface(value: bytes) -> str:
    number = int.from_bytes(value, _HOST_ORDER)
    return '"lo"' if number == _LOOPBACK else str(number)


def interface_name(value: bytes) -> str:
    """Return a name in quotes; one that is cut off stands for all that begin with it."""
    text = value.rstrip(b"\0").decode(errors="backslashreplace")
    return f'"{text}"' if len(value) == _SIZES["ifname"] else f'"{text}*"'


def _address_type(value: bytes) -> str:
    number = int.from_bytes(value, _HOST_ORDER)
    return ADDRESS_TYPES.get(number, str(number))


def _ether_type(value: bytes) -> str:
    number = int.from_bytes(value, "big")
    return _ETHER_TYPES.get(number, f"{number:#06x}")


def _link_type(value: bytes) -> str:
    number = int.from_bytes(value, _HOST_ORDER)
    return _LINK_TYPES.get(number, str(number))


def _bits(kind: str) -> Speller:
    def spelled(value: bytes) -> str:
        number = int.from_bytes(value, _HOST_ORDER)
        return flags(kind, number) or f"{number:#x}"

    return spelled


_SPELLERS: Mapping[str, Speller] = {
    "integer": _in_host_order,
    "mark": _in_host_order,
    "ipv4_addr": socket.inet_ntoa,
    "ipv6_addr": _ipv6,
    "ether_addr": lambda value: value.hex(":"),
    "ether_type": _ether_type,
    "iface_type": _link_type,
    "inet_proto": _protocol,
    "inet_service": _in_network_order,
    "iface_index": _interface,
    "ifname": interface_name,
    "fib_addrtype": _address_type,
    "ct_state": _bits("ct_state"),
    "ct_status": _bits("ct_status"),
}
_PROTOCOL_NUMBERS = {word: number for number, word in _PROTOCOLS.items()}
_ENCODERS: Mapping[str, Callable[[str], bytes]] = {
    "integer": lambda text: int(text).to_bytes(4, _HOST_ORDER),
    "mark": lambda text: int(text).to_bytes(4, _HOST_ORDER),
    "ipv4_addr": lambda text: _address(text, 4),
    "ipv6_addr": lambda text: _address(text, 6),
    "inet_proto": lambda text: bytes([_PROTOCOL_NUMBERS.get(text) or int(text)]),
    "inet_service": lambda text: int(text).to_bytes(2, "big"),
    "iface_index": lambda text: (_LOOPBACK if text == '"lo"' else int(text)).to_bytes(4, _HOST_ORDER),
}


def _address(text: str, version: int) -> bytes:
    address = ip_address(text)
    if address.version != version:
        raise ValueError(text)
    return address.packed
