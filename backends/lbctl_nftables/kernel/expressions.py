"""A rule's expressions → its text, as `compile` writes it.

The expressions run over symbolic registers: each load puts the text of what it loads into a register, each
statement takes texts out. So it does not matter which registers a version of nft chose, whether it loaded a
value twice, or in how many steps. What is not known is spelled as the expression's name with its attributes
in hexadecimal digits: it is stable, and differs from everything that lbctl wants.
"""

from __future__ import annotations

import sys
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple, Protocol

from lbctl_nftables.kernel import datatypes, netlink
from lbctl_nftables.kernel.values import verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from lbctl_nftables.kernel.values import Set

#: Bytes of a register by the 32-bit numbers, and the first of these numbers; 1 to 4 are of 16 bytes.
_WORD, _FIRST_WORD, _WIDE = 4, 8, 16
#: NFT_PAYLOAD_…
_LINK, _NETWORK, _TRANSPORT = 0, 1, 2
#: The same → the word for the header; the last two are NFT_PAYLOAD_INNER_HEADER and …_TUN_HEADER.
_HEADERS = ("ll", "nh", "th", "ih", "tun")
#: Offset and size in the header of Ethernet → field and its type.
_ETHERNET: Mapping[tuple[int, int], tuple[str, str]] = {
    (0, 6): ("ether daddr", "ether_addr"),
    (6, 6): ("ether saddr", "ether_addr"),
    (12, 2): ("ether type", "ether_type"),
    (0, 12): ("@ll,0,96", datatypes.LINK_ADDRESSES),
}
#: Where the flags of TCP are.
_TCP_FLAGS = 13
#: Offset in the header of family `ip` or `ip6` → field; its size is that of an address.
_ADDRESSES: Mapping[str, Mapping[int, str]] = {
    "ip": {12: "saddr", 16: "daddr"},
    "ip6": {8: "saddr", 24: "daddr"},
}
_ADDRESS_TYPES: Mapping[str, str] = {"ip": "ipv4_addr", "ip6": "ipv6_addr"}
_PORTS: Mapping[int, str] = {0: "sport", 2: "dport"}
#: NFT_META_… → text and type.
META: Mapping[int, tuple[str, str]] = {
    1: ("meta protocol", "ether_type"),
    3: ("meta mark", "mark"),
    4: ("iif", "iface_index"),
    5: ("oif", "iface_index"),
    6: ("iifname", "ifname"),
    7: ("oifname", "ifname"),
    8: ("meta iiftype", "iface_type"),
    16: ("meta l4proto", "inet_proto"),
    24: ("meta random", "integer"),
}
#: NFT_CT_… → text and type.
CONNTRACK: Mapping[int, tuple[str, str]] = {
    0: ("state", "ct_state"),
    2: ("status", "ct_status"),
    3: ("mark", "mark"),
    10: ("protocol", "inet_proto"),
    11: ("proto-src", "inet_service"),
    12: ("proto-dst", "inet_service"),
    19: ("ip saddr", "ipv4_addr"),
    20: ("ip daddr", "ipv4_addr"),
    21: ("ip6 saddr", "ipv6_addr"),
    22: ("ip6 daddr", "ipv6_addr"),
}
_DIRECTIONS = ("original", "reply")
#: NFTA_FIB_F_…
_FIB: Mapping[int, str] = {1: "saddr", 2: "daddr", 4: "mark", 8: "iif", 16: "oif"}
_FIB_TYPE = 3
#: NFT_CMP_… and NFT_RANGE_…: how the value stands to what is compared.
_RELATIONS = (" ", " != ", " < ", " <= ", " > ", " >= ")
_EQUAL, _UNEQUAL, _AT_MOST, _AT_LEAST = 0, 1, 3, 5
#: NF_NAT_RANGE_…: those that follow from the registers, and those that nft writes.
_MAP_ADDRESSES, _MAP_PORTS = 0x1, 0x2
_NAT_FLAGS: Mapping[int, str] = {4: "random", 8: "persistent", 16: "fully-random"}
_INVERTED = 0x1
_SECOND = 1000


class _Value(NamedTuple):
    """What a register, and those behind it, hold."""

    text: str
    #: In bytes.
    size: int
    types: tuple[str, ...] = ()
    #: The bytes of a constant.
    constant: bytes | None = None
    #: Of a value of which some bits are kept.
    mask: bytes = b""
    #: The part of an address that was loaded, of a prefix that ends at a whole byte.
    whole: int = 0


