"""What results of checks mean: a pure state machine, without clock, socket or randomness of its own.

`Monitor` says which checks are due, takes their outcomes, and gives verdicts. Each check that several
services share is one `Target` and is run once. An endpoint falls after `fall` failures in a row and rises
after `rise` passes in a row; the first pass of one that was never checked counts at once. One that fails
again soon after it returned stays out longer each time.

Times are given as `Moment`: `steady` never jumps and orders everything; `wall` is only written into verdicts.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from enum import StrEnum
from fractions import Fraction
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from lbctl.model import MAX_RESULT, Check, ExecProbe, Family, Health, Initial, Verdict, inert

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping
    from random import Random

    from lbctl.model import Address, Endpoint, Intent, Service, Verdicts

#: The name of a service, `Endpoint.name`, and the family.
Subject: TypeAlias = tuple[str, str, Family]

#: Steps of a slow start, and the part of its weight that an endpoint has in each.
STEPS = 8
_PARTS = tuple(Fraction(step, STEPS) for step in range(STEPS + 1))
#: Part of an interval by which a check may start early, so that checks do not stay in step.
JITTER = 0.1
#: First checks in a second, where many start at once.
_PER_SECOND = 1000
#: Seconds an endpoint must stay up after it returned, or it counts as flapping; and the longest hold.
_STABLE, _MAX_HOLD = 60.0, 300.0
_MAX_FLAPS = 16


class Moment(NamedTuple):
    """A point in time, in seconds: of a clock that never jumps, and since 1970 (UTC)."""

    steady: float
    wall: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What is checked, and how.

    `address` is None for a process on this host. `subject` is set for programs alone: they are told for
    whom they check.
    """

    family: Family
    address: Address | None
    port: int | None
    check: Check
    subject: Subject | None = None

    def __hash__(self) -> int:
        # Few targets differ in their check alone, and hashing that takes longer than all else.
        return hash((self.family, self.port, 0 if self.address is None else int(self.address)))


