"""Changes while connections keep coming: not one is refused, reset or sent to nobody."""

import json
import math
import mmap
import random
import subprocess
import sys
import threading
import time
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address
from itertools import count
from statistics import median
from typing import Any

import pytest

from lbctl import engine
from lbctl.conformance.network import HOST4, SERVERS4
from lbctl.errors import StateUnknown
from lbctl.host import Completed, LocalHost
from lbctl.host.netns import Namespace
from lbctl.model import Address, Endpoint, Family, Intent, Listener, Protocol, Scheduler, Service, State
from lbctl_nftables import backend as nftables
from support import storm
from support.network import DRIVERS, Network

PORTS = range(8001, 8007)
CHANGES = 40
#: The storm: connections in all, and random deltas meanwhile.
CONNECTIONS = 20_000
DELTAS = 200
KNOCKERS = 2


def intent(dice: random.Random) -> Intent:
    """A service that always has somebody, and a second one that comes and goes."""
    some = dice.sample(PORTS, dice.randint(1, len(PORTS)))
    web = Service(
        name="web",
        listeners=(Listener(protocol=Protocol.TCP, port=80),),
        endpoints=tuple(Endpoint(port=port, weight=dice.randint(1, 4)) for port in some),
    )
    other = Service(
        name="other",
        listeners=(Listener(protocol=Protocol.TCP, port=dice.randint(81, 85)),),
        endpoints=(Endpoint(port=8001),),
    )
    return Intent(services=(web, other) if dice.random() < 0.5 else (web,))


@pytest.mark.parametrize(("backend", "driver"), [d for d in DRIVERS if d[1] != "iptc"])
def test_no_connection_is_lost_while_the_rules_change(network: Network, backend: str, driver: str) -> None:
    network.local_endpoints(PORTS)
    dice = random.Random(f"{backend} {driver}")
    host = LocalHost(network.folder)
    with network.host.entered():
        session = engine.open_session(host, backend=backend, driver=driver)
        engine.apply(session, (engine.plan(session, intent(dice)),))
    answers: Counter[str] = Counter()
    over = threading.Event()

    def knock() -> None:
        while not over.is_set():
            answers.update(network.ask(network.client, HOST4, 80, 50))

    clients = [threading.Thread(target=knock) for _ in range(2)]
    for client in clients:
        client.start()
    try:
        changes = 0
        # A busy machine makes fewer connections for each change.
        while changes < CHANGES or answers.total() <= 1000:
            changes += 1
            with network.host.entered():
                plan = engine.plan(session, wanted := intent(dice))
                engine.apply(session, (plan,))
                assert not engine.plan(session, wanted).changed
    finally:
        over.set()
        for client in clients:
            client.join()
    print(
        f"{backend} through {driver}: {answers.total()} connections during {changes} changes: {dict(answers)}"
    )
    assert set(answers) <= {str(port) for port in PORTS}


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


KINDS = ("weight", "state", "place", "add", "remove", "scheduler", "service")
#: Where endpoints run, all the time: what the rules say is all that changes.
PLACES: dict[str, list[tuple[Address | None, int]]] = {
    "web": [(None, port) for port in range(8001, 8007)],
    "api": [(ip_address(a), port) for a in SERVERS4 for port in (9001, 9002)],
}
OTHER = Service(
    name="other",
    listeners=(Listener(protocol=Protocol.TCP, port=82),),
    endpoints=(Endpoint(port=8001), Endpoint(port=8002)),
)


