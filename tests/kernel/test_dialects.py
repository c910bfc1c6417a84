"""The classic dialect on the real kernel, by an nft that refuses what old ones refuse: counted connections.

Its hosts are LocalHosts on which each script and each listing goes to the real nft or library, but for
scripts with words that nft 0.9.3 does not know.
"""

import threading
from collections import Counter
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from lbctl import engine
from lbctl.conformance.network import HOST4, HOST6, SERVERS4
from lbctl.host import LocalHost
from lbctl.model import (
    Endpoint,
    Intent,
    Listener,
    Protocol,
    Scheduler,
    Service,
    State,
)
from lbctl_nftables import dialect, layout
from support.hosts import OldHost
from support.intents import forgetful, intents
from support.network import Network


class Site:
    """A network whose middle host speaks the classic dialect."""

    def __init__(self, network: Network, driver: str) -> None:
        self.network = network
        self.old = self.session(OldHost(network.folder), driver)
        self.new = self.session(LocalHost(network.folder), driver)

    def session(self, host: LocalHost, driver: str) -> engine.Session:
        with self.network.host.entered():
            return engine.open_session(host, backend="nftables", driver=driver)

    def apply(self, *services: Service, session: engine.Session | None = None) -> None:
        session = session or self.old
        wanted = Intent(services=services)
        with self.network.host.entered():
            engine.apply(session, (engine.plan(session, wanted),))
            program = session.compile(wanted)
            assert dict(session.observe("lbctl").by_key) == dict(program.by_key)
            assert not engine.plan(session, wanted).changed
        pages = [item for item in program.of_kind("map") if layout.is_page(item.key[2])]
        assert bool(pages) == (session is self.new and bool(services))

    def counts(self) -> Counter[tuple[str, str]]:
        with self.network.host.entered():
            found = self.old.backend.stats(self.old.host, self.old.driver, "lbctl")
        counts: Counter[tuple[str, str]] = Counter()
        for count in found:
            counts[count.service, count.to] += count.connections
        return counts

    def ask(self, address: str, count: int, **options: Any) -> list[str]:
        return self.network.ask(self.network.client, address, 80, count, **options)


@pytest.fixture
def site(network: Network, request: pytest.FixtureRequest) -> Site:
    """A site of the command, which is all that many old hosts have; `@BOTH` has the library as well."""
    return Site(network, getattr(request, "param", "nft"))


BOTH = pytest.mark.parametrize("site", ["libnftables", "nft"], indirect=True)


def local(*ports: int, **options: Any) -> Service:
    endpoints = tuple(Endpoint(port=port) for port in ports)
    return service(*endpoints, **options)


def service(*endpoints: Endpoint, protocol: Protocol = Protocol.TCP, **options: Any) -> Service:
    options = {"name": "web", "listeners": (Listener(protocol=protocol, port=80),), **options}
    return Service(endpoints=endpoints, **options)


@BOTH
def test_round_robin_in_the_exact_sequence_and_its_counts(site: Site) -> None:
    site.network.local_endpoints((8001, 8002, 8003))
    site.apply(service(*(Endpoint(port=p, weight=w) for p, w in ((8001, 3), (8002, 2), (8003, 1)))))
    sequence = ["8001", "8002", "8001", "8003", "8002", "8001"]
    assert site.ask(HOST4, 12) == sequence * 2
    assert site.ask(HOST6, 6) == sequence
    assert site.counts() == {("web", "8001"): 9, ("web", "8002"): 6, ("web", "8003"): 3}
    # What changes nothing for a service leaves its counter, and what it counted, where they are.
    assert site.ask(HOST4, 1) == ["8001"]
    site.apply(
        local(8001, name="other", listeners=(Listener(protocol=Protocol.TCP, port=81),)),
        service(*(Endpoint(port=p, weight=w) for p, w in ((8001, 3), (8002, 2), (8003, 1)))),
    )
    assert site.ask(HOST4, 5) == sequence[1:]
    assert site.counts()["web", "8001"] == 12
    # An endpoint that stays keeps its counts when others come and go.
    site.apply(local(8001, 8003))
    assert site.ask(HOST4, 4) == ["8001", "8003"] * 2
    assert site.counts() == {("web", "8001"): 14, ("web", "8003"): 6}


def test_random_is_fair(site: Site) -> None:
    site.network.local_endpoints((8001, 8002))
    site.apply(local(8001, 8002, scheduler=Scheduler.RANDOM))
    found = Counter(site.ask(HOST4, 1000))
    # Five standard deviations from the half.
    assert abs(found["8001"] - 500) < 80
    assert found.total() == found["8001"] + found["8002"] == 1000


@pytest.mark.parametrize("scheduler", [Scheduler.SOURCE_HASH, Scheduler.MAGLEV])
def test_a_client_gets_the_same_endpoint_in_both_dialects(site: Site, scheduler: Scheduler) -> None:
    clients = [f"198.51.100.{i}" for i in range(1, 31)]
    site.network.local_endpoints((8001, 8002, 8003))
    for client in clients:
        site.network.client.ip("address", "add", f"{client}/32", "dev", "uplink")
    site.network.host.ip("route", "add", "198.51.100.0/24", "via", "192.0.2.2")
    served = []
    for session in (site.old, site.new, site.old):
        site.apply(local(8001, 8002, 8003, scheduler=scheduler), session=session)
        served.append([site.ask(HOST4, 2, source=client) for client in clients])
    assert served[0] == served[1] == served[2]
    assert all(one == other for one, other in served[0])
    assert {one for one, _ in served[0]} == {"8001", "8002", "8003"}


