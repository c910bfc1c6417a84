"""TCP checks: connect, and nothing more.

They are the commonest, and thousands run at once: bare connections of asyncio took twice the CPU time. So
they have an epoll of their own, which asyncio watches as one descriptor: no thread, no task and no
transport for each of them. A connection ends with a reset (SO_LINGER of 0), as HAProxy's do: a minute of
TIME_WAIT for each check would fill tables.
"""

from __future__ import annotations

import errno
import heapq
import select
import socket
import struct
from typing import TYPE_CHECKING

from lbctl.agent.checks import outcomes
from lbctl.model import Family

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterable

    from lbctl.agent.health import Outcome, Target
    from lbctl.model import Address

_FAMILY = {Family.IPV4: socket.AF_INET, Family.IPV6: socket.AF_INET6}
_LINGER = struct.pack("ii", 1, 0)
_TYPE = socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
_READY = select.EPOLLOUT | select.EPOLLERR | select.EPOLLHUP
#: Events that are handled before other work of the loop has its turn.
_BATCH = 256


class TcpChecks:
    """Connections that are being made. All methods run in the loop's thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._epoll = select.epoll()
        #: Descriptor → the socket, what is checked, when it began, and who wants to know.
        self._open: dict[int, tuple[socket.socket, Target, float, Callable[[Target, Outcome], None]]] = {}
        #: When each one is too late: (steady time, descriptor, when it began).
        self._deadlines: list[tuple[float, int, float]] = []
        self._timer: asyncio.TimerHandle | None = None
        loop.add_reader(self._epoll.fileno(), self._ready)

    def start(
        self, targets: Iterable[tuple[Target, Address]], done: Callable[[Target, Outcome], None]
    ) -> None:
        """Connect to each target at its address; `done` is called for each, later or at once."""
        for target, where in targets:
            self._connect(target, where, done)
        # The kernel makes connections to near hosts at once: a turn of the loop less.
        self._ready()
        self._watch_deadlines()

    def close(self) -> None:
        """Give up all connections; nothing is reported any more."""
        self._loop.remove_reader(self._epoll.fileno())
        if self._timer is not None:
            self._timer.cancel()
        for sock, *_ in self._open.values():
            sock.close()
        self._open.clear()
        self._epoll.close()

    def _connect(self, target: Target, where: Address, done: Callable[[Target, Outcome], None]) -> None:
        now = self._loop.time()
        try:
            sock = socket.socket(_FAMILY[target.family], _TYPE)
        except OSError as error:
            done(target, outcomes.of_error(error, 0.0))
            return
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER)
        code = sock.connect_ex((str(where), target.port or 0))
        if code != errno.EINPROGRESS:
            sock.close()
            done(target, _outcome(code, self._loop.time() - now))
            return
        number = sock.fileno()
        self._open[number] = (sock, target, now, done)
        self._epoll.register(number, _READY)
        heapq.heappush(self._deadlines, (now + target.check.timeout / 1000, number, now))

    def _ready(self) -> int:
        """Report connections that were made or refused, some of them; return how many."""
        now = self._loop.time()
        ready = self._epoll.poll(0, _BATCH)
        for number, events in ready:
            sock, target, began, done = self._open.pop(number)
            failed = events & (select.EPOLLERR | select.EPOLLHUP)
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) if failed else 0
            sock.close()  # and with it, its place in the epoll
            done(target, _outcome(code, now - began))
        return len(ready)

    def _watch_deadlines(self) -> None:
        """Have a timer for the first deadline of a connection that is still being made."""
        while self._deadlines and not self._pending(*self._deadlines[0][1:]):
            heapq.heappop(self._deadlines)
        if self._timer is None and self._deadlines:
            self._timer = self._loop.call_at(self._deadlines[0][0], self._late)

    def _pending(self, number: int, began: float) -> bool:
        found = self._open.get(number)
        return found is not None and found[2] == began

    def _late(self) -> None:
        self._timer = None
        # A connection that was made while this process had no time for it is not late.
        while self._ready() == _BATCH:
            pass
        now = self._loop.time()
        while self._deadlines and self._deadlines[0][0] <= now:
            _, number, began = heapq.heappop(self._deadlines)
            if self._pending(number, began):
                sock, target, _, done = self._open.pop(number)
                sock.close()
                done(target, outcomes.of_timeout(now - began))
        self._watch_deadlines()


def _outcome(code: int, seconds: float) -> Outcome:
    return outcomes.of_code(code, seconds) if code else outcomes.passed("connected", seconds)
