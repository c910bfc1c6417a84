"""What `lbctl explain` says of a connection is what the kernel does with it."""

import re
from collections import Counter
from fractions import Fraction
from ipaddress import ip_address

import pytest

from lbctl.config.values import listener
from lbctl.conformance.network import HOST4, HOST6, INSIDE4, SERVERS4
from lbctl.engine.inspect.explain import Connection, explain
from lbctl.engine.migrate.read import read_live
from lbctl.host import LocalHost
from lbctl.model import Analysis
from lbctl.spi import backends
from support.network import Network, intent, service, weighted

PORTS = range(8001, 8007)
STORES = {"legacy": "iptables-legacy", "nf_tables": "iptables-nft", "nft": "nftables"}


def live(network: Network, driver: str) -> Analysis:
    with network.host.entered():
        return read_live(LocalHost(network.folder), STORES[driver], backends())


@pytest.mark.parametrize(
    ("driver", "address"),
    # On iptables, clients of IPv6 have another hash than on nftables.
    [("nft", HOST4), ("nft", HOST6), ("legacy", HOST4), ("nf_tables", HOST6)],
)
def test_the_endpoint_of_fifty_clients_of_a_hash(network: Network, driver: str, address: str) -> None:
    network.local_endpoints(PORTS)
    backend = "nftables" if driver == "nft" else "iptables"
    text = intent(service("web", "80/tcp", *map(str, PORTS), scheduler="source-hash", seed=99))
    words = ["apply", "--yes", "--allow-remap", "--backend", backend, "--driver", driver]
    assert network.lbctl(*words, config=text).code == 0
    prefix, bits = (address.rpartition(".")[0] + ".", 24) if "." in address else ("2001:db8:1::1:", 64)
    clients = [f"{prefix}{n}" for n in range(100, 150)]
    for client in clients:
        network.client.address("uplink", f"{client}/{bits}")
    readings = {"live": live(network, driver)}
    told = {}
    for client in clients:
        [way] = explain(Connection(listener=listener("80/tcp"), client=ip_address(client)), readings)
        told[client] = way.chosen
    assert told == {client: network.ask(network.client, address, 80, source=client)[0] for client in clients}
    assert len(set(told.values())) > 2
    said = network.lbctl("explain", "80/tcp", "--client", clients[7], "--in", "outside")
    assert f"this client gets {told[clients[7]]}, slot " in said.out


@pytest.mark.parametrize("driver", ["legacy", "nft"])
def test_probabilities_are_counted(network: Network, driver: str) -> None:
    """One period of a service of 24 turns: endpoints by their answers, and rules by the kernel's counters."""
    network.local_endpoints(PORTS)
    backend = "nftables" if driver == "nft" else "iptables"
    weights = {f"e{port}_{port}": weight for port, weight in zip(PORTS, (7, 5, 5, 4, 2, 1), strict=True)}
    text = intent(service("web", "80/tcp") + weighted(**weights))
    assert network.lbctl("apply", "--yes", "--backend", backend, "--driver", driver, config=text).code == 0
    [way] = explain(
        Connection(listener=listener("80/tcp"), client=ip_address("198.51.100.1"), interface="outside"),
        {"live": live(network, driver)},
    )
    before = counters(network)
    asked = Counter(network.ask(network.client, HOST4, 80, 24))
    assert {each.to: each.share for each in way.service.backends} == {
        to: Fraction(count, 24) for to, count in asked.items()
    }
    assert all(step.hook == "prerouting" and step.share is not None for step in way.path)
    if driver == "legacy":
        # The tree has rules that few connections come to.
        assert len(way.path) > 20
        after = counters(network)
        told = {step.rule: step.taken for step in way.path}
        assert told == {rule: Fraction(after[rule] - before[rule], 24) for rule in told}


def counters(network: Network) -> dict[str, int]:
    """Rule of table nat → packets that it took."""
    text = network.tool("iptables-legacy-save", "-c", "-t", "nat")
    return {rule: int(packets) for packets, rule in re.findall(r"^\[(\d+):\d+\] (-A .*)$", text, re.M)}


MARKED = """\
*mangle
:PREROUTING ACCEPT [0:0]
-A PREROUTING -p tcp -m tcp --dport 80 -m conntrack --ctstate NEW \
-m statistic --mode nth --every 3 --packet 0 -j MARK --set-xmark 0x1/0xffffffff
-A PREROUTING -p tcp -m tcp --dport 80 -m mark --mark 0x0 -j MARK --set-xmark 0x2/0xffffffff
-A PREROUTING -j CONNMARK --save-mark --nfmask 0x3 --ctmask 0xff
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
-A PREROUTING -p tcp -m tcp --dport 80 -m connmark --mark 0x1 -j REDIRECT --to-ports 8001
-A PREROUTING -p tcp -m tcp --dport 80 -m mark --mark 0x2/0x2 -m statistic --mode nth --every 2 --packet 0 \
-j REDIRECT --to-ports 8002
-A PREROUTING -p tcp -m tcp --dport 80 -j REDIRECT --to-ports 8003
COMMIT
*filter
:INPUT ACCEPT [0:0]
-A INPUT -p tcp -m tcp --dport 8003 -m mark --mark 0x2 -j REJECT --reject-with tcp-reset
COMMIT
"""


def test_marks_are_carried_from_table_to_table(network: Network) -> None:
    network.local_endpoints(PORTS)
    network.tool("iptables-legacy-restore", stdin=MARKED)
    reading = live(network, "legacy")
    found = next(each for each in reading.services if each.action == "redirect")
    asked = network.ask(network.client, HOST4, 80, 12)
    assert asked == [slot or "refused" for slot in found.slots * 4]
    assert {each.to: str(each.share) for each in found.backends} == {"8001": "1/3", "8002": "1/3"}
    assert (str(found.leak), (found.leak_to or "")[:6]) == ("1/3", "REJECT")


OTHER = "10.77.0.1"
SOURCES = f"""\
*mangle
:PREROUTING ACCEPT [0:0]
-A PREROUTING -i outside -m conntrack --ctstate NEW -m statistic --mode nth --every 3 --packet 0 \
-j MARK --set-xmark 0x1/0xffffffff
-A PREROUTING -i outside -m mark --mark 0x1 -j ACCEPT
-A PREROUTING -i outside -j CONNMARK --set-xmark 0x5/0xffffffff
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
-A PREROUTING -i outside -j ACCEPT
-A POSTROUTING -m mark --mark 0x1 -j SNAT --to-source {INSIDE4}
-A POSTROUTING -m connmark --mark 0x4/0x4 -j SNAT --to-source {OTHER}
COMMIT
"""


def test_a_mark_chooses_the_source_behind_the_routing(network: Network) -> None:
    network.host.address("lo", f"{OTHER}/32")
    network.server.ip("route", "add", OTHER, "via", INSIDE4)
    server = network.remote_endpoints(9000)
    network.tool("iptables-legacy-restore", stdin=SOURCES)
    found = next(each for each in live(network, "legacy").services if each.action == "snat")
    assert (found.hooks, found.slots) == (("postrouting",), (INSIDE4, OTHER, OTHER))
    network.ask(network.client, SERVERS4[0], 9000, 6)
    assert server.peers == list(found.slots * 2)
    said = network.lbctl(
        "explain", f"{SERVERS4[0]}:9000/tcp", "--in", "outside", "--from", "live:iptables-legacy"
    )
    assert "postrouting: nat POSTROUTING" in said.out
