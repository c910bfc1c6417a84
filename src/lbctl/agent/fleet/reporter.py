"""Keeps a host's report in etcd, under a lease: who stops reporting is gone within its time.

Two hosts that report under one name overwrite each other. Each of them finds the other's lease at the key,
writes its own report again, and has this be one of its problems, for as long as it goes on.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from typing import TYPE_CHECKING

from lbctl.agent.etcd import Client
from lbctl.agent.fleet import keys, report
from lbctl.agent.sources.source import SourceFailed

if TYPE_CHECKING:
    from collections.abc import Callable

    from lbctl.agent.fleet.report import HostReport
    from lbctl.model import EtcdAccess, Follow

#: Seconds of the lease, and between two times that it is kept alive: three may fail.
LEASE, _KEEP = 10, 3.0
#: Looks in a row that find the own report, after which no other host reports under the name.
_ALONE = 3
#: Seconds between two looks at what is to be reported, and before etcd is asked again after a failure.
_LOOK, _AGAIN, _AGAIN_MOST = 0.5, 0.5, 5.0


class Reporter:
    """Reports for as long as an intent is followed."""

    def __init__(
        self,
        place: Callable[[], tuple[EtcdAccess, Follow, str] | None],
        made: Callable[[str], HostReport],
        trouble: Callable[[str, str | None], object],
    ) -> None:
        self._place, self._made, self._trouble = place, made, trouble
        self._more = asyncio.Event()

    def wake(self) -> None:
        """Report soon: there may be something new."""
        self._more.set()

    async def run(self) -> None:
        """Report until it is cancelled; then the report is withdrawn, as far as etcd can be reached."""
        again = _AGAIN
        while True:
            place = self._place()
            if place is None:
                await self._more.wait()
                self._more.clear()
                continue
            try:
                await self._report(*place)
                again = _AGAIN
            except (SourceFailed, OSError, TimeoutError) as error:
                text = str(error) or "no answer in time"
                self._trouble("report", f"this host does not report: etcd: {text}")
                await asyncio.sleep(again)
                again = min(again * 2, _AGAIN_MOST)

    async def _report(self, access: EtcdAccess, follow: Follow, host: str) -> None:
        """Keep the report of this host; returns where something else is to be followed."""
        client = await Client.of(access)
        lease = await client.grant(LEASE)
        key = keys.hosts(follow.intent, host)
        loop = asyncio.get_running_loop()
        try:
            await client.put(keys.known(follow.intent, host), json.dumps({"host": host}))
            written, kept, alone = "", loop.time(), 0
            while self._place() == (access, follow, host):
                text = report.write(self._made(host))
                if text != written:
                    await client.put(key, text, lease=lease)
                    written = text
                    self._trouble("report", None)
                if loop.time() - kept >= _KEEP:
                    if not await client.keep_alive(lease):
                        return
                    kept = loop.time()
                    entry = await client.get(key)
                    if entry is None or entry.lease != lease:
                        written = ""
                    alone = alone + 1 if entry is None or entry.lease == lease else 0
                    self._note_twin(host, alone)
                await self._rest(_LOOK)
        except asyncio.CancelledError:
            with suppress(SourceFailed, OSError, TimeoutError):
                await client.revoke(lease)
            raise

    def _note_twin(self, host: str, alone: int) -> None:
        """Note that another host has just reported under the same name, or that none has for a while."""
        if not alone:
            self._trouble(
                "name", f'another host reports as "{host}" too: give each its own `host` in [follow]'
            )
        elif alone >= _ALONE:
            self._trouble("name", None)

    async def _rest(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._more.wait()
        self._more.clear()
