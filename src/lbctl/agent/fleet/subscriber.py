"""Follows a published intent: what is new in etcd is judged, carried out and kept on disk.

Without etcd, and where a publication is refused, the host goes on with what it has. A publication is carried
out once: what an operator does on this host afterwards, a rollback for instance, stays until the next one.
"""

from __future__ import annotations

import asyncio
import socket
from contextlib import aclosing, suppress
from dataclasses import replace
from functools import partial
from random import Random
from typing import TYPE_CHECKING

from lbctl.agent.etcd import Client
from lbctl.agent.fleet import keys, record, signing
from lbctl.agent.fleet.acceptance import Accepted, PublicationRefused, accept, candidate
from lbctl.agent.fleet.record import Last
from lbctl.agent.journal import Priority
from lbctl.agent.sources.source import SourceFailed
from lbctl.errors import LbctlError
from lbctl.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from lbctl.host import Host
    from lbctl.model import EtcdAccess, Follow, Intent

#: Seconds before etcd is asked again after a failure, and before a publication is tried again that could not
#: be carried out: the first time, and at most.
_AGAIN, _AGAIN_MOST = 0.25, 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Followed:
    """Where a host stands. `accepted` is what it carried out last, `refused` why it does not take the newest.

    `newest` is the revision that etcd has for this host, None if that is unknown.
    """

    accepted: Accepted | None = None
    newest: int | None = None
    refused: str | None = None


class Subscriber:
    """Follows the intent that a local intent file names; idle while that names none."""

    def __init__(
        self,
        host: Host,
        in_thread: Callable[[Callable[[], object]], Awaitable[object]],
        carry_out: Callable[[Accepted], object],
        trouble: Callable[[str, str | None, Priority], object],
    ) -> None:
        self._host, self._in_thread = host, in_thread
        self._carry_out, self._trouble = carry_out, trouble
        self._local: Intent | None = None
        self._found: Mapping[str, str] | None = None
        #: The text that is carried out, be it by this agent or the one before, and one that was refused.
        self._done: str | None = None
        self._refused: str | None = None
        self._floor = 0
        self._more = asyncio.Event()
        self._random = Random()  # noqa: S311 (spreads questions, and guards nothing)
        self.state = Followed()
        #: Called whenever `state` changed.
        self.changed: Callable[[], object] = lambda: None

    @property
    def local(self) -> Intent | None:
        """The local intent; None before `begin`."""
        return self._local

    @property
    def place(self) -> tuple[EtcdAccess, Follow, str] | None:
        """How etcd is reached, what is followed there, and this host's name; None if nothing is followed."""
        local = self._local
        if local is None or local.follow is None or local.etcd is None:
            return None
        return local.etcd, local.follow, host_name(local.follow)

    def begin(self, local: Intent) -> None:
        """Read what the last agent accepted; to be called before `run`, raises `Damaged`."""
        self._local = local
        self._done = self._refused = None
        self._floor, self.state = 0, Followed()
        if local.follow is None:
            return
        last = record.read(self._host, local.owner, local.follow.intent)
        if last is None:
            return
        self._floor = last.floor
        try:
            accepted = self._judge(last.text, local, local.follow)
        except PublicationRefused:
            return  # the bounds are closer now; what is applied stays, and etcd is asked
        self._done = last.text
        self.state = Followed(accepted=accepted, newest=accepted.publication.revision)

    def replace(self, local: Intent) -> None:
        """Go on with another local intent: what etcd has is judged anew. Raises `Damaged`."""
        before, self._local = self.place, local
        now = self.place
        if before is None or now is None or (before[0], before[1].intent) != (now[0], now[1].intent):
            self._found = None
            self.begin(local)
        self._done = self._refused = None
        self._more.set()

    async def run(self) -> None:
        """Follow until it is cancelled."""
        listening: asyncio.Task[None] | None = None
        asked: object = None
        try:
            while True:
                place = self.place
                question = place and (place[0], place[1].intent)
                if question != asked:
                    if listening is not None:
                        listening.cancel()
                    listening = asyncio.create_task(self._listen(*question)) if question else None
                    asked = question
                self._more.clear()
                pause = await self._step()
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._more.wait()
        finally:
            if listening is not None:
                listening.cancel()
                await asyncio.gather(listening, return_exceptions=True)

    async def _listen(self, access: EtcdAccess, name: str) -> None:
        """Note what etcd has, as often as it changes; ask again whenever that fails."""
        again = _AGAIN
        while True:
            try:
                client = await Client.of(access)
                async with aclosing(client.states(keys.intent(name))) as states:
                    async for found in states:
                        again = _AGAIN
                        self._trouble("etcd", None, Priority.NOTICE)
                        self._found = found
                        self._more.set()
                text = "the watch has ended"
            except TimeoutError:
                text = "no answer in time"
            except (SourceFailed, OSError) as error:
                text = str(error)
            self._trouble("etcd", f"etcd: {text}; the last intent is kept", Priority.WARNING)
            self.changed()
            await asyncio.sleep(again * self._random.uniform(0.75, 1.25))
            again = min(again * 2, _AGAIN_MOST)

    async def _step(self) -> float | None:
        """Carry out what is new; return after how many seconds to try again, None if nothing failed."""
        local, found = self._local, self._found
        if local is None or local.follow is None or found is None:
            return None
        follow = local.follow
        text = candidate(found, follow.intent, host_name(follow))
        if text is None:
            self._refuse(f'no intent "{follow.intent}" is published', None)
            return None
        if text == self._refused:
            return None
        if text == self._done:
            self._settled(self.state.accepted)
            return None
        try:
            accepted = await self._in_thread(partial(self._take, text, local, follow))
        except PublicationRefused as error:
            self._refuse(error.message, error.revision)
            self._refused = text
            return None
        except LbctlError as error:
            self._trouble("fleet", f"the published intent is not applied: {error.message}", Priority.ERROR)
            self.changed()
            return 1.0
        if not isinstance(accepted, Accepted):
            return None
        self._done = text
        self._floor = self._floor_after(accepted)
        self._settled(accepted)
        return None

    def _settled(self, accepted: Accepted | None) -> None:
        """Nothing is to be done: this publication is carried out."""
        self._refused = None
        self._trouble("fleet", None, Priority.NOTICE)
        newest = None if accepted is None else accepted.publication.revision
        state = Followed(accepted=accepted, newest=newest)
        if state != self.state:
            self.state = state
            self.changed()

    def _refuse(self, message: str, revision: int | None) -> None:
        self.state = replace(self.state, newest=revision, refused=message)
        self._trouble("fleet", f"{message}; the last intent is kept", Priority.ERROR)
        self.changed()

    def _take(self, text: str, local: Intent, follow: Follow) -> Accepted:
        """Judge, carry out and keep a publication; raises `PublicationRefused` and what the engine raises."""
        accepted = self._judge(text, local, follow)
        self._carry_out(accepted)
        last = Last(name=follow.intent, text=text, floor=self._floor_after(accepted))
        record.write(self._host, local.owner, last)
        return accepted

    def _judge(self, text: str, local: Intent, follow: Follow) -> Accepted:
        verify = partial(signing.verify, self._host)
        return accept(text, local, follow, host=host_name(follow), floor=self._floor, verify=verify)

    def _floor_after(self, accepted: Accepted) -> int:
        """A withdrawn canary gives way to what is current, which is older."""
        return self._floor if accepted.canary else accepted.publication.revision


def host_name(follow: Follow) -> str:
    """Return the name under which this host reports."""
    return follow.host or socket.gethostname()
