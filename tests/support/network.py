"""Three hosts on one machine: a client, the host that lbctl works on, and a server with endpoints.

client  192.0.2.2, 2001:db8:1::2
  │
host    192.0.2.1, 2001:db8:1::1 · 10.0.0.1, 2001:db8:2::1
  │
server  10.0.0.11-13, 2001:db8:2::11-13, 10.0.0.99 for clients in the endpoints' own network
"""

import gc
import json
import os
import selectors
import socket
import sys
import threading
from collections.abc import Iterable
from contextlib import ExitStack, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from io import StringIO
from ipaddress import ip_address
from itertools import count as counter
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from lbctl.cli import main
from lbctl.host import LocalHost
from lbctl.host.netns import Namespace

HOST4, HOST6 = "192.0.2.1", "2001:db8:1::1"
CLIENT4, CLIENT6 = "192.0.2.2", "2001:db8:1::2"
INSIDE4, INSIDE6 = "10.0.0.1", "2001:db8:2::1"
SERVERS4 = ("10.0.0.11", "10.0.0.12", "10.0.0.13")
SERVERS6 = ("2001:db8:2::11", "2001:db8:2::12", "2001:db8:2::13")
NEIGHBOUR4 = "10.0.0.99"
TIMEOUT = 2.0

#: Every way to the kernel: (backend, driver).
DRIVERS = (
    ("nftables", "libnftables"),
    ("nftables", "nft"),
    ("iptables", "legacy"),
    ("iptables", "iptc"),
    ("iptables", "nf_tables"),
)
#: A test of nftables for both of its drivers, where the fixture `options` chooses one.
BOTH = pytest.mark.parametrize("options", ["libnftables", "nft"], indirect=True)


@dataclass
class Result:
    """How one run of lbctl ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Responder:
    """Listeners in one namespace; each answers with its own name and notes who asked."""

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace
        self._selector = selectors.DefaultSelector()
        self._wake, self._woken = socket.socketpair()
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._thread: threading.Thread | None = None
        self.peers: list[str] = []

    def listen(self, port: int, *, address: str = "", kind: str = "tcp", name: str | None = None) -> None:
        family = socket.AF_INET6 if not address or ":" in address else socket.AF_INET
        with self._namespace.entered():
            sock = socket.socket(family, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # Without an address: one socket for both families, as most servers have it.
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(bool(address)))
        sock.bind((address or "::", port))
        if kind == "tcp":
            sock.listen(1024)
        sock.setblocking(False)
        self._selector.register(sock, selectors.EVENT_READ, (name or str(port)).encode())

    def start(self) -> None:
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.fileobj is self._woken:
                    return
                sock: socket.socket = key.fileobj  # type: ignore[assignment]
                try:
                    if sock.type == socket.SOCK_STREAM:
                        connection, peer = sock.accept()
                        self._note(peer)
                        with connection:
                            connection.sendall(key.data)
                    else:
                        _, peer = sock.recvfrom(64)
                        self._note(peer)
                        sock.sendto(key.data, peer)
                except OSError:
                    continue

    def _note(self, peer: tuple[str, int]) -> None:
        # Before the answer: who has it may look at once.
        self.peers.append(str(ip_address(peer[0].removeprefix("::ffff:"))))

    def close(self) -> None:
        self._wake.send(b".")
        if self._thread:
            self._thread.join(TIMEOUT)
        for key in list(self._selector.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]
        self._selector.close()
        self._wake.close()


class Holder:
    """Listeners that keep connections and echo what they hear; `ports` says where each one arrived."""

    def __init__(self, namespace: Namespace, ports: Iterable[int]) -> None:
        self.ports: list[int] = []
        self._open: list[socket.socket] = []
        for port in ports:
            with namespace.entered():
                listener = socket.create_server(("", port))
            self._open.append(listener)
            threading.Thread(target=self._accept, args=(listener, port), daemon=True).start()

    def _accept(self, listener: socket.socket, port: int) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            self.ports.append(port)
            self._open.append(connection)
            threading.Thread(target=self._echo, args=(connection,), daemon=True).start()

    def _echo(self, connection: socket.socket) -> None:
        try:
            while data := connection.recv(1024):
                connection.sendall(data)
        except OSError:
            return

    def close(self) -> None:
        for sock in self._open:
            # Wakes the thread that waits in it.
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()


class Held:
    """A client's long-lived connection to a `Holder`."""

    def __init__(self, namespace: Namespace, address: str, port: int) -> None:
        with namespace.entered():
            self._socket = socket.create_connection((address, port), timeout=TIMEOUT)

    def say(self, text: str) -> str:
        self._socket.sendall(text.encode())
        return self._socket.recv(1024).decode()

    def close(self) -> None:
        self._socket.close()


