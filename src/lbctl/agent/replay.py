"""Logs of what an agent learned, and what they lead to: the same pure core, without a network or a clock.

A log is JSON, one object a line, in the order of time. `at` is a time that never jumps, `time` is seconds
since 1970, both of the same moment:

    {"event": "intent", "at": 0.0, "time": 1.7e9, "intent": "schema = 1 …", "serving": [["web", "8001",
    "ipv4"]]} {"event": "result", "at": 1.2, "time": …, "endpoint": ["web", "8001", "ipv4"], "ending":
    "failed",
     "text": "connection refused", "seconds": 0.001, "final": false}

The first event is an intent; `serving` are the endpoints that took connections then. A result is named by
one of the endpoints that share the check.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any

from lbctl.agent.health import Ending, Moment, Monitor, Outcome
from lbctl.config import dump, loads
from lbctl.errors import Damaged, IntentError
from lbctl.model import Effective, Facts, Family, Intent, effective, read_record

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping
    from fractions import Fraction

    from lbctl.agent.health import Subject
    from lbctl.model import Shape

_SUBJECT: Shape = (str, str, str)
_TIMES: dict[str, Shape] = {"event": str, "at": float, "time": float}
_SHAPES: Mapping[str, Shape] = {
    "intent": {**_TIMES, "intent": str, "serving": [_SUBJECT]},
    "result": {
        **_TIMES,
        "endpoint": _SUBJECT,
        "ending": str,
        "text": str,
        "seconds": float,
        "final": bool,
    },
}


def intent_line(intent: Intent, serving: Collection[Subject], now: Moment) -> str:
    """Return the line of a log for an intent that is followed from now on."""
    return _line("intent", now, intent=dump(intent), serving=sorted(map(list, serving)))


def result_line(subject: Subject, outcome: Outcome, now: Moment) -> str:
    """Return the line of a log for the outcome of a check."""
    return _line(
        "result",
        now,
        endpoint=list(subject),
        ending=outcome.ending,
        text=outcome.text,
        seconds=outcome.seconds,
        final=outcome.final,
    )


def _line(event: str, now: Moment, **more: object) -> str:
    return json.dumps({"event": event, "at": now.steady, "time": now.wall, **more}) + "\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shift:
    """A change of what the endpoints of a service get in a family: `Endpoint.to` → exact share."""

    #: Seconds since 1970 (UTC).
    time: float
    service: str
    family: Family
    before: Mapping[str, Fraction]
    after: Mapping[str, Fraction]
    #: `Endpoint.to` → why it gets what it gets, of those whose share changed.
    reasons: Mapping[str, str]


def replay(lines: Iterable[str]) -> Iterator[Shift]:
    """Yield each change of shares that a log leads to; raises `IntentError` for a line of something else."""
    course = _Course()
    for number, line in enumerate(lines, 1):
        try:
            yield from course.take(line)
        except (Damaged, ValueError) as error:
            message = error.message if isinstance(error, Damaged) else str(error)
            raise IntentError(f"line {number} of the log: {message}", hint="see lbctl.agent.replay") from None


@dataclass(slots=True)
class _Course:
    """What the log led to so far."""

    monitor: Monitor = field(default_factory=lambda: Monitor(Random(0)))  # noqa: S311 (no check is started)
    intent: Intent | None = None
    effective: Effective | None = None
    now: Moment = field(default_factory=lambda: Moment(0.0, 0.0))

    def take(self, line: str) -> Iterator[Shift]:
        """Yield the changes up to an event, and those of the event."""
        event = _read(line)
        now = Moment(event["at"], event["time"])
        if self.intent is not None:
            if now.steady < self.now.steady:
                raise ValueError("earlier than the line before")
            yield from self._steps(now)
        self.now = now
        match event["event"]:
            case "intent":
                self._follow(loads(event["intent"]), {_subject(each) for each in event["serving"]})
            case _:
                self._result(event)
        yield from self._shifts()

    def _follow(self, intent: Intent, serving: Collection[Subject]) -> None:
        if self.intent is None:
            self.monitor.start(intent, self.now, restored={}, serving=serving)
        else:
            self.monitor.replace(intent, self.now)
        self.intent = intent

    def _result(self, event: Mapping[str, Any]) -> None:
        if self.intent is None:
            raise ValueError("a result before the first intent")
        target = self.monitor.target(_subject(event["endpoint"]))
        if target is None:
            raise ValueError(f"a result of {'/'.join(event['endpoint'])}, which is not checked")
        outcome = Outcome(
            ending=Ending(event["ending"]),
            text=event["text"],
            seconds=event["seconds"],
            final=event["final"],
        )
        self.monitor.record(target, outcome, self.now)

    def _steps(self, until: Moment) -> Iterator[Shift]:
        """Yield what slow starts change before a moment."""
        while (following := self.monitor.next_step(self.now)) is not None and following <= until.steady:
            self.now = Moment(following, self.now.wall + following - self.now.steady)
            self.monitor.steps(self.now)
            yield from self._shifts()

    def _shifts(self) -> Iterator[Shift]:
        if self.intent is None:
            return
        before = self.effective
        found = effective(self.intent, Facts(verdicts=self.monitor.verdicts()), before)
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
                    e.to: str(found.reason(service.name, e))
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


def _read(line: str) -> dict[str, Any]:
    try:
        kind = json.loads(line)["event"]
        shape = _SHAPES[kind]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ValueError("not an event") from None
    event: dict[str, Any] = read_record(line, shape)
    return event


def _subject(names: list[str]) -> Subject:
    service, endpoint, family = names
    return service, endpoint, Family(family)
