"""Moving services between backends: what is said, what is done, and that it can be undone."""

import json
import math
import os
import subprocess
import time
from collections import Counter
from itertools import permutations

import pytest

from lbctl.conformance.network import HOST4, HOST6, SERVERS4
from lbctl.model import Family
from support import storm
from support.crash import LBCTL
from support.network import Network, intent, service
from support.waves import KNOCKERS, Storm, reported, size

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
    assert moved.err.splitlines()[1:] == ["Migrated."]
    assert sorted(network.ask(network.client, HOST4, 80, 3)) == ["8001", "8002", "8003"]
    in_sync = network.lbctl("plan", "--exit-code", "--driver", target, config=config)
    assert in_sync.code == 0, in_sync.out + in_sync.err
    again = network.lbctl(*words, "--yes", config=config)
    assert (again.code, "Nothing to migrate" in again.err) == (0, True)
    back = network.lbctl("rollback", "--yes", config=config)
    assert back.code == 0, back.err
    assert "+ web  80/tcp\n" in back.out
    assert "- web  80/tcp\n" in back.out
    assert rules(network) == before


STORM = size(8000)
STAGES = ("legacy", "nft", "legacy", "nf_tables", "nft")


def test_no_connection_is_lost_and_shares_stay_exact(network: Network) -> None:
    """Moved back and forth under load; a connection under way during a move counts for either side."""
    config = intent(
        service("web", "80/tcp", "8001", "8002", "8003"),
        service("api", "81/tcp", *(f"{a}:80" for a in SERVERS4), scheduler="source-hash"),
        service("kept", "82/tcp", *(f"{a}:80" for a in SERVERS4), affinity="1h"),
    )
    local = [f"{host}:{port}" for host in (HOST4, f"[{HOST6}]") for port in (8001, 8002, 8003)]
    serving = [(network.host, local), (network.server, [f"{a}:80" for a in SERVERS4])]
    targets = [f"{HOST4}:80", f"[{HOST6}]:80", f"{HOST4}:81", f"{HOST4}:82"]
    assert network.lbctl("apply", "--yes", "--driver", STAGES[0], config=config).code == 0
    waves = Storm(network, serving, targets, clients=16)
    times: list[tuple[float, float]] = []
    try:
        waves.begin()
        started = time.monotonic()
        for driver in STAGES[1:]:
            # On a loaded machine, a move takes as long as many connections: each phase gets its own.
            waves.wait(waves.count() + STORM // len(STAGES))
            begun = time.monotonic()
            moved = network.lbctl(
                "migrate", "--to", PLACES[driver][0], "--driver", driver, "--yes", config=config
            )
            times.append((begun, time.monotonic()))
            assert moved.code == 0, moved.err
        waves.wait(waves.count() + STORM // len(STAGES))
        took = time.monotonic() - started
        reports = waves.end()
    finally:
        waves.close()
    found = reported(reports)
    failed = [knock for knock in found if knock.failed]
    echoes = sum(report["echoes"] for report in reports)
    print(
        f"{len(found)} connections in {took:.0f} s, {len(failed)} failed; {echoes} echoes of "
        f"{KNOCKERS * storm.HELD} held connections; {len(times)} moves took "
        + ", ".join(f"{done - begun:.2f} s" for begun, done in times)
    )
    assert not failed
    assert [report["broken"] for report in reports] == [[]] * KNOCKERS
    phases = [
        (done, begun)
        for (_, done), (begun, _) in zip([(0.0, 0.0), *times], [*times, (math.inf, 0.0)], strict=True)
    ]
    for (after, until), driver in zip(phases, STAGES, strict=True):
        within = [k for k in found if k.port == 80 and k.begin >= after and k.end <= until]
        for family in Family:
            counts = Counter(knock.answer for knock in within if knock.family is family)
            print(f"  {driver}: {family} {sorted(counts.items())}")
            assert len(counts) == 3
            # Who was under way at both ends of a phase has taken a turn that is not counted here.
            assert max(counts.values()) - min(counts.values()) <= 1 + 2 * KNOCKERS
    for port in (81, 82):
        placed = {(k.client, k.answer) for k in found if k.port == port}
        assert len(placed) == len({client for client, _ in placed}), f"clients of {port} changed endpoint"


@pytest.mark.parametrize("confirmed", [True, False])
def test_a_move_on_trial(network: Network, confirmed: bool) -> None:
    network.local_endpoints((8001, 8002, 8003))
    config = intent(WEB)
    assert network.lbctl("apply", "--yes", "--driver", "legacy", config=config).code == 0
    before = rules(network)
    words = ["migrate", "--to", "nftables", "--trial", "2s", "--yes", "--output", "json"]
    with network.host.entered():
        moving = subprocess.Popen(
            [LBCTL, *words, "--config", str(network.folder / "lbctl.toml")],
            env={**os.environ, "LBCTL_STATE_DIR": str(network.folder)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    try:
        while any("LBCTL" in line for line in network.tool("iptables-legacy-save").splitlines()):
            assert moving.poll() is None
            time.sleep(0.05)
        assert sorted(network.ask(network.client, HOST4, 80, 3)) == ["8001", "8002", "8003"]
        if confirmed:
            assert network.lbctl("confirm", "--wait", "5s").code == 0
        out, err = moving.communicate(timeout=30)
    finally:
        moving.kill()
    ended = (0, "confirmed") if confirmed else (8, "reverted")
    assert (moving.returncode, json.loads(out)["trial"]) == ended, err
    assert (rules(network) == before) != confirmed
    assert sorted(network.ask(network.client, HOST4, 80, 3)) == ["8001", "8002", "8003"]


def test_usual_mistakes(network: Network) -> None:
    config = intent(WEB)
    empty = network.lbctl("migrate", "--to", "nftables", "--yes", config=config)
    assert (empty.code, "Nothing to migrate" in empty.err) == (0, True)
    assert network.lbctl("apply", "--yes", "--driver", "legacy", config=config).code == 0
    for words, code, said in (
        (("--yes",), 2, "--to"),
        (("--to", "auto"), 2, 'there is no backend "auto"'),
        (("--to", "nftable"), 2, "hint: one of nftables, iptables\n"),
        (("--to", "nftables", "--from", "nftables"), 2, "cannot be its source"),
        (("--to", "nftables", "--from", "iptables"), 2, "is not a store of rules"),
        (("--to", "nftables", "--driver", "legacy"), 2, 'there is no driver "legacy"'),
        (("--to", "nftables", "--fix", "--keep"), 2, "one of them"),
        (("--to", "nftables", "--fix", "--yes"), 2, "are managed by lbctl"),
        (("--to", "nftables", "--trial", "0s"), 2, "between one second and one day"),
        (("--to", "nftables", "--save", str(network.folder)), 2, "is not overwritten"),
        (("--to", "nftables"), 2, "pass --yes"),
    ):
        done = network.lbctl("migrate", *words, config=config)
        assert (done.code, said in done.err) == (code, True), (words, done.err)
    other = network.lbctl("migrate", "--to", "nftables", "--yes", config=config.replace("8003", "8004"))
    assert (other.code, "differs from the intent file" in other.err) == (5, True)
    assert "lbctl" not in network.tool("nft", "list", "tables")


def test_without_a_file_or_a_history_the_rules_say_what_they_do(network: Network) -> None:
    network.local_endpoints((8001, 8002, 8003))
    assert network.lbctl("apply", "--yes", "--driver", "legacy", config=intent(WEB, API)).code == 0
    for state in network.folder.rglob("lbctl.0*"):
        state.unlink()
    moved = network.lbctl("migrate", "--to", "nftables", "--yes", "--output", "json")
    assert moved.code == 0, moved.err
    assert moved.json["intent_from"] == "the existing rules"
    assert {each["verdict"] for each in moved.json["services"]} == {"identical"}
    assert sorted(network.ask(network.client, HOST4, 80, 3)) == ["8001", "8002", "8003"]
    (network.folder / "said.toml").write_text(moved.json["intent"])
    planned = network.lbctl("plan", "--exit-code", config=network.folder / "said.toml")
    assert planned.code == 0, planned.out
