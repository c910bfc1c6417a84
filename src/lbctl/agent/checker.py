"""Runs the checks that are due, and tells what they change: the part between `Monitor` and real endpoints."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

from lbctl.agent.health import Ending, Moment, Outcome
from lbctl.agent.journal import Priority
from lbctl.documents.agent import CheckedDocument
from lbctl.engine.inspect.checks import HostFacts, is_expected
from lbctl.engine.inspect.failing import all_down
from lbctl.model import Health, time_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping

    from lbctl.agent.health import Subject, Target
    from lbctl.agent.journal import Journal
    from lbctl.agent.monitor import Monitor
    from lbctl.host import Host
    from lbctl.model import Check, Effective, Family, Intent, Verdict, Verdicts

#: Checks that are started at once at most; the rest a moment later.
_BATCH = 512
#: Seconds until it is looked again where nothing is due.
_IDLE = 3600.0
#: Seconds between two starts of checks at least: several at a time cost less than each at its own moment.
_TICK = 0.02
#: Seconds that first passes are collected for which change nothing in the kernel.
_CONFIRM = 1.0


class CheckRunner(Protocol):
    """What carries out checks."""

    def start(self, targets: Iterable[Target], done: Callable[[Target, Outcome], None]) -> None:
        """Begin these checks; `done` is called in the loop's thread for each, in time for its timeout."""

    def watch(self, targets: Iterable[Target], closed: Callable[[Target], None]) -> None:
        """Have `closed` called in the loop's thread when no process listens any more at a local target."""

    def close(self) -> None:
        """End all checks."""


