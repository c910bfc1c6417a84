"""Offload on a real kernel: refused by name where it has no flowtables, and whose connections it adds."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from lbctl.config import loads
from lbctl.host.netns import PrivateHost
from lbctl.model import diff
from lbctl_nftables import backend as nftables, script
from lbctl_nftables.dialect import CAPABILITIES
from lbctl_nftables.observe import observe
from support.balancers import CLIENTS4, ENDPOINTS4, ENDPOINTS6, PORT, SERVICE4, SERVICE6, Balancer, Balancers
from support.network import intent, service

FOREIGN = 81
LISTEN = [f"{SERVICE4}:80/tcp", f"[{SERVICE6}]:80/tcp", f"{SERVICE4}:80/udp"]
PLAIN = intent(service("web", LISTEN, f"{ENDPOINTS4[0]}:{PORT}", f"[{ENDPOINTS6[0]}]:{PORT}"))
OFFLOADED = PLAIN.replace("schema = 1\n", 'schema = 1\n[agent]\noffload = ["inside", "outside"]\n')
#: Another program leads connections to the same endpoint, and those to the same listener elsewhere.
OTHERS = f"""table ip others {{
	chain prerouting {{
		type nat hook prerouting priority -150
		ip daddr {SERVICE4} tcp dport {FOREIGN} dnat to {ENDPOINTS4[0]}:{PORT}
		ip daddr {SERVICE4} tcp dport 80 dnat to {ENDPOINTS4[1]}:{PORT}
	}}
}}
"""


@pytest.fixture
def balancers(tmp_path: Path) -> Iterator[Balancers]:
    made = Balancers(tmp_path, 1)
    yield made
    made.close()


def rules(host: Balancer) -> str:
    return re.sub(r"packets \d+ bytes \d+", "", host.host.run("nft", "list", "ruleset"))


def has_flowtables(host: Balancer) -> bool:
    """As nft itself finds: asked for rules that lbctl did not write."""
    text = "table ip x { flowtable f { hook ingress priority 0; devices = { lo }; }; }\n"
    with host.host.entered():
        done = PrivateHost().run(("nft", "--check", "--file", "-"), stdin=text)
    assert done.code == 0 or "No such file or directory" in done.err or "not supported" in done.err, done.err
    return done.code == 0


def with_counters(text: str) -> str:
    """Return a script with counters where connections are added to a flowtable, and without that."""
    declared = re.compile(
        r"^(?:\tflowtable flows|add flowtable \S+ \S+ flows) \{.*?^\t?\}\n", re.DOTALL | re.MULTILINE
    )
    text = re.sub(r"^delete flowtable .*\n", "", declared.sub("", text), flags=re.MULTILINE)
    return text.replace("flow add @flows", "counter")


@pytest.mark.parametrize("driver", ["libnftables", "nft"])
def test_a_kernel_without_flowtables_refuses_and_another_one_offloads(
    balancers: Balancers, driver: str
) -> None:
    [host] = balancers.hosts
    way = ("--backend", "nftables", "--driver", driver)
    assert host.lbctl("apply", "--yes", *way, config=PLAIN).code == 0
    before = rules(host)
    done = host.lbctl("apply", "--yes", *way, config=OFFLOADED)
    if not has_flowtables(host):
        assert done.code == 3, done.err
        assert "backend nftables does not support offload" in done.err
        assert "this host takes no flowtable: nft refused: " in done.err
        assert host.lbctl("plan", *way, config=OFFLOADED).code == 3
        assert rules(host) == before
        assert host.lbctl("plan", "--exit-code", *way, config=PLAIN).code == 0
        return
    assert done.code == 0, done.err
    balancers.lead_through(host)
    balancers.processes()
    for address in (SERVICE4, SERVICE6):
        connections = balancers.connections(10, address)
        connections.say(b"c")
        connections.say(b"d")
        assert connections.lost(b"c", b"d") == 0
    assert host.lbctl("plan", "--exit-code", "--rules", *way, config=OFFLOADED).code == 0
    assert host.lbctl("apply", "--yes", *way, config=PLAIN).code == 0
    assert rules(host) == before


def test_iptables_refuses(balancers: Balancers) -> None:
    [host] = balancers.hosts
    done = host.lbctl("apply", "--yes", "--backend", "iptables", config=OFFLOADED)
    assert done.code == 3, done.err
    assert "does not support offload" in done.err
    assert rules(host) == ""


def test_replies_of_established_connections_of_ours_are_added_and_no_others(balancers: Balancers) -> None:
    """The rules as they are, but for the last word: a counter stands for what this kernel may not have."""
    [host] = balancers.hosts
    wanted = nftables.compile(loads(OFFLOADED), CAPABILITIES)
    host.host.run("nft", "-f", "-", stdin=with_counters(nftables.render(wanted)) + OTHERS)
    with host.host.entered():
        held = observe(PrivateHost(), "nft", "lbctl")
    differing = {change.key: change.before for change in diff(held, wanted)}
    assert {key[1:3] for key in differing} == {("flowtable", "flows"), ("rules", "offload-flows")}

    def added(word: str) -> int:
        chain = host.host.run("nft", "list", "chain", word, "lbctl", "offload-flows")
        [packets] = re.findall(r"packets (\d+)", chain)
        return int(packets)

    balancers.lead_through(host)
    processes = balancers.processes()
    # Connections that another program translates, and some that nothing does.
    foreign = [balancers.connections(3, SERVICE4, port) for port in (80, FOREIGN)]
    balancers.clients.ip("route", "add", "10.0.0.0/24", "via", "192.0.2.1")
    foreign.append(balancers.connections(3, ENDPOINTS4[0], PORT))
    for connections in foreign:
        connections.say(b"c")
        assert connections.lost(b"c") == 0
    assert (added("ip"), added("ip6")) == (0, 0)
    host.host.run("nft", "delete", "table", "ip", "others")
    for address, word in ((SERVICE4, "ip"), (SERVICE6, "ip6")):
        connections = balancers.connections(3, address)
        connections.say(b"c")
        assert connections.lost(b"c") == 0
        assert added(word) >= 6
    before = added("ip")
    client = balancers.datagrams(CLIENTS4[0])
    client.send(b"c")
    endpoint, peer = processes.datagram()
    assert added("ip") == before
    endpoint.sendto(b"d", peer)
    assert client.recv(64) == b"d"
    assert added("ip") == before + 1


def test_it_comes_and_goes_with_the_table_in_place(balancers: Balancers) -> None:
    [host] = balancers.hosts
    off, on = (nftables.compile(loads(text), CAPABILITIES) for text in (PLAIN, OFFLOADED))
    host.host.run("nft", "-f", "-", stdin=nftables.render(off))
    before = rules(host)
    seen = []
    for old, new in ((off, on), (on, off)):
        for text in script.transactions("lbctl", diff(old, new), new):
            host.host.run("nft", "-f", "-", stdin=with_counters(text))
        seen.append(rules(host))
    assert "chain offload-flows" in seen[0]
    assert seen[1] == before
