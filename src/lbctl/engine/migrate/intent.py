"""What existing rules do → the intent that does the same."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, reduce
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING, NamedTuple

from lbctl.engine.migrate.weights import NotExpressible, order, weights_of
from lbctl.model import (
    INTERFACE,
    MAX_PORT,
    MAX_SLOTS,
    NAME,
    Analysis,
    Endpoint,
    Family,
    Forward,
    Intent,
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
from lbctl.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lbctl.model import Address, Affinity, AnalysedService, Condition, Network, UnsupportedRule

#: Listeners that the ports of one selector become at most.
_MOST_PORTS = 64
#: Letters of the ports in a service's name.
_MOST_LETTERS = 40
#: Seconds of 30 days, the longest that an intent can say.
_LONGEST_AFFINITY = 30 * 86400
#: Where connections are that were made on this host.
_OWN = "output"
#: What a listener without an address is read from.
_ANYWHERE = {"any", "local"}
_EVERYBODY: Mapping[Family, Network] = {
    Family.IPV4: ip_network("0.0.0.0/0"),
    Family.IPV6: ip_network("::/0"),
}
_PROTOCOLS = frozenset(Protocol)
_BALANCING = {"nth", "random", "hash", "mixed"}
_SCHEDULERS = {
    "nth": Scheduler.ROUND_ROBIN,
    "single": Scheduler.ROUND_ROBIN,
    "random": Scheduler.RANDOM,
    "hash": Scheduler.SOURCE_HASH,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """An intent, what stands above each of its services, and what it cannot hold."""

    intent: Intent
    comments: Mapping[str, Sequence[str]]
    notes: tuple[str, ...]
    #: The lines that each service was read from.
    lines: Mapping[str, tuple[int, ...]]
    #: The services that are not in the intent, each with the reason.
    lost: tuple[tuple[AnalysedService, str], ...]
    #: The rules that may balance and are not understood.
    unread: tuple[UnsupportedRule, ...] = ()

    @property
    def complete(self) -> bool:
        """True if the intent holds every service that balances, and each rule was understood."""
        return not self.unread and not any(is_balancing(service) for service, _ in self.lost)


class _Quotations(Mapping[str, Sequence[str]]):
    """The lines that each service was read from, verbatim; a large text is not there once more."""

    def __init__(self, lines: Mapping[str, Sequence[int]], source: Sequence[str]) -> None:
        self._lines = lines
        self._source = source

    def __getitem__(self, name: str) -> Sequence[str]:
        source = self._source
        numbers = [line for line in self._lines[name] if 0 < line <= len(source)]
        return [f"line {line}: {source[line - 1].strip()}" for line in numbers]

    def __iter__(self) -> Iterator[str]:
        return iter(self._lines)

    def __len__(self) -> int:
        return len(self._lines)


def is_balancing(service: AnalysedService) -> bool:
    """Return True for a service that spreads its connections over several endpoints, or leaves some out."""
    return service.mode in _BALANCING and len(service.backends) > (0 if service.leak else 1)


def imported(reading: Analysis, source: Sequence[str] = (), *, exact: bool = False) -> Imported:
    """Return the intent that does what was read. `source` are the lines of the text, for comments.

    Clients that rules exempt pass untouched; those of `deny`, which an intent has for them, are refused. With
    `exact` a service with such clients is none that an intent can hold.
    """
    notes: list[str] = []
    made: dict[str, Service] = {}
    numbers: dict[str, tuple[int, ...]] = {}
    lost: list[tuple[AnalysedService, str]] = []
    taken = _Taken()
    last: dict[str, int] = {}
    for group in _groups(_with_own(_joined(_whole(reading.services)))):
        try:
            service, remarks = _made(group, made, last, exact=exact)
        except NotExpressible as reason:
            group, failed = _expressible(group, str(reason), made, last, exact=exact)
            lost += failed
            if not group:
                continue
            service, remarks = _made(group, made, last, exact=exact)
        if (clash := taken.clash(service)) is not None:
            lost += [(each, clash) for each in group]
            continue
        taken.add(service)
        made[service.name] = service
        notes += [f"{service.name}: {remark}" for remark in remarks]
        numbers[service.name] = tuple(dict.fromkeys([line for each in group for line in each.lines]))
    notes += [f"{shown(each)}: {reason}" for each, reason in lost]
    notes += [f"line {each.line}: {each.what}: {each.reason}" for each in reading.unsupported]
    return Imported(
        intent=Intent(services=tuple(made.values())),
        comments=_Quotations(numbers, source),
        notes=tuple(notes),
        lines=numbers,
        lost=tuple(lost),
        unread=reading.unsupported,
    )


def _made(
    group: Sequence[AnalysedService], made: Mapping[str, Service], last: dict[str, int], *, exact: bool
) -> tuple[Service, list[str]]:
    """Return the service that a group is, with remarks; raises `NotExpressible`."""
    service, remarks = _service(group, made, last)
    if exact and service.deny:
        exempt = ", ".join(map(str, service.deny))
        raise NotExpressible(f"it exempts clients ({exempt}), and an intent would refuse them")
    return service, remarks


def _expressible(
    group: list[AnalysedService],
    reason: str,
    made: Mapping[str, Service],
    last: Mapping[str, int],
    *,
    exact: bool,
) -> tuple[list[AnalysedService], list[tuple[AnalysedService, str]]]:
    """Return what of a group can be one service, and the rest; all of it cannot be one, for a `reason`."""
    failed = {}
    for place, each in enumerate(group) if len(group) > 1 else ():
        try:
            _made([each], made, dict(last), exact=exact)
        except NotExpressible as own:
            failed[place] = str(own)
    rest = [each for place, each in enumerate(group) if place not in failed]
    if not failed or not rest:
        return [], [(each, reason) for each in group]
    lost = [(group[place], own) for place, own in failed.items()]
    try:
        _made(rest, made, dict(last), exact=exact)
    except NotExpressible as together:
        return [], lost + [(each, str(together)) for each in rest]
    return rest, lost


class _Taken:
    """The listeners of services so far; see `Listener.overlaps`."""

    def __init__(self) -> None:
        #: By protocol and port, with all ranges of ports together, and then by address.
        self._found: dict[object, dict[Address | None, list[tuple[Listener, Service]]]] = {}

    def add(self, service: Service) -> None:
        """Add the listeners of a service."""
        for listener in service.listeners:
            self._beside(listener).setdefault(listener.address, []).append((listener, service))

    def clash(self, service: Service) -> str | None:
        """Return why a service cannot be beside these: a connection could match a listener of both."""
        for listener in service.listeners:
            for other, rival in self._rivals(listener):
                if (
                    listener.overlaps(other)
                    and not _leaves_to(service, listener, other)
                    and not _leaves_to(rival, other, listener)
                ):
                    return _clash(service, listener, rival, other)
        return None

    def _beside(self, listener: Listener) -> dict[Address | None, list[tuple[Listener, Service]]]:
        key = listener.protocol, None if listener.is_range else listener.port
        return self._found.setdefault(key, {})

    def _rivals(self, listener: Listener) -> Iterator[tuple[Listener, Service]]:
        found = self._beside(listener)
        addresses = list(found) if listener.address is None else [None, listener.address]
        for address in addresses:
            yield from found.get(address, ())


def _clash(service: Service, listener: Listener, rival: Service, other: Listener) -> str:
    """Return that two services have one listener, and how to have one for local and for other connections."""
    why = (
        f"{listener} overlaps with {other}, the listener of {rival.name}; an intent has one service for both"
    )
    if service.local_clients is rival.local_clients:
        return why
    outside = rival if service.local_clients else service
    return (
        f"{why}, and the same shares for local connections and for those from outside: "
        f"{outside.name} without `local-clients = false`"
    )


def _leaves_to(service: Service, listener: Listener, other: Listener) -> bool:
    """Return True if a service excludes the address of another listener from its own one."""
    return (
        listener.address is None
        and other.address is not None
        and any(other.address in network for network in service.exclude)
    )


def _whole(services: Sequence[AnalysedService]) -> list[AnalysedService]:
    """Return services without those that are only a part of the connections of another one.

    What one service exempts may be balanced by another one, which has it among its own connections.
    """
    alike: dict[object, list[AnalysedService]] = {}
    for service in services:
        alike.setdefault((service.selector[:4], service.picking), []).append(service)
    parts = {
        id(service)
        for group in alike.values()
        if len(group) > 1
        for service in group
        if any(
            set(other.selector[4]) < set(service.selector[4]) and set(service.hooks) <= set(other.hooks)
            for other in group
        )
    }
    return [service for service in services if id(service) not in parts]


def _joined(services: Iterable[AnalysedService]) -> list[AnalysedService]:
    """Return services; as one those of which rules match each interface, or local connections, apart."""
    found: dict[object, AnalysedService] = {}
    for each in services:
        service = _as_arriving(each)
        if service is None:
            continue
        when = {name: value for name, value in (service.when or {}).items() if name != "iif"}
        key: object = (*service.selector[:4], tuple(sorted(when.items())), service.picking, _shares(service))
        other = found.setdefault(key, service)
        if other is service:
            continue
        if not _are_parts(other, service):
            found[len(found), service.selector] = service
            continue
        interfaces = [x.when["iif"] for x in (other, service) if x.when and "iif" in x.when]
        found[key] = replace(_both(other, service), when={**when, "iif": ",".join(interfaces)})
    return list(found.values())


def _with_own(services: list[AnalysedService]) -> list[AnalysedService]:
    """Return services; as one those of which rules for this host's own connections do the same apart."""
    own = {id(each): _turns(each) for each in services if _is_own(each)}
    if not own:
        return services
    arriving: dict[object, AnalysedService] = {}
    for each in services:
        if _OWN not in each.hooks and not each.when and each.dst in _ANYWHERE:
            arriving.setdefault(_turns(each), each)
    parts: dict[int, list[AnalysedService]] = {}
    for each in services:
        if (whole := arriving.get(own.get(id(each)))) is not None:
            parts.setdefault(id(whole), []).append(each)
    joined = {id(each) for group in parts.values() for each in group}
    return [reduce(_both, parts.get(id(each), ()), each) for each in services if id(each) not in joined]


