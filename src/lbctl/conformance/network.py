"""Three hosts on one machine: a client, the host that lbctl works on, and a server with endpoints.

client  192.0.2.2, 2001:db8:1::2
  │
host    192.0.2.1, 2001:db8:1::1 · 10.0.0.1, 2001:db8:2::1
  │
server  10.0.0.11-13, 2001:db8:2::11-13, 10.0.0.99 for clients in the endpoints' own network

A check may put servers on a link of their own beside it, 10.8.0.11-13.

Private network namespaces with real sockets in them: all of it goes with this process.
"""

from __future__ import annotations

import selectors
import socket
import threading
from contextlib import ExitStack, suppress
from ipaddress import ip_address
from itertools import count as counter
from typing import TYPE_CHECKING, Any

from lbctl.conformance import sctp
from lbctl.host.netns import Namespace, PrivateHost

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

HOST4, HOST6 = "192.0.2.1", "2001:db8:1::1"
CLIENT4, CLIENT6 = "192.0.2.2", "2001:db8:1::2"
INSIDE4, INSIDE6 = "10.0.0.1", "2001:db8:2::1"
#: The host's interface to a segment of servers, and their addresses there.
SEGMENT = "segment"
ROUTER4, REAL4 = "10.8.0.1", ("10.8.0.11", "10.8.0.12", "10.8.0.13")
SERVERS4 = ("10.0.0.11", "10.0.0.12", "10.0.0.13")
SERVERS6 = ("2001:db8:2::11", "2001:db8:2::12", "2001:db8:2::13")
NEIGHBOUR4 = "10.0.0.99"
TIMEOUT = 2.0
#: For what is dropped: an answer over these links takes less than a millisecond.
SHORT = 0.5


class Responder:
    """Listeners in one namespace; each answers with its own name and notes who asked, in `peers`."""

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace
        self._selector = selectors.DefaultSelector()
        self._wake, self._woken = socket.socketpair()
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._raw: dict[tuple[socket.AddressFamily, str], dict[int, bytes]] = {}
        self._thread: threading.Thread | None = None
        self.peers: list[str] = []

    def listen(self, port: int, *, address: str = "", kind: str = "tcp", name: str | None = None) -> None:
        """Listen for tcp, udp or sctp; without an address on all of both families."""
        answer = (name or str(port)).encode()
        if kind == "sctp":
            for family in (family_of(address),) if address else (socket.AF_INET, socket.AF_INET6):
                self._listen_raw(family, port, address, answer)
            return
        family = family_of(address) if address else socket.AF_INET6
        with self._namespace.entered():
            sock = socket.socket(family, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # Without an address: one socket for both families, as most servers have it.
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(bool(address)))
        sock.bind((address or "::", port))
        if kind == "tcp":
            sock.listen(1024)
        self._register(sock, self._accept if kind == "tcp" else self._reply, answer)

    def _listen_raw(self, family: socket.AddressFamily, port: int, address: str, answer: bytes) -> None:
        # A raw socket hears all ports: one for each address.
        if (family, address) not in self._raw:
            with self._namespace.entered():
                sock = sctp.raw_socket(family)
            sock.bind((address, 0))
            self._raw[family, address] = {}
            self._register(sock, self._begin, self._raw[family, address])
        self._raw[family, address][port] = answer

    def _register(self, sock: socket.socket, work: Callable[[socket.socket, Any], None], name: Any) -> None:
        sock.setblocking(False)
        self._selector.register(sock, selectors.EVENT_READ, (work, name))

    def start(self) -> None:
        """Begin to answer."""
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.fileobj is self._woken:
                    return
                work, name = key.data
                # What is broken stays unanswered: the client tells.
                with suppress(OSError, ValueError):
                    work(key.fileobj, name)

    def _accept(self, sock: socket.socket, name: bytes) -> None:
        connection, peer = sock.accept()
        with connection:
            self._note(peer[0])
            connection.sendall(name)

    def _reply(self, sock: socket.socket, name: bytes) -> None:
        _, peer = sock.recvfrom(64)
        self._note(peer[0])
        sock.sendto(name, peer)

    def _begin(self, sock: socket.socket, names: dict[int, bytes]) -> None:
        packet, peer = sctp.receive(sock)
        if packet.kind == sctp.INIT and packet.destination in names:
            self._note(peer)
            sock.sendto(packet.answered(names[packet.destination]).to_bytes(), (peer, 0))

    def _note(self, peer: str) -> None:
        # Before the answer: who has it may look at once.
        self.peers.append(str(ip_address(peer.removeprefix("::ffff:"))))

    def close(self) -> None:
        """Stop listening, if it still does."""
        if self._wake.fileno() < 0:
            return
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
        """Stop listening, and end what is open."""
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
        """Return what comes back for `text`: the same."""
        self._socket.sendall(text.encode())
        return self._socket.recv(1024).decode()

    def close(self) -> None:
        """End the connection."""
        self._socket.close()


