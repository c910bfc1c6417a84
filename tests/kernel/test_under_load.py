"""Changes while connections keep coming: not one is refused, reset or sent to nobody."""

import random
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pytest

from lbctl import engine
from lbctl.errors import StateUnknown
from lbctl.host import Completed, LocalHost
from lbctl.model import Endpoint, Intent, Listener, Protocol, Service
from support.network import DRIVERS, HOST4, Network

PORTS = range(8001, 8007)
CHANGES = 100


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
        for _ in range(CHANGES):
            with network.host.entered():
                plan = engine.plan(session, wanted := intent(dice))
                engine.apply(session, (plan,))
                assert not engine.plan(session, wanted).changed
    finally:
        over.set()
        for client in clients:
            client.join()
    print(
        f"{backend} through {driver}: {answers.total()} connections during {CHANGES} changes: {dict(answers)}"
    )
    assert set(answers) <= {str(port) for port in PORTS}
    assert answers.total() > 1000


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
