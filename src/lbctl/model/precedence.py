"""Which listeners decide ahead of wider ones.

A listener with a single port decides ahead of one with a range, and one with an address ahead of one without
whose service excludes that address. Whatever a backend does by listeners, a connection has to get from the
listener that decides, and nothing from the wider one: its source address, its refusal, its affinity.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from lbctl.model.addresses import Address
    from lbctl.model.endpoints import Listener
    from lbctl.model.intent import Service
    from lbctl.model.kinds import Protocol

#: Listeners of one protocol and address, in the order of their ports. They share none, but for those without
#: an address of which one hides another.
_Ordered: TypeAlias = "list[tuple[int, int, Service]]"


def hidden(services: Iterable[Service]) -> Mapping[str, Mapping[Listener, tuple[Service, ...]]]:
    """Return name of a service → each of its listeners that hides a part of wider ones → their services.

    Other services only, and only those that have some: without ranges and `exclude` there are none.
    """
    every = tuple(services)
    wide = _wide(every)
    if not wide:
        return {}
    found: dict[str, dict[Listener, tuple[Service, ...]]] = {}
    for service in every:
        for listener in service.listeners:
            others = dict.fromkeys(other for other in _hidden_by(listener, wide) if other is not service)
            if others:
                found.setdefault(service.name, {})[listener] = tuple(others)
    return found


def _wide(services: Sequence[Service]) -> Mapping[tuple[Protocol, bool], Mapping[Address | None, _Ordered]]:
    """Return the listeners that others can hide, by protocol and by whether they are ranges."""
    found: dict[tuple[Protocol, bool], dict[Address | None, _Ordered]] = {}
    for service in services:
        for listener in service.listeners:
            if listener.is_range or (service.exclude and listener.address is None):
                by_address = found.setdefault((listener.protocol, listener.is_range), {})
                place = (listener.port, listener.last_port, service)
                by_address.setdefault(listener.address, []).append(place)
    for by_address in found.values():
        for ordered in by_address.values():
            ordered.sort(key=lambda place: place[:2])
    return found


def _hidden_by(
    listener: Listener, wide: Mapping[tuple[Protocol, bool], Mapping[Address | None, _Ordered]]
) -> Iterator[Service]:
    if not listener.is_range:
        ranges = wide.get((listener.protocol, True), {})
        addresses = ranges if listener.address is None else (listener.address, None)
        for address in addresses:
            yield from _sharing(ranges.get(address, ()), listener)
    if listener.address is not None:
        same = wide.get((listener.protocol, listener.is_range), {})
        yield from _sharing(same.get(None, ()), listener)


def _sharing(ordered: Sequence[tuple[int, int, Service]], listener: Listener) -> Iterator[Service]:
    """Yield the services of those in order that share a port with a listener."""
    begin = bisect_right(ordered, listener.port, key=lambda place: place[0])
    for first, last, service in ordered[max(0, begin - 1) :]:
        if first > listener.last_port:
            return
        if last >= listener.port:
            yield service
