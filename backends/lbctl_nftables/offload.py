"""Offload: the kernel forwards established connections past all rules, by a flowtable (Linux 4.16).

    flowtable flows           at the ingress of the interfaces that the intent names
    chain offloading          at the forward hook, behind the host's own filters:
                              ct state established ct status dnat … ct original … vmap @offloaded
    map offloaded             address . protocol . port : goto offload-flows     listeners, as in `layout`
    chain offload-flows       ip saddr . meta l4proto . th sport @offloaded-endpoints flow add @flows
    set offloaded-endpoints   address . protocol . port                          where replies come from

A connection is added by a reply, if its client asked for a listener of ours and the reply comes from an
endpoint of ours: no connection that other rules translated, or that is only forwarded. The kernel itself
leaves out what it cannot forward so, and takes a connection back to the rules when TCP ends it.

Only services that are translated to endpoints on other hosts have such connections; flowtables know TCP and
UDP. What is picked, and counted as a new connection, is its first packet, which is never offloaded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from lbctl.model import Forward, Item, Program, Protocol, reply_places
from lbctl_nftables import layout
from lbctl_nftables.guard import elements
from lbctl_nftables.layout import Form, Purpose

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lbctl.model import Family, Intent, Listener, Part, Service

_PROTOCOLS = (Protocol.TCP, Protocol.UDP)


class Offload(NamedTuple):
    """What offloads the connections of a family, () for nothing, and what it depends on."""

    part: Part
    #: The interfaces, and the listeners and endpoints of services: a change of health leaves all as they are.
    sources: tuple[object, ...]


def offload(intent: Intent, family: Family, dialect: str, past: Offload | None) -> Offload:
    """Return what offloads connections of an intent; that of the past where it depends on the same."""
    every = intent.services if intent.offload else ()
    services = [each for each in every if each.remote and each.forward is Forward.NAT]
    sources = (intent.offload, *((each.listeners, each.endpoints) for each in services))
    if past is not None and past.sources == sources:
        return past
    listeners = [x for each in services for x in each.listeners_of(family) if x.protocol in _PROTOCOLS]
    items = _items(intent.offload, services, listeners, family, dialect) if listeners else ()
    return Offload(tuple(items), sources)


def probe(owner: str) -> Program:
    """Return a program that only a kernel with flowtables takes; no packet passes it."""
    return Program(
        owner,
        [
            Item(("ip", "table"), ""),
            Item(("ip", "flowtable", layout.FLOWTABLE), layout.flowtable(["lo"])),
            Item(("ip", "chain", layout.OFFLOAD), ""),
            Item(("ip", "rules", layout.OFFLOAD), _ADDING),
        ],
    )


_ADDING = f"flow add @{layout.FLOWTABLE}"


def _items(
    devices: Sequence[str],
    services: Sequence[Service],
    listeners: Sequence[Listener],
    family: Family,
    dialect: str,
) -> Iterator[Item]:
    word = layout.WORD[family]
    declarations = layout.declarations(word, dialect)
    maps = layout.LISTENERS[Purpose.OFFLOAD]
    used = {Form.of(each) for each in listeners}
    forms = [form for form in Form if form in used]
    protocols = [each for each in _PROTOCOLS if each in {listener.protocol for listener in listeners}]
    places = [each for each in reply_places(services, family) if each.protocol in _PROTOCOLS]
    kinds = (layout.GUARDED, layout.GUARDED_RANGES)
    names = dict(zip(kinds, layout.OFFLOADED_ENDPOINTS, strict=True))
    endpoints = list(elements(places, word, names))
    sets = {kind: name for kind, name in names.items() if any(item.key[2] == name for item in endpoints)}
    for form in forms:
        yield Item((word, "map", maps[form]), "\n".join(declarations[form]))
    for kind, name in sets.items():
        yield Item((word, "set", name), "\n".join(declarations[kind]))
    yield Item((word, "flowtable", layout.FLOWTABLE), layout.flowtable(devices))
    hook = layout.base_chain("filter", "forward", layout.OFFLOAD_PRIORITY)
    yield Item((word, "chain", layout.OFFLOADING), hook)
    yield Item((word, "chain", layout.OFFLOAD), "")
    asked = [
        f"ct state established ct status dnat meta l4proto {protocol} "
        + (f"ct original {word} daddr . " if form.has_address else "")
        + f"meta l4proto . ct original proto-dst vmap @{maps[form]}"
        for protocol in protocols
        for form in forms
    ]
    yield Item((word, "rules", layout.OFFLOADING), "\n".join(asked))
    adding = [f"{word} saddr . meta l4proto . th sport @{name} {_ADDING}" for name in sets.values()]
    yield Item((word, "rules", layout.OFFLOAD), "\n".join(adding))
    for each in listeners:
        key = (word, "element", maps[Form.of(each)], layout.listener_key(each))
        yield Item(key, f": goto {layout.OFFLOAD}")
    yield from endpoints
