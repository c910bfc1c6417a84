"""What the target of one rule does to a connection that the rule takes."""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING

from lbctl.model import MAX_SLOTS, Family
from lbctl_iptables.reading.grammar import UNPRINTED_REASON
from lbctl_iptables.reading.options import TARGETS
from lbctl_iptables.reading.values import BadValue, addresses, bits_of, family_of, masked, ports
from lbctl_netfilter.ir import Act, Opaque, SetMark
from lbctl_netfilter.marks import EVERY_BIT, Marking

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lbctl_iptables.reading.ruleset import Rule as Read
    from lbctl_netfilter.ir import Rule

#: Endpoints that the ranges of a text may make in all.
MOST_RANGED = 1 << 16
_MASKS = ("nfmask", "ctmask")
_WHOLE = Fraction(1)
_DROPS = frozenset({"DROP", "REJECT", "MIRROR"})
#: Targets that pick, or send connections elsewhere, in ways that are not followed.
_PICKING: Mapping[str, str] = {
    "HMARK": "it marks by a hash of the packet",
    "CLUSTERIP": "it chooses a host of a cluster by a hash",
    "TPROXY": "it hands connections to a proxy of this host",
    "NFQUEUE": "it hands packets to a program",
    "QUEUE": "it hands packets to a program",
    "TEE": "it sends a copy of packets elsewhere",
    "NETMAP": "it maps whole networks, address by address",
}
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
    ]
)


def lower(rule: Rule, read: Read, chains: Mapping[str, str], room: int) -> None:
    """Set what a rule does. `chains` are its table's, by name; ranges may make `room` endpoints."""
    target = read.spec.target
    rule.target = target
    if target in chains:
        rule.act = Act.GOTO if read.spec.goto else Act.JUMP
        rule.target = chains[target]
    elif target == "" or target in _PASSING:
        rule.act = Act.GO_ON
    elif target == "RETURN":
        rule.act = Act.RETURN
    elif target in {"DNAT", "REDIRECT", "SNAT", "MASQUERADE", "BALANCE", "SAME"}:
        _nat(rule, read, target, room)
    elif read.spec.unprinted and target not in _PASSING | _DROPS | {"ACCEPT"}:
        rule.act = Act.UNKNOWN
        _unknown(rule, "unsupported-target", target, UNPRINTED_REASON)
    elif target in {"MARK", "CONNMARK"}:
        _marking(rule, read, target)
    elif target == "ACCEPT":
        rule.act = Act.ACCEPT
    elif target in _DROPS:
        rule.act = Act.DROP
    elif target in TARGETS:
        rule.act = Act.UNKNOWN
        rule.remarks += ("elsewhere",) if target in _PICKING else ()
        reason = _PICKING.get(target, "its effect on balancing is not modelled")
        _unknown(rule, "unsupported-target", target, reason)
    else:
        rule.act = Act.UNKNOWN
        rule.remarks += ("undefined-chain",)


def _unknown(rule: Rule, code: str, what: str, reason: str) -> None:
    rule.remarks += (code,)
    rule.opaque = rule.opaque or Opaque(what, reason)


def _nat(rule: Rule, read: Read, target: str, room: int) -> None:
    values = read.spec.values
    rule.act = Act.TO
    if target in {"BALANCE", "SAME"}:
        _unknown(rule, "unsupported-target", target, "no longer in iptables")
        return
    rule.action = {"REDIRECT": "redirect", "DNAT": "dnat"}.get(target, "snat")
    if read.spec.unprinted:
        _unknown(rule, "unsupported-target", target, UNPRINTED_REASON)
        return
    random = "random" in values
    if room <= 0 and any("-" in word for given in values.values() for words in given for word in words):
        _unknown(rule, "unsupported-target", target, f"ranges of more than {MOST_RANGED} endpoints in all")
        return
    if target in {"REDIRECT", "MASQUERADE"}:
        given = values.get("to-ports") or [("",)]
        text = given[0][0]
        if target == "MASQUERADE":
            rule.to = (("masquerade", _WHOLE),)
            return
        if not text:
            # The address is this host's, the port stays.
            rule.to = (("local", _WHOLE),)
            return
        _ports(rule, "", text, random)
        return
    option = "to-destination" if target == "DNAT" else "to-source"
    given = values.get(option, [])
    if not given:
        _unknown(rule, "unparsable-line", target, f"--{option} is missing")
        return
    if len(given) > 1:
        rule.remarks += ("dnat-range" if target == "DNAT" else "snat-pool",)
        rule.opaque = rule.opaque or Opaque(
            target, f"more than one --{option}: iptables takes one since Linux 2.6.11"
        )
        return
    _address(rule, read, given[0][0], random)


