"""What lets a second host go on with connections that it never saw begin, without any state shared.

A client's next packet picks the same endpoint on every host whose hash, seed and table are the same, and the
kernel begins to track the connection in its middle (net.netfilter.nf_conntrack_tcp_loose, 1 by default). A
packet of the endpoint that arrives first would leave untranslated, and the client would answer it with a
reset: so such packets are dropped as long as no connection is known for them, and TCP sends them again.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from lbctl.model.addresses import Address, Family
    from lbctl.model.intent import Intent, Service
    from lbctl.model.kinds import Protocol


class Guarded(NamedTuple):
    """Where replies of endpoints come from: an address, and its ports from `port` to `last_port`."""

    address: Address
    protocol: Protocol
    port: int
    last_port: int


def guarded(services: Iterable[Service], family: Family) -> tuple[Guarded, ...]:
    """Return the places whose packets are dropped unless a connection is known for them.

    Those of all endpoints of services with `takeover`, whatever their state: a drained one still has
    connections. In order, and disjoint: places that meet or touch are one.
    """
    return reply_places((each for each in services if each.takeover), family)


def reply_places(services: Iterable[Service], family: Family) -> tuple[Guarded, ...]:
    """Return where replies of all endpoints of these services come from, as `guarded`."""
    places = sorted({place for each in services for place in _places(each, family)}, key=_order)
    merged: list[Guarded] = []
    for _, group in groupby(places, lambda place: (place.address, place.protocol)):
        last, *others = group
        for place in others:
            if place.port <= last.last_port + 1:
                last = last._replace(last_port=max(last.last_port, place.last_port))
            else:
                merged.append(last)
                last = place
        merged.append(last)
    return tuple(merged)


def _places(service: Service, family: Family) -> Iterator[Guarded]:
    listeners = service.listeners_of(family)
    for endpoint in service.endpoints:
        if endpoint.address is None or not endpoint.serves(family):
            continue
        for listener in listeners:
            first, last = listener.port, listener.last_port
            if endpoint.port is not None:
                first = last = endpoint.port
            yield Guarded(endpoint.address, listener.protocol, first, last)


def _order(place: Guarded) -> tuple[Protocol, int, int, int]:
    return place.protocol, int(place.address), place.port, place.last_port


def table_digests(intent: Intent) -> Mapping[str, str]:
    """Return service → a digest of what must be the same on all hosts, for each service with `takeover`.

    That is where it listens, its hash and seed, and the table that the weights and states of its endpoints
    make. Health is no part of it: hosts that disagree about one endpoint differ in the slots of that one
    alone. Two hosts take over each other's connections where the digests are equal, 32 hexadecimal digits.
    """
    return {service.name: _digest(service) for service in intent.services if service.takeover}


def _digest(service: Service) -> str:
    healthy = replace(service, limits=frozenset())
    lines = [f"{service.scheduler} {service.hash_seed}"]
    for family in service.families:
        lines.append(" ".join(sorted(map(str, service.listeners_of(family)))))
        lines.append(" ".join(endpoint.to for endpoint in healthy.slots(family)))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:32]
