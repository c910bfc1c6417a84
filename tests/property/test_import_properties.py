"""What import makes of the rules that an intent became is that intent, as far as rules can hold it."""

from collections.abc import Sequence
from dataclasses import replace
from ipaddress import collapse_addresses, ip_network
from itertools import combinations
from types import ModuleType

import pytest
from hypothesis import HealthCheck, assume, given, settings

from lbctl.engine.migrate.intent import imported
from lbctl.host.fake import FakeHost
from lbctl.model import Family, Intent, Listener, Network, Scheduler, Service, SourceNat, State, hidden
from lbctl_iptables import backend as iptables
from lbctl_iptables.pick import has_same_hash
from lbctl_nftables import backend as nftables, dialect
from support.intents import NETWORKS, forgetful, intents

CAN = {
    backend.name: replace(
        backend.probe(FakeHost()).capabilities,
        families=frozenset(Family),
        networks=tuple(map(ip_network, NETWORKS)) if backend is iptables else (),
        remap=True,
    )
    for backend in (iptables, nftables)
}
PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])


def ready(service: Service) -> Service:
    """The service with those of its endpoints that take new connections, and so stand in rules."""
    taken = {e for family in Family for e in service.ready(family)}
    kept = tuple(replace(e, state=State.ACTIVE) for e in service.endpoints if e in taken)
    return replace(service, endpoints=kept)


def by_hash(service: Service) -> Service:
    """The service with another scheduler in the place of Maglev."""
    return (
        replace(service, scheduler=Scheduler.SOURCE_HASH)
        if service.scheduler is Scheduler.MAGLEV
        else service
    )


def served(service: Service) -> list[Family]:
    """The families of which some clients may come."""
    return [
        family
        for family in service.families
        if not service.allow or any(Family.of(network) is family for network in service.allow)
    ]


@pytest.mark.parametrize("backend", [iptables, nftables], ids=lambda backend: backend.name)
@PATIENT
@given(intent=intents(everything=True, max_services=3))
def test_import_gives_back_what_was_rendered(backend: ModuleType, intent: Intent) -> None:
    assume(all(service.ready(f) for service in intent.services for f in service.families))
    if backend is nftables:
        # A Maglev table has its own shares, which no weights give.
        intent = replace(intent, services=tuple(map(by_hash, intent.services)))
    reading = backend.read(backend.render(backend.compile(intent, CAN[backend.name])))
    assert reading.accept
    assert reading.unsupported == ()
    assert {found.severity for found in reading.findings} <= {"info"}
    made = imported(reading)
    found = {service.name: service for service in made.intent.services}
    services = [service for service in map(ready, intent.services) if served(service)]
    assert found.keys() == {service.name for service in services}, made.notes
    for service in services:
        mine = found[service.name]
        assert mine.local_clients == service.local_clients
        assert mine.affinity == service.affinity
        # Endpoints of this host have no use for it.
        assert mine.source_nat is (service.source_nat if service.remote else SourceNat.HAIRPIN)
        for family in served(service):
            assert set(mine.listeners_of(family)) >= set(service.listeners_of(family))
            wanted, got = service.by_weight(family), mine.by_weight(family)
            assert {e.to: wanted[e.to] for e in service.ready(family)} == {
                e.to: got[e.to] for e in mine.ready(family)
            }
            if len(service.ready(family)) < 2:
                continue
            assert mine.scheduler is (
                Scheduler.SOURCE_HASH if service.scheduler is Scheduler.MAGLEV else service.scheduler
            )
            if service.scheduler is Scheduler.ROUND_ROBIN or has_same_hash(service, family):
                assert [e.to for e in mine.slots(family)] == [e.to for e in service.slots(family)]
            if has_same_hash(service, family):
                assert mine.hash_seed == service.hash_seed


def spans(networks: Sequence[Network], family: Family) -> frozenset[tuple[int, int]]:
    """The addresses of a family, as numbers."""
    mine = collapse_addresses(n for n in networks if Family.of(n) is family)  # type: ignore[type-var]
    return frozenset((int(n[0]), int(n[-1])) for n in mine)


