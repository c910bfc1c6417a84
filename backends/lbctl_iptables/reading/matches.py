"""What the matches of one rule ask, in the order in which the kernel asks it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lbctl.model import Family, decimal, jenkins
from lbctl_iptables import bytecode
from lbctl_iptables.pick import DRAW
from lbctl_iptables.reading.grammar import UNPRINTED_REASON
from lbctl_iptables.reading.options import PROTOCOLS, REMOVED
from lbctl_iptables.reading.values import (
    BadValue,
    addresses,
    counts,
    family_of,
    masked,
    number,
    ports,
    stored_chance,
)
from lbctl_netfilter.conditions import (
    EVERY_BIT,
    exactly,
    merged,
    spans_rest,
    words,
)
from lbctl_netfilter.draft import Draft
from lbctl_netfilter.ir import Draw, MarkIs, Memory, Pick, PickKind

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from lbctl_iptables.reading import grammar
    from lbctl_iptables.reading.grammar import Spec
    from lbctl_iptables.reading.ruleset import Rule
    from lbctl_netfilter.conditions import Selector, Spans
    from lbctl_netfilter.ir import Opaque, Step

#: Nodes that match cluster knows.
_MOST_NODES = 32
_NEW = "NEW"
_STATES = frozenset({"INVALID", "ESTABLISHED", "NEW", "RELATED", "UNTRACKED"})
#: Matches with a memory or a look into the packet that no share can be told from.
_OPAQUE: Mapping[str, str] = {
    "limit": "how often it matches depends on the rate of the traffic",
    "hashlimit": "how often it matches depends on the rate of the traffic",
    "rateest": "how often it matches depends on the rate of the traffic",
    "connlimit": "it depends on how many connections a client has open",
    "quota": "it depends on how many bytes have passed",
    "quota2": "it depends on how many bytes have passed",
    "connbytes": "it depends on how much of the connection has passed",
    "u32": "it looks at any bytes of the packet",
    "string": "it looks at any bytes of the packet",
    "bpf": "it is a program over any bytes of the packet",
    "condition": "it is switched from outside",
    "connlabel": "it depends on labels that other programs set",
    "socket": "it depends on the sockets of this host",
    "ipvs": "it depends on IPVS",
    "osf": "it guesses the client's system from the packet",
    "time": "it depends on the time of day",
}
_ICMP_TYPES = {
    "echo-reply": 0, "pong": 0, "destination-unreachable": 3, "source-quench": 4, "redirect": 5,
    "echo-request": 8, "ping": 8, "time-exceeded": 11, "parameter-problem": 12,
}  # fmt: skip
_TCP_FLAGS = {
    **{name: 1 << bit for bit, name in enumerate(("FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR"))},
    "ALL": 0x3F, "NONE": 0,
}  # fmt: skip
#: What `--syn` asks: SYN, of FIN, SYN, RST and ACK.
_SYN = (0x17, (0x02,))
#: Options of match ecn → the flag that they ask for.
_ECN: Mapping[str, int] = {"ecn-tcp-ece": 0x40, "ecn-tcp-cwr": 0x80}
#: Options of match rpfilter that change what it asks for → in words.
_RPFILTER: Mapping[str, str] = {"validmark": "mark", "accept-local": "local"}
_DSCP_CLASSES = {
    **{f"CS{i}": i * 8 for i in range(8)},
    **{f"AF{i}{j}": i * 8 + j * 2 for i in range(1, 5) for j in range(1, 4)},
    "BE": 0, "EF": 46, "VA": 44,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Conditions:
    """What rules ask that differ only in comments and targets."""

    where: Selector
    steps: tuple[Step, ...]
    picks: bool
    asks_mark: bool
    first: bool
    later: bool
    opaque: Opaque | None
    remarks: tuple[str, ...]


def conditions(rule: Rule, *, destination: bool = True) -> Conditions:
    """What a rule asks, its destination or all but that."""
    draft = Draft(rule.family)
    draft.remarks = tuple(dict.fromkeys("obsolete-negation" for _ in rule.spec.obsolete))
    _header(draft, rule.spec, destination=destination)
    for match in rule.spec.matches:
        _match(draft, match)
    return Conditions(
        draft.where,
        draft.steps,
        draft.picks,
        any(isinstance(step, MarkIs) for step in draft.steps),
        draft.first,
        draft.later,
        draft.opaque,
        draft.remarks,
    )


def _header(draft: Draft, spec: Spec, *, destination: bool) -> None:
    inverted = spec.inverted
    if spec.protocol:
        draft.add("proto", words(spec.protocol), "protocol" in inverted)
    elif "protocol" in inverted:
        draft.never()
    if spec.destination and destination:
        _address(draft, "dst", spec.destination, "destination" in inverted)
    if spec.source:
        _address(draft, "src", spec.source, "source" in inverted)
    for field, name, option in (
        ("iif", spec.incoming, "in-interface"),
        ("oif", spec.outgoing, "out-interface"),
    ):
        if name and name != "+":
            _interface(draft, field, name, option in inverted)
    if spec.fragment and "fragment" not in inverted:
        # Connection tracking puts fragments together before any of these rules.
        draft.never()


def _interface(draft: Draft, field: str, name: str, inverted: bool) -> None:
    draft.add(field, words(f"{name[:-1]}*" if name.endswith("+") else name), inverted)


def _address(draft: Draft, field: str, text: str, inverted: bool) -> None:
    try:
        found = addresses(text, draft.family)
    except BadValue as error:
        family = family_of(text)
        name = {"dst": "destination", "src": "source"}.get(field, field)
        if family is not None and family is not draft.family:
            draft.remarks += ("family-mismatch",)
            draft.cannot(name, f"an {family} address in a rule for {draft.family}")
        else:
            draft.cannot(name, f"{error}; names are not resolved")
        return
    _some(draft, field, found, inverted)


def _some(draft: Draft, field: str, spans: Spans | None, inverted: bool) -> None:
    """Numbers of a field; None for all of them."""
    if spans is not None:
        draft.add(field, spans, inverted)
    elif inverted:
        draft.never()


def _ports(draft: Draft, field: str, text: str, inverted: bool) -> None:
    try:
        found = ports(text)
    except BadValue as error:
        draft.cannot("port", str(error))
        return
    if field == "port":
        if found is not None:
            draft.fact("port", ",".join(f"{a}" if a == b else f"{a}-{b}" for a, b in found), inverted)
        return
    _some(draft, field, found, inverted)


def _match(draft: Draft, match: grammar.Match) -> None:
    name = match.name
    if name in REMOVED:
        draft.remarks += ("removed-match",)
        draft.cannot(name, f"match {name} is no longer in iptables; today it is {REMOVED[name]}")
        return
    if not match.known:
        draft.remarks += ("unsupported-match",)
        draft.cannot(name, "match of an unknown name")
        return
    if match.unprinted:
        draft.remarks += ("unsupported-match",)
        draft.cannot(name, UNPRINTED_REASON)
        return
    reader = _READERS.get(name)
    if reader is not None:
        reader(draft, match)
    elif name in _OPAQUE:
        draft.remarks += ("unsupported-match",)
        draft.cannot(name, _OPAQUE[name])
    else:
        for option, inverted, values in match.options:
            _other(draft, name, option, inverted, values)


def _other(draft: Draft, match: str, option: str, inverted: bool, values: tuple[str, ...]) -> None:
    """A condition on a field that services are told apart by, and no more."""
    text = " ".join(values)
    if (field := _COUNTS.get((match, option))) is not None:
        spans = counts(text.replace("-", ":"))
        if option == "dscp-class":
            number_ = _DSCP_CLASSES.get(text.upper())
            spans = None if number_ is None else ((number_, number_),)
        elif text in _ICMP_TYPES:
            spans = ((_ICMP_TYPES[text],) * 2,)
        elif spans is not None and option.endswith("-gt"):
            spans = ((spans[0][0] + 1, 255),)
        elif spans is not None and option.endswith("-lt"):
            spans = ((0, spans[0][0] - 1),) if spans[0][0] else ()
        if spans is None:
            # A user's name, which is looked up by nobody here.
            draft.fact(field, text, inverted)
        elif not spans:
            draft.never()
        else:
            draft.add(field, spans, inverted)
    elif (name := _WORDS.get(option)) is not None:
        word = text.lower() if name in {"mac", "pkttype"} else text
        word = "host" if name == "pkttype" and word == "unicast" else word
        if name.startswith("bridge") and word.endswith("+"):
            word = f"{word[:-1]}*"
        draft.add(name, words(word), inverted)
    else:
        draft.fact(_FACTS.get(option, option), text or "yes", inverted)


def _transport(draft: Draft, match: grammar.Match) -> None:
    """Match tcp, udp and the like."""
    draft.add("proto", words(match.name))
    for option, inverted, values in match.options:
        if option in {"sport", "dport"}:
            _ports(draft, option, values[0], inverted)
        elif option == "syn":
            draft.tcp_flags(*_SYN, inverted)
        elif option == "tcp-flags" and (flags := _flags(values)) is not None:
            draft.tcp_flags(flags[0], flags[1:], inverted)
        elif option == "dccp-types":
            draft.add("dccp-type", words(*values[0].lower().split(",")), inverted)
        else:
            draft.fact(option, " ".join(values), inverted)


def _flags(values: tuple[str, ...]) -> tuple[int, int] | None:
    """A mask of TCP flags and what is set of it; None for words that are no flags."""
    try:
        mask, value = (sum({_TCP_FLAGS[word.upper()] for word in text.split(",")}) for text in values)
    except KeyError:
        return None
    return mask, value


def _ecn(draft: Draft, match: grammar.Match) -> None:
    for option, inverted, values in match.options:
        if option in _ECN:
            draft.add("proto", words("tcp"))
            draft.tcp_flags(_ECN[option], (_ECN[option],), inverted)
        else:
            _other(draft, match.name, option, inverted, values)


def _realm(draft: Draft, match: grammar.Match) -> None:
    for option, inverted, values in match.options:
        try:
            value, mask = masked(values[0])
        except ValueError:
            # A name of this host's.
            draft.fact(option, values[0], inverted)
            continue
        if mask == EVERY_BIT:
            draft.add("realm", exactly(value), inverted)
        else:
            draft.add(f"realm & {mask:#x}", words(str(value)), inverted)


def _rpfilter(draft: Draft, match: grammar.Match) -> None:
    given = {option for option, _, _ in match.options}
    kind = ["loose" if "loose" in given else "strict"]
    kind += [word for option, word in _RPFILTER.items() if option in given]
    draft.fact("rpfilter", ",".join(kind), "invert" in given)


def _policy(draft: Draft, match: grammar.Match) -> None:
    given = {option: values[0] for option, _, values in match.options if values}
    if given.keys() == {"dir", "pol"} and given["pol"] in {"none", "ipsec"}:
        draft.fact("ipsec", given["dir"], given["pol"] == "none")
        return
    for option, inverted, values in match.options:
        _other(draft, match.name, option, inverted, values)


def _multiport(draft: Draft, match: grammar.Match) -> None:
    for option, inverted, values in match.options:
        field = {"d": "dport", "s": "sport", "p": "port"}[option[0]]
        _ports(draft, field, values[0], inverted)


def _state(draft: Draft, match: grammar.Match) -> None:
    for option, inverted, values in match.options:
        text = " ".join(values)
        if option in {"state", "ctstate"}:
            states = {word.upper() for word in values[0].split(",")}
            if states <= {"DNAT", "SNAT"}:
                draft.add("ctstatus", words(*(word.lower() for word in states)), inverted)
                continue
            if states - _STATES:
                draft.fact("ctstate", ",".join(sorted(states)).lower(), inverted)
                continue
            draft.packets(first=(_NEW in states) != inverted, later=("ESTABLISHED" in states) != inverted)
        elif option == "ctdir":
            draft.first &= (values[0].upper() == "ORIGINAL") != inverted
        elif option in {"ctorigdst", "ctorigsrc"}:
            _address(draft, option, text, inverted)
        elif option in {"ctorigdstport", "ctorigsrcport"}:
            _ports(draft, option, text, inverted)
        elif option == "ctstatus":
            draft.fact("ctstatus", text.lower(), inverted)
        elif option == "ctexpire" and (spans := counts(text)) is not None:
            draft.add("ctexpire", spans, inverted)
        elif option == "ctproto":
            draft.add("ctproto", words(PROTOCOLS.get(text, text.lower())), inverted)
        else:
            draft.fact(option, text, inverted)


def _addrtype(draft: Draft, match: grammar.Match) -> None:
    given = {option for option, _, _ in match.options}
    # The type that an address has for one link is another field.
    link = "-iif" if "limit-iface-in" in given else "-oif" if "limit-iface-out" in given else ""
    for option, inverted, values in match.options:
        if option in {"dst-type", "src-type"}:
            draft.add(f"{option}{link}", words(*values[0].lower().split(",")), inverted)


def _iprange(draft: Draft, match: grammar.Match) -> None:
    for option, inverted, values in match.options:
        _address(draft, "dst" if option == "dst-range" else "src", values[0], inverted)


def _mark(draft: Draft, match: grammar.Match) -> None:
    for _, inverted, values in match.options:
        try:
            value, mask = masked(values[0])
        except ValueError:
            draft.cannot(match.name, "a mark that is no number")
            return
        spans: Spans = ((value, value),) if not value & ~mask else ()
        if inverted:
            spans = spans_rest(spans, mask)
        if mask == 0 and not value:
            continue
        draft.step(MarkIs(match.name == "connmark", mask, spans))


def _recent(draft: Draft, match: grammar.Match) -> None:
    given = {option: (inverted, values) for option, inverted, values in match.options}
    verb = next((verb for verb in ("set", "rcheck", "update", "remove") if verb in given), None)
    if verb is None:
        draft.cannot("recent", "none of --set, --rcheck, --update and --remove")
        return
    if "hitcount" in given:
        draft.remarks += ("unsupported-match",)
        draft.cannot("recent", "how often it matches depends on the rate of the traffic")
        return
    seconds = given["seconds"][1][0] if "seconds" in given else ""
    draft.step(
        Memory(
            "recent",
            given["name"][1][0] if "name" in given else "DEFAULT",
            asks=verb != "set",
            inverted=given[verb][0],
            seconds=decimal(seconds, 11),
            by="destination address" if "rdest" in given else "source address",
        )
    )


def _statistic(draft: Draft, match: grammar.Match) -> None:
    given = {option: (inverted, values[0]) for option, inverted, values in match.options}
    mode = given.get("mode", (False, ""))[1]
    if mode == "nth" or (not mode and "every" in given):
        _nth(draft, given)
    elif mode == "random" or (not mode and "probability" in given):
        inverted, text = given.get("probability", (False, ""))
        stored = stored_chance(text)
        if stored is None:
            draft.cannot("statistic", "--probability is no number from 0 to 1")
            draft.remarks += ("unparsable-line",)
            return
        hits: Spans = ((0, stored - 1),) if stored else ()
        hits = spans_rest(hits, DRAW - 1) if inverted else hits
        draft.step(Draw(Pick(PickKind.DICE, DRAW), hits))
    else:
        draft.cannot("statistic", "a mode that is neither nth nor random")
        draft.remarks += ("unparsable-line",)


def _nth(draft: Draft, given: Mapping[str, tuple[bool, str]]) -> None:
    inverted, text = given.get("every", (False, ""))
    every = number(text)
    if every is None or every < 1:
        draft.cannot("statistic", "nth without a number --every of 1 or more")
        draft.remarks += ("unparsable-line",)
        return
    if "packet" not in given:
        draft.remarks += ("nth-missing-packet",)
    packet = number(given.get("packet", (False, "0"))[1])
    if packet is None:
        draft.cannot("statistic", "--packet is no number")
        draft.remarks += ("unparsable-line",)
        return
    # A counter that starts behind its end comes round after 2^32 connections.
    hits: Spans = ((packet, packet),) if packet < every else ()
    if packet >= every:
        draft.remarks += ("packet-out-of-range",)
    draft.step(Draw(Pick(PickKind.COUNTER, every), spans_rest(hits, every - 1) if inverted else hits))


def _cluster(draft: Draft, match: grammar.Match) -> None:
    given = {option: (inverted, values[0]) for option, inverted, values in match.options}
    try:
        total = int(given["cluster-total-nodes"][1][:12], 0)
        seed = int(given.get("cluster-hash-seed", (False, "0"))[1][:12], 0)
        if "cluster-local-nodemask" in given:
            inverted, text = given["cluster-local-nodemask"]
            mask = int(text[:12], 0)
        else:
            inverted, text = given["cluster-local-node"]
            mask = 1 << min(int(text[:12], 0), _MOST_NODES + 1) - 1
    except (KeyError, ValueError):
        draft.cannot("cluster", "its nodes are no numbers")
        return
    if not 1 <= total <= _MOST_NODES or mask >> total or mask < 0:
        draft.cannot("cluster", f"nodes beyond the total, of which there are at most {_MOST_NODES}")
        return
    hits = merged((node, node) for node in range(total) if mask >> node & 1)
    placing = jenkins.slot_of if draft.family is Family.IPV4 else jenkins.slot_of_first_word
    pick = Pick(PickKind.HASH, total, ("cluster", seed), "source address", seed, placing)
    draft.step(Draw(pick, spans_rest(hits, total - 1) if inverted else hits))


def _bpf(draft: Draft, match: grammar.Match) -> None:
    text = next((values[0] for option, _, values in match.options if option == "bytecode"), "")
    found = bytecode.slots_of(text, draft.family)
    if found is None or found.total < 1:
        draft.remarks += ("unsupported-match",)
        draft.cannot("bpf", _OPAQUE["bpf"])
        return
    key = (f"bpf {found.total}", found.seed)
    pick = Pick(PickKind.HASH, found.total, key, "source address", found.seed, bytecode.slot_of)
    hits: Spans = ((found.first, found.end - 1),) if found.first < found.end else ()
    draft.step(Draw(pick, spans_rest(hits, found.total - 1) if match.options[0][1] else hits))


def _nothing(draft: Draft, match: grammar.Match) -> None:
    """A comment, or a type of ICMP."""


#: Match and option → the field of numbers that they ask for.
_COUNTS: Mapping[tuple[str, str], str] = {
    ("owner", "uid-owner"): "uid",
    ("owner", "gid-owner"): "gid",
    ("dscp", "dscp"): "dscp",
    ("dscp", "dscp-class"): "dscp",
    ("length", "length"): "length",
    ("ttl", "ttl-eq"): "ttl",
    ("ttl", "ttl"): "ttl",
    ("ttl", "ttl-gt"): "ttl",
    ("ttl", "ttl-lt"): "ttl",
    ("hl", "hl-eq"): "ttl",
    ("hl", "hl-gt"): "ttl",
    ("hl", "hl-lt"): "ttl",
    ("icmp", "icmp-type"): "icmp-type",
    ("icmp6", "icmpv6-type"): "icmpv6-type",
    ("ecn", "ecn-ip-ect"): "ecn",
    ("tcpmss", "mss"): "mss",
    ("ah", "ahspi"): "ahspi",
    ("esp", "espspi"): "espspi",
    ("ipcomp", "ipcompspi"): "ipcompspi",
    ("devgroup", "src-group"): "iifgroup",
    ("devgroup", "dst-group"): "oifgroup",
}
#: Option → the field of words that it asks for.
_WORDS: Mapping[str, str] = {
    "mac-source": "mac",
    "pkt-type": "pkttype",
    "physdev-in": "bridge-iif",
    "physdev-out": "bridge-oif",
    "helper": "helper",
}
#: Option → what the fact that it asks for is called.
_FACTS: Mapping[str, str] = {"match-set": "set"}
_READERS: Mapping[str, Callable[[Draft, grammar.Match], None]] = {
    **dict.fromkeys(("tcp", "udp", "sctp", "dccp", "udplite"), _transport),
    "ecn": _ecn,
    "realm": _realm,
    "rpfilter": _rpfilter,
    "policy": _policy,
    "multiport": _multiport,
    "state": _state,
    "conntrack": _state,
    "addrtype": _addrtype,
    "iprange": _iprange,
    "mark": _mark,
    "connmark": _mark,
    "recent": _recent,
    "statistic": _statistic,
    "cluster": _cluster,
    "bpf": _bpf,
    "comment": _nothing,
}
