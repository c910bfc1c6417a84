"""Datagrams follow their flow's first one, unless where that went is gone."""

import pytest

from lbctl.conformance.network import HOST4, HOST6, SERVERS4
from support.network import Network, intent, service

NOTHING_LEFT = "Warning: established connections will break unless other NAT rules remain.\n"


def apply(network: Network, way: tuple[str, ...], *services: str) -> dict:
    text = intent(*services)
    done = network.lbctl("apply", "--yes", "--output", "json", *way, config=text)
    assert (done.code, done.said) == (0, "" if services else NOTHING_LEFT)
    return done.json


@pytest.mark.parametrize("address", [HOST4, HOST6])
@pytest.mark.parametrize("listen", ["53/udp", [f"{HOST4}:53/udp", f"[{HOST6}]:53/udp"]])
def test_flows_leave_an_endpoint_that_goes(
    network: Network, way: tuple[str, ...], address: str, listen: str | list[str]
) -> None:
    network.local_endpoints((8001, 8002, 8003, 8004), "udp")
    other = service("other", "54/udp", "8004", "8003")
    apply(network, way, service("dns", listen, "8001", "8002"), other)
    flows = [network.flow(network.client, address, 53) for _ in range(4)]
    strangers = [network.flow(network.client, address, 54) for _ in range(2)]
    assert [f.say() for f in flows] == ["8001", "8002"] * 2
    assert [f.say() for f in strangers] == ["8004", "8003"]
    changed = apply(network, way, service("dns", listen, "8002", "8003"), other)
    assert {flow["to"] for flow in changed["forget"]} == {"8001"}
    # Those of 8001 are placed anew, all others stay where they were: the answers tell.
    after = [f.say() for f in flows]
    assert after[1::2] == ["8002", "8002"]
    assert set(after[::2]) <= {"8002", "8003"}
    assert [f.say() for f in strangers] == ["8004", "8003"]
    assert [f.say() for f in flows] == after


def test_flows_that_came_before_the_service(network: Network, way: tuple[str, ...]) -> None:
    network.local_endpoints((53, 8001, 8002), "udp")
    network.remote_endpoints(53, "udp")
    flow = network.flow(network.client, HOST4, 53)
    passing = network.flow(network.client, SERVERS4[0], 53)
    assert (flow.say(), passing.say()) == ("53", SERVERS4[0])
    made = apply(network, way, service("dns", "53/udp", "8001", "8002"))
    assert {(f["listen"], f["family"], f["to"]) for f in made["forget"]} == {
        ("53/udp", "ipv4", None),
        ("53/udp", "ipv6", None),
    }
    assert flow.say() == "8001"
    assert passing.say() == SERVERS4[0]
    apply(network, way)
    assert flow.say() == "53"


def test_flows_to_addresses_elsewhere(network: Network, way: tuple[str, ...]) -> None:
    network.remote_endpoints(53, "udp")
    one, two, three = (f"{address}:53" for address in SERVERS4)
    apply(network, way, service("dns", "53/udp", one, two))
    flows = [network.flow(network.client, HOST4, 53) for _ in range(4)]
    assert [f.say() for f in flows] == [*SERVERS4[:2]] * 2
    apply(network, way, service("dns", "53/udp", two, three))
    after = [f.say() for f in flows]
    assert after[1::2] == [SERVERS4[1]] * 2
    assert set(after[::2]) <= set(SERVERS4[1:])
