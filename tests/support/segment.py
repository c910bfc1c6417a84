"""A layer-2 segment: a switch, and on it a client, a balancer and servers that have the service's address.

    client 192.0.2.1-40 ─┐
    balancer 192.0.2.100 ┼─ switch (a bridge in a namespace of its own: it learns MAC addresses as any switch)
    servers  192.0.2.101… ┘

Services are at 192.0.2.200 and 2001:db8:1::200: on an interface of the balancer, and on the loopback of each
server, which does not answer ARP for it. The servers are set up by the files of examples/dsr.
"""

import selectors
import socket
import threading
from collections import Counter
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from pathlib import Path

from lbctl.conformance.network import Flow, family_of
from lbctl.host.netns import Namespace, PrivateHost
from support.examples import SEGMENT
from support.network import Result, run_lbctl

SERVICE4, SERVICE6 = "192.0.2.200", "2001:db8:1::200"
CLIENTS4 = tuple(f"192.0.2.{n}" for n in range(1, 41))
SERVERS4 = tuple(f"192.0.2.{n}" for n in range(101, 104))
SERVERS6 = tuple(f"2001:db8:1::{n}" for n in range(101, 104))
PATIENCE = 20.0


class Server:
    """A process on one server that names itself: to who connects, and for each message that follows.

    It listens at the service's addresses, and at the server's `own`, as translated connections need it.
    """

    def __init__(self, namespace: Namespace, name: str, ports: Iterable[int], *own: str) -> None:
        self.name = name
        self._selector = selectors.DefaultSelector()
        self._wake, woken = socket.socketpair()
        self._selector.register(woken, selectors.EVENT_READ, None)
        with namespace.entered():
            for port in ports:
                for address in (SERVICE4, SERVICE6, *own):
                    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                        self._listen(address, port, kind)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _listen(self, address: str, port: int, kind: socket.SocketKind) -> None:
        sock = socket.socket(family_of(address), kind)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((address, port))
        sock.setblocking(False)
        if kind is socket.SOCK_STREAM:
            sock.listen(1024)
            self._selector.register(sock, selectors.EVENT_READ, self._accept)
        else:
            self._selector.register(sock, selectors.EVENT_READ, self._reply)

    def _serve(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.data is None:
                    return
                with suppress(OSError):
                    key.data(key.fileobj)

    def _accept(self, sock: socket.socket) -> None:
        connection, _ = sock.accept()
        connection.setblocking(False)
        self._selector.register(connection, selectors.EVENT_READ, self._hear)
        connection.send(self.name.encode())

    def _hear(self, connection: socket.socket) -> None:
        try:
            heard = connection.recv(64)
        except OSError:
            heard = b""
        if heard:
            connection.send(self.name.encode())
        else:
            self._selector.unregister(connection)
            connection.close()

    def _reply(self, sock: socket.socket) -> None:
        _, peer = sock.recvfrom(64)
        sock.sendto(self.name.encode(), peer)

    def close(self) -> None:
        self._wake.send(b".")
        self._thread.join(PATIENCE)
        for key in list(self._selector.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]
        self._wake.close()


class Connection:
    """A client's TCP connection; `server` is who answered."""

    def __init__(self, namespace: Namespace, address: str, port: int, source: str | None = None) -> None:
        with namespace.entered():
            self._socket = socket.socket(family_of(address))
        self._socket.settimeout(PATIENCE)
        if source is not None:
            self._socket.bind((source, 0))
        try:
            self._socket.connect((address, port))
            self.server = self._socket.recv(64).decode()
        except OSError:
            self._socket.close()
            raise

    def say(self) -> str:
        """Return who answers now; "lost" for a connection that is broken."""
        try:
            self._socket.sendall(b"?")
            return self._socket.recv(64).decode() or "lost"
        except OSError:
            return "lost"

    def close(self) -> None:
        self._socket.close()


class Segment:
    """The hosts. `lbctl` runs the real program on the balancer."""

    def __init__(self, folder: Path, ports: Iterable[int] = (80,)) -> None:
        self.folder = folder
        self._stack = ExitStack()
        local = PrivateHost()
        self.switch, self.client, self.balancer, *self.servers = (self._host(local) for _ in range(6))
        self.switch.ip("link", "add", "br0", "type", "bridge")
        self.switch.ip("link", "set", "br0", "up")
        names = ("client", "balancer", "server1", "server2", "server3")
        for name, host in zip(names, (self.client, self.balancer, *self.servers), strict=True):
            self.switch.connect(name, host, "eth0")
            self.switch.ip("link", "set", name, "master", "br0")
        self._number()
        self.client.address("eth0", *(f"{each}/24" for each in CLIENTS4), "2001:db8:1::1/64")
        for number, server in enumerate(self.servers):
            server.address("eth0", f"{SERVERS4[number]}/24", f"{SERVERS6[number]}/64")
            self._set_up(server)
            process = Server(server, SERVERS4[number], ports, SERVERS4[number], SERVERS6[number])
            self._stack.callback(process.close)

    def _host(self, local: PrivateHost) -> Namespace:
        namespace = Namespace(local)
        self._stack.callback(namespace.close)
        namespace.write("/proc/sys/net/ipv6/conf/default/accept_dad", "0")
        return namespace

    @staticmethod
    def _set_up(server: Namespace) -> None:
        """Set a server up by the files of the example."""
        for line in (SEGMENT / "90-dsr-server.conf").read_text().splitlines():
            if line and not line.startswith("#"):
                name, _, value = line.partition(" = ")
                server.write(f"/proc/sys/{name.replace('.', '/')}", value)
        for line in (SEGMENT / "lbctl-service-address.service").read_text().splitlines():
            if line.startswith("ExecStart="):
                server.run(*line.removeprefix("ExecStart=").split())

    def _number(self) -> None:
        self.balancer.address("eth0", "192.0.2.100/24", "2001:db8:1::100/64")
        self.balancer.address("eth0", f"{SERVICE4}/32", f"{SERVICE6}/128")

    def replug(self) -> None:
        """Give the balancer another interface of the same name."""
        self.balancer.ip("link", "del", "eth0")
        self.switch.connect("balancer", self.balancer, "eth0")
        self.switch.ip("link", "set", "balancer", "master", "br0")
        self._number()
        self.client.ip("neigh", "flush", "all")

    @property
    def host(self) -> Namespace:
        """Where an `AgentProcess` runs."""
        return self.balancer

    def close(self) -> None:
        self._stack.close()

    def lbctl(self, *words: str, config: str = "") -> Result:
        options: list[str] = []
        if config:
            path = self.folder / "lbctl.toml"
            path.write_text(config, encoding="utf-8")
            options = ["--config", str(path)]
        with self.balancer.entered():
            return run_lbctl(*words, *options, env={"LBCTL_STATE_DIR": str(self.folder)})

    def connect(self, address: str = SERVICE4, port: int = 80, source: str | None = None) -> Connection:
        """Return a connection that stays open until the segment is closed."""
        made = Connection(self.client, address, port, source)
        self._stack.callback(made.close)
        return made

    def ask(
        self, count: int, address: str = SERVICE4, port: int = 80, source: str | None = None
    ) -> list[str]:
        """Return who answers connections that are made one after the other, and ended by the client."""
        answers = []
        for _ in range(count):
            connection = Connection(self.client, address, 80, source)
            answers.append(connection.server)
            connection.close()
        return answers

    def flow(self, address: str = SERVICE4, port: int = 80) -> Flow:
        """Return a datagram socket that stays open until the segment is closed."""
        made = Flow(self.client, address, port, PATIENCE)
        self._stack.callback(made.close)
        return made

    def datagrams(self, sockets: int, each: int, address: str = SERVICE4, port: int = 80) -> list[list[str]]:
        """Return who answers the datagrams of some sockets."""
        flows = [self.flow(address, port) for _ in range(sockets)]
        return [[flow.say() for _ in range(each)] for flow in flows]

    def mac(self, host: Namespace) -> str:
        """Return the MAC address of a host on the switch."""
        words = host.ip("-o", "link", "show", "eth0").split()
        return words[words.index("link/ether") + 1]

    def port_of(self, mac: str) -> set[str]:
        """Return the ports of the switch behind which it has learned a MAC address."""
        lines = self.switch.run("bridge", "fdb", "show", "br", "br0").splitlines()
        return {line.split()[2] for line in lines if line.startswith(mac) and "permanent" not in line}


def tally(answers: Iterable[str]) -> list[int]:
    """Return how often each server answered."""
    counts = Counter(answers)
    return [counts[server] for server in SERVERS4]