def _is_own(service: AnalysedService) -> bool:
    """Return True for all that this host sends to its own addresses."""
    return service.hooks == (_OWN,) and service.dst == "local" and not service.when


def _turns(service: AnalysedService) -> object:
    """Return what two services have in common that connections cannot tell from one, but by their hook."""
    return (
        *(service.family, service.proto, service.dport, service.name, service.action, service.mode),
        *(
            _shares(service),
            service.slots,
            service.hash_seed,
            service.affinity,
            service.source_nat,
            service.leak,
        ),
    )


def _shares(service: AnalysedService) -> object:
    """Return the shares as a key: a fraction takes longer to be hashed than its two numbers."""
    return tuple([(each.to, each.name, *each.share.as_integer_ratio()) for each in service.backends])


def _both(one: AnalysedService, other: AnalysedService) -> AnalysedService:
    """Return a service with the hooks and lines of another one too."""
    return replace(
        one,
        hooks=tuple(sorted({*one.hooks, *other.hooks}, reverse=True)),
        lines=tuple(dict.fromkeys((*one.lines, *other.lines))),
        picking=tuple(dict.fromkeys((*one.picking, *other.picking))),
    )


def _as_arriving(service: AnalysedService) -> AnalysedService | None:
    """Return a service without what is said of the interface of local connections, which arrive on none.

    None where nothing is left: no local connection arrives on an interface that is named.
    """
    arriving = _interfaces(service)
    if _OWN not in service.hooks or not arriving:
        return service
    if not all(condition.inverted for condition in arriving):
        hooks = tuple(hook for hook in service.hooks if hook != _OWN)
        return replace(service, hooks=hooks) if hooks else None
    if service.hooks != (_OWN,):
        return service
    return replace(service, when={k: v for k, v in (service.when or {}).items() if k != "iif"} or None)


