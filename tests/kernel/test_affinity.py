"""Clients that keep their endpoint: who is remembered, how long, and what ends it."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from lbctl import engine
from lbctl.config import load
from lbctl.conformance.network import CLIENT4, CLIENT6, HOST4, HOST6, SERVERS4, SERVERS6
from lbctl.host import Completed, LocalHost
from support.network import BOTH, Network, intent, service

PORTS = ("8001", "8002", "8003")
LISTEN = ["80/tcp", f"{HOST4}:443/tcp", "53/udp"]
MORE4 = tuple(f"192.0.2.{i}" for i in range(10, 16))


@pytest.fixture
def world(network: Network) -> Network:
    """A network whose client has more addresses, with endpoints on the host and elsewhere."""
    network.client.address("uplink", *(f"{address}/24" for address in MORE4))
    network.local_endpoints((8001, 8002, 8003), "tcp", "udp")
    network.remote_endpoints(80, "tcp", "udp")
    return network


def apply(network: Network, options: tuple[str, ...], *services: str) -> None:
    done = network.lbctl("apply", "--yes", *options, config=intent(*services))
    # Not a word: the library would warn of rules that it has no JSON for.
    assert (done.code, done.said) == (0, "Applied.\n"), done.err
    in_sync(network, options)


def in_sync(network: Network, options: tuple[str, ...]) -> None:
    planned = network.lbctl("plan", "--rules", "--exit-code", *options, config=network.folder / "lbctl.toml")
    assert planned.code == 0, planned.out


def counts(network: Network, options: tuple[str, ...]) -> dict[str, int]:
    told = network.lbctl("status", "--output", "json", *options, config=network.folder / "lbctl.toml").json
    return {e["to"]: e["connections"] for s in told["services"] for e in s["endpoints"] if e["connections"]}


def known(network: Network, name: str, word: str = "ip") -> dict[str, Any]:
    """Client → its endpoint, as nft shows it."""
    listed = json.loads(network.tool("nft", "--json", "list", "map", word, "lbctl", name))["nftables"]
    [found] = [entry["map"] for entry in listed if "map" in entry]
    return {key["elem"]["val"]: data for key, data in found.get("elem", [])}


def remote(name: str, *addresses: str, **options: Any) -> str:
    places = [f"[{a}]:80" if ":" in a else f"{a}:80" for a in addresses]
    return service(name, LISTEN, *places, **{"affinity": "3h", **options})


@BOTH
@pytest.mark.parametrize("scheduler", ["round-robin", "random", "source-hash", "maglev"])
@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_client_keeps_its_endpoint(
    world: Network, options: tuple[str, ...], scheduler: str, elsewhere: bool
) -> None:
    """On every listener and protocol, in both families, from outside and from the host itself."""
    if elsewhere:
        text = remote("web", *SERVERS4, *SERVERS6, scheduler=scheduler, source_nat="always")
    else:
        text = service("web", LISTEN, *PORTS, affinity="3h", scheduler=scheduler)
    apply(world, options, text)
    taken: Counter[str] = Counter()
    # A process on all addresses answers datagrams of its own host from another one, unless over loopback.
    own = {"ip": HOST4, "ip6": HOST6} if elsewhere else {"ip": "127.0.0.1", "ip6": "::1"}
    for namespace, hosts in ((world.client, (HOST4, HOST6)), (world.host, own.values())):
        for host in hosts:
            answers = world.ask(namespace, host, 80, 4) + world.ask(namespace, host, 53, 3, kind="udp")
            answers += world.ask(namespace, host, 443, 3) if host == HOST4 else []
            assert len(set(answers)) == 1, answers
            assert answers[0] not in {"refused", "timeout"}
            taken.update(answers)
    assert sum(taken.values()) == (34 if elsewhere else 31)
    found = counts(world, options)
    if elsewhere:
        assert found == {f"[{a}]:80" if ":" in a else f"{a}:80": n for a, n in taken.items()}
    else:
        assert found == taken
    prefix = "" if elsewhere else "local-"
    assert set(known(world, f"{prefix}affinity-web")) == {CLIENT4, own["ip"]}
    assert set(known(world, f"{prefix}affinity-web", "ip6")) == {CLIENT6, own["ip6"]}
    in_sync(world, options)
    before = world.tool("nft", "list", "table", "ip", "lbctl")
    apply_again = world.lbctl("apply", "--yes", *options, config=world.folder / "lbctl.toml")
    assert apply_again.code == 0
    # The time that is left is all that moves.
    without_times = lambda text: [line.split(" expires ")[0] for line in text.splitlines()]  # noqa: E731
    assert without_times(before) == without_times(world.tool("nft", "list", "table", "ip", "lbctl"))


def test_new_clients_go_round(world: Network, options: tuple[str, ...]) -> None:
    apply(world, options, service("web", "80/tcp", *PORTS, affinity="3h"))
    first = [world.ask(world.client, HOST4, 80, 1, source=source)[0] for source in MORE4]
    assert first == [*PORTS, *PORTS]
    for _ in range(2):
        assert [world.ask(world.client, HOST4, 80, 1, source=source)[0] for source in MORE4] == first


def test_changes_leave_clients_where_they_are(world: Network, options: tuple[str, ...]) -> None:
    apply(world, options, service("web", "80/tcp", "8001", "8002", affinity="3h"))
    ask = lambda: [world.ask(world.client, HOST4, 80, 1, source=s)[0] for s in MORE4[:4]]  # noqa: E731
    served = ask()
    assert served == ["8001", "8002"] * 2
    more = service("web", "80/tcp", *PORTS, affinity="3h")
    other = service("other", "81/tcp", "8003", affinity="1d")
    for services in (
        (more,),
        (more, other),
        (more.replace("3h", "26h"), other),
        (service("web", ["80/tcp", "82/tcp"], *PORTS, affinity="26h", scheduler="random"),),
    ):
        apply(world, options, *services)
        assert ask() == served
    # Every connection since the first, across all changes.
    assert counts(world, options) == {"8001": 10, "8002": 10}


@pytest.mark.parametrize("how", ["drain", "gone", "backup"])
def test_clients_of_an_endpoint_that_leaves_are_moved(
    world: Network, options: tuple[str, ...], how: str
) -> None:
    def stated(**states: str) -> str:
        tables = "".join(
            f'[[service.endpoint]]\naddress = "{port[1:]}"\nstate = "{state}"\n'
            for port, state in states.items()
        )
        return service("web", "80/tcp", affinity="3h") + tables

    if how == "backup":
        before = stated(p8001="backup", p8002="backup", p8003="drain")
        after = stated(p8001="backup", p8002="drain", p8003="drain")
    else:
        before = stated(p8001="active", p8002="active")
        after = stated(p8001="active", p8002="drain") if how == "drain" else stated(p8001="active")
    apply(world, options, before)
    ask = lambda: [world.ask(world.client, HOST4, 80, 1, source=s)[0] for s in MORE4[:4]]  # noqa: E731
    assert ask() == ["8001", "8002"] * 2
    apply(world, options, after)
    assert known(world, "local-affinity-web") == {MORE4[0]: 8001, MORE4[2]: 8001}
    assert ask() == ["8001"] * 4
    if how == "backup":
        apply(world, options, stated(p8001="backup", p8002="drain", p8003="active"))
        assert known(world, "local-affinity-web") == {}
        assert ask() == ["8003"] * 4


@pytest.mark.parametrize("source_nat", ["always", "hairpin"])
def test_clients_of_an_address_that_leaves_are_moved(
    world: Network, options: tuple[str, ...], source_nat: str
) -> None:
    apply(world, options, remote("api", *SERVERS4[:2], *SERVERS6[:2], source_nat=source_nat))
    hosts = (HOST4, HOST6)
    assert [world.ask(world.client, host, 80, 2) for host in hosts] == [[SERVERS4[0]] * 2, [SERVERS6[0]] * 2]
    apply(world, options, remote("api", *SERVERS4[1:], *SERVERS6[1:], source_nat=source_nat))
    assert known(world, "affinity-api") == known(world, "affinity-api", "ip6") == {}
    for host in hosts:
        [answer] = set(world.ask(world.client, host, 80, 4))
        assert answer in {*SERVERS4[1:], *SERVERS6[1:]}
    assert set(known(world, "affinity-api")) == {CLIENT4}
    assert set(known(world, "affinity-api", "ip6")) == {CLIENT6}


def test_what_is_only_forwarded_is_not_learned(world: Network, options: tuple[str, ...]) -> None:
    apply(world, options, remote("api", *SERVERS4))
    assert world.ask(world.client, SERVERS4[2], 80, 2) == [SERVERS4[2]] * 2
    assert known(world, "affinity-api") == {}
    assert counts(world, options) == {}


def test_an_endpoint_on_the_listeners_own_port(world: Network, options: tuple[str, ...]) -> None:
    world.local_endpoints((80,))
    apply(world, options, service("web", "80/tcp", "80", "8001", affinity="3h"))
    assert world.ask(world.client, HOST4, 80, 2) == ["80"] * 2
    assert world.ask(world.host, HOST4, 80, 2) == ["8001"] * 2
    assert world.ask(world.host, "127.0.0.1", 80, 2) == ["80"] * 2
    assert counts(world, options) == {"80": 4, "8001": 2}


class Meddler(LocalHost):
    """A host on which something happens just before a command whose words or input contain `trigger`."""

    def __init__(self, folder: Path, trigger: str, happens: Callable[[], object]) -> None:
        super().__init__(folder)
        self.left = [happens]
        self._trigger = trigger

    def run(self, argv: Sequence[str], *, stdin: str = "") -> Completed:
        if self.left and self._trigger in f"{' '.join(argv)} {stdin}":
            self.left.pop()()
        return super().run(argv, stdin=stdin)


class Interrupted(Exception):
    """The process ends here."""


def interrupt() -> None:
    raise Interrupted


def apply_here(network: Network, host: LocalHost, text: str) -> None:
    path = network.folder / "lbctl.toml"
    path.write_text(text, encoding="utf-8")
    with network.host.entered():
        session = engine.open_session(host, backend="nftables", driver="nft")
        engine.apply(session, (engine.plan(session, load(path)),))


BEFORE = remote("api", *SERVERS4[:2], *SERVERS6[:2])
AFTER = remote("api", SERVERS4[1], SERVERS6[1])


@pytest.fixture
def learned(world: Network, options: tuple[str, ...]) -> Network:
    """The world with two clients of each of two endpoints' families."""
    apply(world, options, BEFORE)
    for source in MORE4[:2]:
        world.ask(world.client, HOST4, 80, 1, source=source)
    world.ask(world.client, HOST6, 80, 1)
    assert set(known(world, "affinity-api")) == set(MORE4[:2])
    return world


