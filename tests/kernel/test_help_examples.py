"""The example in each command's help does what it says, run as a person types it."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lbctl.cli.commands import COMMANDS
from support.network import Network

EXAMPLES = {name: entry.example for commands in COMMANDS.values() for name, entry in commands.items()}
#: Without a terminal they ask nobody.
ASKING = {"apply", "migrate", "remove", "rollback"}
#: Run by tests of their own.
ELSEWHERE = {"demo", "hosts", "publish", "register"}
OLD = (
    "-p tcp --dport 81 -m statistic --mode nth --every 2 --packet 0 -j REDIRECT --to-ports 8001",
    "-p tcp --dport 81 -j REDIRECT --to-ports 8002",
)
#: Seconds that nothing here takes, on the slowest machine.
PATIENCE = 120


class Shell:
    """A shell in a folder of the host, with this environment's lbctl."""

    def __init__(self, network: Network, folder: Path) -> None:
        folder.mkdir()
        self._network, self._folder = network, folder
        self._path = f"{Path(sys.executable).parent}:/usr/sbin:/usr/bin:/sbin:/bin"
        self.run_so_far: set[str] = set()

    def start(self, name: str) -> subprocess.Popen[str]:
        """Begin the example of a command."""
        self.run_so_far.add(name)
        text = EXAMPLES[name] + (" --yes" if name in ASKING else "")
        with self._network.host.entered():
            return subprocess.Popen(
                ["/bin/sh", "-c", f"exec {text}" if name == "agent" else text],
                cwd=self._folder,
                env={"PATH": self._path, "LBCTL_STATE_DIR": str(self._network.folder / "state")},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )

    def run(self, name: str, code: int = 0) -> str:
        """Run the example of a command to its end; return what it prints."""
        process = self.start(name)
        out, _ = process.communicate(timeout=PATIENCE)
        assert process.returncode == code, f"{EXAMPLES[name]}: exit code {process.returncode}\n{out}"
        return out

    @contextmanager
    def on_trial(self, name: str) -> Iterator[None]:
        """Begin a change on trial; at the end, it has to be confirmed."""
        process = self.start(name)
        assert process.stdout is not None
        try:
            shown = next((line for line in process.stdout if "on trial; reverting in" in line), "")
            assert shown, f"{EXAMPLES[name]}: exit code {process.wait(PATIENCE)}"
            yield
            out, _ = process.communicate(timeout=PATIENCE)
            assert process.returncode == 0, out
        finally:
            process.kill()
            process.communicate()


def test_each_example_does_what_it_says(network: Network) -> None:
    network.local_endpoints((8001, 8002, 8003))
    shell = Shell(network, network.folder / "new")
    shell.run("init")
    assert shell.run("check") == "valid: 1 service, 3 endpoints\n"
    shell.run("doctor")
    assert "nftables" in shell.run("backends")
    assert "+ web  80/tcp" in shell.run("plan")
    with shell.on_trial("apply"):
        assert "Confirmed" in shell.run("confirm")
    assert "in sync with the intent" in shell.run("status")
    assert "Drained web/8003" in shell.run("drain")
    assert "web/8003 is in rotation again" in shell.run("activate")
    assert "weight 2" in shell.run("weight")
    assert "apply: trial, confirmed" in shell.run("history")
    shell.run("render")
    assert "8003  1/2" in shell.run("explain")
    # A weight was set by command, and the file does not have it.
    shell.run("compare", code=1)
    assert '"$schema"' in shell.run("schema")
    shell.run("rollback")
    shell.run("remove")

    old = Shell(network, network.folder / "old")
    for line in OLD:
        network.tool("iptables-legacy", "-t", "nat", "-A", "PREROUTING", *line.split())
    with old.on_trial("migrate"):
        old.run("confirm")
    assert (network.folder / "old" / "lbctl.toml").exists()
    agent = old.start("agent")
    try:
        until = time.monotonic() + PATIENCE
        while "agent: running since" not in old.run("status"):
            assert agent.poll() is None, agent.communicate()[0]
            assert time.monotonic() < until
        agent.send_signal(signal.SIGTERM)
        assert agent.wait(PATIENCE) == 0, agent.communicate()[0]
    finally:
        agent.kill()
        agent.communicate()
    for line in OLD:
        network.tool("iptables", "-t", "nat", "-A", "PREROUTING", *line.split())
    assert "1 service found" in old.run("import")
    assert shell.run_so_far | old.run_so_far | ELSEWHERE == EXAMPLES.keys()
