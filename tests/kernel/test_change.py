"""Changes: nothing twice, nobody else's, nothing left behind."""

import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import cycle, islice

import pytest

from lbctl.conformance.network import HOST4, HOST6, SERVERS4
from support.network import Network, intent, service, weighted

THREE = ("8001", "8002", "8003")

FOREIGN_LEGACY = """\
*filter
:INPUT ACCEPT [0:0]
-A INPUT -p tcp -m tcp --dport 22 -m comment --comment "it's \\"ours\\"" -j ACCEPT
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:DOCKER - [0:0]
:lbctl - [0:0]
:LBCTLX-web - [0:0]
[3:180] -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER
-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
[7:420] -A DOCKER ! -i docker0 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80
-A lbctl -p tcp -m comment --comment "LBCTL" -j RETURN
-A LBCTLX-web -p udp -m statistic --mode nth --every 3 --packet 0 -j REDIRECT --to-ports 9
COMMIT
"""
FOREIGN_NFT = """\
table ip filterish {
	set s {
		type ipv4_addr
		elements = { 192.0.2.77 }
	}
	chain c {
		type nat hook prerouting priority -90; policy accept;
		ip saddr @s counter packets 5 bytes 300
	}
}
table inet lbctl-of-somebody {
	chain lbctl {
		counter packets 1 bytes 2 accept
	}
}
"""


def rounds(count: int, start: int = 0) -> list[str]:
    return list(islice(cycle(THREE), start, start + count))


def two(web: str, other: str) -> str:
    return intent(web, other)


WEB = service("web", "80/tcp", *THREE)
OTHER = service("other", "81/tcp", "8004", "8005")


class Monitor:
    """What the kernel announces about nf_tables while it runs."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self.lines: list[str] = []
        with network.host.entered():
            self._process = subprocess.Popen(["nft", "monitor"], stdout=subprocess.PIPE, text=True)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            self.lines.append(line.strip())

    def mark(self, name: str) -> None:
        """Cause an announcement, and wait until it and so all earlier ones have been read."""
        deadline = time.monotonic() + 10
        while not any(name in line for line in self.lines):
            assert time.monotonic() < deadline, "nft monitor announces nothing"
            self._network.tool("nft", "add", "table", "ip", name)
            time.sleep(0.05)
            self._network.tool("nft", "delete", "table", "ip", name)

    def between(self, first: str, last: str) -> list[str]:
        a = max(i for i, line in enumerate(self.lines) if first in line)
        b = min(i for i, line in enumerate(self.lines) if last in line)
        return [line for line in self.lines[a + 1 : b] if not line.startswith("# new generation")]

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stdout
        self._process.stdout.close()


@pytest.fixture
def apply(network: Network, way: tuple[str, ...]) -> Callable[[str], dict]:
    def do(text: str) -> dict:
        done = network.lbctl("apply", "--yes", "--output", "json", *way, config=text)
        assert done.code == 0, done.err
        return done.json

    return do


@contextmanager
def foreign_nth(network: Network) -> Iterator[Callable[[], list[str]]]:
    """Somebody's own legacy ladder: any write to its table starts it anew, so it tells of every one."""
    network.local_endpoints((7001, 7002))
    network.tool(
        "iptables-legacy-restore",
        "--noflush",
        stdin="*nat\n"
        "-A OUTPUT -d 127.0.0.9/32 -p tcp -m tcp --dport 70 -m statistic --mode nth --every 2 --packet 0 "
        "-j REDIRECT --to-ports 7001\n"
        "-A OUTPUT -d 127.0.0.9/32 -p tcp -m tcp --dport 70 -j REDIRECT --to-ports 7002\n"
        "COMMIT\n",
    )
    yield lambda: network.ask(network.host, "127.0.0.9", 70)


