"""A second balancer goes on with connections that it never saw begin, with no state shared.

Each test switches the routes of clients and endpoints from one balancer to another, both with the same file.
"""

import re
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any, cast

import pytest

from support.balancers import (
    CLIENTS4,
    CLIENTS6,
    ENDPOINTS4,
    ENDPOINTS6,
    PORT,
    SERVICE4,
    SERVICE6,
    Balancer,
    Balancers,
    until,
)
from support.network import Network, intent, service
from support.waves import Storm

PLACES = [*(f"{a}:{PORT}" for a in ENDPOINTS4), *(f"[{a}]:{PORT}" for a in ENDPOINTS6)]
LISTEN = [f"{SERVICE4}:80/tcp", f"[{SERVICE6}]:80/tcp", f"{SERVICE4}:80/udp"]
COUNT = 200
#: The port of a second service, and that of its endpoints.
OTHER, OTHER_PORT = 81, 8081
SWITCHES = 4
LOOSE, LIBERAL = (f"/proc/sys/net/netfilter/nf_conntrack_tcp_{word}" for word in ("loose", "be_liberal"))
NFT, LEGACY, IPTABLES_NFT = ("nftables", "libnftables"), ("iptables", "legacy"), ("iptables", "nf_tables")


@pytest.fixture
def balancers(tmp_path: Path) -> Iterator[Balancers]:
    made = Balancers(tmp_path, 2)
    yield made
    made.close()


@pytest.fixture(params=[NFT, LEGACY], ids=lambda way: way[1])
def options(request: pytest.FixtureRequest) -> tuple[str, ...]:
    backend, driver = request.param
    remap = ("--allow-remap",) if backend == "iptables" else ()
    return ("--backend", backend, "--driver", driver, *remap)


def apply(balancers: Balancers, options: tuple[str, ...], *others: str, **keys: object) -> None:
    text = intent(service("web", LISTEN, *PLACES, **keys), *others)
    for host in balancers.hosts:
        done = host.lbctl("apply", "--yes", *options, config=text)
        assert done.code == 0, done.err
    # The last one reads its rules again: nothing differs.
    planned = host.lbctl("plan", "--exit-code", "--rules", *options, config=text)
    assert planned.code == 0, planned.out


def other(scheduler: str) -> str:
    """Return a second service of the same endpoints, for another scheduler."""
    listen = [f"{SERVICE4}:{OTHER}/tcp", f"[{SERVICE6}]:{OTHER}/tcp"]
    places = [place.replace(f":{PORT}", f":{OTHER_PORT}") for place in PLACES]
    return service("other", listen, *places, scheduler=scheduler, takeover=True)