def _are_parts(*services: AnalysedService) -> bool:
    """Return True for one service of different interfaces, or of some and of local connections."""
    apart = [service for service in services if service.hooks == (_OWN,) and not _interfaces(service)]
    rest = [service for service in services if service not in apart]
    return bool(rest) and all(
        [condition.inverted for condition in _interfaces(service)] == [False] for service in rest
    )


def _interfaces(service: AnalysedService) -> list[Condition]:
    """Return what rules ask of the interface by which connections arrive."""
    return [condition for condition in conditions(service) if condition.name == "iif"]


def _groups(services: Iterable[AnalysedService]) -> Iterable[list[AnalysedService]]:
    """Return the services that are one in an intent: of one name, or of no name and with the same turns."""
    groups: dict[object, list[AnalysedService]] = {}
    for service in services:
        key: object = service.name
        others = groups.get(key, ()) if key is not None else ()
        if key is None or not all(_alike(service, other) for other in others):
            key = (service.family, service.name, service.picking, service.hooks)
        groups.setdefault(key, []).append(service)
    return _of_both_families(groups.values())


def _of_both_families(groups: Iterable[list[AnalysedService]]) -> list[list[AnalysedService]]:
    """Services without a name that balance a port of every address, for IPv4 and for IPv6, as one."""
    found: list[list[AnalysedService]] = []
    lone: dict[object, list[AnalysedService]] = {}
    for group in groups:
        service = group[0]
        if service.name is None and len(group) == 1 and service.dst in _ANYWHERE:
            other = lone.setdefault((service.proto, service.dport), group)
            if len(other) == 1 and other is not group and _same_in_both(other[0], service):
                other.append(service)
                continue
        found.append(group)
    return found


