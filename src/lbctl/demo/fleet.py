"""Three balancers, three members of etcd and six endpoints, each a host of its own in private namespaces.

client 198.51.100.2 ── hub ┬─ lb1-lb3     10.0.0.1-3, and the address of the service, 192.0.2.1
                           ├─ etcd1-3     10.0.0.21-23
                           └─ endpoints   10.0.0.11-16

The hub sends connections to the service over the balancers that are there (ECMP by a hash of both ends), as
a router does. The balancers replace the client's address by their own, so that replies come back to them.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from lbctl.errors import LbctlError
from lbctl.host.netns import Namespace, PrivateHost

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

NAME = "edge"
SERVICE_ADDRESS, CLIENT, GATE = "192.0.2.1", "198.51.100.2", "10.0.0.254"
BALANCERS: Mapping[str, str] = {f"lb{n}": f"10.0.0.{n}" for n in (1, 2, 3)}
MEMBERS: Mapping[str, str] = {f"etcd{n}": f"10.0.0.2{n}" for n in (1, 2, 3)}
ENDPOINTS = tuple(f"10.0.0.1{n}" for n in range(1, 7))
PORT = 8080
#: Seconds that a member of etcd has to start in.
_PATIENCE = 60.0
#: Seconds that a connection may take.
_ANSWER = 10.0

INTENT = f"""schema = 1

