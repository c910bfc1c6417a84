"""Performance targets: ratios of one run, and a few limits of what lbctl may take; why one is missed."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import checking
import direct
import growth
import load
import nat
import peers
import proxies
import startup
from layouts import ANONYMOUS, KUBE, OURS
from sizes import CORE, CORE_SECONDS
from timing import median_ratio
from ways import HAPROXY, LBCTL_IPTABLES, LBCTL_NFTABLES, NGINX

#: The number of services that several targets are about.
MANY = 10_000


#: The load average from which on a machine does other work, and what that explains.
IDLE, BUSY = 1.0, "not explained; the machine did other work"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    title: str
    value: float
    limit: float
    at_least: bool = False
    unit: str = ""
    #: The size that the target is meant for, if the run was smaller.
    meant_for: str = ""
    #: What the figure consists of, if it misses the target.
    cause: str = ""

    @property
    def met(self) -> bool:
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    @property
    def verdict(self) -> str:
        return self.meant_for or ("met" if self.met else f"MISSED: {self.cause or 'not explained'}")

    @property
    def words(self) -> str:
        return f"at {'least' if self.at_least else 'most'} {self.limit:g}{self.unit}"


def column(part: dict[str, Any], case: str, kind: str, what: str) -> list[float]:
    """A figure of each round of a case of the proxies."""
    return [one[kind][what] for one in part["cases"][case]["rounds"]]


def balancing(part: dict[str, Any], case: str, kind: str) -> float:
    """Return microseconds of CPU time for each request that a case takes more than without balancing."""
    base = proxies.CASES_BY_NAME[case].base.name
    pairs = zip(column(part, case, kind, "cpu_us"), column(part, base, kind, "cpu_us"), strict=True)
    return statistics.median(mine - other for mine, other in pairs)


def of_proxies(part: dict[str, Any]) -> Iterator[Target]:
    ours, new = LBCTL_NFTABLES.name, proxies.NEW
    rate = {case: column(part, case, new, "per_second") for case in part["cases"]}
    tracked = median_ratio(rate[proxies.TRACKED.name], rate[proxies.DIRECT.name])
    tracking = f"tracking alone, which NAT needs, leaves {tracked:.2f}"
    for other, limit, cause in ((proxies.DIRECT, 0.9, tracking), (HAPROXY, 1.8, ""), (NGINX, 1.8, "")):
        if other.name in rate:
            yield Target(
                title=f"new connections/s: {ours} / {other.name}",
                value=median_ratio(rate[ours], rate[other.name]),
                limit=limit,
                at_least=True,
                cause=cause,
            )
    for other in (HAPROXY, NGINX):
        if other.name in rate:
            yield Target(
                title=f"CPU time of balancing a connection: {ours} / {other.name}",
                value=balancing(part, ours, new) / balancing(part, other.name, new),
                limit=0.15,
                cause=f"tracking alone takes {balancing(part, proxies.TRACKED.name, new):.1f} µs of "
                f"{balancing(part, ours, new):.1f} µs",
            )


def of_nftlb(part: dict[str, Any]) -> Iterator[Target]:
    if "absent" in part:
        return
    most = max(row["services"] for row in part["loads"])
    for row in part["loads"]:
        if row["services"] == most:
            cpu = {side: statistics.median(took["cpu"]) for side, took in row["sides"].items()}
            yield Target(
                title=f"load, {row['what']}, {most:,} services: {peers.NFTABLES} / nftlb",
                value=cpu[peers.NFTABLES] / cpu[peers.NFTLB],
                limit=1,
                meant_for="" if most >= 1000 else "meant for 1,000 services",
            )
    above = peers.above_receiving(part)
    for what in (kind.name for kind in peers.KINDS):
        yield Target(
            title=f"CPU time of a new flow, {what}: {peers.NFTABLES} / nftlb",
            value=above[what, peers.NFTABLES, 1] / above[what, peers.NFTLB, 1],
            limit=1,
        )


def of_changes(part: dict[str, Any]) -> Iterator[Target]:
    for way in (LBCTL_NFTABLES, LBCTL_IPTABLES):
        found = part["changes"][way.name]
        title = f"connections lost in {found['changes']} changes: {way.name}"
        yield Target(title=title, value=sum(found["lost"].values()), limit=0)


def meant_for(services: int) -> str:
    return "" if services >= MANY else f"meant for {MANY:,} services"


def of_load(part: dict[str, Any]) -> Iterator[Target]:
    def ratio(backend: str, over: str, under: str) -> float:
        rows = part["backends"][backend]
        return median_ratio(rows[over]["cpu"], rows[under]["cpu"])

    for backend, over, under, limit in (
        ("nftables", load.KERNEL, load.TOOL, 1.3),
        ("nftables", load.FIRST, load.KERNEL, 3),
        ("nftables", load.DELTA, load.FIRST, 0.8),
        ("nftables", load.SAME, load.READING, 1),
        ("iptables", load.KERNEL, load.TOOL, 1.3),
        ("iptables", load.FIRST, load.TOOL, 4),
    ):
        yield Target(
            title=f"{backend}, {part['services']:,} services: {over} / {under}",
            value=ratio(backend, over, under),
            limit=limit,
            meant_for=meant_for(part["services"]),
        )
    seconds = statistics.median(part["backends"]["nftables"][load.IN_MEMORY]["cpu"])
    yield Target(
        title=f"nftables, {part['services']:,} services: {load.IN_MEMORY}",
        value=seconds * 1000,
        limit=40,
        unit=" ms",
        meant_for=meant_for(part["services"]),
    )


def rows_of(part: dict[str, Any], backend: str, what: str) -> dict[int, dict[str, Any]]:
    """Number of services → a row."""
    rows = part["backends"][backend]["rows"]
    return {row["services"]: row for row in rows if row["what"] == what}


def of_growth(part: dict[str, Any]) -> Iterator[Target]:
    ours = {backend: rows_of(part, backend, OURS) for backend in ("nftables", "iptables")}
    most = max(ours["nftables"])
    anonymous = rows_of(part, "nftables", ANONYMOUS)
    at = max(anonymous)
    yield Target(
        title=f"nftables, {at:,} services: load of an anonymous map per service / {OURS}",
        value=statistics.median(anonymous[at]["load"]["cpu"])
        / statistics.median(ours["nftables"][at]["load"]["cpu"]),
        limit=10,
        at_least=True,
        meant_for=meant_for(at),
    )
    for backend, limit in (("nftables", 1.5), ("iptables", 2.5)):
        value = median_ratio(ours[backend][most]["flow_ns"], ours[backend][1]["flow_ns"])
        yield Target(
            title=f"{backend}: a new flow with {most:,} services / one",
            value=value,
            limit=limit,
            meant_for=meant_for(most),
        )
    kube = rows_of(part, "iptables", KUBE)
    at = max(kube)
    yield Target(
        title=f"iptables, {at:,} services: a new flow through kube-proxy's list / {OURS}",
        value=median_ratio(kube[at]["flow_ns"], ours["iptables"][at]["flow_ns"]),
        limit=3.5,
        at_least=True,
        meant_for=meant_for(at),
    )
    many, few = (rows_of(part, "iptables", what)[1]["flow_ns"] for what in (growth.MANY, growth.FEW))
    yield Target(title="iptables: a new flow over 64 endpoints / 4", value=median_ratio(many, few), limit=1.3)


def of_checks(row: dict[str, Any]) -> Iterator[Target]:
    """Return the targets of a number of endpoints and a kind of check (% of a core, MB, a ratio)."""
    limits = {
        (checking.TCP, 1000): (18, 100, 2),
        (checking.HTTP, 1000): (None, None, 4),
        (checking.TCP, 10_000): (50, 250, None),
    }
    cpu, memory, ratio = limits.get((row["kind"], row["endpoints"]), (None, None, None))
    what = f"{row['endpoints']:,} endpoints, {row['kind']} every {row['interval'] / 1000:g} s"
    ours, proxy = row["sides"][checking.AGENT], row["sides"].get(checking.PROXY)
    if cpu is not None:
        yield Target(title=f"{what}: CPU", value=100 * statistics.median(ours["cpu"]), limit=cpu, unit=" %")
    if memory is not None:
        yield Target(title=f"{what}: memory", value=max(ours["memory"]) / 1e6, limit=memory, unit=" MB")
    if ratio is not None and proxy is not None:
        value = median_ratio(ours["cpu"], proxy["cpu"])
        yield Target(title=f"{what}: CPU, {checking.AGENT} / {checking.PROXY}", value=value, limit=ratio)


def of_agent(part: dict[str, Any]) -> Iterator[Target]:
    for row in part["checks"]:
        yield from of_checks(row)
    yield Target(
        title="agent at rest: CPU",
        value=100 * part["idle"],
        limit=0.5,
        unit=" %",
        cause="a wake-up of a Python process that has rested takes one to several ms on such a machine; "
        "it is woken for its checks and for a look, each 2 s",
    )
    for what, seconds, limit in (
        ("end of a local process to changed rules", part["local"], 150),
        ("failure of a remote endpoint to changed rules, beyond the settings", part["remote"]["beyond"], 200),
    ):
        yield Target(title=what, value=1000 * statistics.median(seconds), limit=limit, unit=" ms")
    changed = part["change"]
    yield Target(
        title=f"nftables, one of {changed['endpoints']:,} endpoints fails: CPU time of the agent",
        value=1000 * statistics.median(changed["cpu"]["nftables"]),
        limit=60,
        unit=" ms",
        meant_for=meant_for(changed["services"]),
        cause=f"of it, the agent at rest for 1.5 s takes {1500 * part['idle']:.0f} ms",
    )
    lost = sum(part["killed"][checking.AGENT]["after"]["lost"].values())
    yield Target(title="connections lost after the agent has seen a killed process", value=lost, limit=0)


def of_dsr(part: dict[str, Any]) -> Iterator[Target]:
    rows = {
        (row["what"], row["protocol"], row["links"], row["services"]): row["above_floor_ns"]
        for row in part["cost"]["rows"]
    }
    many = max(services for *_, services in rows)
    for links, protocol, text in (
        (1, "tcp", "a packet over one link"),
        (2, "tcp", "a packet over two links"),
        (2, "udp", "a datagram, counted,"),
    ):
        for what in (direct.HASH, direct.MAGLEV):
            yield Target(
                title=f"direct return, {what}: {text} / plain forwarding",
                value=rows[what, protocol, links, 1] / rows[direct.FORWARDING, protocol, links, 0],
                limit=1.0,
                cause="nf_tables' 12 steps for a packet, and 20 ns for the counter of its slot",
            )
    for what, limit in ((direct.HASH, 0.45), (direct.MAGLEV, 0.45), (direct.LEARNED, 0.65)):
        value = rows[what, "udp", 2, 1] / rows[direct.TRANSLATED, "udp", 2, 1]
        yield Target(title=f"direct return, {what}: a new flow / translated", value=value, limit=limit)
    yield Target(
        title=f"direct return: a packet with {many:,} services / 1",
        value=rows[direct.HASH, "tcp", 2, many] / rows[direct.HASH, "tcp", 2, 1],
        limit=1.2,
        meant_for=meant_for(many),
    )
    got = part["shares"]["got"]
    yield Target(
        title="direct return, round robin: connections off from equal shares", value=off(got), limit=0
    )
    lost = sum(sum(found["lost"].values()) for found in part["changes"].values())
    yield Target(title="direct return, round robin: connections lost in changes", value=lost, limit=0)


def off(got: Sequence[int]) -> int:
    """Return how many connections the servers are off, at most, from what a whole number of turns gives."""
    return max(0, max(got) - min(got) - 1)


def of_nat(part: dict[str, Any]) -> Iterator[Target]:
    for way, least, kind, limit in (
        (LBCTL_NFTABLES, nat.LEAST_NFT, proxies.NEW, 0.98),
        (LBCTL_NFTABLES, nat.LEAST_NFT, proxies.KEEP, 0.99),
        (LBCTL_IPTABLES, nat.LEAST_IPTABLES, proxies.NEW, 0.96),
        (LBCTL_IPTABLES, nat.LEAST_IPTABLES, proxies.KEEP, 0.97),
    ):
        most = statistics.median(nat.ratios(part, least.name, kind))
        beside = statistics.median(nat.ratios(part, way.name, kind, least.name))
        yield Target(
            title=f"CPU time, {kind}: direct, tracked / {way.name}",
            value=statistics.median(nat.ratios(part, way.name, kind)),
            limit=limit,
            at_least=True,
            cause=f"{least.name} alone has {most:.3f}; {least.name} / lbctl: {beside:.3f}",
        )


def of_startup(part: dict[str, Any]) -> Iterator[Target]:
    for command, sides in part["commands"].items():
        value = median_ratio(sides["lbctl"]["cpu"], sides[startup.TWO]["cpu"])
        yield Target(
            title=f"{command} / a trivial Typer program: CPU time",
            value=value,
            limit=startup.LIMIT,
            cause="nearly all is the import of the modules of lbctl",
        )


OF_PARTS = {
    "proxies": of_proxies,
    "nftlb": of_nftlb,
    "changes": of_changes,
    "load": of_load,
    "growth": of_growth,
    "agent": of_agent,
    "dsr": of_dsr,
    "nat": of_nat,
    "start-up": of_startup,
}


def targets(results: dict[str, Any]) -> list[Target]:
    """Return the targets of all parts that were measured."""
    parts = results["parts"]
    found = [each for name, of_part in OF_PARTS.items() if name in parts for each in of_part(parts[name])]
    if results["load_average"] > IDLE:
        found = [replace(each, cause=each.cause or BUSY) for each in found]
    return [*found, *of_time(results)]


def of_time(results: dict[str, Any]) -> Iterator[Target]:
    """Return the target of the time that the core of the bench takes."""
    took = results["seconds"]
    if all(part in took for part in CORE):
        longest = max(CORE, key=lambda part: took[part])
        yield Target(
            title="make bench: the core parts",
            value=sum(took[part] for part in CORE),
            limit=CORE_SECONDS,
            unit=" s",
            meant_for="" if results["size"] == "full" else "meant for the full size",
            cause=f"{longest} took {took[longest]} s, at a load average of {results['load_average']:.1f}",
        )


def power(points: Sequence[tuple[float, float]]) -> str:
    """The power of its size with which a thing grows: least squares over the logarithms of the last three."""
    logs = [(math.log(x), math.log(y)) for x, y in points[-3:]]
    if len(logs) < 2:
        return ""
    slope = statistics.linear_regression([x for x, _ in logs], [y for _, y in logs]).slope
    return f"(n^{round(slope, 1) + 0.0:.1f})"
