"""One rule → what it asks, in the order in which the kernel asks it, and what it then does."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from fractions import Fraction
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, TypeAlias

from lbctl.model import MAX_SLOTS, Family
from lbctl_iptables.bytecode import slots_of
from lbctl_iptables.pick import DRAW
from lbctl_iptables.reading import where as w
from lbctl_iptables.reading.options import REMOVED, TARGETS
from lbctl_iptables.reading.where import LOCAL, NOT, Unclear, Where

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    from lbctl_iptables.reading.options import Match, Spec
    from lbctl_iptables.reading.ruleset import Rule


class Act(Enum):
    """What a rule does to a connection that it takes."""

    TO = "to"
    JUMP = "jump"
    GOTO = "goto"
    RETURN = "return"
    END = "end"
    MARK = "mark"
    GO_ON = "go on"
    UNKNOWN = "unknown"

    # Each is there once; that of Enum hashes its name, and is asked several times a rule.
    __hash__ = object.__hash__


@dataclass(frozen=True, slots=True)
class Nth:
    """One of `every`, the one at place `packet`; or all others."""

    every: int
    packet: int
    inverted: bool


@dataclass(frozen=True, slots=True)
class Chance:
    """`stored` of 2^31; or all others."""

    stored: int
    inverted: bool
    #: As the rule has it.
    written: str


@dataclass(frozen=True, slots=True)
class Nodes:
    """Parts of the space of a hash, each from one fraction up to another; or all others."""

    key: tuple[str, int]
    total: int
    parts: tuple[tuple[Fraction, Fraction], ...]
    inverted: bool


@dataclass(frozen=True, slots=True)
class Marked:
    """The packet's mark, or the connection's."""

    connection: bool
    value: int
    mask: int
    inverted: bool


@dataclass(frozen=True, slots=True)
class Recent:
    """A list of clients: asked, or written to."""

    name: str
    asks: bool
    inverted: bool
    seconds: int | None
    by: str


@dataclass(frozen=True, slots=True)
class Asked:
    """A condition behind a counter, a draw or a hash."""

    where: Where


Step: TypeAlias = "Nth | Chance | Nodes | Marked | Recent | Asked"
#: What a target does to a mark: (connection, operation, value, mask). Where one mark is copied to the other,
#: the bits of the packet's mark that take part are in the place of the value, the connection's in the mask.
Marking: TypeAlias = "tuple[bool, str, int, int]"
_MASKS = ("nfmask", "ctmask")


@dataclass(slots=True, eq=False)
class Meaning:
    """A rule, understood."""

    rule: Rule
    where: Where
    steps: tuple[Step, ...]
    act: Act
    #: True where a counter, a draw or a hash is asked.
    picks: bool
    #: Chain that it leads to, or the word of a verdict.
    target: str = ""
    action: str = ""
    #: Endpoints with their parts, where the target itself chooses.
    to: tuple[tuple[str, Fraction], ...] = ()
    own_mode: str = ""
    by: str = ""
    marking: Marking | None = None
    #: False where no new connection can match.
    possible: bool = True
    #: What is not understood, and why.
    unclear: tuple[str, str] | None = None
    #: What a finding should say about it: codes.
    remarks: tuple[str, ...] = ()
    #: True where one of its conditions always holds, at the hook that this is about.
    settled: bool = False

    def without(self, condition: tuple[str, str]) -> Meaning:
        """The same rule where a condition always holds."""
        if condition not in self.where.extra:
            return self
        extra = tuple(pair for pair in self.where.extra if pair != condition)
        return replace(self, where=self.where._replace(extra=extra), settled=True)

    @property
    def excepts(self) -> bool:
        """True where it sends all that it sees past the rules behind it."""
        return (self.act is Act.END or self.act is Act.RETURN) and not self.steps and self.unclear is None

    def whole(self, bits: int) -> Where | None:
        """All conditions, also those behind a counter; None where they exclude each other."""
        found: Where | None = self.where
        for step in self.steps:
            if isinstance(step, Asked) and found is not None:
                found = w.meet(found, step.where, bits)
        return found


#: Endpoints that the ranges of a text may make in all.
_MOST_RANGED = 1 << 16
_ENDS = frozenset({"ACCEPT", "DROP", "QUEUE", "NFQUEUE", "REJECT", "TPROXY", "MIRROR"})
#: Targets behind which the next rule is asked, and which change no share.
_PASSING = frozenset(
    [
        "LOG",
        "NFLOG",
        "ULOG",
        "TRACE",
        "CT",
        "NOTRACK",
        "CHECKSUM",
        "CLASSIFY",
        "CONNSECMARK",
        "SECMARK",
        "DSCP",
        "ECN",
        "HL",
        "LED",
        "RATEEST",
        "SET",
        "TCPMSS",
        "TCPOPTSTRIP",
        "TOS",
        "TTL",
        "AUDIT",
        "IDLETIMER",
        "TEE",
        "HMARK",
    ]
)
#: Nodes that match cluster knows.
_MOST_NODES = 32
_NEW = "NEW"
_STATES = frozenset({"INVALID", "ESTABLISHED", "NEW", "RELATED", "UNTRACKED"})
#: Matches with a memory or a look into the packet that no share can be told from.
_UNCLEAR: Mapping[str, str] = {
    "limit": "how often it matches depends on the rate of the traffic",
    "hashlimit": "how often it matches depends on the rate of the traffic",
    "connlimit": "it depends on how many connections a client has open",
    "quota": "it depends on how many bytes have passed",
    "connbytes": "it depends on how much of the connection has passed",
    "u32": "it looks at any bytes of the packet",
    "string": "it looks at any bytes of the packet",
    "bpf": "it is a program over any bytes of the packet",
    "condition": "it is switched from outside",
    "connlabel": "it depends on labels that other programs set",
    "rpfilter": "it depends on the routing of this host",
    "socket": "it depends on the sockets of this host",
    "ipvs": "it depends on IPVS",
}


class _Reader:
    """The conditions of one rule."""

    def __init__(self, rule: Rule, *, marks: bool) -> None:
        self.family = rule.family
        self.bits = w.BITS[rule.family]
        self.spec: Spec = rule.spec
        self.table = rule.table
        self.marks = marks
        self.steps: list[Step] = []
        self.where = Where()
        self.possible = True
        self.unclear: tuple[str, str] | None = None
        self.remarks: list[str] = list(dict.fromkeys("obsolete-negation" for _ in rule.spec.obsolete))

    def add(self, found: Where) -> None:
        """One more condition."""
        if _picks(self.steps):
            self.steps.append(Asked(found))
            return
        met = w.meet(self.where, found, self.bits)
        if met is None:
            self.possible = False
        else:
            self.where = met

    def also(self, name: str, value: str, inverted: bool = False) -> None:
        """One more condition that is no protocol, destination or port."""
        self.add(Where(extra=((name, NOT + value if inverted else value),)))

    def cannot(self, what: str, reason: str) -> None:
        """Note the first thing that is not understood."""
        self.unclear = self.unclear or (what, reason)

    def header(self, *, destination: bool) -> None:
        spec, inverted = self.spec, self.spec.inverted
        if spec.protocol:
            if "protocol" in inverted:
                self.also("proto", spec.protocol, True)
            else:
                self.where = Where(protocol=spec.protocol)
        elif "protocol" in inverted:
            self.possible = False
        if spec.destination and destination:
            self.address("destination", spec.destination, "destination" in inverted)
        if spec.source:
            self.address("source", spec.source, "source" in inverted)
        if spec.incoming and spec.incoming != "+":
            self.also("iif", spec.incoming, "in-interface" in inverted)
        if spec.outgoing and spec.outgoing != "+":
            self.also("oif", spec.outgoing, "out-interface" in inverted)
        if spec.fragment:
            # Connection tracking puts fragments together before any of these rules.
            self.possible &= "fragment" in inverted

    def address(self, option: str, text: str, inverted: bool) -> None:
        try:
            found = w.net(text, self.family)
        except Unclear as error:
            from lbctl_iptables.reading.ruleset import family_of

            family = family_of(text)
            if family is not None and family is not self.family:
                self.remarks.append("family-mismatch")
                self.cannot(option, f"an {family} address in a rule for {self.family}")
            else:
                self.cannot(option, f"{error}; names are not resolved")
            return
        if found is None:
            self.possible &= not inverted
        elif option == "destination" and not inverted:
            self.add(Where(dst=found))
        else:
            self.also("dst" if option == "destination" else "src", w.show_net(found, self.family), inverted)

    def ports(self, option: str, text: str, inverted: bool) -> None:
        try:
            found = w.ports(text)
        except Unclear as error:
            self.cannot("port", str(error))
            return
        if found is None:
            self.possible &= not inverted
        elif option.startswith("d") and not inverted:
            self.add(Where(dport=found))
        else:
            name = {"d": "dport", "s": "sport", "p": "port"}[option[0]]
            self.also(name, w.show_ports(found), inverted)

    def match(self, match: Match) -> None:
        name = match.name
        if name in REMOVED:
            self.remarks.append("removed-match")
            self.cannot(name, f"match {name} is no longer in iptables; today it is {REMOVED[name]}")
            return
        if not match.known:
            self.remarks.append("unsupported-match")
            self.cannot(name, "match of an unknown name")
            return
        reader = _READERS.get(name)
        if reader is not None:
            reader(self, match)
        elif name in _UNCLEAR:
            self.remarks.append("unsupported-match")
            self.cannot(name, _UNCLEAR[name])
        elif match.options:
            for option, inverted, values in match.options:
                self.also(_EXTRA_NAMES.get(option, option), " ".join(values) or "yes", inverted)

    def transport(self, match: Match) -> None:
        """Match tcp, udp and the like."""
        if self.where.protocol != match.name:
            self.add(Where(protocol=match.name))
        for option, inverted, values in match.options:
            if option in {"sport", "dport"}:
                self.ports(option, values[0], inverted)
            elif option == "syn" or (
                option == "tcp-flags" and values[1] == "SYN" and "SYN" in values[0].split(",")
            ):
                # The first packet of a connection is one.
                self.possible &= not inverted
                self.remarks.append("first-packets")
            else:
                self.also(option, " ".join(values), inverted)

    def multiport(self, match: Match) -> None:
        for option, inverted, values in match.options:
            self.ports(option, values[0], inverted)

    def state(self, match: Match) -> None:
        for option, inverted, values in match.options:
            if option in {"state", "ctstate"}:
                states = {word.upper() for word in values[0].split(",")}
                if states - _STATES:
                    self.also(option, ",".join(sorted(states)), inverted)
                    continue
                self.possible &= (_NEW in states) != inverted
                # Whether packets of a connection that is not new match, too.
                known = ("ESTABLISHED" in states) != inverted
                self.remarks.append("later-packets" if known else "first-packets")
            elif option == "ctdir":
                self.possible &= (values[0].upper() == "ORIGINAL") != inverted
            else:
                self.also(option, " ".join(values), inverted)

    def addrtype(self, match: Match) -> None:
        for option, inverted, values in match.options:
            if option in {"dst-type", "src-type"}:
                self.also(option, values[0].upper(), inverted)
            else:
                self.also(option, "yes")

    def iprange(self, match: Match) -> None:
        for option, inverted, values in match.options:
            low, dash, high = values[0].partition("-")
            try:
                first = w.net(low, self.family)
                last = w.net(high, self.family) if dash else first
            except Unclear as error:
                self.cannot("iprange", str(error))
                return
            if first is not None and first == last:
                self.address("destination" if option == "dst-range" else "source", low, inverted)
            else:
                self.also("dst" if option == "dst-range" else "src", values[0], inverted)

    def mark(self, match: Match) -> None:
        for _, inverted, values in match.options:
            try:
                value, mask = _masked(values[0])
            except ValueError:
                self.cannot(match.name, "a mark that is no number")
                return
            connection = match.name == "connmark"
            if self.marks:
                self.steps.append(Marked(connection, value, mask, inverted))
                if connection or (value == 0 and not inverted):
                    self.remarks.append("unmarked")
            else:
                text = f"{value:#x}" if mask == 0xFFFFFFFF else f"{value:#x}/{mask:#x}"
                self.also(match.name, text, inverted)

    def recent(self, match: Match) -> None:
        given = {option: (inverted, values) for option, inverted, values in match.options}
        verb = next((verb for verb in ("set", "rcheck", "update", "remove") if verb in given), None)
        if verb is None:
            self.cannot("recent", "none of --set, --rcheck, --update and --remove")
            return
        seconds = given["seconds"][1][0] if "seconds" in given else ""
        by = "destination address" if "rdest" in given else "source address"
        self.steps.append(
            Recent(
                name=given["name"][1][0] if "name" in given else "DEFAULT",
                asks=verb != "set",
                inverted=given[verb][0],
                seconds=int(seconds) if seconds.isdigit() and len(seconds) < 12 else None,
                by=by,
            )
        )

    def statistic(self, match: Match) -> None:
        given = {option: (inverted, values[0]) for option, inverted, values in match.options}
        mode = given.get("mode", (False, ""))[1]
        if mode == "nth" or (not mode and "every" in given):
            inverted, text = given.get("every", (False, ""))
            every = _number(text)
            if every is None or every < 1:
                self.cannot("statistic", "nth without a number --every of 1 or more")
                self.remarks.append("unparsable-line")
                return
            if "packet" not in given:
                self.remarks.append("nth-missing-packet")
            packet = _number(given.get("packet", (False, "0"))[1])
            if packet is None:
                self.cannot("statistic", "--packet is no number")
                self.remarks.append("unparsable-line")
                return
            if packet >= every:
                self.remarks.append("packet-out-of-range")
            self.steps.append(Nth(every, packet, inverted))
        elif mode == "random" or (not mode and "probability" in given):
            inverted, text = given.get("probability", (False, ""))
            stored = stored_chance(text)
            if stored is None:
                self.cannot("statistic", "--probability is no number from 0 to 1")
                self.remarks.append("unparsable-line")
                return
            self.steps.append(Chance(stored, inverted, text))
        else:
            self.cannot("statistic", "a mode that is neither nth nor random")
            self.remarks.append("unparsable-line")

    def cluster(self, match: Match) -> None:
        given = {option: (inverted, values[0]) for option, inverted, values in match.options}
        try:
            total = int(given["cluster-total-nodes"][1], 0)
            seed = int(given.get("cluster-hash-seed", (False, "0"))[1], 0)
            if "cluster-local-nodemask" in given:
                inverted, text = given["cluster-local-nodemask"]
                mask = int(text, 0)
            else:
                inverted, text = given["cluster-local-node"]
                mask = 1 << min(int(text, 0), _MOST_NODES + 1) - 1
        except (KeyError, ValueError):
            self.cannot("cluster", "its nodes are no numbers")
            return
        if not 1 <= total <= _MOST_NODES or mask >> total or mask < 0:
            self.cannot("cluster", f"nodes beyond the total, of which there are at most {_MOST_NODES}")
            return
        parts: list[tuple[Fraction, Fraction]] = []
        start: int | None = None
        for node in range(total + 1):
            here = node < total and bool(mask >> node & 1)
            if here and start is None:
                start = node
            elif not here and start is not None:
                parts.append((Fraction(start, total), Fraction(node, total)))
                start = None
        self.steps.append(Nodes(("cluster", seed), total, tuple(parts), inverted))

    def bpf(self, match: Match) -> None:
        text = next((values[0] for option, _, values in match.options if option == "bytecode"), "")
        found = slots_of(text, self.family)
        if found is None or found.total < 1:
            self.remarks.append("unsupported-match")
            self.cannot("bpf", _UNCLEAR["bpf"])
            return
        inverted = match.options[0][1]
        part = (Fraction(found.first, found.total), Fraction(found.end, found.total))
        self.steps.append(Nodes((f"bpf {found.total}", found.seed), found.total, (part,), inverted))

    def nothing(self, match: Match) -> None:
        """A comment, or a type of ICMP."""


_EXTRA_NAMES = {
    "match-set": "set",
    "mac-source": "mac",
    "uid-owner": "uid",
    "gid-owner": "gid",
    "physdev-in": "bridge-iif",
    "physdev-out": "bridge-oif",
}
_READERS: Mapping[str, Callable[[_Reader, Match], None]] = {
    **dict.fromkeys(("tcp", "udp", "sctp", "dccp", "udplite"), _Reader.transport),
    "multiport": _Reader.multiport,
    "state": _Reader.state,
    "conntrack": _Reader.state,
    "addrtype": _Reader.addrtype,
    "iprange": _Reader.iprange,
    "mark": _Reader.mark,
    "connmark": _Reader.mark,
    "recent": _Reader.recent,
    "statistic": _Reader.statistic,
    "cluster": _Reader.cluster,
    "bpf": _Reader.bpf,
    "comment": _Reader.nothing,
}


def _picks(steps: Iterable[Step]) -> bool:
    return any(isinstance(step, Nth | Chance | Nodes) for step in steps)


@dataclass(frozen=True, slots=True)
class _Conditions:
    """What rules ask that differ only in comments and targets."""

    where: Where
    steps: tuple[Step, ...]
    picks: bool
    possible: bool
    unclear: tuple[str, str] | None
    remarks: tuple[str, ...]


class Understanding:
    """Understands the rules of one family. `marks` says whether the text itself sets marks."""

    def __init__(self, *, marks: bool) -> None:
        self._marks = marks
        self._room = _MOST_RANGED
        #: By all but the destination, the conditions of each destination; and the matches themselves, so that
        #: no others can have the same identity.
        self._known: dict[object, tuple[dict[str, _Conditions], list[Match]]] = {}

    def rule(self, rule: Rule, chains: Collection[str]) -> Meaning:
        """What a rule means."""
        spec = rule.spec
        if spec.source or spec.inverted or spec.obsolete:
            conditions = self._conditions(rule, destination=True)
        else:
            key = (spec.protocol, spec.incoming, spec.outgoing, spec.fragment, *map(id, spec.matches))
            known = self._known.get(key)
            if known is None:
                known = self._known[key] = ({}, spec.matches)
            found = known[0].get(spec.destination)
            if found is None:
                found = known[0][spec.destination] = self._with_destination(rule, known[0])
            conditions = found
        meaning = Meaning(
            rule,
            conditions.where,
            conditions.steps,
            Act.GO_ON,
            conditions.picks,
            possible=conditions.possible,
            unclear=conditions.unclear,
            remarks=conditions.remarks,
        )
        _target(meaning, chains, self._room)
        if len(meaning.to) > 1:
            self._room -= len(meaning.to)
        return meaning

    def _with_destination(self, rule: Rule, known: dict[str, _Conditions]) -> _Conditions:
        """The conditions of a rule, made of those without a destination where they are the same otherwise."""
        without = known.get("")
        if without is None:
            without = known[""] = self._conditions(rule, destination=False)
        if without.where.dst is None:
            try:
                found = w.net(rule.spec.destination, rule.family)
            except Unclear:
                pass
            else:
                return replace(without, where=without.where._replace(dst=found))
        return self._conditions(rule, destination=True)

    def _conditions(self, rule: Rule, *, destination: bool) -> _Conditions:
        reader = _Reader(rule, marks=self._marks)
        reader.header(destination=destination)
        for match in rule.spec.matches:
            reader.match(match)
        steps = tuple(reader.steps)
        return _Conditions(
            reader.where, steps, _picks(steps), reader.possible, reader.unclear, tuple(reader.remarks)
        )


def _target(meaning: Meaning, chains: Collection[str], room: int) -> None:
    rule = meaning.rule
    target = rule.spec.target
    meaning.target = target
    if target in chains:
        meaning.act = Act.GOTO if rule.spec.goto else Act.JUMP
    elif target == "":
        meaning.act = Act.GO_ON
    elif target == "RETURN":
        meaning.act = Act.RETURN
    elif target in {"DNAT", "REDIRECT", "SNAT", "MASQUERADE", "BALANCE", "SAME"}:
        _nat(meaning, target, room)
    elif target in {"MARK", "CONNMARK"}:
        _marking(meaning, target)
    elif target in _ENDS:
        meaning.act = Act.END
    elif target in _PASSING:
        meaning.act = Act.GO_ON
    elif target in TARGETS:
        meaning.act = Act.UNKNOWN
        _unknown(meaning, "unsupported-target", target, "its effect on balancing is not modelled")
    else:
        meaning.act = Act.UNKNOWN
        meaning.remarks += ("undefined-chain",)


def _unknown(meaning: Meaning, code: str, what: str, reason: str) -> None:
    meaning.remarks += (code,)
    meaning.unclear = meaning.unclear or (what, reason)


def _nat(meaning: Meaning, target: str, room: int) -> None:
    values = meaning.rule.spec.values
    meaning.act = Act.TO
    if target in {"BALANCE", "SAME"}:
        _unknown(meaning, "unsupported-target", target, "no longer in iptables")
        return
    meaning.action = {"REDIRECT": "redirect", "DNAT": "dnat"}.get(target, "snat")
    random = "random" in values
    if room <= 0 and any("-" in word for given in values.values() for words in given for word in words):
        _unknown(
            meaning, "unsupported-target", target, f"ranges of more than {_MOST_RANGED} endpoints in all"
        )
        return
    if target in {"REDIRECT", "MASQUERADE"}:
        given = values.get("to-ports") or [("",)]
        text = given[0][0]
        if target == "MASQUERADE":
            meaning.to = (("masquerade", Fraction(1)),)
            return
        if not text:
            # The address is this host's, the port stays.
            meaning.to = (("local", Fraction(1)),)
            return
        _ports(meaning, "", text, random)
        return
    option = "to-destination" if target == "DNAT" else "to-source"
    given = values.get(option, [])
    if not given:
        _unknown(meaning, "unparsable-line", target, f"--{option} is missing")
        return
    if len(given) > 1:
        meaning.remarks += ("dnat-range" if target == "DNAT" else "snat-pool",)
        meaning.unclear = meaning.unclear or (
            target,
            f"more than one --{option}: iptables takes one since Linux 2.6.11",
        )
        return
    _address(meaning, given[0][0], random)


def _address(meaning: Meaning, text: str, random: bool) -> None:
    """`10.0.0.1`, `10.0.0.1:80`, `10.0.0.1-10.0.0.9:80-81`, `[2001:db8::1]:80`, `:80`."""
    family = meaning.rule.family
    address, port = text, ""
    if text.startswith("["):
        address, _, rest = text[1:].partition("]")
        last = ""
        if rest.startswith("-["):
            last, _, rest = rest[2:].partition("]")
            address = f"{address}-{last}"
        port = rest.removeprefix(":")
    elif text.count(":") == 1:
        address, _, port = text.partition(":")
    elif "." in text and text.count(":") > 1:
        _unknown(meaning, "unparsable-line", meaning.target, "no address")
        return
    try:
        hosts = _hosts(address, family)
    except Unclear as error:
        from lbctl_iptables.reading.ruleset import family_of

        other = family_of(address)
        if other is not None and other is not family:
            _unknown(meaning, "family-mismatch", meaning.target, f"an {other} address in a rule for {family}")
        else:
            _unknown(meaning, "unparsable-line", meaning.target, f"{error}; names are not resolved")
        return
    if len(hosts) > 1:
        meaning.own_mode = "hash"
        persistent = "persistent" in meaning.rule.spec.values
        meaning.by = "source address" if persistent else "source and destination address"
        meaning.remarks += ("dnat-range" if meaning.target == "DNAT" else "snat-pool",)
    if not port:
        if not hosts:
            _unknown(meaning, "unparsable-line", meaning.target, "no address")
        meaning.to = tuple((host, Fraction(1, len(hosts))) for host in hosts)
        return
    port = port.partition("/")[0]
    pairs: list[tuple[str, Fraction]] = []
    for host in hosts or ("",):
        shown = f"[{host}]" if ":" in host else host
        _ports(meaning, f"{shown}:", port, random)
        pairs += [(to, part / max(1, len(hosts))) for to, part in meaning.to]
        if len(meaning.to) * len(hosts) > MAX_SLOTS:
            _unknown(
                meaning, "unsupported-target", meaning.target, f"a range of more than {MAX_SLOTS} endpoints"
            )
            meaning.to = ()
            return
    meaning.to = tuple(pairs)


@lru_cache(maxsize=1 << 14)
def _hosts(text: str, family: Family) -> tuple[str, ...]:
    """The addresses of a range. Raises `Unclear`."""
    if not text:
        return ()
    low, dash, high = text.partition("-")
    first = w.net(low, family) if "/" not in low else None
    last = w.net(high, family) if dash and "/" not in high else first
    if first is None or last is None:
        raise Unclear("no address")
    if last[0] < first[0]:
        raise Unclear("a range of addresses that runs backwards")
    count = last[0] - first[0] + 1
    if count > MAX_SLOTS:
        raise Unclear(f"a range of {count} addresses, more than {MAX_SLOTS}")
    make = IPv4Address if family is Family.IPV4 else IPv6Address
    return tuple(str(make(first[0] + i)) for i in range(count))


def _ports(meaning: Meaning, head: str, text: str, random: bool) -> None:
    low, dash, high = text.partition("-")
    try:
        first = w.ports(low)
        last = w.ports(high) if dash else first
    except Unclear as error:
        _unknown(meaning, "unparsable-line", meaning.target, str(error))
        return
    if first is None or last is None or ":" in text or "," in text:
        _unknown(meaning, "unparsable-line", meaning.target, "no port")
        return
    a, b = first[0][0], last[0][0]
    if a > b or b - a >= MAX_SLOTS:
        _unknown(meaning, "unparsable-line", meaning.target, "a range of ports that cannot be")
        return
    if a == b:
        meaning.to = ((f"{head}{a}", Fraction(1)),)
    elif random:
        meaning.own_mode = meaning.own_mode or "random"
        meaning.to = tuple((f"{head}{port}", Fraction(1, b - a + 1)) for port in range(a, b + 1))
    else:
        if "port-range-target" not in meaning.remarks:
            meaning.remarks += ("port-range-target",)
        meaning.to = ((f"{head}{a}", Fraction(1)),)


def _marking(meaning: Meaning, target: str) -> None:
    meaning.act = Act.MARK
    connection = target == "CONNMARK"
    values = meaning.rule.spec.values
    whole = 0xFFFFFFFF
    try:
        for option, given in values.items():
            text = given[0][0] if given[0] else ""
            match option:
                case "set-mark" | "set-xmark":
                    value, mask = _masked(text)
                    # set-mark clears what it then sets, set-xmark flips bits outside the mask.
                    operation = "set" if option == "set-mark" else "xset"
                    meaning.marking = (connection, operation, value, mask)
                case "and-mark":
                    meaning.marking = (connection, "xset", 0, whole ^ _bits(text))
                case "or-mark":
                    meaning.marking = (connection, "xset", _bits(text), _bits(text))
                case "xor-mark":
                    meaning.marking = (connection, "xset", _bits(text), 0)
                case "save-mark" | "restore-mark":
                    both = values["mask"][0][0] if "mask" in values else f"{whole:#x}"
                    of = {name: _bits(values[name][0][0] if name in values else both) for name in _MASKS}
                    meaning.marking = (connection, option.partition("-")[0], of["nfmask"], of["ctmask"])
    except (ValueError, IndexError):
        _unknown(meaning, "unparsable-line", target, "a mark that is no number")
    if meaning.marking is None and meaning.unclear is None:
        meaning.act = Act.UNKNOWN
        _unknown(meaning, "unsupported-target", target, "what it does to the mark is not modelled")


def marked(marking: Marking, packet: int, connection: int) -> tuple[int, int]:
    """The packet's mark and the connection's, behind a rule that sets one of them."""
    of_connection, operation, value, mask = marking
    if operation == "save":
        return packet, (connection & ~mask) ^ (packet & value)
    if operation == "restore":
        return (packet & ~value) ^ (connection & mask), connection
    before = connection if of_connection else packet
    after = ((before & ~mask) | value if operation == "set" else (before & ~mask) ^ value) & 0xFFFFFFFF
    return (packet, after) if of_connection else (after, connection)


def _masked(text: str) -> tuple[int, int]:
    value, slash, mask = text.partition("/")
    return _bits(value), _bits(mask) if slash else 0xFFFFFFFF


def _bits(text: str) -> int:
    if len(text) > 12:
        raise ValueError(text[:12])
    number = int(text, 8) if len(text) > 1 and text[0] == "0" and text.isdigit() else int(text, 0)
    if not 0 <= number <= 0xFFFFFFFF:
        raise ValueError(text)
    return number


def _number(text: str) -> int | None:
    if not text.isascii() or not text.isdigit() or len(text) > 10:
        return None
    number = int(text)
    return number if number <= 0xFFFFFFFF else None


@lru_cache(maxsize=1 << 12)
def stored_chance(text: str) -> int | None:
    """What the kernel keeps of a probability: the nearest of 2^31; None for what is no probability."""
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


def is_local(where: Where) -> bool:
    """True for connections to addresses of this host alone."""
    return LOCAL in where.extra
