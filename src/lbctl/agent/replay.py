"""What a log of events leads to: the same pure core as the agent's, without a network or a clock.

A step of the agent collects what is found within a moment: what came and went meanwhile was never in the
kernel, and is no change of shares.
"""

from __future__ import annotations

from dataclasses import field
from random import Random
from typing import TYPE_CHECKING, Any

from lbctl.agent.events import progress_of, read_line, subject_of
from lbctl.agent.health import Ending, Moment, Outcome
from lbctl.agent.monitor import Monitor
from lbctl.config import loads
from lbctl.engine.record import verdicts
from lbctl.errors import Damaged, IntentError
from lbctl.model import Facts, Override, Shift, effective, time_of
from lbctl.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from lbctl.model import Effective, Intent, Place, Verdicts


def replay(lines: Iterable[str]) -> Iterator[Shift]:
    """Yield each change of shares that a log leads to; raises `IntentError` for a line of something else."""
    course = _Course()
    for number, line in enumerate(lines, 1):
        try:
            yield from course.take(line)
        except (Damaged, ValueError) as error:
            message = error.message if isinstance(error, Damaged) else str(error)
            raise IntentError(f"line {number} of the log: {message}", hint="see lbctl.agent.events") from None
    yield from course.end()


@dataclass(slots=True)
class _Course:
    """What the log led to so far."""

    monitor: Monitor = field(default_factory=lambda: Monitor(Random(0)))  # noqa: S311 (no check is started)
    intent: Intent | None = None
    overrides: Mapping[Place, Override] = field(default_factory=dict)
    effective: Effective | None = None
    now: Moment = field(default_factory=lambda: Moment(0.0, 0.0))
    #: Whether the log has the steps of its agent.
    steps: bool = False
    #: The verdicts that were known from a steady time on, those of the last step and all since.
    known: list[tuple[float, Mapping[str, Verdicts]]] = field(default_factory=list)

    def take(self, line: str) -> Iterator[Shift]:
        """Yield the changes that an event shows, and those before it."""
        event = read_line(line)
        now = Moment(event["at"], event["time"])
        time_of(now.wall)
        if event["event"] == "start":
            yield from self.end()
            self.now = now
            self._start(event)
            if self.steps:
                yield from self._shifts()
            return
        if self.intent is None:
            raise ValueError("an event before the first start")
        if now.steady < self.now.steady:
            raise ValueError("earlier than the line before")
        if now.steady > self.now.steady:
            yield from self.end()
            yield from self._ramp(now)
        self.now = now
        if event["event"] == "step":
            self._forget_before(event["known"])
            yield from self._shifts()
        else:
            self._follow(event)
            self._note()

    def end(self) -> Iterator[Shift]:
        """Yield what the last events led to where the log has no steps: the kernel followed at once."""
        if not self.steps:
            yield from self._shifts()

    def _start(self, event: Mapping[str, Any]) -> None:
        self.monitor = Monitor(Random(0))  # noqa: S311 (no check is started)
        self.intent = loads(event["intent"])
        self.overrides = _overrides(event)
        self.monitor.start(
            self.intent,
            self.now,
            restored=verdicts.of_rows(event["verdicts"]),
            serving=set(map(subject_of, event["serving"])),
            progress=progress_of(event["progress"]),
        )
        self.steps = event["steps"]
        self.known = [(self.now.steady, self.monitor.verdicts())]

    def _follow(self, event: Mapping[str, Any]) -> None:
        match event["event"]:
            case "intent":
                self.intent = loads(event["intent"])
                self.monitor.replace(self.intent, self.now)
            case "operator":
                self.overrides = _overrides(event)
            case _:
                self._result(event)

    def _result(self, event: Mapping[str, Any]) -> None:
        target = self.monitor.target(subject_of(event["endpoint"]))
        if target is None:
            raise ValueError(f"a result of {'/'.join(event['endpoint'])}, which is not checked")
        outcome = Outcome(
            ending=Ending(event["ending"]),
            text=event["text"],
            seconds=event["seconds"],
            final=event["final"],
        )
        self.monitor.record(target, outcome, self.now)

    def _ramp(self, until: Moment) -> Iterator[Shift]:
        """Go on with slow starts up to a moment; yield what they change where the log has no steps."""
        while (following := self.monitor.next_step(self.now)) is not None and following <= until.steady:
            self.now = Moment(following, self.now.wall + following - self.now.steady)
            self.monitor.steps(self.now)
            self._note()
            yield from self.end()

    def _note(self) -> None:
        """Note what is known from now on."""
        now = self.now.steady, self.monitor.verdicts()
        if self.steps:
            self.known.append(now)
        else:
            self.known = [now]

    def _forget_before(self, known: float) -> None:
        """Forget what was known before the verdicts that were known at a steady time."""
        old = sum(1 for at, _ in self.known if at <= known)
        del self.known[: max(old - 1, 0)]

    def _shifts(self) -> Iterator[Shift]:
        """Yield what changed since this was asked last."""
        if self.intent is None:
            return
        before = self.effective
        facts = Facts(overrides=self.overrides, verdicts=self.known[0][1], live=True)
        found = effective(self.intent, facts, before)
        self.effective = found
        old = {service.name: service for service in before.intent.services} if before else {}
        for service in found.intent.services:
            was = old.get(service.name)
            if was is service:
                continue
            for family in service.families:
                shares = service.shares(family)
                earlier = was.shares(family) if was else {}
                if shares == earlier:
                    continue
                reasons = {
                    e.to: str(found.reason(service.name, e).of(family))
                    for e in service.endpoints
                    if e.to in shares and shares[e.to] != earlier.get(e.to)
                }
                yield Shift(
                    time=self.now.wall,
                    service=service.name,
                    family=family,
                    before=earlier,
                    after=shares,
                    reasons=reasons,
                )


def _overrides(event: Mapping[str, Any]) -> dict[Place, Override]:
    found = (Override(**row) for row in event["overrides"])
    return {each.place: each for each in found}