class Sets(Protocol):
    """The sets and maps of the table that a rule is in."""

    def declaration(self, name: str) -> Set | None:
        """Return a set's declaration."""

    def anonymous(self, name: str) -> str:
        """Return the elements of an anonymous set or map, in braces."""

    def interface(self, index: int) -> str | None:
        """Return the name of an interface; None if there is none."""


class _Unknown(Exception):
    """An expression, or a way to use one, that has no text here."""


def _split(expression: bytes) -> tuple[str, Mapping[int, bytes]]:
    """Return the name and the attributes of an expression."""
    fields = netlink.attributes(expression)
    return netlink.text(fields.get(1, b"")), netlink.attributes(fields.get(2, b""))


#: The rules of a large table have few different expressions.
_known = lru_cache(maxsize=4096)(_split)


def spell(family: str, expressions: bytes, sets: Sets, *, is_ingress: bool = False) -> str:
    """Return the text of a rule of a table of `family`, or of packets of it in one of family `netdev`."""
    rule = _Registers(family, sets, is_ingress=is_ingress)
    for _, expression in netlink.each(expressions):
        rule.run(*_known(expression))
    return rule.text()


def counters(expressions: bytes) -> Iterator[tuple[int, int]]:
    """Yield the packets and the bytes that each counter of a rule has counted."""
    for _, expression in netlink.each(expressions):
        name, fields = _split(expression)
        if name == "counter":
            yield netlink.number(fields.get(2, b"")), netlink.number(fields.get(1, b""))


