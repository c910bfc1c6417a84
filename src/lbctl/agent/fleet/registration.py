"""Keeps an endpoint in etcd while a program runs, and drains it before the program ends.

The key is under a lease: should this process be killed, or its host be lost, the endpoint is gone within
`LEASE` seconds. Without etcd the program runs on, and is registered again once etcd is back.
"""

from __future__ import annotations

import asyncio
import json
import signal
from contextlib import suppress
from typing import TYPE_CHECKING

from lbctl.agent.etcd import Client
from lbctl.agent.sources.source import SourceFailed
from lbctl.values import dataclass

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import Callable, Sequence

    from lbctl.model import EtcdAccess

#: Seconds of the lease, and between two times that it is kept alive.
LEASE, _KEEP = 10, 3.0
#: Seconds before etcd is asked again after a failure, and that the last words to it may take.
_AGAIN, _LAST = 1.0, 5.0
_TROUBLES = (SourceFailed, OSError, TimeoutError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """An endpoint that is registered under a key. `drain` is how long it is drained before it ends."""

    access: EtcdAccess
    key: str
    address: str
    weight: int = 1
    drain: float = 5.0


async def keep(registration: Registration, command: Sequence[str], say: Callable[[str], object]) -> int:
    """Run a command, () for none, and keep an endpoint registered meanwhile; return its exit code.

    SIGTERM and SIGINT drain the endpoint first, and are then passed on. Raises `OSError` if the command
    cannot be started.
    """
    loop = asyncio.get_running_loop()
    asked: asyncio.Future[int] = loop.create_future()

    def ask(number: int) -> None:
        if not asked.done():
            asked.set_result(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ask, number)
    # In a group of its own, so that Ctrl-C of a terminal reaches it after the drain only.
    process = await asyncio.create_subprocess_exec(*command, start_new_session=True) if command else None
    keeper = _Keeper(registration, say)
    keeping = asyncio.create_task(keeper.run())
    ending = asyncio.create_task(process.wait()) if process is not None else None
    try:
        await asyncio.wait(
            [each for each in (asked, ending) if each is not None], return_when="FIRST_COMPLETED"
        )
        if asked.done() and (process is None or process.returncode is None):
            say(f"Draining {registration.address} for {registration.drain:g} s.")
            keeper.drain()
            waits = ending or asyncio.sleep(registration.drain)
            with suppress(TimeoutError):
                async with asyncio.timeout(registration.drain):
                    await asyncio.shield(asyncio.ensure_future(waits))
        return await _ended(process, asked.result() if asked.done() else None)
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
        await keeper.end()


async def _ended(process: Process | None, number: int | None) -> int:
    """Pass a signal on to a program, and return its exit code when it has ended."""
    if process is None:
        return 0
    if number is not None and process.returncode is None:
        with suppress(ProcessLookupError):
            process.send_signal(number)
    code = await process.wait()
    return code if code >= 0 else 128 - code


class _Keeper:
    """Writes the key, and keeps its lease alive."""

    def __init__(self, registration: Registration, say: Callable[[str], object]) -> None:
        self._registration, self._say = registration, say
        self._client: Client | None = None
        self._lease = 0
        self._state = "active"
        self._more = asyncio.Event()

    def drain(self) -> None:
        """Have the endpoint get no new connections."""
        self._state = "drain"
        self._more.set()

    async def run(self) -> None:
        """Keep the key until it is cancelled."""
        said = ""
        while True:
            try:
                client = self._client = await Client.of(self._registration.access)
                self._lease = await client.grant(LEASE)
                await self._keep(client)
                text = "the lease ended"
            except _TROUBLES as error:
                text = str(error) or "no answer in time"
            if text != said:
                self._say(f"Not registered: etcd: {text}. Trying again.")
                said = text
            await self._rest(_AGAIN)

    async def _keep(self, client: Client) -> None:
        written = ""
        while True:
            if written != self._state:
                await client.put(self._registration.key, self._value(), lease=self._lease)
                if not written:
                    self._say(f"Registered {self._registration.address} as {self._registration.key}.")
                written = self._state
            await self._rest(_KEEP)
            if not await client.keep_alive(self._lease):
                return

    def _value(self) -> str:
        found = self._registration
        return json.dumps({"address": found.address, "weight": found.weight, "state": self._state})

    async def _rest(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._more.wait()
        self._more.clear()

    async def end(self) -> None:
        """Have the key be gone at once, if etcd can be reached; else its lease ends."""
        if self._client is not None and self._lease:
            with suppress(*_TROUBLES):
                async with asyncio.timeout(_LAST):
                    await self._client.revoke(self._lease)
