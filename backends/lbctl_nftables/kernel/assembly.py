"""Expressions as libnftnl prints them → the kernel's attributes, for `expressions`.

`nft --debug=netlink list table …` prints the expressions of each rule as the kernel gave them, before nft
makes a rule of them: `[ cmp eq reg 1 0x00000006 ]`. What has no form here becomes an expression that
`expressions` does not know either: it differs from everything that lbctl writes.

libnftnl up to 1.2 prints values as words of 32 bits, as this byte order reads them, and pads the last one:
how long a value is follows from what is compared with it, or from what takes it. Later ones print the bytes.
"""

from __future__ import annotations

import re
import sys
from functools import lru_cache
from itertools import starmap
from typing import TYPE_CHECKING, TypeAlias

from lbctl_nftables.kernel import datatypes, netlink
from lbctl_nftables.kernel.expressions import CONNTRACK, META
from lbctl_nftables.kernel.values import VERDICT_CODES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

#: A name and attributes.
_Expression: TypeAlias = "tuple[str, dict[int, bytes]]"
_WORD = 4
#: Of libnftnl's names, those that differ from nft's.
_META_NAMES = {
    "protocol": 1, "mark": 3, "iif": 4, "oif": 5, "iifname": 6, "oifname": 7, "iiftype": 8, "l4proto": 16,
    "prandom": 24,
}  # fmt: skip
_CONNTRACK_NAMES = {
    "state": 0, "status": 2, "mark": 3, "protocol": 10, "proto_src": 11, "proto_dst": 12,
    "src_ip": 19, "dst_ip": 20, "src_ip6": 21, "dst_ip6": 22,
}  # fmt: skip
_BASES = {"link": 0, "network": 1, "transport": 2}
_DIRECTIONS = {"original": 0, "reply": 1}
_FIB_FLAGS = {"saddr": 1, "daddr": 2, "mark": 4, "iif": 8, "oif": 16}
_FIB_TYPE = 3
_RELATIONS = {"eq": 0, "neq": 1, "lt": 2, "lte": 3, "gt": 4, "gte": 5}
_DYNSET = {"add": 0, "update": 1, "delete": 2}
_FAMILIES = {"ip": 2, "ip6": 10}
_VALUE = r"((?:0x[0-9a-f]{2,8} ?)+)"
#: For what has no form here: no expression of the kernel has an attribute of this number.
_PRINTED = 99


def value(words: Iterable[str], *, reversed_words: bool) -> bytes:
    """Return the bytes of a value's words, without `0x`; raises `ValueError` for what has no hex digits."""
    parts = [bytes.fromhex(word) for word in words]
    if reversed_words and sys.byteorder == "little":
        parts = [part[::-1] for part in parts]
    return b"".join(parts)


