"""The public entry point of sources, used by a package of its own: built, installed, asked by the agent."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lbctl.agent import client
from lbctl.conformance.network import HOST4, SERVERS4
from lbctl.host import LocalHost
from support.agents import AgentProcess, asked
from support.network import Network, intent, service

pytestmark = pytest.mark.kernel

PACKAGE = Path(__file__).parents[2] / "examples" / "third_party_source"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("site")
    options = ("--quiet", "--no-index", "--no-deps", "--no-build-isolation", "--target", str(target))
    subprocess.run([sys.executable, "-m", "pip", "install", *options, str(PACKAGE)], check=True)
    return target


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Network]:
    made = Network(tmp_path)
    yield made
    made.close()


def source(agent: AgentProcess) -> dict[str, Any]:
    with agent.network.host.entered():
        found: Any = client.about(LocalHost(agent.network.folder).socket_path("lbctl"))
    return dict(found["sources"][0]) if found and found["sources"] else {"endpoints": 0, "error": None}


def test_a_source_of_a_package_is_asked_and_bounded(network: Network, installed: Path) -> None:
    network.remote_endpoints(8080)
    targets = network.folder / "web.txt"
    targets.write_text(f"{SERVERS4[0]}:8080\n{SERVERS4[1]}:8080 3  # the large one\n")
    table = f'[service.discover]\nsource = "lines"\nname = "{targets}"\nweight = "source"\n'
    file = network.folder / "lbctl.toml"
    file.write_text(intent(service("web", f"{HOST4}:80/tcp") + table))
    assert network.lbctl("check", config=file).code == 0
    agent = AgentProcess(network, config=file, environment={"PYTHONPATH": str(installed)})
    try:
        agent.wait(lambda: source(agent)["endpoints"] == 2, "not found")
        agent.wait(lambda: len(agent.status["services"]) == 1, "not applied")
        assert asked(network, 20) == {SERVERS4[0]: 5, SERVERS4[1]: 15}
        targets.write_text("127.0.0.1:22\n")
        agent.wait(lambda: "is a loopback" in str(source(agent)["error"]), "its bounds are not lbctl's")
        targets.write_text("10.0.0.1:80; flush ruleset\n")
        agent.wait(lambda: "line 1 has more" in str(source(agent)["error"]))
        assert asked(network, 20) == {SERVERS4[0]: 5, SERVERS4[1]: 15}
    finally:
        agent.stop()


def test_without_the_package_the_source_is_named(network: Network) -> None:
    table = '[service.discover]\nsource = "lines"\nname = "/run/web.txt"\n'
    file = network.folder / "lbctl.toml"
    file.write_text(intent(service("web", f"{HOST4}:80/tcp") + table))
    agent = AgentProcess(network, config=file)
    try:
        agent.wait(lambda: source(agent)["error"] == 'no source "lines" is installed')
    finally:
        agent.stop()
