"""What is known of a target of checks, and of an endpoint: when it falls, rises, is held and returns slowly.

An endpoint falls after `fall` failures in a row and rises after `rise` passes in a row; the first pass of one
that was never checked counts at once. One that fails again soon after it returned stays out longer each time.
"""

from __future__ import annotations

from dataclasses import field
from fractions import Fraction
from typing import TYPE_CHECKING

from lbctl.agent.health import Ending, Moment, Outcome, Subject, Target
from lbctl.model import Check, Health
from lbctl.values import dataclass

if TYPE_CHECKING:
    from lbctl.model import Verdict

#: Steps of a slow start, and the part of its weight that an endpoint has in each.
STEPS = 8
_PARTS = tuple(Fraction(step, STEPS) for step in range(STEPS + 1))
#: Seconds an endpoint must stay up after it returned, or it counts as flapping; and the longest hold.
_STABLE, _MAX_HOLD = 60.0, 300.0
_MAX_FLAPS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """What is known of an endpoint that no verdict says: how far it is in a row, a hold, a slow start.

    `returned` and `ramp` are seconds since it returned, and since its slow start began; None for never.
    `held` is the seconds that it is held for from now on.
    """

    passes: int = 0
    failures: int = 0
    returned: float | None = None
    flaps: int = 0
    hold: float = 0.0
    held: float = 0.0
    ramp: float | None = None


@dataclass(slots=True)
class TargetState:
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

    @classmethod
    def restored(cls, verdict: Verdict | None, now: Moment) -> TargetState:
        """Return the state of a target of which a verdict may be known."""
        if verdict is None:
            return cls(health=Health.UNKNOWN, since=now.wall)
        return cls(
            health=verdict.health,
            since=verdict.since,
            result=verdict.result,
            count=verdict.count,
            checked=verdict.checked,
            seconds=verdict.seconds,
            hold=verdict.hold,
            # The wall clock may have jumped: it is held for no longer than it was to be.
            held_until=now.steady + min(max(verdict.since + verdict.hold - now.wall, 0.0), verdict.hold),
        )

    def progress(self, standing: CheckStanding, now: Moment) -> Progress:
        """Return what verdicts do not say of it, and of one of its endpoints."""
        return Progress(
            passes=self.passes,
            failures=self.failures,
            returned=None if self.returned is None else now.steady - self.returned,
            flaps=self.flaps,
            hold=self.hold,
            held=max(self.held_until - now.steady, 0.0) if self.health is Health.DOWN else 0.0,
            ramp=None if standing.ramp is None else now.steady - standing.ramp,
        )

    def resume(self, progress: Progress, now: Moment) -> None:
        """Go on from a progress."""
        self.passes, self.failures, self.flaps = progress.passes, progress.failures, progress.flaps
        self.returned = None if progress.returned is None else now.steady - progress.returned
        self.hold, self.held_until = progress.hold, now.steady + progress.held

    @property
    def is_changing(self) -> bool:
        """True while the last results and the health disagree."""
        match self.health:
            case Health.UNKNOWN:
                return True
            case Health.UP:
                return self.failures > 0
            case Health.DOWN:
                return self.passes > 0

    def is_news(self, outcome: Outcome) -> bool:
        """Return True if an outcome, not noted yet, can change the health, be it with those behind it.

        A pass of a target that is up, and a failure of one that is down, change nothing where the last result
        was of the same kind.
        """
        if _kind(outcome.text) != _kind(self.result):
            return True
        match outcome.ending:
            case Ending.UNDECIDED:
                return False
            case Ending.PASSED:
                return self.health is not Health.UP or self.failures > 0
            case Ending.FAILED:
                return self.health is not Health.DOWN or self.passes > 0

    def note(self, check: Check, outcome: Outcome, now: Moment) -> bool:
        """Count an outcome, and have it change the health; return True if the result is another one."""
        self.running = False
        self.checked, self.seconds = now.wall, outcome.seconds
        same = self.result == outcome.text
        self.count = self.count + 1 if same else 1
        self.result = outcome.text
        match outcome.ending:
            case Ending.PASSED:
                self.passes, self.failures = self.passes + 1, 0
            case Ending.FAILED:
                self.passes, self.failures = 0, self.failures + 1
            case Ending.UNDECIDED:
                pass
        before, self.health = self.health, self._judged(check, outcome, now)
        if self.health is not before:
            self._turn(check, before, now)
        return not same

    def _judged(self, check: Check, outcome: Outcome, now: Moment) -> Health:
        """Return the health after an outcome that is already counted."""
        match self.health:
            case _ if outcome.ending is Ending.UNDECIDED:
                return self.health
            case Health.UNKNOWN if outcome.ending is Ending.PASSED:
                return Health.UP
            case Health.UNKNOWN | Health.UP if outcome.ending is Ending.FAILED:
                fallen = outcome.final or self.failures >= check.fall
                return Health.DOWN if fallen else self.health
            case Health.DOWN if self.passes >= check.rise and now.steady >= self.held_until:
                return Health.UP
        return self.health

    def _turn(self, check: Check, before: Health, now: Moment) -> None:
        """Note that the health has changed: one that fails is held for a while, longer if it flaps."""
        self.since = now.wall
        if self.health is not Health.DOWN:
            if before is Health.DOWN:
                self.returned = now.steady
            return
        hold = check.hold / 1000
        stable = max(_STABLE, 10 * check.interval / 1000, 2 * self.hold)
        again = before is Health.UP and self.returned is not None and now.steady - self.returned < stable
        self.flaps = min(self.flaps + 1, _MAX_FLAPS) if again else 0
        if self.flaps:
            least = max(hold, check.interval / 1000)
            hold = min(least * 2**self.flaps, max(hold, _MAX_HOLD))
        self.hold, self.held_until = hold, now.steady + hold


