"""Keeps the log of events: what `lbctl history --health` and `lbctl agent --replay` read.

The log is a file of the owner's state directory, and the one before it: together they are bounded. Lines are
gathered for a moment and written by the thread that does all work on files. Where they cannot be written,
the agent goes on, and the log goes on with a `start` once there is room again.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

from lbctl.agent.events import intent_line, operator_line, result_line, start_line, step_line
from lbctl.agent.health import Moment
from lbctl.errors import LbctlError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from lbctl.agent.health import Outcome, Target
    from lbctl.agent.monitor import Monitor
    from lbctl.host import Host
    from lbctl.model import Intent, Override

#: Characters of the log from which on it is put aside, and of the lines that wait to be written.
LIMIT, WAITING = 4 << 20, 1 << 20
#: A log is at least so many times as long as the line that it begins with.
_STARTS = 4
#: Seconds that lines are gathered for.
_GATHER = 1.0


class Recorder:
    """Writes down what a monitor learns. All but the writing is done in the loop's thread."""

    def __init__(self, host: Host, owner: str, monitor: Monitor) -> None:
        self._host, self._owner, self._monitor = host, owner, monitor
        self._intent: Intent | None = None
        self._overrides: tuple[Override, ...] = ()
        self._lines: list[str] = []
        self._waiting = 0
        #: Characters that the log has; None if that is not known, e.g. after it could not be written.
        self._length: int | None = None
        self._limit = LIMIT
        #: True if something is missing before the next line.
        self._gap = True
        self._more = asyncio.Event()

    def follow(self, intent: Intent, overrides: tuple[Override, ...]) -> bool:
        """Note the intent and the overrides that are followed; return True where they changed."""
        if self._intent is None:
            self._intent, self._overrides = intent, overrides
            self._more.set()
            return True
        before = self._intent, self._overrides
        if intent is not self._intent:
            self._intent = intent
            self._add(intent_line(intent, self._now()))
        if overrides != self._overrides:
            self._overrides = overrides
            self._add(operator_line(overrides, self._now()))
        return (self._intent, self._overrides) != before

    def stepped(self, known: float) -> None:
        """Note that the kernel now follows what was known at a steady time."""
        self._add(step_line(known, self._now()))

    def learned(self, target: Target, outcome: Outcome, now: Moment) -> None:
        """Note the outcome of a check before the monitor does, if it is news."""
        if self._monitor.is_news(target, outcome):
            self._add(result_line(self._monitor.subjects(target)[0], outcome, now))

    async def run(
        self,
        in_thread: Callable[[Callable[[], object]], Awaitable[object]],
        report: Callable[[str | None], object],
    ) -> None:
        """Write each line when it arrives; `report` is called with what is wrong, or None for nothing."""
        gather = 0.0  # what an agent knows at its start is written down before it changes
        while True:
            await self._more.wait()
            await asyncio.sleep(gather)
            gather = _GATHER
            try:
                # Lines that were taken are written, even if the agent ends while others use the thread.
                await asyncio.shield(in_thread(self.pending()))
            except LbctlError as error:
                report(f"events are not recorded: {error.message}")
            else:
                report(None)

    def pending(self) -> Callable[[], None]:
        """Take the lines that wait; return what writes them, to be called in any thread."""
        self._more.clear()
        lines, self._lines, self._waiting = self._lines, [], 0
        if self._intent is None:
            return lambda: None
        begins = self._gap or self._length is None or self._length > self._limit
        self._gap = False
        if begins:
            # It has all that the lines say.
            return partial(self._begin, self._start(self._intent))
        return partial(self._write, "".join(lines))

    def _begin(self, start: Callable[[], str]) -> None:
        """Write a line for all that is known; making it takes long where there are many endpoints."""
        text = start()
        self._write(text)
        self._limit = max(LIMIT, _STARTS * len(text))

    def _write(self, text: str) -> None:
        length, self._length = self._length, None
        if length is None:
            length = self._mend()
        if length > self._limit:
            self._host.rename(_name(self._owner), _old(self._owner))
            length = 0
        self._host.append(_name(self._owner), text)
        self._length = length + len(text)

    def _mend(self) -> int:
        """Take off a line that was not written to its end; return the length of the log."""
        found = self._host.saved(_name(self._owner)) or ""
        whole = found[: found.rfind("\n") + 1]
        if whole != found:
            self._host.save(_name(self._owner), whole)
        return len(whole)

    def _add(self, line: str) -> None:
        if self._waiting + len(line) > WAITING:
            self._lines, self._waiting, self._gap = [], 0, True
        else:
            self._lines.append(line)
            self._waiting += len(line)
        self._more.set()

    def _start(self, intent: Intent) -> Callable[[], str]:
        """Return what makes the line for all that is known now, in any thread."""
        now = self._now()
        return partial(
            start_line,
            intent,
            self._monitor.serving(),
            now,
            verdicts=self._monitor.latest(now),
            overrides=self._overrides,
            progress=self._monitor.progress(now),
            steps=True,
        )

    def _now(self) -> Moment:
        return Moment(self._host.clock(), self._host.now())


def recorded(host: Host, owner: str) -> Iterator[str]:
    """Yield the lines of an owner's log, oldest first."""
    for name in (_old(owner), _name(owner)):
        yield from (host.saved(name) or "").splitlines(keepends=True)


def _name(owner: str) -> str:
    return f"{owner}.events"


def _old(owner: str) -> str:
    return f"{owner}.events-old"
