"""What keeps direct server return from working, as far as this host can see it.

What servers have to be set up with (the service's address on loopback, arp_ignore, arp_announce) is not seen
from here: a server that answers ARP for that address shows as one of two hosts that have it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbctl.host import links, neighbours
from lbctl.model import Family, Forward, Severity
from lbctl.spi import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from lbctl.host import Host, Link
    from lbctl.model import Address, Hop, Intent, Service


def direct_return(host: Host, intent: Intent) -> Iterator[Problem]:
    """Yield the problems of services with direct server return, as they are carried out."""
    services = [service for service in intent.services if service.forward is Forward.DSR and service.hops]
    if not services:
        return
    known, by_name = neighbours(host), {link.name: link for link in links(host)}
    for service in services:
        yield from _silent(service, known, by_name)
        yield from _sizes(service, by_name)


def _silent(
    service: Service, known: Mapping[tuple[int, Address], str], links_here: Mapping[str, Link]
) -> Iterator[Problem]:
    """Yield endpoints that the kernel has no valid MAC address of now."""
    fixed = {endpoint.address for endpoint in service.endpoints if endpoint.mac}
    for hop in sorted(service.hops, key=lambda hop: str(hop.address)):
        link = links_here.get(hop.device)
        if hop.address in fixed or (link is not None and (link.index, hop.address) in known):
            continue
        yield Problem(
            code="dsr-silent",
            severity=Severity.WARNING,
            service=service.name,
            message=f"endpoint {hop.address} does not answer on {hop.device}: packets go to the MAC address "
            "that it had",
            evidence=f"no valid entry of the neighbour table; the rules have {hop.mac}",
            fix=f"ip neigh show {hop.address} dev {hop.device}; with a check, the agent takes it out",
            about=str(hop.address),
        )


def _sizes(service: Service, links_here: Mapping[str, Link]) -> Iterator[Problem]:
    """Yield links to endpoints that take smaller packets than arrive: what is too large is dropped there."""
    for family in service.families:
        leaving = links_here.get(_device(service.hops, family))
        if leaving is None:
            continue
        for name in service.interfaces:
            arriving = links_here.get(name)
            if arriving is not None and arriving.mtu > leaving.mtu:
                yield Problem(
                    code="dsr-mtu",
                    severity=Severity.WARNING,
                    service=service.name,
                    message=f"packets that arrive on {name} may be too large for {leaving.name}: they are "
                    "dropped, and the sender is not notified",
                    evidence=f"MTU {arriving.mtu} of {name}, {leaving.mtu} of {leaving.name}",
                    fix=f"ip link set {leaving.name} mtu {arriving.mtu}, there and on the servers",
                )


def _device(hops: frozenset[Hop], family: Family) -> str:
    devices: Sequence[str] = sorted({hop.device for hop in hops if Family.of(hop.address) is family})
    return devices[0] if devices else ""
