"""The real agent as a process of its own in a test's network, and what it says."""

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

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
    ) -> None:
        self.network = network
        self.log = network.folder / f"agent-{time.monotonic_ns()}.log"
        own = {"LBCTL_STATE_DIR": str(network.folder), "PYTHONUNBUFFERED": "1", **(environment or {})}
        inherited = {key: value for key, value in os.environ.items() if key != "NOTIFY_SOCKET"}
        options = [] if config is None else ["--config", str(config)]
        command = [sys.executable, "-m", "lbctl", "agent", "--listen", f"127.0.0.1:{PORT}", *options, *words]
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
            connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=10)
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

    def stop(self) -> int:
        """End it as systemd does."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE)

    def kill(self) -> None:
        """End it as a crash does."""
        self.process.kill()
        self.process.wait(PATIENCE)
