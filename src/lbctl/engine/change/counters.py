"""What endpoints took in all, and since their service last changed.

The kernel counts in the rule or element that sends a connection somewhere, and begins anew where a change
writes that again: after it, the counters of one service may be of different ages. So each change of a service
writes down what its endpoints had taken. The shares of what they take from then on can be held against the
wanted ones, and sums do not fall back. Where a change loses a counter, connections that are made between the
look at it and the change are missing in the sum; none is counted twice. That look is just before the change,
or at the plan if the backend reads counters along with rules.

There is one record for each owner and store, in this host's runtime state: counters do not outlive a restart
of the host either. A service without one counts since its rules were loaded.
"""

from __future__ import annotations

import json
from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from lbctl.errors import Damaged, LbctlError
from lbctl.model import Action, Family, read_record, time_of
from lbctl.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from lbctl.engine.change.session import Session
    from lbctl.model import Plan, Program, Shape
    from lbctl.spi import Count

#: A family and an `Endpoint.to`.
Place: TypeAlias = tuple[Family, str]

_FORMAT = 1
_SHAPE: Shape = (int, str | None, [(str, str, [(str, str, int, int, int)])])
#: Endpoints of a service that are remembered, those included that it no longer has.
_MOST = 4096


class Mark(NamedTuple):
    """What stands behind the kernel's counter of one endpoint in one family."""

    #: Connections and bytes of counters that the kernel no longer has.
    kept: int
    kept_bytes: int
    #: All connections, kept ones included, when the service last changed.
    start: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """What the endpoints of a service had taken when it last changed: `since`, as ISO 8601 in UTC."""

    since: str
    marks: Mapping[Place, Mark]


class Taken(NamedTuple):
    """What one endpoint took of the connections of one family, in all and `recently`: since the change."""

    connections: int = 0
    bytes: int = 0
    recently: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """What the endpoints of a service took, and since when that is counted as recent.

    `since` is None if that is when the rules of each endpoint were loaded.
    """

    since: str | None
    taken: Mapping[Place, Taken]


def counted(
    session: Session, owner: str, services: Collection[str], held: Program | None = None
) -> Mapping[str, Counted]:
    """Return what the endpoints of services took, by the name of the service.

    `held` is what was just read of the owner, if it was.
    """
    baselines = _load(session, owner)
    counts = _counts(session, owner, services, held)
    return {name: _counted(counts[name], baselines.get(name)) for name in services}


def _counts(
    session: Session, owner: str, services: Collection[str], held: Program | None
) -> dict[str, dict[Place, Count]]:
    found: dict[str, dict[Place, Count]] = {name: {} for name in services}
    if services:
        read = session.backend.stats(session.host, session.driver, owner, services=services, held=held)
        for count in read:
            found[count.service][count.family, count.to] = count
    return found


def _counted(counts: Mapping[Place, Count], baseline: Baseline | None) -> Counted:
    if baseline is not None:
        marks = baseline.marks
        taken = {place: _taken(counts.get(place), marks.get(place)) for place in {**marks, **counts}}
        if all(each.recently >= 0 for each in taken.values()):
            return Counted(since=baseline.since, taken=taken)
        # The rules were written anew by another program: what is on record belongs to other counters.
    return Counted(since=None, taken={place: _taken(count, None) for place, count in counts.items()})


def _taken(count: Count | None, mark: Mark | None) -> Taken:
    kept, kept_bytes, start = mark or Mark(0, 0, 0)
    connections = kept + (count.connections if count else 0)
    return Taken(connections, kept_bytes + (count.bytes if count else 0), connections - start)


def before_change(session: Session, plan: Plan) -> Mapping[str, Counted]:
    """Return what the endpoints of the services that a plan changes have taken so far.

    Without those whose counters cannot be read: that keeps no change from being made.
    """
    names = [each.name for each in plan.services if each.action is Action.CHANGE]
    try:
        return counted(session, plan.after.owner, names, plan.before)
    except LbctlError:
        return {}


def after_change(session: Session, plan: Plan, held: Program, before: Mapping[str, Counted]) -> None:
    """Note from what on the services count that a plan has changed.

    `held` is what the kernel holds since, `before` is of `before_change`.
    """
    owner = plan.after.owner
    old = _load(session, owner)
    kept = old.keys() - {each.name for each in plan.services}
    baselines = {name: old[name] for name in old if name in kept}
    since = time_of(session.host.now())
    try:
        for name, counts in _counts(session, owner, before, held).items():
            baselines[name] = Baseline(since=since, marks=_marks(counts, before[name].taken))
    except LbctlError:
        baselines = {name: old[name] for name in kept}
    if baselines or old:
        _save(session, owner, baselines)


def _marks(counts: Mapping[Place, Count], before: Mapping[Place, Taken]) -> dict[Place, Mark]:
    marks = {}
    for place in islice({**counts, **before}, _MOST):
        now, then = _taken(counts.get(place), None), before.get(place, Taken())
        # More than then: its counter is the old one, or it took more meanwhile than was lost.
        connections = max(now.connections, then.connections)
        kept, kept_bytes = connections - now.connections, max(0, then.bytes - now.bytes)
        marks[place] = Mark(kept, kept_bytes, connections)
    return marks


def _load(session: Session, owner: str) -> dict[str, Baseline]:
    """Return the baselines on record that belong to this network namespace, by service."""
    text = session.host.recall(_name(session, owner))
    try:
        version, namespace, rows = read_record(text or "", _SHAPE)
        if version != _FORMAT or namespace != session.host.namespace():
            return {}
        return {name: _baseline(since, marks) for name, since, marks in rows}
    except (Damaged, ValueError):
        return {}


def _baseline(since: str, rows: list[tuple[str, str, int, int, int]]) -> Baseline:
    datetime.fromisoformat(since)
    marks = {(Family(family), to): Mark(*numbers) for family, to, *numbers in rows}
    if any(number < 0 for mark in marks.values() for number in mark):
        raise ValueError("a negative number")
    return Baseline(since=since, marks=marks)


def _save(session: Session, owner: str, baselines: Mapping[str, Baseline]) -> None:
    rows = [
        [name, each.since, [[*place, *mark] for place, mark in each.marks.items()]]
        for name, each in baselines.items()
    ]
    text = json.dumps([_FORMAT, session.host.namespace(), rows]) if rows else None
    session.host.remember(_name(session, owner), text)


def _name(session: Session, owner: str) -> str:
    return f"{owner}.{session.place}.counters"