class Flow:
    """A client's datagram socket that keeps talking to one place."""

    def __init__(self, namespace: Namespace, address: str, port: int, timeout: float = TIMEOUT) -> None:
        with namespace.entered():
            self._socket = socket.socket(family_of(address), socket.SOCK_DGRAM)
        self._socket.settimeout(timeout)
        self._socket.connect((address, port))

    def say(self) -> str:
        """Who answers."""
        self._socket.send(b"?")
        return self._socket.recv(64).decode()

    def close(self) -> None:
        """End the flow for this side; the kernel remembers it for a while."""
        self._socket.close()


def family_of(address: str) -> socket.AddressFamily:
    """Return the socket family of an address."""
    return socket.AF_INET6 if ":" in address else socket.AF_INET


class Network:
    """The three hosts."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._ports = counter(20000)
        local = PrivateHost()
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

    def _namespace(self, local: PrivateHost) -> Namespace:
        namespace = Namespace(local)
        self._stack.callback(namespace.close)
        # An address that is still looked for elsewhere answers nobody for a second or two.
        namespace.write("/proc/sys/net/ipv6/conf/default/accept_dad", "0")
        return namespace

    def close(self) -> None:
        """Stop all listeners and let go of the hosts."""
        self._stack.close()

    def segment(self, address: str, ports: Iterable[int]) -> list[Responder]:
        """Servers on a switch with the host, each with an address of its own, and one that all have.

        They answer at the shared address, by TCP and UDP, with their own, and by way of the host.
        """
        switch = self._namespace(PrivateHost())
        switch.ip("link", "add", "switch", "type", "bridge")
        switch.ip("link", "set", "switch", "up")
        servers = [self._namespace(PrivateHost()) for _ in REAL4]
        for name, host, own in (
            ("port0", self.host, ROUTER4),
            *((f"port{n}", server, REAL4[n - 1]) for n, server in enumerate(servers, 1)),
        ):
            host.connect(SEGMENT, switch, name)
            switch.ip("link", "set", name, "master", "switch")
            host.address(SEGMENT, f"{own}/24")
        found = []
        for server, own in zip(servers, REAL4, strict=True):
            server.write("/proc/sys/net/ipv4/conf/all/arp_ignore", "1")
            server.write("/proc/sys/net/ipv4/conf/all/arp_announce", "2")
            server.address("lo", f"{address}/32")
            server.ip("route", "add", "default", "via", ROUTER4)
            responder = self.responder(server)
            for kind in ("tcp", "udp"):
                for port in ports:
                    responder.listen(port, address=address, kind=kind, name=own)
            responder.start()
            found.append(responder)
        return found

    def far_holder(self, port: int) -> Holder:
        """Return endpoints on the server that keep connections, at all of its addresses."""
        holder = Holder(self.server, [port])
        self._stack.callback(holder.close)
        return holder

    def holder(self, ports: Iterable[int]) -> Holder:
        """Processes on the host that keep connections, each on its own port."""
        holder = Holder(self.host, ports)
        self._stack.callback(holder.close)
        return holder

    def hold(self, namespace: Namespace, address: str, port: int) -> Held:
        """Return a connection to a `Holder` that stays open until this network is closed."""
        held = Held(namespace, address, port)
        self._stack.callback(held.close)
        # One word there and back, so that the other side has surely accepted it.
        held.say("hello")
        return held

    def flow(self, namespace: Namespace, address: str, port: int) -> Flow:
        """Return a datagram socket that stays open until this network is closed."""
        flow = Flow(namespace, address, port)
        self._stack.callback(flow.close)
        return flow

    def responder(self, namespace: Namespace) -> Responder:
        """Return a responder that has no listeners yet."""
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
        """Make connections one after the other; each answer's text, or "refused" or "timeout".

        Where nobody answers in time, nobody is asked again.
        """
        answers = []
        with namespace.entered():
            for _ in range(count):
                try:
                    answers.append(self._ask(address, port, kind, source, timeout))
                except TimeoutError:
                    answers.append("timeout")
                    break
                except (ConnectionRefusedError, PermissionError):
                    # A datagram that is refused on its way out of the host itself fails at once: EPERM.
                    answers.append("refused")
        return answers

    def begin(self, namespace: Namespace, source: tuple[str, int], to: tuple[str, int], kind: str) -> str:
        """Return what answers a connection from a place to another one, or "timeout" after a short while."""
        types = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}
        with namespace.entered(), socket.socket(family_of(source[0]), types[kind]) as sock:
            # Behind an earlier connection that waits for its end.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.settimeout(SHORT)
            sock.bind(source)
            try:
                sock.connect(to)
                if kind == "udp":
                    sock.send(b"?")
                return sock.recv(64).decode()
            except TimeoutError:
                return "timeout"

    def _ask(self, address: str, port: int, kind: str, source: str | None, timeout: float) -> str:
        types = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}
        family = family_of(address)
        # A socket that gets an earlier one's port is the same connection to all but TCP.
        own = 0 if kind == "tcp" else next(self._ports)
        with sctp.raw_socket(family) if kind == "sctp" else socket.socket(family, types[kind]) as sock:
            sock.settimeout(timeout)
            if source or own:
                sock.bind((source or "", 0 if kind == "sctp" else own))
            sock.connect((address, 0 if kind == "sctp" else port))
            if kind == "sctp":
                return sctp.begin(sock, own, port)
            if kind == "udp":
                sock.send(b"?")
            return sock.recv(64).decode()
