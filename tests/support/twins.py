"""Pairs of equal rules: one kernel meaning, once as iptables-save, once as nft, rule by rule.

Each rule has its twin at the same place, so that counters, findings and numbers of rules are compared as well
as services.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from lbctl.engine.inspect.compare import compare
from lbctl.model import AnalysedService, Analysis

#: Table of iptables → hook → what nft calls the same base chain.
_BASES: Mapping[str, Mapping[str, str]] = {
    "raw": {
        "PREROUTING": "type filter hook prerouting priority -300",
        "OUTPUT": "type filter hook output priority -300",
    },
    "mangle": {
        "PREROUTING": "type filter hook prerouting priority -150",
        "INPUT": "type filter hook input priority -150",
        "FORWARD": "type filter hook forward priority -150",
        "OUTPUT": "type route hook output priority -150",
        "POSTROUTING": "type filter hook postrouting priority -150",
    },
    "nat": {
        "PREROUTING": "type nat hook prerouting priority -100",
        "INPUT": "type nat hook input priority 100",
        "OUTPUT": "type nat hook output priority -100",
        "POSTROUTING": "type nat hook postrouting priority 100",
    },
    "filter": {
        "INPUT": "type filter hook input priority 0",
        "FORWARD": "type filter hook forward priority 0",
        "OUTPUT": "type filter hook output priority 0",
    },
}


@dataclass(frozen=True, slots=True)
class Rules:
    """Rules of a chain of a table of iptables, each with its twin."""

    chain: str
    pairs: tuple[tuple[str, str], ...]
    table: str = "nat"


def chain(name: str, *pairs: tuple[str, str], table: str = "nat") -> Rules:
    return Rules(name, pairs, table)


def saved(*parts: Rules) -> str:
    """The rules as iptables-save."""
    lines: list[str] = []
    for table in dict.fromkeys(each.table for each in parts):
        mine = [each for each in parts if each.table == table]
        lines.append(f"*{table}")
        lines += [f":{hook} ACCEPT [0:0]" for hook in _BASES[table]]
        lines += [f":{name} - [0:0]" for name in _own(mine, table)]
        lines += [f"-A {each.chain} {one}" for each in mine for one, _ in each.pairs if one]
        lines.append("COMMIT")
    return "\n".join([*lines, ""])


def native(*parts: Rules) -> str:
    """The rules as nft."""
    lines: list[str] = []
    for table in dict.fromkeys(each.table for each in parts):
        mine = [each for each in parts if each.table == table]
        lines.append(f"table ip {table} {{")
        for name in [*_own(mine, table), *(hook for hook in _BASES[table])]:
            base = _BASES[table].get(name)
            lines.append(f"chain {name} {{")
            lines += [f"{base}; policy accept;"] if base else []
            lines += [other for each in mine if each.chain == name for _, other in each.pairs if other]
            lines.append("}")
        lines.append("}")
    return "\n".join([*lines, ""])


def _own(parts: Sequence[Rules], table: str) -> list[str]:
    """Chains that others lead to, so that each stands before what jumps to it."""
    return [
        name for name in dict.fromkeys(each.chain for each in reversed(parts)) if name not in _BASES[table]
    ]


def nth(every: int, packet: int = 0) -> tuple[str, str]:
    return f"-m statistic --mode nth --every {every} --packet {packet}", f"numgen inc mod {every} {packet}"


def draw(part: Fraction) -> tuple[str, str]:
    stored = round(part * (1 << 31))
    text = f"{stored / (1 << 31):.11f}"
    return f"-m statistic --mode random --probability {text}", f"numgen random mod 2147483648 < {stored}"


def dnat(to: str) -> tuple[str, str]:
    return f"-j DNAT --to-destination {to}", f"dnat to {to}"


def mark(value: int) -> tuple[str, str]:
    return f"-j MARK --set-xmark {value:#x}/0xffffffff", f"meta mark set {value:#x}"


def port(number: str = "80", proto: str = "tcp") -> tuple[str, str]:
    return f"-p {proto} -m {proto} --dport {number.replace('-', ':')}", f"{proto} dport {number}"


def rule(*parts: tuple[str, str] | str) -> tuple[str, str]:
    """A rule of parts that both syntaxes have; a word alone is the same in both."""
    pairs = [(part, part) if isinstance(part, str) else part for part in parts]
    return " ".join(filter(None, (one for one, _ in pairs))), " ".join(filter(None, (x for _, x in pairs)))


NEW = ("-m conntrack --ctstate NEW", "ct state new")
A, B, C, D = (dnat(f"10.0.0.{number}:80") for number in (1, 2, 3, 4))
RETURN, ACCEPT, DROP = ("-j RETURN", "return"), ("-j ACCEPT", "accept"), ("-j DROP", "drop")


def to_chain(name: str) -> tuple[str, str]:
    return f"-j {name}", f"jump {name}"


def ladder(*where: tuple[str, str] | str, ends: Sequence[tuple[str, str]] = (A, B)) -> list[tuple[str, str]]:
    """A right ladder over endpoints: every N, N-1, …, and the last rule bare."""
    count = len(ends)
    return [rule(*where, *([nth(count - i)] if i + 1 < count else []), end) for i, end in enumerate(ends)]


def pre(*pairs: tuple[str, str]) -> Rules:
    return chain("PREROUTING", *pairs)


def under(
    *condition: tuple[str, str], hook: str = "PREROUTING", where: tuple[str, str] | None = None
) -> tuple[Rules, ...]:
    """A ladder of two rungs that asks for one more thing."""
    return (chain(hook, *ladder(*condition, where or port())),)


def _address(number: int) -> tuple[str, str]:
    return f"-d 203.0.113.{number}/32", f"ip daddr 203.0.113.{number}"


PAIRS: Mapping[str, tuple[Rules, ...]] = {
    "01 every 3 on each of three": (pre(*(rule(port(), nth(3), end) for end in (A, B, C))),),
    "02 four draws of 1/4": (pre(*(rule(port(), draw(Fraction(1, 4)), end) for end in (A, B, C, D))),),
    "03 marks of new connections": (
        chain(
            "PREROUTING",
            rule(port(), NEW, nth(2), mark(1)),
            rule(port(), NEW, nth(3), mark(2)),
            table="mangle",
        ),
    ),
    "04 marks of all packets": (
        chain("PREROUTING", rule(port(), nth(2), mark(1)), rule(port(), nth(2, 1), mark(2)), table="mangle"),
    ),
    "05 a counter before the port": (
        pre(
            rule(("-p tcp", "meta l4proto tcp"), nth(2), ("-m tcp --dport 80", "tcp dport 80"), A),
            rule(port(), B),
            rule(port("443"), dnat("10.0.0.3:443")),
        ),
    ),
    "06 two ports": (
        pre(*ladder(("-p tcp -m multiport --dports 80,443", "tcp dport { 80, 443 }"), ends=(A, B, C))),
    ),
    "07 one chain for two addresses": (
        pre(rule(_address(10), port(), to_chain("LB")), rule(_address(11), port(), to_chain("LB"))),
        chain("LB", *ladder(("-p tcp", "meta l4proto tcp"))),
    ),
    "08 rungs behind the last one": (
        pre(*ladder(port(), ends=(A, B)), rule(port(), nth(2), C), rule(port(), D)),
    ),
    "09 an exemption by source and port": (
        pre(rule(("-s 10.9.0.0/16", "ip saddr 10.9.0.0/16"), port(), ACCEPT), *ladder(port())),
    ),
    "10 a port ahead of a range": (
        pre(rule(port(), C), *ladder(port("80-89"), ends=(dnat("10.0.0.1"), dnat("10.0.0.2")))),
    ),
    "11 sources in turn": (
        chain(
            "POSTROUTING",
            rule(port("25"), nth(2), ("-j SNAT --to-source 198.51.100.1", "snat to 198.51.100.1")),
            rule(port("25"), ("-j SNAT --to-source 198.51.100.2", "snat to 198.51.100.2")),
        ),
    ),
    "12 marks that connections keep": (
        chain(
            "PREROUTING",
            ("-j CONNMARK --restore-mark --nfmask 0xffffffff --ctmask 0xffffffff", "meta mark set ct mark"),
            rule(("-m mark --mark 0x0", "meta mark 0x0"), nth(2), mark(1)),
            rule(("-m mark --mark 0x0", "meta mark 0x0"), mark(2)),
            ("-j CONNMARK --save-mark --nfmask 0xffffffff --ctmask 0xffffffff", "ct mark set meta mark"),
            table="mangle",
        ),
    ),
    "13 one port from outside only": (
        pre(*ladder(port()), rule(port("81"), C)),
        chain("OUTPUT", rule(port("81"), C)),
    ),
    "14 a rung for another port": (pre(rule(port(), nth(2), A), rule(port("81"), B)),),
    "15 ranges": (
        pre(
            rule(port(), ("-j DNAT --to-destination 10.0.0.1-10.0.0.3", "dnat to 10.0.0.1-10.0.0.3")),
            rule(port("443"), ("-j REDIRECT --to-ports 8001-8003", "redirect to :8001-8003")),
        ),
        chain(
            "POSTROUTING",
            rule(
                port("25"),
                ("-j SNAT --to-source 198.51.100.1-198.51.100.3", "snat to 198.51.100.1-198.51.100.3"),
            ),
        ),
    ),
    "16 a rate ahead of a ladder": (
        pre(
            rule(port(), ("-m limit --limit 10/sec", "limit rate 10/second burst 5 packets"), C),
            *ladder(port()),
        ),
    ),
    "17 a counter over a draw and a counter": (
        pre(rule(port(), nth(2), to_chain("DRAW")), rule(port(), to_chain("TURN"))),
        chain(
            "DRAW",
            rule(("-p tcp", "meta l4proto tcp"), draw(Fraction(1, 2)), A),
            rule(("-p tcp", "meta l4proto tcp"), B),
        ),
        chain("TURN", *ladder(("-p tcp", "meta l4proto tcp"), ends=(C, D))),
    ),
    "18 the same twice": (pre(*ladder(port()), *ladder(port())),),
    "19 a draw before one counter": (
        pre(rule(port(), draw(Fraction(1, 2)), to_chain("ONE")), rule(port(), to_chain("TWO"))),
        chain("ONE", rule(("-p tcp", "meta l4proto tcp"), ("-j TURN", "jump TURN"))),
        chain("TWO", rule(("-p tcp", "meta l4proto tcp"), ("-j TURN", "jump TURN"))),
        chain("TURN", *ladder(("-p tcp", "meta l4proto tcp"))),
    ),
    "20 marks that the filter drops": (
        chain("PREROUTING", rule(port(), NEW, draw(Fraction(1, 4)), mark(1)), table="mangle"),
        pre(*ladder(port())),
        chain("FORWARD", rule(("-m mark --mark 0x1", "meta mark 0x1"), DROP), table="filter"),
    ),
    "21 not from a link": under(("! -i eth0", 'iifname != "eth0"')),
    "22 not from a network": under(("! -s 10.9.0.0/16", "ip saddr != 10.9.0.0/16")),
    "23 from some links": under(("-i eth+", 'iifname "eth*"')),
    "24 from some ports": under(
        where=("-p tcp -m tcp --sport 1024:65535 --dport 80", "tcp sport 1024-65535 tcp dport 80")
    ),
    "25 of a user": under(("-m owner --uid-owner 33", "meta skuid 33"), hook="OUTPUT"),
    "26 by a masked mark": under(("-m mark --mark 0x10/0xf0", "meta mark & 0xf0 == 0x10")),
    "27 by the link's address": under(
        ("-m mac --mac-source 02:00:00:00:00:01", "ether saddr 02:00:00:00:00:01")
    ),
    "28 all ports but one": under(where=("-p tcp -m tcp ! --dport 22", "tcp dport != 22")),
    "29 all addresses but one": under(("! -d 203.0.113.10/32", "ip daddr != 203.0.113.10")),
    "30 not to this host": under(("-m addrtype ! --dst-type LOCAL", "fib daddr type != local")),
    "31 from a range": under(("-m iprange --src-range 10.0.0.10-10.0.0.20", "ip saddr 10.0.0.10-10.0.0.20")),
    "32 from a set": under(("-m set --match-set clients src", "ip saddr @clients")),
    "33 new datagrams": under(NEW, where=port("53", "udp")),
    "34 by DSCP": under(("-m dscp --dscp 0x2e", "ip dscp 0x2e")),
    "37 not by a masked mark": under(("-m mark ! --mark 0x0/0x3", "meta mark & 0x3 != 0x0")),
    "38 not by a mark": under(("-m connmark ! --mark 0x1", "ct mark != 0x1")),
    "35 a link let past": (pre(("-i eth1 -j RETURN", 'iifname "eth1" return'), *ladder(port())),),
    "36 masquerade of the endpoints": (
        pre(*ladder(port())),
        chain(
            "POSTROUTING",
            (
                "-s 10.0.0.0/24 -d 10.0.0.0/24 -j MASQUERADE",
                "ip saddr 10.0.0.0/24 ip daddr 10.0.0.0/24 masquerade",
            ),
        ),
    ),
}
#: Pairs that are not equal by nature, each with the reason.
UNEQUAL = {"32 from a set": "an ipset is no set of nft: neither text can hold the other's elements"}


def meaning(reading: Analysis) -> dict[str, Any]:
    """What a reading says, without lines and words of its syntax."""
    return {
        "accept": reading.accept,
        "services": sorted(map(_service, reading.services)),
        "findings": sorted({(each.code, str(each.severity)) for each in reading.findings}),
        "unsupported": len(reading.unsupported),
        "untouched": reading.untouched_rules,
    }


def _service(service: AnalysedService) -> tuple[Any, ...]:
    kept = service.affinity
    return (
        *map(str, service.selector),
        service.hooks,
        service.action,
        service.mode,
        tuple(sorted((each.to, str(each.share)) for each in service.backends)),
        str(service.leak),
        service.exact,
        (kept.kind, kept.by, kept.seconds) if kept else (),
        str(service.source_nat),
        bool(service.source_lines),
        service.mode != "nth" or tuple(map(str, service.slots)),
    )


def differences(one: Analysis, other: Analysis) -> list[str]:
    """What two readings do not say alike."""
    mine, theirs = meaning(one), meaning(other)
    found = [f"{key}: {mine[key]} != {theirs[key]}" for key in mine if mine[key] != theirs[key]]
    return found if compare(one, other).equal else [*found, "compare says NOT equal"]
