"""Several balancers side by side between clients and endpoints, each a network namespace.

clients     198.51.100.1-40, 2001:db8:3::1-28 (hexadecimal), behind 192.0.2.254
  │ a switch: 192.0.2.N, 2001:db8:1::N
balancers   N = 1, 2, …; services at 203.0.113.10, 2001:db8:4::10
  │ a switch: 10.0.0.N, 2001:db8:2::N
endpoints   10.0.0.11-16, 2001:db8:2::11-16

Routes lead through one balancer at a time, to the services as well as back to the clients.
"""

import os
import re
import selectors
import signal
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import product
from pathlib import Path
from typing import TypeAlias

from lbctl.conformance.network import family_of
from lbctl.host.netns import Namespace, PrivateHost
from support.network import Result, put, run_lbctl

#: An address and a port.
Place: TypeAlias = "tuple[str, int]"

SERVICE4, SERVICE6 = "203.0.113.10", "2001:db8:4::10"
CLIENTS4 = tuple(f"198.51.100.{n}" for n in range(1, 41))
CLIENTS6 = tuple(f"2001:db8:3::{n:x}" for n in range(1, 41))
ENDPOINTS4 = tuple(f"10.0.0.{n}" for n in range(11, 17))
ENDPOINTS6 = tuple(f"2001:db8:2::{n}" for n in range(11, 17))
CLIENTS_NET4, CLIENTS_NET6 = "198.51.100.0/24", "2001:db8:3::/64"
PORT = 8080
#: Seconds for what takes milliseconds on an idle machine.
PATIENCE = 20.0


class Balancer:
    """One of the hosts; `lbctl` runs the real program on it, with a state of its own."""

    def __init__(self, host: Namespace, number: int, folder: Path) -> None:
        self.host = host
        self.number = number
        self.folder = folder
        folder.mkdir()

    def lbctl(self, *words: str, config: str = "", stdin: str = "") -> Result:
        options: list[str] = []
        if config:
            path = self.folder / "lbctl.toml"
            put(path, config)
            options = ["--config", str(path)]
        with self.host.entered():
            return run_lbctl(*words, *options, stdin=stdin, env={"LBCTL_STATE_DIR": str(self.folder)})


