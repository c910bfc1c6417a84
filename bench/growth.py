"""What many services cost as rules, in each layout of `layouts`: load, change, list, memory, a new flow.

Each layout has a router of its own for each number of services. Loads, lists and changes are whole runs of
the tool, and changes replace the address of one endpoint. A change by lbctl is a call of its Python API with
a session kept, plan and verification included; for other layouts the text is prepared. Memory is what the
kernel uses more after the load.

Then the cost of a new flow, compared with conntrack alone. UDP packets, each of a flow of its own, go from a
client's namespace through the router's to the endpoints'. All flows of a layout go to one service: the middle
one for lbctl, the last one for the other layouts, which a list finds last. Beside the layouts:

- forwarding: no rules and no conntrack. What the sender and the two virtual cables cost is in every row;
- conntrack: each flow is tracked, and nothing else is done;
- scattered: lbctl, with the flows scattered over all services, so that caches help less;
- 4 (64) endpoints: lbctl with one service, to see what endpoints cost (iptables only: each is a rule there);
- ladder of 64: the same with one rule after the other, each with an nth of its own.

A run counts only if the endpoints' side received every packet, which nothing but a rewritten address routes
there, and if conntrack holds exactly one entry for each. The figure of a run is the median of its batches, so
that a moment in which the machine did something else does not count. All rows take turns, each round in
another order.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from ipaddress import IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING, Any

import layouts
from layouts import ENDPOINT, FIRST_SERVICE, IPVS, LADDER, LAYOUTS, OURS, Layout
from programs import Programs
from sides import ENDPOINTS, SIDES, moved
from timing import Spent, fresh, kernel_memory, rounded, run, timed

from lbctl.engine import Session, apply, open_session, plan
from lbctl.host import LocalHost
from lbctl.host.netns import Namespace, PrivateHost

if TYPE_CHECKING:
    from sizes import Size

    from lbctl.model import Intent

# Short, so that few batches meet the end of a time slice on a busy machine.
BATCH = 25
NOBODY = "02:00:00:00:00:99"
FORWARDING, TRACKED, SCATTERED = "forwarding", "conntrack", "lbctl, scattered"
FEW, MANY, LADDERED = "lbctl, 4 endpoints", f"lbctl, {LADDER} endpoints", f"ladder of {LADDER}"
RUNS_OF_A_LOAD = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Road:
    """Client, router and endpoints, joined in a row, with rules in the router."""

    client: Namespace
    router: Namespace
    endpoints: Namespace
    #: The MAC address of the router's side towards the client.
    link: str
    #: A descriptor of the endpoints' counters.
    counters: int

    def close(self) -> None:
        os.close(self.counters)
        for namespace in (self.client, self.router, self.endpoints):
            namespace.close()


@dataclass(slots=True, kw_only=True)
class Row:
    """A row of the result: flows to port 80 of `destinations` addresses from `destination` on."""

    what: str
    services: int
    road: Road
    destination: IPv4Address
    destinations: int = 1
    tracked: bool = True
    #: The interface whose counter shows how many packets have arrived.
    arrival: str = "arrival"
    #: What else was measured of these rules.
    costs: dict[str, Any] = field(default_factory=dict)
    #: Nanoseconds for each new flow, one figure a run.
    runs: list[float] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        return {"what": self.what, "services": self.services, **self.costs, "flow_ns": rounded(self.runs)}


def build(host: LocalHost, load_rules: Callable[[], None]) -> Road:
    """Return a road with the rules that `load_rules`, called in the router's namespace, loads."""
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
    return Road(client=client, router=router, endpoints=endpoints, link=link["address"], counters=counters)


def measure(row: Row, sender: Path, size: Size) -> float:
    """Return nanoseconds for each new flow in one run; end the part if the run cannot be trusted."""
    road, name = row.road, f"{row.what}, {row.services}"
    flows = (row.arrival, row.destination, row.destinations, size.flows, BATCH, size.flow_milliseconds)
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
        # All namespaces share one table: flows left behind would slow other runs down.
        road.router.run("conntrack", "--flush")
    if tracked != (sent if row.tracked else 0):
        sys.exit(f"{name}: {sent} flows sent, {tracked} in conntrack")
    return statistics.median(nanoseconds / packets for packets, nanoseconds in batches)


def applied(session: Session, intent: Intent) -> None:
    apply(session, (plan(session, intent),))


