"""Connections that rules at ingress have learned: how many there are, and how they are ended.

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
from lbctl_nftables.layout import Form, Purpose

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
    maps = layout.LISTENERS[Purpose.LEAD]
    key = (word, "element", maps[Form.of(flow.listener)], layout.listener_key(flow.listener))
    item = plan.before.by_key.get(key)
    chain = layout.verdict(item.text) if item is not None else None
    service = layout.service_of_chain(chain) if chain else None
    if service is None:
        return None
    name = layout.flows(f"flows-{flow.listener.protocol}", service)
    return (word, service, name) if (word, "map", name) in plan.after.by_key else None


def _cards(program: Program, word: str, service: str, to: str | None) -> Iterator[str]:
    """Yield the MAC addresses that slots of a service have for an endpoint."""
    for item in program.only([service]).of_kind("element"):
        own = item.service == service and item.key[0] == word and layout.is_page(item.key[2])
        if own and lift.to(item.text) == to:
            yield item.text.rpartition(" : ")[2]
