"""The agent's loop: facts arrive, and the kernel follows them. It is the only part that acts.

One task runs checks, one looks for what changed outside (the history, overrides, the kernel's rules, the
intent file), and one carries out: the first fact after a quiet moment at once, those behind it together,
at most `_GATHER` seconds later. All that touches the kernel or a file runs in one thread of its own, one
thing after the other, so that neither checks nor pages wait for it.

What it does not know changes nothing: no state on record, a record that cannot be read, a lock that another
command holds, all leave the kernel as it is until that is over.
"""

from __future__ import annotations

import asyncio
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import field
from typing import TYPE_CHECKING, TypeVar

from lbctl.agent.journal import Priority
from lbctl.errors import LbctlError, Stale
from lbctl.host import rule_reports
from lbctl.model import brief
from lbctl.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from fractions import Fraction

    from lbctl.agent.journal import Journal
    from lbctl.engine.change.keep import Keeper, Kept
    from lbctl.host import Host
    from lbctl.model import ServiceChange

T = TypeVar("T")

#: Places of problems that may keep the rules from being in place: not a file that differs, for instance.
_IN_DOUBT = frozenset({"apply", "look", "fight"})

#: Seconds that facts are collected for behind a change.
_GATHER = 0.1
#: Seconds between two looks at what changed outside, at most; and from a report of the kernel to the look,
#: since programs change several tables, one after the other.
_LOOK, _SETTLE = 2.0, 0.1
#: Where the kernel has no mark of its rules, they are read: at most so often, and for this part of the time.
_READ, _READ_PART = 2.0, 0.005
#: The same where it says that rules have changed, of whatever table, and for a while after a repair.
_REREAD_PART = 0.05
#: Seconds that a change waits for another command that holds the lock, before it comes back later.
_PATIENCE = 1.0
#: Seconds before something that failed is tried again: the first time, and at most.
_AGAIN, _AGAIN_MOST = 1.0, 60.0
#: Seconds within which so many repairs mean another writer, and the longest pause before the next repair.
_WINDOW, _FIGHT, _TRUCE = 120.0, 5, 300.0
#: Seconds within which repairs count as one: a reload of a firewall may take several transactions.
_ONE = 1.0


@dataclass(slots=True)
class Figures:
    """What the agent has done since it started; shown, and never decided by."""

    applies: int = 0
    repairs: int = 0
    failures: int = 0
    seconds: float | None = None
    paused_until: float | None = None
    #: What is wrong now, in words, by where it was found.
    problems: dict[str, str] = field(default_factory=dict)
    #: What a person should know and is not wrong, e.g. that the intent file differs.
    notice: str | None = None

    @property
    def rules_in_doubt(self) -> bool:
        """True if what is wrong may keep the rules from being in place and followed."""
        return not _IN_DOUBT.isdisjoint(self.problems)


class Truce:
    """When a repair may follow the last ones: another program that undoes ours is not fought."""

    def __init__(self) -> None:
        self._repairs: deque[float] = deque(maxlen=_FIGHT)
        self.pause = _AGAIN
        self.until = 0.0

    def repaired(self, now: float) -> bool:
        """Note a repair; True if it was one too many within a short time, so that none is due until `until`.

        Each further one doubles the pause, until there was none for a while after the last pause.
        """
        if self._repairs and now - self._repairs[-1] < _ONE:
            return False
        if self._repairs and now - self._repairs[-1] > self.pause + _WINDOW:
            self._repairs.clear()
            self.pause = _AGAIN
        self._repairs.append(now)
        fought = self.pause > _AGAIN
        if not fought and (len(self._repairs) < _FIGHT or now - self._repairs[0] > _WINDOW):
            return False
        self.pause = min(self.pause * 2, _TRUCE)
        self.until = now + self.pause
        return True