def _same_in_both(one: AnalysedService, other: AnalysedService) -> bool:
    """Return True for services of the two families that one service of an intent can be."""
    if one.family is other.family or not _alike(one, other) or one.hash_seed != other.hash_seed:
        return False
    # Ports of this host serve both families, by the same weights.
    return one.action != "redirect" or (one.backends, one.slots) == (other.backends, other.slots)


def _alike(one: AnalysedService, other: AnalysedService) -> bool:
    """Return True for what one service of an intent can be: it has turns for each family and protocol."""
    if (one.hooks, _remembered(one), one.action) != (other.hooks, _remembered(other), other.action):
        return False
    if one.family is not other.family:
        return one.mode == other.mode or "single" in {one.mode, other.mode}
    return one.picking == other.picking or (
        one.proto != other.proto and (one.backends, one.slots) == (other.backends, other.slots)
    )


def _remembered(service: AnalysedService) -> Affinity | None:
    """How clients are kept beyond what a hash does by itself."""
    return service.affinity if service.affinity and service.affinity.kind != "hash" else None


def _service(
    group: Sequence[AnalysedService], made: Mapping[str, Service], last: dict[str, int]
) -> tuple[Service, list[str]]:
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
        local_clients=_OWN in first.hooks,
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
        anywhere = each.dst in _ANYWHERE
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
    kept = _remembered(service)
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
    told = {each.source_nat: None for each in group if each.source_nat is not None}
    if len(told) > 1:
        remarks.append(f"the client's address is replaced in several ways ({', '.join(told)})")
    lines = sorted({line for each in group for line in each.source_lines})
    if lines:
        told_by = f"line{'s' if len(lines) > 1 else ''} {', '.join(map(str, lines))}"
        remarks.append(f"the client address is replaced for some connections only ({told_by})")
    local = not any(endpoint.address for endpoint in endpoints)
    found = next(iter(told), SourceNat.HAIRPIN)
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
    if service.hooks == (_OWN,):
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
    if service.dst in _ANYWHERE:
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
    if text in _ANYWHERE:
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


def own_endpoint(service: AnalysedService) -> str:
    """Return the listener of a service as an endpoint of it: who is sent there goes where he went without."""
    if service.action == "redirect" or service.dst in _ANYWHERE:
        return service.dport
    return f"[{service.dst}]:{service.dport}" if ":" in service.dst else f"{service.dst}:{service.dport}"


def shown(service: AnalysedService) -> str:
    """Return a service in a sentence."""
    return f"{service.dst}:{service.dport}/{service.proto} ({service.family})"