@dataclass(slots=True, kw_only=True)
class Bench:
    """The rows of one backend, and how they are measured."""

    backend: str
    size: Size
    sender: Path
    folder: Path
    host: LocalHost = field(default_factory=LocalHost)
    rows: list[Row] = field(default_factory=list)
    #: Layout → why a number of services was not tried.
    left_out: dict[str, str] = field(default_factory=dict)
    #: Those of the backend, if none are named.
    layouts: Sequence[Layout] = ()

    def __post_init__(self) -> None:
        self.layouts = self.layouts or LAYOUTS[self.backend]

    def load_text(self, text: str) -> None:
        """Load rules that are not measured, in the current namespace."""
        if text:
            SIDES[self.backend].load(self.host, text)

    def add(self, what: str, services: int, road: Road, destination: IPv4Address, **options: Any) -> Row:
        row = Row(what=what, services=services, road=road, destination=destination, **options)
        self.rows.append(row)
        return row

    def plain_rows(self) -> None:
        """Add what layouts are compared with."""
        for what, text in ((FORWARDING, ""), (TRACKED, layouts.TRACKING[self.backend])):
            road = build(self.host, partial(self.load_text, text))
            self.add(what, 0, road, ENDPOINT, tracked=bool(text))
        if self.backend == "iptables":
            texts = {FEW: layouts.ours("iptables", 1, 4), MANY: layouts.ours("iptables", 1, LADDER)}
            for what, text in {**texts, LADDERED: layouts.iptables_ladder()}.items():
                self.add(what, 1, build(self.host, partial(self.load_text, text)), FIRST_SERVICE)

    def layout_rows(self, layout: Layout) -> None:
        """One layout at all sizes, until one would take too long."""
        last: tuple[int, float] | None = None
        for services in self.size.scales:
            # Some grow by the square of their number.
            expected = last[1] * (services / last[0]) ** 2 if last and last[0] >= 100 else 0
            if expected > self.size.load_limit and layout.name != OURS:
                self.left_out[layout.name] = f"{services:,} services, whose load might take {expected:.0f} s"
                return
            row = self.laid_out(layout, services)
            last = services, row.costs["load"]["cpu"][0]
            if layout.name == OURS and services == max(self.size.scales):
                self.add(SCATTERED, services, row.road, FIRST_SERVICE, destinations=services)

    def laid_out(self, layout: Layout, services: int) -> Row:
        """A layout at one size: loaded, weighed, listed."""
        file = self.folder / f"{layout.name}-{services}"
        file.write_text(layout.text(services))
        load, listing, weight = Spent(), Spent(), 0

        def timed_load() -> None:
            nonlocal weight
            before = kernel_memory()
            run(load, *layout.tool.load, stdin=file)
            weight = kernel_memory() - before

        road = build(self.host, timed_load)
        while sum(load.wall) < self.size.load_enough and len(load.wall) < RUNS_OF_A_LOAD:
            with fresh(self.host):
                run(load, *layout.tool.load, stdin=file)
        with road.router.entered():
            run(listing, *layout.tool.list)
        if layout.name == IPVS:
            road.router.ip("route", "add", "local", f"{FIRST_SERVICE}/16", "dev", "lo")
        at = services // 2 if layout.name == OURS else services - 1
        costs = {"load": load.as_json(), "list": listing.as_json(), "memory": weight}
        return self.add(
            layout.name, services, road, layouts.address(at), tracked=layout.name != IPVS, costs=costs
        )

    def change(self, layout: Layout, row: Row) -> None:
        """Move one endpoint of a few services, one after the other; of one, where that takes long."""
        spent = Spent()
        numbers = sorted({0, row.services // 3, row.services // 2})
        with row.road.router.entered():
            if layout.change is None:
                session = open_session(PrivateHost(), backend=self.backend, driver=SIDES[self.backend].driver)
                intent = layouts.intent(row.services)
                if plan(session, intent).changed:
                    sys.exit(f"{self.backend}, {row.services}: what was loaded is not what lbctl would apply")
                for number in range(len(numbers)):
                    intent = moved(intent, number)
                    spent.note(*timed(partial(applied, session, intent)))
            else:
                listed = subprocess.run(layout.tool.list, check=True, capture_output=True, text=True).stdout
                file = self.folder / "change"
                for number in numbers:
                    file.write_text(layout.change(number, listed))
                    run(spent, *layout.tool.load, stdin=file)
                    if spent.cpu[0] > self.size.load_enough:
                        break
        row.costs["change"] = spent.as_json()

    def measure(self) -> dict[str, Any]:
        self.plain_rows()
        for layout in self.layouts:
            self.layout_rows(layout)
        for _ in range(self.size.flow_runs):
            for row in random.sample(self.rows, len(self.rows)):
                row.runs.append(measure(row, self.sender, self.size))
        by_name = {layout.name: layout for layout in self.layouts}
        for row in self.rows:
            if row.what in by_name:
                self.change(by_name[row.what], row)
        for road in {id(row.road): row.road for row in self.rows}.values():
            road.close()
        return {
            "layouts": {layout.name: layout.about for layout in self.layouts},
            "left_out": self.left_out,
            "rows": [row.as_json() for row in self.rows],
        }


def part(size: Size, programs: Programs, folder: Path) -> dict[str, Any]:
    """Backend → its rows."""
    no_ipvs = layouts.no_ipvs()
    backends = ["nftables", "iptables", *([] if no_ipvs else ["ipvs"])]
    return {
        "endpoints": ENDPOINTS,
        "flows": size.flows,
        "no_ipvs": no_ipvs,
        "backends": {
            backend: Bench(backend=backend, size=size, sender=programs.sender, folder=folder).measure()
            for backend in backends
        },
    }
