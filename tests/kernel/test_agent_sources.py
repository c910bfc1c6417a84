"""Endpoints from a source, on the real kernel: found, lost, drained, beyond bounds, and kept without it."""

import asyncio
import json
import threading
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

from lbctl.agent import client
from lbctl.conformance.network import HOST4, SERVERS4
from lbctl.engine.record import discovered
from lbctl.host import LocalHost
from lbctl.model import Endpoint, parse_endpoint
from support.agents import BOTH_BACKENDS, AgentProcess, asked, wanted
from support.network import Network, intent, service
from support.sources import DockerRig

T = TypeVar("T")
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


def summary(agent: AgentProcess) -> Any:
    # By the socket: what /status shows of the kernel takes longer, and is kept for a while.
    found: list[Any] = []

    def answers() -> bool:
        with agent.network.host.entered():
            found.append(client.about(LocalHost(agent.network.folder).socket_path("lbctl")))
        return found[-1] is not None

    agent.wait(answers, "the agent does not answer")
    return found[-1]


def sources(agent: AgentProcess) -> Any:
    return next(iter(summary(agent)["sources"]), {"error": None})


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
    # The same answer once more is no change; when it was given is on record once the agent has ended.
    before = recorded(network)
    file.names(A, B, lost)
    agent.wait(lambda: time.time() - sources(agent)["age"] > before + 0.5, "not confirmed")
    assert recorded(network) == before
    assert agent.stop() == 0
    assert recorded(network) > before


def recorded(network: Network) -> float:
    """When the answer on record was given, in seconds since 1970."""
    with network.host.entered():
        return discovered.read(LocalHost(network.folder), "lbctl")["web"].good


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


class Flood:
    """Docker, which says in a thread of its own that containers come and go."""

    def __init__(self, folder: Path) -> None:
        self.rig = DockerRig(folder)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self.run(self.rig.start())

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    async def changes(self, count: int, seconds: float) -> None:
        """Change one of two endpoints so many times."""
        began = self._loop.time()
        for number in range(1, count + 1):
            await self.rig.give(at(A), at(B if number % 2 else C))
            await asyncio.sleep(max(began + seconds * number / count - self._loop.time(), 0.0))

    def close(self) -> None:
        self.run(self.rig.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def at(to: str) -> Endpoint:
    return parse_endpoint(to)


def test_a_flood_of_changes_is_at_most_ten_transactions_a_second(
    network: Network, started: Callable[..., AgentProcess]
) -> None:
    network.remote_endpoints(8080)
    flood = Flood(network.folder)
    try:
        flood.run(flood.rig.give(at(A), at(B)))
        table = f'[service.discover]\nsource = "docker"\nname = "{flood.rig.name}"\n'
        where = f'[docker]\nsocket = "{flood.rig.docker.path}"\n'
        agent = started(intent(where + service("web", f"{HOST4}:80/tcp") + table))
        agent.wait(lambda: asked(network, 10) == {SERVERS4[0]: 5, SERVERS4[1]: 5}, "not found")
        before, began = summary(agent)["applies"], time.monotonic()
        flood.run(flood.changes(3000, 3.0))
        flood.run(flood.rig.give(at(A), at(C)))
        agent.wait(lambda: asked(network, 10) == {SERVERS4[0]: 5, SERVERS4[2]: 5}, "the last change is lost")
        applies, seconds = summary(agent)["applies"] - before, time.monotonic() - began
        assert 1 <= applies <= 10 * seconds + 1
        assert sources(agent)["error"] is None
    finally:
        flood.close()


@BOTH_BACKENDS
def test_no_command_is_overtaken_by_the_agent(
    network: Network, started: Callable[..., AgentProcess], way: tuple[str, ...]
) -> None:
    """The agent changes the kernel all the time, also between the plan of a command and its change."""
    network.remote_endpoints(8080)
    file = File(network.folder)
    file.names(A, B)
    found = service("web", f"{HOST4}:80/tcp") + file.table
    one, two = (intent(found, service("api", f"{HOST4}:{port}/tcp", A, B)) for port in (81, 82))
    agent = started(one, *way)
    agent.wait(lambda: asked(network, 2).keys() == set(SERVERS4[:2]), "not found")
    over = threading.Event()

    def change() -> None:
        while not over.is_set():
            for names in ((A, B, C), (A, B)):
                file.names(*names)
                over.wait(0.25)

    changing = threading.Thread(target=change)
    changing.start()
    try:
        for words, config in (
            (("apply", *way), two),
            (("drain", f"api/{A}"), None),
            (("weight", f"web/{A}", "2"), None),
            (("activate", f"api/{A}"), None),
            (("apply", *way), one),
            (("rollback",), None),
            (("remove",), None),
            (("apply", *way), two),
        ):
            done = network.lbctl(*words, "--yes", config=config)
            assert done.code == 0, (words, done.out, done.err)
    finally:
        over.set()
        changing.join()
    file.names(A)
    agent.wait(lambda: asked(network, 2).keys() == {SERVERS4[0]}, "not followed any more")
    assert asked(network, 4, 82) == {SERVERS4[0]: 2, SERVERS4[1]: 2}
