"""What iptables does in its own way: trees of rules, hashes by `cluster`, two tables, two families."""

import fcntl
import random
import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from lbctl import engine
from lbctl.config import load
from lbctl.conformance.network import CLIENT4, HOST4, HOST6, SERVERS4
from lbctl.errors import ApplyFailed
from lbctl.host import Completed, LocalHost
from lbctl.host.netns import PrivateHost
from lbctl.model import Family
from support.network import Network, intent, service, weighted

LEGACY = ("--backend", "iptables", "--driver", "legacy")
FLAVOURS = pytest.mark.parametrize("flavour", ["legacy", "nf_tables"])


def options(flavour: str) -> tuple[str, ...]:
    return ("--backend", "iptables", "--driver", flavour)


def apply(network: Network, way: Sequence[str], text: str) -> None:
    done = network.lbctl("apply", "--yes", *way, config=text)
    assert done.code == 0, done.err


def test_a_lock_of_one_private_namespace_is_not_that_of_another(network: Network) -> None:
    command = ("iptables-legacy", "--table", "nat", "--append", "OUTPUT", "--jump", "ACCEPT")
    path = PrivateHost.environment["XTABLES_LOCKFILE"]
    with network.client.entered(), Path(path).open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        # Without -w, some versions wait for ever and others fail.
        network.tool(*command)
        with pytest.raises(ApplyFailed, match="holding the xtables lock"):
            network.client.run(*command, "--wait", "1")


# Trees of slots


@FLAVOURS
@pytest.mark.parametrize("weights", [(5, 4, 2), (31, 33), (500, 497)], ids=lambda w: f"{sum(w)}-slots")
def test_a_long_ladder_is_the_sequence_of_the_slots(
    network: Network, flavour: str, weights: tuple[int, ...]
) -> None:
    ports = [8001 + i for i in range(len(weights))]
    network.local_endpoints(ports)
    text = intent(
        service("web", "80/tcp") + weighted(**{f"e{p}_{p}": w for p, w in zip(ports, weights, strict=True)})
    )
    apply(network, options(flavour), text)
    [web] = load(network.folder / "lbctl.toml").services
    slots = [endpoint.to for endpoint in web.slots(Family.IPV4)]
    assert len(slots) == sum(weights)
    count = min(len(slots), 200)
    assert network.ask(network.client, HOST4, 80, count) == slots[:count]
    # Not by a list as long as the slots: few rules of the ladder were met by all, and the rest by some.
    status = network.lbctl("status", "--output", "json", *options(flavour), config=text).json
    assert [e["wanted"] for e in status["services"][0]["endpoints"]] == [
        f"{w}/{sum(weights)}" for w in weights
    ]
    assert sum(e["connections"] for e in status["services"][0]["endpoints"]) == count


@FLAVOURS
def test_a_tree_keeps_its_turn_over_changes_after_every_connection(network: Network, flavour: str) -> None:
    ports = tuple(str(8001 + i) for i in range(11))
    network.local_endpoints([int(port) for port in ports])
    answers = []
    for i in range(33):
        other = service("other", "81/tcp", "8001" if i % 2 else "8002")
        apply(network, options(flavour), intent(service("web", "80/tcp", *ports), other))
        answers += network.ask(network.client, HOST4, 80)
    assert answers == [*ports] * 3


def test_endpoints_that_come_and_go_after_every_connection_starve_nobody(network: Network) -> None:
    ports = [str(8001 + i) for i in range(12)]
    network.local_endpoints([int(port) for port in ports])
    answers = []
    for i in range(60):
        here = ports[: 9 + i % 4]
        apply(network, LEGACY, intent(service("web", "80/tcp", *here)))
        answers += network.ask(network.client, HOST4, 80)
    found = Counter(answers)
    assert set(found) >= set(ports[:9])
    assert max(found.values()) <= 3 * 60 / 9, found


# Hashes


