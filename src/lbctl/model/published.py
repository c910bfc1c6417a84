"""What a published intent may say, and what a host accepts of one. Pure.

Who can write the published intent decides what every host of a fleet balances, and nothing else: it must not
become root there. So a published intent consists of what `_FIELDS` lists and of nothing else. A field that
is not listed must have its default, and a value of a type that is not listed is refused: a key that lbctl
learns later is refused until it is listed here.
"""

from __future__ import annotations

from dataclasses import MISSING, fields
from fractions import Fraction
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import TYPE_CHECKING, Any

from lbctl.model.addresses import Family
from lbctl.model.check import (
    AllDown,
    Check,
    DnsProbe,
    HealthPolicy,
    HttpProbe,
    Initial,
    OnDown,
    RecordType,
    StatusRange,
    TcpProbe,
    TlsOptions,
    UdpProbe,
)
from lbctl.model.discovery import Discovery, WeightOwner
from lbctl.model.endpoints import Endpoint, Listener
from lbctl.model.forward import Forward
from lbctl.model.intent import Intent, Service
from lbctl.model.kinds import Protocol, Scheduler, SourceNat, State

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from lbctl.model.addresses import Address, Network
    from lbctl.model.follow import Follow

#: The types of a published intent, and the fields of each that it may set.
_FIELDS: Mapping[type, frozenset[str]] = {
    Intent: frozenset({"services"}),
    Service: frozenset(
        {
            "name", "listeners", "endpoints", "scheduler", "local_clients", "seed", "affinity", "source_nat",
            "allow", "deny", "interfaces", "exclude", "check", "health", "discover", "takeover",
            "forward",
        }
    ),
    Listener: frozenset({"protocol", "port", "address", "last_port"}),
    Endpoint: frozenset({"port", "address", "name", "weight", "state", "to"}),
    Check: frozenset(
        {"probe", "port", "interval", "fast_interval", "timeout", "rise", "fall", "hold", "initial"}
    ),
    TcpProbe: frozenset(),
    HttpProbe: frozenset({"path", "host", "status", "body", "tls"}),
    TlsOptions: frozenset({"sni"}),
    StatusRange: frozenset({"low", "high"}),
    DnsProbe: frozenset({"name", "type"}),
    UdpProbe: frozenset({"send", "expect"}),
    HealthPolicy: frozenset({"all_down", "max_down", "on_down", "slow_start"}),
    Discovery: frozenset({"source", "name", "weight", "within", "max", "allow_empty"}),
}  # fmt: skip
#: Sources that a published intent may name: what they answer comes from the network, and is bounded.
_SOURCES = frozenset({"dns", "etcd", "consul", "kubernetes"})
_WORDS = (Protocol, Scheduler, SourceNat, Forward, State, AllDown, OnDown, Initial, RecordType, WeightOwner)
_PLAIN = (
    str, int, bool, bytes, Fraction, IPv4Address, IPv6Address, IPv4Network, IPv6Network, type(None),
)  # fmt: skip
_LOOPBACK: tuple[Address, ...] = (IPv4Address("127.0.0.1"), IPv6Address("::1"))


def unpublishable(intent: Intent) -> tuple[str, ...]:
    """Return why an intent cannot be published: a sentence for each reason, none if it can."""
    return tuple(_unpublishable(intent))


def refusals(intent: Intent, follow: Follow) -> tuple[str, ...]:
    """Return why a host does not accept a published intent: a sentence for each reason, none if it does."""
    return (*_unpublishable(intent), *_beyond(intent, follow))


def _unpublishable(intent: Intent) -> Iterator[str]:
    for path in _others(intent, ""):
        yield f"`{path}` cannot be published: a host decides it for itself"
    if not intent.services:
        yield "it has no services"
    for service in intent.services:
        for path in _strange(service, ""):
            yield f'service "{service.name}": `{path}` cannot be published: a host decides it for itself'
        if service.discover is not None and service.discover.source not in _SOURCES:
            source = service.discover.source
            yield f'service "{service.name}": source "{source}" cannot be published: it reads a host itself'


def _strange(value: object, path: str) -> Iterator[str]:
    """Yield the places of values that are not listed."""
    kind = type(value)
    if kind in _PLAIN or kind in _WORDS:
        return
    if kind in {tuple, frozenset}:
        for each in value:  # type: ignore[attr-defined]
            yield from _strange(each, path)
    elif kind in _FIELDS:
        yield from _others(value, path)
        for field in fields(value):  # type: ignore[arg-type]
            if field.name in _FIELDS[kind]:
                yield from _strange(getattr(value, field.name), _joined(path, field.name))
    else:
        yield path


def _others(value: Any, path: str) -> Iterator[str]:
    """Yield the places of fields that are not listed, and not at their defaults."""
    for field in fields(value):
        if field.name not in _FIELDS[type(value)]:
            default = field.default_factory() if field.default_factory is not MISSING else field.default
            if getattr(value, field.name) != default:
                yield _joined(path, field.name)


def _joined(path: str, name: str) -> str:
    name = name.replace("_", "-")
    return f"{path}.{name}" if path else name


def _beyond(intent: Intent, follow: Follow) -> Iterator[str]:
    if len(intent.services) > follow.max_services:
        yield f"{len(intent.services)} services are more than max-services, {follow.max_services}"
    count = sum(len(service.endpoints) for service in intent.services)
    if count > follow.max_endpoints:
        yield f"{count} endpoints are more than max-endpoints, {follow.max_endpoints}"
    for service in intent.services:
        for text in _service_beyond(service, follow):
            yield f'service "{service.name}": {text}'


def _service_beyond(service: Service, follow: Follow) -> Iterator[str]:
    discovery = service.discover
    # Who is discovered may be of any family.
    families = tuple(Family) if discovery is not None else service.families
    for listener in service.listeners:
        if not _may_listen(listener.address, families, follow.listen_within):
            yield f"listener {listener} is not in a network of listen-within"
    for endpoint in service.endpoints:
        places = _LOOPBACK if endpoint.address is None else (endpoint.address,)
        if not any(place in network for place in places for network in follow.endpoints_within):
            yield f"endpoint {endpoint.to} is not in a network of endpoints-within"
    if discovery is None:
        return
    if discovery.max > follow.max_endpoints:
        yield f"discover.max {discovery.max} is more than max-endpoints, {follow.max_endpoints}"
    if not discovery.within:
        yield "discover has no `within`: name networks of endpoints-within"
    for network in discovery.within:
        if not any(_is_part(network, whole) for whole in follow.endpoints_within):
            yield f"discover.within {network} is not in a network of endpoints-within"


def _may_listen(address: Address | None, families: Sequence[Family], within: Sequence[Network]) -> bool:
    if address is not None:
        return any(address in network for network in within)
    everywhere = {Family.of(network) for network in within if network.prefixlen == 0}
    return everywhere.issuperset(families)


def _is_part(network: Network, whole: Network) -> bool:
    match network, whole:
        case (IPv4Network(), IPv4Network()) | (IPv6Network(), IPv6Network()):
            return network.subnet_of(whole)  # type: ignore[arg-type]
    return False