def test_an_apply_that_ended_early_is_made_good(learned: Network, options: tuple[str, ...]) -> None:
    host = Meddler(learned.folder, "delete element ip lbctl affinity-api", interrupt)
    with pytest.raises(Interrupted):
        apply_here(learned, host, intent(AFTER))
    assert set(known(learned, "affinity-api")) == set(MORE4[:2])
    planned = learned.lbctl("plan", "--exit-code", *options, config=intent(AFTER))
    assert planned.code == 1
    assert "~ api" in planned.out
    apply(learned, options, AFTER)
    assert list(known(learned, "affinity-api")) == [MORE4[1]]
    assert known(learned, "affinity-api", "ip6") == {}


@pytest.mark.parametrize("moved", [False, True])
def test_an_entry_may_end_while_it_is_taken_out(
    learned: Network, options: tuple[str, ...], moved: bool
) -> None:
    """By its time; its client may even have come again and be elsewhere already."""

    def expire() -> None:
        entry = ("element", "ip", "lbctl", "affinity-api")
        learned.tool("nft", "delete", *entry, f"{{ {MORE4[0]} }}")
        if moved:
            learned.tool("nft", "add", *entry, f"{{ {MORE4[0]} timeout 1h : {SERVERS4[1]} . 80 }}")

    host = Meddler(learned.folder, "delete element ip lbctl affinity-api", expire)
    apply_here(learned, host, intent(AFTER))
    assert host.left == []
    assert set(known(learned, "affinity-api")) == set(MORE4[not moved : 2])
    in_sync(learned, options)


