"""Who is served, and by whom: states of endpoints, allowed clients, services with nobody left."""

from itertools import cycle, islice

import pytest

from support.network import CLIENT4, HOST4, HOST6, INSIDE4, SERVERS4, Network, intent, service


def stated(name: str, listen: str, **states: str) -> str:
    """A service whose endpoints are ports with states: p8001="active"."""
    tables = "".join(
        f'[[service.endpoint]]\naddress = "{port[1:]}"\nstate = "{state}"\n' for port, state in states.items()
    )
    return service(name, listen) + tables


def apply(network: Network, options: tuple[str, ...], text: str) -> None:
    done = network.lbctl("apply", "--yes", *options, config=text)
    assert done.code == 0, done.err
    assert network.lbctl("plan", "--exit-code", *options, config=text).code == 0


def test_drain_takes_no_new_connections_and_keeps_the_old(network: Network, options: tuple[str, ...]) -> None:
    network.holder((8001, 8002))
    apply(network, options, intent(stated("web", "80/tcp", p8001="active", p8002="active")))
    held = [network.hold(network.client, HOST4, 80) for _ in range(4)]
    apply(network, options, intent(stated("web", "80/tcp", p8001="drain", p8002="active")))
    assert [c.say("on") for c in held] == ["on"] * 4
    more = [network.hold(network.client, HOST4, 80) for _ in range(4)]
    status = network.lbctl("status", "--output", "json", *options, config=network.folder / "lbctl.toml").json
    drained, active = status["services"][0]["endpoints"]
    assert (drained["state"], drained["wanted"], drained["established"]) == ("drain", "0/1", 2)
    assert (active["wanted"], active["established"]) == ("1/1", 6)
    for connection in held + more:
        connection.close()


def test_backups_serve_when_no_active_one_is_left(network: Network, options: tuple[str, ...]) -> None:
    network.local_endpoints((8001, 8002, 8003))
    ask = lambda: network.ask(network.client, HOST4, 80, 4)  # noqa: E731
    states = {"p8001": "active", "p8002": "backup", "p8003": "backup"}
    apply(network, options, intent(stated("web", "80/tcp", **states)))
    assert ask() == ["8001"] * 4
    apply(network, options, intent(stated("web", "80/tcp", **{**states, "p8001": "drain"})))
    assert ask() == ["8002", "8003"] * 2
    apply(network, options, intent(stated("web", "80/tcp", **states)))
    assert ask() == ["8001"] * 4


@pytest.mark.parametrize("kind", ["tcp", "udp"])
@pytest.mark.parametrize("listen", [f"{HOST4}:80", "80"])
def test_a_service_with_nobody_left_refuses(
    network: Network, options: tuple[str, ...], kind: str, listen: str
) -> None:
    """It refuses rather than leak to whatever listens on the port."""
    responder = network.local_endpoints((80, 8001), kind)
    apply(network, options, intent(stated("web", f"{listen}/{kind}", p8001="active")))
    assert network.ask(network.client, HOST4, 80, 2, kind=kind) == ["8001"] * 2
    apply(network, options, intent(stated("web", f"{listen}/{kind}", p8001="drain")))
    responder.peers.clear()
    assert network.ask(network.client, HOST4, 80, 2, kind=kind) == ["refused"] * 2
    assert network.ask(network.host, HOST4, 80, 2, kind=kind) == ["refused"] * 2
    if listen == "80":
        assert network.ask(network.client, HOST6, 80, 2, kind=kind) == ["refused"] * 2
    assert responder.peers == []
    # Others are none of its business: another address, or traffic that is only forwarded.
    elsewhere = network.responder(network.server)
    elsewhere.listen(80, kind=kind, address=SERVERS4[0], name="forwarded")
    elsewhere.start()
    assert network.ask(network.client, SERVERS4[0], 80, 2, kind=kind) == ["forwarded"] * 2
    if listen != "80" and kind == "tcp":
        assert network.ask(network.client, INSIDE4, 80, 1, kind=kind) == ["80"]
    apply(network, options, intent(stated("web", f"{listen}/{kind}", p8001="active")))
    assert network.ask(network.client, HOST4, 80, 2, kind=kind) == ["8001"] * 2


def test_only_allowed_clients_are_served(network: Network, options: tuple[str, ...]) -> None:
    responder = network.local_endpoints((80, 8001, 8002))
    network.client.address("uplink", "192.0.2.66/24", "2001:db8:1::66/64")
    allowed = [f"{CLIENT4}/32", "198.51.100.0/24", "198.51.100.128/25", "198.51.101.0/25", "2001:db8:1::2"]
    apply(network, options, intent(service("web", "80/tcp", "8001", "8002", allow=allowed)))
    pairs = list(islice(cycle(["8001", "8002"]), 4))
    assert network.ask(network.client, HOST4, 80, 4, source=CLIENT4) == pairs
    assert network.ask(network.client, HOST6, 80, 4, source="2001:db8:1::2") == pairs
    responder.peers.clear()
    assert network.ask(network.client, HOST4, 80, 2, source="192.0.2.66") == ["refused"] * 2
    assert network.ask(network.client, HOST6, 80, 2, source="2001:db8:1::66") == ["refused"] * 2
    assert network.ask(network.host, HOST4, 80, 1) == ["refused"]
    assert responder.peers == []
    apply(network, options, intent(service("web", "80/tcp", "8001", "8002", allow=["192.0.2.66"])))
    assert network.ask(network.client, HOST4, 80, 2, source="192.0.2.66") == ["8001", "8002"]
    assert network.ask(network.client, HOST4, 80, 1, source=CLIENT4) == ["refused"]
    apply(network, options, intent(service("web", "80/tcp", "8001", "8002")))
    assert network.ask(network.client, HOST4, 80, 2, source=CLIENT4) == ["8001", "8002"]


def test_allow_guards_addresses_elsewhere_too(network: Network, options: tuple[str, ...]) -> None:
    network.remote_endpoints(80)
    text = intent(service("api", f"{HOST4}:80/tcp", f"{SERVERS4[0]}:80", allow=["198.51.100.0/24"]))
    apply(network, options, text)
    assert network.ask(network.client, HOST4, 80, 1) == ["refused"]
    apply(network, options, text.replace("198.51.100.0/24", "192.0.2.0/24"))
    assert network.ask(network.client, HOST4, 80, 1) == [SERVERS4[0]]
