"""The locks that one session holds on a remote host."""

from __future__ import annotations

import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from lbctl.errors import LbctlError, Stale
from lbctl.host.persons import holder_name
from lbctl.host.remote.answers import refuse
from lbctl.host.remote.greeting import CLOCK
from lbctl.host.remote.session import RemoteRequest
from lbctl.host.remote.state import STATE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lbctl.host.remote.greeting import Greeting
    from lbctl.host.remote.session import RemoteReply, SshSession
    from lbctl.host.remote.state import RemoteState

#: Status of a request for a lock that another process holds.
_HELD = 2
#: Descriptors of serve.sh that hold locks.
_DESCRIPTORS = range(5, 10)
_PAUSE = 0.2


class Locks:
    """The locks that one session holds: each ends with it, and with what it runs, however they end."""

    def __init__(self, session: SshSession, greeting: Greeting, state: RemoteState) -> None:
        self._session = session
        self._greeting = greeting
        self._state = state
        #: Name → the descriptor that holds it there.
        self._held: dict[str, int] = {}
        self._waited = False

    @contextmanager
    def hold(self, name: str, patience: float, sleep: Callable[[float], None]) -> Iterator[RemoteReply]:
        """See `Host.lock`. What is saved is read anew with it; yields the answer to `CLOCK`."""
        until = time.monotonic() + patience
        taken = set(self._held.values())
        free = next(number for number in _DESCRIPTORS if number not in taken)
        words = (self._greeting.file(name, "lock"), str(free))
        while True:
            found, clock, *files = self._session.ask(RemoteRequest(verb="lock", words=words), CLOCK, *STATE)
            if not found.status:
                break
            if found.status != _HELD:
                refuse(self._session.destination, found, f"cannot take the lock {name}")
            if time.monotonic() >= until:
                holder = holder_name(*found.text.partition(" ")[::2])
                raise Stale(
                    f"another lbctl ({holder}) is changing that network namespace",
                    hint="--wait 30s waits for it to end",
                )
            sleep(_PAUSE)
        self._state.take(*files)
        self._held[name] = free
        try:
            yield clock
        finally:
            del self._held[name]
            with suppress(LbctlError):  # the session is over, and the lock with it
                self._session.tell(RemoteRequest(verb="unlock", words=words))

    def any_held(self) -> bool:
        """Return True while this session holds a lock."""
        return bool(self._held)

    def is_held(self, name: str) -> bool:
        """Return True while a process holds a lock; what the greeting says counts until time has passed."""
        file = self._greeting.file(name, "lock")
        if not self._waited:
            return file in self._greeting.locked or name in self._held
        (found,) = self._session.ask(RemoteRequest(verb="held", words=(file,)))
        return not found.status

    def expire(self) -> None:
        """Note that time has passed."""
        self._waited = True
