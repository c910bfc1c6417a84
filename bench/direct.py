"""Direct server return: what a packet costs, how exact shares are, and what changes lose.

Cost: packets go from a client's namespace through the balancer's to the endpoints', as in `growth`; each is a
flow of its own. What the sender and the balancer's receiving cost is the row `dropped` (at the ingress of the
balancer), and is taken off all others of the same protocol. Packets of TCP are those of established
connections; datagrams are new flows, and are counted.

- forwarding: the kernel routes, without rules and connection tracking, and with the settings that it has;
- forwarding, tuned: no look-up of a local socket for each packet (`ip_early_demux`), no redirects;
- source-hash, Maglev: direct return without state;
- translated: lbctl's DNAT, each flow new;
- round robin: direct return by a learned map, each flow new; and the same once the flows are known.

With two links, packets arrive on one and leave by the other. With one link they leave where they arrived, as
on a balancer with one interface; a kernel that forwards then looks whether it has to send an ICMP redirect.

All rows take turns, each round in another order; a figure is the median of the batches of a run.

Shares and changes: connections of real clients over a switch to three servers, which have the service's
address and reply directly. How many each server got is what its kernel counts as opened by others.
"""

from __future__ import annotations

import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any

import layouts
from growth import BATCH, NOBODY, Road, build
from layouts import ENDPOINT, FIRST_SERVICE
from programs import Programs, running
from sides import ENDPOINTS, SIDES
from timing import rounded
from traffic import Clients, Load, Site, Traffic

from lbctl.engine import apply, open_session, plan
from lbctl.host import LocalHost
from lbctl.host.netns import Namespace, PrivateHost
from lbctl.model import Endpoint, Forward, Hop, Intent, Listener, Protocol, Scheduler, Service

if TYPE_CHECKING:
    from sizes import Size

DROPPED, FORWARDING, TUNED, TRANSLATED = "dropped", "forwarding", "forwarding, tuned", "translated"
HASH, MAGLEV, LEARNED, KNOWN = "source-hash", "maglev", "round-robin", "round-robin, known flows"
DROP = (
    'table netdev plain {\n\tchain ingress {\n\t\ttype filter hook ingress device "in" priority 0\n'
    "\t\tip protocol { tcp, udp } drop\n\t}\n}\n"
)
SCHEDULERS = {
    HASH: Scheduler.SOURCE_HASH,
    MAGLEV: Scheduler.MAGLEV,
    LEARNED: Scheduler.ROUND_ROBIN,
    KNOWN: Scheduler.ROUND_ROBIN,
}
#: The balancer's MAC address, and a router on the link of the clients.
OWN, BESIDE = "02:00:00:00:00:01", "10.9.200.2"
SERVICE, PORT, SERVERS = "192.0.2.200", 80, 3
#: Seconds between a change and the next one.
PAUSE = 0.02


@dataclass(slots=True, kw_only=True)
class Row:
    """One kind of rules, and what a packet costs with them."""

    what: str
    services: int
    road: Road
    destination: IPv4Address
    #: Packets of established connections, or datagrams.
    protocol: Protocol
    #: How many links of the balancer a packet passes: endpoints are behind another one, or behind the same.
    links: int
    #: A map that is emptied before each run, so that all flows are new.
    emptied: str = ""
    #: Nanoseconds for each packet, one figure a run.
    runs: list[float] = field(default_factory=list)

    @property
    def arrival(self) -> str:
        """The interface at which the kernel counts the packets that have passed."""
        if self.what == DROPPED:
            return "in"
        return "out" if self.links == 1 else "arrival"


def direct(number: int, scheduler: Scheduler, protocol: Protocol, links: int) -> Service:
    """A service of `growth` that is not translated."""
    places = [ip_address(f"10.8.0.{n + 11}") for n in range(ENDPOINTS)]
    device = "in" if links == 1 else "out"
    return Service(
        name=f"s{number}",
        listeners=(Listener(protocol=protocol, port=80, address=layouts.address(number)),),
        endpoints=tuple(Endpoint(address=each) for each in places),
        scheduler=scheduler,
        local_clients=False,
        forward=Forward.DSR,
        interfaces=() if links == 1 else ("in",),
        hops=frozenset(Hop(address=each, device=device, source=OWN, mac=NOBODY) for each in places),
    )


def behind_one_link(road: Road) -> Road:
    """The same with the endpoints behind the clients' link: packets go back where they came from."""
    road.router.ip("neighbour", "add", BESIDE, "lladdr", NOBODY, "dev", "in", "nud", "permanent")
    road.router.ip("route", "replace", "10.1.0.0/16", "via", BESIDE, "dev", "in")
    return counted_in(road, road.client)


