"""Changes while connections keep coming: not one is refused, reset or sent to nobody."""

import math
import random
import time
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from ipaddress import ip_address
from itertools import count, product
from statistics import median
from typing import NamedTuple

import pytest

from lbctl import engine
from lbctl.conformance.network import HOST4, HOST6, SERVERS4, SERVERS6
from lbctl.errors import StateUnknown
from lbctl.host import Completed, LocalHost
from lbctl.model import Address, Endpoint, Family, Intent, Listener, Protocol, Scheduler, Service, State
from lbctl.spi import Backend
from lbctl_iptables import backend as iptables
from lbctl_nftables import backend as nftables
from support import storm
from support.intents import SCHEDULERS
from support.network import Network
from support.waves import KNOCKERS, Knock, Storm, family_of, reported, size

PORTS = range(8001, 8007)
#: How many clients of each family each knocker is.
CLIENTS = 4
CONNECTIONS_PER_DELTA = 100


class Interrupted(LocalHost):
    """A host on which the clearing after a change never comes to pass."""

    def run(self, argv: Sequence[str], *, stdin: str = "") -> Completed:
        if stdin.startswith("delete element") and "add element" not in stdin:
            return Completed(code=1, out="", err="Error: interrupted")
        return super().run(argv, stdin=stdin)


def test_an_apply_that_ends_before_its_clearing_has_done_its_work(network: Network) -> None:
    network.local_endpoints(PORTS)
    big, small = (
        Intent(
            services=(
                Service(
                    name="web",
                    listeners=(Listener(protocol=Protocol.TCP, port=80),),
                    endpoints=tuple(Endpoint(port=port) for port in ports),
                ),
            )
        )
        for ports in ((8001, 8002, 8003), (8004,))
    )
    with network.host.entered():
        session = engine.open_session(LocalHost(network.folder), backend="nftables", driver="nft")
        engine.apply(session, (engine.plan(session, big),))
        broken = replace(session, host=Interrupted(network.folder))
        with pytest.raises(StateUnknown, match="in force"):
            engine.apply(broken, (engine.plan(broken, small),))
    assert network.ask(network.client, HOST4, 80, 4) == ["8004"] * 4
    with network.host.entered():
        left = engine.plan(session, small)
        assert {change.key[1] for change in left.changes} == {"element"}
        engine.apply(session, (left,))
        assert not engine.plan(session, small).changed
    assert network.ask(network.client, HOST4, 80, 4) == ["8004"] * 4


KINDS = ("weight", "state", "place", "add", "remove", "scheduler", "affinity", "service")
#: Where endpoints run, all the time: what the rules say is all that changes. IPv6 has one port: see affinity.
PLACES: dict[str, list[tuple[Address | None, int]]] = {
    "web": [(None, port) for port in range(8001, 8007)],
    "api": [
        *((ip_address(a), port) for a in SERVERS4 for port in (9001, 9002)),
        *((ip_address(a), 9001) for a in SERVERS6),
    ],
}
#: Seconds; none ends while the storm lasts.
AFFINITIES = (None, 3600, 7200)
OTHER = Service(
    name="other",
    listeners=(Listener(protocol=Protocol.TCP, port=82),),
    endpoints=(Endpoint(port=8001), Endpoint(port=8002)),
)


def start() -> Intent:
    hosts = [ip_address(host) for host in (HOST4, HOST6)]
    listeners = {
        "web": tuple(Listener(protocol=Protocol.TCP, port=80, address=host) for host in hosts),
        "api": (Listener(protocol=Protocol.TCP, port=81),),
    }
    return Intent(
        services=tuple(
            Service(
                name=name,
                listeners=listeners[name],
                endpoints=tuple(Endpoint(port=port, address=a) for a, port in places[:2] + places[-2:]),
            )
            for name, places in PLACES.items()
        )
    )


def changed(before: Intent, kind: str, dice: random.Random) -> Intent:
    """`before` with one random change of a kind to its rules, after which each service has somebody."""
    if kind == "service":
        return Intent(services=before.services[:2] if len(before.services) > 2 else (*before.services, OTHER))
    services = list(before.services)
    for attempt in count():
        at = dice.randrange(2)
        # A single endpoint's weight and state can change nothing; it gets a fellow.
        new = one_changed(services[at], kind if attempt < 20 else "add", dice)
        # The weight of an endpoint that takes no connections, say, changes no rule.
        if all(map(new.slots, Family)) and _rules(new) != _rules(services[at]):
            services[at] = new
            break
    return Intent(services=tuple(services))


