"""How much is measured: the core in twelve minutes, a glance, or enough to see that the bench works."""

from __future__ import annotations

from dataclasses import dataclass

#: The parts of every run, and the seconds that they may take together at full size.
CORE, CORE_SECONDS = ("proxies", "changes", "load", "growth"), 720


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """Numbers for every part."""

    #: lbctl itself: how many services, and how often each thing is done.
    services: int
    load_runs: int
    #: Layouts of rules: numbers of services, seconds that one load may take (what would take longer is left
    #: out), seconds after which no load is repeated, and runs, flows and milliseconds for a new flow's cost.
    scales: tuple[int, ...]
    load_limit: float
    load_enough: float
    flow_runs: int
    flows: int
    flow_milliseconds: int
    #: Proxies: how often all take turns, and milliseconds of traffic of each kind (half of it where
    #: connections stay).
    rounds: int
    traffic_milliseconds: int
    #: Shares: connections. Changes under load: how many, and new connections a second.
    connections: int
    changes: int
    rate: int
    #: Checks: endpoints, milliseconds between two checks where ten times as many are checked, rounds, seconds
    #: at rest, endpoints that fail.
    checked: int
    long_interval: int
    check_rounds: int
    idle_seconds: float
    failures: int
    #: Starts of each command; seconds that are simulated; rounds of the cost of NAT, and connections in one.
    starts: int
    simulated: float
    nat_rounds: int
    nat_connections: int
    #: Beside nftlb: numbers of services, and how often one endpoint is changed.
    farms: tuple[int, ...]
    peer_changes: int


SIZES = {
    "full": Size(
        services=10_000,
        load_runs=3,
        scales=(1, 10, 100, 1_000, 10_000),
        load_limit=40,
        load_enough=1.0,
        flow_runs=11,
        flows=4_000,
        flow_milliseconds=150,
        rounds=7,
        traffic_milliseconds=1_000,
        connections=10_000,
        changes=100,
        rate=2_000,
        checked=1_000,
        long_interval=10_000,
        check_rounds=3,
        idle_seconds=30,
        failures=9,
        starts=21,
        simulated=60,
        nat_rounds=21,
        nat_connections=3_000,
        farms=(1, 100, 1_000),
        peer_changes=9,
    ),
    "quick": Size(
        services=1_000,
        load_runs=1,
        scales=(1, 100, 1_000),
        load_limit=4,
        load_enough=0.1,
        flow_runs=5,
        flows=2_000,
        flow_milliseconds=50,
        rounds=2,
        traffic_milliseconds=500,
        connections=3_000,
        changes=20,
        rate=1_000,
        checked=500,
        long_interval=10_000,
        check_rounds=1,
        idle_seconds=10,
        failures=3,
        starts=7,
        simulated=20,
        nat_rounds=7,
        nat_connections=1_000,
        farms=(1, 100),
        peer_changes=5,
    ),
    "tiny": Size(
        services=10,
        load_runs=1,
        scales=(1, 10),
        load_limit=1,
        load_enough=0,
        flow_runs=1,
        flows=100,
        flow_milliseconds=20,
        rounds=1,
        traffic_milliseconds=100,
        connections=60,
        changes=2,
        rate=500,
        checked=20,
        long_interval=1_000,
        check_rounds=1,
        idle_seconds=2,
        failures=1,
        starts=1,
        simulated=2,
        nat_rounds=2,
        nat_connections=100,
        farms=(1, 10),
        peer_changes=2,
    ),
}
