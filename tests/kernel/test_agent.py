"""The agent on the real kernel: it keeps what was applied last, and nothing else."""

import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lbctl.conformance.network import HOST4
from support.agents import BOTH_BACKENDS, NFT, AgentProcess
from support.network import Network, intent, service

WEB = intent(service("web", "80/tcp", "8001", "8002"))
OTHER = intent(service("web", "80/tcp", "8001", "8003"))


@pytest.fixture
def config(network: Network) -> Path:
    path = network.folder / "lbctl.toml"
    path.write_text(WEB)
    return path


@pytest.fixture
def agent(network: Network, config: Path, way: tuple[str, ...]) -> Iterator[AgentProcess]:
    made = AgentProcess(network, *way, config=config)
    yield made.ready()
    made.kill()


def in_sync(network: Network, way: tuple[str, ...], config: Path | str) -> bool:
    found = network.lbctl("status", "--output", "json", "--brief", *way, config=config)
    return bool(found.json["in_sync"])


def wipe(network: Network, way: tuple[str, ...]) -> None:
    """Do what a firewall's reload does."""
    if way[1] == "iptables":
        flavour = "legacy" if "legacy" in way else "nft"
        for word in ("iptables", "ip6tables"):
            network.tool(f"{word}-{flavour}-restore", stdin="*nat\nCOMMIT\n")
    else:
        network.tool("nft", "flush", "ruleset")


def test_it_applies_the_file_at_first_and_leaves_the_rules_at_the_end(
    network: Network, agent: AgentProcess, config: Path, way: tuple[str, ...]
) -> None:
    assert in_sync(network, way, config)
    held = network.rules()
    assert len([*network.folder.rglob("*.sock")]) == 1
    assert agent.stop() == 0
    assert network.rules() == held
    history = network.lbctl("history", "--output", "json").json["history"]
    assert [entry["action"] for entry in history] == ["apply"]
    assert not [*network.folder.rglob("*.sock")]


def test_rules_that_are_flushed_come_back(
    network: Network, agent: AgentProcess, config: Path, way: tuple[str, ...]
) -> None:
    held = network.rules()
    wipe(network, way)
    agent.wait(lambda: network.rules() == held, "not repaired")
    agent.wait(lambda: agent.status["agent"]["repairs"] == 1, "not counted")
    assert "Another program changed" in agent.said


COUNTED = [NFT, ("--backend", "iptables", "--driver", "nf_tables")]


@pytest.mark.parametrize("way", COUNTED, ids=lambda words: words[1])
def test_another_writer_is_not_fought_for_ever(
    network: Network, agent: AgentProcess, way: tuple[str, ...]
) -> None:
    for number in range(1, 6):
        wipe(network, way)
        agent.wait(lambda number=number: agent.said.count("are repaired") >= number, "not repaired")
        time.sleep(1)  # repairs within a second count as one
    agent.wait(lambda: "another program keeps changing" in agent.said, "silent")


@BOTH_BACKENDS
def test_commands_work_beside_it(
    network: Network, agent: AgentProcess, config: Path, way: tuple[str, ...]
) -> None:
    assert network.lbctl("apply", "--yes", *way, config=OTHER).code == 0
    agent.wait(lambda: "8003" in str(agent.status["services"]), "the new intent is not followed")
    assert network.lbctl("rollback", "--yes").code == 0
    agent.wait(lambda: "8002" in str(agent.status["services"]), "the rollback is not followed")
    assert network.lbctl("remove", "--yes").code == 0
    agent.wait(lambda: not agent.status.get("services"), "the removal is not followed")
    done = agent.status["agent"]["applies"]
    wipe(network, way)
    time.sleep(2)  # longer than the agent looks away
    assert "8001" not in network.rules()
    assert agent.status["agent"]["applies"] == done


@BOTH_BACKENDS
def test_a_trial_is_kept_and_its_end_is_followed(
    network: Network, agent: AgentProcess, config: Path, way: tuple[str, ...]
) -> None:
    tried: list[int] = []
    trial = threading.Thread(
        target=lambda: tried.append(
            network.lbctl("apply", "--yes", "--trial", "15s", *way, config=OTHER).code
        )
    )
    trial.start()

    def is_followed() -> bool:
        found = agent.status
        return "8003" in str(found["services"]) and found["trial"] is not None

    agent.wait(is_followed, "the trial is not followed")
    trial.join()
    assert tried == [8]
    agent.wait(lambda: "8002" in str(agent.status["services"]), "the end of the trial is not followed")
    config.write_text(WEB)
    assert in_sync(network, way, config)


