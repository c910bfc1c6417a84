"""What checks found out about endpoints, and what that takes from them.

A verdict is about one endpoint of one service in one family. Whoever makes verdicts may restart or be late:
*unknown changes nothing*. An unknown endpoint keeps what it has, and a new one waits for its first pass,
unless its service would be empty without it.
"""

from __future__ import annotations

from dataclasses import field, replace
from enum import StrEnum
from functools import cached_property
from typing import TYPE_CHECKING, TypeAlias

from lbctl.model.check import MAX_TIME, Initial, fingerprint
from lbctl.model.intent import Limit, Service
from lbctl.model.kinds import State
from lbctl.model.rotation import WHOLE
from lbctl.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from fractions import Fraction

    from lbctl.model.addresses import Family
    from lbctl.model.endpoints import Endpoint

#: Characters of a result that are kept.
MAX_RESULT = 200


class Health(StrEnum):
    """What checks say of an endpoint."""

    UP = "up"
    DOWN = "down"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What checks say of an endpoint of a service in a family. Times are seconds since 1970 (UTC).

    `part` is what slow start gives it of its weight. `result` is what the last check found, and `count` how
    often in a row. `serving` is whether it takes connections while its health is unknown.
    """

    health: Health
    since: float
    result: str = ""
    count: int = 0
    #: When the last check ended, and how many seconds it took; None before the first.
    checked: float | None = None
    seconds: float | None = None
    part: Fraction = WHOLE
    serving: bool = True
    #: True for an endpoint that passes again, and stays out for the rest of `hold` seconds since it failed.
    held: bool = False
    hold: float = 0.0
    #: What was checked, as `Endpoint.to`, and the `fingerprint` of the check; "" if that is not known.
    to: str = ""
    check: str = ""

    def __post_init__(self) -> None:
        if not 0 < self.part.numerator <= self.part.denominator:
            raise ValueError(f"a part of {self.part} is not above 0, up to 1")
        if len(self.result) > MAX_RESULT or not self.result.isprintable():
            raise ValueError(f"a result is not a line of at most {MAX_RESULT} characters")
        if not 0 <= self.hold <= MAX_TIME / 1000:
            raise ValueError(f"a hold of {self.hold} s")
        if self.count < 0:
            raise ValueError(f"{self.count} results in a row")

    @property
    def serves(self) -> bool:
        """True for an endpoint that takes connections as far as checks are asked."""
        return self.health is Health.UP or (self.health is Health.UNKNOWN and self.serving)

    @property
    def waits(self) -> bool:
        """True for a new endpoint that has not passed yet."""
        return self.health is Health.UNKNOWN and not self.serving


#: `Endpoint.name` and the family → what checks say of an endpoint of one service.
Verdicts: TypeAlias = "Mapping[tuple[str, Family], Verdict]"


#: The same object each time, for who compares by identity.
NO_VERDICTS: Verdicts = {}


class KeptBy(StrEnum):
    """Why an endpoint that a check failed takes connections all the same."""

    ALL_DOWN = "all-down"
    MAX_DOWN = "max-down"
    #: There is no other endpoint, and this one has not been checked yet.
    EMPTY = "empty"


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What verdicts do to a service: limits of its endpoints, and those that serve although they fail."""

    limits: frozenset[Limit] = frozenset()
    #: By `Endpoint.name` and family.
    kept: Mapping[tuple[str, Family], KeptBy] = field(default_factory=dict)