class Restless(LocalHost):
    """A host whose clients never rest: before each script that forgets some, whoever ends next has moved."""

    def __init__(self, network: Network, clients: list[str]) -> None:
        super().__init__(network.folder)
        self._network = network
        self.left = clients

    def run(self, argv: Sequence[str], *, stdin: str = "") -> Completed:
        if "delete element ip lbctl affinity-api" in stdin and self.left:
            client = self.left.pop()
            entry = ("element", "ip", "lbctl", "affinity-api")
            if client in known(self._network, "affinity-api"):
                self._network.tool("nft", "delete", *entry, f"{{ {client} }}")
            self._network.tool("nft", "add", *entry, f"{{ {client} timeout 1h : {SERVERS4[1]} . 80 }}")
        return super().run(argv, stdin=stdin)


def test_clients_that_come_and_go_while_many_are_forgotten(learned: Network) -> None:
    clients = [f"198.51.100.{number}" for number in range(40)]
    entries = (f"{c} timeout {200 - n}s : {SERVERS4[0]} . 80" for n, c in enumerate(clients))
    learned.tool("nft", "add", "element", "ip", "lbctl", "affinity-api", f"{{ {', '.join(entries)} }}")
    host = Restless(learned, clients)
    apply_here(learned, host, intent(AFTER))
    assert host.left
    assert {data["concat"][0] for data in known(learned, "affinity-api").values()} == {SERVERS4[1]}