def test_applying_twice_changes_nothing(network: Network, way: tuple[str, ...], apply: Callable) -> None:
    network.local_endpoints((8001, 8002, 8003))
    with foreign_nth(network) as witness:
        assert apply(intent(WEB))["applied"] is True
        assert network.ask(network.client, HOST4, 80, 4) == rounds(4)
        assert witness() == ["7001"]
        counters = network.lbctl("status", "--output", "json", *way, config=network.folder / "lbctl.toml")
        monitor = Monitor(network)
        monitor.mark("before")
        again = apply(intent(WEB))
        monitor.mark("after")
        monitor.stop()
        assert (again["changed"], again["applied"]) == (False, False)
        assert monitor.between("before", "after") == []
        assert witness() == ["7002"]
        status = network.lbctl("status", "--output", "json", *way, config=network.folder / "lbctl.toml")
        assert status.json == counters.json
        assert status.json["in_sync"] is True
        assert network.ask(network.client, HOST4, 80, 5) == rounds(5, start=4)


def test_the_witness_sees_a_write(network: Network) -> None:
    """The test above could not fail otherwise."""
    with foreign_nth(network) as witness:
        assert witness() == ["7001"]
        network.tool("iptables-legacy", "-t", "nat", "-N", "SOMETHING")
        assert witness() == ["7001"]
    monitor = Monitor(network)
    monitor.mark("before")
    network.tool("nft", "add", "table", "ip", "seen")
    monitor.mark("after")
    monitor.stop()
    assert any("seen" in line for line in monitor.between("before", "after"))


