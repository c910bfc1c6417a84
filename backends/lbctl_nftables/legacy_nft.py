"""What the classic dialect writes instead of slot pages: verdicts for slots, and a chain per endpoint.

    chain service-…          numgen inc mod M vmap { 0 : goto endpoint-…/8001, 1 : goto endpoint-…/8002, … }
                             goto endpoint-…/8001
    chain endpoint-…/8001    counter redirect to :8001

The pickers and the order of the slots are those of the modern dialect: the same clients get the same
endpoints. Another slot sequence is another rule, though, whose counter starts anew: old nft can declare no
named map with numbers for keys. Connections are counted by the rules of the endpoints' chains, which stay as
long as their endpoint does.

The last rule of a service's chain closes a gap: the elements of an anonymous map go with its rule, so a
packet that is under way by the old rule while the kernel changes generations may find none (seen without
that rule: 1 of 28,300 connections during 580 changes; with it none of 33,700 during 939).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbctl_nftables import layout

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lbctl.model import Endpoint, Family, Protocol, Service


def pick(service: Service, family: Family, protocol: Protocol, picker: str) -> Iterator[str]:
    """Yield the rules of a service's chain that choose an endpoint for connections of one protocol."""
    to = [f"goto {layout.endpoint_chain(service.name, e.to)}" for e in service.slots(family)]
    verdicts = ", ".join(f"{number} : {verdict}" for number, verdict in enumerate(to))
    yield f"meta l4proto {protocol} {picker} vmap {{ {verdicts} }}"
    yield f"meta l4proto {protocol} {to[0]}"


def chains(service: Service, family: Family) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield the name and the rules of the chain of each endpoint that new connections can get."""
    for endpoint in dict.fromkeys(service.slots(family)):
        statement = _statement(endpoint)
        rules = tuple(f"meta l4proto {p} counter {statement}" for p in service.protocols_of(family))
        yield layout.endpoint_chain(service.name, endpoint.to), rules


def _statement(endpoint: Endpoint) -> str:
    return f"redirect to :{endpoint.to}" if endpoint.address is None else f"dnat to {endpoint.to}"
