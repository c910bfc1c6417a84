"""Services that were read, and are one → the service of an intent that does the same."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import lru_cache
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING, NamedTuple

from lbctl.engine.migrate.groups import ANYWHERE, LOCAL_HOOK, remembered
from lbctl.engine.migrate.weights import NotExpressible, order, weights_of
from lbctl.model import (
    INTERFACE,
    MAX_PORT,
    MAX_SLOTS,
    NAME,
    Endpoint,
    Family,
    Forward,
    Listener,
    Protocol,
    Scheduler,
    Service,
    SourceNat,
    brief,
    conditions,
    decimal,
    default_seed,
    slot_count,
    split,
    unmatched,
    with_port,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from lbctl.model import Address, AnalysedService, Network

#: Listeners that the ports of one selector become at most.
_MOST_PORTS = 64
#: Letters of the ports in a service's name.
_MOST_LETTERS = 40
#: Seconds of 30 days, the longest that an intent can say.
_LONGEST_AFFINITY = 30 * 86400
_EVERYBODY: Mapping[Family, Network] = {
    Family.IPV4: ip_network("0.0.0.0/0"),
    Family.IPV6: ip_network("::/0"),
}
_PROTOCOLS = frozenset(Protocol)
_SCHEDULERS = {
    "nth": Scheduler.ROUND_ROBIN,
    "single": Scheduler.ROUND_ROBIN,
    "random": Scheduler.RANDOM,
    "hash": Scheduler.SOURCE_HASH,
}


def service_of(
    group: Sequence[AnalysedService], made: Mapping[str, Service], last: dict[str, int]
) -> tuple[Service, list[str]]:
    """Return the service that a group is, with remarks; raises `NotExpressible`.

    Its name is none of those `made`; `last` are the numbers that names have had.
    """
    remarks: list[str] = []
    first = group[0]
    listeners = dict.fromkeys(listener for each in group for listener in _listeners(each, remarks))
    anywhere = {(x.protocol, x.ports) for x in listeners if x.address is None}
    narrowed = _narrowed(group)
    name = _name(first, made, last)
    scheduler, endpoints, seed = _picked(group)
    service = Service(
        name=name,
        # One for every address of this host holds for each of them.
        listeners=tuple(x for x in listeners if x.address is None or (x.protocol, x.ports) not in anywhere),
        endpoints=endpoints,
        scheduler=scheduler,
        local_clients=LOCAL_HOOK in first.hooks,
        seed=None if seed is None or seed == default_seed(name) else seed,
        affinity=_affinity(first, remarks),
        source_nat=_source_nat(group, endpoints, remarks),
        allow=narrowed.allow,
        deny=narrowed.deny,
        interfaces=narrowed.interfaces,
        forward=Forward.DSR if first.action == Forward.DSR else Forward.NAT,
    )
    service = _excluding(service, narrowed.exclude)
    if service.deny:
        remarks.append("clients of deny are refused; the existing rules may let them pass")
    _check_order(service, group, remarks)
    return service, remarks


class _Narrowed(NamedTuple):
    """What the connections of a service have in common beside its listeners."""

    #: () for all clients.
    allow: tuple[Network, ...]
    deny: tuple[Network, ...]
    #: () for all.
    interfaces: tuple[str, ...]
    exclude: tuple[Network, ...]


def _narrowed(group: Sequence[AnalysedService]) -> _Narrowed:
    """Return what the rules of all listeners ask for."""
    allowed: dict[Family, dict[object, set[Network]]] = {}
    denied: dict[Family, dict[object, set[Network]]] = {}
    excluded: dict[Family, dict[object, set[Network]]] = {}
    arriving: set[tuple[str, ...]] = set()
    for each in group:
        clients = {_EVERYBODY[each.family]}
        interfaces: tuple[str, ...] = ()
        # An address that a listener names is the only one, whatever is exempted.
        anywhere = each.dst in ANYWHERE
        for sides in (denied, *([excluded] if anywhere else ())):
            sides.setdefault(each.family, {}).setdefault(each.selector[:4], set())
        for condition in conditions(each):
            exempted = condition._replace(inverted=False).networks() if condition.inverted else None
            match condition.name:
                case "src" if (wanted := condition.networks()) is not None:
                    clients = set(wanted)
                case "src" if exempted is not None:
                    denied[each.family][each.selector[:4]].update(exempted)
                case "dst" if exempted is not None and anywhere:
                    excluded[each.family][each.selector[:4]].update(exempted)
                case "iif" if not condition.inverted and all(map(_is_interface, condition.values)):
                    interfaces = condition.values
                case _:
                    value = (each.when or {})[condition.name]
                    raise NotExpressible(
                        f"it matches only if {condition.name} is {value}, which an intent cannot express"
                    )
        arriving.add(interfaces)
        # Rules may name the clients of a listener one by one.
        allowed.setdefault(each.family, {}).setdefault(each.selector[:4], set()).update(clients)
    if len(arriving) > 1:
        raise NotExpressible("its listeners are for different interfaces")
    # Everybody of each family is no condition.
    clients = _agreed(allowed, "its listeners allow different clients")
    return _Narrowed(
        _sorted(clients) if clients - set(_EVERYBODY.values()) else (),
        _sorted(_agreed(denied, "its listeners exempt different clients")),
        arriving.pop(),
        _sorted(_agreed(excluded, "its listeners exempt different destinations")),
    )


def _is_interface(name: str) -> bool:
    return bool(INTERFACE.match(name)) and name != "lo"


def _agreed(found: Mapping[Family, Mapping[object, set[Network]]], reason: str) -> set[Network]:
    """Return what all listeners of a family have; raises `NotExpressible` if they differ."""
    if any(len({frozenset(each) for each in by.values()}) > 1 for by in found.values()):
        raise NotExpressible(reason)
    return {network for by in found.values() for each in by.values() for network in each}


def _sorted(networks: Iterable[Network]) -> tuple[Network, ...]:
    return tuple(sorted(networks, key=lambda network: (network.version, network)))


def _excluding(service: Service, networks: tuple[Network, ...]) -> Service:
    """Return a service that leaves some destinations alone; raises `NotExpressible` if it listens on one."""
    if not networks:
        return service
    try:
        return replace(service, exclude=networks)
    except ValueError as error:
        raise NotExpressible(str(error)) from None


def _affinity(service: AnalysedService, remarks: list[str]) -> int | None:
    """Seconds for which clients are kept; None for no affinity."""
    kept = remembered(service)
    if kept is None:
        return None
    if kept.by != "source address":
        raise NotExpressible(f"clients are kept by their {kept.by}")
    if kept.seconds is None:
        remarks.append("clients are kept without a time limit; the intent has 30 days")
    return min(kept.seconds or _LONGEST_AFFINITY, _LONGEST_AFFINITY)


def _source_nat(
    group: Sequence[AnalysedService], endpoints: Sequence[Endpoint], remarks: list[str]
) -> SourceNat:
    """When the client's address is replaced; the default where rules do not say, or nothing needs it."""
    given = {each.source_nat: None for each in group if each.source_nat is not None}
    if len(given) > 1:
        remarks.append(f"the client's address is replaced in several ways ({', '.join(given)})")
    lines = sorted({line for each in group for line in each.source_lines})
    if lines:
        named = f"line{'s' if len(lines) > 1 else ''} {', '.join(map(str, lines))}"
        remarks.append(f"the client address is replaced for some connections only ({named})")
    local = not any(endpoint.address for endpoint in endpoints)
    found = next(iter(given), SourceNat.HAIRPIN)
    return SourceNat.HAIRPIN if local and found is SourceNat.NEVER else found


