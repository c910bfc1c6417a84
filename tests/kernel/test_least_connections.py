"""Least connections on the real kernel: long-lived connections, counted and dealt by the agent."""

import contextlib
import selectors
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from fractions import Fraction

import pytest

from lbctl.conformance.network import HOST4, SERVERS4
from support.agents import BOTH_BACKENDS, AgentProcess, wanted
from support.network import Network, intent, service

WEB = intent(
    service("web", f"{HOST4}:80/tcp", *(f"{address}:80" for address in SERVERS4))
    + 'scheduler = "least-connections"\n'
)
#: Connections for each endpoint at first, and those that are opened later.
EACH, LATER = 20, 30


class Keeping:
    """Servers that name themselves and keep each connection until its client ends it."""

    def __init__(self, network: Network) -> None:
        self._selector, self._ended = selectors.DefaultSelector(), threading.Event()
        with network.server.entered():
            for address in SERVERS4:
                listening = socket.create_server((address, 80), backlog=512)
                self._selector.register(listening, selectors.EVENT_READ, address)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._ended.is_set():
            for key, _ in self._selector.select(0.1):
                sock = key.fileobj
                assert isinstance(sock, socket.socket)
                if key.data:
                    made, _ = sock.accept()
                    made.sendall(key.data.encode())
                    self._selector.register(made, selectors.EVENT_READ, "")
                elif not sock.recv(100):
                    self._selector.unregister(sock)
                    sock.close()

    def close(self) -> None:
        self._ended.set()
        self._thread.join()
        for key in list(self._selector.get_map().values()):
            with contextlib.suppress(OSError):
                key.fileobj.close()  # type: ignore[union-attr]


class Clients:
    """Connections that stay, by who answered."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.open: dict[str, list[socket.socket]] = {address: [] for address in SERVERS4}

    def connect(self, count: int) -> Counter[str]:
        """Open so many more; return who answered them."""
        found: Counter[str] = Counter()
        with self.network.client.entered():
            for _ in range(count):
                sock = socket.create_connection((HOST4, 80), timeout=20)
                name = sock.recv(100).decode()
                self.open[name].append(sock)
                found[name] += 1
        return found

    def end(self, address: str) -> None:
        """End all connections to an endpoint."""
        while self.open[address]:
            self.open[address].pop().close()

    @property
    def counts(self) -> dict[str, int]:
        return {address: len(socks) for address, socks in self.open.items()}


@pytest.fixture
def clients(network: Network) -> Iterator[Clients]:
    keeping, made = Keeping(network), Clients(network)
    yield made
    for address in SERVERS4:
        made.end(address)
    keeping.close()


def shares(agent: AgentProcess) -> list[Fraction]:
    return [Fraction(share) for share in wanted(agent).values()]


@BOTH_BACKENDS
def test_new_connections_go_to_who_has_the_fewest(
    network: Network, clients: Clients, started: Callable[..., AgentProcess], way: tuple[str, ...]
) -> None:
    agent = started(WEB, *way)
    clients.connect(EACH * len(SERVERS4))
    assert min(clients.counts.values()) > EACH // 4
    busy = SERVERS4[2]
    for address in SERVERS4[:2]:
        clients.end(address)
    # The last one has all that are left, and gets one slot of 64.
    agent.wait(lambda: shares(agent)[2] == Fraction(1, 64), "connections are not counted")
    before = clients.counts[busy]
    found = clients.connect(LATER)
    # With turns, the busy one gets none or one of them; by chance, seldom more than a few.
    assert found[busy] <= (1 if "nftables" in way else LATER // 5)
    assert clients.counts[busy] == before + found[busy]
    clients.end(busy)
    agent.wait(lambda: shares(agent)[2] > Fraction(1, 2), "who has none gets no more than others")


def test_the_rules_stay_as_the_agent_left_them_and_none_begin_without_one(
    network: Network, clients: Clients, started: Callable[..., AgentProcess]
) -> None:
    path = network.folder / "lbctl.toml"
    path.write_text(WEB)
    refused = network.lbctl("apply", "--yes", config=path)
    assert refused.code == 3
    assert "agent" in refused.err
    assert "agent" in network.lbctl("plan", config=path).out
    agent = started(WEB)
    clients.connect(EACH)
    clients.end(SERVERS4[0])
    agent.wait(lambda: shares(agent)[0] > Fraction(1, 2), "connections are not counted")
    agent.kill()
    # What was dealt is on record: a plan changes nothing, and so does an apply.
    assert network.lbctl("plan", "--exit-code", config=path).code == 0
    assert network.lbctl("apply", "--yes", config=path).code == 0
    assert max(clients.connect(EACH).items(), key=lambda pair: pair[1])[0] == SERVERS4[0]