def counted_in(road: Road, namespace: Namespace) -> Road:
    """The same with the counters of another namespace."""
    with namespace.entered():
        counters = os.open("/proc/thread-self/net/dev", os.O_RDONLY)
    os.close(road.counters)
    return replace(road, counters=counters)


class Cost:
    """Measures what a packet costs."""

    def __init__(self, size: Size, sender: Path) -> None:
        self._size, self._sender, self._host = size, sender, LocalHost()
        self._rows: list[Row] = []

    def _add(
        self,
        what: str,
        text: str,
        destination: IPv4Address,
        protocol: Protocol,
        *,
        links: int = 2,
        services: int = 0,
    ) -> Row:
        road = build(self._host, lambda: self._load(text))
        if what == DROPPED:
            road = counted_in(road, road.router)
        elif links == 1:
            road = behind_one_link(road)
        if what == TUNED:
            for name in ("ip_early_demux", "conf/all/send_redirects", "conf/in/send_redirects"):
                road.router.write(f"/proc/sys/net/ipv4/{name}", "0")
        row = Row(
            what=what,
            services=services,
            road=road,
            destination=destination,
            protocol=protocol,
            links=links,
        )
        self._rows.append(row)
        return row

    def _load(self, text: str) -> None:
        if text:
            SIDES["nftables"].load(self._host, text)

    def _direct(self, what: str, protocol: Protocol, *, links: int = 2, services: int = 1) -> None:
        at = layouts.address(services // 2)
        row = self._add(what, "", at, protocol, links=links, services=services)
        with row.road.router.entered():
            each = (direct(number, SCHEDULERS[what], protocol, links) for number in range(services))
            self._load(SIDES["nftables"].script(self._host, Intent(services=tuple(each))))
        if what == LEARNED:
            row.emptied = f"flows-udp-s{services // 2}"

    def measure(self) -> dict[str, Any]:
        many = max(self._size.scales)
        for protocol in (Protocol.TCP, Protocol.UDP):
            self._add(DROPPED, DROP, ENDPOINT, protocol)
            for what in (FORWARDING, TUNED):
                self._add(what, "", ENDPOINT, protocol)
            for what in (HASH, MAGLEV):
                self._direct(what, protocol)
        for what in (FORWARDING, TUNED):
            self._add(what, "", ENDPOINT, Protocol.TCP, links=1)
        for what in (HASH, MAGLEV):
            self._direct(what, Protocol.TCP, links=1)
        self._direct(HASH, Protocol.TCP, services=many)
        self._add(TRANSLATED, layouts.ours("nftables", 1), FIRST_SERVICE, Protocol.UDP, services=1)
        self._direct(LEARNED, Protocol.UDP)
        self._direct(KNOWN, Protocol.UDP)
        for row in self._rows:
            if row.what == KNOWN:
                self._run(row)
        for _ in range(self._size.flow_runs):
            for row in random.sample(self._rows, len(self._rows)):
                row.runs.append(self._run(row))
        for road in (row.road for row in self._rows):
            road.close()
        floors = {row.protocol: statistics.median(row.runs) for row in self._rows if row.what == DROPPED}
        return {"rows": [self._found(row, floors[row.protocol]) for row in self._rows]}

    @staticmethod
    def _found(row: Row, floor: float) -> dict[str, Any]:
        return {
            "what": row.what,
            "services": row.services,
            "protocol": str(row.protocol),
            "links": row.links,
            "packet_ns": rounded(row.runs),
            "above_floor_ns": round(statistics.median(row.runs) - floor),
        }

    def _run(self, row: Row) -> float:
        road, size = row.road, self._size
        if row.emptied:
            road.router.run("nft", "flush", "map", "netdev", "lbctl.ip", row.emptied)
        flows = (row.destination, 1, size.flows, BATCH, size.flow_milliseconds, row.protocol)
        with road.client.entered():
            done = subprocess.run(
                [str(word) for word in (self._sender, "out", road.link, road.counters, row.arrival, *flows)],
                capture_output=True,
                text=True,
                pass_fds=[road.counters],
            )
        if done.returncode:
            sys.exit(f"{row.what}, {row.services}: {done.stderr.strip()}")
        with road.router.entered():
            tracked = int(Path("/proc/sys/net/netfilter/nf_conntrack_count").read_text())
        if row.what == TRANSLATED:
            road.router.run("conntrack", "--flush")
        elif tracked:
            sys.exit(f"{row.what}, {row.services}: {tracked} flows in conntrack")
        batches = [tuple(map(int, line.split())) for line in done.stdout.splitlines()]
        return statistics.median(nanoseconds / packets for packets, nanoseconds in batches)


class Segment:
    """A client, a balancer and servers on a switch. Use as a context manager."""

    def __init__(self, programs: Programs) -> None:
        self._programs, self._stack = programs, ExitStack()

    def __enter__(self) -> Segment:
        host = LocalHost()
        switch, self.client, self.balancer, *self.servers = (Namespace(host) for _ in range(3 + SERVERS))
        hosts = (self.client, self.balancer, *self.servers)
        for namespace in (switch, *hosts):
            self._stack.callback(namespace.close)
            namespace.write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1")
        switch.ip("link", "add", "switch", "type", "bridge")
        switch.ip("link", "set", "switch", "up")
        for number, namespace in enumerate(hosts, 1):
            switch.connect(f"port{number}", namespace, "eth0")
            switch.ip("link", "set", f"port{number}", "master", "switch")
            namespace.address("eth0", f"192.0.2.{number}/24")
        self.client.write("/proc/sys/net/ipv4/ip_local_port_range", "10000 65535")
        self.balancer.address("eth0", f"{SERVICE}/32")
        for server in self.servers:
            server.write("/proc/sys/net/ipv4/conf/all/arp_ignore", "1")
            server.write("/proc/sys/net/ipv4/conf/all/arp_announce", "2")
            server.address("lo", f"{SERVICE}/32")
            self._stack.enter_context(running(server, [str(self._programs.server), str(PORT)]))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def opened(self) -> list[int]:
        """How many connections each server has accepted so far."""
        return [_passive_opens(server) for server in self.servers]

    def start(self, load: Load) -> Clients:
        return Site.start(self, load, (f"{SERVICE}:{PORT}",))  # type: ignore[arg-type]

    @property
    def programs(self) -> Programs:
        return self._programs

    @contextmanager
    def balanced(self, scheduler: Scheduler) -> Iterator[Callable[[Sequence[int]], None]]:
        """Have servers balanced by lbctl; yields what changes their weights: 0 takes one out."""
        with self.balancer.entered():
            session = open_session(PrivateHost(), backend="nftables", driver="libnftables")

        def change(weights: Sequence[int]) -> None:
            service = Service(
                name="web",
                listeners=(Listener(protocol=Protocol.TCP, port=PORT, address=ip_address(SERVICE)),),
                endpoints=tuple(
                    Endpoint(address=ip_address(f"192.0.2.{number}"), weight=weight)
                    for number, weight in enumerate(weights, 3)
                    if weight
                ),
                scheduler=scheduler,
                local_clients=False,
                forward=Forward.DSR,
            )
            with self.balancer.entered():
                apply(session, (plan(session, Intent(services=(service,))),))

        change([1] * SERVERS)
        yield change


def _passive_opens(namespace: Namespace) -> int:
    with namespace.entered():
        lines = Path("/proc/thread-self/net/snmp").read_text().splitlines()
    names, numbers = (line.split() for line in lines if line.startswith("Tcp:"))
    return int(numbers[names.index("PassiveOpens")])


def shares(segment: Segment, scheduler: Scheduler, size: Size) -> dict[str, Any]:
    with segment.balanced(scheduler):
        before = segment.opened()
        traffic = segment.start(Load(requests=size.connections, concurrency=32)).wait()
        got = [now - was for now, was in zip(segment.opened(), before, strict=True)]
    return {**seen(traffic), "got": got}


def changes(segment: Segment, scheduler: Scheduler, size: Size) -> dict[str, Any]:
    """Weights and endpoints change while new connections arrive."""
    kinds = ([2, 1, 1], [1, 1, 0], [1, 3, 2], [1, 1, 1])
    with segment.balanced(scheduler) as change:
        clients = segment.start(Load(rate=size.rate, concurrency=4_000))
        for number in range(size.changes):
            time.sleep(PAUSE)
            change(kinds[number % len(kinds)])
        time.sleep(PAUSE)
        traffic = clients.stop()
    return {"changes": size.changes, **seen(traffic)}


def seen(traffic: Traffic) -> dict[str, Any]:
    return {"connections": traffic.counts["started"], "lost": traffic.lost}


def part(size: Size, programs: Programs, folder: Path) -> dict[str, Any]:  # noqa: ARG001 (each part's)
    """Cost, shares and changes."""
    found: dict[str, Any] = {"cost": Cost(size, programs.sender).measure(), "rate": size.rate}
    with Segment(programs) as segment:
        found["shares"] = shares(segment, Scheduler.ROUND_ROBIN, size)
        found["changes"] = {
            str(scheduler): changes(segment, scheduler, size) for scheduler in (Scheduler.ROUND_ROBIN,)
        }
    return found