def crowd(network: Network, ipv4: int, ipv6: int) -> list[tuple[str, str]]:
    """Addresses for the client: pairs of what it asks and of its own."""
    network.client.run("ip", "route", "add", "local", "198.18.0.0/15", "dev", "lo")
    network.client.run("ip", "-6", "route", "add", "local", "2001:db8:9::/64", "dev", "lo")
    network.host.ip("route", "add", "198.18.0.0/15", "via", CLIENT4)
    network.host.ip("-6", "route", "add", "2001:db8:9::/64", "via", "2001:db8:1::2")
    network.client.write("/proc/sys/net/ipv6/ip_nonlocal_bind", "1")
    dice = random.Random(4)
    return [
        *((HOST4, f"198.18.{dice.randrange(256)}.{i % 256}") for i in range(ipv4)),
        *((HOST6, f"2001:db8:9::{dice.randrange(1 << 16):x}:{i:x}") for i in range(ipv6)),
    ]


def served(network: Network, clients: Sequence[tuple[str, str]]) -> dict[str, str]:
    return {mine: network.ask(network.client, host, 80, source=mine)[0] for host, mine in clients}


@pytest.mark.parametrize("weights", [(1, 1, 1), (5, 4, 3, 3, 2), (20, 12)], ids=lambda w: f"{sum(w)}-slots")
def test_a_client_has_the_same_endpoint_on_both_backends(network: Network, weights: tuple[int, ...]) -> None:
    clients = crowd(network, 500, 0)
    network.local_endpoints([8001 + i for i in range(len(weights))])
    endpoints = weighted(**{f"e{i}_{8001 + i}": weight for i, weight in enumerate(weights)})
    text = intent(service("web", f"{HOST4}:80/tcp", scheduler="source-hash") + endpoints)
    found = []
    for way in (("--backend", "nftables"), LEGACY, options("iptc"), options("nf_tables")):
        apply(network, way, text)
        found.append(served(network, clients))
        assert network.lbctl("remove", "--yes", *way).code == 0
    assert found[1:] == [found[0]] * 3
    assert len(set(found[0].values())) == len(weights)


def test_the_kernels_hash_sees_the_first_half_of_half_an_ipv6_address(network: Network) -> None:
    """Why source-hash refuses IPv6: should a kernel hash all of it one day, this test says so."""
    clients = [mine for _, mine in crowd(network, 0, 100)]
    network.local_endpoints((80,))
    nodes = [
        f"-m cluster --cluster-total-nodes 8 --cluster-local-node {i} --cluster-hash-seed 7"
        for i in range(1, 9)
    ]
    rules = [f"-A PREROUTING -p tcp --dport 80 {node}" for node in nodes]
    network.tool("ip6tables-legacy-restore", stdin="\n".join(["*nat", *rules, "COMMIT\n"]))
    for mine in clients:
        assert network.ask(network.client, HOST6, 80, source=mine) == ["80"]
    dump = network.tool("ip6tables-legacy-save", "-c", "-t", "nat").splitlines()
    assert sorted(line.split(":")[0] for line in dump if "cluster" in line) == ["[0"] * 7 + ["[100"]


@pytest.mark.parametrize("flavour", ["legacy", "iptc", "nf_tables"])
@pytest.mark.parametrize("scheduler", ["source-hash", "maglev"])
def test_other_hashes_are_for_those_who_allow_them(network: Network, flavour: str, scheduler: str) -> None:
    ports = [8001 + i for i in range(37)]
    clients = crowd(network, 1000, 400)
    network.local_endpoints(ports)
    text = intent(service("web", "80/tcp", f"{ports[0]}-{ports[-1]}", scheduler=scheduler))
    refused = network.lbctl("apply", "--yes", *options(flavour), config=text)
    assert refused.code == 3
    assert "--allow-remap" in refused.err
    done = network.lbctl("apply", "--yes", "--allow-remap", *options(flavour), config=text)
    assert done.code == 0, done.err
    found = served(network, clients)
    assert served(network, clients[::14]) == {mine: found[mine] for _, mine in clients[::14]}
    for family in (clients[:1000], clients[1000:]):
        counts = Counter(found[mine] for _, mine in family)
        expected = len(family) / len(ports)
        chi_square = sum((counts[str(port)] - expected) ** 2 / expected for port in ports)
        # p > 0.001 at 36 degrees of freedom; the clients and seeds are the same in every run.
        assert chi_square < 67.98, counts
    plan = network.lbctl("plan", "--allow-remap", "--output", "json", *options(flavour), config=text)
    assert not plan.json["changed"]


