"""Processes of this host that stop listening, noticed at once and not by the next check.

The kernel reports each socket that is destroyed (NETLINK_SOCK_DIAG, `sock_diag_broadcast_destroy`, Linux
4.4). A filter lets only those of watched ports through that have no peer: sockets that listen. Whether
another process still listens at the port is then asked, as SO_REUSEPORT allows several. Where the kernel
reports nothing, the question is asked again and again. The answer has the addresses, too: a process that is
bound to one of them is checked there.
"""

from __future__ import annotations

import socket
import struct
from ipaddress import ip_address
from typing import TYPE_CHECKING

from lbctl.agent.checks import outcomes
from lbctl.model import Family, HttpProbe, TcpProbe, UdpProbe
from lbctl.model.check import DnsProbe, ExecProbe

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterable, Iterator

    from lbctl.agent.health import Target
    from lbctl.host import Host, Reports
    from lbctl.model import Address

_SOCK_DIAG, _BY_FAMILY = 4, 20
_DUMP = 0x301  # NLM_F_REQUEST | NLM_F_DUMP
#: struct nlmsghdr; struct inet_diag_req_v2 up to its 48 bytes of a socket's identity.
_HEADER, _REQUEST = struct.Struct("=IHHII"), struct.Struct("=BBBxI48x")
#: struct inet_diag_msg: family and state, and behind timer and retransmits the ports and the source address.
_MESSAGE = struct.Struct("=BBxx2s2s16s")
#: States of sockets that take what comes: LISTEN; CLOSE for UDP, which is one that is connected to nobody.
_STATES = {socket.IPPROTO_TCP: 1 << 10, socket.IPPROTO_UDP: 1 << 7}
#: SKNLGRP_INET_TCP_DESTROY, …_UDP_DESTROY, and the same of IPv6 (linux/sock_diag.h).
_GROUPS = {socket.IPPROTO_TCP: (1, 3), socket.IPPROTO_UDP: (2, 4)}
#: Where a report has the ports of a socket and its peer, and the value for none.
_SOURCE, _PEER, _NONE = _HEADER.size + 4, _HEADER.size + 6, bytes(2)
_FAMILIES = {Family.IPV4: socket.AF_INET, Family.IPV6: socket.AF_INET6}
#: Seconds between two questions where the kernel reports nothing; and from a report to the question, so that
#: a socket that is replaced is not taken for one that is gone.
_POLL, _GAP = 0.1, 0.02
#: Seconds from a failed check to the question where the process listens.
_AGAIN = 0.5


