"""What the target of one rule does to a connection that matches the rule."""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache
from typing import TYPE_CHECKING

from lbctl.model import MAX_SLOTS, Family
from lbctl_iptables.reading.grammar import UNPRINTED_REASON
from lbctl_iptables.reading.options import TARGETS
from lbctl_iptables.reading.values import UnreadableValue, addresses, bits_of, family_of, masked, ports
from lbctl_netfilter.conditions import BITS, address
from lbctl_netfilter.ir import Act, Opaque, SetMark
from lbctl_netfilter.marks import EVERY_BIT, Marking

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lbctl_iptables.reading.grammar import Values
    from lbctl_iptables.reading.rule import IptRule as Read
    from lbctl_netfilter.ir import Rule

#: Endpoints that the ranges of a text may make in all.
MOST_RANGED = 1 << 16
_WHOLE = Fraction(1)
#: Targets that give connections another address or port, each with what it is called in a service.
_NAT: Mapping[str, str] = {
    "DNAT": "dnat", "REDIRECT": "redirect", "SNAT": "snat", "MASQUERADE": "snat", "BALANCE": "snat",
    "SAME": "snat",
}  # fmt: skip
_REMOVED = frozenset({"BALANCE", "SAME"})
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
#: Targets that do not change what becomes of a connection.
_PASSING = {
    "LOG", "NFLOG", "ULOG", "TRACE", "CT", "NOTRACK", "CHECKSUM", "CLASSIFY", "CONNSECMARK", "SECMARK",
    "DSCP", "ECN", "HL", "LED", "RATEEST", "SET", "TCPMSS", "TCPOPTSTRIP", "TOS", "TTL", "AUDIT", "IDLETIMER",
}  # fmt: skip
_VERDICTS: Mapping[str, Act] = {
    **dict.fromkeys(("", *_PASSING), Act.GO_ON),
    **dict.fromkeys(("DROP", "REJECT", "MIRROR"), Act.DROP),
    "ACCEPT": Act.ACCEPT,
    "RETURN": Act.RETURN,
}


def lower(rule: Rule, read: Read, chains: Mapping[str, str], room: int) -> None:
    """Set what a rule does. `chains` are its table's, by name; ranges may make `room` endpoints."""
    target = rule.target = read.spec.target
    if target in chains:
        rule.act = Act.GOTO if read.spec.goto else Act.JUMP
        rule.target = chains[target]
    elif (verdict := _VERDICTS.get(target)) is not None:
        rule.act = verdict
    elif target in _NAT:
        rule.act, rule.action = Act.TO, _NAT[target]
        _nat(rule, read, room)
    elif read.spec.unprinted:
        _not_modelled(rule, UNPRINTED_REASON)
    elif target in {"MARK", "CONNMARK"}:
        _mark(rule, read)
    elif target in TARGETS:
        rule.remarks += ("elsewhere",) if target in _PICKING else ()
        _not_modelled(rule, _PICKING.get(target, "its effect on balancing is not modelled"))
    else:
        rule.act = Act.UNKNOWN
        rule.remarks += ("undefined-chain",)


def _not_modelled(rule: Rule, reason: str) -> None:
    rule.act = Act.UNKNOWN
    _unknown(rule, "unsupported-target", reason)


def _unknown(rule: Rule, code: str, reason: str) -> None:
    rule.remarks += (code,)
    rule.opaque = rule.opaque or Opaque(rule.target, reason)


# -- translations


def _nat(rule: Rule, read: Read, room: int) -> None:
    values, target = read.spec.values, rule.target
    option = {"DNAT": "to-destination", "SNAT": "to-source"}.get(target, "to-ports")
    given = values.get(option, ())
    text = given[0][0] if given else ""
    if target in _REMOVED:
        _unknown(rule, "unsupported-target", "no longer in iptables")
    elif read.spec.unprinted:
        _unknown(rule, "unsupported-target", UNPRINTED_REASON)
    elif room <= 0 and "-" in text:
        _unknown(rule, "unsupported-target", f"ranges of more than {MOST_RANGED} endpoints in all")
    elif target == "MASQUERADE":
        rule.to = (("masquerade", _WHOLE),)
    elif target == "REDIRECT":
        # The address is this host's; without a port, the port stays.
        rule.to = _with_ports(rule, [""], text, values) if text else (("local", _WHOLE),)
    elif not given:
        _unknown(rule, "unparsable-line", f"--{option} is missing")
    elif len(given) > 1:
        rule.remarks += (_RANGES[target],)
        rule.opaque = rule.opaque or Opaque(
            target, f"more than one --{option}: iptables takes one since Linux 2.6.11"
        )
    else:
        _translated(rule, read, text)


#: Target → what is found of one that chooses from several addresses.
_RANGES = {"DNAT": "dnat-range", "SNAT": "snat-pool"}