class Process:
    """A program on a host of its own, which ends with the test."""

    def __init__(
        self,
        place: Balancer | Namespace,
        *words: str | Path,
        log: Path,
        libraries: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        host = place.host if isinstance(place, Balancer) else place
        found = (libraries / name / "x86_64-linux-gnu" for name in ("usr/lib", "lib")) if libraries else ()
        own = {"LD_LIBRARY_PATH": ":".join(map(str, found)), **(environment or {})}
        with host.entered(), log.open("wb") as output:
            self._process = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env={**os.environ, **own}
            )

    def close(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End it."""
        self._process.send_signal(how)
        self._process.wait(PATIENCE)


def apply_settings(host: Namespace, settings: Iterable[tuple[str, str]]) -> None:
    """Set parameters of the kernel in a namespace: names as sysctl(8) has them, and values."""
    for name, value in settings:
        host.write(f"/proc/sys/{name.replace('.', '/')}", value)


def settings_in(text: str) -> list[tuple[str, str]]:
    """Return the settings that lines of a text give, e.g. `net.ipv4.ip_forward = 1`."""
    return re.findall(r"^ *(net\.[\w.]+) = (\d+)$", text, re.MULTILINE)


def until(what: Callable[[], object], why: str, patience: float = 60.0) -> None:
    """Wait until something is true."""
    end = time.monotonic() + patience
    while not what():
        assert time.monotonic() < end, why
        time.sleep(0.05)


@contextmanager
def seized(balancer: Balancer) -> Iterator[None]:
    """Have another program own lbctl's table: its rules are gone, and the agent cannot write them again."""
    with balancer.host.entered():
        owner = subprocess.Popen(["nft", "--interactive"], stdin=subprocess.PIPE, text=True)
    try:
        assert owner.stdin is not None
        owner.stdin.write("delete table ip lbctl; add table ip lbctl { flags owner; }\n")
        owner.stdin.flush()
        yield
    finally:
        owner.kill()
        owner.communicate()


class Balancers:
    """Clients, `count` balancers, and endpoints."""

    def __init__(self, folder: Path, count: int) -> None:
        self._stack = ExitStack()
        local = PrivateHost()
        self.clients, self.endpoints = (self._namespace(local) for _ in range(2))
        for namespace in (self.clients, self.endpoints):
            namespace.ip("link", "add", "switch", "type", "bridge")
            namespace.ip("link", "set", "switch", "up")
        self.clients.address("switch", "192.0.2.254/24", "2001:db8:1::254/64")
        self.endpoints.address("switch", "10.0.0.254/24", "2001:db8:2::254/64")
        self.clients.address("lo", *(f"{a}/32" for a in CLIENTS4), *(f"{a}/128" for a in CLIENTS6))
        self.endpoints.address("switch", *(f"{a}/24" for a in ENDPOINTS4), *(f"{a}/64" for a in ENDPOINTS6))
        self.hosts = [self._balancer(local, number, folder) for number in range(1, count + 1)]

    def _namespace(self, local: PrivateHost) -> Namespace:
        namespace = Namespace(local)
        self._stack.callback(namespace.close)
        namespace.write("/proc/sys/net/ipv6/conf/default/accept_dad", "0")
        return namespace

    def _balancer(self, local: PrivateHost, number: int, folder: Path) -> Balancer:
        namespace = self._namespace(local)
        for link, switch in (("outside", self.clients), ("inside", self.endpoints)):
            namespace.connect(link, switch, f"port{number}")
            switch.ip("link", "set", f"port{number}", "master", "switch")
        namespace.address("outside", f"192.0.2.{number}/24", f"2001:db8:1::{number}/64")
        namespace.address("inside", f"10.0.0.{number}/24", f"2001:db8:2::{number}/64")
        namespace.ip("route", "add", CLIENTS_NET4, "via", "192.0.2.254")
        namespace.ip("-6", "route", "add", CLIENTS_NET6, "via", "2001:db8:1::254")
        namespace.write("/proc/sys/net/ipv4/ip_forward", "1")
        namespace.write("/proc/sys/net/ipv6/conf/all/forwarding", "1")
        return Balancer(namespace, number, folder / f"balancer{number}")

    def lead_through(self, balancer: Balancer) -> None:
        """Send the clients' packets to one balancer, and the replies of the endpoints too."""
        n = balancer.number
        self.clients.ip("route", "replace", SERVICE4, "via", f"192.0.2.{n}")
        self.clients.ip("-6", "route", "replace", SERVICE6, "via", f"2001:db8:1::{n}")
        self.endpoints.ip("route", "replace", CLIENTS_NET4, "via", f"10.0.0.{n}")
        self.endpoints.ip("-6", "route", "replace", CLIENTS_NET6, "via", f"2001:db8:2::{n}")

    def processes(self, *ports: int) -> "Processes":
        """Start the processes of the endpoints, on `PORT` or on others."""
        processes = Processes(self.endpoints, (*ENDPOINTS4, *ENDPOINTS6), ports or (PORT,))
        self._stack.callback(processes.close)
        return processes

    def connections(self, count: int, address: str = SERVICE4, port: int = 80) -> "Connections":
        """Open connections to a service, from all clients in turn."""
        connections = Connections(self.clients, count, address, port)
        self._stack.callback(connections.close)
        return connections

    def datagrams(self, source: str, address: str = SERVICE4, port: int = 80) -> socket.socket:
        """Return a client's socket for datagrams to a service."""
        with self.clients.entered():
            sock = socket.socket(family_of(address), socket.SOCK_DGRAM)
        self._stack.callback(sock.close)
        sock.settimeout(PATIENCE)
        sock.bind((source, 0))
        sock.connect((address, port))
        return sock

    def close(self) -> None:
        """End all processes and connections, and let go of the hosts."""
        self._stack.close()


class Processes:
    """What listens at each address and port: it sends back what it hears, and texts to its clients."""

    def __init__(self, namespace: Namespace, addresses: Sequence[str], ports: Sequence[int]) -> None:
        self._selector = selectors.DefaultSelector()
        #: Connections, and who made them.
        self._open: dict[socket.socket, Place] = {}
        self._listeners: list[socket.socket] = []
        self._ended = False
        self._datagrams: list[socket.socket] = []
        #: Address of an endpoint → connections that it has accepted.
        self.accepted: Counter[str] = Counter()
        with namespace.entered():
            for address, port in product(addresses, ports):
                listener = socket.create_server((address, port), family=family_of(address), backlog=512)
                listener.setblocking(False)
                self._listeners.append(listener)
                self._selector.register(listener, selectors.EVENT_READ, address)
                self._datagrams.append(self._udp(address, port))
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _udp(self, address: str, port: int) -> socket.socket:
        sock = socket.socket(family_of(address), socket.SOCK_DGRAM)
        sock.settimeout(PATIENCE)
        sock.bind((address, port))
        return sock

    def datagram(self) -> tuple[socket.socket, Place]:
        """Return the endpoint's socket that gets the next datagram, and whom it is from."""
        ready = selectors.DefaultSelector()
        for sock in self._datagrams:
            ready.register(sock, selectors.EVENT_READ)
        for key, _ in ready.select(PATIENCE):
            sock = key.fileobj
            assert isinstance(sock, socket.socket)
            return sock, sock.recvfrom(4096)[1][:2]
        raise TimeoutError("no endpoint gets a datagram")

    def _serve(self) -> None:
        while not self._ended:
            for key, _ in self._selector.select(0.1):
                sock = key.fileobj
                assert isinstance(sock, socket.socket)
                if isinstance(key.data, str):
                    connection, peer = sock.accept()
                    self.accepted[key.data] += 1
                    self._open[connection] = peer[:2]
                    self._selector.register(connection, selectors.EVENT_READ)
                else:
                    self._echo(sock)

    def _echo(self, sock: socket.socket) -> None:
        try:
            heard = sock.recv(4096)
        except OSError:
            heard = b""
        if heard:
            with suppress(OSError):
                sock.sendall(heard)
        else:
            self._selector.unregister(sock)
            del self._open[sock]
            sock.close()

    def say(self, text: bytes, *clients: Place) -> None:
        """Send a text to these clients, or to all."""
        for connection, peer in list(self._open.items()):
            if not clients or peer in clients:
                with suppress(OSError):
                    connection.sendall(text)

    def close(self) -> None:
        """End all."""
        self._ended = True
        self._thread.join(PATIENCE)
        for sock in (*self._listeners, *self._open, *self._datagrams):
            sock.close()
        self._selector.close()


class Connections:
    """Established connections of many clients."""

    def __init__(self, namespace: Namespace, count: int, address: str, port: int) -> None:
        sources = CLIENTS6 if ":" in address else CLIENTS4
        self._open: list[socket.socket] = []
        with namespace.entered():
            for number in range(count):
                source = sources[number % len(sources)]
                sock = socket.create_connection((address, port), PATIENCE, source_address=(source, 0))
                self._open.append(sock)

    @property
    def places(self) -> list[Place]:
        """The clients' ends."""
        return [sock.getsockname()[:2] for sock in self._open]

    def say(self, text: bytes) -> None:
        """Send a text on every connection that is left, the youngest first."""
        for sock in reversed(self._open):
            with suppress(OSError):
                sock.sendall(text)

    def lost(self, *texts: bytes, patience: float = PATIENCE) -> int:
        """Return how many connections do not hear these texts, in any order, within `patience` seconds."""
        end = time.monotonic() + patience
        wanted = sorted(b"".join(texts))
        return sum(not self._hears(sock, wanted, end) for sock in self._open)

    def _hears(self, sock: socket.socket, wanted: Sequence[int], end: float) -> bool:
        heard = b""
        while len(heard) < len(wanted):
            sock.settimeout(max(0.001, end - time.monotonic()))
            try:
                more = sock.recv(4096)
            except OSError:
                return False
            if not more:
                return False
            heard += more
        return sorted(heard) == list(wanted)

    def close(self) -> None:
        """End all."""
        for sock in self._open:
            sock.close()
