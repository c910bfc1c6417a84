"""The grammar of one rule: which option belongs to which match or target, and how many words it takes.

From the options that iptables 1.8 documents, and those of older releases that texts still hold. A rule is
read in written order, since matches act in that order; `!` belongs to the option behind it, as today, or
stands before the value, as it did before iptables 1.4.3.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class Unparsable(ValueError):
    """A rule that is no rule of iptables."""


def _table(text: str) -> Mapping[str, int]:
    """`a b=1 c=2` → how many words each option takes."""
    return {name: int(count or 0) for name, _, count in (word.partition("=") for word in text.split())}


#: Match → its options. A match that is not here is unknown, and so are the words behind it.
MATCHES: Mapping[str, Mapping[str, int]] = {
    name: _table(text)
    for name, text in {
        "tcp": "source-port=1 sport=1 destination-port=1 dport=1 syn tcp-flags=2 tcp-option=1",
        "udp": "source-port=1 sport=1 destination-port=1 dport=1",
        "udplite": "source-port=1 sport=1 destination-port=1 dport=1",
        "sctp": "source-port=1 sport=1 destination-port=1 dport=1 chunk-types=2",
        "dccp": "source-port=1 sport=1 destination-port=1 dport=1 dccp-types=1 dccp-option=1",
        "icmp": "icmp-type=1",
        "icmp6": "icmpv6-type=1",
        "icmpv6": "icmpv6-type=1",
        "ipv6-icmp": "icmpv6-type=1",
        "multiport": "source-ports=1 sports=1 destination-ports=1 dports=1 ports=1 "
        "source-port=1 destination-port=1 sport=1 dport=1",
        "mport": "source-ports=1 sports=1 destination-ports=1 dports=1 ports=1",
        "statistic": "mode=1 probability=1 every=1 packet=1",
        "nth": "every=1 packet=1 counter=1 start=1",
        "random": "average=1",
        "cluster": "cluster-total-nodes=1 cluster-local-node=1 cluster-local-nodemask=1 cluster-hash-seed=1",
        "bpf": "bytecode=1 object-pinned=1",
        "recent": "set rcheck update remove seconds=1 reap hitcount=1 rttl name=1 rsource rdest mask=1",
        "mark": "mark=1",
        "connmark": "mark=1",
        "addrtype": "src-type=1 dst-type=1 limit-iface-in limit-iface-out",
        "conntrack": "ctstate=1 ctproto=1 ctorigsrc=1 ctorigdst=1 ctreplsrc=1 ctrepldst=1 ctorigsrcport=1 "
        "ctorigdstport=1 ctreplsrcport=1 ctrepldstport=1 ctstatus=1 ctexpire=1 ctdir=1",
        "state": "state=1",
        "comment": "comment=1",
        "iprange": "src-range=1 dst-range=1",
        "mac": "mac-source=1",
        "time": "datestart=1 datestop=1 timestart=1 timestop=1 monthdays=1 weekdays=1 kerneltz utc localtz "
        "contiguous",
        "owner": "uid-owner=1 gid-owner=1 pid-owner=1 sid-owner=1 cmd-owner=1 socket-exists suppl-groups",
        "limit": "limit=1 limit-burst=1",
        "hashlimit": "hashlimit=1 hashlimit-upto=1 hashlimit-above=1 hashlimit-mode=1 hashlimit-srcmask=1 "
        "hashlimit-dstmask=1 hashlimit-name=1 hashlimit-burst=1 hashlimit-htable-size=1 "
        "hashlimit-htable-max=1 hashlimit-htable-gcinterval=1 hashlimit-htable-expire=1 "
        "hashlimit-rate-match hashlimit-rate-interval=1",
        "connlimit": "connlimit-upto=1 connlimit-above=1 connlimit-mask=1 connlimit-saddr connlimit-daddr",
        "connbytes": "connbytes=1 connbytes-dir=1 connbytes-mode=1",
        "connlabel": "label=1 set",
        "quota": "quota=1",
        "length": "length=1",
        "ttl": "ttl-eq=1 ttl-gt=1 ttl-lt=1 ttl=1",
        "hl": "hl-eq=1 hl-gt=1 hl-lt=1",
        "tos": "tos=1",
        "dscp": "dscp=1 dscp-class=1",
        "ecn": "ecn-tcp-cwr ecn-tcp-ece ecn-ip-ect=1",
        "helper": "helper=1",
        "pkttype": "pkt-type=1",
        "physdev": "physdev-in=1 physdev-out=1 physdev-is-in physdev-is-out physdev-is-bridged",
        "policy": "dir=1 pol=1 strict reqid=1 spi=1 proto=1 mode=1 tunnel-src=1 tunnel-dst=1 next",
        "realm": "realm=1",
        "rpfilter": "loose validmark accept-local invert",
        "set": "match-set=2 set=2 return-nomatch bytes-eq=1 packets-eq=1 update-counters "
        "update-subcounters packets-lt=1 packets-gt=1 bytes-lt=1 bytes-gt=1",
        "socket": "transparent nowildcard restore-skmark",
        "string": "from=1 to=1 algo=1 string=1 hex-string=1 icase",
        "tcpmss": "mss=1",
        "u32": "u32=1",
        "cgroup": "path=1 cgroup=1",
        "cpu": "cpu=1",
        "devgroup": "src-group=1 dst-group=1",
        "ah": "ahspi=1",
        "esp": "espspi=1",
        "ipvs": "ipvs vproto=1 vaddr=1 vport=1 vdir=1 vmethod=1 vportctl=1",
        "geoip": "src-cc=1 source-country=1 dst-cc=1 destination-country=1",
        "condition": "condition=1",
    }.items()
}

#: Matches that iptables had once: what is there today in their place.
REMOVED: Mapping[str, str] = {
    "nth": "-m statistic --mode nth",
    "random": "-m statistic --mode random",
    "mport": "-m multiport",
    "unclean": "nothing: drop the match",
    "fuzzy": "-m hashlimit",
    "ipv4options": "nothing in the kernel itself",
    "psd": "-m recent",
    "dstlimit": "-m hashlimit",
    "childlevel": "nothing",
    "account": "nfacct",
}

_NAT = "to-ports=1 random random-fully persistent"
#: Target → its options.
TARGETS: Mapping[str, Mapping[str, int]] = {
    name: _table(text)
    for name, text in {
        "ACCEPT": "",
        "DROP": "",
        "QUEUE": "",
        "RETURN": "",
        "REDIRECT": "to-ports=1 random random-fully persistent",
        "DNAT": "to-destination=1 random random-fully persistent",
        "SNAT": "to-source=1 random random-fully persistent",
        "MASQUERADE": _NAT,
        "NETMAP": "to=1",
        "MARK": "set-xmark=1 set-mark=1 and-mark=1 or-mark=1 xor-mark=1",
        "CONNMARK": "set-xmark=1 set-mark=1 and-mark=1 or-mark=1 xor-mark=1 save-mark restore-mark mask=1 "
        "ctmask=1 nfmask=1 left-shift-mark=1 right-shift-mark=1",
        "CONNSECMARK": "save restore",
        "SECMARK": "selctx=1",
        "REJECT": "reject-with=1",
        "LOG": "log-level=1 log-prefix=1 log-tcp-sequence log-tcp-options log-ip-options log-uid "
        "log-macdecode",
        "NFLOG": "nflog-group=1 nflog-prefix=1 nflog-range=1 nflog-size=1 nflog-threshold=1",
        "ULOG": "ulog-nlgroup=1 ulog-prefix=1 ulog-cprange=1 ulog-qthreshold=1",
        "NFQUEUE": "queue-num=1 queue-balance=1 queue-bypass queue-cpu-fanout",
        "TPROXY": "on-port=1 on-ip=1 tproxy-mark=1",
        "TEE": "gateway=1",
        "TRACE": "",
        "NOTRACK": "",
        "CT": "notrack helper=1 ctevents=1 expevents=1 zone=1 zone-orig=1 zone-reply=1 timeout=1",
        "CHECKSUM": "checksum-fill",
        "CLASSIFY": "set-class=1",
        "CLUSTERIP": "new hashmode=1 clustermac=1 total-nodes=1 local-node=1 hash-init=1",
        "DSCP": "set-dscp=1 set-dscp-class=1",
        "ECN": "ecn-tcp-remove",
        "HL": "hl-set=1 hl-dec=1 hl-inc=1",
        "HMARK": "hmark-tuple=1 hmark-mod=1 hmark-offset=1 hmark-src-prefix=1 hmark-dst-prefix=1 "
        "hmark-sport-mask=1 hmark-dport-mask=1 hmark-spi-mask=1 hmark-proto-mask=1 hmark-rnd=1",
        "IDLETIMER": "timeout=1 label=1 alarm",
        "LED": "led-trigger-id=1 led-delay=1 led-always-blink",
        "RATEEST": "rateest-name=1 rateest-interval=1 rateest-ewmalog=1",
        "SET": "add-set=2 del-set=2 map-set=2 timeout=1 exist map-mark map-prio map-queue",
        "SYNPROXY": "mss=1 wscale=1 sack-perm timestamp ecn",
        "TCPMSS": "set-mss=1 clamp-mss-to-pmtu",
        "TCPOPTSTRIP": "strip-options=1",
        "TOS": "set-tos=1 and-tos=1 or-tos=1 xor-tos=1",
        "TTL": "ttl-set=1 ttl-dec=1 ttl-inc=1",
        "AUDIT": "type=1",
        "DNPT": "src-pfx=1 dst-pfx=1",
        "SNPT": "src-pfx=1 dst-pfx=1",
        "SAME": "to=1 nodst random",
        "BALANCE": "to-destination=1",
        "MIRROR": "",
        "ROUTE": "oif=1 iif=1 gw=1 continue tee",
    }.items()
}

#: Options that stand for another.
_SAME = {
    "source-port": "sport",
    "destination-port": "dport",
    "source-ports": "sports",
    "destination-ports": "dports",
    "source-country": "src-cc",
    "destination-country": "dst-cc",
}

_SHORT = {
    "p": "protocol",
    "s": "source",
    "d": "destination",
    "i": "in-interface",
    "o": "out-interface",
    "j": "jump",
    "g": "goto",
    "m": "match",
    "t": "table",
    "f": "fragment",
    "c": "set-counters",
    "n": "numeric",
    "v": "verbose",
    "x": "exact",
    "w": "wait",
    "W": "wait-interval",
    "4": "ipv4",
    "6": "ipv6",
    "A": "append",
    "I": "insert",
    "R": "replace",
    "D": "delete",
    "N": "new-chain",
    "X": "delete-chain",
    "F": "flush",
    "Z": "zero",
    "P": "policy",
    "E": "rename-chain",
    "L": "list",
    "S": "list-rules",
    "C": "check",
    "V": "version",
    "h": "help",
    "M": "modprobe",
}
_LONG = {
    "protocol": "protocol",
    "proto": "protocol",
    "source": "source",
    "src": "source",
    "destination": "destination",
    "dst": "destination",
    "in-interface": "in-interface",
    "out-interface": "out-interface",
    "jump": "jump",
    "goto": "goto",
    "match": "match",
    "table": "table",
    "fragments": "fragment",
    "fragment": "fragment",
    "set-counters": "set-counters",
    "numeric": "numeric",
    "verbose": "verbose",
    "exact": "exact",
    "wait": "wait",
    "wait-interval": "wait-interval",
    "ipv4": "ipv4",
    "ipv6": "ipv6",
    "line-numbers": "numeric",
    "modprobe": "modprobe",
    "append": "append",
    "insert": "insert",
    "replace": "replace",
    "delete": "delete",
    "new-chain": "new-chain",
    "new": "new-chain",
    "delete-chain": "delete-chain",
    "flush": "flush",
    "zero": "zero",
    "policy": "policy",
    "rename-chain": "rename-chain",
    "list": "list",
    "list-rules": "list-rules",
    "check": "check",
    "version": "version",
    "help": "help",
}
_FLAGS = frozenset(
    {
        "fragment",
        "numeric",
        "verbose",
        "exact",
        "ipv4",
        "ipv6",
        "version",
        "help",
    }
)
_COMMANDS = frozenset(
    [
        "append",
        "insert",
        "replace",
        "delete",
        "new-chain",
        "delete-chain",
        "flush",
        "zero",
        "policy",
        "rename-chain",
        "list",
        "list-rules",
        "check",
        "version",
        "help",
    ]
)
#: Protocols by what people call them; the match that each brings with it.
_PROTOCOLS = {"6": "tcp", "17": "udp", "132": "sctp", "1": "icmp", "58": "ipv6-icmp", "33": "dccp"}
_PROTOCOL = re.compile(r"[a-z0-9.+-]+")
_PROTOCOLS |= {"icmpv6": "ipv6-icmp", "0": "all", "136": "udplite"}


@dataclass(slots=True)
class Match:
    """One match with its options in written order: (name, inverted, words)."""

    name: str
    options: list[tuple[str, bool, tuple[str, ...]]] = field(default_factory=list)
    known: bool = True


@dataclass(slots=True)
class Spec:
    """One command of iptables, read."""

    command: str = ""
    chain: str = ""
    #: The words behind the chain: a position, a policy, a new name.
    words: Sequence[str] = ()
    table: str | None = None
    family: str | None = None
    protocol: str = ""
    #: Option of the header → inverted.
    inverted: frozenset[str] = frozenset()
    source: str = ""
    destination: str = ""
    incoming: str = ""
    outgoing: str = ""
    fragment: bool = False
    matches: list[Match] = field(default_factory=list)
    target: str = ""
    goto: bool = False
    values: dict[str, list[tuple[str, ...]]] = field(default_factory=dict)
    #: Options with `!` before the value, as it no longer may stand.
    obsolete: tuple[str, ...] = ()
    #: The place of `-j` or `-g` among the words.
    comment: str | None = None


def parse(words: Sequence[str]) -> Spec:
    """The words of one command, without the name of the program. Raises `Unparsable`."""
    return _canonical(words) or _Parser(words).spec


#: Matches and targets as iptables-save writes them, by their words: large dumps repeat them endlessly.
_SEEN: dict[tuple[bool, tuple[str, ...]], Match | dict[str, list[tuple[str, ...]]]] = {}
_MOST_SEEN = 1 << 15
_HEADER = {
    "-d": "destination",
    "-s": "source",
    "-i": "incoming",
    "-o": "outgoing",
    "-p": "protocol",
}
_NAMES = {"-d": "destination", "-s": "source", "-i": "in-interface", "-o": "out-interface", "-p": "protocol"}


def _canonical(words: Sequence[str]) -> Spec | None:
    """A rule in the order and spelling of iptables-save; None for any other, which takes longer to read."""
    if words[0] != "-A" or len(words) < 3 or words[1][:1] in {"-", "!"}:
        return None
    spec = Spec(command="append", chain=words[1])
    i, count = 2, len(words)
    invert = False
    while i + 1 < count:
        word = words[i]
        name = _HEADER.get(word)
        if name is None:
            if word == "!" and not invert:
                invert = True
                i += 1
                continue
            break
        value = words[i + 1]
        if value[:1] == "!" or getattr(spec, name):
            return None
        if invert:
            spec.inverted |= {_NAMES[word]}
            invert = False
        setattr(spec, name, protocol(value) if name == "protocol" else value)
        i += 2
    if invert:
        return None
    while i < count:
        word = words[i]
        end = i + 2
        while end < count and words[end] not in _ENDS:
            end += 1
        if end > count:
            return None
        if word == "-m":
            if words[i + 1] == "comment":
                if end != i + 4 or words[i + 2] != "--comment":
                    return None
                spec.comment = words[i + 3] if spec.comment is None else spec.comment
            else:
                match = _part(tuple(words[i + 1 : end]), MATCHES)
                if match is None:
                    return None
                spec.matches.append(match)  # type: ignore[arg-type]
        elif (word == "-j" or word == "-g") and end == count:
            spec.target, spec.goto = words[i + 1], word == "-g"
            if end > i + 2:
                target = words[i + 1]
                # An address is in one rule alone, and not worth being remembered.
                if end == i + 4 and words[i + 2] == "--to-destination" and target == "DNAT":
                    spec.values = {"to-destination": [(words[i + 3],)]}
                else:
                    values = _part(tuple(words[i + 1 : end]), TARGETS)
                    if values is None:
                        return None
                    spec.values = values  # type: ignore[assignment]
        else:
            return None
        i = end
    return spec


_ENDS = frozenset({"-m", "-j", "-g"})


def _part(
    words: tuple[str, ...], table: Mapping[str, Mapping[str, int]]
) -> Match | dict[str, list[tuple[str, ...]]] | None:
    """A match or a target with its options, each spelled in full."""
    # A match and a target may have one name in texts that are none of iptables.
    found = _SEEN.get((table is TARGETS, words))
    if found is not None:
        return found
    known = table.get(words[0])
    if known is None:
        return None
    match = Match(words[0])
    i, invert = 1, False
    while i < len(words):
        word = words[i]
        if word == "!":
            if invert:
                return None
            invert = True
            i += 1
            continue
        arity = known.get(word[2:]) if word[:2] == "--" else None
        if arity is None or i + arity >= len(words) or (arity and words[i + 1] == "!"):
            return None
        name = word[2:]
        match.options.append((_SAME.get(name, name), invert, words[i + 1 : i + 1 + arity]))
        invert = False
        i += 1 + arity
    if invert:
        return None
    made: Match | dict[str, list[tuple[str, ...]]] = match
    if table is TARGETS:
        values: dict[str, list[tuple[str, ...]]] = {}
        for name, inverted, each in match.options:
            if inverted:
                return None
            values.setdefault(name, []).append(each)
        made = values
    if len(_SEEN) < _MOST_SEEN:
        _SEEN[table is TARGETS, words] = made
    return made


class _Parser:
    def __init__(self, words: Sequence[str]) -> None:
        self._words = words
        self._at = 0
        self._invert = False
        self._deferred: list[tuple[str, bool]] = []
        self.spec = Spec()
        spec = self.spec
        count = len(words)
        while self._at < count:
            word = words[self._at]
            self._at += 1
            if word == "!":
                if self._invert:
                    raise Unparsable("two `!` in a row")
                self._invert = True
                continue
            if word[:2] == "--":
                self._long(word[2:])
            elif word[:1] == "-" and len(word) > 1:
                self._short(word)
            else:
                raise Unparsable(f"`{_cut(word)}` belongs to no option")
        if self._invert:
            raise Unparsable("`!` with nothing behind it")
        spec.comment = _comment(spec)
        # It says nothing about connections.
        spec.matches = [match for match in spec.matches if match.name != "comment"]

    def _long(self, word: str) -> None:
        name, glued, value = word.partition("=")
        given = [value] if glued else None
        if (own := self._own(name)) is not None:
            match, count = own
            self._option(match, name, count, given)
            return
        core = _LONG.get(name)
        if core is None:
            core = self._guess(name)
            if core is None:
                return
            if core[:1] == "=":
                if (own := self._own(core[1:])) is not None:
                    match, count = own
                    self._option(match, core[1:], count, given)
                return
        self._core(core, given)

    def _short(self, word: str) -> None:
        core = _SHORT.get(word[1])
        if core is None:
            raise Unparsable(f"`{_cut(word)}` is no option")
        rest = word[2:]
        if rest and core in _FLAGS:
            self._core(core, None)
            self._short("-" + rest)
            return
        self._core(core, [rest] if rest else None)

    def _own(self, name: str) -> tuple[Match | None, int] | None:
        """The match, or None for the target, among those that the rule has named, and its count of words."""
        for match in reversed(self.spec.matches):
            count = MATCHES[match.name].get(name) if match.known else None
            if count is not None:
                return match, count
            if not match.known and match is self.spec.matches[-1] and not self.spec.target:
                # Nobody knows how many words an option of an unknown match takes: those up to the next dash.
                if name in _LONG:
                    return None
                return match, -1
        target = TARGETS.get(self.spec.target)
        if target is not None and name in target:
            return None, target[name]
        protocol = self.spec.protocol
        if protocol in MATCHES and "protocol" not in self.spec.inverted:
            count = MATCHES[protocol].get(name)
            if count is not None and not any(m.name == protocol for m in self.spec.matches):
                match = Match(protocol)
                self.spec.matches.append(match)
                return match, count
        return None

    def _guess(self, name: str) -> str | None:
        """The option that `name` begins: of the rule's own with `=`, else of the header."""
        own: set[str] = set()
        for match in self.spec.matches:
            own |= MATCHES.get(match.name, {}).keys()
        own |= TARGETS.get(self.spec.target, {}).keys()
        own |= MATCHES.get(self.spec.protocol, {}).keys()
        near = {_SAME.get(option, option) for option in own if option.startswith(name)}
        core = {_LONG[option] for option in _LONG if option.startswith(name)}
        if name and len(near) + len(core) == 1:
            return f"={near.pop()}" if near else core.pop()
        if not near and not core:
            later = self._later(name)
            if later is not None:
                return None
            raise Unparsable(f"`--{_cut(name)}` is an option of nothing that the rule names")
        raise Unparsable(f"`--{_cut(name)}` could be several options")

    def _later(self, name: str) -> str | None:
        """Takes an option of a target that is named further on."""
        for i in range(self._at, len(self._words) - 1):
            if self._words[i] in {"-j", "--jump"} and name in TARGETS.get(self._words[i + 1], {}):
                self.spec.values.setdefault(name, []).append(
                    self._take(TARGETS[self._words[i + 1]][name], None)
                )
                return name
        return None

    def _option(self, match: Match | None, name: str, count: int, given: list[str] | None) -> None:
        inverted = self._invert
        self._invert = False
        if count > 0 and given is None and self._at < len(self._words):
            inverted |= self._old_negation(name)
        values = self._take(count, given)
        name = _SAME.get(name, name)
        if match is None:
            self.spec.values.setdefault(name, []).append(values)
        else:
            match.options.append((name, inverted, values))

    def _old_negation(self, name: str) -> bool:
        """True after a `!` before the value."""
        word = self._words[self._at]
        if word == "!":
            self._at += 1
            self.spec.obsolete += (name,)
            return True
        return False

    def _take(self, count: int, given: list[str] | None) -> tuple[str, ...]:
        if count < 0:
            start = self._at
            while self._at < len(self._words) and self._words[self._at][:1] not in {"-", "!"}:
                self._at += 1
            return (*(given or ()), *self._words[start : self._at])
        taken = list(given or ())
        while len(taken) < count:
            if self._at >= len(self._words):
                raise Unparsable("an option without its value")
            taken.append(self._words[self._at])
            self._at += 1
        if len(taken) > count:
            raise Unparsable("an option with a value that it does not take")
        return tuple(taken)

    def _core(self, name: str, given: list[str] | None) -> None:
        spec = self.spec
        if name in _COMMANDS:
            self._command(name, given)
            return
        if name in {"wait", "wait-interval"}:
            if not given and self._at < len(self._words) and self._words[self._at].isdigit():
                self._at += 1
            return
        if name in _FLAGS:
            if name == "ipv4" or name == "ipv6":
                spec.family = name
            elif name == "fragment":
                spec.fragment = True
                self._flag(name)
            return
        if name == "modprobe":
            self._take(1, given)
            return
        if name == "set-counters":
            first = self._take(1, given)[0]
            if "," not in first:
                self._take(1, None)
            return
        if given is None and self._at < len(self._words) and self._old_negation(name):
            self._invert = True
        value = self._take(1, given)[0]
        if (
            value[:1] == "!"
            and len(value) > 1
            and name in {"protocol", "source", "destination", "in-interface", "out-interface"}
        ):
            self._invert, value = True, value[1:]
            spec.obsolete += (name,)
        match name:
            case "protocol":
                self._once(spec.protocol, name)
                spec.protocol = protocol(value)
                self._flag(name)
            case "source":
                self._once(spec.source, name)
                spec.source = value
                self._flag(name)
            case "destination":
                self._once(spec.destination, name)
                spec.destination = value
                self._flag(name)
            case "in-interface":
                self._once(spec.incoming, name)
                spec.incoming = value
                self._flag(name)
            case "out-interface":
                self._once(spec.outgoing, name)
                spec.outgoing = value
                self._flag(name)
            case "table":
                spec.table = value
            case "match":
                self._no_invert(name)
                spec.matches.append(Match(value, known=value in MATCHES))
            case _:
                self._no_invert(name)
                self._once(spec.target, "jump")
                spec.target, spec.goto = value, name == "goto"

    def _flag(self, name: str) -> None:
        if self._invert:
            self.spec.inverted |= {name}
            self._invert = False

    def _no_invert(self, name: str) -> None:
        if self._invert:
            raise Unparsable(f"`!` before --{name}")

    def _once(self, value: str, name: str) -> None:
        if value:
            raise Unparsable(f"--{name} twice")

    def _command(self, name: str, given: list[str] | None) -> None:
        spec = self.spec
        self._no_invert(name)
        if spec.command:
            raise Unparsable("two commands in one")
        spec.command = name
        words = list(given or ())
        most = {
            "append": 1,
            "new-chain": 1,
            "check": 1,
            "flush": 1,
            "delete-chain": 1,
            "version": 0,
            "help": 0,
        }
        while (
            len(words) < most.get(name, 2)
            and self._at < len(self._words)
            and (self._words[self._at][:1] not in {"-", "!"})
        ):
            words.append(self._words[self._at])
            self._at += 1
        if words:
            spec.chain = words[0]
            spec.words = words[1:]
        elif name in {"append", "insert", "replace", "delete", "new-chain", "policy", "rename-chain"}:
            raise Unparsable(f"--{name} without a chain")


@lru_cache(maxsize=256)
def protocol(text: str) -> str:
    """A protocol as this reader calls it; "" for all of them."""
    name = text.lower()
    if not _PROTOCOL.fullmatch(name):
        raise Unparsable(f"`{_cut(text)}` is no protocol")
    name = _PROTOCOLS.get(name, name)
    return "" if name == "all" else name


def _comment(spec: Spec) -> str | None:
    for match in spec.matches:
        if match.name == "comment":
            for _, _, values in match.options:
                return values[0]
    return None


@lru_cache(maxsize=256)
def _cut(text: str) -> str:
    shown = text.encode("unicode_escape").decode("ascii")
    return shown if len(shown) <= 60 else shown[:57] + "..."
