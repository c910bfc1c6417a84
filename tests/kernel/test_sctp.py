"""SCTP associations through real rules: who gets them, and that the answer finds its way back.

Kernels often lack SCTP sockets, while their connection tracking knows the protocol. So both sides are raw
sockets here, and associations begin with an INIT chunk made by hand (RFC 9260, section 3.3.2). Its checksum
covers the ports, which the kernel changes: that it is right on arrival is a part of what is tested.
"""

from __future__ import annotations

import selectors
import socket
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle, islice

import pytest

from lbctl.host.netns import Namespace
from support.network import HOST4, HOST6, SERVERS4, SERVERS6, TIMEOUT, Network, intent, service

INIT, INIT_ACK = 1, 2
#: Any number but 0: the peer's packets carry it as their verification tag.
CLIENT_TAG, SERVER_TAG = 0x1234ABCD, 0x5EED5EED
LOCAL = (8001, 8002, 8003)


def _table() -> Iterator[int]:
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        yield byte


CASTAGNOLI = tuple(_table())


def crc32c(data: bytes) -> int:
    value = 0xFFFFFFFF
    for byte in data:
        value = CASTAGNOLI[(value ^ byte) & 0xFF] ^ value >> 8
    return value ^ 0xFFFFFFFF


def test_the_checksum_is_the_one_of_the_standard() -> None:
    """RFC 3720, appendix B.4."""
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(bytes(range(32))) == 0x46DD794E


@dataclass(frozen=True, slots=True, kw_only=True)
class Packet:
    """A packet with one INIT or INIT ACK chunk."""

    source: int
    destination: int
    kind: int
    verification: int
    tag: int

    def to_bytes(self) -> bytes:
        # Receiver window, outbound and inbound streams, first sequence number.
        chunk = struct.pack("!BBHIIHHI", self.kind, 0, 20, self.tag, 65535, 4, 4, 1)
        head = struct.pack("!HHI", self.source, self.destination, self.verification)
        # The one field of the protocol in the other byte order.
        return head + struct.pack("<I", crc32c(head + bytes(4) + chunk)) + chunk

    @classmethod
    def of(cls, data: bytes) -> Packet:
        """The packet in `data`; raises `ValueError` where its checksum is wrong."""
        source, destination, verification = struct.unpack("!HHI", data[:8])
        if struct.unpack("<I", data[8:12])[0] != crc32c(data[:8] + bytes(4) + data[12:]):
            raise ValueError("wrong checksum")
        kind, _, _, tag = struct.unpack("!BBHI", data[12:20])
        return cls(source=source, destination=destination, kind=kind, verification=verification, tag=tag)


def raw_socket(namespace: Namespace, address: str) -> socket.socket:
    with namespace.entered():
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_SCTP)
    sock.bind((address, 0))
    sock.settimeout(TIMEOUT)
    return sock


def receive(sock: socket.socket) -> tuple[Packet, str]:
    data, peer = sock.recvfrom(2048)
    # IPv4 raw sockets see the network header as well.
    return Packet.of(data[(data[0] & 15) * 4 :] if sock.family == socket.AF_INET else data), peer[0]


class Endpoints:
    """Answers every INIT on some addresses; `got` has (address, port) of each, `wrong` what was no INIT."""

    def __init__(self, namespace: Namespace, *addresses: str) -> None:
        self.got: list[tuple[str, int]] = []
        self.wrong: list[object] = []
        self._selector = selectors.DefaultSelector()
        self._wake, self._woken = socket.socketpair()
        self._selector.register(self._woken, selectors.EVENT_READ)
        for address in addresses:
            self._selector.register(raw_socket(namespace, address), selectors.EVENT_READ, address)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.fileobj is self._woken:
                    return
                self._answer(key.fileobj, key.data)  # type: ignore[arg-type]

    def _answer(self, sock: socket.socket, address: str) -> None:
        try:
            packet, peer = receive(sock)
        except ValueError as error:
            self.wrong.append(error)
            return
        if packet.kind != INIT:
            self.wrong.append(packet)
            return
        self.got.append((address, packet.destination))
        answer = Packet(
            source=packet.destination,
            destination=packet.source,
            kind=INIT_ACK,
            verification=packet.tag,
            tag=SERVER_TAG,
        )
        sock.sendto(answer.to_bytes(), (peer, 0))

    def close(self) -> None:
        self._wake.send(b".")
        self._thread.join(TIMEOUT)
        for key in list(self._selector.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]
        self._selector.close()
        self._wake.close()


@pytest.fixture
def elsewhere(network: Network) -> Iterator[Endpoints]:
    endpoints = Endpoints(network.server, *SERVERS4, *SERVERS6)
    yield endpoints
    endpoints.close()


@pytest.fixture
def here(network: Network) -> Iterator[Endpoints]:
    endpoints = Endpoints(network.host, HOST4, HOST6)
    yield endpoints
    endpoints.close()


class Client:
    """Begins associations with one address, each from a port of its own."""

    def __init__(self, namespace: Namespace, own: str, server: str, timeout: float) -> None:
        self._socket = raw_socket(namespace, own)
        self._socket.settimeout(timeout)
        self._server = server
        self._ports = iter(range(20000, 65536))

    def begin(self, port: int) -> bool:
        """True where an INIT ACK came back from the very place that was asked; False for no answer."""
        own = next(self._ports)
        init = Packet(source=own, destination=port, kind=INIT, verification=0, tag=CLIENT_TAG)
        self._socket.sendto(init.to_bytes(), (self._server, 0))
        while True:
            try:
                answer, peer = receive(self._socket)
            except TimeoutError:
                return False
            # The host itself, as a client, hears what it sent as well.
            if answer != init:
                break
        assert peer == self._server
        assert answer == Packet(
            source=port, destination=own, kind=INIT_ACK, verification=CLIENT_TAG, tag=SERVER_TAG
        )
        return True

    def close(self) -> None:
        self._socket.close()


