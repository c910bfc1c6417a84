"""Waiting until the established connections of drained endpoints have ended by themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbctl.engine.inspect.established import Established
from lbctl.errors import ApplyFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from lbctl.host import Host
    from lbctl.model import Intent, Place

#: Seconds between two looks: to list 100,000 connections takes a part of a second.
_PAUSE = 1.0


def connections_left(host: Host, intent: Intent, places: Collection[Place]) -> int:
    """Return how many established connections endpoints of an intent have together.

    Raises `ApplyFailed` where the host cannot list them.
    """
    found = Established.on(host, intent.services)
    if found is None:
        raise ApplyFailed(
            "established connections cannot be counted here: the command conntrack is missing or fails",
            hint="apt install conntrack",
        )
    return sum(
        found.of(service, endpoint, family)
        for service in intent.services
        for endpoint in service.endpoints
        if (service.name, endpoint.name) in places
        for family in service.families
        if endpoint.serves(family)
    )


def await_drained(
    host: Host,
    intent: Intent,
    places: Collection[Place],
    seconds: float,
    show: Callable[[int, float], None] = lambda _left, _seconds: None,
) -> int:
    """Wait until endpoints have no established connection; returns how many are left when the time is over.

    `show` is called after each look with the connections and the seconds that are left.
    """
    until = host.clock() + seconds
    while True:
        left, time = connections_left(host, intent, places), max(0.0, until - host.clock())
        show(left, time)
        if not left or not time:
            return left
        host.sleep(min(_PAUSE, time))
