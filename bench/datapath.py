"""What a new flow costs on its way through our rules, held against conntrack alone and a list of rules.

    python bench/datapath.py [--backend nftables|iptables] [RUNS]

As root; works in private network namespaces; needs gcc. UDP packets, each of a flow of its own, go from a
client's namespace through a router's, which holds the rules, to the endpoints'. The rows:

- forwarding: no rules and no conntrack. What the sender and the two virtual cables cost is in every row;
- conntrack: each flow is tracked, and nothing else is done; the base of the last column;
- lbctl, one service: our rules for so many services, and all flows to the one in their middle;
- lbctl, all services: the same rules, and the flows scattered over all services, so that caches help less;
- list, last rule: one rule per service in one chain, and all flows to the last service: as written by hand
  for nftables, and as kube-proxy writes it for iptables;
- lbctl, 4 (64) endpoints: our rules for one service, to see what its endpoints cost (iptables only, where
  each is a rule);
- ladder of 64: the same with one rule after the other, each with an nth of its own (iptables only).

A run counts only if the endpoints' side received every packet, which nothing but a rewritten address routes
there, and if conntrack holds exactly one entry for each. The figure of a run is the median of its batches, so
that a moment in which the machine did something else does not count; that of a row is the median of its runs.
All rows take turns, each round in another order. Ratios are medians of the rounds' ratios: where the machine
is slower for a while, that hits both sides of most. "fastest" is the least of a row's runs, nearer to what an
idle machine gives. Exits with 1 where a ratio is beyond its bar.
"""

from __future__ import annotations

import argparse
import ipaddress
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sides import ENDPOINTS, SIDES, Side, intent_text

from lbctl.config import loads
from lbctl.host import LocalHost
from lbctl.host.netns import Namespace

SENDER = Path(__file__).with_name("datapath_sender.c")
RUNS = 25
SIZES = (1, 100, 1_000, 10_000)
# Many short runs: a processor is a third slower while the other thread of its core is at work.
FLOWS = 4_000
# Short, so that few batches meet the end of a time slice on a busy machine.
BATCH = 25
# Of a long list, only so many flows as this time allows.
MILLISECONDS = 150

FIRST_SERVICE = ipaddress.IPv4Address("10.100.0.0")
ENDPOINT = ipaddress.IPv4Address("10.1.0.1")
NOBODY = "02:00:00:00:00:99"

TRACKED = "conntrack"
ONE = "lbctl, one service"
ALL = "lbctl, all services"
LIST = "list, last rule"
LADDER = 64
FEW, MANY = "lbctl, 4 endpoints", f"lbctl, {LADDER} endpoints"


@dataclass(frozen=True, slots=True, kw_only=True)
class Road:
    """Client, router and endpoints, joined in a row, with rules in the router."""

    client: Namespace
    router: Namespace
    #: The MAC address of the router's side towards the client.
    link: str
    #: A descriptor of the endpoints' counters.
    counters: int


@dataclass(slots=True, kw_only=True)
class Row:
    """A row of the result: flows to port 80 of `destinations` addresses from `destination` on."""

    what: str
    services: int
    road: Road
    destination: ipaddress.IPv4Address
    destinations: int = 1
    tracked: bool = True
    #: Nanoseconds for each new flow, one figure a run.
    runs: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.runs)

    def ratio(self, base: Row) -> float:
        return statistics.median(mine / other for mine, other in zip(self.runs, base.runs, strict=True))


def build(host: LocalHost, load_rules: Callable[[], None]) -> Road:
    """A road with the rules that `load_rules`, called within the router's namespace, loads."""
    client, router, endpoints = (Namespace(host) for _ in range(3))
    for namespace in (client, router, endpoints):
        # IPv6 greets its neighbours, which would be counted as arrivals.
        namespace.write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1")
    client.connect("out", router, "in")
    router.connect("out", endpoints, "arrival")
    router.write("/proc/sys/net/ipv4/ip_forward", "1")
    router.address("in", "10.9.255.254/16")
    router.address("out", "10.8.0.1/24")
    # To the endpoints' kernel the packets are another machine's: it counts them and drops them at once.
    router.ip("neighbour", "add", "10.8.0.2", "lladdr", NOBODY, "dev", "out", "nud", "permanent")
    router.ip("route", "add", "10.1.0.0/16", "via", "10.8.0.2")
    with router.entered():
        load_rules()
    with endpoints.entered():
        # Read through this descriptor, the file stays that of the endpoints' namespace.
        counters = os.open("/proc/thread-self/net/dev", os.O_RDONLY)
    [link] = json.loads(router.ip("-json", "link", "show", "dev", "in"))
    return Road(client=client, router=router, link=link["address"], counters=counters)