def _kind(text: str) -> str:
    """Return a result without what a program printed: that may be something else each time."""
    return text.partition(": ")[0]


@dataclass(slots=True)
class CheckStanding:
    """What is known of an endpoint of one service beyond its target."""

    target: Target
    #: What is checked, as `Endpoint.to`, and the `fingerprint` of the check.
    to: str
    asked: str
    serving: bool
    slow_start: float
    #: When its slow start began; None where it has its whole weight.
    ramp: float | None = None

    def resume(self, was: CheckStanding | None, verdict: Verdict | None, now: Moment) -> None:
        """Go on with the slow start that was known before, if there is one: its step is in the verdict."""
        if not self.slow_start:
            return
        if was is not None:
            self.ramp = was.ramp
        elif verdict is not None and verdict.part < 1:
            self.ramp = now.steady - self.slow_start * (int(verdict.part * STEPS) - 1) / STEPS

    def turn(self, health: Health, before: Health, now: Moment) -> None:
        """Note that the health of the target has changed: an endpoint that returns may start slowly."""
        if health is not Health.UP:
            self.ramp = None
            return
        returns = before is Health.DOWN or not self.serving
        self.ramp = now.steady if returns and self.slow_start else None
        self.serving = True

    def step(self, now: Moment) -> int:
        """Return the step of a slow start, from 0; `STEPS` where it is over."""
        if self.ramp is None or self.slow_start <= 0:
            return STEPS
        return min(int((now.steady - self.ramp) * STEPS / self.slow_start + 1e-9), STEPS)

    def part(self, now: Moment) -> Fraction:
        """Return the part of its weight that it has."""
        return _PARTS[min(self.step(now) + 1, STEPS)]

    def next_step(self, now: Moment) -> float | None:
        """Return the steady time of the next step; None where there is none."""
        return None if self.ramp is None else self.ramp + self.slow_start * (self.step(now) + 1) / STEPS
