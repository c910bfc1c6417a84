"""The agent under load: it is killed, endpoints flap and fail by the hundred, and no connection is lost."""

import os
import random
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lbctl import engine
from lbctl.conformance.network import HOST4, SERVERS4
from lbctl.host import LocalHost
from lbctl.model import Program, diff
from support import storm
from support.agents import BOTH_BACKENDS, AgentProcess, checked, health, wanted
from support.network import Network, intent, service
from support.waves import Storm, reported

#: How often the agent is killed. The full size is 100.
KILLS = int(os.environ.get("LBCTL_KILLS", "10"))
CHECKED = 9000
ROOT = Path(__file__).parents[2]
ENDPOINTS = [f"{address}:8080" for address in SERVERS4]


class Signs:
    """What checks ask, apart from what serves: an endpoint can be down to checks, and lose no connection."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._listening: dict[str, socket.socket] = {}

    def up(self, *addresses: str) -> None:
        with self._network.server.entered():
            for address in addresses:
                self._listening[address] = socket.create_server((address, CHECKED), backlog=4096)

    def down(self, *addresses: str) -> None:
        for address in addresses:
            self._listening.pop(address).close()

    def turn(self, address: str) -> None:
        (self.down if address in self._listening else self.up)(address)

    def close(self) -> None:
        self.down(*list(self._listening))


@pytest.fixture
def signs(network: Network) -> Iterator[Signs]:
    made = Signs(network)
    made.up(*SERVERS4)
    yield made
    made.close()


@pytest.fixture
def load(network: Network) -> Iterator[Storm]:
    made = Storm(network, [(network.server, ENDPOINTS)], [f"{HOST4}:80"], clients=4)
    yield made
    made.close()


def held(network: Network, way: tuple[str, ...]) -> Program:
    """The rules in the kernel, without what traffic has it learn."""
    with network.host.entered():
        session = engine.open_session(LocalHost(network.folder), backend=way[1], driver=way[3])
        return session.observe("lbctl")


def assert_all_answered(reports: list[dict[str, Any]]) -> None:
    """No connection of a storm failed or broke, and each endpoint served some."""
    knocks = reported(reports)
    failed = [knock for knock in knocks if knock.failed]
    assert not failed, f"{len(failed)} of {len(knocks)}: {failed[:3]}"
    assert not [line for report in reports for line in report["broken"]]
    assert {knock.answer for knock in knocks} == set(ENDPOINTS)


@BOTH_BACKENDS
def test_a_killed_agent_loses_no_connection_and_leaves_nothing_half_done(
    network: Network,
    signs: Signs,
    load: Storm,
    started: Callable[..., AgentProcess],
    way: tuple[str, ...],
) -> None:
    text = intent(service("web", f"{HOST4}:80/tcp", *ENDPOINTS) + checked("tcp", port=CHECKED, rise=1))
    agent = started(text, *way)
    whole = held(network, way)
    signs.down(SERVERS4[2])
    agent.wait(lambda: f"{ENDPOINTS[2]} 1/3 -> 0" in agent.said, "not taken out")
    valid = [whole, held(network, way)]
    assert diff(*valid)

    def is_whole() -> bool:
        found = held(network, way)
        return not all(diff(found, each) for each in valid)

    load.begin()
    dice = random.Random(KILLS)
    path = network.folder / "lbctl.toml"
    for _ in range(KILLS):
        signs.turn(SERVERS4[2])
        time.sleep(dice.uniform(0, 0.5))
        agent.kill()
        assert is_whole()
        agent = AgentProcess(network, *way, config=path)
        if dice.random() < 0.5:
            agent.ready()
        else:
            time.sleep(dice.uniform(0, 1.5))
    agent.ready() if agent.process.poll() is None else pytest.fail(agent.said)
    assert_all_answered(load.end())
    agent.wait(
        lambda: network.lbctl("status", "--brief", "--output", "json", *way, config=path).json["in_sync"]
    )
    assert is_whole()
    agent.kill()


def test_many_endpoints_that_fail_at_once_are_few_steps_and_disturb_no_other(
    network: Network, load: Storm, started: Callable[..., AgentProcess]
) -> None:
    good = [f"{SERVERS4[0]}:{port}" for port in range(7000, 7050)]
    bad = [f"{SERVERS4[1]}:{port}" for port in range(7000, 7500)]
    with network.server.entered():
        processes = [
            subprocess.Popen(
                [sys.executable, storm.__file__, "serve", *places],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            for places in (good, bad)
        ]
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
        services = [
            service(f"s{n}", f"{HOST4}:{8000 + n}/tcp", good[n], *bad[n * 10 : n * 10 + 10])
            + checked("tcp", interval="2s", fall=2)
            for n in range(50)
        ]
        calm = service("web", f"{HOST4}:80/tcp", *ENDPOINTS) + checked("tcp", interval="2s", fall=2)
        agent = started(intent(*services, calm))
        load.begin()
        agent.wait(
            lambda: all(c["health"] == "up" for c in agent.status["agent"]["checks"]), "not all are up"
        )
        before = agent.status["agent"]["applies"]
        processes[1].kill()
        agent.wait(
            lambda: [of["endpoints"][0]["wanted"] for of in agent.status["services"]][:50] == ["1/1"] * 50
        )
        assert agent.status["agent"]["applies"] - before <= 30
        assert_all_answered(load.end())
        for n in range(50):
            assert network.ask(network.client, HOST4, 8000 + n, 2) == [good[n]] * 2
    finally:
        for process in processes:
            process.kill()
            process.communicate()


@pytest.fixture
def newer(tmp_path: Path) -> str:
    """The PYTHONPATH of a package that differs in its version alone, as after an upgrade."""
    for name in ("src", "backends"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    version = tmp_path / "src" / "lbctl" / "version.py"
    version.write_text('__version__ = "99.0"\n')
    return f"{tmp_path / 'src'}:{tmp_path / 'backends'}"


@BOTH_BACKENDS
def test_a_newer_agent_goes_on_where_the_older_one_was_stopped(
    network: Network,
    signs: Signs,
    load: Storm,
    started: Callable[..., AgentProcess],
    way: tuple[str, ...],
    newer: str,
) -> None:
    text = intent(service("web", f"{HOST4}:80/tcp", *ENDPOINTS) + checked("tcp", port=CHECKED))
    old = started(text, *way).up(*ENDPOINTS)
    load.begin()
    signs.down(SERVERS4[2])
    old.lost(ENDPOINTS[2])
    before = held(network, way)
    assert old.stop() == 0
    config = network.folder / "lbctl.toml"
    new = AgentProcess(network, *way, config=config, environment={"PYTHONPATH": newer}).ready()
    try:
        assert new.status["agent"]["version"] == "99.0"
        # It knows what the older one knew, and had nothing to change.
        assert (health(new, ENDPOINTS[2]), wanted(new)[ENDPOINTS[2]]) == ("down", "0/1")
        assert new.status["agent"]["applies"] == 0
        assert not diff(before, held(network, way))
        signs.up(SERVERS4[2])
        new.wait(lambda: wanted(new)[ENDPOINTS[2]] == "1/3", "does not come back")
        assert_all_answered(load.end())
    finally:
        new.kill()


def test_a_full_disk_keeps_no_failed_endpoint_in(
    network: Network, signs: Signs, load: Storm, started: Callable[..., AgentProcess]
) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "lbctl", str(network.folder)], check=True)
    try:
        text = intent(service("web", f"{HOST4}:80/tcp", *ENDPOINTS) + checked("tcp", port=CHECKED))
        agent = started(text)
        fill(network.folder)
        signs.down(SERVERS4[1])
        agent.wait(lambda: wanted(agent)[ENDPOINTS[1]] == "0/1", "not taken out")
        assert set(network.ask(network.client, HOST4, 80, 8)) == {ENDPOINTS[0], ENDPOINTS[2]}
        signs.up(SERVERS4[1])
        agent.wait(lambda: wanted(agent)[ENDPOINTS[1]] == "1/3", "not taken back")
        agent.kill()
    finally:
        subprocess.run(["umount", "--lazy", str(network.folder)], check=True)


def fill(folder: Path) -> None:
    """Leave no room in a folder."""
    with (folder / "fill").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(1024))
        except OSError:
            return