def clients(service: Service, family: Family) -> list[Network]:
    """The networks of those that a service lets in; networks of the strategies lie apart or in each other."""
    everybody = [ip_network("0.0.0.0/0" if family is Family.IPV4 else "::/0")]
    left: list[Network] = list(service.allowed(family)) if service.allow else everybody
    for network in service.denied(family):
        left = [
            rest
            for each in left
            if not each.subnet_of(network)  # type: ignore[arg-type]
            for rest in (
                each.address_exclude(network)  # type: ignore[arg-type]
                if network.subnet_of(each)  # type: ignore[arg-type]
                else [each]
            )
        ]
    return left


def places(service: Service, family: Family) -> list[Listener]:
    """The listeners of a family that some connection matches."""
    every = [ip_network("0.0.0.0/0"), ip_network("::/0")]
    nowhere = not set(every).isdisjoint(service.excluded(family))
    return [x for x in service.listeners_of(family) if x.address is not None or not nowhere]


@pytest.mark.parametrize("backend", [iptables, nftables], ids=lambda backend: backend.name)
@PATIENT
@given(intent=intents(everything=True, selective=True, max_services=3))
def test_import_gives_back_what_connections_a_service_is_for(backend: ModuleType, intent: Intent) -> None:
    """Nothing is said of listeners of which others take a part: rules do not tell whose it is."""
    assume(not hidden(intent.services))
    assume(not any(x.meets(y) for s in intent.services for x, y in combinations(s.listeners, 2)))
    assume(all(service.ready(f) for service in intent.services for f in service.families))
    intent = replace(intent, services=tuple(map(by_hash, intent.services)))
    reading = backend.read(backend.render(backend.compile(intent, CAN[backend.name])))
    assert reading.accept
    assert reading.unsupported == ()
    made = imported(reading)
    found = {service.name: service for service in made.intent.services}
    for service in map(ready, intent.services):
        families = [f for f in service.families if places(service, f) and clients(service, f)]
        if not families:
            # Rules that let in no client need not be those of a service.
            continue
        mine = found[service.name]
        assert mine.local_clients == service.local_clients
        assert set(mine.interfaces) == set(service.interfaces)
        assert mine.keeps_port == service.keeps_port
        for family in families:
            assert set(places(service, family)) <= set(mine.listeners_of(family))
            assert spans(clients(mine, family), family) == spans(clients(service, family), family)
            if any(listener.address is None for listener in places(service, family)):
                assert spans(mine.exclude, family) == spans(service.exclude, family)
            assert {e.to for e in mine.ready(family)} == {e.to for e in service.ready(family)}


@pytest.mark.parametrize("backend", [iptables, nftables], ids=lambda backend: backend.name)
@PATIENT
@given(intent=intents(everything=True, max_services=2))
def test_the_way_of_connections_adds_up(backend: ModuleType, intent: Intent) -> None:
    # The classic dialect has a rule for each endpoint, as iptables has.
    can = (
        dialect.speaking(CAN[backend.name], dialect.Dialect.CLASSIC)
        if backend is nftables
        else CAN[backend.name]
    )
    intent = forgetful(intent) if backend is nftables else intent
    for service in backend.read(backend.render(backend.compile(intent, can))).services:
        for hook in service.hooks:
            path = [step for step in service.path if step.hook == hook]
            assert path[0].share == 1
            assert all(step.share and 0 <= (step.taken or 0) <= step.share for step in path)
            ended = {
                each.to: sum(
                    step.taken or 0 for step in path if step.rule.endswith((f" {each.to}", f" :{each.to}"))
                )
                for each in service.backends
            }
            assert ended == {each.to: each.share for each in service.backends}


def test_a_network_of_clients_may_be_written_with_any_address_of_it() -> None:
    rule = "ip saddr 10.0.0.1/24 tcp dport 80 redirect to :8001"
    text = f"table ip t {{\nchain c {{\ntype nat hook prerouting priority 0;\n{rule}\n}}\n}}\n"
    [service] = imported(nftables.read(text)).intent.services
    assert [str(network) for network in service.allow] == ["10.0.0.0/24"]