class Ending(StrEnum):
    """What a check found. `undecided` is for one that could not be made, e.g. without a free descriptor."""

    PASSED = "passed"
    FAILED = "failed"
    UNDECIDED = "undecided"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a check ended.

    `text` says it in a few words that are the same each time. `final` is for what needs no repetition, such
    as a listening socket that was closed.
    """

    ending: Ending
    text: str
    seconds: float = 0.0
    final: bool = False

    def __post_init__(self) -> None:
        text = inert(self.text)
        object.__setattr__(self, "text", text if len(text) <= MAX_RESULT else text[: MAX_RESULT - 3] + "...")


@dataclass(slots=True)
class _State:
    """What is known of one target. Steady times, but for `since` and `checked`."""

    health: Health
    since: float
    subjects: set[Subject] = field(default_factory=set)
    result: str = ""
    count: int = 0
    checked: float | None = None
    seconds: float | None = None
    passes: int = 0
    failures: int = 0
    #: When it returned last, and how often it failed again soon after it returned.
    returned: float | None = None
    flaps: int = 0
    hold: float = 0.0
    held_until: float = 0.0
    due: float = 0.0
    running: bool = False


@dataclass(slots=True)
class _Standing:
    """What is known of an endpoint of one service beyond its target."""

    target: Target
    serving: bool
    slow_start: float
    #: When its slow start began; None where it has its whole weight.
    ramp: float | None = None


class Monitor:
    """The health of all endpoints of an intent that are checked."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._states: dict[Target, _State] = {}
        self._standings: dict[Subject, _Standing] = {}
        self._ramping: set[Subject] = set()
        self._queue: list[tuple[float, int, Target]] = []
        self._number = 0
        self._verdicts: dict[str, dict[tuple[str, Family], Verdict]] = {}

    def start(
        self,
        intent: Intent,
        now: Moment,
        *,
        restored: Mapping[str, Verdicts],
        serving: Collection[Subject],
    ) -> None:
        """Begin with an intent, what was known before, and the endpoints that take connections now.

        Verdicts of an earlier start of the host are not to be among `restored`.
        """
        for subject, verdict in _flat(restored):
            self._verdicts.setdefault(subject[0], {})[subject[1:]] = verdict
        known = {subject for subject, verdict in _flat(restored) if verdict.health is not Health.UNKNOWN}
        self._arrange(intent, now, set(serving) | known)

    def replace(self, intent: Intent, now: Moment) -> None:
        """Go on with another intent: what is known of endpoints that stay is kept."""
        self._arrange(intent, now, set())

    def due(self, now: Moment, limit: int | None = None) -> tuple[Target, ...]:
        """Return the targets to be checked now, at most `limit`; each is marked as running until `record`."""
        found: list[Target] = []
        while self._queue and self._queue[0][0] <= now.steady and (limit is None or len(found) < limit):
            due, _, target = heapq.heappop(self._queue)
            state = self._states.get(target)
            if state is None or state.running or state.due != due:
                continue
            state.running = True
            state.due = now.steady
            found.append(target)
        return tuple(found)

    def next(self, now: Moment) -> float | None:
        """Return the steady time at which a check is due or a slow start goes on; None for never."""
        while self._queue:
            due, _, target = self._queue[0]
            state = self._states.get(target)
            if state is not None and not state.running and state.due == due:
                break
            heapq.heappop(self._queue)
        step = self.next_step(now)
        if not self._queue:
            return step
        due = self._queue[0][0]
        return due if step is None else min(due, step)

    def next_step(self, now: Moment) -> float | None:
        """Return the steady time at which a slow start goes on; None for never."""
        if not self._ramping:
            return None
        standings = [self._standings[subject] for subject in self._ramping]
        return min(
            [
                standing.ramp + standing.slow_start * (_step(standing, now) + 1) / STEPS
                for standing in standings
                if standing.ramp is not None
            ],
            default=None,
        )

    def record(self, target: Target, outcome: Outcome, now: Moment) -> tuple[Subject, ...]:
        """Note how a check ended; return whose verdict changed what they get. Unknown targets are ignored."""
        state = self._states.get(target)
        if state is None:
            return ()
        started = state.due if state.running else now.steady
        state.running = False
        state.checked, state.seconds = now.wall, outcome.seconds
        same = state.result == outcome.text
        state.count = state.count + 1 if same else 1
        state.result = outcome.text
        match outcome.ending:
            case Ending.PASSED:
                state.passes, state.failures = state.passes + 1, 0
            case Ending.FAILED:
                state.passes, state.failures = 0, state.failures + 1
            case Ending.UNDECIDED:
                pass
        before = state.health
        state.health = _judged(target.check, state, outcome, now)
        if state.health is not before:
            self._change(target, state, before, now)
        self._enqueue(target, max(now.steady, started + self._pause(target.check, state)))
        if not same or state.health is not before or state.passes == target.check.rise:
            self._publish(state.subjects, now)
        return tuple(sorted(state.subjects)) if state.health is not before else ()

    def listening(self, family: Family, port: int) -> tuple[Target, ...]:
        """Return the targets that are checked at a port of this host."""
        return tuple(
            target
            for target in self._states
            if target.address is None and target.family is family and target.port == port
        )

    def steps(self, now: Moment) -> tuple[Subject, ...]:
        """Go on with slow starts; return whose part changed."""
        changed: list[Subject] = []
        for subject in sorted(self._ramping):
            standing = self._standings[subject]
            before = self._verdicts[subject[0]][subject[1:]].part
            if _step(standing, now) >= STEPS:
                standing.ramp = None
                self._ramping.discard(subject)
            if _part(standing, now) != before:
                changed.append(subject)
        self._publish(changed, now)
        return tuple(changed)

    def verdicts(self) -> Mapping[str, Verdicts]:
        """Return all verdicts, by service.

        These are the same objects as before where nothing but the time and number of checks changed; see
        `latest`.
        """
        return dict(self._verdicts)

    def verdicts_of(self, service: str) -> Verdicts:
        """Return the verdicts of one service, at no cost for the others; {} for one that is not checked."""
        return self._verdicts.get(service, {})

    def latest(self, now: Moment) -> Mapping[str, Verdicts]:
        """Return all verdicts with the time and number of the last checks, e.g. to be shown or kept."""
        found: dict[str, dict[tuple[str, Family], Verdict]] = {}
        for subject in self._standings:
            found.setdefault(subject[0], {})[subject[1:]] = self._verdict(subject, now)
        return found

    def health(self, target: Target) -> Health:
        """Return what is known of a target; unknown for one that is not checked."""
        state = self._states.get(target)
        return state.health if state else Health.UNKNOWN

    def target(self, subject: Subject) -> Target | None:
        """Return what is checked for an endpoint; None where it is not checked."""
        standing = self._standings.get(subject)
        return standing.target if standing else None

    def subjects(self, target: Target) -> tuple[Subject, ...]:
        """Return the endpoints that a target is checked for; () for an unknown one."""
        state = self._states.get(target)
        return tuple(sorted(state.subjects)) if state is not None else ()

    def serving(self) -> tuple[Subject, ...]:
        """Return the endpoints that take connections unless they fail."""
        return tuple(subject for subject, standing in self._standings.items() if standing.serving)

    def is_news(self, target: Target, outcome: Outcome) -> bool:
        """Return True if an outcome, not recorded yet, can change a health, be it with those behind it.

        A pass of a target that is up, and a failure of one that is down, change nothing where the last result
        was the same.
        """
        state = self._states.get(target)
        if state is None:
            return False
        if outcome.text != state.result:
            return True
        match outcome.ending:
            case Ending.UNDECIDED:
                return False
            case Ending.PASSED:
                return state.health is not Health.UP or state.failures > 0
            case Ending.FAILED:
                return state.health is not Health.DOWN or state.passes > 0

    def targets(self) -> Collection[Target]:
        """Return all targets."""
        return self._states.keys()

    def _arrange(self, intent: Intent, now: Moment, serving: Collection[Subject]) -> None:
        """Have exactly the targets of an intent. `serving` take connections now, as far as is known."""
        old, self._standings = self._standings, {}
        self._ramping = set()
        states, self._states = self._states, {}
        remembered, self._verdicts = self._verdicts, {}
        fresh: list[Target] = []
        for service in intent.services:
            if service.check is None:
                continue
            known = remembered.get(service.name, {})
            wanted = list(_subjects(service, service.check))
            kept = {s for s, _ in wanted if (s in old and old[s].serving) or s in serving}
            filled = {s[2] for s, _ in wanted if s in kept or _is_up(known.get(s[1:]))}
            for subject, target in wanted:
                was, verdict = old.get(subject), known.get(subject[1:])
                initially = subject[2] not in filled or service.check.initial is Initial.UP
                standing = _Standing(
                    target=target,
                    serving=subject in kept or (was is None and initially),
                    slow_start=service.health.slow_start / 1000,
                )
                if was is not None and was.ramp is not None and standing.slow_start:
                    standing.ramp = was.ramp
                    self._ramping.add(subject)
                self._standings[subject] = standing
                state = self._states.get(target) or states.get(target)
                if state is None:
                    state = _restored(verdict, now)
                    fresh.append(target)
                elif target not in self._states:
                    state.subjects = set()
                self._states[target] = state
                state.subjects.add(subject)
        self._spread(fresh, now)
        for subject in self._standings:
            self._verdicts.setdefault(subject[0], {})[subject[1:]] = self._verdict(subject, now)
        for name, found in self._verdicts.items():
            if (before := remembered.get(name)) is not None and _alike(before, found):
                self._verdicts[name] = before

    def _spread(self, fresh: list[Target], now: Moment) -> None:
        """Have the first checks of targets spread over their interval, sooner where they are few."""
        soon = len(fresh) / _PER_SECOND
        for target in fresh:
            check = target.check
            width = min(check.interval, max(check.fast_interval, soon * 1000)) / 1000
            self._enqueue(target, now.steady + self._random.random() * width)

    def _enqueue(self, target: Target, due: float) -> None:
        self._states[target].due = due
        self._number += 1
        heapq.heappush(self._queue, (due, self._number, target))

    def _pause(self, check: Check, state: _State) -> float:
        """Return the seconds from the start of a check to that of the next one."""
        changing = (
            state.health is Health.UNKNOWN
            or (state.health is Health.UP and state.failures > 0)
            or (state.health is Health.DOWN and state.passes > 0)
        )
        pause = (check.fast_interval if changing else check.interval) / 1000
        return pause * (1 - JITTER * self._random.random())

    def _change(self, target: Target, state: _State, before: Health, now: Moment) -> None:
        """Note that a target's health changed."""
        state.since = now.wall
        if state.health is Health.DOWN:
            check = target.check
            hold = check.hold / 1000
            stable = max(_STABLE, 10 * check.interval / 1000, 2 * state.hold)
            again = (
                before is Health.UP and state.returned is not None and now.steady - state.returned < stable
            )
            state.flaps = min(state.flaps + 1, _MAX_FLAPS) if again else 0
            if state.flaps:
                least = max(hold, check.interval / 1000)
                hold = min(least * 2**state.flaps, max(hold, _MAX_HOLD))
            state.hold, state.held_until = hold, now.steady + hold
        elif before is Health.DOWN:
            state.returned = now.steady
        for subject in state.subjects:
            standing = self._standings[subject]
            if state.health is Health.UP:
                returns = before is Health.DOWN or not standing.serving
                standing.ramp = now.steady if returns and standing.slow_start else None
                standing.serving = True
            else:
                standing.ramp = None
            if standing.ramp is None:
                self._ramping.discard(subject)
            else:
                self._ramping.add(subject)

    def _publish(self, subjects: Iterable[Subject], now: Moment) -> None:
        """Renew the verdicts of endpoints: a service's verdicts become a new object."""
        for subject in subjects:
            name = subject[0]
            self._verdicts[name] = {**self._verdicts[name], subject[1:]: self._verdict(subject, now)}

    def _verdict(self, subject: Subject, now: Moment) -> Verdict:
        standing = self._standings[subject]
        state = self._states[standing.target]
        held = state.health is Health.DOWN and state.passes >= standing.target.check.rise
        return Verdict(
            health=state.health,
            since=state.since,
            result=state.result,
            count=state.count,
            checked=state.checked,
            seconds=state.seconds,
            part=_part(standing, now),
            serving=standing.serving,
            held=held,
        )


