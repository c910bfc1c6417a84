"""The words of one rule → its statements. What is not known stays, as `Unknown`, with its text.

Only the shape is read here; what names stand for is looked up when rules are lowered.
"""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import count
from typing import TYPE_CHECKING, ClassVar

from lbctl.model import decimal
from lbctl_nftables.reading import symbols
from lbctl_nftables.reading.syntax import (
    ANYTHING,
    Computed,
    Concat,
    Element,
    Field,
    Limit,
    Lookup,
    Masked,
    Match,
    Nat,
    Pick,
    Ref,
    SetMark,
    Unknown,
    UnsupportedSyntax,
    Update,
    Verdict,
    Vmap,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from lbctl_nftables.reading.syntax import Key, Members, Operand, Source, Statement


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


def _table(text: str) -> Mapping[str, frozenset[str]]:
    """Return the words behind each word of `word: words`, a line each."""
    lines = [line.partition(":") for line in text.strip().splitlines()]
    return {head.strip(): frozenset(words.split()) for head, _, words in lines}


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
_HEADERS = _table("""
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
    ct: state status mark direction helper zone l3proto protocol expiration id label bytes packets avgpkt
""")
#: Behind a direction of a connection.
_CT_WAY = _words("saddr daddr proto-src proto-dst l3proto protocol zone packets bytes avgpkt label")
_RELATIONS = {"==": "==", "!=": "!=", "<": "<", ">": ">", "<=": "<=", ">=": ">="} | {
    "eq": "==", "ne": "!=", "lt": "<", "gt": ">", "le": "<=", "ge": ">=",
}  # fmt: skip
_LOG = frozenset({"prefix", "level", "group", "snaplen", "queue-threshold", "flags"})
_PLAIN = frozenset({"accept", "drop", "return", "continue"})
_NAT = frozenset({"dnat", "snat", "redirect", "masquerade"})
_AFTER_FAMILY = {"to", "addr", "prefix", "interval"}
_FLAGS = frozenset({"random", "fully-random", "persistent"})
#: Words of statements behind a mark that is computed in a way that is not known.
_AHEAD = _PLAIN | _NAT | {"jump", "goto", "counter", "comment", "log", ""}
#: Operators on bits, the tightest first.
_BITWISE = {"&": 0, "and": 0, "^": 1, "xor": 1, "|": 2, "or": 2}
_SHIFTS = frozenset({"<<", ">>", "lshift", "rshift"})
_HEXADECIMAL = re.compile(r"0[xX][0-9A-Fa-f]{1,18}")
_UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1}
_BITS = 32
_EVERY_BIT = (1 << _BITS) - 1
#: A condition of so many words is remembered: rules repeat them endlessly. How many are, at most.
_LENGTHS = (2, 3)
_MOST_SEEN = 1 << 14
#: Words behind which a condition goes on.
_GOES_ON = frozenset({",", ".", "-", "/", ":", "map", "vmap", "set", *_BITWISE, *_SHIFTS, *_RELATIONS})


_PICKING = frozenset({"numgen", "jhash", "symhash"})
#: Words behind an option of a header that are no field of it.
_NO_FIELD = frozenset({"exists", "missing", "set", "map", "vmap", *_RELATIONS})
#: What an element may have beside its key and data.
_EXTRAS = frozenset({"comment", "timeout", "expires", "counter", "limit", "quota", "last", "ct"})
_NO_FLAGS: frozenset[str] = frozenset()
_NO_BITS = (Element(("0",)),)
_field = lru_cache(maxsize=1 << 8)(Field)