def start() -> Intent:
    return Intent(
        services=tuple(
            Service(
                name=name,
                listeners=(Listener(protocol=Protocol.TCP, port=port, address=address),),
                endpoints=tuple(Endpoint(port=p, address=a) for a, p in PLACES[name][:3]),
            )
            for name, port, address in (("web", 80, ip_address(HOST4)), ("api", 81, None))
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
        slots, old = ([name(e) for e in s.slots(Family.IPV4)] for s in (new, services[at]))
        # The weight of an endpoint that takes no connections, say, changes no rule.
        if slots and (slots, new.scheduler) != (old, services[at].scheduler):
            services[at] = new
            break
    return Intent(services=tuple(services))


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Knock:
    """One connection: the kernel chose its endpoint somewhere between `begin` and `end`."""

    begin: float
    end: float
    port: int
    answer: str


class Storm:
    """Processes that serve and knock while the rules change."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._processes: list[subprocess.Popen[str]] = []
        self._counted: list[mmap.mmap] = []
        local = (f"{HOST4}:{port}" for _, port in PLACES["web"])
        remote = (f"{address}:{port}" for address, port in PLACES["api"])
        for namespace, places in ((network.host, local), (network.server, remote)):
            server = self._start(namespace, "serve", *places)
            assert server.stdout
            assert server.stdout.readline() == "ready\n"

    def _start(self, namespace: Namespace, *words: str) -> subprocess.Popen[str]:
        with namespace.entered():
            process = subprocess.Popen(
                [sys.executable, storm.__file__, *words],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        self._processes.append(process)
        return process

    def begin(self) -> None:
        targets = [f"{HOST4}:{port}" for port in (80, 81) * 4 + (82,)]
        for number in range(KNOCKERS):
            source = f"192.0.2.{100 + number}"
            self._network.client.address("uplink", f"{source}/24")
            path = self._network.folder / f"knocker-{number}"
            path.write_bytes(bytes(8))
            with path.open("r+b") as file:
                self._counted.append(mmap.mmap(file.fileno(), 8))
            self._start(self._network.client, "knock", str(path), source, *targets)

    def count(self) -> int:
        """The connections so far."""
        assert all(process.poll() is None for process in self._processes)
        return sum(int.from_bytes(counted[:], sys.byteorder) for counted in self._counted)

    def end(self) -> list[dict[str, Any]]:
        """What each knocker reports."""
        reports = [json.loads(p.communicate(timeout=30)[0]) for p in self._processes[2:]]
        self.close()
        return reports

    def close(self) -> None:
        for process in self._processes:
            if process.poll() is None:
                process.communicate(timeout=30)


def test_the_storm(network: Network) -> None:
    """20,000 connections under way during 200 random deltas: each goes where an intent of its time has it.

    Nobody is refused or reset; where turns are taken, each endpoint's count is the exact one, but for
    connections that were under way while the rules changed. Held connections echo all the time.
    """
    # One with which Maglev, whose tables take long to be read back, has a short part.
    dice = random.Random(11)
    host = LocalHost(network.folder)
    waves = Storm(network)
    try:
        with network.host.entered():
            # Alone: to ask iptables each time whether it holds our rules too takes longer than the change.
            session = engine.open_session(host, driver="libnftables", installed=[nftables])
            reigns = [reign(session, start())]
            waves.begin()
            kinds = dice.choices(KINDS, k=DELTAS)
            for number, kind in enumerate(kinds):
                # At least so many at each stage, however slow this machine is.
                while waves.count() < (number + 1) * CONNECTIONS / DELTAS:
                    time.sleep(0.002)
                reigns.append(reign(session, changed(reigns[-1].intent, kind, dice)))
                # Some pause, so that connections also begin and end under one intent.
                time.sleep(0.02)
        reports = waves.end()
    finally:
        waves.close()
    assert set(kinds) == set(KINDS)
    assert {s.scheduler for r in reigns for s in r.intent.services} == set(Scheduler)
    found = [
        Knock(begin=begin, end=end, port=int(target.rsplit(":")[1]), answer=answer)
        for report in reports
        for begin, end, target, answer in report["connections"]
    ]
    echoes = sum(report["echoes"] for report in reports)
    counted = hold_against(reigns, found)
    print(
        f"{len(found)} connections, {counted} of them counted in {DELTAS} reigns, {echoes} echoes of "
        f"{KNOCKERS * storm.HELD} held connections; "
        f"an apply took {median(r.done - r.begun for r in reigns) * 1000:.0f} ms"
    )
    assert [report["broken"] for report in reports] == [[]] * KNOCKERS
    assert echoes >= len(found)
    assert len(found) >= CONNECTIONS
    assert counted >= CONNECTIONS / 10


def reign(session: engine.Session, intent: Intent) -> Reign:
    plan = engine.plan(session, intent)
    assert plan.changed
    begun = time.monotonic()
    engine.apply(session, (plan,))
    return Reign(intent=intent, begun=begun, done=time.monotonic())


def hold_against(reigns: list[Reign], found: list[Knock]) -> int:
    """Assert that each connection was answered as some intent of its time has it; returns how many counted.

    An intent may choose from the moment when its apply begins to the one when the next one's has ended. A
    connection that lies within its undisputed time counts for it, one that only touches its time may.
    """
    ends = [r.done for r in reigns[1:]] + [math.inf]
    until = [r.begun for r in reigns[1:]] + [math.inf]
    counts: list[Counter[tuple[int, str]]] = [Counter() for _ in reigns]
    doubts: list[Counter[tuple[int, str]]] = [Counter() for _ in reigns]
    for knock in found:
        first = bisect_left(ends, knock.begin)
        last = bisect_right([r.begun for r in reigns], knock.end) - 1
        able: set[str] = set()
        for number in range(first, last + 1):
            able |= wanted(reigns[number].intent, knock.port)
            sure = reigns[number].done <= knock.begin and knock.end <= until[number]
            (counts if sure else doubts)[number][knock.port, knock.answer] += 1
        assert knock.answer in able, f"{knock} in reigns {first} to {last}: {able}"
    for number, each in enumerate(reigns):
        for service in each.intent.services:
            [listener] = service.listeners
            got, perhaps = (
                {who: n for (port, who), n in counter[number].items() if port == listener.port}
                for counter in (counts, doubts)
            )
            total = sum(got.values())
            slots = [name(e) for e in service.slots(Family.IPV4)]
            match service.scheduler:
                case Scheduler.ROUND_ROBIN:
                    for who in slots:
                        least, _ = turns(slots, who, total)
                        _, most = turns(slots, who, total + sum(perhaps.values()))
                        assert least - perhaps.get(who, 0) <= got.get(who, 0) <= most, (service, got, perhaps)
                case Scheduler.SOURCE_HASH | Scheduler.MAGLEV:
                    # As many clients as knockers, each with an endpoint of its own.
                    assert len(got) <= KNOCKERS, (service, got)
    return sum(each.total() for each in counts)


def wanted(intent: Intent, port: int) -> set[str]:
    """Who may answer on a port; "ConnectionRefusedError" where nobody is wanted."""
    for service in intent.services:
        if service.listeners[0].port == port:
            return {name(e) for e in service.ready(Family.IPV4)}
    return {"ConnectionRefusedError"}


def name(endpoint: Endpoint) -> str:
    return f"{endpoint.address or HOST4}:{endpoint.port}"


def turns(slots: list[str], to: str, count: int) -> tuple[int, int]:
    """The least and the most that an endpoint gets of `count` connections in a row, begun at any slot."""
    whole, rest = divmod(count, len(slots))
    parts = [sum((slots * 2)[i + j] == to for j in range(rest)) for i in range(len(slots))]
    return whole * slots.count(to) + min(parts), whole * slots.count(to) + max(parts)


def reigning(*services: Service) -> list[Reign]:
    """One intent for ten seconds, and then another one."""
    first, second = (Intent(services=(service,)) for service in services)
    return [Reign(intent=first, begun=0, done=1), Reign(intent=second, begun=10, done=11)]


WEB = start().services[0]
FIRST, SECOND = reigning(WEB, replace(WEB, endpoints=(Endpoint(port=8006),)))


def knocks(begin: float, *ports: int | str) -> list[Knock]:
    answers = [port if isinstance(port, str) else f"{HOST4}:{port}" for port in ports]
    return [Knock(begin=begin, end=begin + 0.5, port=80, answer=answer) for answer in answers]


def test_the_reckoning_of_the_storm() -> None:
    reigns = [FIRST, SECOND]
    in_turn = knocks(5, 8001, 8002, 8003, 8001)
    assert hold_against(reigns, in_turn + knocks(20, 8006)) == 5
    # While the rules change, either intent will do, and does not count.
    assert hold_against(reigns, in_turn + knocks(9.8, 8002, 8006) + knocks(10.8, 8006)) == 4


@pytest.mark.parametrize(
    "wrong",
    [
        knocks(5, 8006),
        knocks(20, 8001),
        knocks(20, "timeout"),
        knocks(9.8, "ConnectionResetError"),
        knocks(10.2, "ConnectionRefusedError"),
        # Twice in three turns; the fourth that nobody had takes one from somebody.
        knocks(5, 8001, 8001, 8002),
        knocks(5, 8001, 8001, 8002, 8002),
        knocks(5, 8001, 8001, 8001) + knocks(9.8, 8002),
    ],
)
def test_the_reckoning_of_the_storm_finds_what_is_wrong(wrong: list[Knock]) -> None:
    with pytest.raises(AssertionError):
        hold_against([FIRST, SECOND], wrong)
