"""Rules from the field, as kinds: what the kernel does with a connection, in both syntaxes.

Each case says who answers, for connections that a test of the kernel makes and that a reader is asked about:

client 192.0.2.2, .3 → host 192.0.2.1, 203.0.113.10, .11 → server 10.0.0.11, .12, .13
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from ipaddress import ip_address, ip_network

from lbctl.model import AnalysedService, Analysis
from support.twins import (
    ACCEPT,
    RETURN,
    Rules,
    chain,
    dnat,
    ladder,
    native,
    nth,
    port,
    pre,
    rule,
    saved,
    to_chain,
)

VIP, OTHER_VIP = "203.0.113.10", "203.0.113.11"
HOST, CLIENT, OTHER_CLIENT = "192.0.2.1", "192.0.2.2", "192.0.2.3"
ONE, TWO, THREE = "10.0.0.11", "10.0.0.12", "10.0.0.13"
LOCAL = frozenset({VIP, OTHER_VIP, HOST})
#: The ports on which each of them answers, with its address and port.
PORTS = (22, 80, 81, 443, 587, 995, 8001, 8002, 8003, 8080)


@dataclass(frozen=True, slots=True)
class Ask:
    """New connections of a client, and the part that each endpoint gets; "host" is who was asked."""

    to: str
    port: int
    shares: Mapping[str, Fraction]
    count: int = 12
    source: str = CLIENT
    link: str = "outside"

    @property
    def untouched(self) -> str:
        return f"{self.to}:{self.port}"


@dataclass(frozen=True, slots=True)
class Case:
    """`texts` by syntax. `exact` is what the services say that take these connections, where it matters."""

    texts: Mapping[str, str]
    asks: Sequence[Ask]
    exact: bool | None = True
    #: Codes of findings that there must be, and must not be.
    codes: frozenset[str] = frozenset()
    not_codes: frozenset[str] = frozenset()
    #: The line that `depends_on` names, by a part of its rule.
    depends_on: str = ""


def both(*parts: Rules) -> dict[str, str]:
    return {"iptables": saved(*parts), "nft": native(*parts)}


def nft(*rules: str, more: str = "", hook: str = "type nat hook prerouting priority -100") -> dict[str, str]:
    body = "\n".join(rules)
    family = "netdev" if "ingress" in hook else "ip"
    return {"nft": f"table {family} t {{\n{more}chain pre {{\n{hook}; policy accept;\n{body}\n}}\n}}\n"}


def iptables(*rules: str, table: str = "nat") -> dict[str, str]:
    return {"iptables": "\n".join([f"*{table}", *(f"-A PREROUTING {rule}" for rule in rules), "COMMIT", ""])}


def halves(to: str = VIP, port: int = 80, **more: str) -> Ask:
    return Ask(to, port, {f"{ONE}:{port}": Fraction(1, 2), f"{TWO}:{port}": Fraction(1, 2)}, **more)  # type: ignore[arg-type]


def all_to(endpoint: str, to: str = VIP, port: int = 80, **more: str) -> Ask:
    return Ask(to, port, {endpoint: Fraction(1)}, 6, **more)  # type: ignore[arg-type]


def untouched(to: str = VIP, port: int = 80, **more: str) -> Ask:
    return all_to(f"{to}:{port}", to, port, **more)


A, B = dnat(f"{ONE}:80"), dnat(f"{TWO}:80")
#: Without a port: the client's stays.
A0, B0 = dnat(ONE), dnat(TWO)
AB = ladder(port(), ends=(A, B))
DST = (f"-d {OTHER_VIP}/32", f"ip daddr {OTHER_VIP}")
TO_LOCAL = ("-m addrtype --dst-type LOCAL", "fib daddr type local")

CASES: dict[str, Case] = {
    # An exemption ahead narrows the service.
    "exempt: an address, return": Case(both(pre(rule(DST, RETURN), *AB)), (halves(), untouched(OTHER_VIP))),
    "exempt: an address, accept": Case(both(pre(rule(DST, ACCEPT), *AB)), (halves(), untouched(OTHER_VIP))),
    "exempt: an address and the port": Case(
        both(pre(rule(DST, port(), RETURN), *AB)), (halves(), untouched(OTHER_VIP))
    ),
    "exempt: an address and another port": Case(
        both(pre(rule(DST, port("81"), RETURN), *AB)), (halves(), halves(OTHER_VIP))
    ),
    "exempt: this host": Case(both(pre(rule(TO_LOCAL, RETURN), *AB)), (untouched(), halves(THREE))),
    "exempt: an address with an endpoint of its own": Case(
        both(pre(rule(DST, port(), dnat(f"{THREE}:80")), *AB)),
        (halves(), all_to(f"{THREE}:80", OTHER_VIP)),
    ),
    "exempt: a client": Case(
        both(pre(rule((f"-s {OTHER_CLIENT}/32", f"ip saddr {OTHER_CLIENT}"), RETURN), *AB)),
        (halves(), untouched(source=OTHER_CLIENT)),
    ),
    "exempt: a client and the port": Case(
        both(pre(rule((f"-s {OTHER_CLIENT}/32", f"ip saddr {OTHER_CLIENT}"), port(), ACCEPT), *AB)),
        (halves(), untouched(source=OTHER_CLIENT)),
    ),
    "exempt: a link": Case(both(pre(rule(("-i outside", 'iifname "outside"'), RETURN), *AB)), (untouched(),)),
    "exempt: another link": Case(
        both(pre(rule(("-i inside", 'iifname "inside"'), RETURN), *AB)), (halves(),)
    ),
    "exempt: a mark that is not set": Case(
        both(pre(rule(("-m mark --mark 0x7", "meta mark 0x7"), RETURN), *AB)), (halves(),), exact=None
    ),
    "exempt: every second connection to an address": Case(
        both(pre(rule(DST, port(), nth(2), RETURN), rule(port(), A))),
        (
            all_to(f"{ONE}:80"),
            Ask(OTHER_VIP, 80, {f"{OTHER_VIP}:80": Fraction(1, 2), f"{ONE}:80": Fraction(1, 2)}),
        ),
        exact=None,
    ),
    "exempt: in a chain of its own": Case(
        both(
            pre(rule(port(), to_chain("LB"))),
            chain("LB", rule(DST, RETURN), *ladder(("-p tcp", "meta l4proto tcp"), ends=(A, B))),
        ),
        (halves(), untouched(OTHER_VIP)),
    ),
    # What is in no set is let past.
    "exempt: a set": Case(
        nft(
            "ip daddr @spared return",
            *(other for _, other in AB),
            more=f"set spared {{ type ipv4_addr; elements = {{ {OTHER_VIP} }} }}\n",
        ),
        (halves(), untouched(OTHER_VIP)),
    ),
    # Endpoints without a port keep the client's, and never mix listeners.
    "port kept: a chain for two ports": Case(
        both(
            pre(rule(port("587"), to_chain("LB")), rule(port("995"), to_chain("LB"))),
            chain("LB", *ladder(("-p tcp", "meta l4proto tcp"), ends=(A0, B0))),
        ),
        (halves(port=587), halves(port=995)),
        exact=None,
    ),
    "port kept: two ports in one rule": Case(
        both(pre(*ladder(("-p tcp -m multiport --dports 587,995", "tcp dport { 587, 995 }"), ends=(A0, B0)))),
        (halves(port=587), halves(port=995)),
        exact=None,
    ),
    "port kept: a map": Case(
        nft(f"tcp dport {{ 587, 995 }} dnat to numgen inc mod 2 map {{ 0 : {ONE}, 1 : {TWO} }}"),
        (halves(port=587), halves(port=995)),
        exact=None,
    ),
    "port kept: one listener": Case(
        both(pre(*ladder(port(), ends=(A0, B0)))), (halves(), untouched(port=81))
    ),
    "port kept: inside a range": Case(
        both(pre(rule(port("8001-8003"), dnat(f"{ONE}:8001-8003")))),
        tuple(all_to(f"{ONE}:{number}", port=number) for number in (8001, 8002, 8003)),
        not_codes=frozenset({"port-range-target"}),
    ),
    "port kept: redirect to a range": Case(
        both(pre(rule(port("8001-8003"), ("-j REDIRECT --to-ports 8001-8003", "redirect to :8001-8003")))),
        tuple(Ask(HOST, number, {f"{HOST}:{number}": Fraction(1)}, 6) for number in (8001, 8003)),
        not_codes=frozenset({"port-range-target"}),
    ),
    # A rate, or a condition that is not understood, ahead: what comes behind it is not exact.
    "opaque: connlimit": Case(
        iptables(
            f"-p tcp -m tcp --dport 80 -m connlimit --connlimit-upto 100 --connlimit-mask 0 {A[0]}",
            f"-p tcp -m tcp --dport 80 {B[0]}",
        ),
        (all_to(f"{ONE}:80"),),
        exact=False,
        depends_on="connlimit",
    ),
    "opaque: a rate": Case(
        both(
            pre(
                rule(
                    port(),
                    (
                        "-m limit --limit 100/sec --limit-burst 1000",
                        "limit rate 100/second burst 1000 packets",
                    ),
                    A,
                ),
                rule(port(), B),
            )
        ),
        (all_to(f"{ONE}:80"),),
        exact=False,
        depends_on="limit",
    ),
    "opaque: a rate ahead of a ladder": Case(
        both(
            pre(
                rule(
                    port(),
                    ("-m limit --limit 1/hour --limit-burst 1", "limit rate 1/hour burst 1 packets"),
                    dnat(f"{THREE}:80"),
                ),
                *AB,
            )
        ),
        (
            Ask(
                VIP,
                80,
                {f"{THREE}:80": Fraction(1, 9), f"{ONE}:80": Fraction(4, 9), f"{TWO}:80": Fraction(4, 9)},
                9,
            ),
        ),
        exact=False,
        depends_on="limit",
    ),
    "opaque: u32": Case(
        iptables(
            f'-p tcp -m tcp --dport 80 -m u32 --u32 "0>>28=4" {A[0]}', f"-p tcp -m tcp --dport 80 {B[0]}"
        ),
        (all_to(f"{ONE}:80"),),
        exact=False,
        depends_on="u32",
    ),
    "opaque: string": Case(
        iptables(
            f'-p tcp -m tcp --dport 80 -m string --algo bm --string "never there" {A[0]}',
            f"-p tcp -m tcp --dport 80 {B[0]}",
        ),
        (all_to(f"{TWO}:80"),),
        exact=False,
        depends_on="string",
    ),
    "opaque: between two rungs": Case(
        iptables(
            f"-p tcp -m tcp --dport 80 {nth(3)[0]} {A[0]}",
            f'-p tcp -m tcp --dport 80 -m u32 --u32 "0>>28=5" -j DNAT --to-destination {THREE}:80',
            f"-p tcp -m tcp --dport 80 {nth(2)[0]} {A[0]}",
            f"-p tcp -m tcp --dport 80 {B[0]}",
        ),
        (Ask(VIP, 80, {f"{ONE}:80": Fraction(2, 3), f"{TWO}:80": Fraction(1, 3)}),),
        exact=False,
        depends_on="u32",
    ),
    "opaque: payload": Case(
        nft(f"tcp dport 80 @nh,0,4 4 dnat to {ONE}:80", f"tcp dport 80 dnat to {TWO}:80"),
        (all_to(f"{ONE}:80"),),
        exact=False,
        depends_on="@nh",
    ),
    "opaque: a rate that drops": Case(
        nft(
            "tcp dport 80 limit rate over 1000/second burst 1000 packets drop",
            f"tcp dport 80 dnat to numgen inc mod 2 map {{ 0 : {ONE} . 80, 1 : {TWO} . 80 }}",
        ),
        (halves(),),
        exact=False,
        depends_on="limit rate over",
    ),
    "opaque: a rate of each client that drops": Case(
        nft(
            "tcp dport 80 add @seen { ip saddr limit rate over 1000/second burst 1000 packets } drop",
            f"tcp dport 80 dnat to numgen inc mod 2 map {{ 0 : {ONE} . 80, 1 : {TWO} . 80 }}",
            more="set seen { type ipv4_addr; size 65535; flags dynamic; }\n",
        ),
        (halves(),),
        exact=False,
        depends_on="limit rate over",
    ),
    "opaque: a number of connections that drops": Case(
        nft(
            "tcp dport 80 ct count over 1000 drop",
            f"tcp dport 80 dnat to numgen inc mod 2 map {{ 0 : {ONE} . 80, 1 : {TWO} . 80 }}",
        ),
        (halves(),),
        exact=False,
        depends_on="ct count",
    ),
    # Conditions that are negated.
    "negated: not to this host": Case(
        both(
            pre(
                rule(("-m addrtype ! --dst-type LOCAL", "fib daddr type != local"), port(), A),
            )
        ),
        (untouched(), all_to(f"{ONE}:80", THREE)),
    ),
    "negated: all ports but one": Case(
        both(pre(rule(("-p tcp -m tcp ! --dport 22", "tcp dport != 22"), A))),
        (all_to(f"{ONE}:80"), all_to(f"{ONE}:80", port=443), untouched(port=22)),
    ),
    "negated: all ports but some": Case(
        both(pre(rule(("-p tcp -m multiport ! --dports 22,443", "tcp dport != { 22, 443 }"), A))),
        (all_to(f"{ONE}:80"), untouched(port=22), untouched(port=443)),
    ),
    "negated: all addresses but one": Case(
        both(pre(rule((f"! -d {OTHER_VIP}/32", f"ip daddr != {OTHER_VIP}"), port(), A))),
        (all_to(f"{ONE}:80"), untouched(OTHER_VIP)),
    ),
    "negated: all clients but one": Case(
        both(pre(rule((f"! -s {OTHER_CLIENT}/32", f"ip saddr != {OTHER_CLIENT}"), port(), A))),
        (all_to(f"{ONE}:80"), untouched(source=OTHER_CLIENT)),
    ),
    # What a rung leaves, a wider one takes.
    "rungs: a wider one": Case(
        iptables(
            f"-s 192.0.2.0/25 -p tcp -m tcp --dport 80 {nth(2)[0]} {A[0]}",
            f"-i outside -p tcp -m tcp ! --sport 1:1023 --dport 80 {B[0]}",
        ),
        (halves(),),
        exact=None,
        codes=frozenset({"selectors-differ"}),
        not_codes=frozenset({"no-catch-all"}),
    ),
    "rungs: a draw before the port": Case(
        iptables(
            f"-p tcp -m statistic --mode random --probability 1 -m tcp --dport 80 {A[0]}",
            f"-p tcp -m tcp --dport 80 {B[0]}",
        ),
        (all_to(f"{ONE}:80"),),
        not_codes=frozenset({"statistic-before-selector"}),
    ),
    # As OpenWrt writes it.
    "nft: no word to": Case(
        nft(
            f"tcp dport 22 dnat {ONE}:22",
            f"tcp dport 80 dnat numgen inc mod 2 map {{ 0 : {ONE}, 1 : {TWO} }}",
        ),
        (halves(), all_to(f"{ONE}:22", port=22)),
    ),
    "nft: definitions in blocks": Case(
        nft(
            f"define server = {ONE}",
            "tcp dport $web dnat to $server:80",
            more='define web = { 80, 81 }\ninclude "/etc/nftables.d/none-*.nft"\n',
        ),
        (all_to(f"{ONE}:80"), all_to(f"{ONE}:80", port=81)),
        exact=None,
    ),
}

INGRESS = "type filter hook ingress device outside priority 0"
#: What picks, by the rule that does: each is a service, or listed as unsupported by its line.
PICKING: dict[str, dict[str, str]] = {
    "HMARK": iptables(
        "-p tcp --dport 80 -j HMARK --hmark-tuple src --hmark-mod 2 --hmark-offset 1 --hmark-rnd 0x1",
        table="mangle",
    ),
    "NFQUEUE": iptables("-p tcp --dport 80 -j NFQUEUE --queue-balance 0:3", table="mangle"),
    "CLUSTERIP": {
        "iptables": "*filter\n-A INPUT -d 203.0.113.10/32 -i outside -p tcp -j CLUSTERIP --new --hashmode "
        "sourceip --clustermac 01:00:5E:00:00:20 --total-nodes 2 --local-node 1\nCOMMIT\n"
    },
    "TPROXY": iptables(
        f"-p tcp --dport 80 {nth(2)[0]} -j TPROXY --on-port 8001 --on-ip 10.0.0.1 --tproxy-mark 0x1/0x1",
        "-p tcp --dport 80 -j TPROXY --on-port 8002 --on-ip 10.0.0.1 --tproxy-mark 0x1/0x1",
        table="mangle",
    ),
    "TEE": iptables(f"-p tcp --dport 80 {nth(2)[0]} -j TEE --gateway 10.0.0.11", table="mangle"),
    "ip daddr set": nft(
        f"udp dport 53 ip daddr set numgen inc mod 2 map {{ 0 : {ONE}, 1 : {TWO} }}",
        hook="type filter hook prerouting priority -150",
    ),
    "ether daddr set": nft(
        "tcp dport 80 ether daddr set jhash ip saddr mod 2 seed 0x1 map { 0 : 02:00:00:00:00:01, "
        "1 : 02:00:00:00:00:02 } fwd to inside",
        hook=INGRESS,
    ),
    "tproxy": nft(
        "tcp dport 80 tproxy to :numgen inc mod 2 map { 0 : 8001, 1 : 8002 } accept",
        hook="type filter hook prerouting priority -150",
    ),
    "queue": nft("tcp dport 80 queue to numgen inc mod 2", hook="type filter hook prerouting priority -150"),
    "queue of several": nft(
        "tcp dport 80 queue flags fanout to 0-3", hook="type filter hook prerouting priority -150"
    ),
    "dup": nft(
        f"tcp dport 80 dup to numgen inc mod 2 map {{ 0 : {ONE}, 1 : {TWO} }}",
        hook="type filter hook prerouting priority -150",
    ),
    "fwd": nft('tcp dport 80 fwd to numgen inc mod 2 map { 0 : "inside", 1 : "outside" }', hook=INGRESS),
    "ct mark by a map": nft(
        "ct state new ct mark set numgen inc mod 2 map { 0 : 1, 1 : 2 }",
        hook="type filter hook prerouting priority -150",
    ),
}

#: Two texts that are equal, in one syntax or in two.
EQUAL: dict[str, tuple[str, str]] = {
    "a map with and without the port": (
        nft(f"tcp dport 80 dnat to numgen inc mod 2 map {{ 0 : {ONE}, 1 : {TWO} }}")["nft"],
        nft(f"tcp dport 80 dnat to numgen inc mod 2 map {{ 0 : {ONE} . 80, 1 : {TWO} . 80 }}")["nft"],
    ),
    "a map and a ladder without the port": (
        nft(f"tcp dport 80 dnat to numgen inc mod 2 map {{ 0 : {ONE} . 80, 1 : {TWO} . 80 }}")["nft"],
        iptables(f"-p tcp --dport 80 {nth(2)[0]} {A0[0]}", f"-p tcp --dport 80 {B0[0]}")["iptables"],
    ),
    "a ladder with and without the port": (
        iptables(f"-p tcp --dport 80 {nth(2)[0]} {A0[0]}", f"-p tcp --dport 80 {B0[0]}")["iptables"],
        iptables(f"-p tcp --dport 80 {nth(2)[0]} {A[0]}", f"-p tcp --dport 80 {B[0]}")["iptables"],
    ),
    "the mask of a mark as it is listed": (
        nft(f"ct mark & 0x80000000 == 0x80000000 tcp dport 80 dnat to {ONE}:80")["nft"],
        nft(f"ct mark 0x80000000/1 tcp dport 80 dnat to {ONE}:80")["nft"],
    ),
    "the mask of a packet's mark as it is listed": (
        nft(f"meta mark & 0xf0000000 == 0x10000000 tcp dport 80 dnat to {ONE}:80")["nft"],
        nft(f"meta mark 0x10000000/4 tcp dport 80 dnat to {ONE}:80")["nft"],
    ),
    "an exemption as a condition": (
        iptables(f"{DST[0]} -j RETURN", f"-p tcp --dport 80 {A[0]}")["iptables"],
        iptables(f"! {DST[0]} -p tcp --dport 80 {A[0]}")["iptables"],
    ),
}
#: Texts that differ: what one exempts, the other takes.
DIFFERENT: dict[str, tuple[str, str]] = {
    name.removeprefix("exempt: "): (text, other)
    for name, case in CASES.items()
    if name in {"exempt: an address, return", "exempt: this host", "exempt: a client", "exempt: a link"}
    for syntax, text in case.texts.items()
    if (other := both(pre(*AB))[syntax])
}


def answer(reading: Analysis, ask: Ask) -> tuple[dict[str, Fraction], list[AnalysedService]]:
    """The share of each endpoint that a reading gives a connection, and the services that say so."""
    taken = [each for each in reading.services if each.changes == "destination" and takes(each, ask)]
    # Of two that take it, the first rule acts: the one that is read from the earliest line.
    taken = sorted(taken, key=lambda each: min(each.lines, default=0))[:1]
    shares: dict[str, Fraction] = {}
    for service in taken:
        for backend in service.backends:
            to = _completed(backend.to, ask)
            shares[to] = shares.get(to, Fraction(0)) + backend.share
        if service.leak:
            shares[ask.untouched] = shares.get(ask.untouched, Fraction(0)) + service.leak
    return shares or {ask.untouched: Fraction(1)}, taken


def _completed(to: str, ask: Ask) -> str:
    host, colon, last = to.rpartition(":")
    if not colon and not to.replace("-", "").isdigit():
        return f"{to}:{ask.port}"
    low, _, high = last.partition("-")
    inside = bool(high) and int(low) <= ask.port <= int(high)
    return f"{host or ask.to}:{ask.port if inside else low}"


def takes(service: AnalysedService, ask: Ask) -> bool:
    """True if a service takes a connection, by the spelling of conditions that is documented."""
    given = {"dst": service.dst, "dport": service.dport}
    if service.proto not in {"tcp", "any"} or "prerouting" not in service.hooks:
        return False
    conditions = [*given.items(), *(service.when or {}).items()]
    return all(_holds(name, part.strip(), ask) for name, value in conditions for part in value.split(", "))


def _holds(name: str, value: str, ask: Ask) -> bool:
    wanted = value.removeprefix("!").strip()
    negated = value.startswith("!")
    match name:
        case "dst" if wanted == "local":
            found = ask.to in LOCAL
        case "dst-type":
            found = (ask.to in LOCAL) is (wanted.upper() == "LOCAL")
        case "dst" | "src" if wanted != "any":
            address = ip_address(ask.to if name == "dst" else ask.source)
            found = any(address in ip_network(part) for part in wanted.split(","))
        case "dport" | "sport" if wanted != "any":
            number = ask.port if name == "dport" else 40000
            spans = [part.partition("-") for part in wanted.split(",")]
            found = any(int(low) <= number <= int(high or low) for low, _, high in spans)
        case "not":
            # Several conditions at once, of which not all may hold: `dport 81 src ! 192.0.2.2`.
            words = re.findall(r"([a-z-]+) ((?:! )?\S+)", value)
            return not all(_holds(field, wanted, ask) for field, wanted in words)
        case "iif":
            found = wanted == ask.link
        case "mark":
            found = wanted in {"0", "0x0"}
        case _:
            found = True
    return found is not negated