@BOTH_BACKENDS
def test_a_changed_file_is_shown_and_applied_on_reload_only(
    network: Network, agent: AgentProcess, config: Path, way: tuple[str, ...]
) -> None:
    config.write_text(OTHER)
    agent.wait(lambda: "differs" in str(agent.status["agent"]["notice"]), "the change is not shown")
    assert not in_sync(network, way, config)
    os.kill(agent.process.pid, signal.SIGHUP)
    agent.wait(lambda: in_sync(network, way, config), "not reloaded")
    agent.wait(lambda: agent.status["agent"]["notice"] is None, "still shown")
    config.write_text("nonsense")
    agent.wait(lambda: f"{config}:1: " in str(agent.status["agent"]["problems"]), "a bad file is not shown")
    assert "the intent file is not applied" in str(agent.status["agent"]["problems"])
    assert agent.get("/ready")[0] == 200  # the rules are in place and followed
    assert "8003" in str(agent.status["services"])
    held = network.rules()
    os.kill(agent.process.pid, signal.SIGHUP)
    wipe(network, way)
    agent.wait(lambda: network.rules() == held, "does not go on after a bad file")


def test_a_file_that_changed_while_no_agent_ran_is_shown_and_not_applied(
    network: Network, config: Path
) -> None:
    AgentProcess(network, *NFT, config=config).ready().kill()
    config.write_text(OTHER)
    agent = AgentProcess(network, *NFT, "--follow-file", config=config).ready()
    try:
        agent.wait(lambda: "differs" in str(agent.status["agent"]["notice"]), "the change is not shown")
        assert "8002" in str(agent.status["services"])
        assert network.lbctl("remove", "--yes").code == 0
        agent.wait(lambda: not agent.status.get("services"), "the removal is not followed")
        agent.kill()
        agent = AgentProcess(network, *NFT, "--follow-file", config=config).ready()
        agent.wait(lambda: "differs" in str(agent.status["agent"]["notice"]), "the change is not shown")
        assert "lbctl" not in network.rules()
    finally:
        agent.kill()


@pytest.mark.parametrize("way", [NFT], ids=lambda words: words[1])
def test_a_file_that_is_applied_by_command_differs_no_longer(
    network: Network, agent: AgentProcess, config: Path, way: tuple[str, ...]
) -> None:
    config.write_text(OTHER)
    agent.wait(lambda: "differs" in str(agent.status["agent"]["notice"]), "the change is not shown")
    assert network.lbctl("apply", "--yes", *way, config=config).code == 0
    agent.wait(lambda: agent.status["agent"]["notice"] is None, "still shown")
    assert network.lbctl("rollback", "--yes", config=config).code == 0
    agent.wait(lambda: "differs" in str(agent.status["agent"]["notice"]), "the rollback is not shown")


def test_a_file_that_is_followed_is_applied_by_itself(network: Network, config: Path) -> None:
    way = ("--backend", "nftables")
    agent = AgentProcess(network, *way, "--follow-file", config=config).ready()
    try:
        config.write_text(OTHER)
        agent.wait(lambda: in_sync(network, way, config), "not followed")
    finally:
        agent.kill()


@pytest.mark.parametrize("follows", [True, False], ids=["follow-file", "reload"])
def test_files_that_are_added_to_a_directory_and_renamed_are_seen(network: Network, follows: bool) -> None:
    parts = network.folder / "etc" / "conf.d"
    parts.mkdir(parents=True)
    (parts / "10-web.toml").write_text(WEB)
    more = ["--follow-file"] if follows else []
    agent = AgentProcess(network, *NFT, *more, config=parts.parent).ready()

    def followed(*names: str) -> None:
        if not follows:
            agent.wait(lambda: "differs" in str(agent.status["agent"]["notice"]), "the change is not shown")
            os.kill(agent.process.pid, signal.SIGHUP)
        agent.wait(
            lambda: {s["name"] for s in agent.status["services"]} == {*names}, f"{names}: not followed"
        )

    try:
        (parts / "20-api.toml").write_text(intent(service("api", "81/tcp", "8001")))
        followed("web", "api")
        (parts / "10-web.toml").rename(parts / "30-web.toml")
        agent.wait(lambda: "30-web.toml" in agent.status["agent"]["intent"], "the new name is not found")
        assert agent.status["agent"]["problems"] == []
        (parts / "30-web.toml").unlink()
        followed("api")
        (parts / "20-api.toml").unlink()
        agent.wait(lambda: "no such file" in str(agent.status["agent"]["problems"]), "nothing is shown")
        assert [s["name"] for s in agent.status["services"]] == ["api"]
    finally:
        agent.kill()


