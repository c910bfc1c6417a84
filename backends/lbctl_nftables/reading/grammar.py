"""The words of one rule → what its statements mean. What is not known stays, as `Unknown`, with its text.

Only the shape is read here; what names stand for is looked up when rules are followed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, TypeAlias

from lbctl.model import decimal
from lbctl_nftables.reading import symbols

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

#: A value, or the parts of a concatenation, as written: addresses, numbers, ranges `a-b`, names.
Key: TypeAlias = tuple[str, ...]
_HEXADECIMAL = re.compile(r"0[xX][0-9A-Fa-f]{1,18}")
#: The element of a set or map for all that no other one is for. It stands for no value anywhere else.
ANYTHING: Key = ("*",)


@dataclass(frozen=True, slots=True)
class Field:
    """Something of a packet: `ip daddr`, `th dport`, `iifname`, `fib daddr type`."""

    name: str


@dataclass(frozen=True, slots=True)
class Pick:
    """A number from 0 to `modulus` - 1, plus `offset`, of a kind of its own for each place in the rules.

    `kind` is `inc`, `random`, `jhash` or `symhash`; `of` is what is hashed. `ident` tells counters apart.
    """

    kind: str
    modulus: int
    offset: int = 0
    of: str = ""
    seed: int | None = None
    ident: int = 0


@dataclass(frozen=True, slots=True)
class Masked:
    """Some bits of a field."""

    field: Field
    mask: int


@dataclass(frozen=True, slots=True)
class Concat:
    """Several fields side by side."""

    parts: tuple[Field, ...]


@dataclass(frozen=True, slots=True)
class Verdict:
    """`accept`, `drop`, `return`, `continue`, or `jump` and `goto` with a chain's name."""

    kind: str
    target: str = ""


@dataclass(frozen=True, slots=True)
class Element:
    """A member of a set or map. `data` is None in a set."""

    key: Key
    data: Verdict | Key | None = None
    comment: str = ""
    timeout: int | None = None


@dataclass(frozen=True, slots=True)
class Ref:
    """A set or map that is declared elsewhere."""

    name: str


Members: TypeAlias = Ref | tuple[Element, ...]
Source: TypeAlias = Field | Pick | Masked | Concat


@dataclass(frozen=True, slots=True)
class Lookup:
    """What a map has for a key."""

    key: Source
    members: Members


Operand: TypeAlias = Key | Lookup | Pick


@dataclass(frozen=True, slots=True)
class Computed:
    """A mark made of the packet's (`meta`) or the connection's (`ct`): some of its bits, some turned over."""

    of: str
    mask: int
    flip: int

    def value(self, mark: int) -> int:
        """What it makes of a mark."""
        return (mark & self.mask) ^ self.flip


@dataclass(frozen=True, slots=True)
class Match:
    """A condition. `op` is `==`, `!=`, `<`, `>`, `<=` or `>=`."""

    key: Source
    op: str
    members: Members
    text: str


@dataclass(frozen=True, slots=True)
class Vmap:
    """A look-up whose data are verdicts."""

    key: Source
    members: Members


@dataclass(frozen=True, slots=True)
class Nat:
    """`dnat`, `redirect`, `snat` or `masquerade`."""

    kind: str
    address: Operand | None = None
    port: Operand | None = None
    family: str = ""
    flags: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class SetMark:
    """`where` is `meta` or `ct`. No value: one that depends on the packet."""

    where: str
    value: Operand | Computed | None


@dataclass(frozen=True, slots=True)
class Update:
    """A packet adds its own element to a set or map. `key` names fields, as `iif . iif`."""

    name: str
    key: str
    timeout: int | None
    #: A rate or a number of connections beyond which it does not match.
    limited: str = ""


@dataclass(frozen=True, slots=True)
class Limit:
    """A rate that narrows."""

    text: str


@dataclass(frozen=True, slots=True)
class Unknown:
    """The rest of a rule from a word on that is not known."""

    text: str


Statement: TypeAlias = Match | Vmap | Verdict | Nat | SetMark | Update | Limit | Unknown