def seconds(text: str) -> int | None:
    """Return the seconds of `1d2h3m4s`, or of a bare number of them; None for anything else."""
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
        #: Those that are read, an empty one behind them, and the place of the next one.
        self._words: Sequence[str] = ("",)
        self._at = 0
        self._comment = ""
        self._seen: dict[Sequence[str], Match] = {}
        self._idents = count(1)

    def rule(self, words: Sequence[str]) -> tuple[tuple[Statement, ...], str]:
        """Return the statements of a rule, and its comment."""
        self._words, self._at, self._comment = (*words, ""), 0, ""
        made: list[Statement] = []
        while self._at < len(words):
            begin = self._at
            try:
                word = words[begin]
                read = self._STATEMENTS.get(word)
                if read is None:
                    statement = self._about_packet()
                else:
                    self._at += 1
                    statement = read(self)
            except UnsupportedSyntax:
                made.append(Unknown(" ".join(words[begin:])))
                break
            if statement is not None:
                made.append(statement)
        return tuple(made), self._comment

    def elements(self, words: Sequence[str]) -> tuple[Element, ...]:
        """Return the elements between two braces, which are all of `words`; raise `UnsupportedSyntax`."""
        self._words, self._at = (*words, ""), 0
        made = self._braces()
        if self._at < len(words):
            raise UnsupportedSyntax(self._word())
        return made

    # -- words

    def _word(self, ahead: int = 0) -> str:
        place = self._at + ahead
        return self._words[place] if place < len(self._words) else ""

    def _take(self) -> str:
        """Take the next word."""
        word = self._words[self._at]
        if not word:
            raise UnsupportedSyntax(word)
        self._at += 1
        return word

    def _before(self) -> str:
        """Return the word that was taken last."""
        return self._words[self._at - 1]

    def _expect(self, *wanted: str) -> str:
        """Take the next word, which is one of `wanted`."""
        word = self._words[self._at]
        if word not in wanted or not word:
            raise UnsupportedSyntax(word)
        self._at += 1
        return word

    def _taken(self, *wanted: str) -> bool:
        """Return True if the next word is one of these, and take it."""
        if self._words[self._at] in wanted:
            self._at += 1
            return True
        return False

    def _text(self, begin: int) -> str:
        """Return the words that were taken from a place on."""
        return " ".join(self._words[begin : self._at])

    def _skip_to(self, *ends: str) -> None:
        """Take all words up to one of these, or to the end."""
        while self._words[self._at] not in ends and self._words[self._at]:
            self._at += 1

    # -- statements; each begins behind its first word

    def _named(self) -> None:
        self._comment = unquoted(self._take())

    def _counter(self) -> None:
        if self._taken("packets"):
            self._take()
            self._expect("bytes")
            self._take()
        elif self._taken("name"):
            self._operand()

    def _log(self) -> None:
        while self._word() in _LOG:
            if self._take() == "flags" and self._word() in {"tcp", "ip"}:
                self._at += 1
            self._take()
            while self._taken(","):
                self._take()

    def _last(self) -> None:
        if self._taken("used"):
            self._take()

    def _reset(self) -> None:
        self._at += 2
        self._take()

    def _nothing(self) -> None:
        """A statement of one word that changes nothing here."""

    def _verdict(self) -> Verdict:
        return Verdict(self._before())

    def _jump(self) -> Verdict:
        kind = self._before()
        if self._word() == "{":
            raise UnsupportedSyntax("{")
        return Verdict(kind, unquoted(self._take()))

    def _reject(self) -> Verdict:
        self._skip_to()
        return Verdict("drop")

    def _limit(self) -> Limit:
        begin = self._at - 1
        if self._taken("name"):
            self._operand()
            return Limit(self._text(begin))
        self._expect("rate")
        self._taken("over")
        self._take()
        self._taken("kbytes", "mbytes", "bytes")
        self._expect("/")
        self._expect("second", "minute", "hour", "day", "week")
        text = self._text(begin)
        if self._taken("burst"):
            burst = f"{self._take()} {self._expect('packets', 'bytes', 'kbytes', 'mbytes')}"
            # The default, which nft prints since 1.1 only.
            text += f" burst {burst}" if burst != "5 packets" else ""
        return Limit(text)

    def _quota(self) -> Limit:
        begin = self._at - 1
        if self._taken("name"):
            self._operand()
        else:
            self._taken("over", "until")
            self._amount()
            if self._taken("used"):
                self._amount()
        return Limit(self._text(begin))

    def _amount(self) -> None:
        self._take()
        self._expect("bytes", "kbytes", "mbytes")

    def _update(self) -> Update:
        if self._before() == "set":
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
        while self._word() in {"counter", "limit", "ct", "quota", "last"}:
            begin = self._at
            # Each client's own statement.
            self._skip_to(":", "}", "@")
            if self._words[begin] not in {"counter", "last"}:
                limited = self._text(begin)
        return key, timeout, limited

    def _nat(self) -> Nat:
        kind = self._before()
        family = self._take() if self._word() in {"ip", "ip6"} and self._word(1) in _AFTER_FAMILY else ""
        if self._taken("addr"):
            self._expect(".")
            self._expect("port")
        else:
            self._taken("prefix", "interval")
        address: Operand | None = None
        port: Operand | None = None
        if self._leads(kind):
            if self._word() != ":":
                address = self._operand()
            if self._taken(":"):
                port = self._operand()
        flags = set()
        while self._word() in _FLAGS or self._word() == ",":
            flags.add(self._take())
        return Nat(kind, address, port, family, frozenset(flags - {","}) if flags else _NO_FLAGS)

    def _leads(self, kind: str) -> bool:
        """Return True if an endpoint follows; `dnat 10.0.0.1:80` and `redirect :80` need no `to`."""
        if self._taken("to") or self._word() == ":":
            return True
        return kind in {"dnat", "snat"} and self._word() not in _FLAGS | {"comment", ""}

    # -- conditions and assignments

    def _about_packet(self) -> Statement | None:
        for length in _LENGTHS:
            known = self._seen.get(self._words[self._at : self._at + length])
            if known is not None and self._word(length) not in _GOES_ON:
                self._at += length
                return known
        begin = self._at
        made = self._match()
        length = self._at - begin
        if isinstance(made, Match) and isinstance(made.key, Field) and length in _LENGTHS:
            if len(self._seen) >= _MOST_SEEN:
                self._seen.clear()
            self._seen[self._words[begin : self._at]] = made
        return made

    def _match(self) -> Statement | None:
        begin = self._at
        if self._word() == "ct" and self._word(1) == "count":
            self._at += 2
            self._taken("over")
            self._take()
            return Limit(self._text(begin))
        source = self._source()
        if isinstance(source, Field) and self._taken("set"):
            return self._assignment(source)
        if self._taken("vmap"):
            return Vmap(source, self._members())
        op = _RELATIONS.get(self._word(), "")
        self._at += bool(op)
        members: Members
        if self._word() in {"{", "@"}:
            members = self._members()
        elif self._taken("!"):
            source, members = self._bits_of(source, self._listed()), _NO_BITS
        elif self._word() == "(":
            members = (Element((self._inside(),)),)
        else:
            members = self._listed()
        if self._taken("/"):
            # What `tcp flags syn / syn,ack` compares: `tcp flags & (syn|ack) == syn`.
            if isinstance(members, Ref):
                raise UnsupportedSyntax("/")
            source, members = self._bits_of(source, self._listed()), (Element((_joined(members),)),)
        if self._is_computed() or self._word() in {"/", "map", ":"}:
            raise UnsupportedSyntax(self._word())
        return Match(source, op or "==", members, self._text(begin))

    def _assignment(self, field: Field) -> SetMark | None:
        begin = self._at
        value: Operand | Computed | None
        try:
            value = self._computed()
            if value is None:
                self._at = begin
                value = self._operand()
            while self._taken(",", ":"):
                self._key()
            is_whole = not self._is_computed()
        except UnsupportedSyntax:
            value, is_whole = None, False
        if not is_whole:
            # Computed in another way from what the packet or connection has.
            self._at = max(begin, self._at)
            self._skip_to(*_AHEAD)
        if field.name in {"mark", "ct mark"}:
            return SetMark("ct" if field.name == "ct mark" else "meta", value if is_whole else None)
        # Another part of the packet is written. A choice would balance packets, which no connection tracking
        # follows; all else has no meaning here.
        if not _PICKING.isdisjoint(self._words[begin : self._at]):
            raise UnsupportedSyntax(field.name)
        return None

    def _computed(self) -> Computed | None:
        """Return a mark made of a mark and of numbers; None for anything else."""
        if self._word() not in {"meta", "mark", "ct"}:
            return None
        field = self._field()
        mask, flip, loosest = _EVERY_BIT, 0, 0
        while self._word() in _BITWISE:
            operator = _BITWISE[self._take()]
            if operator < loosest:
                # It binds tighter than the one before it.
                raise UnsupportedSyntax(self._word())
            loosest, bits = operator, number(self._take())
            if operator == 0:
                mask, flip = mask & bits, flip & bits
            elif operator == 1:
                flip ^= bits
            else:
                mask, flip = mask & ~bits, flip | bits
        if field.name not in {"mark", "ct mark"} or self._word() in {"map", "."}:
            return None
        return Computed("ct" if field.name == "ct mark" else "meta", mask, flip)

    # -- expressions

    def _operand(self) -> Operand:
        """Read a value, a look-up, or a number that is picked."""
        begin = self._at
        if self._word()[:1].isdigit():
            return self._key()
        try:
            source = self._source()
        except UnsupportedSyntax:
            self._at = begin
            return self._key()
        if self._taken("map"):
            return Lookup(source, self._members())
        if isinstance(source, Pick):
            return source
        raise UnsupportedSyntax(self._word())

    def _source(self) -> Source:
        """Read what a statement is about: a field, some bits of it, several fields, or a picked number."""
        if self._word() in {"numgen", "jhash", "symhash"}:
            return self._pick()
        field = self._field()
        if self._word() == ".":
            parts = [field]
            while self._taken("."):
                parts.append(self._field())
            return Concat(tuple(parts))
        return self._masked(field) if self._is_computed() else field

    def _masked(self, field: Field) -> Source:
        """Read the bits of a field that count, by their numbers or names; or what is computed, verbatim."""
        begin = self._at
        if self._taken("&", "and"):
            text = self._inside() if self._word() == "(" else self._take()
            if not self._is_computed():
                bits = symbols.mask(field.name, text)
                if bits is None and text[0] != "(" and "." not in text and ":" not in text:
                    bits = number(text)
                return Masked(field, bits) if bits is not None else Field(f"{field.name} & {text}")
        if field.name in {"mark", "ct mark"}:
            # No field of a packet: rules change it.
            raise UnsupportedSyntax(self._word())
        while self._is_computed():
            self._at += 1
            self._inside() if self._word() == "(" else self._take()
        return Field(f"{field.name} {self._text(begin)}")

    def _is_computed(self) -> bool:
        """Return True if an operator on bits follows."""
        return self._word() in _BITWISE or self._word() in _SHIFTS

    def _bits_of(self, field: Source, bits: Sequence[Element]) -> Masked:
        """Return some bits of a field, by their names."""
        mask = symbols.mask(field.name, _joined(bits)) if isinstance(field, Field) else None
        if mask is None or not isinstance(field, Field):
            raise UnsupportedSyntax("/")
        return Masked(field, mask)

    def _inside(self) -> str:
        """Read what stands in parentheses, as text: names of bits."""
        begin = self._at
        self._expect("(")
        self._skip_to(")")
        self._expect(")")
        return "".join(self._words[begin : self._at])

    def _pick(self) -> Pick:
        kind, of, seed, offset = self._take(), "", None, 0
        if kind == "numgen":
            kind = self._expect("inc", "random")
        elif kind == "jhash":
            begin = self._at
            self._source()
            of = self._text(begin)
        self._expect("mod")
        modulus = number(self._take())
        if not modulus:
            raise UnsupportedSyntax("mod 0")
        while self._word() in {"seed", "offset"}:
            if self._take() == "seed":
                seed = number(self._take())
            else:
                offset = number(self._take())
        return Pick(kind, modulus, offset, of, seed, next(self._idents))

    def _field(self) -> Field:
        word, key = self._take(), self._word()
        if key in _HEADERS.get(word, ()):
            self._at += 1
            return _field(f"{word} {key}")
        if word in _META:
            return _field(word)
        read = self._FIELDS.get(word)
        if read is None:
            raise UnsupportedSyntax(word)
        return Field(read(self))

    def _meta(self) -> str:
        key = self._take()
        if key not in _META and key not in _ONLY_META:
            raise UnsupportedSyntax(key)
        return key if key in _META else f"meta {key}"

    def _fib(self) -> str:
        flags = [self._take()]
        while self._taken("."):
            flags.append(self._take())
        return f"fib {' . '.join(flags)} {self._expect('type', 'oif', 'oifname')}"

    def _connection(self) -> str:
        """Read something of one direction of a connection."""
        way = self._expect("original", "reply")
        family = f" {self._take()}" if self._word() in {"ip", "ip6"} else ""
        return f"ct {way}{family} {self._expect(*_CT_WAY)}"

    def _option(self) -> str:
        """Read an option of a header, or one of its fields: `tcp option maxseg size`."""
        word, kind = self._before(), self._expect("option", "chunk")
        name = self._raw() if self._taken("@") else self._take()
        has_field = self._word().islower() and self._word() not in _NO_FIELD
        return f"{word} {kind} {name}{f' {self._take()}' if has_field else ''}"

    def _exthdr(self) -> str:
        return f"exthdr {self._take()}"

    def _raw(self) -> str:
        """Read a place in a packet, behind its `@`: `nh,0,4`."""
        begin = self._at
        for _ in range(2):
            self._take()
            self._expect(",")
        self._take()
        return f"@{''.join(self._words[begin : self._at])}"

    def _osf(self) -> str:
        if self._taken("ttl"):
            self._take()
        return f"osf {self._expect('name', 'version')}"

    def _ipsec(self) -> str:
        begin = self._at
        self._expect("in", "out")
        if self._taken("spnum"):
            self._take()
        self._taken("ip", "ip6")
        self._expect("reqid", "spi", "saddr", "daddr")
        return f"ipsec {self._text(begin)}"

    # -- values, sets and maps

    def _members(self) -> Members:
        if self._taken("@"):
            return Ref(unquoted(self._take()))
        return self._braces()

    def _listed(self) -> tuple[Element, ...]:
        """Read one value, or some with commas between: any of them will do."""
        made = [Element(self._bits(self._key()))]
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
        data: Verdict | Key | None = None
        if self._taken(":"):
            word = self._word()
            if word in _PLAIN:
                data = Verdict(self._take())
            elif word in {"jump", "goto"}:
                self._at += 1
                data = self._jump()
            else:
                data = self._key()
            comment = self._extras() or comment
        return Element(key, data, comment)

    def _extras(self) -> str:
        """Read what belongs to an element beside its key and data; return its comment."""
        comment = ""
        while (word := self._word()) in _EXTRAS:
            self._at += 1
            match word:
                case "comment":
                    comment = unquoted(self._take())
                case "timeout" | "expires":
                    self._take()
                case "counter":
                    self._counter()
                case _:
                    self._skip_to(":", ",", "}")
        return comment

    def _key(self) -> Key:
        first = self._value()
        if self._words[self._at] != ".":
            return (first,)
        parts = [first]
        while self._taken("."):
            parts.append(self._value())
        return tuple(parts)

    def _value(self) -> str:
        word = self._take()
        if not (word[0].isalnum() or word[0] in '"[:_') or word == ":" or word in {"set", "map", "vmap"}:
            raise UnsupportedSyntax(word)
        first = _bare(word)
        if first == "*":
            raise UnsupportedSyntax(word)
        if self._words[self._at] == "-" and (self._word(1)[:1].isalnum() or ":" in self._word(1)):
            self._at += 1
            return f"{first}-{_bare(self._take())}"
        return first

    #: How statements are read, and fields, by their first word.
    _STATEMENTS: ClassVar[Mapping[str, Callable[[Grammar], Statement | None]]] = {
        "comment": _named, "counter": _counter, "log": _log, "last": _last, "notrack": _nothing,
        "limit": _limit, "quota": _quota, "jump": _jump, "goto": _jump, "reject": _reject, "reset": _reset,
        **dict.fromkeys(_PLAIN, _verdict), **dict.fromkeys(_NAT, _nat),
        **dict.fromkeys(("update", "add", "delete", "set"), _update),
    }  # fmt: skip
    _FIELDS: ClassVar[Mapping[str, Callable[[Grammar], str]]] = {
        "meta": _meta, "fib": _fib, "ct": _connection, "tcp": _option, "ip": _option, "sctp": _option,
        "exthdr": _exthdr, "@": _raw, "osf": _osf, "ipsec": _ipsec,
    }  # fmt: skip


def _bare(word: str) -> str:
    """Return a value without quotes or brackets."""
    return word if word[0].isalnum() else unquoted(word).strip("[]")


def _joined(elements: Sequence[Element]) -> str:
    """Return some bits together; raise `UnsupportedSyntax` for a concatenation."""
    if any(len(each.key) != 1 for each in elements):
        raise UnsupportedSyntax(".")
    return "|".join(each.key[0] for each in elements)
