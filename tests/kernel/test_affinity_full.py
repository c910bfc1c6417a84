"""Affinity where no more clients can be remembered: everybody is served all the same."""

import re
import time
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest

from lbctl.conformance.network import CLIENT4, HOST4, SERVERS4
from lbctl.errors import ApplyFailed
from lbctl_iptables.advice import LIST_SIZE
from lbctl_nftables.layout import AFFINITY_SIZE
from support.network import Network, intent, service

#: Many addresses, all of them the client's.
CLIENTS = "198.18.0.0/16"


def address(number: int) -> str:
    return f"198.18.{number >> 8}.{number & 255}"


@pytest.fixture
def crowd(network: Network) -> Network:
    """A network whose client has thousands of addresses."""
    network.client.ip("route", "add", "local", CLIENTS, "dev", "lo")
    network.host.ip("route", "add", CLIENTS, "via", CLIENT4)
    return network


def ask(network: Network, client: str, count: int = 1) -> list[str]:
    return network.ask(network.client, HOST4, 80, count, source=client)


def test_a_full_map_of_clients(crowd: Network, options: tuple[str, ...]) -> None:
    crowd.remote_endpoints(80)
    places = [f"{server}:80" for server in SERVERS4]
    text = intent(service("api", "80/tcp", *places, affinity="3h"))
    done = crowd.lbctl("apply", "--yes", *options, config=text)
    assert done.code == 0, done.err
    entries = ("element", "ip", "lbctl", "affinity-api")

    def load(verb: str, *elements: str) -> None:
        crowd.tool("nft", "-f", "-", stdin=f"{verb} {' '.join(entries)} {{ {', '.join(elements)} }}\n")

    def is_known(client: str) -> bool:
        try:
            crowd.tool("nft", "get", *entries, f"{{ {client} }}")
        except ApplyFailed:
            return False
        return True

    old, new, newer = "198.18.0.1", "198.18.255.1", "198.18.255.2"
    others = (f"100.64.{n >> 8}.{n & 255} timeout 3h : {SERVERS4[2]} . 80" for n in range(AFFINITY_SIZE - 1))
    load("add", f"{old} timeout 3h : {SERVERS4[2]} . 80", *others)
    # Who is known has the known endpoint, who is not is balanced, again and again, and each counts once.
    assert ask(crowd, old, 2) == [SERVERS4[2]] * 2
    assert ask(crowd, new, 6) == [*SERVERS4, *SERVERS4]
    assert not is_known(new)
    # By the kernel's own word: status would read all 65,536 of them.
    counted = crowd.tool("nft", "list", "set", "ip", "lbctl", "endpoints-api")
    found = dict(re.findall(r"(\S+) \. (?:80|http) counter packets (\d+)", counted))
    assert found == dict(zip(SERVERS4, "224", strict=True))
    # An entry that ends makes room, once the kernel has put it away.
    load("delete", "100.64.0.0")
    load("add", f"100.64.0.0 timeout 1s : {SERVERS4[2]} . 80")
    deadline = time.monotonic() + 20
    while not is_known(newer):
        assert time.monotonic() < deadline
        [last] = ask(crowd, newer)
        time.sleep(0.1)
    assert ask(crowd, newer, 4) == [last] * 4
    assert len(set(ask(crowd, new, 3))) == 3


@pytest.mark.parametrize("driver", ["legacy", "nf_tables"])
def test_a_full_list_of_an_endpoint(crowd: Network, driver: str) -> None:
    crowd.local_endpoints((8001, 8002))
    options = ("--backend", "iptables", "--driver", driver)
    text = intent(service("web", "80/tcp", "8001", "8002", affinity="3h"))
    done = crowd.lbctl("apply", "--yes", *options, config=text)
    assert done.code == 0, done.err
    size = int(Path(LIST_SIZE).read_text())
    removing = crowd.lbctl("plan", *options, config=text.replace("3h", "4h"))
    assert f"the kernel stores {size:,} clients of each endpoint" in removing.out + removing.err

    def lists() -> list[set[str]]:
        """The clients on each list."""
        found = crowd.tool("sh", "-c", "for list in /proc/net/xt_recent/*; do echo; cat $list; done")
        words = [text.split() for text in found.split("\n\n")]
        return [{w.removeprefix("src=") for w in each if w.startswith("src=")} for each in words if each]

    clients = map(address, range(1, 1 << 16))
    first = list(islice(clients, 2 * size))
    answers = [ask(crowd, client)[0] for client in first]
    assert answers == ["8001", "8002"] * size
    assert sorted(map(len, lists())) == [size, size]
    # The first is seen again, so that the third is the one whom 8001 has not seen for longest.
    one, _, three, _, five, *_ = first
    assert ask(crowd, one) == ["8001"]
    more = next(clients)
    assert ask(crowd, more, 3) == ["8001"] * 3
    [list_of_first] = [each for each in lists() if one in each]
    assert list_of_first == {*first[::2], more} - {three}
    # All others stay where they are, and the one that was forgotten is a new client: it is the turn of 8002.
    assert ask(crowd, five, 2) == ["8001"] * 2
    assert ask(crowd, three, 2) == ["8002"] * 2
    assert Counter(map(len, lists())) == {size: 2}