def _check_order(service: Service, group: Sequence[AnalysedService], remarks: list[str]) -> None:
    """Say where the intent gives the same shares in another way."""
    for each in group:
        if not each.slots or each.mode not in {"nth", "hash"}:
            continue
        if slot_count([e.weight for e in service.endpoints if e.serves(each.family)]) > MAX_SLOTS:
            raise NotExpressible(f"more than {MAX_SLOTS} slots")
        if len(group) == 1 and len(each.slots) == len(service.endpoints):
            # One slot for each endpoint, in the order of the slots.
            continue
        slots = [e.to for e in service.slots(each.family)]
        count = len(slots)
        kept = _keeps_port(each)
        read = [(slot if kept else with_port(slot, each)) or "" for slot in each.slots]
        same = len(read) % count == 0 and all(read[i] == slots[i % count] for i in range(len(read)))
        if not same:
            what = "in another order" if each.mode == "nth" else "for other clients"
            remarks.append(f"the imported service has the same shares, {what}")
            return


def _listeners(service: AnalysedService, remarks: list[str]) -> Iterator[Listener]:
    if service.action == Forward.DSR:
        _need_addresses(service)
    elif service.action not in {"redirect", "dnat"}:
        raise NotExpressible(f"it chooses by {service.action}; an intent sends connections to endpoints")
    if service.proto not in _PROTOCOLS:
        raise NotExpressible(f"protocol {service.proto}")
    if service.leak:
        raise NotExpressible(
            f"{unmatched(service.leak)}; --fix gives each endpoint the same "
            "share, --keep these shares, with the listener itself as one more endpoint"
        )
    if service.dport == "any":
        raise NotExpressible("all ports")
    if service.hooks == (LOCAL_HOOK,):
        remarks.append(
            "the existing rules match only connections that this host makes; the imported service also takes "
            "connections that arrive"
        )
    if service.dst == "any":
        remarks.append("the existing rules also match forwarded traffic; the imported service does not")
    for address in _addresses(service.dst):
        for first, last in _ports(service):
            yield Listener(protocol=Protocol(service.proto), port=first, address=address, last_port=last)


