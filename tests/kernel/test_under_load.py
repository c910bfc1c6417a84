"""Changes while connections keep coming: not one is refused, reset or sent to nobody."""

import random
import threading
from collections import Counter

import pytest

from lbctl import engine
from lbctl.host import LocalHost
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