class Network:
    """The three hosts. `lbctl` runs the real program on the middle one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._stack = ExitStack()
        self._ports = counter(20000)
        local = LocalHost()
        self.client, self.host, self.server = (self._namespace(local) for _ in range(3))
        self.host.connect("outside", self.client, "uplink")
        self.host.connect("inside", self.server, "uplink")
        self.client.address("uplink", f"{CLIENT4}/24", f"{CLIENT6}/64")
        self.host.address("outside", f"{HOST4}/24", f"{HOST6}/64")
        self.host.address("inside", f"{INSIDE4}/24", f"{INSIDE6}/64")
        for name in (*SERVERS4, NEIGHBOUR4):
            self.server.address("uplink", f"{name}/24")
        for name in SERVERS6:
            self.server.address("uplink", f"{name}/64")
        for namespace, gate4, gate6 in ((self.client, HOST4, HOST6), (self.server, INSIDE4, INSIDE6)):
            namespace.ip("route", "add", "default", "via", gate4)
            namespace.ip("-6", "route", "add", "default", "via", gate6)
        self.host.write("/proc/sys/net/ipv4/ip_forward", "1")
        self.host.write("/proc/sys/net/ipv6/conf/all/forwarding", "1")

    def _namespace(self, local: LocalHost) -> Namespace:
        namespace = Namespace(local)
        self._stack.callback(namespace.close)
        # An address that is still looked for elsewhere answers nobody for a second or two.
        namespace.write("/proc/sys/net/ipv6/conf/default/accept_dad", "0")
        return namespace

    def close(self) -> None:
        self._stack.close()

    def holder(self, ports: Iterable[int]) -> Holder:
        holder = Holder(self.host, ports)
        self._stack.callback(holder.close)
        return holder

    def hold(self, namespace: Namespace, address: str, port: int) -> Held:
        held = Held(namespace, address, port)
        # One word there and back, so that the other side has surely accepted it.
        assert held.say("hello") == "hello"
        return held

    def responder(self, namespace: Namespace) -> Responder:
        responder = Responder(namespace)
        self._stack.callback(responder.close)
        return responder

    def local_endpoints(self, ports: Iterable[int], *kinds: str) -> Responder:
        """Processes on the host, each on its own port, for both families."""
        responder = self.responder(self.host)
        for kind in kinds or ("tcp",):
            for port in ports:
                responder.listen(port, kind=kind)
        responder.start()
        return responder

    def remote_endpoints(self, port: int, *kinds: str) -> Responder:
        """One endpoint per address of the server; each answers with its address."""
        responder = self.responder(self.server)
        for kind in kinds or ("tcp",):
            for address in (*SERVERS4, *SERVERS6):
                responder.listen(port, address=address, kind=kind, name=address)
        responder.start()
        return responder

    def ask(
        self,
        namespace: Namespace,
        address: str,
        port: int,
        count: int = 1,
        *,
        kind: str = "tcp",
        source: str | None = None,
        timeout: float = TIMEOUT,
    ) -> list[str]:
        """Make connections one after the other; each answer's text, or "refused" or "timeout"."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        answers = []
        with namespace.entered():
            for _ in range(count):
                with socket.socket(
                    family, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM
                ) as sock:
                    sock.settimeout(timeout)
                    if source or kind == "udp":
                        # A datagram socket that gets an earlier one's port is the same connection.
                        sock.bind((source or "", next(self._ports) if kind == "udp" else 0))
                    try:
                        sock.connect((address, port))
                        if kind == "udp":
                            sock.send(b"?")
                        answers.append(sock.recv(64).decode())
                    except TimeoutError:
                        answers.append("timeout")
                    except (ConnectionRefusedError, PermissionError):
                        # A datagram that is refused on its way out of the host itself fails at once: EPERM.
                        answers.append("refused")
        return answers

    def lbctl(
        self,
        *words: str,
        config: str | Path | None = None,
        stdin: str = "",
        env: dict[str, str] | None = None,
    ) -> Result:
        """Run the real program on the host. `config` is a path, or the text of an intent file."""
        if isinstance(config, str):
            path = self.folder / "lbctl.toml"
            path.write_text(config, encoding="utf-8")
            config = path
        options = ["--config", str(config)] if config else []
        with self.host.entered():
            return run_lbctl(
                *words, *options, stdin=stdin, env={"LBCTL_STATE_DIR": str(self.folder), **(env or {})}
            )

    def tool(self, *argv: str, stdin: str = "") -> str:
        """Run another program on the host."""
        return self.host.run(*argv, stdin=stdin)

    def rules(self) -> str:
        """Everything that any rule language shows on the host, without counters and dates."""
        # The kernel lists tables in the order of their making.
        tables = sorted(self.tool("nft", "list", "tables").splitlines())
        texts = [self.tool("nft", "-s", "list", *table.split()) for table in tables]
        for word in ("iptables", "ip6tables"):
            texts.append(self.tool(f"{word}-legacy-save"))
            texts.append(self.tool(f"{word}-nft-save"))
        return "\n".join(
            line.split(" [")[0] if line.startswith(":") else line
            for text in texts
            for line in text.splitlines()
            if not line.startswith("#")
        )