def _need_addresses(service: AnalysedService) -> None:
    """Raise `NotExpressible` for frames that are sent on to what is known by MAC address or link alone."""
    unknown = [each for each in service.backends if each.to.startswith(("mac ", "link "))]
    if unknown:
        listed = ", ".join(f"{each.to} ({brief(each.share)})" for each in unknown)
        raise NotExpressible(
            f"the addresses of its endpoints are not in the rules: {listed}; in a service with "
            '`forward = "dsr"`, write each as { address = "…", mac = "…" }'
        )
    if service.dst in ANYWHERE:
        raise NotExpressible('`forward = "dsr"` needs the address of each listener; these rules have none')


def _ports(service: AnalysedService) -> list[tuple[int, int]]:
    """Return the first and the last port of each listener: ranges only if connections keep their port."""
    found: list[tuple[int, int]] = []
    text = service.dport
    for part in text.split(","):
        first, _, last = part.strip().partition("-")
        low, high = decimal(first, 5), decimal(last or first, 5)
        if low is None or high is None or low > high:
            raise NotExpressible(f"ports {text}")
        if low == 0:
            raise NotExpressible("port 0")
        single = not _keeps_port(service)
        if (high - low if single else 0) + len(found) >= _MOST_PORTS:
            raise NotExpressible(f"more than {_MOST_PORTS} ports")
        found += [(port, port) for port in range(low, high + 1)] if single else [(low, high)]
    return found


def _keeps_port(service: AnalysedService) -> bool:
    """Return True if all endpoints are addresses to which connections go with the port that they came for."""
    if service.action == Forward.DSR:
        return True
    return service.changes == "destination" and all(
        address and not port for address, port in (split(backend.to) for backend in service.backends)
    )


def _addresses(text: str) -> list[Address | None]:
    """Return the addresses of listeners; None is any of this host."""
    if text in ANYWHERE:
        return [None]
    if "/" in text:
        raise NotExpressible(f"a whole network, {text}")
    try:
        return [ip_address(part.strip()) for part in text.split(",")]
    except ValueError:
        raise NotExpressible(f"addresses {text}") from None


def _picked(
    group: Sequence[AnalysedService],
) -> tuple[Scheduler, tuple[Endpoint, ...], int | None]:
    endpoints: dict[str, Endpoint] = {}
    seed: int | None = None
    modes = {each.mode for each in group} - {"single"} or {"single"}
    if len(modes) > 1 or not modes <= _SCHEDULERS.keys():
        raise NotExpressible(f"endpoints are picked in more than one way ({', '.join(sorted(modes))})")
    mode = modes.pop()
    for each in group:
        if mode == "hash" and each.mode == "hash":
            if each.affinity is None or each.affinity.by != "source address" or each.hash_seed is None:
                raise NotExpressible("a hash that the intent does not have")
            seed = each.hash_seed
        weights = weights_of(each)
        places = order([slot for slot in each.slots if slot], weights)
        names = {backend.to: backend.name for backend in each.backends}
        kept = _keeps_port(each)
        for to in places:
            text = to if kept else with_port(to, each) or ""
            made = _endpoint(text, weights[to], names.get(to))
            known = endpoints.get(text)
            if known is not None and known.weight != made.weight:
                raise NotExpressible("its listeners have different shares")
            endpoints.setdefault(text, made)
    if len({(e.address is None, e.port is None) for e in endpoints.values()}) > 1:
        raise NotExpressible("endpoints of this host, addresses with a port and without one in one")
    if len({e.name for e in endpoints.values()}) < len(endpoints):
        endpoints = {to: replace(e, name=e.to) for to, e in endpoints.items()}
    return _SCHEDULERS[mode], tuple(endpoints.values()), seed


@lru_cache(maxsize=1 << 14)
def _endpoint(text: str, weight: int, name: str | None) -> Endpoint:
    """Return an endpoint. One often serves several services, and an address takes long to read."""
    host, port = split(text)
    if not host and ":" in text:
        raise NotExpressible("only the port is rewritten, and the address stays")
    known = decimal(port, 5)
    if port and (known is None or not 1 <= known <= MAX_PORT):
        raise NotExpressible(f"endpoint {text} without a port of its own")
    try:
        address = ip_address(host) if host else None
    except ValueError:
        raise NotExpressible(f"endpoint {text}") from None
    given = name if name and NAME.match(name) else ""
    return Endpoint(port=known, address=address, weight=weight, name=given)


def _name(service: AnalysedService, made: Mapping[str, Service], last: dict[str, int]) -> str:
    """Return a name for the service: that of its comments as far as it can be one.

    `last` are the numbers that names have had.
    """
    tidy = re.sub(r"[^a-z0-9]+", "-", (service.name or "").lower()).strip("-")[:50].strip("-")
    base = service.name if service.name and NAME.match(service.name) else tidy
    base = base or f"{service.proto}-{_short_ports(service.dport)}"
    name = base
    while name in made:
        last[base] = number = last.get(base, 1) + 1
        name = f"{base[:55]}-{number}"
    return name


def _short_ports(text: str) -> str:
    """Ports as a part of a name: all of them, or the first and how many parts follow."""
    parts = re.findall(r"[0-9-]+", text)
    joined = "-".join(parts)
    return joined if len(joined) <= _MOST_LETTERS else f"{parts[0]}-and-{len(parts) - 1}-more"
