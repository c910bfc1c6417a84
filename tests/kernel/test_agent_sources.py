"""Endpoints from a source, on the real kernel: found, lost, drained, beyond bounds, and kept without it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lbctl.agent import client
from lbctl.conformance.network import HOST4, SERVERS4
from lbctl.host import LocalHost
from support.agents import AgentProcess, asked, wanted
from support.network import Network, intent, service

A, B, C = (f"{address}:8080" for address in SERVERS4)


class File:
    """A file of targets, replaced as a whole."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "targets.json"

    def write(self, *groups: dict[str, Any]) -> None:
        new = self.path.with_suffix(".new")
        new.write_text(json.dumps(groups))
        new.replace(self.path)

    def names(self, *targets: str) -> None:
        self.write({"targets": list(targets)})

    @property
    def table(self) -> str:
        return f'[service.discover]\nsource = "file"\nname = "{self.path}"\n'


def sources(agent: AgentProcess) -> Any:
    # By the socket: what /status shows of the kernel takes longer, and is kept for a while.
    with agent.network.host.entered():
        found: Any = client.about(LocalHost(agent.network.folder).socket_path("lbctl"))
    return found["sources"][0] if found is not None and found["sources"] else {"error": None}


def shares(agent: AgentProcess) -> dict[str, str]:
    return wanted(agent) if agent.status["services"] else {}


def test_endpoints_follow_their_source_and_stay_when_it_fails(
    network: Network, started: Callable[..., AgentProcess]
) -> None:
    network.remote_endpoints(8080)
    file = File(network.folder)
    agent = started(intent(service("web", f"{HOST4}:80/tcp") + file.table))
    agent.wait(lambda: sources(agent)["error"], "a missing file is not reported")
    assert shares(agent) == {}
    file.names(A, B)
    agent.wait(lambda: shares(agent) == {A: "1/2", B: "1/2"}, "not found")
    assert asked(network, 20) == {SERVERS4[0]: 10, SERVERS4[1]: 10}
    file.names(A, B, C)
    agent.wait(lambda: shares(agent) == {A: "1/3", B: "1/3", C: "1/3"}, "C is not found")
    held = {A: "1/2", B: "0/1", C: "1/2"}
    file.write({"targets": [A, C]}, {"targets": [B], "labels": {"state": "drain"}})
    agent.wait(lambda: shares(agent) == held, "B is not drained")
    [found] = agent.status["services"]
    endpoints = {each["name"]: each for each in found["endpoints"]}
    assert [endpoints[name]["source"] for name in (A, B)] == ["active", "drain"]
    assert endpoints[B]["reason"] == "drain by its source"
    for text in ("[", "[]", json.dumps([{"targets": ["127.0.0.1:22"]}]), json.dumps([{"targets": [A, A]}])):
        file.path.write_text(text)
        agent.wait(lambda: sources(agent)["error"], f"{text} is not refused")
        assert shares(agent) == held
        file.write({"targets": [A, C]}, {"targets": [B], "labels": {"state": "drain"}})
        agent.wait(lambda: not sources(agent)["error"], "the good answer is not taken again")
    file.path.unlink()
    agent.wait(lambda: sources(agent)["error"])
    first = network.lbctl("status").out.splitlines()[:4]
    assert "1 of 1 sources failing" in first[1]
    assert f"web: source file {file.path}: {file.path} cannot be read: No such file" in first[3]
    assert "the last good answer (3 endpoints, " in first[3]
    assert asked(network, 20) == {SERVERS4[0]: 10, SERVERS4[2]: 10}
    assert agent.stop() == 0
    # Commands go on with the last good answer, and so does the next agent.
    assert network.lbctl("status", "--output", "json").json["in_sync"]
    assert network.lbctl("apply", "--yes", config=network.folder / "lbctl.toml").code == 0
    assert asked(network, 20) == {SERVERS4[0]: 10, SERVERS4[2]: 10}
    agent = started(intent(service("web", f"{HOST4}:80/tcp") + file.table))
    agent.wait(lambda: sources(agent)["error"])
    assert shares(agent) == held


def test_discovered_endpoints_are_checked_and_drained_like_others(
    network: Network, started: Callable[..., AgentProcess]
) -> None:
    network.remote_endpoints(8080)
    file = File(network.folder)
    file.names(A, B, "10.0.0.13:9")
    text = service("web", f"{HOST4}:80/tcp", A, check="tcp") + file.table
    agent = started(intent(text))
    lost = "10.0.0.13:9"
    agent.wait(lambda: shares(agent) == {A: "1/2", B: "1/2", lost: "0/1"}, "not found or not checked")
    assert network.lbctl("drain", f"web/{B}", "--yes").code == 0
    agent.wait(lambda: shares(agent)[A] == "1/1", "not drained")
    assert network.lbctl("activate", f"web/{B}", "--yes").code == 0
    agent.wait(lambda: shares(agent)[A] == "1/2", "not activated")
    assert asked(network, 20) == {SERVERS4[0]: 10, SERVERS4[1]: 10}


def test_closer_bounds_hold_from_the_moment_they_are_applied(
    network: Network, started: Callable[..., AgentProcess]
) -> None:
    file = File(network.folder)
    file.names(A, B)
    text = intent(service("web", f"{HOST4}:80/tcp", A) + file.table)
    agent = started(text)
    agent.wait(lambda: shares(agent) == {A: "1/2", B: "1/2"}, "not found")
    closer = text + 'within = ["10.9.0.0/16"]\n'
    assert network.lbctl("apply", "--yes", config=closer).code == 0
    agent.wait(lambda: shares(agent) == {A: "1/1"}, "the answer counts beyond its bounds")
    agent.wait(lambda: "is not in a network of `within`" in (sources(agent)["error"] or ""))
