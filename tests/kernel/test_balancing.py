"""The main job: an intent goes in, real connections come out balanced, in the exact sequence."""

from itertools import cycle, islice

import pytest

from support.network import (
    CLIENT4,
    HOST4,
    HOST6,
    INSIDE4,
    SERVERS4,
    SERVERS6,
    Network,
    intent,
    service,
    weighted,
)

THREE = ("8001", "8002", "8003")


def rounds(names: tuple[str, ...] | str, count: int) -> list[str]:
    return list(islice(cycle(names), count))


def apply(network: Network, way: tuple[str, ...], text: str) -> None:
    done = network.lbctl("apply", "--yes", *way, config=text)
    assert done.code == 0, done.err


@pytest.mark.parametrize("address", [HOST4, HOST6])
@pytest.mark.parametrize("kind", ["tcp", "udp"])
def test_three_local_ports_take_turns(
    network: Network, way: tuple[str, ...], kind: str, address: str
) -> None:
    network.local_endpoints((8001, 8002, 8003), kind)
    apply(network, way, intent(service("web", f"80/{kind}", *THREE)))
    assert network.ask(network.client, address, 80, 300, kind=kind) == rounds(THREE, 300)
    # A datagram server on all addresses answers from the one that routing chooses; for the host's own
    # clients, whose connections are redirected to loopback, that is right where they asked loopback.
    own = address if kind == "tcp" else "::1" if ":" in address else "127.0.0.1"
    assert network.ask(network.host, own, 80, 300, kind=kind) == rounds(THREE, 300)


def test_hosts_own_clients_reach_loopback_addresses(network: Network, way: tuple[str, ...]) -> None:
    network.local_endpoints((8001, 8002, 8003))
    apply(network, way, intent(service("web", "80/tcp", *THREE)))
    assert network.ask(network.host, "127.0.0.1", 80, 6) == rounds(THREE, 6)
    assert network.ask(network.host, "::1", 80, 6) == rounds(THREE, 6)


def test_weights_give_their_smooth_sequence(network: Network, way: tuple[str, ...]) -> None:
    network.local_endpoints((8001, 8002, 8003))
    apply(network, way, intent(service("web", "80/tcp") + weighted(a_8001=3, b_8002=2, c_8003=1)))
    answers = network.ask(network.client, HOST4, 80, 600)
    assert answers == rounds(("8001", "8002", "8001", "8003", "8002", "8001"), 600)
    assert [answers.count(name) for name in THREE] == [300, 200, 100]
    status = network.lbctl("status", "--output", "json", *way, config=network.folder / "lbctl.toml").json
    [web] = status["services"]
    assert status["in_sync"] is True
    assert web["connections"] == 600
    assert [(e["name"], e["wanted"], e["actual"]) for e in web["endpoints"]] == [
        ("a", "1/2", "1/2"),
        ("b", "1/3", "1/3"),
        ("c", "1/6", "1/6"),
    ]


@pytest.mark.parametrize("kind", ["tcp", "udp"])
def test_addresses_elsewhere_take_turns(network: Network, way: tuple[str, ...], kind: str) -> None:
    network.remote_endpoints(9000, kind)
    endpoints = [f"{a}:9000" for a in SERVERS4] + [f"[{a}]:9000" for a in SERVERS6]
    listen = [f"{HOST4}:80/{kind}", f"[{HOST6}]:80/{kind}"]
    apply(network, way, intent(service("api", listen, *endpoints)))
    assert network.ask(network.client, HOST4, 80, 300, kind=kind) == rounds(SERVERS4, 300)
    assert network.ask(network.client, HOST6, 80, 300, kind=kind) == rounds(SERVERS6, 300)
    assert network.ask(network.host, HOST4, 80, 300, kind=kind) == rounds(SERVERS4, 300)
    assert network.ask(network.host, HOST6, 80, 300, kind=kind) == rounds(SERVERS6, 300)


def test_any_address_of_this_host_with_endpoints_elsewhere(network: Network, way: tuple[str, ...]) -> None:
    network.remote_endpoints(9000)
    apply(network, way, intent(service("api", "80/tcp", *(f"{a}:9000" for a in SERVERS4))))
    assert network.ask(network.client, HOST4, 80, 3) == list(SERVERS4)
    assert network.ask(network.client, INSIDE4, 80, 3) == list(SERVERS4)