def begin(
    namespace: Namespace, own: str, server: str, port: int, count: int = 1, timeout: float = TIMEOUT
) -> list[bool]:
    client = Client(namespace, own, server, timeout)
    try:
        return [client.begin(port) for _ in range(count)]
    finally:
        client.close()


def apply(network: Network, options: tuple[str, ...], *services: str) -> None:
    done = network.lbctl("apply", "--yes", *options, config=intent(*services))
    assert done.code == 0, done.err


CLIENTS = pytest.mark.parametrize(
    ("own", "server", "servers"),
    [("192.0.2.2", HOST4, SERVERS4), ("2001:db8:1::2", HOST6, SERVERS6)],
    ids=["ipv4", "ipv6"],
)


@CLIENTS
@pytest.mark.parametrize("source_nat", ["hairpin", "always"])
def test_addresses_elsewhere_take_turns(
    network: Network,
    options: tuple[str, ...],
    elsewhere: Endpoints,
    own: str,
    server: str,
    servers: tuple[str, ...],
    source_nat: str,
) -> None:
    places = [f"{a}:9000" for a in SERVERS4] + [f"[{a}]:9000" for a in SERVERS6]
    listen = [f"{HOST4}:80/sctp", f"[{HOST6}]:80/sctp"]
    apply(network, options, service("tele", listen, *places, source_nat=source_nat))
    assert begin(network.client, own, server, 80, 300) == [True] * 300
    assert elsewhere.got == list(islice(cycle([(a, 9000) for a in servers]), 300))
    assert not elsewhere.wrong


@CLIENTS
def test_ports_of_this_host_take_turns(
    network: Network,
    options: tuple[str, ...],
    here: Endpoints,
    own: str,
    server: str,
    servers: tuple[str, ...],
) -> None:
    apply(network, options, service("tele", "80/sctp", *map(str, LOCAL)))
    assert begin(network.client, own, server, 80, 300) == [True] * 300
    assert here.got == list(islice(cycle([(server, port) for port in LOCAL]), 300))
    assert not here.wrong
    status = network.lbctl("status", "--output", "json", *options, config=network.folder / "lbctl.toml").json
    assert status["in_sync"] is True
    [tele] = status["services"]
    assert [e["connections"] for e in tele["endpoints"]] == [100, 100, 100]
    # The kernel waits for the rest of the handshake.
    assert [e["established"] for e in tele["endpoints"]] == [0, 0, 0]


def test_other_protocols_on_the_same_port_have_their_own_turns(
    network: Network, options: tuple[str, ...], here: Endpoints
) -> None:
    network.local_endpoints(LOCAL)
    apply(network, options, service("all", ["80/tcp", "80/sctp"], *map(str, LOCAL)))
    for _ in range(3):
        assert network.ask(network.client, HOST4, 80, 3) == [str(port) for port in LOCAL]
        assert begin(network.client, "192.0.2.2", HOST4, 80, 3) == [True] * 3
    assert [port for _, port in here.got] == [*LOCAL] * 3


def test_own_clients_reach_addresses_elsewhere(
    network: Network, options: tuple[str, ...], elsewhere: Endpoints
) -> None:
    apply(network, options, service("tele", "80/sctp", *(f"{a}:9000" for a in SERVERS4)))
    assert begin(network.host, HOST4, HOST4, 80, 6) == [True] * 6
    assert elsewhere.got == [(a, 9000) for a in SERVERS4] * 2


def test_neighbours_of_the_endpoints_are_answered_through_this_host(
    network: Network, options: tuple[str, ...], elsewhere: Endpoints
) -> None:
    apply(network, options, service("tele", "80/sctp", *(f"{a}:9000" for a in SERVERS4)))
    assert begin(network.server, "10.0.0.99", "10.0.0.1", 80, 3) == [True] * 3
    assert elsewhere.got == [(a, 9000) for a in SERVERS4]


@CLIENTS
def test_who_is_not_served_is_told_so(
    network: Network,
    options: tuple[str, ...],
    here: Endpoints,
    own: str,
    server: str,
    servers: tuple[str, ...],
) -> None:
    """By ICMP, port unreachable, which SCTP takes as an answer; a reset is TCP's own."""
    nobody = ["198.51.100.0/24", "2001:db8:9::/64"]
    apply(network, options, service("tele", "80/sctp", "8001", allow=nobody))
    # Protocol; then length of the network header that a raw socket sees; type and code of the message.
    protocol, skipped, refusal = (58, 0, (1, 4)) if ":" in own else (1, 20, (3, 3))
    with network.client.entered():
        family = socket.AF_INET6 if ":" in own else socket.AF_INET
        told = socket.socket(family, socket.SOCK_RAW, protocol)
    told.settimeout(TIMEOUT)
    with told:
        assert begin(network.client, own, server, 80, timeout=0.2) == [False]
        # IPv6 looks for its neighbours by such messages as well; without a refusal this times out.
        while tuple(told.recv(2048)[skipped : skipped + 2]) != refusal:
            pass
    assert here.got == []
