"""Draining endpoints by command on the real kernel: no connection is lost, and nothing forgets the drain."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from lbctl.conformance.network import HOST4, HOST6
from lbctl.host import LocalHost
from lbctl.host.netns import Namespace
from lbctl.model import Family
from support.network import Network, intent, run_lbctl, service
from support.waves import KNOCKERS, Knock, Storm, reported, size

LBCTL = str(Path(sys.executable).with_name("lbctl"))
STORM = size(8000)
PORTS = range(8001, 8009)
WEB = intent(service("web", "80/tcp", "8001-8008"))
OTHERS = [str(port) for port in PORTS if port != 8003]
#: Seconds that nothing here may take, on the slowest machine.
PATIENCE = 120


def state(network: Network) -> dict[str, Any]:
    """Return the only record of overrides, by endpoint."""
    [path] = network.folder.rglob("lbctl.overrides")
    return {each["endpoint"]: each for each in json.loads(path.read_text())["overrides"]}


def shares(network: Network, connections: int) -> Counter[str]:
    """Return who answered how many of some connections."""
    return Counter(network.ask(network.client, HOST4, 80, connections))


@pytest.mark.parametrize("driver", ["libnftables", "nft", "legacy", "nf_tables"])
def test_draining_one_of_eight_and_back_loses_no_connection(network: Network, driver: str) -> None:
    assert network.lbctl("apply", "--yes", "--driver", driver, config=WEB).code == 0
    local = [f"{host}:{port}" for host in (HOST4, f"[{HOST6}]") for port in PORTS]
    waves = Storm(network, [(network.host, local)], [f"{HOST4}:80", f"[{HOST6}]:80"], clients=16)
    steps: list[tuple[float, float]] = []

    def step(*command: str) -> None:
        waves.wait(waves.count() + STORM // 3)
        begun = time.monotonic()
        done = network.lbctl(*command)
        steps.append((begun, time.monotonic()))
        assert done.code == 0, done.err

    try:
        waves.begin()
        started, first = time.monotonic(), waves.count()
        step("drain", "web/8003")
        step("activate", "web/8003")
        waves.wait(waves.count() + STORM // 3)
        took, count = time.monotonic() - started, waves.count() - first
        reports = waves.end()
    finally:
        waves.close()
    found = reported(reports)
    failed = [knock for knock in found if knock.failed]
    print(f"{driver}: {count / took:.0f} connections a second, {len(found)} in all, {len(failed)} failed")
    assert not failed
    # Those to the drained endpoint too.
    assert [report["broken"] for report in reports] == [[]] * KNOCKERS
    drained, active = steps
    phases = (
        ("before", 0.0, drained[0], sorted([*OTHERS, "8003"])),
        ("drained", drained[1], active[0], OTHERS),
        ("active", active[1], float("inf"), sorted([*OTHERS, "8003"])),
    )
    for name, after, until, ports in phases:
        for family in Family:
            within = [k for k in found if k.family is family and k.begin >= after and k.end <= until]
            counts = Counter(map(_port, within))
            print(f"  {name}: {family} {sorted(counts.items())}")
            assert sorted(counts) == ports
            # Who was under way at both ends of a phase has taken a turn that is not counted here.
            assert max(counts.values()) - min(counts.values()) <= 1 + 2 * KNOCKERS


def _port(knock: Knock) -> str:
    """The port of the endpoint that answered."""
    return knock.answer.rpartition(":")[2]


def test_a_drain_stays_part_of_everything(network: Network, way: tuple[str, ...]) -> None:
    """Of plan, apply, status, rollback and a repair; `activate` ends it, and works without a file."""
    network.local_endpoints(range(8001, 8005))
    three, four = (intent(service("web", "80/tcp", f"8001-{last}")) for last in (8003, 8004))
    assert network.lbctl("apply", "--yes", *way, config=three).code == 0
    done = network.lbctl("drain", "web/8002", "--why", "deploy")
    assert done.code == 0, done.err
    assert "Drained web/8002" in done.err
    rules = network.rules()
    assert shares(network, 4) == {"8001": 2, "8003": 2}
    plan = network.lbctl("plan", *way, config=three)
    assert plan.out.startswith("Nothing to change")
    assert "Operator: web/8002 drained by root since " in plan.out
    assert "(deploy)" in plan.out
    assert network.lbctl("status", *way, "--exit-code", config=three).code == 0
    applied = network.lbctl("apply", "--yes", *way, "--output", "json", config=four)
    assert [each["endpoint"] for each in applied.json["overrides"]] == ["8002"]
    assert shares(network, 6) == {"8001": 2, "8003": 2, "8004": 2}
    assert network.lbctl("rollback", "--yes").code == 0
    assert network.rules() == rules
    # What is lost is repaired as it was.
    network.tool("nft", "flush", "ruleset")
    for word in ("iptables-legacy", "ip6tables-legacy"):
        network.tool(word, "-t", "nat", "-F")
    assert network.lbctl("apply", "--yes", *way, config=three).code == 0
    assert shares(network, 4) == {"8001": 2, "8003": 2}
    back = network.lbctl("activate", "web/8002", "--output", "json")
    assert (back.json["applied"], back.json["endpoints"][0]["after"]) == (True, None)
    assert shares(network, 3) == {"8001": 1, "8002": 1, "8003": 1}
    numbers = [each["number"] for each in network.lbctl("history", "--output", "json").json["history"]]
    assert numbers == [1, 2, 3]


def test_a_weight_by_command(network: Network, way: tuple[str, ...]) -> None:
    network.local_endpoints(range(8001, 8003))
    two = intent(service("web", "80/tcp", "8001", "8002"))
    assert network.lbctl("apply", "--yes", *way, config=two).code == 0
    done = network.lbctl("weight", "web/8002", "2")
    assert (done.code, done.err) == (0, "web/8002 now has weight 2; 1 in the applied intent.\n")
    assert shares(network, 6) == {"8001": 2, "8002": 4}
    assert network.lbctl("weight", "web/8002", "--reset").code == 0
    assert shares(network, 6) == {"8001": 3, "8002": 3}
    for words, message in (
        (["weight", "web/8002", "0"], "a weight of 0 is a drain"),
        (["weight", "web/8002"], "give either a weight or --reset"),
        (["weight", "web/8002", "4097"], "not between 1 and 4096"),
    ):
        refused = network.lbctl(*words)
        assert (refused.code, message in refused.err) == (2, True)


def test_a_drain_survives_a_restart_of_the_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that has started has a kernel without rules, and the state of its first network namespace."""
    monkeypatch.setattr("lbctl.host.local._is_first_network", lambda: True)
    config = tmp_path / "lbctl.toml"
    config.write_text(intent(service("web", "80/tcp", "8001-8003")))
    folder = tmp_path / "state"
    words = (["apply", "--yes"], ["drain", "web/8002"]), (["apply", "--yes"], ["status", "--output", "json"])
    for commands in words:
        boot = Namespace(LocalHost(folder))
        try:
            with boot.entered():
                for command in commands:
                    done = run_lbctl(*command, "--config", str(config), env={"LBCTL_STATE_DIR": str(folder)})
                    assert done.code == 0, done.err
                rules = boot.run("nft", "list", "ruleset")
        finally:
            boot.close()
    assert (done.json["in_sync"], '"web/8001"' in rules, '"web/8002"' in rules) == (True, True, False)


