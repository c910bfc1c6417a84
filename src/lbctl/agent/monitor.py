"""What results of checks mean: a pure state machine, without clock, socket or randomness of its own.

`Monitor` says which checks are due, takes their outcomes, and gives verdicts. Each check that several
services share is one `Target` and is run once.
"""

from __future__ import annotations

import heapq
from dataclasses import field
from typing import TYPE_CHECKING

from lbctl.agent.health import Moment, Outcome, Subject, Target
from lbctl.agent.states import STEPS, CheckStanding, Progress, TargetState
from lbctl.model import Check, ExecProbe, Family, Health, Initial, KnownVerdicts, Verdict, fingerprint
from lbctl.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping
    from random import Random

    from lbctl.model import Endpoint, Intent, Service, Verdicts

#: Part of an interval by which a check may start early, so that checks do not stay in step.
JITTER = 0.05
#: The same for checks that start early beside one that is due, at most so many together: a process that rests
#: pays more for being woken than for a check.
EARLY = 0.05
_TOGETHER = 32
#: First checks in a second, where many start at once.
_PER_SECOND = 1000


@dataclass(slots=True, kw_only=True)
class _Known:
    """What was known of services that are arranged anew."""

    #: All verdicts, and those of these services.
    every: KnownVerdicts
    verdicts: Mapping[str, Verdicts]
    standings: dict[Subject, CheckStanding] = field(default_factory=dict)
    states: dict[Target, TargetState] = field(default_factory=dict)


_NO_PROGRESS = Progress()


