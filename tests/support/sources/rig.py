"""A source and what is behind it, of a test: each can be lost, wrong or silent, and return."""

from __future__ import annotations

import asyncio
from typing import Protocol

from lbctl.agent.sources import Access
from lbctl.model import Endpoint
from support.web import Mood, WebServer


class Rig(Protocol):
    """One source, and what is behind it."""

    source: str
    name: str
    #: What the intent says about reaching it.
    access: Access
    #: True if its endpoints are ports of this host.
    local: bool

    async def start(self) -> None: ...

    async def stop(self) -> None:
        """Lose what is behind the source, as in an outage; `start` ends that."""

    async def give(self, *endpoints: Endpoint) -> None:
        """Have these endpoints be the right answer, and say so to who waits for it."""

    async def be(self, mood: Mood) -> None:
        """Answer so from now on."""


class WebRig:
    """A source behind a server of HTTP."""

    local = False

    def __init__(self, server: WebServer) -> None:
        self.server = server

    async def start(self) -> None:
        await self.server.start()

    async def stop(self) -> None:
        await self.server.stop()

    async def be(self, mood: Mood) -> None:
        self.server.mood = mood
        await self.server.cut()


class Changes:
    """Who waits for a change hears of it."""

    def __init__(self) -> None:
        self._condition = asyncio.Condition()

    async def tell(self) -> None:
        async with self._condition:
            self._condition.notify_all()

    async def wait(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds), self._condition:
                await self._condition.wait()
        except TimeoutError:
            return False
        return True