class _Registers:
    """The registers of one rule, and the statements that have been run."""

    def __init__(self, family: str, sets: Sets, *, is_ingress: bool) -> None:
        self._family = family
        #: False until a rule at ingress has asked for the family: there, fields have no names before that.
        self._is_family_known = not is_ingress
        self._sets = sets
        self._registers: dict[int, _Value] = {}
        self._statements: list[str] = []
        #: The one protocol that packets have which come this far, and where the statement is that says so.
        self._protocol: tuple[str, int] | None = None

    def text(self) -> str:
        return " ".join(filter(None, self._statements))

    def run(self, name: str, fields: Mapping[int, bytes]) -> None:
        """Run one expression."""
        do = _EXPRESSIONS.get(name)
        try:
            if do is None:
                raise _Unknown
            do(self, fields)
        except (_Unknown, KeyError, IndexError):
            shown = " ".join(f"{kind}={value.hex()}" for kind, value in fields.items())
            self._statements.append(f"[{name} {shown}]")

    # loads

    def meta(self, fields: Mapping[int, bytes]) -> None:
        text, kind = META[netlink.number(fields[2])]
        if 3 in fields:
            value = self._take(fields[3], datatypes.size_of((kind,)))
            self._statements.append(f"{text} set {self._shown(value, (kind,))}")
        else:
            self._put(fields[1], _Value(text, datatypes.size_of((kind,)), (kind,)))

    def payload(self, fields: Mapping[int, bytes]) -> None:
        base, offset, size = (netlink.number(fields[kind]) for kind in (2, 3, 4))
        if 1 in fields:
            self._put(fields[1], self._loaded(base, offset, size))
            return
        if any(any(fields.get(each, b"")) for each in (6, 8)):
            raise _Unknown
        target = self._loaded(base, offset, size)
        self._statements.append(f"{target.text} set {self._shown(self._take(fields[5], size), target.types)}")

    def _loaded(self, base: int, offset: int, size: int) -> _Value:
        kind = _ADDRESS_TYPES[self._family]
        whole = datatypes.size_of((kind,))
        field = _ADDRESSES.get(self._family, {}).get(offset)
        if base == _NETWORK and field and size <= whole and self._is_family_known:
            return _Value(f"{self._family} {field}", size, (kind,), whole=0 if size == whole else whole)
        if base == _LINK and (offset, size) in _ETHERNET:
            field, kind = _ETHERNET[offset, size]
            return _Value(field, size, (kind,))
        if base == _TRANSPORT and offset == _TCP_FLAGS and size == 1 and self._is_tcp:
            return _Value(f"{self._transport()} flags", size)
        if base == _TRANSPORT and offset in _PORTS and size == 2:
            return _Value(f"{self._transport()} {_PORTS[offset]}", size, ("inet_service",))
        return _Value(f"@{_HEADERS[base]},{offset * 8},{size * 8}", size)

    @property
    def _is_tcp(self) -> bool:
        return self._protocol is not None and self._protocol[0] == "tcp"

    def _transport(self) -> str:
        """Return the word for the transport header. It says what a match on the protocol before it said.

        Where something was done in between, it matters that the match came first.
        """
        if self._protocol is None:
            return "th"
        protocol, place = self._protocol
        if not any(self._statements[place + 1 :]):
            self._statements[place] = ""
        return protocol

    def conntrack(self, fields: Mapping[int, bytes]) -> None:
        text, kind = CONNTRACK[netlink.number(fields[2])]
        size = datatypes.size_of((kind,))
        if 4 in fields:
            self._statements.append(f"ct {text} set {self._shown(self._take(fields[4], size), (kind,))}")
            return
        direction = f"{_DIRECTIONS[fields[3][0]]} " if 3 in fields else ""
        self._put(fields[1], _Value(f"ct {direction}{text}", size, (kind,)))

    def fib(self, fields: Mapping[int, bytes]) -> None:
        if netlink.number(fields[2]) != _FIB_TYPE:
            raise _Unknown
        flags = netlink.number(fields[3])
        words = [word for bit, word in _FIB.items() if flags & bit]
        if flags & ~sum(_FIB):
            raise _Unknown
        self._put(fields[1], _Value(f"fib {' . '.join(words)} type", 4, ("fib_addrtype",)))

    def numgen(self, fields: Mapping[int, bytes]) -> None:
        mode = ("inc", "random")[netlink.number(fields[3])]
        span = f"mod {netlink.number(fields[2])} offset {netlink.number(fields.get(4, b''))}"
        self._put(fields[1], _Value(f"numgen {mode} {span}", 4, ("integer",)))

    def hash(self, fields: Mapping[int, bytes]) -> None:
        if netlink.number(fields.get(7, b"")):
            raise _Unknown
        key = self._take(fields[1], netlink.number(fields[3])).text
        seed = f" seed {netlink.number(fields[5]):#x}" if 5 in fields else ""
        span = f"mod {netlink.number(fields[4])}{seed} offset {netlink.number(fields.get(6, b''))}"
        self._put(fields[2], _Value(f"jhash {key} {span}", 4, ("integer",)))

    def immediate(self, fields: Mapping[int, bytes]) -> None:
        data = netlink.attributes(fields[2])
        if 2 in data:
            found = netlink.attributes(data[2])
            self._statements.append(verdict(found[1], found.get(2, b"")))
        else:
            self._put(fields[1], _Value(f"0x{data[1].hex()}", len(data[1]), constant=data[1]))

    # what changes a value in a register

    def bitwise(self, fields: Mapping[int, bytes]) -> None:
        size = netlink.number(fields[3])
        value = self._take(fields[1], size)
        if netlink.number(fields.get(6, b"")) or any(netlink.attributes(fields[5])[1]) or value.mask:
            raise _Unknown
        self._put(fields[2], value._replace(mask=netlink.attributes(fields[4])[1]))

    def byteorder(self, fields: Mapping[int, bytes]) -> None:
        value = self._take(fields[1], netlink.number(fields[4]))
        if value.size == 1:
            # nft 1.0.6 asks for it before it looks up a protocol among intervals. The kernel does nothing.
            self._put(fields[2], value)
            return
        word = ("ntoh", "hton")[netlink.number(fields[3])]
        self._put(fields[2], _Value(f"{word}({value.text})", value.size))

    def lookup(self, fields: Mapping[int, bytes]) -> None:
        name = netlink.text(fields[1])
        declared = self._sets.declaration(name)
        if declared is None:
            raise _Unknown
        key = self._take(fields[2], declared.key_size).text
        place = self._sets.anonymous(name) if declared.is_anonymous else f"@{name}"
        inverted = "!= " if netlink.number(fields.get(5, b"")) & _INVERTED else ""
        if 3 not in fields:
            self._statements.append(f"{key} {inverted}{place}")
        elif declared.is_verdict_map:
            self._statements.append(f"{key} vmap {place}")
        else:
            self._put(fields[3], _Value(f"{key} map {place}", declared.data_size, declared.data_types))

    # matches

    def compare(self, fields: Mapping[int, bytes]) -> None:
        constant = netlink.attributes(fields[3])[1]
        relation = netlink.number(fields[2])
        value = self._take(fields[1], len(constant))
        text = _compared(value, relation, constant)
        begun = f"{value.text}{_RELATIONS[_AT_LEAST]}"
        if relation == _AT_MOST and self._statements and self._statements[-1].startswith(begun):
            # A range, which nft writes as two comparisons.
            first = self._statements.pop().removeprefix(begun)
            text = f"{value.text} {first}-{text.removeprefix(f'{value.text}{_RELATIONS[_AT_MOST]}')}"
        self._is_family_known |= value.text == "meta protocol" and relation == _EQUAL
        if value.text == "meta l4proto" and relation == _EQUAL and not value.mask:
            self._protocol = datatypes.spell(value.types, constant), len(self._statements)
        self._statements.append(text)

    def range(self, fields: Mapping[int, bytes]) -> None:
        first, last = (netlink.attributes(fields[kind])[1] for kind in (3, 4))
        value = self._take(fields[1], len(first))
        spelled = "-".join(datatypes.spell(value.types, each) for each in (first, last))
        self._statements.append(f"{value.text}{_RELATIONS[netlink.number(fields[2])]}{spelled}")

    # statements

    def counter(self, _: Mapping[int, bytes]) -> None:
        self._statements.append("counter")

    def reject(self, fields: Mapping[int, bytes]) -> None:
        kind, code = netlink.number(fields[1]), fields.get(2, b"\0")[0]
        if kind == 1:
            # It acts on TCP alone, which nft has the rule match.
            if self._protocol is None or self._protocol[0] != "tcp":
                raise _Unknown
            self._transport()
            self._statements.append("reject with tcp reset")
        elif (kind, code) == (0, {"ip": 3, "ip6": 4}.get(self._family)):
            self._statements.append("reject")
        else:
            raise _Unknown

    def masquerade(self, fields: Mapping[int, bytes]) -> None:
        if 2 in fields:
            raise _Unknown
        self._statements.append(f"masquerade{_nat_flags(fields.get(1, b''))}")

    def redirect(self, fields: Mapping[int, bytes]) -> None:
        flags = _nat_flags(fields.get(3, b""))
        to = ""
        if 1 in fields:
            if fields.get(2, fields[1]) != fields[1]:
                raise _Unknown
            to = f" to :{self._shown(self._take(fields[1], 2), ('inet_service',))}"
        self._statements.append(f"redirect{to}{flags}")

    def nat(self, fields: Mapping[int, bytes]) -> None:
        kind = ("snat", "dnat")[netlink.number(fields[1])]
        family = {2: "ip", 10: "ip6"}[netlink.number(fields[2])]
        if any(fields.get(most, fields.get(least)) != fields.get(least) for least, most in ((3, 4), (5, 6))):
            raise _Unknown
        to = self._target(family, fields.get(3), fields.get(5))
        self._statements.append(f"{kind} {to}{_nat_flags(fields.get(7, b''))}")

    def _target(self, family: str, address: bytes | None, port: bytes | None) -> str:
        """Return where a rule translates to, from the registers of an address and of a port."""
        if address is None:
            raise _Unknown
        types = (_ADDRESS_TYPES[family],)
        size = datatypes.size_of(types)
        value = self._registers[_place(address)]
        if value.types[1:] and port and _place(port) == _place(address) + size:
            # One look-up gave both.
            return f"{family} to {value.text}"
        if value.size != size:
            raise _Unknown
        behind = self._shown(self._take(port, 2), ("inet_service",)) if port else None
        if value.constant is None:
            return f"{family} to {value.text}{f' : {behind}' if behind is not None else ''}"
        shown = datatypes.spell(types, value.constant)
        if behind is None:
            return f"to {shown}"
        return f"to [{shown}]:{behind}" if family == "ip6" else f"to {shown}:{behind}"

    def forward(self, fields: Mapping[int, bytes]) -> None:
        value = self._take(fields[1], 4)
        if value.constant is None or {2, 3} & fields.keys():
            raise _Unknown
        index = int.from_bytes(value.constant, sys.byteorder)
        name = self._sets.interface(index)
        self._statements.append(f'fwd to "{name}"' if name is not None else f"fwd to {index}")

    def flow(self, fields: Mapping[int, bytes]) -> None:
        self._statements.append(f"flow add @{netlink.text(fields[1])}")

    def dynset(self, fields: Mapping[int, bytes]) -> None:
        operation = ("add", "update", "delete")[netlink.number(fields[3])]
        name = netlink.text(fields[1])
        declared = self._sets.declaration(name)
        if declared is None or {7, 10} & fields.keys() or any(fields.get(9, b"")):
            raise _Unknown
        entry = self._take(fields[4], declared.key_size).text
        timeout = netlink.number(fields.get(6, b""))
        if timeout:
            entry += f" timeout {timeout // _SECOND}s" if timeout % _SECOND == 0 else f" timeout {timeout}ms"
        if 5 in fields:
            entry += f" : {self._take(fields[5], declared.data_size).text}"
        self._statements.append(f"{operation} @{name} {{ {entry} }}")

    # registers

    def _put(self, register: bytes, value: _Value) -> None:
        place = _place(register)
        for taken in range(place, place + value.size, _WORD):
            self._registers.pop(taken, None)
        self._registers[place] = value

    def _take(self, register: bytes, size: int) -> _Value:
        """What `size` bytes from a register on hold: one value, or several that make a concatenation."""
        place, left, parts = _place(register), (size + _WORD - 1) & ~(_WORD - 1), []
        while left > 0:
            value = self._registers.get(place)
            if value is None or not value.size:
                raise _Unknown
            parts.append(value)
            step = (value.size + _WORD - 1) & ~(_WORD - 1)
            place, left = place + step, left - step
        if len(parts) == 1 and (parts[0].size == size or parts[0].types == ("ifname",)):
            return parts[0]
        if left or len(parts) == 1:
            raise _Unknown
        text = " . ".join(part.text for part in parts)
        return _Value(text, size, tuple(word for part in parts for word in part.types))

    def _shown(self, value: _Value, types: tuple[str, ...]) -> str:
        """Return a value that is expected to have these types: a constant has none."""
        return value.text if value.constant is None else datatypes.spell(types, value.constant)