def _judged(check: Check, state: _State, outcome: Outcome, now: Moment) -> Health:
    """Return the health after an outcome that is already counted."""
    match state.health:
        case _ if outcome.ending is Ending.UNDECIDED:
            return state.health
        case Health.UNKNOWN if outcome.ending is Ending.PASSED:
            return Health.UP
        case Health.UNKNOWN | Health.UP if outcome.ending is Ending.FAILED:
            fallen = outcome.final or state.failures >= check.fall
            return Health.DOWN if fallen else state.health
        case Health.DOWN if state.passes >= check.rise and now.steady >= state.held_until:
            return Health.UP
    return state.health


def _subjects(service: Service, check: Check) -> Iterable[tuple[Subject, Target]]:
    """Yield each endpoint of a service in each family, and what is checked for it."""
    for family in service.families:
        for endpoint in service.endpoints:
            if endpoint.serves(family):
                subject = (service.name, endpoint.name, family)
                yield subject, _target(endpoint, family, check, subject)


def _target(endpoint: Endpoint, family: Family, check: Check, subject: Subject) -> Target:
    own = subject if isinstance(check.probe, ExecProbe) else None
    port = check.port or endpoint.port
    return Target(family=family, address=endpoint.address, port=port, check=check, subject=own)


def _restored(verdict: Verdict | None, now: Moment) -> _State:
    """Return the state of a target of which a verdict may be known."""
    if verdict is None:
        return _State(health=Health.UNKNOWN, since=now.wall)
    return _State(
        health=verdict.health,
        since=verdict.since,
        result=verdict.result,
        count=verdict.count,
        checked=verdict.checked,
        seconds=verdict.seconds,
    )