class Monitor:
    """The health of all endpoints of an intent that are checked."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._states: dict[Target, TargetState] = {}
        self._standings: dict[Subject, CheckStanding] = {}
        self._ramping: set[Subject] = set()
        self._queue: list[tuple[float, int, Target]] = []
        self._number = 0
        #: By name: the services whose endpoints are checked, and their verdicts.
        self._services: dict[str, Service] = {}
        self._verdicts: dict[str, Verdicts] = {}

    def start(
        self,
        intent: Intent,
        now: Moment,
        *,
        restored: Mapping[str, Verdicts],
        serving: Collection[Subject],
        progress: Mapping[Subject, Progress] | None = None,
    ) -> None:
        """Begin with an intent, what was known before, and the endpoints that take connections now.

        Verdicts of an earlier start of the host are not to be among `restored`. `progress` is what `progress`
        returned at this very moment, where another monitor is to be followed.
        """
        self._verdicts = dict(restored)
        self._arrange(intent, now, set(serving))
        for subject, found in (progress or {}).items():
            self._resume(subject, found, now)

    def progress(self, now: Moment) -> Mapping[Subject, Progress]:
        """Return how far endpoints are in what their verdicts do not say, of those that are in anything."""
        found = {
            subject: self._states[standing.target].progress(standing, now)
            for subject, standing in self._standings.items()
        }
        return {subject: each for subject, each in found.items() if each != _NO_PROGRESS}

    def _resume(self, subject: Subject, progress: Progress, now: Moment) -> None:
        standing = self._standings.get(subject)
        if standing is None:
            return
        self._states[standing.target].resume(progress, now)
        if progress.ramp is not None and standing.slow_start:
            standing.ramp = now.steady - progress.ramp
            self._ramping.add(subject)
        self._publish((subject,), now)

    def replace(self, intent: Intent, now: Moment) -> None:
        """Go on with another intent: what is known of endpoints that stay is kept."""
        self._arrange(intent, now, set())

    def due(self, now: Moment, limit: int | None = None) -> tuple[Target, ...]:
        """Return the targets to be checked now, at most `limit`; each is marked as running until `record`."""
        found: list[Target] = []
        while (limit is None or len(found) < limit) and (head := self._head()) is not None:
            target, state = head
            early = EARLY * _interval(target.check, state) if 0 < len(found) < _TOGETHER else 0.0
            if state.due > now.steady + early:
                break
            heapq.heappop(self._queue)
            state.running = True
            state.due = now.steady
            found.append(target)
        return tuple(found)

    def next(self, now: Moment) -> float | None:
        """Return the steady time at which a check is due or a slow start goes on; None for never."""
        step = self.next_step(now)
        head = self._head()
        if head is None:
            return step
        due = head[1].due
        return due if step is None else min(due, step)

    def _head(self) -> tuple[Target, TargetState] | None:
        """Return the target that is due first, at the head of the queue; places that it had before go."""
        while self._queue:
            due, _, target = self._queue[0]
            state = self._states.get(target)
            if state is not None and not state.running and state.due == due:
                return target, state
            heapq.heappop(self._queue)
        return None

    def next_step(self, now: Moment) -> float | None:
        """Return the steady time at which a slow start goes on; None for never."""
        if not self._ramping:
            return None
        steps = [self._standings[subject].next_step(now) for subject in self._ramping]
        return min([step for step in steps if step is not None], default=None)

    def record(self, target: Target, outcome: Outcome, now: Moment) -> tuple[Subject, ...]:
        """Note how a check ended; return whose verdict changed what they get. Unknown targets are ignored."""
        state = self._states.get(target)
        if state is None:
            return ()
        started = state.due if state.running else now.steady
        before = state.health
        other = state.note(target.check, outcome, now)
        if state.health is not before:
            self._turn(state, before, now)
        self._enqueue(target, max(now.steady, started + self._pause(target.check, state)))
        if other or state.health is not before or state.passes == target.check.rise:
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
            if standing.step(now) >= STEPS:
                standing.ramp = None
                self._ramping.discard(subject)
            if standing.part(now) != before:
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

    def serves(self, target: Target) -> bool:
        """Return True if all endpoints that a target is checked for take connections unless they fail."""
        state = self._states.get(target)
        return state is not None and all(self._standings[subject].serving for subject in state.subjects)

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
        """Return True if an outcome, not recorded yet, can change a health, be it with those behind it."""
        state = self._states.get(target)
        return state is not None and state.is_news(outcome)

    def targets(self) -> Collection[Target]:
        """Return all targets."""
        return self._states.keys()

    def _arrange(self, intent: Intent, now: Moment, serving: Collection[Subject]) -> None:
        """Have exactly the targets of an intent. `serving` take connections now, as far as is known.

        A service that stays as it is costs a comparison.
        """
        wanted = {service.name: service for service in intent.services if service.check is not None}
        changed = [service for name, service in wanted.items() if self._services.get(name) != service]
        self._services = wanted
        leaving = [name for name in self._verdicts if name not in wanted]
        leaving += [service.name for service in changed if service.name in self._verdicts]
        every = KnownVerdicts(dict(self._verdicts))
        known = _Known(every=every, verdicts={name: self._verdicts.pop(name) for name in leaving})
        for subject, _ in _flat(known.verdicts):
            self._take_out(subject, known)
        fresh = [target for service in changed for target in self._add(service, now, serving, known)]
        self._spread(fresh, now)

    def _take_out(self, subject: Subject, known: _Known) -> None:
        """Forget an endpoint of a service, and its target if no other one shares it; both go to `known`."""
        standing = self._standings.pop(subject, None)
        if standing is None:
            return
        known.standings[subject] = standing
        self._ramping.discard(subject)
        state = self._states[standing.target]
        state.subjects.discard(subject)
        if not state.subjects:
            known.states[standing.target] = self._states.pop(standing.target)

    def _add(
        self, service: Service, now: Moment, serving: Collection[Subject], known: _Known
    ) -> Iterator[Target]:
        """Add the endpoints of a service; yield the targets that are new."""
        if service.check is None:
            return
        verdicts = known.every.of(service)
        asked = fingerprint(service.check)
        wanted = list(_subjects(service, service.check))
        # An endpoint that has another address or port by now is a new one, and has no verdict.
        old = {s: known.standings[s] for s, *_ in wanted if s in known.standings and s[1:] in verdicts}
        kept = {s for s, *_ in wanted if (s in old and old[s].serving) or s in serving}
        kept |= {s for s, *_ in wanted if s not in old and _is_known(verdicts.get(s[1:]))}
        filled = {s[2] for s, *_ in wanted if s in kept or _is_up(verdicts.get(s[1:]))}
        for subject, endpoint, target in wanted:
            was, verdict = old.get(subject), verdicts.get(subject[1:])
            initially = subject[2] not in filled or service.check.initial is Initial.UP
            standing = CheckStanding(
                target=target,
                to=endpoint.to,
                asked=asked,
                serving=subject in kept or (was is None and initially),
                slow_start=service.health.slow_start / 1000,
            )
            standing.resume(was, verdict, now)
            if standing.ramp is not None:
                self._ramping.add(subject)
            self._standings[subject] = standing
            state = self._states.get(target) or known.states.get(target)
            if state is None:
                state = TargetState.restored(verdict, now)
                yield target
            self._states[target] = state
            state.subjects.add(subject)
        found = {subject[1:]: self._verdict(subject, now) for subject, *_ in wanted}
        self._verdicts[service.name] = verdicts if _alike(verdicts, found) else found

    def _spread(self, fresh: list[Target], now: Moment) -> None:
        """Have the first checks of targets spread over their interval, sooner where they are few.

        Very few have one moment, which is another one on other hosts.
        """
        soon = len(fresh) / _PER_SECOND
        moment = self._random.random() if len(fresh) <= _TOGETHER else None
        for target in fresh:
            check = target.check
            width = min(check.interval, max(check.fast_interval, soon * 1000)) / 1000
            part = self._random.random() if moment is None else moment
            self._enqueue(target, now.steady + part * width)

    def _enqueue(self, target: Target, due: float) -> None:
        self._states[target].due = due
        self._number += 1
        heapq.heappush(self._queue, (due, self._number, target))

    def _pause(self, check: Check, state: TargetState) -> float:
        """Return the seconds from the start of a check to that of the next one."""
        return _interval(check, state) * (1 - JITTER * self._random.random())

    def _turn(self, state: TargetState, before: Health, now: Moment) -> None:
        """Note that a target's health changed."""
        for subject in state.subjects:
            standing = self._standings[subject]
            standing.turn(state.health, before, now)
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
            part=standing.part(now),
            serving=standing.serving,
            held=held,
            hold=state.hold if state.health is Health.DOWN else 0.0,
            to=standing.to,
            check=standing.asked,
        )