class KnownVerdicts:
    """All verdicts, of whatever service: by the name of an endpoint, and by what was checked."""

    def __init__(self, verdicts: Mapping[str, Verdicts]) -> None:
        self._verdicts = verdicts

    def of(self, service: Service) -> Verdicts:
        """Return what is known of the endpoints of a service.

        The verdict of an endpoint that has another address or port by now says nothing about it. What the
        same check found at the same place counts under whatever name, e.g. for a service that is renamed.
        """
        own = self._verdicts.get(service.name, NO_VERDICTS)
        if service.check is None or not self._verdicts:
            return own
        if not own and self._places.isdisjoint([endpoint.to for endpoint in service.endpoints]):
            return own
        wanted = [(e, family) for family in service.families for e in service.endpoints if e.serves(family)]
        if all(_is_of(own.get((e.name, family)), e) for e, family in wanted):
            return own
        asked = fingerprint(service.check)
        found: dict[tuple[str, Family], Verdict] = {}
        for endpoint, family in wanted:
            verdict = own.get((endpoint.name, family))
            if not _is_of(verdict, endpoint):
                verdict = self._elsewhere.get((endpoint.to, family, asked))
                if verdict is not None and not service.health.slow_start:
                    verdict = replace(verdict, part=WHOLE)
            if verdict is not None:
                found[endpoint.name, family] = verdict
        return found

    @cached_property
    def _places(self) -> frozenset[str]:
        return frozenset([to for to, _, _ in self._elsewhere])

    @cached_property
    def _elsewhere(self) -> Mapping[tuple[str, Family, str], Verdict]:
        """By what was checked, in which family and how: what was found."""
        return {
            (verdict.to, family, verdict.check): verdict
            for own in self._verdicts.values()
            for (_, family), verdict in own.items()
            if verdict.to and verdict.health is not Health.UNKNOWN
        }


def _is_of(verdict: Verdict | None, endpoint: Endpoint) -> bool:
    """Return True for a verdict about what an endpoint is now."""
    return verdict is not None and verdict.to in {"", endpoint.to}


def awaited(service: Service, verdicts: Verdicts) -> Verdicts:
    """Return verdicts with one for each endpoint that is new to who checks: it waits for its first pass.

    Where no endpoint of a family takes connections, or the check says so, a new one serves at once.
    """
    check = service.check
    if check is None or check.initial is Initial.UP or not verdicts:
        return verdicts
    new: dict[tuple[str, Family], Verdict] = {}
    for family in service.families:
        able = [e.name for e in service.endpoints if e.serves(family)]
        since = [v.since for name in able if (v := verdicts.get((name, family))) and v.serves]
        if since:
            waits = Verdict(health=Health.UNKNOWN, since=max(since), serving=False)
            new |= {(name, family): waits for name in able if (name, family) not in verdicts}
    return {**verdicts, **new} if new else verdicts


def judge(service: Service, verdicts: Verdicts) -> Judgement:
    """Return what verdicts do to a service with the states that file and operator agree on."""
    limits: set[Limit] = set()
    kept: dict[tuple[str, Family], KeptBy] = {}
    for family in service.families:
        able = [e for e in service.endpoints if e.serves(family) and e.state is not State.DRAIN]
        known = {e.name: found for e in able if (found := verdicts.get((e.name, family)))}
        failed = [e for e in able if e.name in known and known[e.name].health is Health.DOWN]
        braked = _braked(service, able, failed, known)
        kept |= dict.fromkeys(((e.name, family) for e in braked), KeptBy.MAX_DOWN)
        waiting = [e for e in able if e.name in known and known[e.name].waits]
        out = {e.name for e in failed} - {e.name for e in braked} | {e.name for e in waiting}
        if waiting and all(e.name in out for e in able):
            kept |= dict.fromkeys(((e.name, family) for e in waiting), KeptBy.EMPTY)
            out -= {e.name for e in waiting}
        elif out and all(e.name in out for e in able):
            kept |= dict.fromkeys(((e.name, family) for e in _all_down(service, family)), KeptBy.ALL_DOWN)
        limits |= {Limit(family=family, to=e.to) for e in able if e.name in out}
        limits |= {
            Limit(family=family, to=e.to, part=known[e.name].part)
            for e in able
            if e.name in known and e.name not in out and known[e.name].part < WHOLE
        }
    return Judgement(limits=frozenset(limits), kept=kept)


def _braked(
    service: Service, able: Iterable[Endpoint], failed: list[Endpoint], known: Mapping[str, Verdict]
) -> list[Endpoint]:
    """Return the failed endpoints that `max-down` keeps: those that failed last."""
    most = service.health.max_down
    if most is None:
        return []
    order = sorted(failed, key=lambda e: (known[e.name].since, e.name))
    return order[int(most * len(list(able))) :]


def _all_down(service: Service, family: Family) -> tuple[Endpoint, ...]:
    """Return the endpoints that serve when none passes."""
    everyone = frozenset(Limit(family=family, to=e.to) for e in service.endpoints)
    return tuple(e for e, _ in replace(service, limits=everyone).rotation(family))
