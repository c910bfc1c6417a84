"""Takeover: packets of endpoints are dropped as long as no connection is known for them.

    chain guard             at the forward hook: ct state invalid,new … @guarded drop
    set guarded             address . protocol . port       where replies of endpoints come from
    set guarded-ranges      address . protocol . ports      the same for ranges of ports

A connection that another host balanced before is known here as soon as its client sends a packet. One of the
endpoint that arrives earlier would leave untranslated, which ends the connection; and its entry in the
connection table would keep the client's packets from the endpoint (UDP: for 30 s).

With direct server return, replies of endpoints do not pass this host.

Services share the places: two may have an endpoint in common. See `lbctl.model.guarded`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from lbctl.model import Forward, Item, guarded
from lbctl_nftables import layout

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from lbctl.model import Family, Guarded, Part, Service


class Guard(NamedTuple):
    """What services with `takeover` share in a family, () for nothing, and what it depends on."""

    part: Part
    #: The listeners and endpoints of these services: a change of health leaves both as they are.
    sources: tuple[object, ...]


def guard(services: Iterable[Service], family: Family, dialect: str, past: Guard | None) -> Guard:
    """Return the guard of services; the one of the past where it depends on the same."""
    concerned = [each for each in services if each.takeover and each.forward is Forward.NAT]
    sources = tuple([(service.listeners, service.endpoints) for service in concerned])
    if past is not None and past.sources == sources:
        return past
    places = guarded(concerned, family)
    return Guard(tuple(_items(places, family, dialect)) if places else (), sources)


def _items(places: tuple[Guarded, ...], family: Family, dialect: str) -> Iterator[Item]:
    word = layout.WORD[family]
    declarations = layout.declarations(word, dialect)
    held = list(elements(places, word, {kind: kind for kind in (layout.GUARDED, layout.GUARDED_RANGES)}))
    used = sorted({item.key[2] for item in held})
    for name in used:
        yield Item((word, "set", name), "\n".join(declarations[name]))
    hook = layout.base_chain("filter", "forward", layout.FILTER_PRIORITY)
    yield Item((word, "chain", layout.GUARD), hook)
    rules = [f"ct state invalid,new {word} saddr . meta l4proto . th sport @{name} drop" for name in used]
    yield Item((word, "rules", layout.GUARD), "\n".join(rules))
    yield from held


def elements(places: Iterable[Guarded], word: str, names: Mapping[str, str]) -> Iterator[Item]:
    """Yield places as elements of sets, whose `names` are by their kinds: `GUARDED` and `GUARDED_RANGES`."""
    for place in places:
        kind = layout.GUARDED_RANGES if place.last_port > place.port else layout.GUARDED
        yield Item((word, "element", names[kind], _key(place)), "")


def _key(place: Guarded) -> str:
    ports = f"{place.port}-{place.last_port}" if place.last_port > place.port else str(place.port)
    return f"{place.address} . {place.protocol} . {ports}"