def test_waiting_for_connections_to_end(network: Network) -> None:
    ports = range(8001, 8003)
    network.holder(ports)
    assert network.lbctl("apply", "--yes", config=intent(service("web", "80/tcp", "8001-8002"))).code == 0
    held = [network.hold(network.client, HOST4, 80) for _ in ports]
    late = network.lbctl("drain", "web/8001", "web/8002", "--yes", "--wait", "1s", "--output", "json")
    assert (late.code, late.json["established"]) == (1, 2)
    assert "2 established connections of web/8001, web/8002 are left after 1 s" in late.err
    assert [each.say("still") for each in held]
    assert state(network).keys() == {"8001", "8002"}
    for each in held:
        each.close()
    done = network.lbctl("drain", "web/8001", "web/8002", "--wait", "1m", "--output", "json")
    assert (done.code, done.json["established"], done.json["applied"]) == (0, 0, False)


def test_interrupting_the_wait_keeps_the_drain(network: Network) -> None:
    network.holder([8001, 8002])
    assert network.lbctl("apply", "--yes", config=intent(service("web", "80/tcp", "8001-8002"))).code == 0
    held = network.hold(network.client, HOST4, 80)
    master, slave = pty.openpty()
    with network.host.entered():
        process = subprocess.Popen(
            [LBCTL, "drain", "web/8001", "--wait", "5m", "--owner", "lbctl"],
            env={**os.environ, "LBCTL_STATE_DIR": str(network.folder), "TERM": "xterm"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=slave,
        )
    os.close(slave)
    said = read_until(master, "1 established connections left, waiting 4:5")
    process.send_signal(signal.SIGINT)
    said += read_until(master, "waits again.")
    assert process.wait(PATIENCE) == 130
    os.close(master)
    assert "web/8001: stays drained. lbctl activate ends that" in said
    assert held.say("still")
    assert state(network)["8001"]["drained"]


def read_until(terminal: int, text: str) -> str:
    """Return what a terminal shows until it shows a text, with a space between all words."""
    shown = ""
    until = time.monotonic() + PATIENCE
    while text not in " ".join(shown.split()):
        assert time.monotonic() < until, shown
        shown += os.read(terminal, 4096).decode()
    return " ".join(shown.split())
