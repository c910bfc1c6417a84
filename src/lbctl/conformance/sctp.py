"""The beginning of an SCTP association, made by hand: INIT and INIT ACK (RFC 9260, sections 3.3.2 and 3.3.3).

Kernels often lack SCTP sockets, while their connection tracking knows the protocol. So both sides are raw
sockets here. The checksum covers the ports, which the kernel changes: that it is right on arrival is a part
of what is checked.
"""

from __future__ import annotations

import socket
import struct
from typing import TYPE_CHECKING

from lbctl.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterator

INIT, INIT_ACK = 1, 2
_COOKIE = 7
_FIXED = 20


def _table() -> Iterator[int]:
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        yield value


_CASTAGNOLI = tuple(_table())


def crc32c(data: bytes) -> int:
    """Return the checksum of SCTP (RFC 3720, appendix B.4, has examples)."""
    value = 0xFFFFFFFF
    for byte in data:
        value = _CASTAGNOLI[(value ^ byte) & 0xFF] ^ value >> 8
    return value ^ 0xFFFFFFFF


@dataclass(frozen=True, slots=True, kw_only=True)
class Packet:
    """A packet with one INIT or INIT ACK chunk. `cookie` is what an INIT ACK has to carry: any bytes."""

    source: int
    destination: int
    kind: int
    #: The other side's `tag`; 0 in an INIT.
    verification: int
    #: Any number but 0.
    tag: int
    cookie: bytes = b""

    def to_bytes(self) -> bytes:
        """Return the packet with its checksum."""
        cookie = struct.pack("!HH", _COOKIE, 4 + len(self.cookie)) + self.cookie if self.cookie else b""
        # Receiver window, outbound and inbound streams, first sequence number.
        chunk = struct.pack("!BBHIIHHI", self.kind, 0, _FIXED + len(cookie), self.tag, 65535, 4, 4, 1)
        chunk += cookie + bytes(-len(cookie) % 4)
        head = struct.pack("!HHI", self.source, self.destination, self.verification)
        # The one field of the protocol in the other byte order.
        return head + struct.pack("<I", crc32c(head + bytes(4) + chunk)) + chunk

    def answered(self, cookie: bytes) -> Packet:
        """Return the INIT ACK to this INIT."""
        return Packet(
            source=self.destination,
            destination=self.source,
            kind=INIT_ACK,
            verification=self.tag,
            tag=0x5EED5EED,
            cookie=cookie,
        )

    @classmethod
    def of(cls, data: bytes) -> Packet:
        """Return the packet in `data`; raises `ValueError` where its checksum is wrong."""
        source, destination, verification = struct.unpack("!HHI", data[:8])
        if struct.unpack("<I", data[8:12])[0] != crc32c(data[:8] + bytes(4) + data[12:]):
            raise ValueError("wrong checksum")
        kind, _, length, tag = struct.unpack("!BBHI", data[12:20])
        return cls(
            source=source,
            destination=destination,
            kind=kind,
            verification=verification,
            tag=tag,
            cookie=data[12 + _FIXED + 4 : 12 + length],
        )


def raw_socket(family: socket.AddressFamily) -> socket.socket:
    """Return a socket that hears all SCTP packets of its namespace and family."""
    return socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_SCTP)


def receive(sock: socket.socket) -> tuple[Packet, str]:
    """Return the next packet and its sender's address; raises `ValueError` where its checksum is wrong."""
    data, peer = sock.recvfrom(2048)
    # IPv4 raw sockets see the network header as well.
    return Packet.of(data[(data[0] & 15) * 4 :] if sock.family == socket.AF_INET else data), peer[0]


def begin(sock: socket.socket, source: int, port: int) -> str:
    """Begin an association from a connected raw socket; the cookie that the other side answers with.

    Raises `TimeoutError` without an answer, `ConnectionRefusedError` where ICMP says that nobody is there,
    and `ValueError` for an answer that is not to our question.
    """
    init = Packet(source=source, destination=port, kind=INIT, verification=0, tag=0x1234ABCD)
    sock.send(init.to_bytes())
    while True:
        answer, _ = receive(sock)
        # The host itself, as a client, hears what it sent as well.
        if answer.kind == INIT_ACK and answer.destination == source:
            break
    if (answer.source, answer.verification) != (port, init.tag):
        raise ValueError(f"not an answer to {init}: {answer}")
    return answer.cookie.decode()