def measure(row: Row, sender: Path) -> float:
    """Nanoseconds for each new flow in one run; ends the program where the run cannot be trusted."""
    road, name = row.road, f"{row.what}, {row.services}"
    flows = ("arrival", row.destination, row.destinations, FLOWS, BATCH, MILLISECONDS)
    with road.client.entered():
        done = subprocess.run(
            [str(word) for word in (sender, "out", road.link, road.counters, *flows)],
            capture_output=True,
            text=True,
            pass_fds=[road.counters],
        )
    if done.returncode:
        sys.exit(f"{name}: {done.stderr.strip()}")
    batches = [tuple(map(int, line.split())) for line in done.stdout.splitlines()]
    sent = sum(packets for packets, _ in batches)
    with road.router.entered():
        tracked = int(Path("/proc/sys/net/netfilter/nf_conntrack_count").read_text())
    if row.tracked:
        # All namespaces share one table: flows left behind would burden the runs of others.
        road.router.run("conntrack", "--flush")
    if tracked != (sent if row.tracked else 0):
        sys.exit(f"{name}: {sent} flows sent, {tracked} in conntrack")
    return statistics.median(nanoseconds / packets for packets, nanoseconds in batches)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What is written by hand for a backend, and the bars that ours are held to."""

    #: Has each flow tracked, and nothing else.
    tracking: str
    #: One rule after the other for so many services.
    list: Callable[[int], str]
    #: One rule after the other for the endpoints of one service.
    ladder: str | None
    #: What is divided, by what, and the bar: at most the second number, or at least the first one.
    bars: tuple[tuple[tuple[str, int], tuple[str, int], float | None, float | None], ...]


def nftables_list(services: int) -> str:
    """One rule per service. All share a map of endpoints: one in each rule would be slow to load."""
    slots = ", ".join(f"{i} : {ENDPOINT + i} . 8000" for i in range(ENDPOINTS))
    pick = f"dnat to numgen inc mod {ENDPOINTS} map @endpoints"
    return "\n".join(
        [
            "table ip flat {",
            "\tmap endpoints {",
            f"\t\ttypeof numgen inc mod {ENDPOINTS} : ip daddr . udp dport",
            f"\t\telements = {{ {slots} }}",
            "\t}",
            "\tchain prerouting {",
            "\t\ttype nat hook prerouting priority -100",
            *(f"\t\tip daddr {FIRST_SERVICE + i} udp dport 80 {pick}" for i in range(services)),
            "\t}",
            "}\n",
        ]
    )


def kube_proxy(services: int) -> str:
    """Services and endpoints as kube-proxy's mode iptables writes them: a chain for each of both."""
    chains, rules = ["KUBE-SERVICES"], ["-A PREROUTING -j KUBE-SERVICES"]
    for i in range(services):
        name = f"default/s{i}:dns"
        asked = f"-d {FIRST_SERVICE + i}/32 -p udp -m comment --comment {name} -m udp --dport 80"
        rules.append(f"-A KUBE-SERVICES {asked} -j KUBE-SVC-{i:016}")
        chains.append(f"KUBE-SVC-{i:016}")
        for j in range(ENDPOINTS):
            to, end = f"{ENDPOINT + j}:8000", f"KUBE-SEP-{i:010}{j:06}"
            chance = f"-m statistic --mode random --probability {1 / (ENDPOINTS - j):.11f} "
            last = j == ENDPOINTS - 1
            about = f"-m comment --comment {name}->{to}"
            rules.append(f"-A KUBE-SVC-{i:016} {about} {'' if last else chance}-j {end}")
            rules.append(f"-A {end} -p udp -m comment --comment {name} -m udp -j DNAT --to-destination {to}")
            chains.append(end)
    return "\n".join(["*nat", *(f":{chain} - [0:0]" for chain in chains), *rules, "COMMIT\n"])


def plain_ladder() -> str:
    """One service with many endpoints in one chain, one rule after the other."""
    asked = f"-d {FIRST_SERVICE}/32 -p udp -m udp --dport 80"
    rules = [f"-A PREROUTING {asked} -j LADDER"]
    for i in range(LADDER):
        every = f"-m statistic --mode nth --every {LADDER - i} --packet 0"
        rules.append(f"-A LADDER -p udp {every} -j DNAT --to-destination {ENDPOINT + i}:8000")
    return "\n".join(["*nat", ":LADDER - [0:0]", *rules, "COMMIT\n"])