class LocalSockets:
    """Watches the local ports of targets. All methods run in the loop's thread."""

    def __init__(self, host: Host, loop: asyncio.AbstractEventLoop) -> None:
        self._host, self._loop = host, loop
        self._targets: dict[tuple[int, Family, int], list[Target]] = {}
        #: Where processes listen at watched ports: packed addresses.
        self._places: dict[tuple[int, Family, int], set[bytes]] = {}
        #: Ports of which a socket is gone.
        self._reported_ports: set[int] = set()
        self._closed: Callable[[Target], None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._kernel: Reports | None = None

    def watch(self, targets: Iterable[Target], closed: Callable[[Target], None]) -> None:
        """Have `closed` called when no process listens at a target any more."""
        self._closed = closed
        self._targets = {}
        for target in targets:
            protocol = _protocol(target)
            if target.address is None and target.port is not None and protocol is not None:
                self._targets.setdefault((protocol, target.family, target.port), []).append(target)
        if self._targets:
            self._subscribe()
        self._ask(_GAP)

    def _subscribe(self) -> None:
        """Have the kernel report sockets without a peer that end at watched ports.

        Not those of our own checks: a connection that is reset has lost its peer when it is reported.
        """
        ports = {port.to_bytes(2, "big") for _, _, port in self._targets}
        words = {_PEER: [_NONE], _SOURCE: ports}
        if self._kernel is None:
            self._kernel = self._host.subscribe(
                _SOCK_DIAG, [group for each in _GROUPS.values() for group in each], words
            )
            if self._kernel is not None:
                self._loop.add_reader(self._kernel.fileno(), self._reported)
            return
        try:
            self._kernel.only(words)
        except OSError:
            self._unsubscribe()

    def _unsubscribe(self) -> None:
        if self._kernel is not None:
            self._loop.remove_reader(self._kernel.fileno())
            self._kernel.close()
            self._kernel = None

    def address(self, target: Target) -> Address:
        """Return where a target is to be checked.

        A process on this host: at the loopback address, or at the one that it is bound to.
        """
        found = outcomes.address(target)
        protocol = _protocol(target)
        if target.address is not None or target.port is None or protocol is None:
            return found
        places = self._places.get((protocol, target.family, target.port), set())
        if not places or found.packed in places or any(not any(place) for place in places):
            return found
        return ip_address(min(places))

    def look_again(self) -> None:
        """Ask soon where processes listen, since a check failed: the kernel reports no new sockets."""
        self._ask(_AGAIN)

    def close(self) -> None:
        """Stop watching."""
        self._unsubscribe()
        if self._timer is not None:
            self._timer.cancel()
        self._targets = {}

    def _reported(self) -> None:
        """Ask again if a socket of a watched port is gone, or reports were lost."""
        if self._kernel is None:
            return
        watched = {port for _, _, port in self._targets}
        reports = self._kernel.read()
        ended = watched if reports is None else {port for each in reports for _, port in _sockets(each)}
        self._reported_ports |= ended & watched
        if self._reported_ports:
            self._ask(_GAP)

    def _ask(self, pause: float) -> None:
        """Ask after a pause, or sooner if that is planned already."""
        if not self._targets:
            return
        when = self._loop.time() + pause
        if self._timer is not None:
            if self._timer.when() <= when:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(when, self._compare)

    def _compare(self) -> None:
        self._timer = None
        listening: dict[tuple[int, Family, int], set[bytes]] = {}
        for protocol in {protocol for protocol, _, _ in self._targets}:
            found = _listening(self._host, protocol)
            if found is None:
                return  # not known, so nothing is reported
            listening |= {(protocol, *place): addresses for place, addresses in found.items()}
        reported, self._reported_ports = self._reported_ports, set()
        before, self._places = (
            self._places,
            {key: listening[key] for key in self._targets if key in listening},
        )
        gone = [key for key in self._targets if key in before or key[2] in reported]
        for key in gone:
            if key in listening:
                continue
            for target in self._targets[key]:
                if self._closed is not None:
                    self._closed(target)
        if self._kernel is None:
            self._ask(_POLL)


def _protocol(target: Target) -> int | None:
    match target.check.probe:
        case TcpProbe() | HttpProbe():
            return socket.IPPROTO_TCP
        case UdpProbe() | DnsProbe():
            return socket.IPPROTO_UDP
        case ExecProbe():
            return None


def _listening(host: Host, protocol: int) -> dict[tuple[Family, int], set[bytes]] | None:
    """Return where processes of this host listen: family and port → packed addresses; None if it is unknown.

    A socket on all IPv6 addresses counts for IPv4 too: whether it takes IPv4 is not told.
    """
    found: dict[tuple[Family, int], set[bytes]] = {}
    for number, family in enumerate(Family, 1):
        body = _REQUEST.pack(_FAMILIES[family], protocol, 0, _STATES[protocol])
        header = _HEADER.pack(_HEADER.size + len(body), _BY_FAMILY, _DUMP, number, 0)
        answer = host.netlink(_SOCK_DIAG, header + body)
        if answer is None:
            return None
        for source, port in _sockets(answer):
            packed = source[:4] if family is Family.IPV4 else source
            found.setdefault((family, port), set()).add(packed)
            if family is Family.IPV6 and not any(source):
                found.setdefault((Family.IPV4, port), set()).add(bytes(4))
    return found


def _sockets(data: bytes) -> Iterator[tuple[bytes, int]]:
    """Yield the source address and port of each socket in messages of the kernel."""
    at = 0
    while at + _HEADER.size <= len(data):
        length, kind, *_ = _HEADER.unpack_from(data, at)
        if length < _HEADER.size or at + length > len(data):
            return
        if kind == _BY_FAMILY and length >= _HEADER.size + _MESSAGE.size:
            _, _, port, _, source = _MESSAGE.unpack_from(data, at + _HEADER.size)
            yield source, int.from_bytes(port, "big")
        at += (length + 3) & ~3
