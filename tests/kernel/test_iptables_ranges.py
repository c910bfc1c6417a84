"""Port ranges in iptables: behind the single ports of the dispatch trees, one rule each."""

from collections.abc import Sequence

import pytest

from lbctl.conformance.network import CLIENT4, HOST4, HOST6, SERVERS4
from support.network import Network, intent, service

FLAVOURS = pytest.mark.parametrize("flavour", ["legacy", "nf_tables", "iptc"])
SECOND4 = "192.0.2.66"


def apply(network: Network, flavour: str, *services: str) -> None:
    done = network.lbctl(
        "apply", "--yes", "--backend", "iptables", "--driver", flavour, config=intent(*services)
    )
    assert done.code == 0, done.err


def answering(network: Network, ports: Sequence[int]) -> None:
    """Start what answers with its address, at each address of the server."""
    responder = network.responder(network.server)
    for port in ports:
        for address in SERVERS4:
            responder.listen(port, address=address, name=address)
    responder.start()


def around(first: int, count: int) -> list[str]:
    """Ranges and single ports side by side, too many for a list of rules, each with its own endpoint."""
    return [
        service(f"r{i}", f"{first + i * 100}-{first + i * 100 + 60}/tcp", SERVERS4[i % 3])
        for i in range(count)
    ] + [service(f"s{i}", f"{first + i * 100 + 30}/tcp", f"{8001 + i % 3}") for i in range(count)]


@FLAVOURS
def test_every_one_of_many_ranges_is_found(network: Network, flavour: str) -> None:
    network.local_endpoints((8001, 8002, 8003))
    # Blocks of ports begin at powers of two: the last range of most of them reaches beyond.
    first, count = 4000, 24
    starts = [first + i * 100 for i in range(count)]
    answering(network, [port + by for port in starts for by in (0, 29, 31, 60)])
    apply(network, flavour, *around(first, count))
    for i, start in enumerate(starts):
        for by in (0, 29, 31, 60):
            assert network.ask(network.client, HOST4, start + by) == [SERVERS4[i % 3]], start + by
        assert network.ask(network.client, HOST4, start + 30) == [f"{8001 + i % 3}"]
        assert network.ask(network.client, HOST6, start + 30) == [f"{8001 + i % 3}"]
    for port in (first - 1, first + 61, first + count * 100):
        assert network.ask(network.client, HOST4, port) == ["refused"]


@FLAVOURS
def test_a_single_port_decides_also_where_it_refuses_or_leaves_alone(network: Network, flavour: str) -> None:
    """In trees too, where what its service does not serve is looked for in the ranges behind."""
    network.client.address("uplink", f"{SECOND4}/24")
    network.local_endpoints((4030, 4130, 8001, 8002, 8003))
    answering(network, [4000, 4030, 4130])
    refusing = service("s0", "4030/tcp", "8001") + f'deny = ["{CLIENT4}"]\n'
    alone = service("s1", "4130/tcp", "8002") + 'interfaces = ["none0"]\n'
    ranges = [text + f'allow = ["{CLIENT4}"]\n' for text in around(4000, 12)[:12]]
    singles = around(4000, 12)[14:]
    apply(network, flavour, refusing, alone, *ranges, *singles)
    assert network.ask(network.client, HOST4, 4030) == ["refused"]
    assert network.ask(network.client, HOST4, 4030, source=SECOND4) == ["8001"]
    # What listens there itself, for a client that the range would serve, and for one that it would refuse.
    assert network.ask(network.client, HOST4, 4130) == ["4130"]
    assert network.ask(network.client, HOST4, 4130, source=SECOND4) == ["4130"]
    assert network.ask(network.client, HOST4, 4000) == [SERVERS4[0]]
    assert network.ask(network.client, HOST4, 4000, source=SECOND4) == ["refused"]


@FLAVOURS
def test_many_denied_clients_are_few_rules_for_each_packet(network: Network, flavour: str) -> None:
    network.local_endpoints((8001,))
    network.client.address("uplink", f"{SECOND4}/24")
    denied = ", ".join(f'"192.0.2.{n}"' for n in range(1, 200, 2) if n != 100) + f', "{CLIENT4}"'
    apply(network, flavour, service("web", "80/tcp", "8001") + f"deny = [{denied}]\n")
    assert network.ask(network.client, HOST4, 80) == ["refused"]
    assert network.ask(network.client, HOST4, 80, source=SECOND4) == ["8001"]
    saved = network.tool(
        "iptables-nft-save" if flavour == "nf_tables" else "iptables-legacy-save", "-t", "nat"
    )
    entry = [line for line in saved.splitlines() if line.startswith("-A LBCTL-web ")]
    assert len(entry) <= 9, entry