def _rules(service: Service) -> tuple[object, ...]:
    """What the rules of a service say. Where there is one endpoint alone, no scheduler has a say."""
    slots = [[name(endpoint, family) for endpoint in service.slots(family)] for family in Family]
    slots = [each if len(set(each)) > 1 else each[:1] for each in slots]
    return slots, any(len(each) > 1 for each in slots) and service.scheduler, service.affinity


def one_changed(service: Service, kind: str, dice: random.Random) -> Service:
    endpoints = list(service.endpoints)
    at = dice.randrange(len(endpoints))
    one = endpoints[at]
    free = [p for p in PLACES[service.name] if p not in {(e.address, e.port) for e in endpoints}]
    match kind:
        case "scheduler":
            # Round robin is what can be counted best: every other time. Maglev's long tables take long.
            chosen = Scheduler.ROUND_ROBIN
            if service.scheduler is chosen:
                [chosen] = dice.choices(
                    (Scheduler.RANDOM, Scheduler.SOURCE_HASH, Scheduler.MAGLEV), (4, 4, 1)
                )
            return replace(service, scheduler=chosen)
        case "affinity":
            return replace(service, affinity=dice.choice([a for a in AFFINITIES if a != service.affinity]))
        case "weight":
            endpoints[at] = replace(one, weight=dice.randint(1, 3))
        case "state":
            endpoints[at] = replace(one, state=dice.choice(list(State)))
        case "place" | "add" if free:
            address, port = dice.choice(free)
            new = Endpoint(address=address, port=port, weight=one.weight)
            endpoints[at : at + (kind == "place")] = [new]
        case "remove" if len(endpoints) > 1:
            del endpoints[at]
        case _ if kind in {"add", "place"}:
            del endpoints[at]
        case _:
            address, port = dice.choice(free)
            endpoints.append(Endpoint(address=address, port=port))
    return replace(service, endpoints=tuple(endpoints))


@dataclass(frozen=True, slots=True, kw_only=True)
class Reign:
    """An intent, the moment when its apply began, and the one when it had ended; seconds."""

    intent: Intent
    begun: float
    done: float


def storm_over(network: Network) -> Storm:
    """Endpoints at all the places, and knockers at all the listeners."""
    local, remote = (
        [
            name(endpoint, family)
            for endpoint in (Endpoint(address=address, port=port) for address, port in PLACES[service])
            for family in Family
            if endpoint.serves(family)
        ]
        for service in ("web", "api")
    )
    targets = [f"{host}:{port}" for port in (80, 81) * 4 + (82,) for host in (HOST4, f"[{HOST6}]")]
    return Storm(network, [(network.host, local), (network.server, remote)], targets, clients=CLIENTS)