def _place(register: bytes) -> int:
    """Return the first byte of a register; both kinds of numbers name the same bytes."""
    number = netlink.number(register)
    return (number - _FIRST_WORD) * _WORD if number >= _FIRST_WORD else (number - 1) * _WIDE


def _compared(value: _Value, relation: int, constant: bytes) -> str:
    """Return a comparison with a constant."""
    if value.mask:
        return _masked(value, relation, constant)
    if value.whole:
        prefix = datatypes.spell(value.types, constant + bytes(value.whole - len(constant)))
        return f"{value.text}{_RELATIONS[relation]}{prefix}/{len(constant) * 8}"
    if value.types == ("ifname",):
        shown = datatypes.interface_name(constant)
    else:
        shown = datatypes.spell(value.types, constant)
    return f"{value.text}{_RELATIONS[relation]}{shown}"


def _masked(value: _Value, relation: int, constant: bytes) -> str:
    """Return a comparison of some bits of a value."""
    mask, kind = value.mask, value.types[0] if value.types else ""
    number = int.from_bytes(mask, sys.byteorder)
    if relation == _UNEQUAL and not any(constant) and (words := datatypes.flags(kind, number)):
        return f"{value.text} {words}"
    bits = "".join(f"{byte:08b}" for byte in mask)
    if kind in {"ipv4_addr", "ipv6_addr"} and "01" not in bits:
        shown = f"{datatypes.spell(value.types, constant)}/{bits.count('1')}"
        return f"{value.text}{_RELATIONS[relation]}{shown}"
    return f"{value.text} & 0x{mask.hex()}{_RELATIONS[relation] if relation else ' == '}0x{constant.hex()}"