def _subjects(service: Service, check: Check) -> Iterable[tuple[Subject, Endpoint, Target]]:
    """Yield each endpoint of a service in each family, and what is checked for it."""
    for family in service.families:
        for endpoint in service.endpoints:
            if endpoint.serves(family):
                subject = (service.name, endpoint.name, family)
                yield subject, endpoint, _target(endpoint, family, check, subject)


def _interval(check: Check, state: TargetState) -> float:
    """Return the seconds from one check to the next, at most."""
    return (check.fast_interval if state.is_changing else check.interval) / 1000


def _target(endpoint: Endpoint, family: Family, check: Check, subject: Subject) -> Target:
    own = subject if isinstance(check.probe, ExecProbe) else None
    port = check.port or endpoint.port
    return Target(family=family, address=endpoint.address, port=port, check=check, subject=own)


def _alike(some: Verdicts, others: Verdicts) -> bool:
    """Return True if nothing but the time and number of checks is different."""
    return some.keys() == others.keys() and all(
        _weighty(verdict) == _weighty(others[place]) for place, verdict in some.items()
    )


def _weighty(verdict: Verdict) -> tuple[object, ...]:
    """Return what of a verdict decides or is said of an endpoint."""
    found = verdict.health, verdict.since, verdict.result, verdict.part, verdict.serving, verdict.held
    return *found, verdict.to, verdict.check


def _is_known(verdict: Verdict | None) -> bool:
    return verdict is not None and verdict.health is not Health.UNKNOWN


def _is_up(verdict: Verdict | None) -> bool:
    return verdict is not None and verdict.health is Health.UP


def _flat(verdicts: Mapping[str, Verdicts]) -> Iterable[tuple[Subject, Verdict]]:
    for name, found in verdicts.items():
        for (endpoint, family), verdict in found.items():
            yield (name, endpoint, family), verdict
