"""Whichever options nft lists rules with, they read the same: a constant's number is its name."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from lbctl.documents.reading import document
from lbctl.engine.inspect.compare import compare
from lbctl.host import LocalHost
from lbctl.model import Analysis
from lbctl_nftables.reading.read import read
from support.network import Network, intent, service

OPTIONS = [
    *("-n", "-nn", "-a", "-s", "-S", "-N", "-y", "-p", "-T", "-u", "-j"),
    *("-nS", "-nu", "-pT", "-ny", "-as", "-SN", "-na", "-nj", "-pj", "-nSuNypTs", "-ans"),
]
#: Every expression of nft whose values have names, as far as the reader knows the expression.
NAMED = [
    *("ct state", "ct status", "ct direction", "ct l3proto", "ct protocol"),
    *("meta pkttype", "meta iiftype", "meta oiftype", "meta nfproto", "meta protocol", "meta l4proto"),
    # Not `meta day`: a rule that asks for the time is not understood, and is shown as it is written.
    *("ip protocol", "ip6 nexthdr", "ether type", "vlan type"),
    *("icmp type", "icmp code", "icmpv6 type", "icmpv6 code", "tcp flags", "ip dscp", "ip6 dscp", "ip ecn"),
    *("fib daddr type", "fib saddr type", "fib daddr . iif type"),
]
CODES = {
    "icmp code": ["net-unreachable", "host-unreachable", "prot-unreachable", "port-unreachable"],
    "icmpv6 code": ["no-route", "admin-prohibited", "addr-unreachable", "port-unreachable", "policy-fail"],
}
#: Values that nft prints in another form with some options, and values in sets, ranges and bits.
OTHERS = [
    "fib daddr type != local",
    "fib daddr type { local, broadcast }",
    "fib daddr type 9",
    "ct state established,new",
    "ct state { established, new }",
    "ct state != invalid",
    "ct state & new == new",
    "ct status snat,dnat",
    "ct status & dnat == dnat",
    "ct status & (snat | dnat | dying) == snat",
    "ct expiration 1h20m",
    "ct original protocol tcp",
    "meta pkttype { broadcast, multicast }",
    "meta l4proto { tcp, udp, gre, 99 }",
    "meta l4proto . th dport { tcp . 80, udp . 53, sctp . 9899 }",
    "meta l4proto @protocols",
    "meta l4proto . th dport @services",
    "meta protocol { ip, ip6 }",
    "icmp type { echo-reply, echo-request }",
    "tcp flags & syn == syn",
    "tcp flags & (fin | syn | rst | ack) == syn",
    "tcp flags & (syn | ack) != (syn | ack)",
    "tcp flags { syn, syn | ack }",
    "tcp flags == syn | cwr",
    "tcp flags cwr",
    "tcp flags ! fin,rst",
    "tcp flags != syn | ack",
    "ct state ! invalid",
    "tcp option timestamp exists",
    "tcp option sack-perm missing",
    "tcp option maxseg size 536-1460",
    "dccp type { request, response }",
    "ah spi 500",
    "esp spi != 500-600",
    "ip ecn ect0",
    "meta ipsec missing",
    "fib saddr . iif oif missing",
    "fib saddr oif exists",
    "fib daddr . iif type local",
    "meta rtclassid & 0xff == 1",
    "ct expiration 1m-2h",
    "tcp sport . tcp dport { 0-65535 . 80, 80 . 0-65535 }",
    "ip dscp { af11, ef, 5 }",
    "ip dscp 8-10",
    "icmp type 3-8",
    "meta skuid root",
    "meta skuid { root, 4242 }",
    "meta skgid 0",
    "meta iifgroup default",
    "meta iifgroup 3",
    "meta rtclassid 5",
    "meta cpu 1",
    "meta cgroup 5",
    "meta length 100-200",
    "tcp dport { http, https, 8443 }",
    "tcp dport 1024-2048",
    "th dport 53",
    "ip ttl 64",
    "ip saddr 10.0.0.0/8 ip daddr != 10.1.0.0/16",
    "ip6 hoplimit 4",
]
SETS = """
    set protocols { type inet_proto; elements = { tcp, udp, 47 }; }
    set services { type inet_proto . inet_service; elements = { tcp . http, udp . domain }; }
