"""Which services that were read are one in an intent."""

from __future__ import annotations

from dataclasses import replace
from functools import reduce
from typing import TYPE_CHECKING

from lbctl.model import (
    conditions,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from lbctl.model import Affinity, AnalysedService, Condition

#: Where connections are that were made on this host.
LOCAL_HOOK = "output"
#: What a listener without an address is read from.
ANYWHERE = {"any", "local"}


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
        if LOCAL_HOOK not in each.hooks and not each.when and each.dst in ANYWHERE:
            arriving.setdefault(_turns(each), each)
    parts: dict[int, list[AnalysedService]] = {}
    for each in services:
        if (whole := arriving.get(own.get(id(each)))) is not None:
            parts.setdefault(id(whole), []).append(each)
    joined = {id(each) for group in parts.values() for each in group}
    return [reduce(_both, parts.get(id(each), ()), each) for each in services if id(each) not in joined]


def _is_own(service: AnalysedService) -> bool:
    """Return True for all that this host sends to its own addresses."""
    return service.hooks == (LOCAL_HOOK,) and service.dst == "local" and not service.when


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
    if LOCAL_HOOK not in service.hooks or not arriving:
        return service
    if not all(condition.inverted for condition in arriving):
        hooks = tuple(hook for hook in service.hooks if hook != LOCAL_HOOK)
        return replace(service, hooks=hooks) if hooks else None
    if service.hooks != (LOCAL_HOOK,):
        return service
    return replace(service, when={k: v for k, v in (service.when or {}).items() if k != "iif"} or None)


def _are_parts(*services: AnalysedService) -> bool:
    """Return True for one service of different interfaces, or of some and of local connections."""
    apart = [service for service in services if service.hooks == (LOCAL_HOOK,) and not _interfaces(service)]
    rest = [service for service in services if service not in apart]
    return bool(rest) and all(
        [condition.inverted for condition in _interfaces(service)] == [False] for service in rest
    )


def _interfaces(service: AnalysedService) -> list[Condition]:
    """Return what rules ask of the interface by which connections arrive."""
    return [condition for condition in conditions(service) if condition.name == "iif"]


def groups(services: Sequence[AnalysedService]) -> Iterable[list[AnalysedService]]:
    """Return the services that are one in an intent: of one name, or of no name and with the same turns."""
    found: dict[object, list[AnalysedService]] = {}
    for service in _with_own(_joined(_whole(services))):
        key: object = service.name
        others = found.get(key, ()) if key is not None else ()
        if key is None or not all(_alike(service, other) for other in others):
            key = (service.family, service.name, service.picking, service.hooks)
        found.setdefault(key, []).append(service)
    return _of_both_families(found.values())


def _of_both_families(groups: Iterable[list[AnalysedService]]) -> list[list[AnalysedService]]:
    """Services without a name that balance a port of every address, for IPv4 and for IPv6, as one."""
    found: list[list[AnalysedService]] = []
    lone: dict[object, list[AnalysedService]] = {}
    for group in groups:
        service = group[0]
        if service.name is None and len(group) == 1 and service.dst in ANYWHERE:
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
    if (one.hooks, remembered(one), one.action) != (other.hooks, remembered(other), other.action):
        return False
    if one.family is not other.family:
        return one.mode == other.mode or "single" in {one.mode, other.mode}
    return one.picking == other.picking or (
        one.proto != other.proto and (one.backends, one.slots) == (other.backends, other.slots)
    )


def remembered(service: AnalysedService) -> Affinity | None:
    """How clients are kept beyond what a hash does by itself."""
    return service.affinity if service.affinity and service.affinity.kind != "hash" else None