class Assembler:
    """Puts the expressions of one rule together."""

    def __init__(self, family: str, *, reversed_words: bool) -> None:
        self._address = datatypes.size_of(("ipv6_addr" if family == "ip6" else "ipv4_addr",))
        self._reversed = reversed_words
        self._names: list[str] = []
        self._fields: list[dict[int, bytes]] = []
        #: Register → how many bytes of it were loaded.
        self._sizes: dict[str, int] = {}
        #: Register → the place of the constant in it, whose size is known from what takes it.
        self._constants: dict[str, int] = {}
        #: The sets and maps that a picked number is looked up in → the types of their keys.
        self.picked: dict[str, tuple[str, ...]] = {}
        #: The registers that hold a picked number.
        self._numbers: set[str] = set()

    def add(self, line: str) -> None:
        """Add what stands between the brackets of a line."""
        name, _, rest = line.partition(" ")
        for pattern, assemble in _forms(name):
            found = pattern.fullmatch(line)
            if found is not None:
                try:
                    name, fields = assemble(self, found)
                except (KeyError, ValueError):
                    break
                self._append(name, fields)
                return
        self._append(name, {_PRINTED: rest.encode()})

    def _append(self, name: str, fields: dict[int, bytes]) -> None:
        self._names.append(name)
        self._fields.append(fields)

    def expressions(self) -> bytes:
        """Return the attribute NFTA_RULE_EXPRESSIONS of the rule."""
        return b"".join(
            netlink.nest(1, netlink.name(1, name), netlink.nest(2, *starmap(netlink.attribute, each.items())))
            for name, each in zip(self._names, self._fields, strict=True)
        )

    # what puts a value into a register

    def meta(self, found: re.Match[str]) -> _Expression:
        key = _META_NAMES[found[1]]
        return "meta", {1: self._load(found[2], _size_of(META[key])), 2: _number(key)}

    def meta_set(self, found: re.Match[str]) -> _Expression:
        key = _META_NAMES[found[1]]
        return "meta", {2: _number(key), 3: self._take(found[2], _size_of(META[key]))}

    def payload(self, found: re.Match[str]) -> _Expression:
        return "payload", {1: self._load(found[4], int(found[1])), **_place(*found.group(1, 2, 3))}

    def payload_write(self, found: re.Match[str]) -> _Expression:
        source = self._take(found[1], int(found[2]))
        sums = {6: _number(int(found[5])), 7: _number(int(found[6])), 8: _number(int(found[7], 16))}
        return "payload", {**_place(*found.group(2, 3, 4)), 5: source, **sums}

    def conntrack(self, found: re.Match[str]) -> _Expression:
        key = _CONNTRACK_NAMES[found[1]]
        direction = {3: bytes([_DIRECTIONS[found[3]]])} if found[3] else {}
        return "ct", {1: self._load(found[2], _size_of(CONNTRACK[key])), 2: _number(key), **direction}

    def conntrack_set(self, found: re.Match[str]) -> _Expression:
        key = _CONNTRACK_NAMES[found[1]]
        return "ct", {2: _number(key), 4: self._take(found[2], _size_of(CONNTRACK[key]))}

    def fib(self, found: re.Match[str]) -> _Expression:
        flags = sum(_FIB_FLAGS[word] for word in found[1].replace(".", " ").split())
        return "fib", {1: self._load(found[2], _WORD), 2: _number(_FIB_TYPE), 3: _number(flags)}

    def numgen(self, found: re.Match[str]) -> _Expression:
        picks = {2: int(found[3]), 3: ("inc", "random").index(found[2]), 4: int(found[4] or 0)}
        target = self._load(found[1], _WORD)
        self._numbers.add(found[1])
        return "numgen", {1: target, **_numbers(picks)}

    def hash(self, found: re.Match[str]) -> _Expression:
        size = int(found[3])
        source = self._take(found[2], size)
        target = self._load(found[1], _WORD)
        picks = {3: size, 4: int(found[5]), 5: int(found[4], 16), 6: int(found[6] or 0)}
        self._numbers.add(found[1])
        return "hash", {1: source, 2: target, **_numbers(picks)}

    def verdict(self, found: re.Match[str]) -> _Expression:
        chain = [netlink.name(2, found[2])] if found[2] else []
        code = netlink.attribute(1, VERDICT_CODES[found[1]])
        return "immediate", {1: _number(0), 2: netlink.nest(2, code, *chain)}

    def constant(self, found: re.Match[str]) -> _Expression:
        data = self._value(found[2])
        target = self._load(found[1], len(data))
        self._constants[found[1]] = len(self._fields)
        return "immediate", {1: target, 2: netlink.attribute(1, data)}

    # what changes a value, or looks it up

    def bitwise(self, found: re.Match[str]) -> _Expression:
        size = self._sizes[found[2]]
        mask, flip = (netlink.attribute(1, self._value(found[each])[:size]) for each in (3, 4))
        source = self._take(found[2], size)
        return "bitwise", {1: source, 2: self._load(found[1], size), 3: _number(size), 4: mask, 5: flip}

    def byteorder(self, found: re.Match[str]) -> _Expression:
        size = int(found[5])
        source = self._take(found[3], size)
        how = {3: ("ntoh", "hton").index(found[2]), 4: size, 5: int(found[4])}
        return "byteorder", {1: source, 2: self._load(found[1], size), **_numbers(how)}

    def lookup(self, found: re.Match[str]) -> _Expression:
        fields = {1: _name(found[2]), 2: _register(found[1]), 5: _number(int(found[4] or "0", 16))}
        if found[1] in self._numbers:
            self.picked[found[2]] = ("integer",)
        if found[3] is not None:
            fields[3] = _register(found[3])
            self._forget(found[3])
        return "lookup", fields

    def compare(self, found: re.Match[str]) -> _Expression:
        data = self._value(found[3])[: self._sizes.get(found[2])]
        relation = _number(_RELATIONS[found[1]])
        return "cmp", {1: _register(found[2]), 2: relation, 3: netlink.attribute(1, data)}

    def range(self, found: re.Match[str]) -> _Expression:
        both, size = self._value(found[3]), self._sizes[found[2]]
        half = len(both) // 2
        first, last = (netlink.attribute(1, each[:size]) for each in (both[:half], both[half:]))
        return "range", {1: _register(found[2]), 2: _number(_RELATIONS[found[1]]), 3: first, 4: last}

    # statements

    def counter(self, found: re.Match[str]) -> _Expression:
        packets, size = (int(found[each]).to_bytes(8, "big") for each in (1, 2))
        return "counter", {1: size, 2: packets}

    def reject(self, found: re.Match[str]) -> _Expression:
        return "reject", {1: _number(int(found[1])), 2: bytes([int(found[2])])}

    def masquerade(self, found: re.Match[str]) -> _Expression:
        ports = {2: self._take(found[1], 2)} if found[1] else {}
        return "masq", {**_flags(1, found[2]), **ports}

    def redirect(self, found: re.Match[str]) -> _Expression:
        ports = {place: self._take(found[place], 2) for place in (1, 2) if found[place]}
        return "redir", {**ports, **_flags(3, found[3])}

    def nat(self, found: re.Match[str]) -> _Expression:
        fields = _numbers({1: ("snat", "dnat").index(found[1]), 2: _FAMILIES[found[2]]})
        for place, size in ((3, self._address), (4, self._address), (5, 2), (6, 2)):
            if found[place]:
                fields[place] = self._take(found[place], size)
        return "nat", {**fields, **_flags(7, found[7])}

    def forward(self, found: re.Match[str]) -> _Expression:
        return "fwd", {1: self._take(found[1], _WORD)}

    def flow(self, found: re.Match[str]) -> _Expression:
        return "flow_offload", {1: _name(found[1])}

    def dynset(self, found: re.Match[str]) -> _Expression:
        fields = {1: _name(found[3]), 3: _number(_DYNSET[found[1]]), 4: _register(found[2])}
        words = dict(zip(*[iter(found[4].split())] * 2, strict=True))
        if "sreg_data" in words:
            fields[5] = _register(words.pop("sreg_data"))
        fields[6] = int(words.pop("timeout", "0ms").removesuffix("ms")).to_bytes(8, "big")
        if words:
            raise ValueError(found[4])
        return "dynset", fields

    # registers

    def _value(self, words: str) -> bytes:
        hexadecimal = [word.removeprefix("0x") for word in words.split()]
        return value(hexadecimal, reversed_words=self._reversed)

    def _load(self, register: str, size: int) -> bytes:
        self._forget(register)
        self._sizes[register] = size
        return _register(register)

    def _forget(self, register: str) -> None:
        self._sizes.pop(register, None)
        self._constants.pop(register, None)
        self._numbers.discard(register)

    def _take(self, register: str, size: int) -> bytes:
        """Return the attribute of a register that `size` bytes are taken from, no more of a constant."""
        place = self._constants.get(register)
        if place is not None:
            data = netlink.attributes(self._fields[place][2])[1]
            self._fields[place][2] = netlink.attribute(1, data[:size])
        return _register(register)