def test_several_listeners_of_one_service(network: Network, way: tuple[str, ...]) -> None:
    network.local_endpoints((8001, 8002), "tcp", "udp")
    listen = [f"{HOST4}:80/tcp", f"{INSIDE4}:81/tcp", f"{HOST4}:80/udp", f"[{HOST6}]:80/tcp"]
    apply(network, way, intent(service("web", listen, "8001", "8002")))
    assert network.ask(network.client, HOST4, 80, 2) == ["8001", "8002"]
    assert network.ask(network.client, INSIDE4, 81, 2) == ["8001", "8002"]
    assert network.ask(network.client, HOST4, 80, 4, kind="udp") == ["8001", "8002", "8001", "8002"]
    assert network.ask(network.client, HOST6, 80, 2) == ["8001", "8002"]
    # What no listener names is left alone: another address, another port, another protocol.
    assert network.ask(network.client, INSIDE4, 80, 1) == ["refused"]
    assert network.ask(network.client, HOST4, 81, 1) == ["refused"]
    assert network.ask(network.client, HOST6, 80, 1, kind="udp") == ["refused"]


def test_forwarded_traffic_is_never_taken(network: Network, way: tuple[str, ...]) -> None:
    network.local_endpoints((8001, 8002))
    elsewhere = network.responder(network.server)
    elsewhere.listen(80, name="forwarded")
    elsewhere.start()
    apply(network, way, intent(service("web", "80/tcp", "8001", "8002")))
    assert network.ask(network.client, SERVERS4[0], 80, 4) == ["forwarded"] * 4
    assert network.ask(network.client, SERVERS6[0], 80, 4) == ["forwarded"] * 4
    assert network.ask(network.host, SERVERS4[0], 80, 4) == ["forwarded"] * 4
    assert network.ask(network.client, HOST4, 80, 2) == ["8001", "8002"]


def test_local_clients_can_be_left_out(network: Network, way: tuple[str, ...]) -> None:
    network.local_endpoints((80, 8001, 8002))
    apply(network, way, intent(service("web", "80/tcp", "8001", "8002", local_clients=False)))
    assert network.ask(network.client, HOST4, 80, 4) == ["8001", "8002"] * 2
    assert network.ask(network.client, HOST6, 80, 4) == ["8001", "8002"] * 2
    assert network.ask(network.host, HOST4, 80, 2) == ["80", "80"]
    assert network.ask(network.host, HOST6, 80, 2) == ["80", "80"]


@pytest.mark.parametrize("mode", ["hairpin", "always", "never"])
def test_source_nat(network: Network, way: tuple[str, ...], mode: str) -> None:
    """Who an endpoint sees: the client, or this host where the answer would bypass it."""
    responder = network.remote_endpoints(9000)
    apply(network, way, intent(service("api", f"{INSIDE4}:80/tcp", f"{SERVERS4[0]}:9000", source_nat=mode)))
    assert network.ask(network.client, INSIDE4, 80) == [SERVERS4[0]]
    # An endpoint that calls its own service sits in the endpoints' network, as its neighbours do.
    for source in ("10.0.0.99", SERVERS4[0]):
        answers = network.ask(network.server, INSIDE4, 80, source=source, timeout=0.5)
        assert answers == (["timeout"] if mode == "never" else [SERVERS4[0]])
    seen = set(responder.peers)
    # Without translation the endpoint answers its neighbour directly, who knows nothing of it.
    assert (
        seen
        == {
            "hairpin": {CLIENT4, INSIDE4},
            "always": {INSIDE4},
            "never": seen | {CLIENT4},
        }[mode]
    )


def test_hairpin_hides_no_client_of_other_links(network: Network, way: tuple[str, ...]) -> None:
    responder = network.remote_endpoints(9000)
    apply(network, way, intent(service("api", "80/tcp", *(f"{a}:9000" for a in SERVERS4))))
    network.ask(network.server, INSIDE4, 80, 3, source="10.0.0.99")
    assert set(responder.peers) == {INSIDE4}
    responder.peers.clear()
    network.ask(network.client, HOST4, 80, 6)
    assert set(responder.peers) == {CLIENT4}


def test_one_endpoint_takes_all(network: Network, way: tuple[str, ...]) -> None:
    network.local_endpoints((8001,))
    apply(network, way, intent(service("web", "80/tcp", "8001")))
    assert network.ask(network.client, HOST4, 80, 5) == ["8001"] * 5