@pytest.mark.parametrize("way", [NFT], ids=lambda words: words[1])
def test_there_is_one_agent_of_an_owner(network: Network, agent: AgentProcess, config: Path) -> None:
    second = AgentProcess(network, config=config)
    assert second.process.wait(60) == 7
    assert "runs already" in second.said
    assert "lbctl status shows since when" in second.said
    assert "The page is at http://127.0.0.1:9099/" in agent.said
    assert 'The agent of owner "lbctl" runs.' in agent.said


@BOTH_BACKENDS
def test_a_pause_leaves_the_kernel_alone(
    network: Network, agent: AgentProcess, config: Path, way: tuple[str, ...]
) -> None:
    assert network.lbctl("agent", "pause", "--for", "1h", config=config).code == 0
    wipe(network, way)
    left = network.rules()
    agent.wait(lambda: agent.status["agent"]["paused_until"], "not shown")
    assert network.rules() == left
    assert network.lbctl("agent", "resume", config=config).code == 0
    agent.wait(lambda: in_sync(network, way, config), "not repaired after the pause")


@BOTH_BACKENDS
def test_a_killed_agent_leaves_the_rules_and_the_next_one_goes_on(
    network: Network, agent: AgentProcess, config: Path, way: tuple[str, ...]
) -> None:
    held = network.rules()
    agent.kill()
    assert network.rules() == held
    assert network.lbctl("agent", "pause", config=config).code == 7
    again = AgentProcess(network, *way, config=config).ready()
    try:
        assert network.rules() == held
    finally:
        again.kill()


def test_another_host_can_read_the_status_and_nothing_else(network: Network, config: Path) -> None:
    agent = AgentProcess(network, *NFT, "--listen", f"{HOST4}:9098", config=config).ready()

    def answered(method: str, path: str, host: str = HOST4) -> int:
        connection = http.client.HTTPConnection(HOST4, 9098, timeout=30)
        with network.client.entered():
            connection.connect()
        try:
            connection.request(method, path, headers={"Host": host})
            return connection.getresponse().status
        finally:
            connection.close()

    silent = []
    try:
        assert f"Every client that reaches {HOST4}:9098 can read the status." in agent.said
        assert [answered("GET", path) for path in ("/", "/status", "/metrics", "/healthz")] == [200] * 4
        assert answered("POST", "/pause") == 405
        assert answered("GET", "/status", host="rebound.example") == 421
        with network.client.entered():
            for _ in range(200):
                silent.append(socket.create_connection((HOST4, 9098), timeout=30))
                silent[-1].sendall(b"GET /status HT")
        # It answers others while one host holds all connections that there are.
        assert answered("GET", "/healthz") == 200
        assert agent.get("/ready")[0] == 200
        assert network.lbctl("agent", "pause", config=config).code == 0
    finally:
        for connection in silent:
            connection.close()
        agent.kill()


def test_the_socket_is_no_other_users(network: Network, config: Path) -> None:
    agent = AgentProcess(network, *NFT, config=config).ready()
    [path] = network.folder.rglob("lbctl*.sock")
    asking = (
        "import os, socket, sys; os.setgid(65534); os.setuid(65534)\n"
        "s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])\n"
        "s.sendall(b'POST /pause HTTP/1.1\\r\\nHost: x\\r\\nContent-Length: 2\\r\\n\\r\\n{}')\n"
        "print(s.recv(4096).split()[1].decode())"
    )

    def asked() -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-c", asking, str(path)], capture_output=True, text=True)

    modes = {folder: folder.stat().st_mode & 0o7777 for folder in path.parents if folder.owner() == "root"}
    try:
        assert "PermissionError" in asked().stderr
        # Should its mode ever be opened, the kernel still says who connects.
        path.chmod(0o666)
        for folder in modes:
            folder.chmod(modes[folder] | 0o111)
        assert (asked().stdout, agent.status["agent"]["paused_until"]) == ("403\n", None)
    finally:
        for folder in modes:
            folder.chmod(modes[folder])
        agent.kill()