def _parts(text: str) -> tuple[str, str]:
    """Return the addresses and ports of `10.0.0.1-10.0.0.9:80-81`, `[2001:db8::1]:80` or `:80`."""
    if text.startswith("["):
        first, _, rest = text[1:].partition("]")
        if rest.startswith("-["):
            last, _, rest = rest[2:].partition("]")
            first = f"{first}-{last}"
        return first, rest.removeprefix(":")
    if text.count(":") == 1:
        address, _, port = text.partition(":")
        return address, port
    return text, ""


def _translated(rule: Rule, read: Read, text: str) -> None:
    """What DNAT and SNAT do, with `text` behind their option."""
    family, values = read.family, read.spec.values
    address, port = _parts(text)
    try:
        hosts = _hosts(address, family)
    except UnreadableValue as error:
        other = family_of(address)
        if other is not None and other is not family:
            _unknown(rule, "family-mismatch", f"an {other} address in a rule for {family}")
        else:
            _unknown(rule, "unparsable-line", f"{error}; names are not resolved")
        return
    if not hosts and not port:
        _unknown(rule, "unparsable-line", "no address")
        return
    if len(hosts) > 1:
        rule.own_mode = "hash"
        rule.by = "source address" if "persistent" in values else "source and destination address"
        rule.remarks += (_RANGES[rule.target],)
    if not port or (rule.action == "snat" and hosts):
        # Ports of sources are no endpoints.
        rule.to = tuple((host, Fraction(1, len(hosts))) for host in hosts)
        return
    heads = [f"[{host}]:" if ":" in host else f"{host}:" for host in hosts or ("",)]
    rule.to = _with_ports(rule, heads, port.partition("/")[0], values)


@lru_cache(maxsize=1 << 14)
def _hosts(text: str, family: Family) -> tuple[str, ...]:
    """Return the addresses of a range. Raise `UnreadableValue`."""
    if not text:
        return ()
    if "/" in text or (found := addresses(text, family)) is None:
        raise UnreadableValue("no address")
    [(begin, end)] = found
    count = end - begin + 1
    if count == 1 and family is Family.IPV4:
        # Which has one spelling.
        return (text.partition("-")[0],)
    if count > MAX_SLOTS:
        raise UnreadableValue(f"a range of {count} addresses, more than {MAX_SLOTS}")
    return tuple(str(address(begin + i, BITS[family])) for i in range(count))


def _with_ports(
    rule: Rule, heads: Sequence[str], text: str, values: Values
) -> tuple[tuple[str, Fraction], ...]:
    """Endpoints with a port of a range, each as likely as the others. Note what the kernel does with it."""
    try:
        spans = [ports(part) for part in text.split("-", 1)]
    except UnreadableValue as error:
        _unknown(rule, "unparsable-line", str(error))
        return ()
    if None in spans or ":" in text or "," in text:
        _unknown(rule, "unparsable-line", "no port")
        return ()
    low, high = spans[0][0][0], spans[-1][0][1]  # type: ignore[index]
    if low > high or high - low >= MAX_SLOTS:
        _unknown(rule, "unparsable-line", "a range of ports that cannot be")
        return ()
    if low < high and "random" not in values:
        rule.remarks += ("port-range-target",)
        rule.ports = (low, high)
        high = low
    elif low < high:
        rule.own_mode = rule.own_mode or "random"
    if low == high and len(heads) == 1:
        return ((f"{heads[0]}{low}", _WHOLE),)
    count = len(heads) * (high - low + 1)
    if count > MAX_SLOTS:
        _unknown(rule, "unsupported-target", f"a range of more than {MAX_SLOTS} endpoints")
        return ()
    return tuple((f"{head}{port}", Fraction(1, count)) for head in heads for port in range(low, high + 1))


# -- marks


def _mark(rule: Rule, read: Read) -> None:
    rule.act = Act.GO_ON
    try:
        marking = _marking(read.spec.values, connection=rule.target == "CONNMARK")
    except (ValueError, IndexError):
        _unknown(rule, "unparsable-line", "a mark that is not a number")
        return
    if marking is None:
        _not_modelled(rule, "what it does to the mark is not modelled")
    else:
        rule.marks = True
        rule.steps = (*rule.steps, SetMark(marking))


def _marking(values: Values, *, connection: bool) -> Marking | None:
    """Return what a target does to a mark. Raise `ValueError` or `IndexError`."""
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
                nfmask, ctmask = (
                    bits_of(next((values[name][0][0] for name in (own, "mask") if name in values), _EVERY))
                    for own in ("nfmask", "ctmask")
                )
                if option == "save-mark":
                    return Marking(True, nfmask, EVERY_BIT & ~ctmask, 0)
                return Marking(False, EVERY_BIT & ~nfmask, ctmask, 0)
    return None


_EVERY = f"{EVERY_BIT:#x}"
