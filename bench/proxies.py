"""What balancing connections costs: lbctl, nftlb, HAProxy, nginx, Node's cluster, and none.

Three backend processes on a host, clients in another namespace, one for each processor, all on the same two
processors. Traffic of three kinds:

- new: a connection for each request, at the highest possible rate;
- keep-alive: requests over connections that stay, at the highest possible rate;
- paced: a connection for each request, at the same rate for all cases, for latencies that can be compared.

All cases take turns, each round in another order. CPU time is that of all processes that take part, and of
interrupts if the kernel counts them separately; the cost of balancing is what a case takes more than
`direct`, in which clients ask the backends themselves, round robin. "Direct, tracked" is the same on a host
whose kernel tracks connections, as every stateful firewall makes it: the least that balancing in the kernel
needs. That each request had a connection of its own is checked against the kernel's counters: of connections
that the clients' kernel opened, that the host's tracked (one per request if it tracks, else none) and that
the host's opened (one per request by proxies).
"""

from __future__ import annotations

import random
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layouts import TRACKING
from programs import SOURCES, Programs, running
from timing import descendants, own_memory
from traffic import BACKENDS, PORT, Load, Site, Traffic, targets
from ways import HAPROXY, LBCTL_IPTABLES, LBCTL_NFTABLES, NFTLB, NGINX, Balancer, Way

if TYPE_CHECKING:
    from sizes import Size

NODE = ("node", str(SOURCES / "node_server.js"))
NEW, KEEP, PACED = "new", "keep-alive", "paced"
#: Connections that the kernel of a machine with a gigabyte of memory tracks at once, and some less.
TRACKABLE = 60_000


@contextmanager
def unbalanced(_: Site, __: Sequence[int]) -> Iterator[Balancer]:
    """No balancing."""
    yield Balancer(change=lambda _: None)


@contextmanager
def cluster(site: Site, ports: Sequence[int]) -> Iterator[Balancer]:
    """Node's own balancing: one process accepts and hands connections to its children, the backends."""
    with running(site.host, [*NODE, str(PORT), *map(str, ports)]) as process:
        yield Balancer(change=lambda _: None, pids=lambda: descendants(process.pid))


@contextmanager
def tracker(site: Site, _: Sequence[int]) -> Iterator[Balancer]:
    """No balancing, but a rule that asks for a connection's state."""
    site.host.run("nft", "-f", "-", stdin=TRACKING["nftables"])
    yield Balancer(change=lambda _: None)


DIRECT = Way(name="direct", changed_by="", start=unbalanced)
TRACKED = Way(name="direct, tracked", changed_by="", start=tracker)
CLUSTER = Way(name="cluster", changed_by="", start=cluster)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A way, and who answers."""

    way: Way
    #: The command of each backend; empty for our own.
    backend: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return f"Node.js, {self.way.name}" if self.backend else self.way.name

    @property
    def base(self) -> Case:
        """The same backends without balancing."""
        return Case(way=DIRECT, backend=self.backend)

    @property
    def targets(self) -> Sequence[str]:
        return targets(BACKENDS) if self.way in (DIRECT, TRACKED) else targets()

    @property
    def tracks(self) -> bool:
        """Return True if the host's kernel keeps an entry for each connection."""
        return self.way in (TRACKED, LBCTL_NFTABLES, LBCTL_IPTABLES, NFTLB)

    @property
    def connects(self) -> bool:
        """Return True if a proxy on the host opens a connection for each that arrives."""
        return self.way in (HAPROXY, NGINX)


CASES = (
    *(Case(way=way) for way in (DIRECT, TRACKED, LBCTL_NFTABLES, LBCTL_IPTABLES, NFTLB, HAPROXY, NGINX)),
    *(Case(way=way, backend=NODE) for way in (DIRECT, LBCTL_NFTABLES, CLUSTER)),
)
CASES_BY_NAME = {case.name: case for case in CASES}


def missing(case: Case) -> str | None:
    if case.backend and not shutil.which(case.backend[0]):
        return f"{case.backend[0]} is not installed"
    return case.way.missing()


def measure(site: Site, case: Case, loads: dict[str, Load]) -> dict[str, Any]:
    """Return the figures of one round of one case, by kind of traffic."""
    found: dict[str, Any] = {}
    backends = () if case.way is CLUSTER else BACKENDS
    with site.backends(backends, *case.backend) as serving, case.way.start(site, BACKENDS) as balancer:
        for kind, load in loads.items():
            site.forget()
            opened = site.opened(site.client), site.opened(site.host)
            pids = balancer.pids()
            traffic = site.run(load, case.targets, serving, pids)
            tracked = site.tracked()
            opens = site.opened(site.client) - opened[0], site.opened(site.host) - opened[1]
            check(case, traffic, opens, tracked)
            found[kind] = {
                "per_second": round(traffic.counts["completed"] / traffic.elapsed),
                "p50_us": round(traffic.latency(0.5) * 1e6),
                "p99_us": round(traffic.latency(0.99) * 1e6),
                "cpu_us": round(traffic.cpu / traffic.counts["completed"] * 1e6, 2),
                "balancer_cpu_us": round(traffic.balancer_cpu / traffic.counts["completed"] * 1e6, 2),
                "lost": traffic.lost,
                "tracked": tracked,
            }
            if kind == NEW:
                found["memory"] = own_memory(pids) if pids else tracked * conntrack_entry()
    return found


def check(case: Case, traffic: Traffic, opens: tuple[int, int], tracked: int) -> None:
    """End the part if the kernel's counters contradict a run."""
    opened = traffic.counts["opened"]
    # The kernel may try a port again at once if the last connection with it is not over yet; and a port that
    # had a connection before has the same entry in the connection table for the next one.
    seen = (
        ("opened by clients", opens[0], opened, 0.98),
        ("opened by proxies", opens[1], opened * case.connects, 0.98),
        ("tracked", tracked, opened * case.tracks, 0.8),
    )
    for what, number, wanted, least in seen:
        if not least * wanted <= number <= 1.02 * wanted:
            sys.exit(f"{case.name}: {number} connections {what}, not {wanted}")


def conntrack_entry() -> int:
    """Bytes of the kernel's entry for a connection."""
    found = re.search(r"(?m)^nf_conntrack +\d+ +\d+ +(\d+)", Path("/proc/slabinfo").read_text())
    return int(found[1]) if found else 0


def part(size: Size, programs: Programs, folder: Path) -> dict[str, Any]:
    """Case → its rounds."""
    loads = {
        NEW: Load(milliseconds=size.traffic_milliseconds, requests=TRACKABLE),
        KEEP: Load(milliseconds=size.traffic_milliseconds // 2, keep=True),
        PACED: Load(milliseconds=size.traffic_milliseconds, rate=size.rate, concurrency=1_000),
    }
    absent = {case.name: why for case in CASES if (why := missing(case))}
    there = [case for case in CASES if case.name not in absent]
    cases: dict[str, Any] = {case.name: {"rounds": []} for case in there}
    for _ in range(size.rounds):
        for case in random.sample(there, len(there)):
            # A namespace once balanced in keeps tracking connections.
            with Site(programs, folder) as site:
                cases[case.name]["rounds"].append(measure(site, case, loads))
    return {"cases": cases, "absent": absent, "rate": size.rate, "concurrency": loads[NEW].concurrency}
