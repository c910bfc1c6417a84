"""What the matches of one rule ask, in the order in which the kernel asks it."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import TYPE_CHECKING

from lbctl.model import decimal
from lbctl_iptables.bytecode import slots_of
from lbctl_iptables.pick import DRAW
from lbctl_iptables.reading import where as w
from lbctl_iptables.reading.grammar import UNPRINTED_REASON
from lbctl_iptables.reading.meaning import Asked, Chance, Marked, Nodes, Nth, Recent, masked
from lbctl_iptables.reading.options import REMOVED
from lbctl_iptables.reading.where import NOT, Unclear, Where

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from lbctl_iptables.reading.grammar import Match, Spec
    from lbctl_iptables.reading.meaning import Step
    from lbctl_iptables.reading.ruleset import Rule

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
_PICKING = (Nth, Chance, Nodes)


@dataclass(frozen=True, slots=True)
class Conditions:
    """What rules ask that differ only in comments and targets."""

    where: Where
    steps: tuple[Step, ...]
    picks: bool
    asks_mark: bool
    possible: bool
    unclear: tuple[str, str] | None
    remarks: tuple[str, ...]


def conditions(rule: Rule, *, marks: bool, destination: bool = True) -> Conditions:
    """What a rule asks, its destination or all but that. `marks` says whether the text itself sets marks."""
    reader = _Reader(rule, marks=marks)
    reader.header(destination=destination)
    for match in rule.spec.matches:
        reader.match(match)
    steps = tuple(reader.steps)
    return Conditions(
        reader.where,
        steps,
        _picks(steps),
        any(isinstance(step, Marked) for step in steps),
        reader.possible,
        reader.unclear,
        tuple(reader.remarks),
    )


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
        if match.unprinted:
            self.remarks.append("unsupported-match")
            self.cannot(name, UNPRINTED_REASON)
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
                value, mask = masked(values[0])
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
                seconds=decimal(seconds, 11),
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
    return any(isinstance(step, _PICKING) for step in steps)


def _number(text: str) -> int | None:
    found = decimal(text)
    return found if found is not None and found <= 0xFFFFFFFF else None


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