class Follower:
    """Has the kernel follow the last applied intent and the facts on record; see `Keeper`."""

    def __init__(self, host: Host, keeper: Keeper, journal: Journal, figures: Figures) -> None:
        self._host, self._keeper, self._journal, self._figures = host, keeper, journal, figures
        self._wake = asyncio.Event()
        self._truce = Truce()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="kernel")
        #: Called before each step; what it returns is then called in the thread, e.g. to write facts down.
        self.before: Callable[[], Awaitable[Callable[[], object]]] = _nothing_before
        #: What is done once the kernel follows, e.g. checking the endpoints of another intent.
        self.after: Callable[[Kept], object] = lambda _: None
        #: What else is looked at from time to time; what it returns tells one state of it from another.
        self.looks: Callable[[], object] = lambda: None
        self.last: Kept | None = None
        #: Seconds that the last step took that found nothing to change: it read the rules.
        self._reading = 0.0
        #: The steady time of the last repair.
        self._repaired = -_WINDOW

    async def in_thread(self, work: Callable[[], T]) -> T:
        """Return what `work` returns, run where all of the agent's work on files and the kernel runs."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def is_ready(self) -> bool | None:
        """Return True if the rules are in place and followed; None until that is known.

        This is about this host alone: whether endpoints are well is another question.
        """
        if self._figures.rules_in_doubt:
            return False
        return None if self.last is None else True

    def wake(self) -> None:
        """There is a new fact."""
        self._wake.set()

    async def follow(self) -> None:
        """Carry out facts as they arrive; ends only when it is cancelled."""
        again = _AGAIN
        while True:
            await self._wake.wait()
            self._wake.clear()
            if self._figures.paused_until is not None:
                continue
            if await self._step():
                again = _AGAIN
                await asyncio.sleep(_GATHER)
            else:
                await asyncio.sleep(again)
                again = min(again * 2, _AGAIN_MOST)
                self._wake.set()

    async def _step(self) -> bool:
        """Carry out once; False where it failed."""
        try:
            prepare = await self.before()
            kept = await self.in_thread(lambda: self._carry_out(prepare))
        except Stale as stale:
            # Another command is at work, or was interrupted: the next one looks again.
            self.trouble("busy", f"waiting: {stale.message}", Priority.INFO)
            return False
        except LbctlError as error:
            self._figures.failures += 1
            self.trouble("apply", error.message, Priority.ERROR)
            return False
        for place in ("busy", "apply"):
            self._figures.problems.pop(place, None)
        self.last = kept
        if not kept.changed:
            self._reading = kept.seconds
        self._report(kept)
        self.after(kept)
        return True

    def _carry_out(self, prepare: Callable[[], object]) -> Kept:
        prepare()
        return self._keeper.keep(patience=_PATIENCE)

    def _report(self, kept: Kept) -> None:
        if kept.plan is None or not kept.changed:
            return
        self._figures.applies += 1
        self._figures.seconds = kept.seconds
        for change in kept.plan.services:
            self._journal.say(_sentence(change), Priority.NOTICE, service=change.name)
        for note in kept.notes:
            self._journal.say(note)
        if not kept.repaired:
            return
        self._figures.repairs += 1
        self._repaired = self._host.clock()
        self._journal.say(
            "Another program changed lbctl's rules in the kernel; they are repaired.", Priority.WARNING
        )
        if self._truce.repaired(self._host.clock()):
            pause = f"{self._truce.pause:.0f} s"
            text = f"another program keeps changing lbctl's rules: the next repair is in {pause}"
            self.trouble("fight", text, Priority.ERROR)

    def trouble(self, place: str, text: str | None, priority: Priority = Priority.WARNING) -> None:
        """Show what is wrong at a place, and log it once; None where nothing is."""
        if text is None:
            self._figures.problems.pop(place, None)
            return
        if self._figures.problems.get(place) != text:
            self._figures.problems[place] = text
            self._journal.say(text, priority)

    async def look(self) -> None:
        """Look for rules and records that changed outside; ends only when it is cancelled.

        The kernel reports transactions of nf_tables. What it does not report is found a moment later.
        """
        loop, reports = asyncio.get_running_loop(), rule_reports(self._host)
        reported = asyncio.Event()
        if reports is None:
            return await self._look(reported)

        def read() -> None:
            reports.read()  # what they say does not matter
            reported.set()

        loop.add_reader(reports.fileno(), read)
        try:
            await self._look(reported)
        finally:
            loop.remove_reader(reports.fileno())
            reports.close()

    async def _look(self, reported: asyncio.Event) -> None:
        """Look from time to time, and soon after the kernel reported a transaction."""
        seen: object = None
        read_last, pause = -_READ, _LOOK
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await reported.wait()
                    await asyncio.sleep(_SETTLE)
            reported.clear()
            now = self._host.clock()
            truce = now < self._truce.until
            if not truce:
                self._figures.problems.pop("fight", None)
            try:
                found, untouched = await self.in_thread(self._outside)
            except LbctlError as error:
                self.trouble("look", error.message, Priority.ERROR)
                await asyncio.sleep(_LOOK)
                continue
            self._figures.problems.pop("look", None)
            changed = not untouched and not truce
            read_next = read_last + self._rest(untouched)
            if found != seen or (changed and now >= read_next):
                seen, changed, read_last = found, False, now
                self.wake()
            pause = min(read_next - now, _LOOK) if changed else _LOOK

    def _rest(self, untouched: bool | None) -> float:
        """Return the seconds between two readings of the rules, by what the last one took."""
        if untouched is not None:
            return self._reading / _REREAD_PART
        # Who changed them from outside may not be done.
        again = self._host.clock() - self._repaired < _WINDOW
        return max(_READ, self._reading / (_REREAD_PART if again else _READ_PART))

    def _outside(self) -> tuple[object, bool | None]:
        """What tells one state of the records from another, and whether the kernel's rules are untouched."""
        return (self._keeper.records(), self.looks()), self._keeper.is_untouched()

    def close(self) -> None:
        """Wait for what is being carried out: nothing is left half done."""
        self._thread.shutdown(wait=True)


async def _nothing_before() -> Callable[[], object]:
    return lambda: None


def _sentence(change: ServiceChange) -> str:
    """`web: 8001 1/3 -> 1/2, 8002 1/3 -> 0`, with the family of a change that is not that of all."""
    parts = []
    for endpoint in change.endpoints:
        sides = {family: endpoint.in_family(family) for family in endpoint.families}
        alike = len(set(sides.values())) == 1
        for family, (old, new) in list(sides.items())[: 1 if alike else None]:
            if old != new:
                where = "" if alike else f" ({family})"
                parts.append(f"{endpoint.to}{where} {_share(old)} -> {_share(new)}")
    return f"{change.name}: {', '.join(parts) or change.action}"


def _share(share: Fraction | None) -> str:
    return "unknown" if share is None else brief(share)