def test_what_a_hash_cannot_do_is_refused_with_its_reason(network: Network) -> None:
    many = service("web", f"{HOST4}:80/tcp", "8001-8033", scheduler="source-hash")
    six = service("web", f"[{HOST6}]:80/tcp", "8001-8002", scheduler="source-hash")
    table = service("web", f"{HOST4}:80/tcp", "8001-8002", scheduler="maglev")
    for text, reason in (
        (many, "scheduler source-hash with 33 slots, more than 32"),
        (six, "scheduler source-hash of IPv6 clients"),
        (table, "scheduler maglev"),
    ):
        for command in ("plan", "apply", "check", "render"):
            done = network.lbctl(command, *LEGACY[:2], config=intent(text))
            if command != "check":
                assert (done.code, reason in done.err) == (3, True), (command, done.err)


# Trees of listeners


def many(network: Network, count: int) -> list[tuple[str, int, str]]:
    """Addresses and ports of this host, in heaps and scattered, with the endpoint's port that each gets."""
    network.host.run("ip", "route", "add", "local", "10.77.0.0/16", "dev", "lo")
    network.host.run("ip", "-6", "route", "add", "local", "2001:db8:77::/64", "dev", "lo")
    dice = random.Random(7)
    places: set[tuple[str, int]] = set()
    while len(places) < count:
        near = f"10.77.0.{dice.randrange(16)}"
        far = f"10.77.{dice.randrange(256)}.{dice.randrange(256)}"
        six = f"2001:db8:77::{dice.randrange(1 << 16):x}:{dice.randrange(64):x}"
        places.add((dice.choice((near, far, six)), dice.choice((80, 443, dice.randrange(1024, 8000)))))
        if len(places) % 4 == 0:
            # On any address, where no other listener has the port.
            places.add(("", dice.randrange(500, 1000)))
    return [(address, port, str(8001 + i % 3)) for i, (address, port) in enumerate(sorted(places))]


def listening(places: Sequence[tuple[str, int, str]]) -> list[str]:
    texts = []
    for i, (address, port, to) in enumerate(places):
        host = f"[{address}]:" if ":" in address else f"{address}:" if address else ""
        texts.append(service(f"s{i}", f"{host}{port}/tcp", to))
    return texts


@FLAVOURS
def test_every_one_of_many_listeners_is_found(network: Network, flavour: str) -> None:
    network.local_endpoints((8001, 8002, 8003))
    places = many(network, 400)
    apply(network, options(flavour), intent(*listening(places)))
    for address, port, to in places:
        assert network.ask(network.client, address or HOST4, port) == [to], (address, port)
        if not address:
            assert network.ask(network.client, HOST6, port) == [to], (address, port)
    taken = {(address, port) for address, port, _ in places}
    for address, port, _ in places[::17]:
        if address and (address, port + 1) not in taken and ("", port + 1) not in taken:
            assert network.ask(network.client, address, port + 1) == ["refused"]


def test_one_listener_more_rewrites_few_chains(network: Network) -> None:
    places = many(network, 400)
    texts = listening(places)
    apply(network, LEGACY, intent(*texts))
    for left in (0, 100, 250, len(texts) - 1):
        before = network.tool("iptables-legacy-save"), network.tool("ip6tables-legacy-save")
        apply(network, LEGACY, intent(*texts[:left], *texts[left + 1 :]))
        after = network.tool("iptables-legacy-save"), network.tool("ip6tables-legacy-save")
        changed = [
            {line.split()[1] for line in set(old.splitlines()) ^ set(new.splitlines()) if line[:3] == "-A "}
            for old, new in zip(before, after, strict=True)
        ]
        # The service's own chain and that of its range; where nine become eight, those below as well.
        assert all(len(chains) <= 6 for chains in changed), changed
        assert any(changed), (left, texts[left])
        apply(network, LEGACY, intent(*texts))


