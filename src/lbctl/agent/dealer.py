"""Deals slots again by established connections: counts them every second, and hands on what follows."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

from lbctl.engine.change.dealing import deal_again, measure
from lbctl.engine.change.needs import dealt_services
from lbctl.engine.record import deals
from lbctl.errors import LbctlError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lbctl.agent.loop import Follower
    from lbctl.engine.change.dealing import Measured
    from lbctl.engine.change.keep import FollowedState, Keeper, Kept
    from lbctl.host import Host
    from lbctl.model import Deal, Service

#: Seconds between two counts, at least, and the part of the time that counting may take: 100,000 connections
#: take a quarter of a second.
PERIOD, _PART = 1.0, 0.1


class Dealer:
    """Has services with the scheduler least-connections follow what is established."""

    def __init__(self, host: Host, owner: str, keeper: Keeper, follower: Follower) -> None:
        self._host, self._owner, self._keeper, self._follower = host, owner, keeper, follower
        self._services: tuple[Service, ...] = ()
        self._changed = asyncio.Event()
        self._before: Measured | None = None
        #: What was dealt last.
        self.dealt: Mapping[str, frozenset[Deal]] = {}

    def after(self, kept: Kept) -> None:
        """Go on with the services that a step carried out."""
        effective = kept.plan.effective if kept.plan is not None else None
        self._services = dealt_services(effective.intent) if effective is not None else ()
        if self._services:
            self._changed.set()

    def begin(self) -> None:
        """Begin with the deals on record. In the thread of the agent's work."""
        self.dealt = deals.read(self._host, self._owner)

    def write(self, followed: FollowedState) -> None:
        """Have the next step, and other commands, find the deals. In the thread of the agent's work."""
        memory = followed.session.memory.dealt
        if memory.get(self._owner) != self.dealt:
            memory[self._owner] = self.dealt
            deals.write(self._host, self._owner, self.dealt)

    async def run(self) -> None:
        """Count and deal; ends only when it is cancelled."""
        period = PERIOD
        while True:
            while not self._services:
                self._changed.clear()
                self._before = None
                await self._changed.wait()
            await asyncio.sleep(period)
            began = self._host.clock()
            try:
                dealt = await self._follower.in_thread(partial(self._deal, period))
            except LbctlError as error:
                self._follower.trouble("deal", f"connections cannot be counted: {error.message}")
                continue
            if dealt is None:
                self._follower.trouble("deal", "connections cannot be counted: the kernel does not list them")
                continue
            self._follower.trouble("deal", None)
            period = max(PERIOD, (self._host.clock() - began) / _PART)
            if dealt != self.dealt:
                self.dealt = dealt
                self._follower.wake()

    def _deal(self, period: float) -> Mapping[str, frozenset[Deal]] | None:
        """Return the deals of now; None if connections cannot be counted."""
        followed, services = self._keeper.followed(), self._services
        if followed is None:
            return self.dealt
        now = measure(followed.session, self._owner, services)
        if now is None:
            return None
        before, self._before = self._before, now
        return deal_again(services, before, now, period)