"""


def balanced(conditions: list[str]) -> str:
    """A service behind each condition, told apart by the mark of connections."""
    rules = "".join(
        f"ct mark {number} {condition} meta mark set numgen inc mod 2 map {{ 0 : 1, 1 : 2 }}\n"
        for number, condition in enumerate(conditions, 1)
    )
    return (
        f"table inet t {{ {SETS} chain c {{ type filter hook prerouting priority mangle + 5;\n{rules}}}\n}}\n"
    )


def constants(host: LocalHost, expression: str) -> list[str]:
    """The names that nft itself has for the values of an expression."""
    told = host.run(["nft", "describe", *expression.split()])
    names = re.findall(r"(?m)^\t(\S+) +\t? *(?:0x)?[0-9a-f]+$", told.out)
    # nft 1.1 has names of codes, but does not list them.
    names = names or CODES[expression]
    return [f'"{name}"' for name in names]


def listed(host: LocalHost, option: str | None = None) -> str:
    done = host.run(["nft", *([option] if option else []), "list", "ruleset"])
    assert done.code == 0, done.err
    return done.out


def said(reading: Analysis) -> dict[str, Any]:
    """All that the reader says of a text, without quotations of its lines and their numbers."""
    told: dict[str, Any] = json.loads(re.sub(r"\bline [0-9]+", "line", json.dumps(document(reading))))
    for kind in ("services", "findings", "unsupported"):
        for each in told[kind]:
            for quotation in ("lines", "source_lines", "line", "rule", "corrected"):
                each.pop(quotation, None)
    return told


def check_every_listing(host: LocalHost, rules: str) -> dict[str, Any]:
    loaded = host.run(["nft", "-f", "-"], stdin=f"flush ruleset\n{rules}")
    assert loaded.code == 0, loaded.err
    plain = read(listed(host))
    wanted = said(plain)
    for option in OPTIONS:
        reading = read(listed(host, option))
        assert said(reading) == wanted, f"nft {option} list ruleset"
        assert compare(reading, plain).equal, f"nft {option} list ruleset"
    return wanted


@pytest.mark.usefixtures("inside")
@pytest.mark.parametrize("expression", NAMED)
def test_every_name_is_its_number(folder: Path, expression: str) -> None:
    host = LocalHost(folder)
    names = constants(host, expression)
    told = check_every_listing(host, balanced([f"{expression} {name}" for name in names]))
    assert not told["unsupported"]
    assert told["services"]


@pytest.mark.usefixtures("inside")
@pytest.mark.parametrize("condition", OTHERS)
def test_every_form_of_a_condition_reads_the_same(folder: Path, condition: str) -> None:
    told = check_every_listing(LocalHost(folder), balanced([condition]))
    assert not told["unsupported"]
    assert told["services"]


def test_live_rules_equal_their_own_listing(network: Network) -> None:
    listing = network.folder / "listing"
    rules = intent(
        service("web", ["80/tcp", "53/udp"], "8001", "8002", "8003"),
        service("far", "10.9.0.1:443/tcp", "10.0.0.1:443", "10.0.0.2:443", affinity="60s"),
    )
    assert network.lbctl("apply", "--yes", "--backend", "nftables", config=rules).code == 0
    for option in OPTIONS:
        listing.write_text(network.tool("nft", option, "list", "ruleset"), encoding="utf-8")
        done = network.lbctl("compare", "live:nftables", str(listing))
        assert (done.code, "NOT equal" in done.out) == (0, False), option + done.out + done.err