_META = {
    "mark", "iif", "oif", "iifname", "oifname", "iiftype", "oiftype", "skuid", "skgid", "pkttype", "cpu",
    "iifgroup", "oifgroup", "cgroup", "rtclassid", "ibrname", "obrname", "iifkind", "oifkind",
}  # fmt: skip
#: Keys that need the word `meta` in front.
_ONLY_META = {
    "l4proto", "nfproto", "protocol", "length", "priority", "random", "time", "day", "hour", "ipsec",
    "secpath",
}  # fmt: skip
_HEADERS = {
    "ip": {"saddr", "daddr", "protocol", "version", "dscp", "ecn", "length", "id", "frag-off", "ttl"},
    "ip6": {"saddr", "daddr", "nexthdr", "version", "dscp", "ecn", "flowlabel", "length", "hoplimit"},
    "ether": {"saddr", "daddr", "type"},
    "vlan": {"id", "type"},
    "icmp": {"type", "code", "id"},
    "icmpv6": {"type", "code", "id"},
    "tcp": {"sport", "dport", "flags", "window"},
    **{each: {"sport", "dport"} for each in ("udp", "udplite", "sctp", "th")},
    "dccp": {"sport", "dport", "type"},
    "ah": {"spi"},
    "esp": {"spi"},
    "comp": {"cpi"},
    "rt": {"classid", "ipsec", "mtu"},
}
_OPTION_FIELDS = {"kind", "length", "size", "count", "left", "right", "tsval", "tsecr", "subtype"}
#: The field whose bits nft compares in ways of their own, and all of these.
FLAGS = "tcp flags"
_EVERY_FLAG = 0xFF
_CT = {"state", "status", "mark", "direction", "helper", "zone", "l3proto", "protocol", "expiration", "id"}
_CT_WAYS = {"original", "reply"}
_CT_WAY = {"saddr", "daddr", "proto-src", "proto-dst", "l3proto", "protocol", "zone", "packets", "bytes"}
_RELATIONS = {"==": "==", "!=": "!=", "<": "<", ">": ">", "<=": "<=", ">=": ">="} | {
    "eq": "==", "ne": "!=", "lt": "<", "gt": ">", "le": "<=", "ge": ">=", "!": "!",
}  # fmt: skip
_LOG = {"prefix", "level", "group", "snaplen", "queue-threshold"}
_PLAIN = {"accept", "drop", "return", "continue"}
_NAT = {"dnat", "snat", "redirect", "masquerade"}
_AFTER_FAMILY = {"to", "addr", "prefix", "interval"}
_FLAGS = {"random", "fully-random", "persistent"}
#: Operators on bits, the tightest first.
_BITWISE = {"&": 0, "and": 0, "^": 1, "xor": 1, "|": 2, "or": 2}
_UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1}
_BITS = 32
_EVERY_BIT = (1 << _BITS) - 1
_idents = count(1)


class Strange(ValueError):
    """Something that the grammar here does not have."""


def rule(words: Sequence[str]) -> tuple[tuple[Statement, ...], str]:
    """The statements of a rule, and its comment."""
    parser = _Parser(words)
    made: list[Statement] = []
    while parser.more():
        begin = parser.at
        try:
            statement = parser.statement()
        except Strange:
            made.append(Unknown(" ".join(words[begin:])))
            break
        if statement is not None:
            made.append(statement)
    return tuple(made), parser.comment


def elements(words: Sequence[str]) -> tuple[Element, ...]:
    """The elements between two braces, which are a part of `words`; raises `Strange`."""
    parser = _Parser(words)
    made = parser.braces()
    if parser.more():
        raise Strange(parser.word())
    return made


def seconds(text: str) -> int | None:
    """A time like `1d2h3m4s`, or a bare number of seconds; None for anything else."""
    total, digits = 0, ""
    for place, letter in enumerate(text):
        if letter in "0123456789":
            digits += letter
        elif letter in _UNITS and digits and len(digits) < 10 and text[place : place + 2] != "ms":
            total, digits = total + int(digits) * _UNITS[letter], ""
        elif text[place:] == "ms" and digits:
            return total
        else:
            return None
    return int(digits) if digits and not total and len(digits) < 10 else None if digits else total