@pytest.mark.parametrize(
    ("backend", "driver", "connections", "seed"),
    [
        (nftables, "libnftables", size(20_000), 4),
        (nftables, "nft", size(6_000), 55),
        (iptables, "legacy", size(6_000), 55),
        (iptables, "nf_tables", size(6_000), 55),
    ],
    ids=["libnftables", "nft", "legacy", "nf_tables"],
)
# The slowest driver takes a quarter of a second from change to change.
@pytest.mark.timeout(180 + size(0) / 100)
def test_the_storm(network: Network, backend: Backend, driver: str, connections: int, seed: int) -> None:
    """Thousands of connections under way during random deltas: each goes where an intent of its time has it.

    Nobody is refused or reset; a client that has an endpoint keeps it; where turns are taken, each endpoint's
    count is the exact one, but for connections that were under way while the rules changed. Held connections
    echo all the time.
    """
    # The seeds are some with which Maglev, whose tables take long to be read back, has a short part.
    dice = random.Random(seed)
    deltas = connections // CONNECTIONS_PER_DELTA
    host = LocalHost(network.folder)
    waves = storm_over(network)
    try:
        with network.host.entered():
            # Alone: to ask the other backend each time whether it holds our rules too takes long.
            session = engine.open_session(host, driver=driver, installed=[backend], allow_remap=True)
            reigns = [reign(session, start())]
            waves.begin()
            started = time.monotonic()
            kinds = dice.choices(KINDS, k=deltas)
            for number, kind in enumerate(kinds):
                # At least so many at each stage, however slow this machine is.
                waves.wait((number + 1) * CONNECTIONS_PER_DELTA)
                reigns.append(reign(session, changed(reigns[-1].intent, kind, dice)))
                # Some pause, so that connections also begin and end under one intent.
                time.sleep(0.02)
        took = time.monotonic() - started
        reports = waves.end()
    finally:
        waves.close()
    assert set(kinds) == set(KINDS)
    assert {s.scheduler for r in reigns for s in r.intent.services} == set(SCHEDULERS)
    found = reported(reports)
    echoes = sum(report["echoes"] for report in reports)
    [other] = OTHER.listeners
    failed = [knock for knock in found if knock.failed and knock.port != other.port]
    print(
        f"{driver}: {len(found)} connections in {took:.0f} s, {len(failed)} failed; {echoes} echoes of "
        f"{KNOCKERS * storm.HELD} held connections; {deltas} applies took "
        f"{median(r.done - r.begun for r in reigns) * 1000:.0f} ms in the median"
    )
    counted, kept, shares = hold_against(reigns, found)
    print(f"  {kept} kept their client's endpoint, and {counted} others were counted")
    for (port, to), (got, worth) in sorted(shares.items()):
        print(f"  {port}: {to} had {got} turns of {float(worth):.1f}")
    assert [report["broken"] for report in reports] == [[]] * KNOCKERS
    assert echoes >= connections
    assert len(found) >= connections
    assert counted >= connections / 10
    assert kept >= connections / 10


def reign(session: engine.Session, intent: Intent) -> Reign:
    plan = engine.plan(session, intent)
    assert plan.changed
    begun = time.monotonic()
    engine.apply(session, (plan,))
    return Reign(intent=intent, begun=begun, done=time.monotonic())


class Reckoned(NamedTuple):
    """How many connections a scheduler placed within one intent, and how many kept an endpoint.

    And for a listener's port and an endpoint, how many of those that take turns it got, and its exact share.
    """

    counted: int
    kept: int
    shares: dict[tuple[int, str], tuple[int, Fraction]]


class Standing(NamedTuple):
    """Who may answer where, and whether clients keep who answered."""

    able: frozenset[str]
    keeping: bool

    def keeps(self, answer: str) -> bool:
        return self.keeping and answer in self.able


NOBODY = Standing(frozenset({"ConnectionRefusedError"}), keeping=False)


class Times:
    """Which intents may have sent a connection where.

    An intent may choose from the moment when its apply begins to the one when the next one's has ended.
    """

    def __init__(self, reigns: list[Reign]) -> None:
        self.reigns = reigns
        self._begun = [r.begun for r in reigns]
        self._over = [r.done for r in reigns[1:]] + [math.inf]
        self._disputed = [r.begun for r in reigns[1:]] + [math.inf]
        self._standings = [
            {
                (service.listeners[0].port, family): Standing(
                    frozenset(name(e, family) for e in service.ready(family)), service.affinity is not None
                )
                for service in reign.intent.services
                for family in Family
            }
            for reign in reigns
        ]

    def of(self, knock: Knock) -> range:
        """The reigns that may have sent it."""
        return range(bisect_left(self._over, knock.begin), bisect_right(self._begun, knock.end))

    def standing(self, number: int, knock: Knock) -> Standing:
        return self._standings[number].get((knock.port, knock.family), NOBODY)

    def is_within(self, knock: Knock, number: int) -> bool:
        """True where no other reign has sent it."""
        return self.reigns[number].done <= knock.begin and knock.end <= self._disputed[number]

    def is_known(self, before: Knock | None, knock: Knock) -> bool | None:
        """Whether its client still had the endpoint of the connection before; None where none can say."""
        if before is None:
            return False
        old, new = self.of(before), self.of(knock)
        keeps = {n: self.standing(n, knock).keeps(before.answer) for n in range(old.start, new.stop)}
        if all(keeps.values()):
            return True
        forgotten = any(
            not kept and before.end <= self.reigns[n].done <= knock.begin for n, kept in keeps.items()
        )
        if forgotten or not any(keeps[n] for n in old) or not any(keeps[n] for n in new):
            return False
        return None


