"""What the agent does on command: pause, resume, reload."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from lbctl.agent.journal import Priority

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from lbctl.agent.intent_files import IntentFiles
    from lbctl.agent.journal import Journal
    from lbctl.agent.loop import Figures, Follower
    from lbctl.agent.systemd import Notifier
    from lbctl.host import Host

#: Seconds of a pause that names no end, and of the longest one.
_PAUSE, _LONGEST_PAUSE = 600.0, 24 * 3600.0


class Commands:
    """The commands of one agent. All but the work on files is done in the loop's thread."""

    def __init__(
        self,
        host: Host,
        follower: Follower,
        files: IntentFiles,
        *,
        journal: Journal,
        figures: Figures,
        notifier: Notifier,
    ) -> None:
        self._host, self._follower, self._files = host, follower, files
        self._journal, self._figures, self._notifier = journal, figures, notifier

    @property
    def actions(self) -> Mapping[str, Callable[[Mapping[str, object]], Awaitable[Mapping[str, object]]]]:
        """What POST requests to the paths of the unix socket do; each raises `ValueError`."""
        return {"/pause": self._pause, "/resume": self._resume, "/reload": self._reload}

    async def reload(self) -> None:
        """Apply the intent files, if they differ from what was applied last."""
        self._notifier.reloading()
        await self._follower.in_thread(lambda: self._files.compare(apply=True))
        self._follower.wake()
        self._notifier.ready("following")

    async def _pause(self, words: Mapping[str, object]) -> Mapping[str, object]:
        seconds = words.get("seconds", _PAUSE)
        if not isinstance(seconds, int | float) or not 1 <= seconds <= _LONGEST_PAUSE:
            raise ValueError("seconds: between one second and a day")
        self._figures.paused_until = self._host.now() + seconds
        asyncio.get_running_loop().call_later(seconds, self._end_pause, self._figures.paused_until)
        self._journal.say(f"Paused for {seconds:g} s: the kernel is left as it is.", Priority.NOTICE)
        return {"paused_until": self._figures.paused_until}

    def _end_pause(self, until: float) -> None:
        if self._figures.paused_until == until:
            self._figures.paused_until = None
            self._journal.say("The pause is over.", Priority.NOTICE)
            self._follower.wake()

    async def _resume(self, _: Mapping[str, object]) -> Mapping[str, object]:
        if self._figures.paused_until is not None:
            self._end_pause(self._figures.paused_until)
        return {"paused_until": None}

    async def _reload(self, _: Mapping[str, object]) -> Mapping[str, object]:
        await self.reload()
        return {"problems": list(self._figures.problems.values())}
