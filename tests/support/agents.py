"""The real agent as a process of its own in a test's network, what it says, and what it checks."""

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import pytest

from lbctl.conformance.network import HOST4
from lbctl.demo import endpoint
from support.network import Network
from support.sandbox import Sandbox

#: Seconds that a test waits for the agent on a machine that does a lot besides.
PATIENCE = 60.0
PORT = 9099


class AgentProcess:
    """`lbctl agent` on the middle host of a network."""

    def __init__(
        self,
        network: Network,
        *words: str,
        config: Path | None = None,
        wrapped: Sandbox | None = None,
        environment: dict[str, str] | None = None,
        port: int = PORT,
    ) -> None:
        self.network, self._port = network, port
        self.log = network.folder / f"agent-{time.monotonic_ns()}.log"
        own = {"LBCTL_STATE_DIR": str(network.folder), "PYTHONUNBUFFERED": "1", **(environment or {})}
        inherited = {key: value for key, value in os.environ.items() if key != "NOTIFY_SOCKET"}
        options = [] if config is None else ["--config", str(config)]
        command = [sys.executable, "-m", "lbctl", "agent", "--listen", f"127.0.0.1:{port}", *options, *words]
        with network.host.entered(), self.log.open("w") as log:
            self.process = subprocess.Popen(
                wrapped.command(*command) if wrapped is not None else command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**inherited, **own},
            )

    @property
    def said(self) -> str:
        return self.log.read_text()

    def get(self, path: str) -> tuple[int, str]:
        """Ask the agent over TCP; 0 where it does not answer."""
        with self.network.host.entered():
            connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)
            try:
                connection.request("GET", path)
                answer = connection.getresponse()
                return answer.status, answer.read().decode()
            except OSError:
                return 0, ""
            finally:
                connection.close()

    @property
    def status(self) -> Any:
        return json.loads(self.get("/status")[1] or "{}")

    def wait(self, what: Callable[[], object], why: str = "") -> None:
        """Wait until something is true."""
        until = time.monotonic() + PATIENCE
        while not what():
            assert self.process.poll() is None, f"the agent ended: {self.said}"
            assert time.monotonic() < until, f"{why}: {self.said}"
            time.sleep(0.02)

    def ready(self) -> "AgentProcess":
        self.wait(lambda: self.get("/ready")[0] == 200, "not ready")
        return self

    def up(self, *names: str) -> "AgentProcess":
        """Wait until it has found these endpoints up, for IPv4."""
        self.wait(lambda: all(health(self, name) == "up" for name in names), "not found to be up")
        return self

    def lost(self, *names: str) -> None:
        """Wait until it has taken these endpoints out, and done all that goes with that.

        The processes listen at IPv4 addresses alone: that they fail in IPv6 is found at once.
        """
        lines = [rf"\b{re.escape(name)}( \(ipv4\))? \S+ -> 0\b(?!/)" for name in names]
        self.wait(lambda: all(re.search(line, self.said) for line in lines), f"{names} are not taken out")

    def stop(self) -> int:
        """End it as systemd does."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE)

    def kill(self) -> None:
        """End it as a crash does."""
        self.process.kill()
        self.process.wait(PATIENCE)


#: One way to the kernel for each backend. What drivers do alike is tested with one of them.
NFT = ("--backend", "nftables", "--driver", "libnftables")
LEGACY = ("--backend", "iptables", "--driver", "legacy")
BOTH_BACKENDS = pytest.mark.parametrize("way", [NFT, LEGACY], ids=lambda words: words[1])
#: Endpoints of a service on the host.
PORTS = (8001, 8002, 8003)
FAST = {"interval": "500ms", "fast-interval": "100ms", "timeout": "500ms", "rise": 2, "fall": 2}


def checked(kind: str, **keys: Any) -> str:
    """The table of a check with short times."""
    values = {"kind": kind, **FAST, **keys}
    lines = [f"{key} = {value!r}".replace("'", '"') for key, value in values.items()]
    return "[service.check]\n" + "\n".join(lines) + "\n"


class Processes:
    """Endpoints on the host, each a process of its own that can be ended and started."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self._running: dict[int, subprocess.Popen[bytes]] = {}

    def start(self, *ports: int) -> None:
        # By its path, since all that the package imports takes longer than the test.
        started = {port: self._start(port) for port in ports}
        for process in started.values():
            assert process.stdout is not None
            assert process.stdout.readline() == b"listening\n"
        self._running |= started

    def _start(self, port: int) -> subprocess.Popen[bytes]:
        with self.network.host.entered():
            return subprocess.Popen(
                [sys.executable, endpoint.__file__, str(port)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )

    def kill(self, *ports: int) -> None:
        for port in ports:
            process = self._running.pop(port)
            process.kill()
            process.communicate()

    def close(self) -> None:
        self.kill(*list(self._running))


class Serving(Protocol):
    """Starts processes on the host, and an agent that has found them up."""

    def __call__(self, text: str, *words: str, ports: Sequence[int] = PORTS) -> AgentProcess: ...


def health(agent: AgentProcess, name: str, family: str = "ipv4") -> str:
    checks = agent.status["agent"]["checks"]
    return next((c["health"] for c in checks if (c["endpoint"], c["family"]) == (name, family)), "")


def wanted(agent: AgentProcess, family: str = "ipv4") -> dict[str, str]:
    [found] = agent.status["services"]
    return {e["name"]: e["families"][family]["wanted"] for e in found["endpoints"] if family in e["families"]}


def asked(network: Network, count: int, port: int = 80, **options: Any) -> Counter[str]:
    return Counter(network.ask(network.client, HOST4, port, count, **options))