def number(text: str, *, bits: int = _BITS) -> int:
    """A decimal or hexadecimal number of so many bits; raises `Strange`."""
    value = int(text, 16) if _HEXADECIMAL.fullmatch(text) else decimal(text, 20)
    if value is None or value >> bits:
        raise Strange(text)
    return value


def unquoted(word: str) -> str:
    """A word without the quotes around it."""
    return word[1:-1] if len(word) > 1 and word[0] == word[-1] == '"' else word


#: Conditions of so many words, by these: rules repeat them endlessly.
_SEEN: dict[Sequence[str], Match] = {}
_LENGTHS = (2, 3)
_MOST_SEEN = 1 << 14
#: Words behind which a condition goes on.
_GOES_ON = frozenset({",", ".", "-", "/", "map", "vmap", "set", "<<", ">>", *_BITWISE, *_RELATIONS})


class _Parser:
    """A place in the words of one rule or element list."""

    def __init__(self, words: Sequence[str]) -> None:
        self._words = tuple(words)
        self._count = len(self._words)
        self.at = 0
        self.comment = ""

    def more(self) -> bool:
        return self.at < self._count

    def word(self, ahead: int = 0) -> str:
        place = self.at + ahead
        return self._words[place] if place < self._count else ""

    def take(self, *wanted: str) -> str:
        """The next word, which is one of `wanted` where some are given."""
        word = self.word()
        if not word or (wanted and word not in wanted):
            raise Strange(word)
        self.at += 1
        return word

    def taken(self, *wanted: str) -> bool:
        """True where the next word was one of these, and is taken."""
        at = self.at
        if at < self._count and self._words[at] in wanted:
            self.at += 1
            return True
        return False

    def statement(self) -> Statement | None:
        """The next statement; None for one that changes nothing here."""
        word = self.word()
        if word == "comment":
            self.at += 1
            self.comment = unquoted(self.take())
            return None
        if word in {"counter", "log", "notrack"}:
            self.at += 1
            self._passive(word)
            return None
        if word in _PLAIN:
            self.at += 1
            return Verdict(word)
        if word in {"jump", "goto"} and self.word(1) != "{":
            self.at += 1
            return Verdict(word, unquoted(self.take()))
        if word == "reject":
            self.at = len(self._words)
            return Verdict("drop")
        if word == "limit":
            return self._limit()
        if word in _NAT:
            self.at += 1
            return self._nat(word)
        if word in {"update", "add", "delete", "set"}:
            return self._update()
        return self._about_packet()

    def _passive(self, word: str) -> None:
        if word == "counter":
            if self.taken("packets"):
                self.take()
                self.take("bytes")
                self.take()
            elif self.taken("name"):
                self.take()
        elif word == "log":
            while self.word() in _LOG | {"flags"}:
                if self.take() == "flags":
                    while self.word() in {"all", "tcp", "ip", "ether", "skuid", "sequence", "options", ","}:
                        self.take()
                else:
                    self.take()

    def _limit(self) -> Limit:
        begin = self.at
        self.take("limit")
        self.take("rate")
        self.taken("over")
        self.take()
        if self.taken("kbytes", "mbytes", "bytes"):
            pass
        self.take("/")
        self.take("second", "minute", "hour", "day", "week")
        words = list(self._words[begin + 1 : self.at])
        if self.taken("burst"):
            burst = ["burst", self.take(), self.take("packets", "bytes", "kbytes", "mbytes")]
            # The default, which nft prints since 1.1 only.
            words += burst if burst != ["burst", "5", "packets"] else []
        return Limit(" ".join(words))

    def _update(self) -> Statement:
        # `set update ip saddr @name` is how nft wrote it before 0.9.
        verb = self.take()
        if verb == "set":
            self.take("update", "add")
            key, timeout, limited = self._updated()
            self.take("@")
            return Update(unquoted(self.take()), key, timeout, limited)
        self.taken("@")
        name = unquoted(self.take())
        self.take("{")
        key, timeout, limited = self._updated()
        if self.taken(":"):
            while self.word() not in {"}", ""}:
                self.at += 1
        self.take("}")
        return Update(name, key, timeout, limited)

    def _updated(self) -> tuple[str, int | None, str]:
        """The key of an element, how long it stays, and what its own statement lets through."""
        begin = self.at
        source = self._source()
        fields = source.parts if isinstance(source, Concat) else (source,)
        named = [each.name for each in fields if isinstance(each, Field)]
        key = " . ".join(named) if len(named) == len(fields) else " ".join(self._words[begin : self.at])
        timeout = seconds(self.take()) if self.taken("timeout") else None
        limited = ""
        while self.word() in {"counter", "limit", "ct", "quota"}:
            begin = self.at
            # Each client's own statement.
            while self.word() not in {":", "}", "@", ""}:
                self.at += 1
            if self._words[begin] != "counter":
                limited = " ".join(self._words[begin : self.at])
        return key, timeout, limited

    def _about_packet(self) -> Statement | None:
        for length in _LENGTHS:
            known = _SEEN.get(self._words[self.at : self.at + length])
            if known is not None and self.word(length) not in _GOES_ON:
                self.at += length
                return known
        begin = self.at
        made = self._match()
        length = self.at - begin
        if isinstance(made, Match) and isinstance(made.key, Field) and length in _LENGTHS:
            if len(_SEEN) >= _MOST_SEEN:
                _SEEN.clear()
            _SEEN[self._words[begin : self.at]] = made
        return made

    def _match(self) -> Statement | None:
        begin = self.at
        source = self._source()
        if isinstance(source, Field) and self.taken("set"):
            return self._assignment(source)
        if self.taken("vmap"):
            return Vmap(source, self._members())
        if self.word() == "map":
            raise Strange("map")
        op = _RELATIONS.get(self.word(), "")
        self.at += bool(op)
        members: Members
        if self.word() == "(":
            members = (Element((self._inside(),)),)
        else:
            members = self._members() if self.word() in {"{", "@"} else self._listed()
        if self.word() == "/":
            source, members = self._flags(source, members)
        elif source == Field(FLAGS) and not isinstance(members, Ref):
            source, op, members = _bits_compared(op, members, listed=self._words[self.at - 1] != "}")
        op = "!=" if op == "!" else op
        text = " ".join(self._words[begin : self.at])
        if self.word() in {"/", "|", "&", "^"}:
            raise Strange(self.word())
        return Match(source, op or "==", members, text)

    def _assignment(self, field: Field) -> SetMark | None:
        if field.name not in {"mark", "ct mark"}:
            # Another part of the packet is written: of no meaning here, but where it ends is known.
            if self.word() == "rt":
                self._field()
                return None
            operand = self._operand()
            if isinstance(operand, Pick) or (isinstance(operand, Lookup) and isinstance(operand.key, Pick)):
                # It balances packets, which no connection tracking follows.
                raise Strange(field.name)
            return None
        where = "ct" if field.name == "ct mark" else "meta"
        begin = self.at
        value: Operand | Computed | None
        try:
            value = self._computed()
            if value is None:
                self.at = begin
                value = self._operand()
        except Strange:
            value = None
        else:
            if self.word() not in {*_BITWISE, "<<", ">>"}:
                return SetMark(where, value)
        # Computed in another way from what the packet or connection has.
        self.at = max(begin, self.at)
        while self.more() and self.word() not in _PLAIN | _NAT | {
            "jump",
            "goto",
            "counter",
            "comment",
            "log",
        }:
            self.at += 1
        return SetMark(where, None)

    def _computed(self) -> Computed | None:
        """A mark made of a mark and of numbers; None for anything else."""
        if self.word() not in {"meta", "mark", "ct"}:
            return None
        field = self._field()
        mask, flip, loosest = _EVERY_BIT, 0, 0
        while self.word() in _BITWISE:
            operator = _BITWISE[self.take()]
            if operator < loosest:
                # It binds tighter than the one before it.
                raise Strange(self.word())
            loosest, bits = operator, number(self.take())
            if operator == 0:
                mask, flip = mask & bits, flip & bits
            elif operator == 1:
                flip ^= bits
            else:
                mask, flip = mask & ~bits, flip | bits
        if field.name not in {"mark", "ct mark"} or self.word() in {"map", "."}:
            return None
        return Computed("ct" if field.name == "ct mark" else "meta", mask, flip)

    def _nat(self, kind: str) -> Nat:
        family = self.take() if self.word() in {"ip", "ip6"} and self.word(1) in _AFTER_FAMILY else ""
        if self.taken("addr"):
            self.take(".")
            self.take("port")
        elif self.taken("prefix", "interval"):
            pass
        address: Operand | None = None
        port: Operand | None = None
        if self._leads(kind):
            if self.word() != ":":
                address = self._operand()
            if self.taken(":"):
                port = self._operand()
        flags = set()
        while self.word() in _FLAGS | {","}:
            flags.add(self.take())
        return Nat(kind, address, port, family, frozenset(flags - {","}))

    def _leads(self, kind: str) -> bool:
        """True if an endpoint follows; nft takes `dnat 10.0.0.1:80` and `redirect :80` without `to` too."""
        if self.taken("to") or self.word() == ":":
            return True
        return kind in {"dnat", "snat"} and self.more() and self.word() not in _FLAGS | {"comment"}

    def _operand(self) -> Operand:
        """A value, a look-up, or a number that is picked."""
        begin = self.at
        try:
            source = self._source()
        except Strange:
            self.at = begin
            return self._key()
        if self.taken("map"):
            return Lookup(source, self._members())
        if isinstance(source, Pick):
            return source
        raise Strange(self.word())

    def _source(self) -> Source:
        """What a statement is about: a field, some bits of it, several fields, or a picked number."""
        if self.word() in {"numgen", "jhash", "symhash"}:
            return self._pick()
        parts = [self._field()]
        while self.taken("."):
            parts.append(self._field())
        if len(parts) > 1:
            return Concat(tuple(parts))
        field = parts[0]
        if self.taken("&", "and"):
            return self._masked(field)
        return field

    def _masked(self, field: Field) -> Source:
        """A field of which only some bits count, by their numbers or names."""
        is_group = self.word() == "("
        text = self._inside() if is_group else self.take()
        mask = symbols.mask(field.name, text)
        if mask is not None:
            return Masked(field, mask)
        return Field(f"{field.name} & {text}") if is_group else Masked(field, number(text))

    def _flags(self, field: Source, members: Members) -> tuple[Masked, Members]:
        """What `tcp flags syn / syn,ack` compares: `tcp flags & (syn|ack) == syn`."""
        self.take("/")
        bits = self._listed()
        if not isinstance(field, Field) or isinstance(members, Ref):
            raise Strange("/")
        mask = symbols.mask(field.name, _joined(bits))
        if mask is None:
            raise Strange("/")
        return Masked(field, mask), (Element((_joined(members),)),)

    def _inside(self) -> str:
        """What stands in parentheses, as text: names of bits."""
        begin = self.at
        self.take("(")
        while self.take() != ")":
            pass
        return "".join(self._words[begin : self.at])

    def _pick(self) -> Pick:
        kind, of, seed, offset = self.take(), "", None, 0
        if kind == "numgen":
            kind = self.take("inc", "random")
        elif kind == "jhash":
            begin = self.at
            self._source()
            of = " ".join(self._words[begin : self.at])
        self.take("mod")
        modulus = number(self.take())
        if not modulus:
            raise Strange("mod 0")
        while self.word() in {"seed", "offset"}:
            if self.take() == "seed":
                seed = number(self.take())
            else:
                offset = number(self.take())
        return Pick(kind, modulus, offset, of, seed, next(_idents))

    def _field(self) -> Field:
        word = self.take()
        if word == "meta":
            key = self.take()
            if key in _META:
                return Field(key)
            if key in _ONLY_META:
                return Field(f"meta {key}")
        elif word in _META:
            return Field(word)
        elif word == "tcp" and self.taken("option"):
            option = symbols.option(self.take())
            return Field(f"tcp option {option}{f' {self.take()}' if self.word() in _OPTION_FIELDS else ''}")
        elif word in _HEADERS and self.word() in _HEADERS[word]:
            return Field(f"{word} {self.take()}")
        elif word == "ct":
            return Field(self._connection())
        elif word == "fib":
            flags = [self.take()]
            while self.taken("."):
                flags.append(self.take())
            return Field(f"fib {' . '.join(flags)} {self.take('type', 'oif', 'oifname')}")
        raise Strange(word)

    def _connection(self) -> str:
        if self.word() in _CT_WAYS:
            way = self.take()
            family = f" {self.take()}" if self.word() in {"ip", "ip6"} else ""
            return f"ct {way}{family} {self.take(*_CT_WAY)}"
        return f"ct {self.take(*_CT)}"

    def _members(self) -> Members:
        if self.taken("@"):
            return Ref(unquoted(self.take()))
        return self.braces()

    def _listed(self) -> tuple[Element, ...]:
        """One value, or some with commas between: any of them will do."""
        made = [Element(self._bits(self._key()))]
        while self.taken(","):
            made.append(Element(self._bits(self._key())))
        return tuple(made)

    def _bits(self, key: Key) -> Key:
        """A key, or with `|` behind it all of these bits together, as `syn | ack`."""
        while self.taken("|"):
            key = (*key[:-1], f"{key[-1]}|{self._value()}")
        return key

    def braces(self) -> tuple[Element, ...]:
        """An anonymous set or map."""
        self.take("{")
        made = []
        while not self.taken("}"):
            made.append(self._element())
            if not self.taken(","):
                self.take("}")
                break
        return tuple(made)

    def _element(self) -> Element:
        key = ANYTHING if self.taken("*") else self._bits(self._key())
        comment, timeout = "", None
        while True:
            if self.taken("counter"):
                self._passive("counter")
            elif self.taken("comment"):
                comment = unquoted(self.take())
            elif self.taken("timeout"):
                timeout = seconds(self.take())
            elif self.taken("expires"):
                self.take()
            elif self.taken("limit"):
                while self.word() not in {":", ",", "}", ""}:
                    self.at += 1
            else:
                break
        if not self.taken(":"):
            return Element(key, None, comment, timeout)
        data: Verdict | Key
        if self.word() in _PLAIN:
            data = Verdict(self.take())
        elif self.word() in {"jump", "goto"}:
            data = Verdict(self.take(), unquoted(self.take()))
        else:
            data = self._key()
        if self.taken("comment"):
            comment = unquoted(self.take())
        return Element(key, data, comment, timeout)

    def _key(self) -> Key:
        parts = [self._value()]
        while self.taken("."):
            parts.append(self._value())
        return tuple(parts)

    def _value(self) -> str:
        word = self.take()
        if not (word[0].isalnum() or word[0] in '"[:_') or word == ":" or word in {"set", "map", "vmap"}:
            raise Strange(word)
        first = unquoted(word).strip("[]")
        if first == "*":
            raise Strange(word)
        if self.word() == "-" and (self.word(1)[:1].isalnum() or ":" in self.word(1)):
            self.at += 1
            return f"{first}-{unquoted(self.take()).strip('[]')}"
        return first


def _joined(elements: Sequence[Element]) -> str:
    """Some bits together; raises `Strange` for a concatenation."""
    if any(len(each.key) != 1 for each in elements):
        raise Strange(".")
    return "|".join(each.key[0] for each in elements)


def _bits_compared(
    op: str, members: tuple[Element, ...], *, listed: bool
) -> tuple[Masked, str, tuple[Element, ...]]:
    """What a condition on flags compares: without `==` or `!=`, whether any of these bits is set."""
    if not listed:
        return Masked(Field(FLAGS), _EVERY_FLAG), op or "==", members
    joined = _joined(members)
    if op in {"==", "!="}:
        return Masked(Field(FLAGS), _EVERY_FLAG), op, (Element((joined,)),)
    bits = symbols.mask(FLAGS, joined)
    if bits is None:
        raise Strange(joined)
    return Masked(Field(FLAGS), bits), "==" if op == "!" else "!=", (Element(("0",)),)


def idle_picks(nat: Nat) -> Iterator[Pick]:
    """The numbers that a translation picks before anything else of it is looked at."""
    for operand in (nat.address, nat.port):
        if isinstance(operand, Lookup) and isinstance(operand.key, Pick):
            yield operand.key