def _size_of(field: tuple[str, str]) -> int:
    """Return the bytes of a field, of which the text and the type are given."""
    return datatypes.size_of((field[1],))


def _number(number: int) -> bytes:
    return number.to_bytes(4, "big")


def _numbers(fields: Mapping[int, int]) -> dict[int, bytes]:
    return {kind: _number(number) for kind, number in fields.items()}


def _flags(kind: int, text: str | None) -> dict[int, bytes]:
    return {kind: _number(int(text, 16))} if text else {}


def _place(size: str, base: str, offset: str) -> dict[int, bytes]:
    return _numbers({2: _BASES[base], 3: int(offset), 4: int(size)})


def _name(text: str) -> bytes:
    return f"{text}\0".encode()


def _register(text: str) -> bytes:
    return _number(int(text))


_Form: TypeAlias = "Callable[[Assembler, re.Match[str]], _Expression]"
#: What a register is printed as, with the word in front of it.
_NAT_REGISTERS = "".join(
    rf"(?: {word} reg (\d+))?" for word in ("addr_min", "addr_max", "proto_min", "proto_max")
)
_NAT_FLAGS = r"(?: flags (0x[0-9a-f]+))?"
_PLACE = r"(\d+)b @ (\w+) header \+ (\d+)"
_SUMS = r"csum_type (\d+) csum_off (\d+) csum_flags (0x[0-9a-f]+)"
_OFFSET = r"(?: offset (\d+))?"
_PATTERNS: Mapping[str, _Form] = {
    r"meta load (\w+) => reg (\d+)": Assembler.meta,
    r"meta set (\w+) with reg (\d+)": Assembler.meta_set,
    rf"payload load {_PLACE} => reg (\d+)": Assembler.payload,
    rf"payload write reg (\d+) => {_PLACE} {_SUMS}": Assembler.payload_write,
    r"ct load (\w+) => reg (\d+)(?: , dir (\w+))?": Assembler.conntrack,
    r"ct set (\w+) with reg (\d+)": Assembler.conntrack_set,
    r"fib ([a-z. ]+) type => reg (\d+)": Assembler.fib,
    rf"numgen reg (\d+) = (inc|random) mod (\d+){_OFFSET}": Assembler.numgen,
    rf"hash reg (\d+) = jhash\(reg (\d+), (\d+), (0x[0-9a-f]+)\) % mod (\d+){_OFFSET}": Assembler.hash,
    r"immediate reg 0 ([a-z]+)(?: -> (\S+))?": Assembler.verdict,
    rf"immediate reg (\d+) {_VALUE}": Assembler.constant,
    rf"bitwise reg (\d+) = \( ?reg ?=? ?(\d+) & {_VALUE}\) \^ {_VALUE}": Assembler.bitwise,
    r"byteorder reg (\d+) = (ntoh|hton)\(reg (\d+), (\d+), (\d+)\)": Assembler.byteorder,
    r"lookup reg (\d+) set (\S+)(?: dreg (\d+))?(?: (0x[0-9a-f]+))?": Assembler.lookup,
    rf"cmp ([a-z]+) reg (\d+) {_VALUE}": Assembler.compare,
    rf"range ([a-z]+) reg (\d+) {_VALUE}": Assembler.range,
    r"counter pkts (\d+) bytes (\d+)": Assembler.counter,
    r"reject type (\d+) code (\d+)": Assembler.reject,
    rf"masq(?: proto_min reg (\d+) proto_max reg \d+)?{_NAT_FLAGS}": Assembler.masquerade,
    rf"redir(?: proto_min reg (\d+))?(?: proto_max reg (\d+))?{_NAT_FLAGS}": Assembler.redirect,
    rf"nat (\w+) (\w+){_NAT_REGISTERS}{_NAT_FLAGS}": Assembler.nat,
    r"fwd sreg_dev (\d+)": Assembler.forward,
    r"flow_offload flowtable (\S+)": Assembler.flow,
    r"dynset (\w+) reg_key (\d+) set (\S+)((?: \w+ \S+)*)": Assembler.dynset,
}


@lru_cache(maxsize=64)
def _forms(name: str) -> Sequence[tuple[re.Pattern[str], _Form]]:
    """Return the forms of expressions of a name, each with what puts them together."""
    of_name = re.compile(rf"{re.escape(name)}\b")
    return [(re.compile(each), assemble) for each, assemble in _PATTERNS.items() if of_name.match(each)]