def _step(standing: _Standing, now: Moment) -> int:
    """Return the step of a slow start, from 0; `STEPS` where it is over."""
    if standing.ramp is None or standing.slow_start <= 0:
        return STEPS
    return min(int((now.steady - standing.ramp) * STEPS / standing.slow_start + 1e-9), STEPS)


def _part(standing: _Standing, now: Moment) -> Fraction:
    return _PARTS[min(_step(standing, now) + 1, STEPS)]


def _alike(some: Verdicts, others: Verdicts) -> bool:
    """Return True if nothing but the time and number of checks is different."""
    return some.keys() == others.keys() and all(
        _weighty(verdict) == _weighty(others[place]) for place, verdict in some.items()
    )


def _weighty(verdict: Verdict) -> tuple[object, ...]:
    """Return what of a verdict decides or is said of an endpoint."""
    return verdict.health, verdict.since, verdict.result, verdict.part, verdict.serving, verdict.held


def _is_up(verdict: Verdict | None) -> bool:
    return verdict is not None and verdict.health is Health.UP


def _flat(verdicts: Mapping[str, Verdicts]) -> Iterable[tuple[Subject, Verdict]]:
    for name, found in verdicts.items():
        for (endpoint, family), verdict in found.items():
            yield (name, endpoint, family), verdict