@pytest.mark.parametrize(
    "edit",
    [
        "flush chain ip lbctl learn-web",
        "flush chain ip lbctl learning-input",
        "delete element ip lbctl local-endpoints-web { 8002 }",
        "add element ip lbctl local-endpoints-web { 8009 }",
        "delete element ip lbctl learned-ports { tcp . 80 }",
        "add rule ip lbctl learn-web update @local-affinity-web { ip saddr timeout 5s : 8002 }",
    ],
)
def test_an_edit_by_hand_is_repaired_and_clients_stay(
    world: Network, options: tuple[str, ...], edit: str
) -> None:
    text = service("web", "80/tcp", "8001", "8002", affinity="3h")
    apply(world, options, text)
    assert world.ask(world.client, HOST4, 80, 2) == ["8001"] * 2
    world.tool("nft", "-f", "-", stdin=edit + "\n")
    assert world.lbctl("plan", "--exit-code", *options, config=intent(text)).code == 1
    apply(world, options, text)
    assert known(world, "local-affinity-web") == {CLIENT4: 8001}


def test_a_map_declared_otherwise_is_repaired(world: Network, options: tuple[str, ...]) -> None:
    text = service("web", "80/tcp", "8001", "8002", affinity="3h")
    apply(world, options, text)
    script = world.tool("nft", "list", "table", "ip", "lbctl").replace("size 65536", "size 10")
    world.tool("nft", "-f", "-", stdin="delete table ip lbctl\n" + script)
    assert world.lbctl("plan", "--exit-code", *options, config=intent(text)).code == 1
    apply(world, options, text)


def test_affinity_comes_and_goes(world: Network, options: tuple[str, ...]) -> None:
    apply(world, options, service("web", "80/tcp", "8001", "8002"))
    apply(world, options, service("web", "80/tcp", "8001", "8002", affinity="3h"))
    assert len(set(world.ask(world.client, HOST4, 80, 4))) == 1
    apply(world, options, remote("web", *SERVERS4))
    assert len(set(world.ask(world.client, HOST4, 80, 4))) == 1
    apply(world, options, service("web", "80/tcp", "8001", "8002"))
    assert Counter(world.ask(world.client, HOST4, 80, 4)) == {"8001": 2, "8002": 2}


def test_ipv6_endpoints_with_different_ports_are_refused(world: Network, options: tuple[str, ...]) -> None:
    text = intent(service("api", "80/tcp", "[2001:db8:2::11]:80", "[2001:db8:2::12]:81", affinity="3h"))
    done = world.lbctl("apply", "--yes", *options, config=text)
    assert done.code == 3
    assert "affinity among IPv6 endpoints with different ports" in done.err