def run_lbctl(*words: str, stdin: str = "", env: dict[str, str] | None = None) -> Result:
    """Run the real program, from its arguments to its exit code, in the current namespace.

    In this process: to start Python takes ten times as long as most commands do. What only a process can
    show (signals, terminals, pipes, what it imports) has tests of its own.
    """
    out, err = StringIO(), StringIO()
    code = 0
    with ExitStack() as stack:
        unset = {key: value for key, value in os.environ.items() if key != "LBCTL_CONFIG"}
        stack.enter_context(patch.dict(os.environ, {**unset, **(env or {})}, clear=True))
        stack.enter_context(patch.object(sys, "argv", ["lbctl", *words]))
        stack.enter_context(patch.object(sys, "stdin", StringIO(stdin)))
        stack.enter_context(redirect_stdout(out))
        stack.enter_context(redirect_stderr(err))
        # The program turns it off for its short life.
        stack.callback(gc.enable)
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
    return Result(code, out.getvalue(), err.getvalue())


def service(name: str, listen: str | list[str], *endpoints: str, **options: Any) -> str:
    """One `[[service]]` of an intent file, short form."""
    lines = ["[[service]]", f'name = "{name}"', f"listen = {json.dumps(listen)}"]
    if endpoints:
        lines.append(f"endpoints = {json.dumps(endpoints)}")
    lines += [f"{key.replace('_', '-')} = {json.dumps(value)}" for key, value in options.items()]
    return "\n".join(lines) + "\n"


def weighted(**weights: int) -> str:
    """`[[service.endpoint]]` tables: name=weight, each name's address given as `to_<port>`."""
    lines = []
    for word, weight in weights.items():
        name, port = word.rsplit("_", 1)
        lines += ["[[service.endpoint]]", f'name = "{name}"', f'address = "{port}"', f"weight = {weight}"]
    return "\n".join(lines) + "\n"


def intent(*services: str, owner: str | None = None) -> str:
    """The text of an intent file."""
    head = "schema = 1\n" + (f'owner = "{owner}"\n' if owner else "")
    return head + "\n".join(services)