class _Alarm:
    """Waits for a time, or until it is rung before that.

    `asyncio.timeout` around an event cancels and catches each time, at several times the CPU time.
    """

    def __init__(self) -> None:
        #: The steady time until which `wait` waits.
        self.until = 0.0
        self._waiter: asyncio.Future[None] | None = None

    async def wait(self, now: float, seconds: float) -> None:
        """Return after so many seconds from the steady time `now`, or when it is rung."""
        loop = asyncio.get_running_loop()
        self.until = now + seconds
        self._waiter = loop.create_future()
        timer = loop.call_later(seconds, self.ring)
        try:
            await self._waiter
        finally:
            timer.cancel()

    def ring(self) -> None:
        """End the wait, if there is one."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Checker:
    """Keeps the health of all endpoints of the intent that is followed."""

    def __init__(
        self,
        host: Host,
        monitor: Monitor,
        prober: CheckRunner,
        journal: Journal,
        changed: Callable[[], object],
    ) -> None:
        self._host, self._monitor, self._prober, self._journal = host, monitor, prober, journal
        self._changed = changed
        self._alarm = _Alarm()
        self._intent: Intent | None = None
        #: What hears of each outcome before it counts, and of each endpoint whose health changed.
        self.learned: Callable[[Target, Outcome, Moment], object] = lambda *_: None
        self.turned: Callable[[Iterable[tuple[Subject, Verdict]]], object] = lambda _: None
        #: The timer of first passes that change nothing in the kernel; None if none is pending.
        self._confirming: asyncio.TimerHandle | None = None
        #: Endpoints that never passed and are to be reported together.
        self._gathered: dict[tuple[str, Family], list[Subject]] = {}

    async def begin(
        self,
        intent: Intent,
        restored: Mapping[str, Verdicts],
        serving: Collection[Subject],
        in_thread: Callable[[Callable[[], None]], Awaitable[None]],
    ) -> None:
        """Start with an intent, what is known from before, and the endpoints that take connections now.

        Takes a second with 100,000 endpoints, in a thread: the loop goes on with other work.
        """
        await in_thread(lambda: self._monitor.start(intent, self._now(), restored=restored, serving=serving))
        self._intent = intent
        self._arranged()

    def replace(self, intent: Intent) -> None:
        """Go on with another intent; nothing happens where it is the same object, or before `begin`."""
        if self._intent is None or intent is self._intent:
            return
        self._intent = intent
        before = self._monitor.verdicts()
        self._monitor.replace(intent, self._now())
        self._arranged()
        now = self._monitor.verdicts()
        if any(before.get(name) is not own for name, own in now.items()):
            # What is known of these endpoints was not known to the step that brought the intent.
            self._changed()

    async def run(self) -> None:
        """Start checks when they are due; ends only when it is cancelled."""
        while True:
            now = self._now()
            if self._intent is None:
                await self._alarm.wait(now.steady, _IDLE)
                continue
            if self._monitor.steps(now):
                self._changed()
            if due := self._monitor.due(now, _BATCH):
                self._prober.start(due, self._done)
            following = self._monitor.next(now)
            pause = _IDLE if following is None else min(max(following - now.steady, _TICK), _IDLE)
            await self._alarm.wait(now.steady, pause)

    def verdicts(self) -> Mapping[str, Verdicts]:
        """Return the verdicts of now; the same objects where nothing changed."""
        return self._monitor.verdicts()

    def latest(self) -> Mapping[str, Verdicts]:
        """Return the verdicts with the time of the last checks."""
        return self._monitor.latest(self._now())

    def counts(self) -> tuple[int, int]:
        """Return how many endpoints are checked, by service and family, and how many of them fail.

        A family that no client can use is not counted: see `is_expected`.
        """
        if self._intent is None:
            return 0, 0
        found = self._monitor.verdicts()
        facts = HostFacts(host=self._host)
        counted: list[bool] = []
        for service in self._intent.services:
            expected = {family for family in service.families if is_expected(facts, service, family)}
            own = found.get(service.name, {})
            counted += [v.health is Health.DOWN for (_, family), v in own.items() if family in expected]
        return len(counted), sum(counted)

    def documents(self, effective: Effective | None) -> list[CheckedDocument]:
        """Return what is shown of each check."""
        if self._intent is None:
            return []
        latest = self.latest()
        facts = HostFacts(host=self._host)
        found = []
        for service in self._intent.services:
            own = latest.get(service.name)
            if service.check is None or own is None:
                continue
            kind = str(service.check.kind)
            endpoints = {endpoint.name: endpoint for endpoint in service.endpoints}
            for (name, family), verdict in own.items():
                reason = str(effective.reason(service.name, endpoints[name])) if effective else ""
                found.append(
                    CheckedDocument(
                        service=service.name,
                        endpoint=name,
                        family=str(family),
                        kind=kind,
                        health=str(verdict.health),
                        since=time_of(verdict.since),
                        result=verdict.result,
                        seconds=verdict.seconds,
                        reason=reason,
                        expected=is_expected(facts, service, family),
                    )
                )
        return found

    def _arranged(self) -> None:
        self._prober.watch(self._monitor.targets(), self._closed)
        self._alarm.ring()

    def _closed(self, target: Target) -> None:
        """Note that no process listens any more at a local port: a check could find nothing else."""
        outcome = Outcome(ending=Ending.FAILED, text="nothing listens there any more", final=True)
        self._done(target, outcome)

    def _done(self, target: Target, outcome: Outcome) -> None:
        now = self._now()
        before = self._monitor.health(target)
        served = before is Health.UNKNOWN and self._monitor.serves(target)
        self.learned(target, outcome, now)
        changed = self._monitor.record(target, outcome, now)
        following = self._monitor.next(now)
        if following is not None and following < self._alarm.until:
            self._alarm.ring()
        if not changed:
            return
        for subject in changed:
            if before is Health.UNKNOWN and self._monitor.health(target) is Health.DOWN:
                self._gather(subject, target.check)
            else:
                self._report(subject)
        if served and self._monitor.health(target) is Health.UP:
            self._confirm()
        else:
            self._changed()
        self.turned([(subject, self._monitor.verdicts_of(subject[0])[subject[1:]]) for subject in changed])

    def _confirm(self) -> None:
        """Report first passes within a second: they change nothing in the kernel, and there may be many."""
        if self._confirming is None:
            self._confirming = asyncio.get_running_loop().call_later(_CONFIRM, self._confirmed)

    def _confirmed(self) -> None:
        self._confirming = None
        self._changed()

    def _gather(self, subject: Subject, check: Check) -> None:
        """Report an endpoint that never passed, together with others of its service and family."""
        service, _, family = subject
        if (service, family) not in self._gathered:
            self._gathered[service, family] = []
            pause = (check.fall * check.fast_interval + check.timeout) / 1000
            asyncio.get_running_loop().call_later(pause, self._report_gathered, service, family)
        self._gathered[service, family].append(subject)

    def _report_gathered(self, name: str, family: Family) -> None:
        gathered = self._gathered.pop((name, family))
        every = [each for (_, of), each in self._monitor.verdicts_of(name).items() if of is family]
        services = self._intent.services if self._intent else ()
        service = next((each for each in services if each.name == name), None)
        if service is None or not every:
            return
        if any(each.health is not Health.DOWN for each in every):
            for subject in gathered:
                self._report(subject)
        elif is_expected(HostFacts(host=self._host), service, family):
            text = f"{name} ({family}): {all_down(each.result for each in every)}"
            self._journal.say(text, Priority.WARNING, service=name, family=family, health=Health.DOWN)

    def _report(self, subject: Subject) -> None:
        service, endpoint, family = subject
        verdict = self._monitor.verdicts_of(service).get((endpoint, family))
        if verdict is None:
            return
        priority = Priority.WARNING if verdict.health is Health.DOWN else Priority.NOTICE
        times = f" \N{MULTIPLICATION SIGN}{verdict.count}" if verdict.count > 1 else ""
        self._journal.say(
            f"{service}/{endpoint} ({family}) is {verdict.health}: {verdict.result}{times}",
            priority,
            service=service,
            endpoint=endpoint,
            family=family,
            health=verdict.health,
        )

    def _now(self) -> Moment:
        return Moment(self._host.clock(), self._host.now())