@pytest.mark.parametrize(
    "change",
    [
        service("other", "81/tcp", "8005"),
        service("other", "82/udp", "8004", "8005", "8006"),
        service("other", "81/tcp") + weighted(x_8004=5, y_8005=1),
        "",
    ],
    ids=["an endpoint less", "another listener", "weights", "gone"],
)
def test_another_services_change_disturbs_nobody(network: Network, way: tuple[str, ...], change: str) -> None:
    """Counters and turns of a service stay where they were while another changes, on every backend."""
    network.local_endpoints((8001, 8002, 8003, 8004, 8005))
    assert network.lbctl("apply", "--yes", *way, config=two(WEB, OTHER)).code == 0
    position = 0
    for text in (two(WEB, change), two(WEB, OTHER), two(OTHER, WEB), two(WEB, change)):
        assert network.ask(network.client, HOST4, 80, 4) == rounds(4, position)
        assert network.ask(network.client, HOST6, 80, 2) == rounds(2, position // 2)
        position += 4
        assert network.lbctl("apply", "--yes", *way, config=text).code == 0
    assert network.ask(network.client, HOST4, 80, 4) == rounds(4, position)
    status = network.lbctl("status", "--output", "json", *way, config=network.folder / "lbctl.toml").json
    web = next(s for s in status["services"] if s["name"] == "web")
    assert web["connections"] == position + 4 + position // 2


def test_a_change_after_every_connection_starves_nobody(network: Network, way: tuple[str, ...]) -> None:
    network.local_endpoints((8001, 8002, 8003, 8004))
    answers = []
    for i in range(12):
        other = service("other", f"{90 + i % 2}/tcp", "8004")
        assert network.lbctl("apply", "--yes", *way, config=two(WEB, other)).code == 0
        answers += network.ask(network.client, HOST4, 80, 1)
    assert answers == rounds(12)


def test_rules_of_others_stay_byte_for_byte(network: Network, way: tuple[str, ...], apply: Callable) -> None:
    six = FOREIGN_LEGACY.replace("127.0.0.0/8", "::1").replace("172.17.0.0/16", "fd00::/64")
    six = six.replace("172.17.0.2:80", "[fd00::2]:80")
    for word, text in (("iptables", FOREIGN_LEGACY), ("ip6tables", six)):
        for flavour in ("legacy", "nft"):
            network.tool(f"{word}-{flavour}-restore", "--noflush", "--counters", stdin=text)
    network.tool("nft", "-f", "-", stdin=FOREIGN_NFT)
    before = foreign(network)
    # ip6tables-nft-restore 1.8.9 takes no counters, 1.8.11 does.
    assert before.count("[7:420]") in {3, 4}
    assert "packets 5 bytes 300" in before
    for text in (
        intent(WEB),
        two(WEB, OTHER),
        intent(service("web", f"{HOST4}:80/tcp", *(f"{a}:9000" for a in SERVERS4))),
        intent(),
        intent(WEB),
    ):
        apply(text)
        assert foreign(network) == before
    assert network.lbctl("remove", "--yes").code == 0
    assert foreign(network) == before


def foreign(network: Network) -> str:
    """Everything that is not ours, with counters."""
    texts = [network.tool("nft", "list", "table", "ip", "filterish")]
    texts.append(network.tool("nft", "list", "table", "inet", "lbctl-of-somebody"))
    texts += [
        network.tool(f"{word}-{flavour}-save", "--counters")
        for word in ("iptables", "ip6tables")
        for flavour in ("legacy", "nft")
    ]
    own = [f"{mark}{name}" for mark in (":", "-A ", "-j ") for name in ("LBCTL ", "LBCTL-")]
    # Policy counters count every packet of the namespace, and each iptables write starts them anew.
    return "\n".join(
        line.split(" [")[0] if line.startswith(":") else line
        for text in texts
        for line in text.splitlines()
        if not line.startswith("#") and not any(mark in f"{line} " for mark in own)
    )


def test_remove_leaves_no_trace(network: Network, way: tuple[str, ...], apply: Callable) -> None:
    network.local_endpoints((80, 8001, 8002, 8003))
    # A first table of iptables-nft brings the built-in chains, which stay: they are its own.
    for word in ("iptables", "ip6tables"):
        for flavour in ("legacy", "nft"):
            for line in ("-A {} -j RETURN\n", "-F {}\n"):
                lines = "".join(line.format(hook) for hook in ("PREROUTING", "OUTPUT", "POSTROUTING"))
                network.tool(f"{word}-{flavour}-restore", "--noflush", stdin=f"*nat\n{lines}COMMIT\n")
    clean = network.rules()
    remote = service("api", "82/tcp", *(f"{a}:9000" for a in SERVERS4), source_nat="always")
    hairpin = service("pin", "83/tcp", *(f"{a}:9000" for a in SERVERS4))
    apply(intent(WEB, OTHER, remote, hairpin))
    assert network.rules() != clean
    assert network.ask(network.client, HOST4, 80, 2) == rounds(2)
    removed = network.lbctl("remove", "--yes", "--output", "json")
    assert removed.code == 0, removed.err
    assert removed.json["removed"] is True
    assert network.rules() == clean
    assert network.ask(network.client, HOST4, 80, 1) == ["80"]
    again = network.lbctl("remove", "--yes", "--output", "json")
    assert (again.code, again.json["changed"]) == (0, False)


KEEPER = """\
table ip keeper {
	chain in {
		type nat hook prerouting priority 0; policy accept;
		ct state new accept
	}
	chain out {
		type nat hook postrouting priority 0; policy accept;
		ct state new accept
	}
}
"""


def test_established_connections_live_through_every_change(network: Network, way: tuple[str, ...]) -> None:
    holder = network.holder((8001, 8002, 8003, 8004))
    path = network.folder / "lbctl.toml"
    assert network.lbctl("apply", "--yes", *way, config=intent(WEB)).code == 0
    open_ = [network.hold(network.client, HOST4, 80) for _ in range(6)]
    status = network.lbctl("status", "--output", "json", *way, config=path).json
    assert [e["established"] for e in status["services"][0]["endpoints"]] == [2, 2, 2]
    for text in (intent(service("web", "80/tcp", "8004")), intent(OTHER), intent(WEB, OTHER)):
        assert network.lbctl("apply", "--yes", *way, config=text).code == 0
        assert [c.say("still there?") for c in open_] == ["still there?"] * 6
    assert holder.ports == [8001, 8002, 8003] * 2
    # The kernel translates as long as anybody's rules want it to; ours need not be the ones.
    network.tool("nft", "-f", "-", stdin=KEEPER)
    assert network.lbctl("remove", "--yes").code == 0
    assert [c.say("still there?") for c in open_] == ["still there?"] * 6
