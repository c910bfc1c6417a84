"""What the matches of one rule ask, in the order in which the kernel asks it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from lbctl.model import Family, decimal, jenkins
from lbctl_iptables import bytecode
from lbctl_iptables.pick import DRAW
from lbctl_iptables.reading.grammar import UNPRINTED_REASON
from lbctl_iptables.reading.options import MATCHES, PROTOCOLS, REMOVED
from lbctl_iptables.reading.values import (
    UnreadableValue,
    addresses,
    counts,
    family_of,
    masked,
    number,
    ports,
    stored_chance,
)
from lbctl_netfilter.conditions import EVERY_BIT, exactly, merged, spans_rest, spelled, words
from lbctl_netfilter.draft import Draft
from lbctl_netfilter.ir import Draw, MarkIs, Memory, Pick, PickKind

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from lbctl_iptables.reading.grammar import ParsedMatch, Spec
    from lbctl_iptables.reading.rule import IptRule
    from lbctl_netfilter.conditions import Spans

#: Nodes that match cluster knows.
_MOST_NODES = 32
_STATES = frozenset({"INVALID", "ESTABLISHED", "NEW", "RELATED", "UNTRACKED"})
_OF_RATE = "how often it matches depends on the rate of the traffic"
_OF_BYTES = "it looks at any bytes of the packet"
#: Matches with a memory or a look into the packet of which no share is known.
_OPAQUE: Mapping[str, str] = {
    **dict.fromkeys(("limit", "hashlimit", "rateest"), _OF_RATE),
    **dict.fromkeys(("quota", "quota2"), "it depends on how many bytes have passed"),
    **dict.fromkeys(("u32", "string"), _OF_BYTES),
    "connlimit": "it depends on how many connections a client has open",
    "connbytes": "it depends on how much of the connection has passed",
    "condition": "it depends on a switch that other programs set",
    "connlabel": "it depends on labels that other programs set",
    "socket": "it depends on the sockets of this host",
    "ipvs": "it depends on IPVS",
    "osf": "it guesses the client's system from the packet",
    "time": "it depends on the time of day",
}
#: Field → its values by name.
_NAMES: Mapping[str, Mapping[str, int]] = {
    "icmp-type": {
        "echo-reply": 0, "pong": 0, "destination-unreachable": 3, "source-quench": 4, "redirect": 5,
        "echo-request": 8, "ping": 8, "time-exceeded": 11, "parameter-problem": 12,
    },
    "dscp": {
        **{f"cs{i}": i * 8 for i in range(8)},
        **{f"af{i}{j}": i * 8 + j * 2 for i in range(1, 5) for j in range(1, 4)},
        "be": 0, "ef": 46, "va": 44,
    },
}  # fmt: skip
_TCP_FLAGS = {
    **{name: 1 << bit for bit, name in enumerate(("FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR"))},
    "ALL": 0x3F, "NONE": 0,
}  # fmt: skip


def conditions(rule: IptRule, *, addressed: bool = True) -> Draft:
    """Return what a rule asks, with its addresses or without."""
    draft = Draft(rule.family)
    draft.remarks = tuple(dict.fromkeys("obsolete-negation" for _ in rule.spec.obsolete))
    _header(draft, rule.spec, addressed=addressed)
    for match in rule.spec.matches:
        _match(draft, match)
    return draft


def _header(draft: Draft, spec: Spec, *, addressed: bool) -> None:
    for option, reader in _HEADER.items():
        if option in spec.header and (addressed or option not in ADDRESSES):
            reader(draft, spec.header[option], option in spec.inverted)


def _match(draft: Draft, match: ParsedMatch) -> None:
    name = match.name
    if name in REMOVED:
        draft.remarks += ("removed-match",)
        draft.cannot(name, f"match {name} is no longer in iptables; today it is {REMOVED[name]}")
    elif name not in MATCHES:
        _unsupported(draft, name, "unknown match")
    elif match.unprinted:
        _unsupported(draft, name, UNPRINTED_REASON)
    elif name in _WHOLE:
        _WHOLE[name](draft, match)
    elif name in _OPAQUE:
        _unsupported(draft, name, _OPAQUE[name])
    else:
        if name in _TRANSPORTS:
            draft.add("proto", words(name))
        for option, inverted, values in match.options:
            text = " ".join(values)
            if (reader := _OPTIONS.get(option)) is not None:
                reader(draft, text, inverted)
            else:
                draft.fact(_FACTS.get(option, option), text or "yes", inverted)


def _unsupported(draft: Draft, what: str, reason: str) -> None:
    draft.remarks += ("unsupported-match",)
    draft.cannot(what, reason)


def _unparsable(draft: Draft, what: str, reason: str) -> None:
    draft.remarks += ("unparsable-line",)
    draft.cannot(what, reason)


# -- options by themselves


def _address(field: str, draft: Draft, text: str, inverted: bool) -> None:
    if not text:
        return
    try:
        found = addresses(text, draft.family)
    except UnreadableValue as error:
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


def _ports(field: str, draft: Draft, text: str, inverted: bool) -> None:
    try:
        found = ports(text)
    except UnreadableValue as error:
        draft.cannot("port", str(error))
        return
    if field != "port":
        _some(draft, field, found, inverted)
    elif found is not None:
        draft.fact(field, spelled("dport", found, draft.bits), inverted)


def _interface(field: str, draft: Draft, text: str, inverted: bool) -> None:
    if text and text != "+":
        draft.add(field, words(f"{text[:-1]}*" if text.endswith("+") else text), inverted)


def _count(field: str, draft: Draft, text: str, inverted: bool) -> None:
    known = _NAMES.get(field, {}).get(text.lower())
    spans = counts(text.replace("-", ":")) if known is None else exactly(known)
    if spans is None:
        # A user's name: nothing of this host is looked up.
        draft.fact(field, text, inverted)
    else:
        draft.add(field, spans, inverted)


def _beyond(field: str, draft: Draft, text: str, inverted: bool, *, above: bool) -> None:
    limit = number(text)
    if limit is None or (limit == 0 and not above):
        draft.never()
    else:
        draft.add(field, ((limit + 1, 255),) if above else ((0, limit - 1),), inverted)


def _transport(draft: Draft, text: str, inverted: bool) -> None:
    if text:
        draft.add("proto", words(text), inverted)
    elif inverted:
        draft.never()


def _fragment(draft: Draft, text: str, inverted: bool) -> None:
    del text
    if not inverted:
        # Connection tracking puts fragments together before any of these rules.
        draft.never()


def _word(field: str, draft: Draft, text: str, inverted: bool) -> None:
    draft.add(field, words(*text.lower().split(",")), inverted)


def _packet_type(draft: Draft, text: str, inverted: bool) -> None:
    draft.add("pkttype", words("host" if text.lower() == "unicast" else text.lower()), inverted)


def _flags(draft: Draft, text: str, inverted: bool) -> None:
    try:
        mask, value = (
            sum({_TCP_FLAGS[word.upper()] for word in each.split(",")}) for each in text.split(" ")
        )
    except (KeyError, ValueError):
        draft.cannot("tcp-flags", "no flags of TCP")
    else:
        draft.tcp_flags(mask, (value,), inverted)


def _flag(flag: int, draft: Draft, text: str, inverted: bool) -> None:
    del text
    draft.add("proto", words("tcp"))
    draft.tcp_flags(flag, (flag,), inverted)


def _opening(draft: Draft, text: str, inverted: bool) -> None:
    _flags(draft, text or "FIN,SYN,RST,ACK SYN", inverted)


def _realm(draft: Draft, text: str, inverted: bool) -> None:
    try:
        value, mask = masked(text)
    except ValueError:
        # A name of this host's.
        draft.fact("realm", text, inverted)
        return
    if mask == EVERY_BIT:
        draft.add("realm", exactly(value), inverted)
    else:
        draft.add(f"realm & {mask:#x}", words(str(value)), inverted)


def _state(draft: Draft, text: str, inverted: bool) -> None:
    states = set(text.upper().split(","))
    if states <= {"DNAT", "SNAT"}:
        draft.add("ctstatus", words(*(word.lower() for word in states)), inverted)
    elif states - _STATES:
        draft.fact("ctstate", ",".join(sorted(states)).lower(), inverted)
    else:
        draft.packets(first=("NEW" in states) != inverted, later=("ESTABLISHED" in states) != inverted)


def _direction(draft: Draft, text: str, inverted: bool) -> None:
    draft.first &= (text.upper() == "ORIGINAL") != inverted


def _status(draft: Draft, text: str, inverted: bool) -> None:
    draft.fact("ctstatus", text.lower(), inverted)


def _protocol(draft: Draft, text: str, inverted: bool) -> None:
    draft.add("ctproto", words(PROTOCOLS.get(text, text.lower())), inverted)


# -- matches as a whole


def _given(match: ParsedMatch) -> dict[str, tuple[bool, str]]:
    """Return the options of a match by name: whether it is inverted, and its words."""
    return {option: (inverted, " ".join(values)) for option, inverted, values in match.options}


def _addrtype(draft: Draft, match: ParsedMatch) -> None:
    given = _given(match)
    # The type that an address has for one link is another field.
    link = "-iif" if "limit-iface-in" in given else "-oif" if "limit-iface-out" in given else ""
    for option in given.keys() & {"dst-type", "src-type"}:
        _word(f"{option}{link}", draft, given[option][1], given[option][0])


def _rpfilter(draft: Draft, match: ParsedMatch) -> None:
    given = _given(match)
    kind = ["loose" if "loose" in given else "strict"]
    kind += [word for option, word in (("validmark", "mark"), ("accept-local", "local")) if option in given]
    draft.fact("rpfilter", ",".join(kind), "invert" in given)


def _policy(draft: Draft, match: ParsedMatch) -> None:
    given = _given(match)
    policy = given.get("pol", (False, ""))[1]
    if given.keys() == {"dir", "pol"} and policy in {"none", "ipsec"}:
        draft.fact("ipsec", given["dir"][1], policy == "none")
        return
    for option, (inverted, text) in given.items():
        draft.fact(option, text or "yes", inverted)


def _mark(connection: bool, draft: Draft, match: ParsedMatch) -> None:
    for inverted, text in _given(match).values():
        try:
            value, mask = masked(text)
        except ValueError:
            draft.cannot(match.name, "a mark that is not a number")
            return
        spans: Spans = ((value, value),) if not value & ~mask else ()
        if mask or value:
            draft.step(MarkIs(connection, mask, spans_rest(spans, mask) if inverted else spans))


def _recent(draft: Draft, match: ParsedMatch) -> None:
    given = _given(match)
    verb = next((verb for verb in ("set", "rcheck", "update", "remove") if verb in given), None)
    if verb is None:
        draft.cannot("recent", "none of --set, --rcheck, --update and --remove")
    elif "hitcount" in given:
        _unsupported(draft, "recent", _OF_RATE)
    else:
        name, seconds = given.get("name", (False, "DEFAULT"))[1], given.get("seconds", (False, ""))[1]
        by = "destination address" if "rdest" in given else "source address"
        draft.step(Memory("recent", name, verb != "set", given[verb][0], decimal(seconds, 11), by))


def _statistic(draft: Draft, match: ParsedMatch) -> None:
    given = _given(match)
    mode = given.get("mode", (False, ""))[1]
    if mode == "nth" or (not mode and "every" in given):
        _nth(draft, given)
    elif mode == "random" or (not mode and "probability" in given):
        inverted, text = given.get("probability", (False, ""))
        stored = stored_chance(text)
        if stored is None:
            _unparsable(draft, "statistic", "--probability is not a number from 0 to 1")
        else:
            hits: Spans = ((0, stored - 1),) if stored else ()
            _draw(draft, Pick(PickKind.DICE, DRAW), hits, inverted)
    else:
        _unparsable(draft, "statistic", "a mode that is neither nth nor random")


def _draw(draft: Draft, pick: Pick, hits: Spans, inverted: bool) -> None:
    draft.step(Draw(pick, spans_rest(hits, pick.modulus - 1) if inverted else hits))


def _nth(draft: Draft, given: Mapping[str, tuple[bool, str]]) -> None:
    inverted, text = given.get("every", (False, ""))
    every, packet = number(text), number(given.get("packet", (False, "0"))[1])
    if not every:
        _unparsable(draft, "statistic", "nth without a number --every of 1 or more")
        return
    draft.remarks += () if "packet" in given else ("nth-missing-packet",)
    if packet is None:
        _unparsable(draft, "statistic", "--packet is not a number")
        return
    # A counter that starts behind its end comes round after 2^32 connections.
    draft.remarks += () if packet < every else ("packet-out-of-range",)
    _draw(draft, Pick(PickKind.COUNTER, every), exactly(packet) if packet < every else (), inverted)


def _cluster(draft: Draft, match: ParsedMatch) -> None:
    given = _given(match)
    mask_given = "cluster-local-nodemask" in given
    try:
        total = int(given["cluster-total-nodes"][1][:12], 0)
        seed = int(given.get("cluster-hash-seed", (False, "0"))[1][:12], 0)
        inverted, text = given["cluster-local-nodemask" if mask_given else "cluster-local-node"]
        node = int(text[:12], 0)
        mask = node if mask_given else 1 << min(node, _MOST_NODES + 1) - 1
    except (KeyError, ValueError):
        draft.cannot("cluster", "its nodes are not numbers")
        return
    if not 1 <= total <= _MOST_NODES or mask >> total or mask < 0:
        draft.cannot("cluster", f"nodes beyond the total, of which there are at most {_MOST_NODES}")
        return
    hits = merged((node, node) for node in range(total) if mask >> node & 1)
    placing = jenkins.slot_of if draft.family is Family.IPV4 else jenkins.slot_of_first_word
    pick = Pick(PickKind.HASH, total, ("cluster", seed), "source address", seed, placing)
    _draw(draft, pick, hits, inverted)


def _bpf(draft: Draft, match: ParsedMatch) -> None:
    inverted, text = _given(match).get("bytecode", (False, ""))
    found = bytecode.slots_of(text, draft.family)
    if found is None or found.total < 1:
        _unsupported(draft, "bpf", "it is a program over any bytes of the packet")
        return
    key = (f"bpf {found.total}", found.seed)
    pick = Pick(PickKind.HASH, found.total, key, "source address", found.seed, bytecode.slot_of)
    _draw(draft, pick, ((found.first, found.end - 1),) if found.first < found.end else (), inverted)


#: Matches that bring their protocol.
_TRANSPORTS = frozenset({"tcp", "udp", "sctp", "dccp", "udplite"})
#: Options that ask for addresses → the field that these are of.
ADDRESSES: Mapping[str, str] = {"destination": "dst", "source": "src"}
_Reader: TypeAlias = "Callable[[Draft, str, bool], None]"
#: Option of the header → what it asks.
_HEADER: Mapping[str, _Reader] = {
    "protocol": _transport,
    **{option: partial(_address, field) for option, field in ADDRESSES.items()},
    "in-interface": partial(_interface, "iif"),
    "out-interface": partial(_interface, "oif"),
    "fragment": _fragment,
}
#: Option → what it asks, by its words and whether it is inverted; all others are facts.
_OPTIONS: Mapping[str, _Reader] = {
    **{name: partial(_ports, name) for name in ("sport", "dport")},
    **{name: partial(_ports, name) for name in ("ctorigsrcport", "ctorigdstport")},
    **{f"{name}s": partial(_ports, name) for name in ("sport", "dport", "port")},
    **{name: partial(_address, name) for name in ("ctorigsrc", "ctorigdst")},
    **{f"{name}-range": partial(_address, name) for name in ("src", "dst")},
    **{
        name: partial(_count, name)
        for name in (
            *("dscp", "length", "ttl", "icmp-type", "icmpv6-type", "mss", "ahspi", "espspi", "ipcompspi"),
            "ctexpire",
        )
    },
    "uid-owner": partial(_count, "uid"),
    "gid-owner": partial(_count, "gid"),
    "dscp-class": partial(_count, "dscp"),
    "ecn-ip-ect": partial(_count, "ecn"),
    "src-group": partial(_count, "iifgroup"),
    "dst-group": partial(_count, "oifgroup"),
    **{f"{name}-eq": partial(_count, "ttl") for name in ("ttl", "hl")},
    **{f"{name}-gt": partial(_beyond, "ttl", above=True) for name in ("ttl", "hl")},
    **{f"{name}-lt": partial(_beyond, "ttl", above=False) for name in ("ttl", "hl")},
    "mac-source": partial(_word, "mac"),
    "dccp-types": partial(_word, "dccp-type"),
    "helper": lambda draft, text, inverted: draft.add("helper", words(text), inverted),
    "pkt-type": _packet_type,
    "physdev-in": partial(_interface, "bridge-iif"),
    "physdev-out": partial(_interface, "bridge-oif"),
    "syn": _opening,
    "tcp-flags": _flags,
    "ecn-tcp-ece": partial(_flag, 0x40),
    "ecn-tcp-cwr": partial(_flag, 0x80),
    "realm": _realm,
    "state": _state,
    "ctstate": _state,
    "ctdir": _direction,
    "ctstatus": _status,
    "ctproto": _protocol,
}
#: Option → what the fact that it asks for is called.
_FACTS: Mapping[str, str] = {"match-set": "set"}
#: Matches whose options are read together.
_WHOLE: Mapping[str, Callable[[Draft, ParsedMatch], None]] = {
    "addrtype": _addrtype,
    "mark": partial(_mark, False),
    "connmark": partial(_mark, True),
    "policy": _policy,
    "recent": _recent,
    "rpfilter": _rpfilter,
    "statistic": _statistic,
    "cluster": _cluster,
    "bpf": _bpf,
}