def test_drain_backup_and_nobody(site: Site) -> None:
    site.network.local_endpoints((8001, 8002))
    active, backup = Endpoint(port=8001), Endpoint(port=8002, state=State.BACKUP)
    site.apply(service(active, backup))
    assert site.ask(HOST4, 3) == ["8001"] * 3
    drained = replace(active, state=State.DRAIN)
    site.apply(service(drained, backup))
    assert site.ask(HOST4, 3) == ["8002"] * 3
    site.apply(service(drained))
    assert site.ask(HOST4, 2) == ["refused"] * 2
    site.apply(service(active, backup))
    assert site.ask(HOST4, 3) == ["8001"] * 3
    site.apply()
    assert "lbctl" not in site.network.rules()


def test_endpoints_elsewhere_by_tcp_and_udp(site: Site) -> None:
    site.network.remote_endpoints(8080, "tcp", "udp")
    site.apply(
        service(
            *(Endpoint(address=ip_address(address), port=8080) for address in SERVERS4),
            listeners=tuple(Listener(protocol=p, port=80) for p in (Protocol.TCP, Protocol.UDP)),
        )
    )
    assert site.ask(HOST4, 6) == [*SERVERS4, *SERVERS4]
    assert site.ask(HOST4, 6, kind="udp") == [*SERVERS4, *SERVERS4]
    assert site.counts() == {("web", f"{address}:8080"): 4 for address in SERVERS4}


def test_flows_of_datagrams_leave_an_endpoint_that_goes(site: Site) -> None:
    site.network.local_endpoints((8001, 8002), "udp")
    site.apply(local(8001, 8002, protocol=Protocol.UDP))
    flows = [site.network.flow(site.network.client, HOST4, 80) for _ in range(4)]
    assert [flow.say() for flow in flows] == ["8001", "8002"] * 2
    site.apply(local(8002, protocol=Protocol.UDP))
    assert [flow.say() for flow in flows] == ["8002"] * 4


@BOTH
def test_drift_is_seen_and_repaired(site: Site) -> None:
    site.network.local_endpoints((8001, 8002, 8003))
    wanted = local(8001, 8002)
    site.apply(wanted)
    chain = ("chain", "ip", "lbctl", layout.endpoint_chain("web", "8002"))
    for damage in (
        ("nft", "flush", *chain),
        ("nft", "insert", "rule", *chain[1:], "meta", "l4proto", "tcp", "redirect", "to", ":8003"),
        ("nft", "add", "rule", *chain[1:], "counter", "drop"),
        ("nft", "flush", "chain", "ip", "lbctl", "service-web"),
        ("nft", "add", "chain", "ip", "lbctl", "endpoint-web/9"),
    ):
        site.network.tool(*damage)
        with site.network.host.entered():
            assert engine.plan(site.old, Intent(services=(wanted,))).changed, damage
        site.apply(wanted)
        assert Counter(site.ask(HOST4, 4)) == {"8001": 2, "8002": 2}


@pytest.mark.parametrize("ports", [range(8001, 8005), range(8001, 8031)])
def test_a_large_table_loads(site: Site, ports: range) -> None:
    """2,039 and 16,381 slots in one anonymous map."""
    site.network.local_endpoints(ports)
    site.apply(local(*ports, scheduler=Scheduler.MAGLEV))
    [answer] = set(site.ask(HOST4, 3))
    assert int(answer) in ports


@BOTH
def test_no_connection_is_lost_while_rules_and_dialects_change(site: Site) -> None:
    ports = (8001, 8002, 8003)
    site.network.local_endpoints(ports)
    site.apply(local(*ports))
    answers: Counter[str] = Counter()
    over = threading.Event()

    def knock() -> None:
        while not over.is_set():
            answers.update(site.ask(HOST4, 50))

    client = threading.Thread(target=knock)
    client.start()
    try:
        for number in range(30):
            # Within the classic dialect, to the modern one, and back.
            session = site.new if number % 3 == 2 else site.old
            site.apply(local(*ports[number % 3 :]), session=session)
    finally:
        over.set()
        client.join()
    print(f"{answers.total()} connections during 30 changes: {dict(answers)}")
    assert set(answers) <= {str(port) for port in ports}
    assert answers.total() > 300


# -- any intent, without traffic


@pytest.mark.usefixtures("inside")
@settings(deadline=None, max_examples=15, suppress_health_check=list(HealthCheck))
@given(steps=st.lists(intents(owner="lbctl", everything=True, selective=True), min_size=2, max_size=3))
def test_deltas_lead_where_a_fresh_load_leads(folder: Path, steps: list[Intent]) -> None:
    session = engine.open_session(OldHost(folder), backend="nftables", driver="nft")

    def apply(intent: Intent) -> None:
        engine.apply(session, (engine.plan(session, intent),))
        program = session.compile(intent)
        assert not [item for item in program.of_kind("map") if layout.is_page(item.key[2])]
        assert dict(session.observe("lbctl").by_key) == dict(program.by_key)

    try:
        for intent in map(forgetful, (*steps, Intent(), steps[-1])):
            apply(intent)
    finally:
        apply(Intent())
    assert not session.observe("lbctl")


@pytest.mark.usefixtures("inside")
@pytest.mark.parametrize("driver", ["libnftables", "nft"])
def test_asking_leaves_nothing_behind(folder: Path, driver: str) -> None:
    for host, name in ((LocalHost(folder), "modern"), (OldHost(folder), "classic")):
        found = dialect.ask(host, driver)
        assert found is not None
        assert found.name == name
    assert LocalHost(folder).run(["nft", "list", "ruleset"]).out == ""
