"""What the target of one rule does to a connection that the rule takes."""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING

from lbctl.model import MAX_SLOTS, Family
from lbctl_iptables.reading import where as w
from lbctl_iptables.reading.grammar import UNPRINTED_REASON
from lbctl_iptables.reading.meaning import Act, bits_of, masked
from lbctl_iptables.reading.options import TARGETS
from lbctl_iptables.reading.where import Unclear

if TYPE_CHECKING:
    from collections.abc import Collection

    from lbctl_iptables.reading.meaning import Meaning

#: Endpoints that the ranges of a text may make in all.
MOST_RANGED = 1 << 16
_MASKS = ("nfmask", "ctmask")
_WHOLE = Fraction(1)
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


def understand(meaning: Meaning, chains: Collection[str], room: int) -> None:
    """Say what a rule does; `room` is how many endpoints its ranges may make."""
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
    elif meaning.rule.spec.unprinted and target not in _ENDS | _PASSING:
        meaning.act = Act.UNKNOWN
        _unknown(meaning, "unsupported-target", target, UNPRINTED_REASON)
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
    if meaning.rule.spec.unprinted:
        _unknown(meaning, "unsupported-target", target, UNPRINTED_REASON)
        return
    random = "random" in values
    if room <= 0 and any("-" in word for given in values.values() for words in given for word in words):
        _unknown(meaning, "unsupported-target", target, f"ranges of more than {MOST_RANGED} endpoints in all")
        return
    if target in {"REDIRECT", "MASQUERADE"}:
        given = values.get("to-ports") or [("",)]
        text = given[0][0]
        if target == "MASQUERADE":
            meaning.to = (("masquerade", _WHOLE),)
            return
        if not text:
            # The address is this host's, the port stays.
            meaning.to = (("local", _WHOLE),)
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
        pairs += [(to, part / len(hosts)) for to, part in meaning.to] if len(hosts) > 1 else meaning.to
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
    if count == 1 and family is Family.IPV4:
        # Which has one spelling.
        return (low,)
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
        meaning.to = ((f"{head}{a}", _WHOLE),)
    elif random:
        meaning.own_mode = meaning.own_mode or "random"
        meaning.to = tuple((f"{head}{port}", Fraction(1, b - a + 1)) for port in range(a, b + 1))
    else:
        if "port-range-target" not in meaning.remarks:
            meaning.remarks += ("port-range-target",)
        meaning.to = ((f"{head}{a}", _WHOLE),)


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
                    value, mask = masked(text)
                    # set-mark clears what it then sets, set-xmark flips bits outside the mask.
                    operation = "set" if option == "set-mark" else "xset"
                    meaning.marking = (connection, operation, value, mask)
                case "and-mark":
                    meaning.marking = (connection, "xset", 0, whole ^ bits_of(text))
                case "or-mark":
                    meaning.marking = (connection, "xset", bits_of(text), bits_of(text))
                case "xor-mark":
                    meaning.marking = (connection, "xset", bits_of(text), 0)
                case "save-mark" | "restore-mark":
                    both = values["mask"][0][0] if "mask" in values else f"{whole:#x}"
                    of = {name: bits_of(values[name][0][0] if name in values else both) for name in _MASKS}
                    meaning.marking = (connection, option.partition("-")[0], of["nfmask"], of["ctmask"])
    except (ValueError, IndexError):
        _unknown(meaning, "unparsable-line", target, "a mark that is no number")
    if meaning.marking is None and meaning.unclear is None:
        meaning.act = Act.UNKNOWN
        _unknown(meaning, "unsupported-target", target, "what it does to the mark is not modelled")
