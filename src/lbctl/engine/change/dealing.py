"""Services whose slots are dealt by their established connections: counting, and dealing again.

Only the agent does it, time and again. Any command then has the slots that were dealt last.
"""

from __future__ import annotations

from dataclasses import field
from typing import TYPE_CHECKING

from lbctl.engine.change import counters
from lbctl.engine.change.established import Established
from lbctl.host import connection_counts
from lbctl.model import Deal, Family, deal, slots_for
from lbctl.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from lbctl.engine.change.session import Session
    from lbctl.model import Service

#: What keeps an unchanged table: so many slots of 100 would be others. Each one that is dealt to another
#: endpoint is a change of the rules.
_STAYS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What was counted of a service: established connections by family and `Endpoint.to`, and new ones.

    `arrived` are all since the rules of the service were loaded for the first time.
    """

    established: Mapping[tuple[Family, str], int]
    arrived: Mapping[tuple[Family, str], int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What was counted of services at one time, in seconds of the steady clock."""

    time: float
    loads: Mapping[str, Load] = field(default_factory=dict)


def measure(session: Session, owner: str, services: Sequence[Service]) -> Measured | None:
    """Count the connections of services; None if the kernel cannot be asked. Raises `ApplyFailed`."""
    host = session.host
    protocols = {listener.protocol for service in services for listener in service.listeners}
    connections = connection_counts(host, sorted(protocols))
    if connections is None:
        return None
    found = Established(connections, services)
    counts = counters.counted(session, owner, [service.name for service in services])
    loads = {}
    for service in services:
        taken = counts[service.name].taken
        loads[service.name] = Load(
            established={
                (family, endpoint.to): found.of(service, endpoint, family) or 0
                for family in service.families
                for endpoint in service.endpoints
                if endpoint.serves(family)
            },
            arrived={place: each.connections for place, each in taken.items()},
        )
    return Measured(time=host.clock(), loads=loads)


def deal_again(
    services: Sequence[Service], before: Measured | None, now: Measured, period: float
) -> dict[str, frozenset[Deal]]:
    """Return the deals of services, as they are carried out, for the next `period` seconds.

    As many connections are expected to arrive and to end as did since `before`. A service keeps its deals
    while the new ones would be nearly the same. Pure.
    """
    found = {}
    for service in services:
        dealt = frozenset(_deals(service, before, now, period))
        found[service.name] = service.deals if _is_alike(service.deals, dealt) else dealt
    return found


def _deals(service: Service, before: Measured | None, now: Measured, period: float) -> Iterator[Deal]:
    load = now.loads[service.name]
    old = before.loads.get(service.name) if before is not None else None
    seconds = now.time - before.time if before is not None else 0.0
    for family in service.families:
        rotation = service.rotation(family)
        left = [(each, part) for each, part in rotation if part]
        if not left:
            continue
        places = [(family, each.to) for each, _ in left]
        flows = [_flow(load, old, place) for place in places]
        pace = period / seconds if seconds > 0 else 0.0
        dealt = deal(
            [each.weight * part for each, part in left],
            [load.established.get(place, 0) for place in places],
            round(sum(arrived for arrived, _ in flows) * pace),
            slots_for(len(rotation)),
            [ending * pace for _, ending in flows],
        )
        for (_, to), slots in zip(places, dealt, strict=True):
            yield Deal(family=family, to=to, slots=slots)


def _flow(load: Load, old: Load | None, place: tuple[Family, str]) -> tuple[int, float]:
    """Return how many connections of an endpoint arrived between two counts, and what part of them ended."""
    if old is None:
        return 0, 0.0
    before, now = old.established.get(place, 0), load.established.get(place, 0)
    arrived = max(load.arrived.get(place, 0) - old.arrived.get(place, 0), 0)
    ended = max(before + arrived - now, 0)
    # One more than there are: of a few, chance decides how many end.
    return arrived, ended / ((before + now) / 2 + 1)


def _is_alike(old: frozenset[Deal], new: frozenset[Deal]) -> bool:
    """Return True for deals to the same endpoints that differ in few slots."""
    before = {(each.family, each.to): each.slots for each in old}
    after = {(each.family, each.to): each.slots for each in new}
    if before.keys() != after.keys():
        return False
    moved = sum(abs(before[place] - slots) for place, slots in after.items()) // 2
    return 100 * moved <= _STAYS * sum(after.values())
