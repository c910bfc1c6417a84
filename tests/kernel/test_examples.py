"""Every example is applied as it stands, and driven by real connections."""

from itertools import cycle, islice
from pathlib import Path

import pytest

from lbctl.config import load
from lbctl.conformance.network import HOST4
from support.examples import EXAMPLES, FILES, furnish, ports, ways_in
from support.network import Network

pytestmark = pytest.mark.kernel


def test_each_story_is_found() -> None:
    assert [file.parent.name for file in FILES] == [
        "checked",
        "dual_stack",
        "media",
        "minimal",
        "origin",
        "weighted",
    ]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.parent.name)
def test_an_example_balances_as_it_says(network: Network, way: tuple[str, ...], file: Path) -> None:
    intent = load(file)
    furnish(network, intent)
    entrances = ways_in(intent)
    assert entrances
    for words in (("check", "--kernel", *way), ("apply", "--yes", *way)):
        done = network.lbctl(*words, config=file)
        assert done.code == 0, done.err
    for client in (network.client, network.host):
        for address, port, kind, period in entrances:
            count = 20 * len(period)
            assert network.ask(client, address, port, count, kind=kind) == list(islice(cycle(period), count))
    status = network.lbctl("status", "--output", "json", *way, config=file).json
    assert status["in_sync"] is True
    for service in status["services"]:
        # Each family is balanced by itself, and was asked by two clients.
        assert service["connections"] == sum(
            2 * 20 * len(s.slots(family))
            for s in intent.services
            for family in s.families
            for _ in ports(s.listeners_of(family))
            if s.name == service["name"]
        )
    assert network.lbctl("plan", "--exit-code", *way, config=file).code == 0
    assert network.lbctl("remove", "--yes", *way, config=file).code == 0
    for address, port, kind, _ in entrances:
        assert network.ask(network.client, address, port, kind=kind) == ["refused"]


def test_old_rules_move_as_the_example_says(network: Network) -> None:
    rules = (EXAMPLES / "migrate" / "iptables.rules").read_text()
    network.tool("iptables-legacy-restore", "--noflush", stdin=rules)
    network.local_endpoints((80, 443, 8001, 8002, 8003, 8101, 8102, 8103))
    words = ("migrate", "--to", "nftables")
    asked = network.lbctl(*words, "--plan")
    assert (asked.code, "--fix" in asked.err) == (2, True)
    assert "8/27" in network.lbctl(*words, "--plan", "--keep").out
    file = network.folder / "lbctl.toml"
    moved = network.lbctl(*words, "--fix", "--yes", "--save", str(file))
    assert moved.code == 0, moved.err
    left = [line for line in network.tool("iptables-legacy-save").splitlines() if line.startswith("-A")]
    assert left == [line for line in rules.splitlines() if "2222" in line]
    assert network.ask(network.client, HOST4, 443, 6) == ["8101", "8102", "8103"] * 2
    assert network.lbctl("status", "--exit-code", config=file).code == 0
    there = network.lbctl("migrate", "--to", "iptables", "--driver", "legacy", "--yes", config=file)
    assert there.code == 0, there.err
    assert network.ask(network.client, HOST4, 80, 6) == ["8001", "8002", "8003"] * 2
    for _ in range(2):
        back = network.lbctl("rollback", "--yes", config=file)
        assert back.code == 0, back.err
    saved = network.tool("iptables-legacy-save").splitlines()
    assert [line for line in saved if line.startswith("-A")] == rules.splitlines()[1:-1]