def _address(rule: Rule, read: Read, text: str, random: bool) -> None:
    """`10.0.0.1`, `10.0.0.1:80`, `10.0.0.1-10.0.0.9:80-81`, `[2001:db8::1]:80`, `:80`."""
    family = read.family
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
        _unknown(rule, "unparsable-line", rule.target, "no address")
        return
    try:
        hosts = _hosts(address, family)
    except BadValue as error:
        other = family_of(address)
        if other is not None and other is not family:
            _unknown(rule, "family-mismatch", rule.target, f"an {other} address in a rule for {family}")
        else:
            _unknown(rule, "unparsable-line", rule.target, f"{error}; names are not resolved")
        return
    if len(hosts) > 1:
        rule.own_mode = "hash"
        persistent = "persistent" in read.spec.values
        rule.by = "source address" if persistent else "source and destination address"
        rule.remarks += ("dnat-range" if rule.target == "DNAT" else "snat-pool",)
    if not port or (rule.action == "snat" and hosts):
        # Ports of sources are no endpoints.
        if not hosts:
            _unknown(rule, "unparsable-line", rule.target, "no address")
        rule.to = tuple((host, Fraction(1, len(hosts))) for host in hosts)
        return
    port = port.partition("/")[0]
    pairs: list[tuple[str, Fraction]] = []
    for host in hosts or ("",):
        shown = f"[{host}]" if ":" in host else host
        _ports(rule, f"{shown}:", port, random)
        pairs += [(to, part / len(hosts)) for to, part in rule.to] if len(hosts) > 1 else rule.to
        if len(rule.to) * len(hosts) > MAX_SLOTS:
            _unknown(rule, "unsupported-target", rule.target, f"a range of more than {MAX_SLOTS} endpoints")
            rule.to = ()
            return
    rule.to = tuple(pairs)


@lru_cache(maxsize=1 << 14)
def _hosts(text: str, family: Family) -> tuple[str, ...]:
    """The addresses of a range. Raise `BadValue`."""
    if not text:
        return ()
    low, dash, high = text.partition("-")
    first = addresses(low, family) if "/" not in low else None
    last = addresses(high, family) if dash and "/" not in high else first
    if first is None or last is None:
        raise BadValue("no address")
    begin, end = first[0][0], last[0][0]
    if end < begin:
        raise BadValue("a range of addresses that runs backwards")
    count = end - begin + 1
    if count == 1 and family is Family.IPV4:
        # Which has one spelling.
        return (low,)
    if count > MAX_SLOTS:
        raise BadValue(f"a range of {count} addresses, more than {MAX_SLOTS}")
    make = IPv4Address if family is Family.IPV4 else IPv6Address
    return tuple(str(make(begin + i)) for i in range(count))


def _ports(rule: Rule, head: str, text: str, random: bool) -> None:
    low, dash, high = text.partition("-")
    try:
        first = ports(low)
        last = ports(high) if dash else first
    except BadValue as error:
        _unknown(rule, "unparsable-line", rule.target, str(error))
        return
    if first is None or last is None or ":" in text or "," in text:
        _unknown(rule, "unparsable-line", rule.target, "no port")
        return
    a, b = first[0][0], last[0][0]
    if a > b or b - a >= MAX_SLOTS:
        _unknown(rule, "unparsable-line", rule.target, "a range of ports that cannot be")
        return
    if a == b:
        rule.to = ((f"{head}{a}", _WHOLE),)
    elif random:
        rule.own_mode = rule.own_mode or "random"
        rule.to = tuple((f"{head}{port}", Fraction(1, b - a + 1)) for port in range(a, b + 1))
    else:
        if "port-range-target" not in rule.remarks:
            rule.remarks += ("port-range-target",)
        rule.to = ((f"{head}{a}", _WHOLE),)
        rule.ports = (a, b)


def _marking(rule: Rule, read: Read, target: str) -> None:
    rule.act = Act.GO_ON
    values = read.spec.values
    marking: Marking | None = None
    try:
        marking = _marking_of(values, connection=target == "CONNMARK")
    except (ValueError, IndexError):
        _unknown(rule, "unparsable-line", target, "a mark that is no number")
    if marking is not None:
        rule.marks = True
        rule.steps = (*rule.steps, SetMark(marking))
    elif rule.opaque is None:
        rule.act = Act.UNKNOWN
        _unknown(rule, "unsupported-target", target, "what it does to the mark is not modelled")


def _marking_of(values: Mapping[str, list[tuple[str, ...]]], *, connection: bool) -> Marking | None:
    """What a target does to a mark. Raise `ValueError` or `IndexError`."""
    for option, given in values.items():
        text = given[0][0] if given[0] else ""
        match option:
            case "set-mark":
                # It clears what it then sets; set-xmark flips bits outside the mask.
                value, mask = masked(text)
                return Marking.bits(EVERY_BIT & ~(mask | value), value, connection=connection)
            case "set-xmark":
                value, mask = masked(text)
                return Marking.bits(EVERY_BIT & ~mask, value, connection=connection)
            case "and-mark":
                return Marking.bits(bits_of(text), 0, connection=connection)
            case "or-mark":
                return Marking.bits(EVERY_BIT & ~bits_of(text), bits_of(text), connection=connection)
            case "xor-mark":
                return Marking.bits(EVERY_BIT, bits_of(text), connection=connection)
            case "save-mark" | "restore-mark":
                both = values["mask"][0][0] if "mask" in values else f"{EVERY_BIT:#x}"
                of = {name: bits_of(values[name][0][0] if name in values else both) for name in _MASKS}
                if option == "save-mark":
                    return Marking(True, of["nfmask"], EVERY_BIT & ~of["ctmask"], 0)
                return Marking(False, EVERY_BIT & ~of["nfmask"], of["ctmask"], 0)
    return None
