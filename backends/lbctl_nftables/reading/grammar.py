"""The words of one rule → its statements. What is not known stays, as `Unknown`, with its text.

Only the shape is read here; what names stand for is looked up when rules are lowered.
"""

from __future__ import annotations

import re
import sys
from functools import lru_cache
from typing import TYPE_CHECKING

from lbctl.model import decimal
from lbctl_nftables.reading import symbols
from lbctl_nftables.reading.syntax import (
    ANYTHING,
    Computed,
    Concat,
    Element,
    Field,
    Forwarding,
    FrameStatement,
    Lookup,
    MarkStatement,
    Masked,
    Nat,
    NftVerdict,
    NumberExpression,
    RateLimit,
    Ref,
    Relational,
    Unknown,
    UnsupportedSyntax,
    Update,
    Vmap,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lbctl_nftables.reading.syntax import Key, Members, Operand, Source, Statement


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


def _table(text: str) -> Mapping[str, frozenset[str]]:
    """Return the words behind each word of `word: words`, a line each."""
    lines = [line.partition(":") for line in re.sub(r"\n {8,}", " ", text.strip()).splitlines()]
    return {head.strip(): _words(words) for head, _, words in lines}


def _shape(text: str) -> re.Pattern[str]:
    """Return what matches words, each with a line end behind it: `WORD` is any, the rest as in a pattern."""
    plain = {"WORD": r"[^\n]+\n", "(": "(?:"}
    parts = [plain.get(each, each if each in _OPERATORS else f"{each}\n") for each in text.split()]
    return re.compile("".join(parts))


_OPERATORS = frozenset({"(", ")", ")?", ")*", "|"})
#: Keys that may stand without the word `meta`, and those that may not.
_META = _words("""
    mark iif oif iifname oifname iiftype oiftype skuid skgid pkttype cpu iifgroup oifgroup cgroup rtclassid
    ibrname obrname iifkind oifkind
""")
_ONLY_META = _words("""
    l4proto nfproto protocol length priority random time day hour secpath ipsec secmark sdif sdifname ibrpvid
    ibrvproto nftrace broute
""")
#: Headers and what else has fields of its own, with these fields.
_FIELDS = _table("""
    ip: saddr daddr protocol version hdrlength dscp ecn length id frag-off ttl checksum
    ip6: saddr daddr nexthdr version dscp ecn flowlabel length hoplimit
    ether: saddr daddr type
    vlan: id type pcp dei cfi
    arp: htype ptype hlen plen operation
    icmp: type code id sequence mtu gateway checksum
    icmpv6: type code id sequence mtu parameter-problem packet-too-big max-delay checksum
    igmp: type mrt group checksum
    tcp: sport dport flags window sequence ackseq doff reserved urgptr checksum
    udp: sport dport length checksum
    udplite: sport dport checksum
    sctp: sport dport vtag checksum
    dccp: sport dport type
    th: sport dport
    ah: spi nexthdr hdrlength reserved sequence
    esp: spi sequence
    comp: cpi nexthdr flags
    gre: version protocol flags
    hbh: nexthdr hdrlength
    rt: classid nexthop mtu ipsec type nexthdr hdrlength seg-left
    frag: id nexthdr frag-off more-fragments reserved reserved2
    dst: nexthdr hdrlength
    mh: type nexthdr hdrlength reserved checksum
    srh: flags tag sid seg-left last-entry
    socket: transparent mark wildcard cgroupv2
    ct: state status mark direction helper zone l3proto protocol expiration id label event timeout
        expectation secmark bytes packets avgpkt
""")
#: Fields of more words, by the first one.
_LONG_FIELDS = {
    "fib": _shape("fib WORD ( [.] WORD )* ( type | oif | oifname )"),
    "ct": _shape("""ct ( original | reply ) ( ip | ip6 )? ( saddr | daddr | proto-src | proto-dst | l3proto |
        protocol | zone | packets | bytes | avgpkt | label )"""),
    "@": _shape("@ WORD , WORD , WORD"),
    "osf": _shape("osf ( ttl WORD )? ( name | version )"),
    "ipsec": _shape("ipsec ( in | out ) ( spnum WORD )? ( ip | ip6 )? ( reqid | spi | saddr | daddr )"),
    "exthdr": _shape("exthdr WORD"),
    "rt": _shape("rt ( ip | ip6 ) nexthop"),
    **dict.fromkeys(
        ("tcp", "ip", "sctp"),
        _shape("""WORD ( option | chunk ) ( @ WORD , WORD , WORD | WORD (
            (?!exists|missing|set|vmap|map|eq|ne|lt|gt|le|ge)[a-z][a-z-]* )? )"""),
    ),
}
#: An object by its name, or by a map.
_NAMED = r"name WORD ( ( WORD )? map ( @ WORD | \{ ( [^}\n]+ )* \} ) )?"
#: Statements that change nothing here.
_PASSIVE = {
    "counter": _shape(f"counter ( packets WORD bytes WORD | {_NAMED} )?"),
    "log": _shape("""log ( ( prefix | level | group | snaplen | queue-threshold ) WORD | flags (
        all | skuid | ether | ip WORD | tcp WORD ( , WORD )* ) )*"""),
    "last": _shape("last ( used WORD )?"),
    "notrack": _shape("notrack"),
    "reset": _shape("reset WORD option WORD"),
}
_AMOUNT = "WORD ( bytes | kbytes | mbytes )"
_PER = "( second | minute | hour | day | week )"
#: Statements of which the traffic decides whether they match.
_LIMITS = {
    "limit": _shape(
        f"""limit ( {_NAMED} | rate ( over )? ( ( WORD | {_AMOUNT} ) / {_PER} | WORD [km]?bytes/[a-z]+ )
        ( burst WORD ( packets | bytes | kbytes | mbytes ) )? )"""
    ),
    "quota": _shape(f"quota ( {_NAMED} | ( over | until )? {_AMOUNT} ( used {_AMOUNT} )? )"),
    "ct": _shape("ct count ( over )? WORD"),
}
#: What an element may have beside its key and data.
_EXTRA = re.compile(
    "|".join(
        each.pattern
        for each in (
            _shape("( timeout | expires ) WORD"),
            _PASSIVE["counter"],
            _PASSIVE["last"],
            *_LIMITS.values(),
        )
    )
)
#: The burst that nft prints since 1.1 if none is given.
_DEFAULT_BURST = " burst 5 packets"
_RELATIONS = {"==": "==", "!=": "!=", "<": "<", ">": ">", "<=": "<=", ">=": ">="} | {
    "eq": "==", "ne": "!=", "lt": "<", "gt": ">", "le": "<=", "ge": ">=",
}  # fmt: skip
_PLAIN = frozenset({"accept", "drop", "return", "continue"})
_JUMPS = frozenset({"jump", "goto"})
_NAT = frozenset({"dnat", "snat", "redirect", "masquerade"})
_UPDATES = frozenset({"update", "add", "delete", "set"})
_AFTER_FAMILY = {"to", "addr", "prefix", "interval"}
#: What stands behind an element that has nothing beside its key and data.
_BEHIND_ELEMENT = frozenset({":", ",", "}"})
_MARKS = frozenset({"mark", "ct mark"})
#: Fields of MAC addresses, by name and by place; True for those that hold the destination's.
_FRAME: Mapping[str, bool] = {
    "ether daddr": True, "ether saddr": False, "@ ll , 0 , 48": True, "@ ll , 48 , 48": False,
    "@ ll , 0 , 96": True,
}  # fmt: skip
_FLAGS = frozenset({"random", "fully-random", "persistent"})
_NO_FLAGS: frozenset[str] = frozenset()
#: Words of statements behind a mark that is computed in a way that is not known.
_AHEAD = _PLAIN | _NAT | _JUMPS | {"counter", "comment", "log"}
_PICKING = frozenset({"numgen", "jhash", "symhash"})
#: Operators on bits, the tightest first.
_BITWISE = {"&": 0, "and": 0, "^": 1, "xor": 1, "|": 2, "or": 2}
_OPERATOR = frozenset({*_BITWISE, "<<", ">>", "lshift", "rshift"})
#: Fields of bits: a packet has one state and several flags.
_STATE, FLAGS = Field("ct state"), Field("tcp flags")
_NO_BITS = (Element(("0",)),)
_HEXADECIMAL = re.compile(r"0[xX][0-9A-Fa-f]{1,18}")
_TIME = re.compile(r"(?:(\d{1,9})d)?(?:(\d{1,9})h)?(?:(\d{1,9})m(?!s))?(?:(\d{1,9})s?)?(?:\d+ms)?", re.ASCII)
_BITS = 32
_EVERY_BIT = (1 << _BITS) - 1
#: A condition of so many words is remembered: rules repeat them endlessly. How many are, at most.
_LENGTHS = (3, 2)
#: Those of `numgen inc mod 3 0`, also with an offset or a relation.
_PICK_LENGTHS = (5, 6, 7)
#: What stands behind the words of a rule, as far as any of these looks ahead.
_END = ("",) * 8
#: What they are about.
_REMEMBERED = (Field, NumberExpression)
_MOST_SEEN = 1 << 14
#: Words behind which a condition goes on.
_GOES_ON = frozenset({",", ".", "-", "/", ":", "map", "vmap", "set", *_OPERATOR, *_RELATIONS})
_field = lru_cache(maxsize=1 << 8)(Field)


def seconds(text: str) -> int | None:
    """Return the seconds of `1d2h3m4s`, or of a bare number of them; None for anything else."""
    found = _TIME.fullmatch(text)
    if found is None:
        return None
    return sum(int(each or 0) * unit for each, unit in zip(found.groups(), (86400, 3600, 60, 1), strict=True))


def number(text: str, *, bits: int = _BITS) -> int:
    """Return a decimal or hexadecimal number of so many bits; raise `UnsupportedSyntax`."""
    value = int(text, 16) if _HEXADECIMAL.fullmatch(text) else decimal(text, 20)
    if value is None or value >> bits:
        raise UnsupportedSyntax(text)
    return value


def unquoted(word: str) -> str:
    """Return a word without the quotes around it."""
    return word[1:-1] if len(word) > 1 and word[0] == word[-1] == '"' else word


class Grammar:
    """Reads rules and lists of elements, one after the other, each from its words."""

    def __init__(self) -> None:
        #: Those that are read, with empty ones behind them, the place of the next one, and that one.
        self._words: tuple[str, ...] = _END
        self._at = 0
        self._next = ""
        self._seen: dict[Sequence[str], Relational] = {}

    def rule(self, words: Sequence[str]) -> tuple[tuple[Statement, ...], str]:
        """Return the statements of a rule, and its comment."""
        self._begin(words)
        made: list[Statement] = []
        comment = ""
        while self._at < len(words):
            begin = self._at
            try:
                if self._next == "comment":
                    self._take()
                    comment = unquoted(self._take())
                elif self._next == "counter" and self._ahead() not in {"packets", "name"}:
                    self._take()
                elif self._next not in _PASSIVE:
                    statement = self._statement()
                    if statement is not None:
                        made.append(statement)
                elif self._shaped(_PASSIVE[self._next]) is None:
                    raise UnsupportedSyntax(self._next)
            except UnsupportedSyntax:
                made.append(Unknown(" ".join(words[begin:])))
                break
        return tuple(made), comment

    def elements(self, words: Sequence[str]) -> tuple[Element, ...]:
        """Return the elements between two braces, which are all of `words`; raise `UnsupportedSyntax`."""
        self._begin(words)
        made = self._braces()
        if self._at < len(words):
            raise UnsupportedSyntax(self._next)
        return made

    # -- words

    def _begin(self, words: Sequence[str]) -> None:
        self._words = (*words, *_END)
        self._go(0)

    def _go(self, place: int) -> None:
        self._at = place
        self._next = self._words[place]

    def _take(self) -> str:
        """Take the next word."""
        word = self._next
        if not word:
            raise UnsupportedSyntax("the end")
        self._at += 1
        self._next = self._words[self._at]
        return word

    def _expect(self, *wanted: str) -> str:
        """Take the next word, which is one of `wanted`."""
        if self._next not in wanted:
            raise UnsupportedSyntax(self._next or "the end")
        return self._take()

    def _taken(self, *wanted: str) -> bool:
        """Return True if the next word is one of these, and take it."""
        if self._next not in wanted:
            return False
        self._at += 1
        self._next = self._words[self._at]
        return True

    def _ahead(self, count: int = 1) -> str:
        """Return the word behind the next ones."""
        return self._words[self._at + count]

    def _text(self, begin: int) -> str:
        """Return the words that were taken from a place on."""
        return " ".join(self._words[begin : self._at])

    def _skip_to(self, *ends: str) -> None:
        """Take all words up to one of these, or to the end."""
        while self._next and self._next not in ends:
            self._take()

    def _shaped(self, shape: re.Pattern[str]) -> str | None:
        """Take the words of a shape and return them; None if those ahead have another one."""
        begin = self._at
        found = shape.match("\n".join(self._words[begin:]))
        if found is None:
            return None
        self._go(begin + found[0].count("\n"))
        return self._text(begin)

    # -- statements

    def _statement(self) -> Statement | None:
        """Read the next statement; None for one that changes nothing here."""
        word = self._next
        if word in _PLAIN or word in _JUMPS:
            return self._verdict()
        if word in _NAT:
            return self._nat(self._take())
        if word == "reject":
            self._skip_to()
            return NftVerdict("drop")
        if word == "fwd":
            return self._forwarding()
        if word in _LIMITS and (text := self._shaped(_LIMITS[word])) is not None:
            return RateLimit(text.removesuffix(_DEFAULT_BURST))
        return self._update(self._take()) if word in _UPDATES else self._about_packet()

    def _verdict(self) -> NftVerdict:
        kind = self._take()
        if kind in _PLAIN:
            return NftVerdict(kind)
        if self._next == "{":
            raise UnsupportedSyntax("{")
        return NftVerdict(kind, unquoted(self._take()))

    def _update(self, verb: str) -> Update:
        if verb == "set":
            # `set update ip saddr @name` is how nft wrote it before 0.9.
            self._expect("update", "add")
            key, timeout, limited = self._updated()
            self._expect("@")
            return Update(unquoted(self._take()), key, timeout, limited)
        self._taken("@")
        name = unquoted(self._take())
        self._expect("{")
        key, timeout, limited = self._updated()
        self._skip_to("}")
        self._expect("}")
        return Update(name, key, timeout, limited)

    def _updated(self) -> tuple[str, int | None, str]:
        """Return the key of an element, how long it stays, and what its own statements let through."""
        begin = self._at
        source = self._source()
        fields = source.parts if isinstance(source, Concat) else (source,)
        named = [each.name for each in fields if isinstance(each, Field)]
        key = " . ".join(named) if len(named) == len(fields) else self._text(begin)
        timeout = seconds(self._take()) if self._taken("timeout") else None
        limited = ""
        while self._next in _PASSIVE or self._next in _LIMITS:
            is_limit = self._next in _LIMITS
            text = self._shaped((_LIMITS if is_limit else _PASSIVE)[self._next])
            if text is None:
                raise UnsupportedSyntax(self._next)
            limited = text if is_limit else limited
        return key, timeout, limited

    def _nat(self, kind: str) -> Nat:
        family = self._take() if self._next in {"ip", "ip6"} and self._ahead() in _AFTER_FAMILY else ""
        if self._taken("addr"):
            self._expect(".")
            self._expect("port")
        else:
            self._taken("prefix", "interval")
        address: Operand | None = None
        port: Operand | None = None
        if self._leads(kind):
            if self._next != ":":
                address = self._operand()
            if self._taken(":"):
                port = self._operand()
        flags = set()
        while self._next in _FLAGS or self._next == ",":
            flags.add(self._take())
        return Nat(kind, address, port, family, frozenset(flags - {","}) if flags else _NO_FLAGS)

    def _forwarding(self) -> Forwarding:
        self._expect("fwd")
        family = self._take() if self._next in {"ip", "ip6"} else ""
        self._expect("to")
        target = self._operand()
        if not family:
            return Forwarding(target)
        self._expect("device")
        return Forwarding(self._operand(), target, family)

    def _leads(self, kind: str) -> bool:
        """Return True if an endpoint follows; `dnat 10.0.0.1:80` and `redirect :80` need no `to`."""
        if self._taken("to") or self._next == ":":
            return True
        return kind in {"dnat", "snat"} and self._next not in _FLAGS | {"comment", ""}

    # -- conditions and assignments

    def _about_packet(self) -> Statement | None:
        begin = self._at
        lengths = _PICK_LENGTHS if self._next in _PICKING else _LENGTHS
        for length in lengths:
            known = self._seen.get(self._words[begin : begin + length])
            if known is not None and self._ahead(length) not in _GOES_ON:
                self._go(begin + length)
                return known
        made = self._match()
        length = self._at - begin
        if isinstance(made, Relational) and isinstance(made.key, _REMEMBERED) and length in lengths:
            if len(self._seen) >= _MOST_SEEN:
                self._seen.clear()
            self._seen[self._words[begin : self._at]] = made
        return made

    def _match(self) -> Statement | None:  # noqa: C901, PLR0912 (the forms of a match)
        begin = self._at
        source = self._source()
        if isinstance(source, Field) and self._taken("set"):
            return self._assignment(source)
        if self._taken("vmap"):
            return Vmap(source, self._members())
        op, relation = "==", self._next
        if relation in _RELATIONS:
            op = _RELATIONS[self._take()]
        members: Members
        if self._next in {"{", "@"}:
            members = self._members()
        elif source == _STATE and self._taken("!"):
            op, members = "!=", self._listed()
        elif self._taken("!"):
            source, members = _bits_of(source, self._listed()), _NO_BITS
        elif self._next == "(":
            members = (Element((self._inside(),)),)
        else:
            members = self._listed()
        if self._next == "/" and not isinstance(members, Ref):
            # What `tcp flags syn / syn,ack` compares: `tcp flags & (syn|ack) == syn`.
            self._take()
            source, members = _bits_of(source, self._listed()), (Element((_joined(members),)),)
        elif source == FLAGS and isinstance(members, tuple):
            if relation in _RELATIONS and self._words[self._at - 1] != "}":
                members = (Element((_joined(members),)),)
            elif self._words[self._at - 1] != "}":
                # Without `==`, it asks whether any of these bits is set.
                source, op, members = _bits_of(source, members), "!=", _NO_BITS
        if self._next in _OPERATOR or self._next in {"/", "map", ":"}:
            raise UnsupportedSyntax(self._next)
        return Relational(source, op, members, sys.intern(self._text(begin)))

    def _assignment(self, field: Field) -> MarkStatement | FrameStatement | None:
        begin = self._at
        if (daddr := _FRAME.get(field.name)) is not None:
            return FrameStatement(daddr, self._operand())
        value: Operand | Computed | None
        try:
            value = self._computed()
            if value is None:
                self._go(begin)
                value = self._operand()
            while self._taken(",", ":"):
                self._key()
            is_whole = self._next not in _OPERATOR
        except UnsupportedSyntax:
            value, is_whole = None, False
        if not is_whole:
            # Computed in another way from what the packet or connection has.
            self._skip_to(*_AHEAD)
        if field.name in _MARKS:
            return MarkStatement("ct" if field.name == "ct mark" else "meta", value if is_whole else None)
        # Another part of the packet is written. A choice would balance packets, which no connection tracking
        # follows; all else has no meaning here.
        if not _PICKING.isdisjoint(self._words[begin : self._at]):
            raise UnsupportedSyntax(field.name)
        return None

    def _computed(self) -> Computed | None:
        """Return a mark made of a mark and of numbers; None for anything else."""
        if self._next not in {"meta", "mark", "ct"}:
            return None
        field = self._field()
        mask, flip, loosest = _EVERY_BIT, 0, 0
        while self._next in _BITWISE:
            operator = _BITWISE[self._take()]
            if operator < loosest:
                # It binds tighter than the one before it.
                raise UnsupportedSyntax(self._next)
            loosest, bits = operator, number(self._take())
            if operator == 0:
                mask, flip = mask & bits, flip & bits
            elif operator == 1:
                flip ^= bits
            else:
                mask, flip = mask & ~bits, flip | bits
        if field.name not in _MARKS or self._next in {"map", "."}:
            return None
        return Computed("ct" if field.name == "ct mark" else "meta", mask, flip)

    # -- expressions

    def _operand(self) -> Operand:
        """Read a value, a look-up, or a number that is picked."""
        begin = self._at
        if self._next[:1].isdigit():
            return self._key()
        try:
            source = self._source()
        except UnsupportedSyntax:
            self._go(begin)
            return self._key()
        if self._taken("map"):
            return Lookup(source, self._members())
        if isinstance(source, NumberExpression):
            return source
        raise UnsupportedSyntax(self._next)

    def _source(self) -> Source:
        """Read what a statement is about: a field, some bits of it, several fields, or a picked number."""
        begin = self._at
        if self._next in _PICKING:
            pick = self._pick()
            if self._next != ".":
                return pick
            # A hash as one part of a key, such as one of both addresses of IPv6.
            field = Field(self._text(begin))
        else:
            field = self._field()
        if self._next == ".":
            parts = [field]
            while self._taken("."):
                parts.append(self._field())
            return Concat(tuple(parts))
        return self._masked(field) if self._next in _OPERATOR else field

    def _masked(self, field: Field) -> Source:
        """Read the bits of a field that count, by their numbers or names; or what is computed, verbatim."""
        begin = self._at
        if self._taken("&", "and"):
            text = self._inside() if self._next == "(" else self._take()
            if self._next not in _OPERATOR:
                bits = symbols.mask(field.name, text)
                if bits is None and text[0] != "(" and "." not in text and ":" not in text:
                    bits = number(text)
                return Masked(field, bits) if bits is not None else Field(f"{field.name} & {text}")
        if field.name in _MARKS:
            # No field of a packet: rules change it.
            raise UnsupportedSyntax(self._next)
        while self._next in _OPERATOR:
            self._take()
            self._inside() if self._next == "(" else self._take()
        return Field(f"{field.name} {self._text(begin)}")

    def _inside(self) -> str:
        """Read what stands in parentheses, as text: names of bits."""
        begin = self._at
        self._skip_to(")")
        self._expect(")")
        return "".join(self._words[begin : self._at])

    def _pick(self) -> NumberExpression:
        kind, of, seed, offset = self._take(), "", None, 0
        if kind == "numgen":
            kind = sys.intern(self._expect("inc", "random"))
        elif kind == "jhash":
            begin = self._at
            self._source()
            of = self._text(begin)
        self._expect("mod")
        modulus = number(self._take())
        if not modulus:
            raise UnsupportedSyntax("mod 0")
        while self._next in {"seed", "offset"}:
            if self._take() == "seed":
                seed = number(self._take())
            else:
                offset = number(self._take())
        return NumberExpression(kind, modulus, offset, of, seed)

    def _field(self) -> Field:
        word, key = self._next, self._ahead()
        if key in _FIELDS.get(word, ()):
            self._go(self._at + 2)
            return _field(f"{word} {key}")
        if word in _META:
            return _field(self._take())
        if word == "meta" and (key in _META or key in _ONLY_META):
            self._go(self._at + 2)
            return _field(key if key in _META else f"meta {key}")
        text = self._shaped(_LONG_FIELDS[word]) if word in _LONG_FIELDS else None
        if text is None:
            raise UnsupportedSyntax(word)
        return Field(text)

    # -- values, sets and maps

    def _members(self) -> Members:
        if self._taken("@"):
            return Ref(unquoted(self._take()))
        return self._braces()

    def _listed(self) -> tuple[Element, ...]:
        """Read one value, or some with commas between: any of them will do."""
        first = _alone(self._bits(self._key()))
        if self._next != ",":
            return first
        made = [*first]
        while self._taken(","):
            made.append(Element(self._bits(self._key())))
        return tuple(made)

    def _bits(self, key: Key) -> Key:
        """Read a key, or with `|` behind it all of these bits together, as `syn | ack`."""
        while self._taken("|"):
            key = (*key[:-1], f"{key[-1]}|{self._value()}")
        return key

    def _braces(self) -> tuple[Element, ...]:
        """Read an anonymous set or map."""
        self._expect("{")
        made = []
        while not self._taken("}"):
            made.append(self._element())
            if not self._taken(","):
                self._expect("}")
                break
        return tuple(made)

    def _element(self) -> Element:
        key = ANYTHING if self._taken("*") else self._bits(self._key())
        comment = self._extras()
        if not self._taken(":"):
            return Element(key, None, comment)
        data = self._verdict() if self._next in _PLAIN or self._next in _JUMPS else self._key()
        return Element(key, data, self._extras() or comment)

    def _extras(self) -> str:
        """Read what belongs to an element beside its key and data; return its comment."""
        comment = ""
        while self._next not in _BEHIND_ELEMENT:
            if self._taken("comment"):
                comment = unquoted(self._take())
            elif self._shaped(_EXTRA) is None:
                break
        return comment

    def _key(self) -> Key:
        first = self._value()
        if self._next != ".":
            return _single(first)
        parts = [first]
        while self._taken("."):
            parts.append(self._value())
        return tuple(parts)

    def _value(self) -> str:
        word = self._take()
        if not (word[0].isalnum() or word[0] in '"[:_') or word in {":", "set", "map", "vmap"}:
            raise UnsupportedSyntax(word)
        first = _bare(word)
        if first == "*":
            raise UnsupportedSyntax(word)
        if self._next == "-" and (self._ahead()[:1].isalnum() or ":" in self._ahead()):
            self._take()
            return f"{first}-{_bare(self._take())}"
        return first


@lru_cache(maxsize=1 << 10)
def _single(value: str) -> Key:
    """Return a key of one value: rules have few different ones, but for addresses."""
    return (value,)


@lru_cache(maxsize=1 << 10)
def _alone(key: Key) -> tuple[Element, ...]:
    """Return the only element with a key."""
    return (Element(key),)


def _bare(word: str) -> str:
    """Return a value without quotes or brackets."""
    return word if word[0].isalnum() else unquoted(word).strip("[]")


def _bits_of(field: Source, bits: Sequence[Element]) -> Masked:
    """Return some bits of a field, by their names."""
    mask = symbols.mask(field.name, _joined(bits)) if isinstance(field, Field) else None
    if mask is None or not isinstance(field, Field):
        raise UnsupportedSyntax("/")
    return Masked(field, mask)


def _joined(elements: Sequence[Element]) -> str:
    """Return some bits together; raise `UnsupportedSyntax` for a concatenation."""
    if any(len(each.key) != 1 for each in elements):
        raise UnsupportedSyntax(".")
    return "|".join(each.key[0] for each in elements)