# Two tables


@FLAVOURS
def test_nothing_leaks_while_endpoints_go_and_come(network: Network, flavour: str) -> None:
    """Refusing is the filter table's, balancing the nat table's: between the two nobody slips through."""
    network.local_endpoints((8001, 8002))
    network.local_endpoints((80,))
    rest = service("rest", "81/tcp", "8001", allow=["203.0.113.0/24"])
    ready = service("web", "80/tcp", "8001", "8002")
    gone = service("web", "80/tcp") + weighted(a_8001=1).replace("weight = 1", 'state = "drain"')
    closed = service("web", "80/tcp", "8001", allow=["203.0.113.0/24"])
    open_ = service("web", "80/tcp", "8001", "8002", allow=["192.0.2.0/24", "203.0.113.0/24"])
    apply(network, options(flavour), intent(ready))
    answers: Counter[str] = Counter()
    over = threading.Event()

    def knock() -> None:
        while not over.is_set():
            answers.update(network.ask(network.client, HOST4, 80, 20))

    client = threading.Thread(target=knock)
    client.start()
    try:
        for i in range(24):
            web = (gone, open_, closed, ready)[i % 4]
            apply(network, options(flavour), intent(web, *([rest] if i % 3 else [])))
    finally:
        over.set()
        client.join()
    assert answers["80"] == 0, answers
    assert set(answers) <= {"8001", "8002", "refused"}
    assert answers["refused"]
    assert answers["8002"]


def test_a_client_that_is_not_allowed_is_refused_by_every_listener(network: Network) -> None:
    network.remote_endpoints(8080)
    networks = [f"203.0.113.{4 * i}/30" for i in range(20)] + [f"{CLIENT4}/32"]
    texts = [
        service(f"s{i}", f"{port}/tcp", *(f"{a}:8080" for a in SERVERS4), allow=networks)
        for i, port in enumerate(range(81, 93))
    ]
    apply(network, LEGACY, intent(*texts))
    network.client.address("uplink", "203.0.113.200/32")
    network.host.ip("route", "add", "203.0.113.200/32", "via", CLIENT4)
    for port in range(81, 93):
        assert set(network.ask(network.client, HOST4, port, 3)) == set(SERVERS4)
        assert network.ask(network.client, HOST4, port, source="203.0.113.200") == ["refused"]


@FLAVOURS
def test_another_mark_is_taken_where_clients_are_refused(network: Network, flavour: str) -> None:
    """The jumps into the filter table name the mark: they change last."""
    network.local_endpoints((8001,))
    denying, allowing = (
        intent(service("web", "80/tcp", "8001", **{key: ["192.0.2.0/24"]})) for key in ("deny", "allow")
    )
    for mark in ("0x3000", "0xc", "0x3000"):
        other = f"schema = 1\nmark = {mark}\n"
        apply(network, options(flavour), denying.replace("schema = 1\n", other))
        assert network.ask(network.client, HOST4, 80) == ["refused"]
    for mark in ("0x3000", "0xc"):
        other = f"schema = 1\nmark = {mark}\n"
        apply(network, options(flavour), allowing.replace("schema = 1\n", other))
        assert network.ask(network.client, HOST4, 80) == ["8001"]
    saved = network.tool("iptables-nft-save" if flavour == "nf_tables" else "iptables-legacy-save")
    assert "0x3000" not in saved
    assert "0x0/0xc" in saved


def test_an_endpoint_on_the_listeners_own_port_is_served_where_clients_are_chosen(network: Network) -> None:
    """Nothing is translated then, so only the mark tells who was served."""
    network.local_endpoints((80, 8002))
    text = intent(service("web", "80/tcp", "80", "8002", allow=[f"{CLIENT4}/32", "127.0.0.0/8"]))
    for flavour in ("legacy", "nf_tables"):
        apply(network, options(flavour), text)
        assert network.ask(network.client, HOST4, 80, 4) == ["80", "8002"] * 2
        assert network.ask(network.host, "127.0.0.1", 80, 4) == ["80", "8002"] * 2
        assert network.lbctl("remove", "--yes", *options(flavour)).code == 0


