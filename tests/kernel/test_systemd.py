"""The units of examples/systemd: systemd takes them, and what they run works in their sandbox."""

import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from lbctl.conformance.network import HOST4
from support.agents import AgentProcess
from support.network import Network, intent, service
from support.sandbox import Sandbox, read_service

UNITS = Path(__file__).parents[2] / "examples" / "systemd"
SERVICE, DRIFT = UNITS / "lbctl.service", UNITS / "lbctl-drift.service"
AGENT, EXEC = UNITS / "lbctl-agent.service", UNITS / "lbctl-agent-exec.conf"
LEGACY, REPAIR = UNITS / "iptables-legacy.conf", UNITS / "repair.conf"
PROGRAM = "/usr/local/bin/lbctl"
HERE = str(Path(sys.executable).parent / "lbctl")
WEB = intent(service("web", "80/tcp", "8001", "8002"), service("dns", "53/udp", "5301", "5302"))


def analyze(*words: str) -> None:
    done = subprocess.run(["systemd-analyze", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    if words[0] == "verify":
        unknown = "Failed to parse service type, ignoring: notify-reload"  # systemd before 253
        assert [line for line in done.stderr.splitlines() if not line.endswith(unknown)] == []


def test_systemd_takes_the_units(tmp_path: Path) -> None:
    for file in (*UNITS.glob("*.service"), *UNITS.glob("*.timer")):
        (tmp_path / file.name).write_text(file.read_text().replace(PROGRAM, HERE))
    own = {"lbctl.service": (), "lbctl-drift.service": (REPAIR,), "lbctl-agent.service": (EXEC,)}
    for unit, drop_ins in own.items():
        (tmp_path / f"{unit}.d").mkdir()
        for drop_in in (LEGACY, *drop_ins):
            (tmp_path / f"{unit}.d" / drop_in.name).write_text(drop_in.read_text().replace(PROGRAM, HERE))
    units = sorted(str(file) for file in tmp_path.glob("lbctl*.*") if file.is_file())
    assert len(units) == 4
    analyze("verify", "--man=no", *units)


@pytest.mark.parametrize("unit", [SERVICE, DRIFT, AGENT], ids=lambda unit: unit.name)
def test_little_is_exposed(unit: Path) -> None:
    # Of 100; what is left is what it is for: root, the network's rules, reading /proc.
    analyze("security", "--offline=true", "--threshold=26", "--no-pager", str(unit))


def test_both_units_have_one_sandbox() -> None:
    one, other = (read_service(unit) for unit in (SERVICE, DRIFT))
    assert {key for key in {*one, *other} if one.get(key) != other.get(key)} == {
        "ExecStart",
        "ExecReload",
        "RemainAfterExit",
    }


class Machine:
    """The host of a network, with the units."""

    def __init__(self, network: Network, way: tuple[str, ...]) -> None:
        self.network, self.way = network, way
        self.drop_ins = (LEGACY,) if "legacy" in way else ()
        (network.folder / "lbctl.toml").write_text(WEB)

    def run(self, key: str, *files: Path, without: str = "") -> subprocess.CompletedProcess[str]:
        """Do what a unit's `key` says, with its drop-ins, in its sandbox less one capability."""
        unit = read_service(*files, *self.drop_ins)
        sandbox = self.sandbox(*files)
        sandbox = replace(sandbox, capabilities=[c for c in sandbox.capabilities if c != without])
        [line] = unit[key]
        program, *words = shlex.split(line)
        assert program == PROGRAM
        state = {
            "LBCTL_STATE_DIR": str(self.network.folder),
            "LBCTL_CONFIG": str(self.network.folder / "lbctl.toml"),
        }
        with self.network.host.entered():
            return subprocess.run(
                sandbox.command(HERE, *words, *self.way),
                capture_output=True,
                text=True,
                cwd="/",
                env={"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", **state},
            )

    def sandbox(self, *files: Path) -> Sandbox:
        """That of a unit with its drop-ins, which can write the state of the network's host."""
        return Sandbox.of(read_service(*files, *self.drop_ins), str(self.network.folder))

    def wipe(self) -> None:
        """As `systemctl restart nftables` does, or a reload of what loads iptables."""
        self.network.tool("nft", "flush", "ruleset")
        for command in ("iptables-legacy", "ip6tables-legacy"):
            self.network.tool(command, "-t", "nat", "-F")


def test_the_agent_does_its_work_in_its_sandbox(network: Network, way: tuple[str, ...]) -> None:
    network.local_endpoints((8001, 8002))
    machine = Machine(network, way)
    agent = AgentProcess(network, *way, wrapped=machine.sandbox(AGENT), config=network.folder / "lbctl.toml")
    try:
        agent.ready()
        assert network.ask(network.client, HOST4, 80, 2) == ["8001", "8002"]
        machine.wipe()
        agent.wait(lambda: agent.status["agent"]["repairs"] == 1, "not repaired")
        assert network.ask(network.client, HOST4, 80, 2) == ["8001", "8002"]
        assert agent.stop() == 0
        assert network.ask(network.client, HOST4, 80, 2) == ["8001", "8002"]
    finally:
        agent.kill()


CHECKED = """
[service.check]
kind = "exec"
argv = ["{folder}/check"]
user = "nobody"
interval = "500ms"
fast-interval = "100ms"
timeout = "500ms"
fall = 2
[service.health]
notify = ["{folder}/changed", "web"]
"""
CHECK = """#!/bin/sh
[ "$LBCTL_PORT" = 8001 ] || [ ! -e {folder}/broken ] || sleep 60
"""
CHANGED = """#!/bin/sh
echo "$1 $(id -un) $LBCTL_SERVICE $LBCTL_ENDPOINT $LBCTL_ADDRESS $LBCTL_PORT $LBCTL_FAMILY" \
    "$LBCTL_STATE: $LBCTL_REASON" >> {folder}/said/lines
"""


@contextmanager
def with_programs(network: Network, *units: Path, without: str = "") -> Iterator[tuple[AgentProcess, Path]]:
    """An agent in the sandbox of its unit, whose check and `notify` are programs, and their folder."""
    network.local_endpoints((8001, 8002))
    with TemporaryDirectory(dir="/var/lib") as folder:
        private, said = Path(folder), Path(folder, "said")
        private.chmod(0o755)
        said.mkdir()
        shutil.chown(said, "nobody")
        for name, text in (("check", CHECK), ("changed", CHANGED)):
            (private / name).write_text(text.format(folder=folder))
            (private / name).chmod(0o755)
        text = intent(service("web", "80/tcp", "8001", "8002") + CHECKED.format(folder=folder))
        config = network.folder / "lbctl.toml"
        config.write_text(text)
        sandbox = Sandbox.of(read_service(*units), str(network.folder), str(said))
        sandbox = replace(sandbox, capabilities=[c for c in sandbox.capabilities if c != without])
        agent = AgentProcess(network, wrapped=sandbox, config=config)
        try:
            yield agent.ready(), private
        finally:
            agent.kill()


def test_programs_of_checks_and_notify_run_with_their_drop_in(network: Network) -> None:
    with with_programs(network, AGENT, EXEC) as (agent, folder):

        def heard(line: str) -> bool:
            lines = folder / "said" / "lines"
            return lines.exists() and line in lines.read_text().splitlines()

        agent.wait(lambda: heard("web nobody web 8001 127.0.0.1 8001 ipv4 up: exit 0"), "not heard")
        (folder / "broken").touch()
        agent.wait(lambda: heard("web nobody web 8002 127.0.0.1 8002 ipv4 down: timeout"), "not heard")
        agent.wait(lambda: network.ask(network.client, HOST4, 80, 2) == ["8001", "8001"])
        assert agent.stop() == 0


@pytest.mark.parametrize("capability", ["CAP_KILL", "CAP_SETGID", "CAP_SETUID"])
def test_no_capability_of_the_drop_in_is_there_for_nothing(network: Network, capability: str) -> None:
    with with_programs(network, AGENT, EXEC, without=capability) as (agent, folder):
        missing = f"not run: {capability} missing: the unit needs lbctl-agent-exec.conf"
        agent.wait(lambda: missing in {c["result"] for c in agent.status["agent"]["checks"]}, "not refused")
        assert not (folder / "said" / "lines").exists()
        # What could not be checked changes nothing.
        assert network.ask(network.client, HOST4, 80, 2) == ["8001", "8002"]


def test_without_the_drop_in_the_agent_says_what_is_missing(network: Network) -> None:
    with with_programs(network, AGENT) as (agent, _):
        missing = "not run: CAP_KILL, CAP_SETGID, CAP_SETUID missing: the unit needs lbctl-agent-exec.conf"
        agent.wait(lambda: missing in {c["result"] for c in agent.status["agent"]["checks"]}, "not said")
        assert network.ask(network.client, HOST4, 80, 2) == ["8001", "8002"]


@pytest.mark.parametrize(
    ("way", "capability"),
    [((), "CAP_NET_ADMIN"), (("--backend", "iptables", "--driver", "legacy"), "CAP_NET_RAW")],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else value,
)
def test_no_capability_of_the_agent_is_there_for_nothing(
    network: Network, way: tuple[str, ...], capability: str
) -> None:
    machine = Machine(network, way)
    sandbox = machine.sandbox(AGENT)
    sandbox = replace(sandbox, capabilities=[c for c in sandbox.capabilities if c != capability])
    agent = AgentProcess(network, *way, wrapped=sandbox, config=network.folder / "lbctl.toml")
    assert agent.process.wait(60) in {3, 4, 5}, agent.said


def test_systemd_is_told_how_the_agent_is(network: Network, tmp_path: Path) -> None:
    (network.folder / "lbctl.toml").write_text(WEB)
    told = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    told.bind(str(tmp_path / "notify"))
    told.settimeout(60)
    environment = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "2000000"}
    agent = AgentProcess(network, environment=environment, config=network.folder / "lbctl.toml")

    def until(word: str) -> str:
        while word not in (said := told.recv(4096).decode()):
            pass
        return said

    try:
        assert "STATUS=" in until("READY=1")
        until("WATCHDOG=1")
        agent.process.send_signal(signal.SIGHUP)
        assert "MONOTONIC_USEC=" in until("RELOADING=1")
        until("READY=1")
        agent.process.send_signal(signal.SIGTERM)
        until("STOPPING=1")
    finally:
        agent.kill()
        told.close()


ESCAPES = """\
import errno, mmap, os, socket
def tried(what, *words):
    try:
        what(*words)
    except OSError as error:
        return errno.errorcode[error.errno]
    return "done"
print(
    tried(open, "/etc/lbctl-escape", "w"),
    tried(open, "{folder}/inside", "w"),
    tried(socket.socket, socket.AF_PACKET, socket.SOCK_RAW),
    tried(socket.socket, socket.AF_INET, socket.SOCK_DGRAM),
    tried(lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)),
    tried(os.chroot, "/"),
    tried(os.setpriority, os.PRIO_PROCESS, 0, -1),
    [line.split()[1].lstrip("0") for line in open("/proc/self/status") if line.startswith("CapEff")],
)
"""


def test_the_sandbox_is_one(tmp_path: Path) -> None:
    command = Sandbox.of(read_service(SERVICE), str(tmp_path)).command(
        sys.executable, "-c", ESCAPES.format(folder=tmp_path)
    )
    told = subprocess.run(command, capture_output=True, text=True)
    assert told.stdout == "EROFS done EPERM done EPERM EPERM EPERM ['3000']\n", told.stderr


def test_the_units_do_their_work_in_their_sandbox(network: Network, way: tuple[str, ...]) -> None:
    network.local_endpoints((8001, 8002))
    machine = Machine(network, way)
    started = machine.run("ExecStart", SERVICE)
    assert (started.returncode, started.stderr.splitlines()[1:]) == (0, ["Applied."])
    assert network.ask(network.client, HOST4, 80, 2) == ["8001", "8002"]
    calm = machine.run("ExecStart", DRIFT)
    assert (calm.returncode, calm.stderr) == (0, "")
    machine.wipe()
    drifted = machine.run("ExecStart", DRIFT)
    assert (drifted.returncode, drifted.stderr) == (1, "")
    assert "web is missing" in drifted.stdout
    reloaded = machine.run("ExecReload", SERVICE)
    assert (reloaded.returncode, reloaded.stderr.splitlines()[1:]) == (0, ["Applied."])
    assert network.ask(network.client, HOST4, 80, 2) == ["8001", "8002"]
    # A command from a shell finds the same, and the unit has noted what it applied.
    assert network.lbctl("status", "--exit-code", *way, config=WEB).code == 0
    assert list(network.folder.rglob("lbctl.000001"))


def test_a_timer_that_repairs(network: Network) -> None:
    machine = Machine(network, ())
    assert machine.run("ExecStart", SERVICE).returncode == 0
    machine.wipe()
    repaired = machine.run("ExecStart", DRIFT, REPAIR)
    assert (repaired.returncode, repaired.stderr.splitlines()[1:]) == (0, ["Applied."])
    again = machine.run("ExecStart", DRIFT, REPAIR)
    assert (again.returncode, again.stdout.startswith("Nothing to change")) == (0, True)


@pytest.mark.parametrize(
    ("way", "capability"),
    [((), "CAP_NET_ADMIN"), (("--backend", "iptables", "--driver", "legacy"), "CAP_NET_RAW")],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else value,
)
def test_no_capability_is_there_for_nothing(network: Network, way: tuple[str, ...], capability: str) -> None:
    refused = Machine(network, way).run("ExecStart", SERVICE, without=capability)
    assert refused.returncode in {3, 4, 5}, refused.stdout