def hold_against(reigns: list[Reign], found: list[Knock]) -> Reckoned:
    """Assert that each connection was answered as some intent of its time has it.

    One within the undisputed time of an intent counts for it, one that only touches its time may. A client
    keeps its endpoint, which takes nobody's turn, while all intents have both that endpoint and affinity.
    """
    times = Times(reigns)
    counts: list[Counter[tuple[int, str, str]]] = [Counter() for _ in reigns]
    doubts: list[Counter[tuple[int, str, str]]] = [Counter() for _ in reigns]
    past: dict[tuple[str, int], Knock] = {}
    kept = 0
    # The connections of a client are in a row.
    for knock in sorted(found, key=lambda knock: knock.begin):
        able = {who for number in times.of(knock) for who in times.standing(number, knock).able}
        assert knock.answer in able, f"{knock} in {times.of(knock)}: {able}"
        before = past.get((knock.client, knock.port))
        past[knock.client, knock.port] = knock
        known = times.is_known(before, knock)
        if known:
            assert before is not None
            assert knock.answer == before.answer, f"{knock} in {times.of(knock)}, after {before}"
            kept += 1
        else:
            for number in times.of(knock):
                sure = known is False and times.is_within(knock, number)
                (counts if sure else doubts)[number][knock.port, knock.client, knock.answer] += 1
    shares: dict[tuple[int, str], tuple[int, Fraction]] = {}
    for each, sure, perhaps in zip(reigns, counts, doubts, strict=True):
        for service, family in product(each.intent.services, Family):
            for to, (got, worth) in hold_scheduler(service, family, sure, perhaps).items():
                key = service.listeners[0].port, to
                before, due = shares.get(key, (0, Fraction(0)))
                shares[key] = before + got, due + worth
    return Reckoned(sum(each.total() for each in counts), kept, shares)


def hold_scheduler(
    service: Service,
    family: Family,
    counts: Counter[tuple[int, str, str]],
    doubts: Counter[tuple[int, str, str]],
) -> dict[str, tuple[int, Fraction]]:
    """Assert that connections, counted by port, client and answer, went where the scheduler sends them.

    Returns what each endpoint got where turns are taken, and its exact share.
    """
    shares = {}
    got, perhaps = (
        {
            (client, who): n
            for (port, client, who), n in counter.items()
            if port == service.listeners[0].port and family_of(client) is family
        }
        for counter in (counts, doubts)
    )
    match service.scheduler:
        case Scheduler.ROUND_ROBIN:
            slots = [name(e, family) for e in service.slots(family)]
            total, more = sum(got.values()), sum(perhaps.values())
            for to in slots:
                mine, maybe = (sum(n for (_, who), n in c.items() if who == to) for c in (got, perhaps))
                least, _ = turns(slots, to, total)
                _, most = turns(slots, to, total + more)
                assert least - maybe <= mine <= most, (service, got, perhaps)
                if total:
                    shares[to] = mine, Fraction(total * slots.count(to), len(slots))
        case Scheduler.SOURCE_HASH | Scheduler.MAGLEV:
            # Each client has one endpoint.
            assert len({client for client, _ in got}) == len(got), (service, got)
    return shares


def name(endpoint: Endpoint, family: Family) -> str:
    if endpoint.address is None:
        return f"{HOST4 if family is Family.IPV4 else f'[{HOST6}]'}:{endpoint.port}"
    return endpoint.to


def turns(slots: list[str], to: str, count: int) -> tuple[int, int]:
    """The least and the most that an endpoint gets of `count` connections in a row, begun at any slot."""
    whole, rest = divmod(count, len(slots))
    parts = [sum((slots * 2)[i + j] == to for j in range(rest)) for i in range(len(slots))]
    return whole * slots.count(to) + min(parts), whole * slots.count(to) + max(parts)


def reigning(*services: Service) -> list[Reign]:
    """Each service for ten seconds."""
    return [
        Reign(intent=Intent(services=(service,)), begun=10 * n, done=10 * n + 1)
        for n, service in enumerate(services)
    ]


def ports(*numbers: int) -> tuple[Endpoint, ...]:
    return tuple(Endpoint(port=port) for port in numbers)