def _nat_flags(value: bytes) -> str:
    flags = netlink.number(value) & ~(_MAP_ADDRESSES | _MAP_PORTS)
    words = [word for bit, word in _NAT_FLAGS.items() if flags & bit]
    if flags & ~sum(_NAT_FLAGS):
        raise _Unknown
    return "".join(f" {word}" for word in words[:1]) + "".join(f",{word}" for word in words[1:])


_EXPRESSIONS: Mapping[str, Callable[[_Registers, Mapping[int, bytes]], None]] = {
    "bitwise": _Registers.bitwise,
    "byteorder": _Registers.byteorder,
    "cmp": _Registers.compare,
    "counter": _Registers.counter,
    "ct": _Registers.conntrack,
    "dynset": _Registers.dynset,
    "fib": _Registers.fib,
    "flow_offload": _Registers.flow,
    "fwd": _Registers.forward,
    "hash": _Registers.hash,
    "immediate": _Registers.immediate,
    "lookup": _Registers.lookup,
    "masq": _Registers.masquerade,
    "meta": _Registers.meta,
    "nat": _Registers.nat,
    "numgen": _Registers.numgen,
    "payload": _Registers.payload,
    "range": _Registers.range,
    "redir": _Registers.redirect,
    "reject": _Registers.reject,
}
