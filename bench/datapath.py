"""What a new flow costs on its way through our rules, held against conntrack alone and a list of rules.

    python bench/datapath.py [RUNS]           (as root; works in private network namespaces; needs gcc)

UDP packets, each of a flow of its own, go from a client's namespace through a router's, which holds the
rules, to the endpoints'. The rows:

- forwarding: no rules and no conntrack. What the sender and the two virtual cables cost is in every row;
- conntrack: each flow is tracked, and nothing else is done; the base of the last column;
- lbctl, one service: our rules for so many services, and all flows to the one in their middle;
- lbctl, all services: the same rules, and the flows scattered over all services, so that caches help less;
- list, last rule: one rule per service in one chain, as written by hand, and all flows to the last service.

A run counts only if the endpoints' side received every packet, which nothing but a rewritten address routes
there, and if conntrack holds exactly one entry for each. The figure of a run is the median of its batches, so
that a moment in which the machine did something else does not count; that of a row is the median of its runs.
All rows take turns, each round in another order. Ratios are medians of the rounds' ratios: where the machine
is slower for a while, that hits both sides of most. "fastest" is the least of a row's runs, nearer to what an
idle machine gives. Exits with 1 where a new flow through our rules for the most services costs more than 1.5
times as much as through those for one.
"""

from __future__ import annotations

import ipaddress
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from load import ENDPOINTS, intent_text

from lbctl.config import load
from lbctl.host import LocalHost
from lbctl.host.netns import Namespace
from lbctl_nftables import drivers
from lbctl_nftables.compile import compile_intent
from lbctl_nftables.probe import CAPABILITIES
from lbctl_nftables.script import render

SENDER = Path(__file__).with_name("datapath_sender.c")
LIMIT = 1.5
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

ONE = "lbctl, one service"
ALL = "lbctl, all services"


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


def ours(services: int) -> str:
    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / "lbctl.toml"
        file.write_text(intent_text(services).replace("/tcp", "/udp"))
        return render(compile_intent(load(file), CAPABILITIES))


def by_hand(services: int) -> str:
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


TRACKING = """\
table ip plain {
	chain prerouting {
		type filter hook prerouting priority -100
		ct state new
	}
}
"""


def rows(host: LocalHost) -> list[Row]:
    def road(text: str) -> Road:
        return build(host, lambda: drivers.load(host, "nft", text) if text else None)

    result = [
        Row(what="forwarding", services=0, road=road(""), destination=ENDPOINT, tracked=False),
        Row(what="conntrack", services=0, road=road(TRACKING), destination=ENDPOINT),
    ]
    roads = {services: road(ours(services)) for services in SIZES}
    for services, through in roads.items():
        middle = FIRST_SERVICE + services // 2
        result.append(Row(what=ONE, services=services, road=through, destination=middle))
    result += [
        Row(what=ALL, services=services, road=through, destination=FIRST_SERVICE, destinations=services)
        for services, through in roads.items()
        if services > 1
    ]
    for services in SIZES:
        last = FIRST_SERVICE + services - 1
        through = road(by_hand(services))
        result.append(Row(what="list, last rule", services=services, road=through, destination=last))
    return result


def main(runs: int) -> int:
    with tempfile.TemporaryDirectory() as name:
        sender = Path(name) / "sender"
        subprocess.run(["gcc", "-O2", "-o", str(sender), str(SENDER)], check=True)
        table = rows(LocalHost())
        for _ in range(runs):
            for row in random.sample(table, len(table)):
                row.runs.append(measure(row, sender))
    by_name = {(row.what, row.services): row for row in table}
    one, most, tracking = by_name[ONE, 1], by_name[ONE, max(SIZES)], by_name["conntrack", 0]
    print(f"a new flow, medians of {runs} runs of up to {FLOWS} flows; {ENDPOINTS} endpoints a service")
    print(f"{'':20}{'services':>10}{'µs a flow':>11}{'fastest':>9}{'of 1 service':>14}{'of conntrack':>14}")
    for row in table:
        # Held against the same kind of rules for one service; for all services too, that is our one.
        least = by_name.get((row.what, 1), one)
        cells = f"{row.what:20}{row.services or '':>10}{row.median / 1000:11.2f}{min(row.runs) / 1000:9.2f}"
        cells += f"{row.ratio(least):14.2f}" if row.services else f"{'':14}"
        print(f"{cells}{row.ratio(tracking):14.2f}")
    met = most.ratio(one) <= LIMIT
    print(f"target: with {most.services} services at most {LIMIT} of 1 service: {'met' if met else 'MISSED'}")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if sys.argv[1:] else RUNS))