[[service]]
name = "web"
listen = "{SERVICE_ADDRESS}:80/tcp"
source-nat = "always"
endpoints = {[f"{address}:{PORT}" for address in ENDPOINTS]!r}
[service.check]
kind = "tcp"
interval = "500ms"
fast-interval = "100ms"
timeout = "500ms"
""".replace("'", '"')


class DemoFleet:
    """The hosts and what runs on them. Use as a context manager; `etcd` is the program."""

    def __init__(self, etcd: Path) -> None:
        self._etcd = etcd
        self._stack = ExitStack()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self.hosts: dict[str, Namespace] = {}

    def __enter__(self) -> DemoFleet:
        with ExitStack() as stack:
            self.folder = Path(stack.enter_context(TemporaryDirectory(prefix="lbctl-fleet-")))
            local = PrivateHost()
            for name in ("hub", "client", "endpoints", *BALANCERS, *MEMBERS):
                self.hosts[name] = Namespace(local)
                stack.callback(self.hosts[name].close)
            stack.callback(self._end_all)
            self._cable()
            for address in ENDPOINTS:
                self.start_endpoint(address)
            self.config(self.folder / "admin.toml")
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _cable(self) -> None:
        hub = self.hosts["hub"]
        hub.write("/proc/sys/net/ipv4/ip_forward", "1")
        hub.write("/proc/sys/net/ipv4/fib_multipath_hash_policy", "1")
        self.plug("client", CLIENT)
        self.plug("endpoints", *ENDPOINTS)
        for name, address in {**BALANCERS, **MEMBERS}.items():
            self.plug(name, address)
        for name in BALANCERS:
            self.hosts[name].write("/proc/sys/net/ipv4/ip_forward", "1")
            self.hosts[name].address("lo", f"{SERVICE_ADDRESS}/32")
        self.route(*BALANCERS)

    def plug(self, name: str, *addresses: str) -> None:
        """Connect a host to the hub."""
        hub, host = self.hosts["hub"], self.hosts[name]
        hub.connect(name, host, "uplink")
        for address in addresses:
            host.address("uplink", f"{address}/32")
        hub.address(name, f"{GATE}/32")
        host.ip("route", "add", "default", "via", GATE, "dev", "uplink", "onlink")
        for address in addresses:
            hub.ip("route", "add", address, "dev", name)

    def unplug(self, name: str) -> None:
        """Cut a host off, as when it burns down."""
        self.hosts["hub"].ip("link", "delete", name)

    def route(self, *balancers: str) -> None:
        """Have the hub send connections to the service over these balancers."""
        paths = [f"nexthop via {BALANCERS[name]} dev {name} onlink".split() for name in balancers]
        self.hosts["hub"].ip("route", "replace", SERVICE_ADDRESS, *(word for path in paths for word in path))

    def config(self, path: Path, *, host: str | None = None, more: str = "") -> Path:
        """Write the local file of a host, or of who publishes."""
        urls = [f"http://{address}:2379" for address in MEMBERS.values()]
        lines = ["schema = 1", "[etcd]", f"endpoints = {urls!r}".replace("'", '"'), more, "[follow]"]
        lines += [f'intent = "{NAME}"', f'listen-within = ["{SERVICE_ADDRESS}"]']
        lines += ['endpoints-within = ["10.0.0.0/24"]']
        lines += [f'host = "{host}"'] if host is not None else []
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        path.chmod(0o600)
        return path

    def start_member(self, name: str) -> None:
        """Start a member of etcd, for the first time or again."""
        url = f"http://{MEMBERS[name]}"
        cluster = ",".join(f"{each}=http://{address}:2380" for each, address in MEMBERS.items())
        self._start(
            name,
            name,
            [
                str(self._etcd),
                f"--name={name}",
                f"--data-dir={self.folder / name}",
                f"--listen-client-urls={url}:2379",
                f"--advertise-client-urls={url}:2379",
                f"--listen-peer-urls={url}:2380",
                f"--initial-advertise-peer-urls={url}:2380",
                f"--initial-cluster={cluster}",
                "--initial-cluster-state=new",
            ],
        )

    def start_etcd(self) -> None:
        """Start all members, and wait until they answer."""
        for name in MEMBERS:
            self.start_member(name)
        until = time.monotonic() + _PATIENCE
        while self.lbctl("hosts").returncode:
            if time.monotonic() > until:
                raise LbctlError("etcd did not start", hint=self.log("etcd1")[-500:])
            time.sleep(0.2)

    def start_balancer(self, name: str, *words: str, more: str = "") -> None:
        """Start the agent of a balancer, for the first time or again."""
        config = self.config(self.folder / f"{name}.toml", host=name, more=more)
        command = [sys.executable, "-sP", "-m", "lbctl", "agent", *words]
        own = {"LBCTL_CONFIG": str(config), "LBCTL_STATE_DIR": str(self.folder / f"state-{name}")}
        self._start(name, name, command, own)

    def start_endpoint(self, address: str) -> None:
        """Start an endpoint, which answers with its address."""
        command = [sys.executable, "-sP", "-m", "lbctl.demo.endpoint", str(PORT), address]
        self._start(address, "endpoints", command)

    def kill(self, name: str) -> None:
        """End a process as a crash does: a balancer's agent, a member of etcd, or an endpoint."""
        process = self._processes.pop(name)
        process.kill()
        process.communicate()

    def stop(self, name: str) -> int:
        """End a process in order, and return its exit code."""
        process = self._processes.pop(name)
        process.terminate()
        process.communicate()
        return process.returncode

    def reload(self, name: str) -> None:
        """Have the agent of a balancer read its file again."""
        self._processes[name].send_signal(signal.SIGHUP)

    def lbctl(
        self, *words: str, host: str = "hub", config: Path | None = None, stdin: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Run lbctl where all of etcd can be reached, or on a balancer."""
        state = self.folder / f"state-{host}"
        named = config or self.folder / (f"{host}.toml" if host in BALANCERS else "admin.toml")
        with self.hosts[host].entered():
            return subprocess.run(
                [sys.executable, "-sP", "-m", "lbctl", *words],
                input=stdin,
                capture_output=True,
                text=True,
                check=False,
                env={**os.environ, "LBCTL_CONFIG": str(named), "LBCTL_STATE_DIR": str(state)},
            )

    def ask(self) -> str:
        """Return which endpoint answers a connection of the client; raises `OSError` if none does."""
        with (
            self.hosts["client"].entered(),
            socket.create_connection((SERVICE_ADDRESS, 80), timeout=_ANSWER) as connection,
        ):
            return connection.recv(64).decode()

    def log(self, name: str) -> str:
        """Return what a process has written so far."""
        with suppress(FileNotFoundError):
            return (self.folder / f"{name}.log").read_text(encoding="utf-8", errors="replace")
        return ""

    def _start(
        self, name: str, host: str, command: Sequence[str], own: Mapping[str, str] | None = None
    ) -> None:
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", **(own or {})}
        environment.pop("NOTIFY_SOCKET", None)
        with self.hosts[host].entered(), (self.folder / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
            )

    def _end_all(self) -> None:
        for process in self._processes.values():
            process.kill()
        for process in self._processes.values():
            process.communicate()
