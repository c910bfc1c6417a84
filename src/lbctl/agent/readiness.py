"""Tells other programs of this host whether it balances: keepalived by a file, exabgp by its pipe.

It is about the rules of this host, not about endpoints: whoever moves addresses between hosts because all
endpoints fail breaks what still works. What changes for less than a few seconds is not passed on. What is
not known changes nothing: an agent that starts, ends or is killed leaves what it said last.
"""

from __future__ import annotations

import asyncio
import errno
import os
import stat
from ipaddress import ip_network
from pathlib import Path
from typing import TYPE_CHECKING

from lbctl.errors import ApplyFailed, LbctlError
from lbctl.host.files import write_whole
from lbctl.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from lbctl.model import Announcements, Intent, Network

#: Seconds between two looks, and looks in a row that make this host ready, and not ready.
_LOOK, RISE, FALL = 1.0, 3, 3
#: Looks until routes are announced again, for an exabgp that started since, and until a failure is retried.
REPEAT = 10


class Gate:
    """A state that changes once it was seen some times in a row; None until then."""

    def __init__(self, rise: int = RISE, fall: int = FALL) -> None:
        self._needed = {True: rise, False: fall}
        self._seen: bool | None = None
        self._count = 0
        self.state: bool | None = None

    def note(self, seen: bool | None) -> None:
        """Note what was seen; None is neither."""
        self._count = self._count + 1 if seen is self._seen else 1
        self._seen = seen
        if seen is not None and self._count >= self._needed[seen]:
            self.state = seen


@dataclass(frozen=True, slots=True, kw_only=True)
class _Announced:
    """What other programs know: whether this host is ready, and by which routes."""

    ready: bool
    announce: Announcements
    routes: frozenset[Network]


class Readiness:
    """Passes on whether this host is ready, as the followed intent says."""

    def __init__(self, is_ready: Callable[[], bool | None]) -> None:
        self._is_ready = is_ready
        self._gate = Gate()
        self._intent: Intent | None = None
        self._announced: _Announced | None = None
        self._failed = False
        self._looks = 0
        #: Set while another program is to know.
        self._wanted = asyncio.Event()

    def follow(self, intent: Intent) -> None:
        """Go on with the table `agent` and the addresses of another intent."""
        self._intent = intent
        if intent.announce.track_file is not None or intent.announce.exabgp is not None:
            self._wanted.set()

    async def run(
        self,
        in_thread: Callable[[Callable[[], object]], Awaitable[object]],
        report: Callable[[str | None], object],
    ) -> None:
        """Look and tell; `report` is called with what is wrong, or None for nothing."""
        while True:
            await self._wanted.wait()
            await asyncio.sleep(_LOOK)
            if (work := self.look()) is None:
                continue
            try:
                await in_thread(work)
            except LbctlError as error:
                self._failed = True
                report(error.message)
            else:
                self._failed = False
                report(None)

    def look(self) -> Callable[[], None] | None:
        """Look once; return what has other programs know, to be called in any thread; None for no news."""
        self._gate.note(self._is_ready())
        ready, intent, last = self._gate.state, self._intent, self._announced
        if ready is None or intent is None:
            return None
        now = _Announced(ready=ready, announce=intent.announce, routes=_routes(intent))
        self._looks += 1
        repeated = (self._failed or now.announce.exabgp is not None) and self._looks % REPEAT == 0
        if now == last and not repeated:
            return None
        known = None if self._failed else last
        self._announced = now

        def work() -> None:
            _announce_to_keepalived(known, now)
            _announce_to_exabgp(known, now)

        return work


def _routes(intent: Intent) -> frozenset[Network]:
    if intent.announce.exabgp is None:
        return frozenset()
    addresses = {listener.address for service in intent.services for listener in service.listeners}
    return frozenset(ip_network(address) for address in addresses if address) | {
        *intent.announce.exabgp_routes
    }


def _announce_to_keepalived(last: _Announced | None, now: _Announced) -> None:
    old, new = last.announce.track_file if last is not None else None, now.announce.track_file
    if old is not None and old != new:
        write_whole(Path(old), "1\n")
    if new is not None and (last is None or old != new or last.ready is not now.ready):
        write_whole(Path(new), f"{int(not now.ready)}\n")


def _announce_to_exabgp(last: _Announced | None, now: _Announced) -> None:
    old, new = last.announce.exabgp if last is not None else None, now.announce.exabgp
    before = last.routes if last is not None else frozenset()
    if old is not None and old != new:
        _send(old, _lines("withdraw", before))
    if new is not None:
        gone = before - now.routes if old == new else frozenset()
        _send(new, [*_lines("withdraw", gone), *_lines("announce" if now.ready else "withdraw", now.routes)])


def _lines(word: str, routes: Iterable[Network]) -> list[str]:
    ordered = sorted(
        routes, key=lambda network: (network.version, int(network.network_address), network.prefixlen)
    )
    return [f"{word} route {network} next-hop self\n" for network in ordered]


def _send(path: str, lines: Iterable[str]) -> None:
    """Write lines to a named pipe; raises `ApplyFailed` if it is none, no program reads it, or it is full."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if not stat.S_ISFIFO(os.fstat(handle).st_mode):
                raise ApplyFailed(f"{path} is not a named pipe")
            for line in lines:
                # Shorter than PIPE_BUF: written whole or not at all.
                os.write(handle, line.encode("ascii"))
        finally:
            os.close(handle)
    except OSError as error:
        reason = "no program reads it" if error.errno == errno.ENXIO else error.strerror
        raise ApplyFailed(f"cannot write {path}: {reason}") from error
