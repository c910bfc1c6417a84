"""Connections that rules at ingress have learned: how many there are, how they end, and when they move.

See `lbctl_nftables.direct`. A connection is counted until its entry expires: one that the endpoint ended, and
the client did not, is known for an hour.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from lbctl.model import Forward
from lbctl_nftables import affinity, layout, lift
from lbctl_nftables.kernel import elements, objects
from lbctl_nftables.kernel.values import KernelTable
from lbctl_nftables.layout import Form

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from lbctl.host import Host
    from lbctl.model import Family, Plan, Program, Service, StaleFlow
    from lbctl_nftables.affinity import AffinityEntry


class EndedFlows(NamedTuple):
    """Entries of a map of connections that go: those that lead to some MAC addresses."""

    word: str
    name: str
    cards: frozenset[str]


class MovedFlows(NamedTuple):
    """A map of connections in which MAC addresses are replaced: those of endpoints before → those now."""

    word: str
    name: str
    cards: Mapping[str, str]


def connections(
    host: Host,
    driver: str,  # noqa: ARG001 (the protocol's)
    owner: str,
    service: Service,
    family: Family,
) -> Mapping[str, int] | None:
    """See `lbctl.spi.Learner`."""
    if service.moves_connections:
        return None
    word = layout.INGRESS[family]
    found: Counter[str] = Counter()
    for protocol in service.protocols_of(family):
        name = layout.flows(f"flows-{protocol}", service.name)
        found.update(entry.endpoint for entry in entries(host, owner, word, name))
    places = {endpoint.address: endpoint.to for endpoint in service.endpoints if endpoint.serves(family)}
    return {places[hop.address]: found[layout.cards(hop)] for hop in service.hops if hop.address in places}


def entries(host: Host, owner: str, word: str, name: str) -> tuple[AffinityEntry, ...]:
    """Return the entries of a map of connections; () if there is no such map."""
    table = KernelTable(*layout.location(owner, word))
    declared = objects.declaration(host, table, name)
    return tuple(affinity.entries(declared, elements.elements(host, table, declared))) if declared else ()


def ended(plan: Plan) -> tuple[EndedFlows, ...]:
    """Return the connections that a plan ends."""
    found: dict[tuple[str, str], set[str]] = {}
    for flow in plan.stale:
        place = _place(plan, flow)
        if place is not None:
            word, service, name = place
            found.setdefault((word, name), set()).update(_cards(plan.before, word, service, flow.to))
    return tuple(EndedFlows(*place, frozenset(cards)) for place, cards in found.items())


def _place(plan: Plan, flow: StaleFlow) -> tuple[str, str, str] | None:
    """Return the table, the service and the map of the connections of a flow; None for one without a map."""
    if flow.forward is not Forward.DSR:
        return None
    word = layout.INGRESS[flow.family]
    form, key = Form.of(flow.listener), layout.listener_key(flow.listener)
    chains = [item.key[2] for item in plan.before.of_kind("chain") if item.key[0] == word]
    for device in map(layout.device_of, filter(layout.is_ingress, chains)):
        item = plan.before.by_key.get((word, "element", layout.dispatch(form, device), key))
        chain = layout.verdict(item.text) if item is not None else None
        service = layout.service_of_chain(chain) if chain else None
        if service is not None:
            name = layout.flows(f"flows-{flow.listener.protocol}", service)
            return (word, service, name) if (word, "map", name) in plan.after.by_key else None
    return None


def moved(plan: Plan) -> tuple[MovedFlows, ...]:
    """Return the connections to endpoints that have other MAC addresses after a plan."""
    services = {
        (change.key[0], change.item.service): None
        for change in plan.changes
        if change.key[0] in layout.INGRESS.values()
        and change.key[1] == "element"
        and layout.is_page(change.key[2])
        and change.item.service is not None
    }
    return tuple(
        MovedFlows(word, name, cards)
        for word, service in services
        if service is not None and (cards := _replaced(plan, word, service))
        for name in (layout.flows(kind, service) for kind in layout.FLOWS)
        if (word, "map", name) in plan.after.by_key
    )


def _replaced(plan: Plan, word: str, service: str) -> Mapping[str, str]:
    """Return the MAC addresses that endpoints of a service had, and those that they have."""
    now = dict(_slots(plan.after, word, service))
    return {cards: now[to] for to, cards in _slots(plan.before, word, service) if now.get(to, cards) != cards}


def _cards(program: Program, word: str, service: str, to: str | None) -> Iterator[str]:
    """Yield the MAC addresses that slots of a service have for an endpoint."""
    return (cards for endpoint, cards in _slots(program, word, service) if endpoint == to)


def _slots(program: Program, word: str, service: str) -> Iterator[tuple[str | None, str]]:
    """Yield the endpoint of each slot of a service, and its MAC addresses."""
    for item in program.only([service]).of_kind("element"):
        if item.service == service and item.key[0] == word and layout.is_page(item.key[2]):
            yield lift.to(item.text), item.text.rpartition(" : ")[2]