def test_listeners_that_meet_are_told_however_many_there_are() -> None:
    head = ["*nat", ":PREROUTING ACCEPT [0:0]"]
    rules = [
        f"-A PREROUTING -d 10.0.{i >> 8}.{i & 255}/32 -p tcp -m tcp --dport 80 -j REDIRECT --to-ports 8001"
        for i in range(2001)
    ]
    last = "-A PREROUTING -p tcp -m tcp --dport 80 -j REDIRECT --to-ports 8002"
    made = imported(iptables.read("\n".join([*head, *rules, last, "COMMIT", ""])))
    assert len(made.intent.services) == len(rules)
    [(_, reason)] = made.lost
    assert reason.startswith(
        "80/tcp overlaps with 10.0.0.0:80/tcp, the listener of tcp-80; an intent has one"
    )


def test_local_connections_with_shares_of_their_own_say_how_to_have_one_service() -> None:
    text = "\n".join(
        f"iptables -t nat -A {chain} -p tcp --dport 80 -j REDIRECT --to-ports {port}"
        for chain, port in (("PREROUTING", 8001), ("OUTPUT -d 127.0.0.1", 8002))
    )
    for lines in (text, "\n".join(reversed(text.splitlines()))):
        [(_, reason)] = imported(iptables.read(lines)).lost
        assert reason.endswith(
            "an intent has one service for both, and the same shares for local connections and for those "
            "from outside: tcp-80 without `local-clients = false`"
        )


PORT = "iptables -t nat -A PREROUTING -p tcp --dport 80"
HALF = "-m statistic --mode nth --every 2 --packet 0 -j REDIRECT --to-ports 8001"
HALVES = f"{PORT} {HALF}\n{PORT} -j REDIRECT --to-ports 8002\n"
ONE_OF_TWO = f"{PORT} -j DNAT --to-destination 10.0.0.1:80\n"


@pytest.mark.parametrize(
    ("ipv4", "ipv6", "services"),
    [
        (HALVES, HALVES.replace("iptables", "ip6tables"), 1),
        (ONE_OF_TWO, ONE_OF_TWO.replace("iptables", "ip6tables").replace("10.0.0.1", "[2001:db8::1]"), 1),
        # Other shares of the same ports, and other ports, are no one service.
        (HALVES, HALVES.replace("iptables", "ip6tables").replace("every 2", "every 3"), 1),
        (HALVES, HALVES.replace("iptables", "ip6tables").replace("8002", "8003"), 1),
        (HALVES, HALVES.replace("iptables", "ip6tables").replace("dport 80", "dport 81"), 2),
    ],
)
def test_rules_of_both_families_for_a_port_are_one_service(ipv4: str, ipv6: str, services: int) -> None:
    made = imported(iptables.read(ipv4 + ipv6))
    assert len(made.intent.services) == services
    alike = ipv6.replace("ip6tables", "iptables").replace("[2001:db8::1]", "10.0.0.1") == ipv4
    whole = alike or services == 2
    assert bool(made.lost) is not whole
    assert sum(map(len, made.lines.values())) == (ipv4 + ipv6).count("\n") - (0 if whole else 2)


def test_many_services_of_one_port_have_names_in_order() -> None:
    rule = "-A PREROUTING -d 10.0.{}.{}/32 -p tcp -m tcp --dport 80 -j DNAT --to-destination 10.1.0.1:80"
    rules = [rule.format(i >> 8, i & 255) for i in range(1500)]
    made = imported(iptables.read("\n".join(["*nat", *rules, "COMMIT", ""])))
    names = [service.name for service in made.intent.services]
    assert names == ["tcp-80", *(f"tcp-80-{number}" for number in range(2, 1501))]


def test_a_hash_to_the_listeners_own_port_has_it_as_its_endpoint() -> None:
    rules = [
        f"-A OUTPUT -p udp --dport 80 -m cluster --cluster-total-nodes 2 --cluster-local-node {node} "
        "--cluster-hash-seed 5 -j REDIRECT"
        for node in (1, 2)
    ]
    [service] = iptables.read("\n".join(["*nat", *rules, "COMMIT", ""])).services
    assert (service.mode, service.slots) == ("single", ("80",))
