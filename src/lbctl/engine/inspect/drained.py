"""Waiting until the established connections of drained endpoints have ended by themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbctl.engine.change.established import Established
from lbctl.errors import ApplyFailed
from lbctl.model import Forward

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from lbctl.engine.change.session import Session
    from lbctl.model import Intent, Place

#: Seconds between two looks: to list 100,000 connections takes a part of a second.
_PAUSE = 1.0


def connections_left(session: Session, intent: Intent, places: Collection[Place]) -> int:
    """Return how many established connections endpoints of an intent have together.

    Raises `ApplyFailed` where they are unknown.
    """
    carried = session.effective(intent).intent.services
    services = [service for service in carried if service.name in {name for name, _ in places}]
    found = Established.on(session, intent.owner, services)
    counts = [
        (service, found.of(service, endpoint, family))
        for service in services
        for endpoint in service.endpoints
        if (service.name, endpoint.name) in places
        for family in service.families
        if endpoint.serves(family)
    ]
    unknown = next((service for service, count in counts if count is None), None)
    if unknown is not None and unknown.forward is Forward.DSR:
        raise ApplyFailed(
            f'the established connections of service "{unknown.name}" are unknown: with direct server return '
            f"and {unknown.scheduler}, this host keeps none",
            hint="on the endpoint, ss -tn state established shows them",
        )
    if unknown is not None:
        raise ApplyFailed(
            "established connections cannot be counted here: the command conntrack is missing or fails",
            hint="apt install conntrack",
        )
    return sum(count for _, count in counts if count is not None)


def await_drained(
    session: Session,
    intent: Intent,
    places: Collection[Place],
    seconds: float,
    show: Callable[[int, float], None] = lambda _left, _seconds: None,
) -> int:
    """Wait until endpoints have no established connection; returns how many are left when the time is over.

    `show` is called after each look with the connections and the seconds that are left.
    """
    host = session.host
    until = host.clock() + seconds
    while True:
        left, time = connections_left(session, intent, places), max(0.0, until - host.clock())
        show(left, time)
        if not left or not time:
            return left
        host.sleep(min(_PAUSE, time))