WEB = replace(start().services[0], endpoints=ports(8001, 8002, 8003))
REIGNS = reigning(WEB, replace(WEB, endpoints=ports(8006)))
KEEPING = replace(WEB, affinity=3600)
#: Affinity comes, an endpoint goes, and comes back.
KEPT = reigning(WEB, KEEPING, replace(KEEPING, endpoints=ports(8002, 8003)), KEEPING)


def knocks(begin: float, *answers: int | str, client: str = "192.0.2.100") -> list[Knock]:
    host = f"[{HOST6}]" if ":" in client else HOST4
    return [
        Knock(
            begin=begin + n / 100,
            end=begin + 0.5 + n / 100,
            client=client,
            port=80,
            answer=answer if isinstance(answer, str) else f"{host}:{answer}",
        )
        for n, answer in enumerate(answers)
    ]


@pytest.mark.parametrize("client", ["192.0.2.100", "2001:db8:1::100"])
def test_the_reckoning_of_the_storm(client: str) -> None:
    in_turn = knocks(5, 8001, 8002, 8003, 8001, client=client)
    after = knocks(20, 8006, client=client)
    counted, kept, shares = hold_against(REIGNS, in_turn + after)
    assert (counted, kept) == (5, 0)
    assert [got / worth for _, (got, worth) in sorted(shares.items())] == [1.5, 0.75, 0.75, 1]
    # While the rules change, either intent will do, and does not count.
    meanwhile = knocks(9.8, 8002, 8006, client=client) + knocks(10.8, 8006, client=client)
    assert hold_against(REIGNS, in_turn + meanwhile)[:2] == (4, 0)


def test_the_reckoning_of_clients_that_keep_their_endpoint() -> None:
    # The first time within affinity is nobody's second one.
    assert hold_against(KEPT, knocks(5, 8001) + knocks(15, 8002, 8002))[:2] == (2, 1)
    # No turn is taken by who has one.
    others = knocks(15, 8003, 8003, client="192.0.2.101") + knocks(16, 8001, client="192.0.2.102")
    assert hold_against(KEPT, knocks(15, 8002, 8002, 8002) + others)[:2] == (3, 3)
    # Through the times of others, as long as the endpoint is there.
    assert hold_against(KEPT, knocks(15, 8002) + knocks(35, 8002))[:2] == (1, 1)
    assert hold_against(KEPT, knocks(15, 8001) + knocks(25, 8003) + knocks(35, 8003))[:2] == (2, 1)
    assert hold_against(KEPT, knocks(15, 8001) + knocks(35, 8003))[:2] == (2, 0)
    # Who came while the endpoint went may be known there or not.
    assert hold_against(KEPT, knocks(19.8, 8001) + knocks(20.5, 8002))[:2] == (0, 0)


@pytest.mark.parametrize(
    ("reigns", "wrong"),
    [
        (REIGNS, knocks(5, 8006)),
        (REIGNS, knocks(20, 8001)),
        (REIGNS, knocks(20, "timeout")),
        (REIGNS, knocks(9.8, "ConnectionResetError")),
        (REIGNS, knocks(10.2, "ConnectionRefusedError")),
        # Twice in three turns; the fourth that nobody had takes one from somebody.
        (REIGNS, knocks(5, 8001, 8001, 8002)),
        (REIGNS, knocks(5, 8001, 8001, 8002, 8002)),
        (REIGNS, knocks(5, 8001, 8001, 8001) + knocks(9.8, 8002)),
        (REIGNS, knocks(5, 8001, 8001, 8002, client="2001:db8:1::100")),
        (REIGNS, [replace(knock, client="2001:db8:1::100") for knock in knocks(5, 8001)]),
        # Its client has another one.
        (KEPT, knocks(15, 8001, 8002)),
        (KEPT, knocks(15, 8002) + knocks(25, 8003)),
        (KEPT, knocks(15, 8002) + knocks(20.2, 8003)),
        (KEPT, knocks(15, 8002) + knocks(35, 8001)),
        (reigning(replace(WEB, scheduler=Scheduler.SOURCE_HASH)), knocks(5, 8001, 8002)),
    ],
)
def test_the_reckoning_of_the_storm_finds_what_is_wrong(reigns: list[Reign], wrong: list[Knock]) -> None:
    with pytest.raises(AssertionError):
        hold_against(reigns, wrong)
