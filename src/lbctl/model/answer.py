"""What a source answers: within which bounds it is right, and what it makes of a service.

An answer names endpoints. It is wrong as a whole if one of them lies beyond the bounds: the last good answer
then stays. `merged` adds the endpoints of a right one to those of the file.
"""

from __future__ import annotations

from dataclasses import field, replace
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, TypeAlias

from lbctl.model.addresses import Family
from lbctl.model.check import DnsProbe, ExecProbe
from lbctl.model.discovery import WeightOwner
from lbctl.model.forward import Forward
from lbctl.model.intent import MAX_SLOTS
from lbctl.model.kinds import State
from lbctl.model.schedule import slot_count
from lbctl.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence, Set

    from lbctl.model.addresses import Address
    from lbctl.model.discovery import Discovery
    from lbctl.model.endpoints import Endpoint, Listener
    from lbctl.model.intent import Intent, Service

    _Taken: TypeAlias = tuple[Listener, str]

#: The states of an endpoint, each before those that it wins over where file and source disagree.
_CAUTION = (State.DRAIN, State.BACKUP, State.ACTIVE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Discovered:
    """The last good answer of a source to a name.

    `good` is when it was given or confirmed last, in seconds since 1970: a younger one is no other answer.
    """

    source: str
    name: str
    endpoints: tuple[Endpoint, ...]
    good: float = field(compare=False)

    def within(self, intent: Intent, service: Service) -> tuple[Endpoint, ...]:
        """Return the endpoints that count for a service: none if it asks otherwise, or has closer bounds."""
        discovery = service.discover
        if discovery is None or (discovery.source, discovery.name) != (self.source, self.name):
            return ()
        # Whether its source may name ports of this host was asked when the answer was taken.
        wrong = problem(intent, service, self.endpoints, local=True)
        return self.endpoints if wrong is None else ()


def problem(intent: Intent, service: Service, answer: Sequence[Endpoint], *, local: bool) -> str | None:
    """Return why an answer for a service is wrong; None for a right one.

    `local` is True for a source that may name ports of this host.
    """
    discovery = service.discover
    if discovery is None:
        return "the service has no source"
    if not answer and not discovery.allow_empty:
        return "the answer is empty"
    if len(answer) > discovery.max:
        return f"{len(answer)} endpoints are more than {discovery.max}"
    seen: set[str] = set()
    taken = _listeners_at(intent, {endpoint.address for endpoint in answer})
    for endpoint in answer:
        if endpoint.to in seen:
            return f"endpoint {endpoint.to} is given twice"
        seen.add(endpoint.to)
        if (wrong := _beyond(taken, discovery, endpoint, local=local)) is not None:
            return f"endpoint {endpoint.to} {wrong}"
    return _unfit(service, answer)


def _listeners_at(intent: Intent, addresses: Set[Address | None]) -> Mapping[Address, list[_Taken]]:
    """Return the listeners at some addresses, each with the name of its service."""
    found: dict[Address, list[_Taken]] = {}
    for service in intent.services:
        for listener in service.listeners:
            if listener.address is not None and listener.address in addresses:
                found.setdefault(listener.address, []).append((listener, service.name))
    return found


def _beyond(
    taken: Mapping[Address, list[_Taken]], discovery: Discovery, endpoint: Endpoint, *, local: bool
) -> str | None:
    """Return why an endpoint lies beyond the bounds; None if it does not. `taken` are listeners."""
    address = endpoint.address
    if address is None:
        return None if local else "is a port of this host"
    if discovery.within:
        if not any(address in network for network in discovery.within):
            return "is not in a network of `within`"
    elif address.is_loopback or address.is_link_local or address.is_multicast or address.is_unspecified:
        return "is a loopback, link-local or multicast address"
    elif _is_no_host(address):
        return "is not the address of a host"
    for listener, name in taken.get(address, ()):
        if endpoint.port is None or listener.port <= endpoint.port <= listener.last_port:
            return f'is a listener of service "{name}"'
    return None


def _is_no_host(address: Address) -> bool:
    """Return True for an address that no host has: 0.0.0.0/8, broadcast, and IPv4 in the form of IPv6."""
    if isinstance(address, IPv4Address):
        return int(address) >> 24 == 0 or int(address) == 0xFFFFFFFF
    return address.ipv4_mapped is not None


def _unfit(service: Service, answer: Sequence[Endpoint]) -> str | None:
    """Return why the service cannot have these endpoints together with its own; None if it can."""
    if len({(e.address is None, e.port is None) for e in (*service.endpoints, *answer)}) > 1:
        return "endpoints of two kinds: with and without an address or a port"
    if any(e.port is not None for e in answer) and any(x.is_range for x in service.listeners):
        return "endpoints with a port behind a listener with a range of ports"
    ports = {port for x in service.listeners for port in (x.port, x.last_port)}
    if service.forward is Forward.DSR and any(e.port is not None and ports != {e.port} for e in answer):
        return "endpoints with another port than the listener's, which direct server return keeps"
    check = service.check
    if check is not None and check.port is None and not isinstance(check.probe, (DnsProbe, ExecProbe)):
        bare = next((e for e in answer if e.port is None), None)
        if bare is not None:
            return f"the check has no port, and endpoint {bare.to} has none either"
    joined = merged(service, answer)
    names = [endpoint.name for endpoint in joined.endpoints]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        return f"two endpoints have the name {twice}"
    families = {family for endpoint in joined.endpoints for family in Family if endpoint.serves(family)}
    for listener in service.listeners:
        if families and listener.address is not None and Family.of(listener.address) not in families:
            return f"no endpoint is of the address family of listener {listener}"
    for family in joined.families:
        slots = slot_count([e.weight for e in joined.ready(family)])
        if slots > MAX_SLOTS:
            return f"exact shares of these weights need {slots} slots, more than {MAX_SLOTS}"
    return None


def merged(service: Service, answer: Sequence[Endpoint]) -> Service:
    """Return a service with the endpoints of its file, then those that only the source has, by address.

    The very same service if the answer changes nothing. An endpoint of both keeps its name, takes new
    connections only if both let it, and has the weight that its owner by `discover.weight` says.
    """
    found = {endpoint.to: endpoint for endpoint in answer}
    by_source = service.discover is not None and service.discover.weight is WeightOwner.SOURCE
    own = tuple(
        _both(endpoint, found[endpoint.to], by_source=by_source) if endpoint.to in found else endpoint
        for endpoint in service.endpoints
    )
    known = {endpoint.to for endpoint in own}
    others = ordered([e for e in answer if e.to not in known])
    endpoints = (*own, *_named(others, {e.name for e in own}, by_source=by_source))
    return service if endpoints == service.endpoints else replace(service, endpoints=endpoints)


def ordered(answer: Sequence[Endpoint]) -> tuple[Endpoint, ...]:
    """Return endpoints by address and port: sources give them in any order."""
    return tuple(sorted(answer, key=_place))


def _both(own: Endpoint, found: Endpoint, *, by_source: bool) -> Endpoint:
    state = min(own.state, found.state, key=_CAUTION.index)
    return replace(own, state=state, weight=found.weight if by_source else own.weight)


def _named(endpoints: Sequence[Endpoint], taken: set[str], *, by_source: bool) -> Iterator[Endpoint]:
    """Yield endpoints that only the source has, each with a name of its own: its address if need be."""
    for endpoint in endpoints:
        name = endpoint.to if endpoint.name in taken else endpoint.name
        taken.add(name)
        yield replace(endpoint, name=name, weight=endpoint.weight if by_source else 1)


def _place(endpoint: Endpoint) -> tuple[int, int, int]:
    address = endpoint.address
    version, number = (0, 0) if address is None else (address.version, int(address))
    return version, number, endpoint.port or 0