MOST = max(SIZES)
RULES = {
    "nftables": Rules(
        tracking="""\
table ip plain {
	chain prerouting {
		type filter hook prerouting priority -100
		ct state new
	}
}
""",
        list=nftables_list,
        ladder=None,
        bars=(((ONE, MOST), (ONE, 1), None, 1.5),),
    ),
    "iptables": Rules(
        tracking="*mangle\n-A PREROUTING -m conntrack --ctstate NEW\nCOMMIT\n",
        list=kube_proxy,
        ladder=plain_ladder(),
        bars=(
            ((ONE, MOST), (ONE, 1), None, 2.5),
            ((LIST, MOST), (ONE, MOST), 3.5, None),
            ((MANY, 1), (FEW, 1), None, 1.3),
        ),
    ),
}


def rows(host: LocalHost, side: Side, rules: Rules) -> list[Row]:
    def road(text: str) -> Road:
        return build(host, lambda: side.load(host, text) if text else None)

    def ours(services: int, endpoints: int = ENDPOINTS) -> Road:
        intent = loads(intent_text(services, endpoints=endpoints, protocol="udp"))
        return road(side.script(host, intent))

    def one(what: str, services: int, through: Road, at: int = 0) -> Row:
        return Row(what=what, services=services, road=through, destination=FIRST_SERVICE + at)

    result = [
        Row(what="forwarding", services=0, road=road(""), destination=ENDPOINT, tracked=False),
        Row(what=TRACKED, services=0, road=road(rules.tracking), destination=ENDPOINT),
    ]
    roads = {services: ours(services) for services in SIZES}
    result += [one(ONE, services, through, services // 2) for services, through in roads.items()]
    result += [
        Row(what=ALL, services=services, road=through, destination=FIRST_SERVICE, destinations=services)
        for services, through in roads.items()
        if services > 1
    ]
    result += [one(LIST, services, road(rules.list(services)), services - 1) for services in SIZES]
    if rules.ladder:
        result += [one(FEW, 1, ours(1, 4)), one(MANY, 1, ours(1, LADDER))]
        result.append(one(f"ladder of {LADDER}", 1, road(rules.ladder)))
    return result


def main(backend: str, runs: int) -> int:
    with tempfile.TemporaryDirectory() as name:
        sender = Path(name) / "sender"
        subprocess.run(["gcc", "-O2", "-o", str(sender), str(SENDER)], check=True)
        table = rows(LocalHost(), SIDES[backend], RULES[backend])
        for _ in range(runs):
            for row in random.sample(table, len(table)):
                row.runs.append(measure(row, sender))
    by_name = {(row.what, row.services): row for row in table}
    print(f"{backend}: a new flow, medians of {runs} runs of up to {FLOWS} flows; {ENDPOINTS} endpoints each")
    show(table, by_name)
    missed = [bar for bar in RULES[backend].bars if not held(by_name, *bar)]
    return 1 if missed else 0


def show(table: list[Row], by_name: Mapping[tuple[str, int], Row]) -> None:
    tracking = by_name[TRACKED, 0]
    print(f"{'':20}{'services':>10}{'µs a flow':>11}{'fastest':>9}{'of 1 service':>14}{'of conntrack':>14}")
    for row in table:
        # Held against the same kind of rules for one service; for all services too, that is our one.
        least = by_name.get((row.what, 1), by_name[ONE, 1])
        cells = f"{row.what:20}{row.services or '':>10}{row.median / 1000:11.2f}{min(row.runs) / 1000:9.2f}"
        cells += f"{row.ratio(least):14.2f}" if row.services else f"{'':14}"
        print(f"{cells}{row.ratio(tracking):14.2f}")


def held(
    by_name: Mapping[tuple[str, int], Row],
    over: tuple[str, int],
    under: tuple[str, int],
    least: float | None,
    most: float | None,
) -> bool:
    """True where a ratio is within its bar; prints both."""
    ratio = by_name[over].ratio(by_name[under])
    met = (least is None or ratio >= least) and (most is None or ratio <= most)
    bar = f"at least {least}" if most is None else f"at most {most}"
    names = " / ".join(f"{what} ({services})" for what, services in (over, under))
    print(f"bar: {names}: {ratio:.2f}, {bar}: {'met' if met else 'MISSED'}")
    return met


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--backend", choices=SIDES, default="nftables")
    parser.add_argument("runs", metavar="RUNS", type=int, nargs="?", default=RUNS)
    arguments = parser.parse_args()
    sys.exit(main(arguments.backend, arguments.runs))
