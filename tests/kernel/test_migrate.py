"""Moving services between backends: what is said, what is done, and that it can be undone."""

from itertools import permutations

import pytest

from lbctl.conformance.network import HOST4, SERVERS4
from support.network import Network, intent, service

#: Driver → its backend and its store.
PLACES = {
    "nft": ("nftables", "nftables"),
    "legacy": ("iptables", "iptables-legacy"),
    "nf_tables": ("iptables", "iptables-nft"),
}
WEB = service("web", "80/tcp", "8001-8003")
API = service("api", "81/tcp", *(f"{a}:80" for a in SERVERS4), scheduler="source-hash", affinity="3h")


WAYS = [pytest.param(*way, id=" to ".join(way)) for way in permutations(PLACES, 2)]


def rules(network: Network) -> list[str]:
    """All rules: tables that are there and empty are no difference."""
    empty = ("*", "COMMIT", ":PREROUTING", ":INPUT", ":OUTPUT", ":FORWARD", ":POSTROUTING")
    tables = network.tool("nft", "list", "tables").splitlines()
    texts = [network.tool("nft", "-s", "list", *t.split()) for t in sorted(tables) if "lbctl" in t]
    for word in ("iptables", "ip6tables"):
        texts += [network.tool(f"{word}-{flavour}-save") for flavour in ("legacy", "nft")]
    lines = [line for text in texts for line in text.splitlines() if not line.startswith("#")]
    return [line.split(" [")[0] for line in lines if not line.startswith(empty)]


@pytest.mark.parametrize(("source", "target"), WAYS)
def test_services_move_and_return(network: Network, source: str, target: str) -> None:
    network.local_endpoints((8001, 8002, 8003))
    network.remote_endpoints(80)
    config = intent(WEB, API)
    assert network.lbctl("apply", "--yes", "--driver", source, config=config).code == 0
    before = rules(network)
    backend, _ = PLACES[target]
    words = ("migrate", "--to", backend, "--driver", target)
    planned = network.lbctl(*words, "--plan", config=config)
    assert planned.code == 0, planned.err
    assert rules(network) == before
    moved = network.lbctl(*words, "--yes", config=config)
    assert moved.code == 0, moved.err
    assert moved.err == "Moved.\n"
    assert sorted(network.ask(network.client, HOST4, 80, 3)) == ["8001", "8002", "8003"]
    in_sync = network.lbctl("plan", "--exit-code", "--driver", target, config=config)
    assert in_sync.code == 0, in_sync.out + in_sync.err
    again = network.lbctl(*words, "--yes", config=config)
    assert (again.code, "Nothing to move" in again.err) == (0, True)
    back = network.lbctl("rollback", "--yes", config=config)
    assert back.code == 0, back.err
    assert rules(network) == before