@pytest.mark.parametrize("options", [NFT, LEGACY, IPTABLES_NFT], indirect=True, ids=lambda way: way[1])
def test_no_connection_is_lost(balancers: Balancers, options: tuple[str, ...]) -> None:
    """Of either scheduler and family, whether the client or the server sends first."""
    apply(balancers, options, other("maglev"), scheduler="source-hash", takeover=True)
    one, two = balancers.hosts
    processes = balancers.processes(PORT, OTHER_PORT)
    balancers.lead_through(one)
    places = list(product((SERVICE4, SERVICE6), (80, OTHER)))
    by_client, by_server = (
        [balancers.connections(COUNT // len(places), address, port) for address, port in places]
        for _ in ("client", "server")
    )

    def lost() -> list[int]:
        processes.say(b"s", *(place for each in by_server for place in each.places))
        for each in (*by_client, *by_server):
            each.say(b"c")
        return [*(each.lost(b"c") for each in by_client), *(each.lost(b"s", b"c") for each in by_server)]

    none = [0] * 2 * len(places)
    # First once around, so that each endpoint has accepted its connections.
    for each in (*by_client, *by_server):
        each.say(b"a")
    assert [each.lost(b"a") for each in (*by_client, *by_server)] == none
    assert len(processes.accepted) >= 10
    balancers.lead_through(two)
    assert lost() == none
    # And back again, to a host that knows the connections of old and missed what was said since.
    one.host.write(LIBERAL, "1")
    balancers.lead_through(one)
    assert lost() == none


def test_a_storm_passes_from_host_to_host(balancers: Balancers, tmp_path: Path) -> None:
    """New connections without a pause, and 150 that talk all the time, while the routes go back and forth.

    Others are silent until their endpoints send, right behind each switch: to a host that does not know them.
    """
    apply(balancers, ("--backend", "nftables"), other("source-hash"), scheduler="maglev", takeover=True)
    for host in balancers.hosts:
        host.host.write(LIBERAL, "1")
        host.host.run("nft", "-f", "-", stdin=WITNESS)
    balancers.lead_through(balancers.hosts[0])
    processes = balancers.processes(OTHER_PORT)
    silent = balancers.connections(COUNT // 4, SERVICE4, OTHER)
    silent.say(b"a")
    assert silent.lost(b"a") == 0
    targets = (f"{SERVICE4}:80", f"[{SERVICE6}]:80")
    waves = Storm(cast("Network", balancers), [(balancers.endpoints, PLACES)], targets, clients=0)
    try:
        waves.knock(balancers.clients, tmp_path, (*CLIENTS4, *CLIENTS6))
        for turn in range(1, SWITCHES + 1):
            waves.wait(300 * turn)
            balancers.lead_through(balancers.hosts[turn % 2])
            processes.say(b"s")
            if turn == 1:
                # None of these packets reached its client: it would have been reset.
                until(
                    lambda: stopped(balancers.hosts[1]) >= COUNT // 4, "the guard stops what it does not know"
                )
            silent.say(b"c")
            assert silent.lost(b"s", b"c") == 0
        waves.wait(300 * (SWITCHES + 1))
        [report] = waves.end()
    finally:
        waves.close()
    assert report["broken"] == []
    answers: dict[str, set[str]] = {}
    for _, _, client, _, answer in report["connections"]:
        answers.setdefault(client, set()).add(answer)
    # The endpoint speaks first. A client whose handshake a switch meets hears nothing until it speaks:
    # connections are opened one at a time, so that each switch can meet one.
    waiting = sum(answer == "timeout" for *_, answer in report["connections"])
    assert waiting <= SWITCHES
    # A client has one endpoint everywhere, whichever host its connections were opened through.
    served = {client: found - {"timeout"} for client, found in answers.items()}
    assert {client: found for client, found in served.items() if len(found) != 1} == {}
    assert {answer for found in served.values() for answer in found} <= set(PLACES)


#: Counts what endpoints send on connections that a host does not know, in front of the guard.
WITNESS = f"""table ip witness {{
    chain forward {{
        type filter hook forward priority -300
        tcp sport {OTHER_PORT} ct state new,invalid counter
    }}
}}"""


def stopped(host: Balancer) -> int:
    """Return how many packets of endpoints the guard of a host has met."""
    [count] = re.findall(r"counter packets (\d+)", host.host.run("nft", "list", "table", "ip", "witness"))
    return int(count)


# -- what is lost otherwise: without these, the tests above could not fail


def lost(
    balancers: Balancers, options: tuple[str, ...], *, first: str, back: bool = False, **keys: object
) -> int:
    """Return how many of some established connections end when another balancer gets their packets."""
    apply(balancers, options, **keys)
    one, other = balancers.hosts
    processes = balancers.processes()
    balancers.lead_through(one)
    made = balancers.connections(COUNT // 2)
    made.say(b"a")
    assert made.lost(b"a") == 0
    for host in (other, one) if back else (other,):
        balancers.lead_through(host)
        if first == "server":
            processes.say(b"b")
            # The clients' answers come before their own packets make the connections known.
            time.sleep(0.2)
        made.say(b"c")
        gone = made.lost(*([b"b"] if first == "server" else []), b"c", patience=1)
    return gone


@pytest.fixture
def nft(balancers: Balancers) -> tuple[Balancers, tuple[str, ...]]:
    return balancers, ("--backend", "nftables", "--driver", "libnftables")


def test_a_server_that_speaks_first_needs_takeover(balancers: Balancers, options: tuple[str, ...]) -> None:
    assert lost(balancers, options, first="server", scheduler="source-hash") == COUNT // 2


def test_turns_are_not_the_same_on_two_hosts(nft: tuple[Balancers, tuple[str, ...]]) -> None:
    # Asked in another order: in the same one, a counter that begins anew gives the same.
    assert lost(*nft, first="client", scheduler="round-robin") > COUNT // 4


def test_connections_are_tracked_from_their_middle_only_if_the_kernel_is_loose(
    nft: tuple[Balancers, tuple[str, ...]],
) -> None:
    balancers, _ = nft
    balancers.hosts[1].host.write(LOOSE, "0")
    assert lost(*nft, first="client", scheduler="source-hash", takeover=True) == COUNT // 2


@pytest.mark.parametrize("first", ["client", "server"])
def test_a_host_that_missed_packets_must_be_liberal(
    nft: tuple[Balancers, tuple[str, ...]], first: str
) -> None:
    assert lost(*nft, first=first, back=True, scheduler="maglev", takeover=True) == COUNT // 2


# -- datagrams


def test_datagrams_go_on_whoever_speaks_first(balancers: Balancers, options: tuple[str, ...]) -> None:
    apply(balancers, options, scheduler="source-hash", takeover=True)
    one, other = balancers.hosts
    processes = balancers.processes()
    for number, client_first in enumerate((True, False)):
        balancers.lead_through(one)
        sock = balancers.datagrams(CLIENTS4[number])
        sock.send(b"a")
        endpoint, peer = processes.datagram()
        assert peer == sock.getsockname()
        balancers.lead_through(other)
        if not client_first:
            endpoint.sendto(b"lost", peer)
        sock.send(b"b")
        assert processes.datagram() == (endpoint, peer)
        endpoint.sendto(b"c", peer)
        assert sock.recv(64) == b"c"


def test_a_stray_datagram_spoils_the_flow_without_takeover(
    nft: tuple[Balancers, tuple[str, ...]],
) -> None:
    balancers, options = nft
    apply(balancers, options, scheduler="source-hash")
    one, other = balancers.hosts
    processes = balancers.processes()
    balancers.lead_through(one)
    sock = balancers.datagrams(CLIENTS4[0])
    sock.send(b"a")
    endpoint, peer = processes.datagram()
    balancers.lead_through(other)
    endpoint.sendto(b"stray", peer)
    time.sleep(0.2)
    sock.send(b"b")
    # Its own port is taken by the entry of the stray datagram.
    assert processes.datagram()[1] != peer


# -- affinity


@pytest.mark.parametrize(("moved", "kept"), [(False, True), (True, False)])
def test_affinity_holds_across_hosts_while_the_table_is_the_same(
    nft: tuple[Balancers, tuple[str, ...]], moved: bool, kept: bool
) -> None:
    """The entries of clients are each host's own: a client that an older table placed moves with the host."""
    balancers, options = nft
    places = [f"{a}:{PORT}" for a in ENDPOINTS4]
    keys = {"scheduler": "source-hash", "affinity": "1h", "takeover": True}
    old = [*places[1:], places[0]] if moved else places
    one, other = balancers.hosts
    processes = balancers.processes()
    balancers.lead_through(one)
    for number, endpoints in enumerate((old, places)):
        text = intent(service("web", f"{SERVICE4}:80/tcp", *endpoints, **keys))
        for host in balancers.hosts:
            assert host.lbctl("apply", "--yes", *options, config=text).code == 0
        if number == 0:
            first = balancers.connections(len(CLIENTS4))
            first.say(b"a")
            assert first.lost(b"a") == 0
    before = dict(processes.accepted)
    second = balancers.connections(len(CLIENTS4))
    second.say(b"a")
    assert second.lost(b"a") == 0
    assert processes.accepted == {address: 2 * count for address, count in before.items()}
    balancers.lead_through(other)
    second.say(b"b")
    gone = second.lost(b"b", patience=1)
    assert (gone == 0) is kept


# -- import, and removal


def test_reading_and_removing_rules(balancers: Balancers, options: tuple[str, ...]) -> None:
    """The guard is no balancing: it is read without a finding, and leaves with the services."""
    host = balancers.hosts[0]

    def listed() -> str:
        words = ("nft", "list", "ruleset") if options[1] == "nftables" else ("iptables-legacy-save",)
        return host.host.run(*words)

    def imported() -> dict[str, Any]:
        found = host.lbctl("import", "--output", "json", "-", stdin=listed()).json
        return {key: found[key] for key in ("accept", "unsupported", "findings", "services")}

    apply(balancers, options, scheduler="source-hash")
    plain = imported()
    apply(balancers, options, scheduler="source-hash", takeover=True)
    assert "guard" in listed().lower()
    guarded = imported()
    for found in (plain, guarded):
        for each in (*found["findings"], *found["services"]):
            # The guard's rules stand in front.
            each.pop("line", None)
            each.pop("lines", None)
    assert guarded == plain
    assert host.lbctl("remove", "--yes", *options[:4]).code == 0
    assert "lbctl" not in listed().lower()