# The mark


def test_no_bit_of_the_mark_is_touched_but_two(network: Network) -> None:
    network.remote_endpoints(8080)
    text = "mark = 0x30\n" + intent(
        service("web", "80/tcp", *(f"{a}:8080" for a in SERVERS4), source_nat="always")
    )
    network.tool(
        "iptables-legacy", "-t", "mangle", "-A", "PREROUTING", "-j", "MARK", "--set-mark", "0xabcdef03"
    )
    seen = ("iptables-legacy", "-t", "mangle", "-A", "POSTROUTING", "-o", "inside", "-m", "mark")
    network.tool(*seen, "--mark", "0xabcdef23", "-j", "ACCEPT")
    apply(network, LEGACY, text)
    assert set(network.ask(network.client, HOST4, 80, 3)) == set(SERVERS4)
    dump = network.tool("iptables-legacy-save", "-c", "-t", "mangle")
    [line] = [line for line in dump.splitlines() if "0xabcdef23" in line]
    # The first packet of each connection: the source table, which clears them, is passed after mangle.
    assert line.startswith("[3:")


# Two families


class Crash(BaseException):
    """The process is gone."""


class CrashingHost(LocalHost):
    """A host that loses the process when the second family is loaded."""

    def run(self, argv: Sequence[str], *, stdin: str = "") -> Completed:
        if "ip6tables" in argv[0] and argv[0].endswith("restore") and stdin and "--test" not in argv:
            raise Crash
        return super().run(argv, stdin=stdin)


def test_a_crash_between_the_families_of_a_program_without_history_is_completed_by_the_next_apply(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    network.local_endpoints((8001, 8002))
    monkeypatch.setenv("LBCTL_STATE_DIR", str(network.folder))
    text = intent(service("web", "80/tcp", "8001", "8002"))
    path = network.folder / "lbctl.toml"
    path.write_text(text)
    with network.host.entered():
        session = engine.open_session(CrashingHost(), backend="iptables", driver="legacy")
        with pytest.raises(Crash):
            engine.apply(session, (engine.plan(session, load(path)),))
    assert network.ask(network.client, HOST4, 80, 2) == ["8001", "8002"]
    assert network.ask(network.client, HOST6, 80) == ["refused"]
    assert not network.lbctl("status", "--output", "json", *LEGACY, config=path).json["in_sync"]
    apply(network, LEGACY, text)
    assert network.ask(network.client, HOST6, 80, 2) == ["8001", "8002"]


class RefusingHost(LocalHost):
    """A host whose second family is refused when it is loaded, though not when it is checked."""

    def run(self, argv: Sequence[str], *, stdin: str = "") -> Completed:
        if "ip6tables" in argv[0] and argv[0].endswith("restore") and stdin and "--test" not in argv:
            return Completed(code=1, out="", err="no room")
        return super().run(argv, stdin=stdin)


def test_the_first_family_is_taken_back_in_both_tables(network: Network) -> None:
    network.local_endpoints((8001, 8002))
    before = intent(
        service("web", "80/tcp", "8001"), service("gone", "82/tcp", "8001", allow=["203.0.113.1"])
    )
    apply(network, LEGACY, before)
    rules = network.rules()
    path = network.folder / "lbctl.toml"
    path.write_text(intent(service("web", "80/tcp", "8001", "8002", allow=["192.0.2.0/24"])))
    with network.host.entered():
        session = engine.open_session(RefusingHost(network.folder), backend="iptables", driver="legacy")
        made = engine.plan(session, load(path))
        with pytest.raises(Exception, match="no room"):
            engine.apply(session, (made,))
    assert network.rules() == rules
    assert network.lbctl("plan", "--exit-code", *LEGACY, config=before).code == 0
