"""What any backend has to do with keys that say how packets reach endpoints: see `checks`.

Direct server return has a link of its own, with servers that all have the address of the services on
loopback. They send replies to the client by themselves, through the host, which tracks none of it.
"""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address
from typing import TYPE_CHECKING

from lbctl.conformance.checks import FAR, check, listener, service
from lbctl.conformance.network import CLIENT4, HOST4, REAL4, SEGMENT, SERVERS4
from lbctl.conformance.site import expect, turns
from lbctl.model import Endpoint, Forward, Hop, Scheduler, State

if TYPE_CHECKING:
    from lbctl.conformance.site import Site

#: An address behind the host, as the client has it.
SHARED4 = "198.51.100.200"
#: Before the kernel has been asked who is on the link.
_UNASKED = "02:00:00:00:00:01"

RETURNED = service(
    *(Endpoint(address=ip_address(address)) for address in REAL4),
    name="returned",
    listeners=(listener(80, SHARED4), listener(53, SHARED4, "udp")),
    forward=Forward.DSR,
    local_clients=False,
    interfaces=("outside",),
    hops=frozenset(
        Hop(address=ip_address(address), device=SEGMENT, source=_UNASKED, mac=_UNASKED) for address in REAL4
    ),
)
HASHED = replace(RETURNED, name="hashed", listeners=(listener(81, SHARED4),), scheduler=Scheduler.SOURCE_HASH)


@check("direct server return", RETURNED, HASHED)
def _direct(site: Site) -> None:
    servers = site.network.segment(SHARED4, (80, 81, 53))
    site.apply(RETURNED, HASHED)
    expect(site.ask(SHARED4, 80, 6), turns(RETURNED, 6), "connections")
    expect(site.ask(SHARED4, 53, 6, kind="udp"), turns(RETURNED, 6), "flows of datagrams")
    expect({peer for each in servers for peer in each.peers}, {CLIENT4}, "whom servers see")
    expect(site.counts(RETURNED), dict.fromkeys(REAL4, 4), "counted connections and flows")
    [chosen] = set(site.ask(SHARED4, 81, 5))
    left = tuple(
        replace(each, state=State.DRAIN) if str(each.address) == chosen else each for each in HASHED.endpoints
    )
    site.apply(RETURNED, replace(HASHED, endpoints=left))
    [other] = set(site.ask(SHARED4, 81, 5))
    expect([other != chosen, other in REAL4], [True, True], "a client whose endpoint drains")
    site.apply(RETURNED, HASHED)
    expect(site.ask(SHARED4, 81), [chosen], "the same client once it takes connections again")


@check("offload", FAR, offload=("outside", "inside"))
def _offload(site: Site) -> None:
    """Connections are balanced as without it, and go on while they are offloaded and once they are not."""
    site.network.far_holder(9000)
    site.apply(FAR, offload=("outside", "inside"))
    held = [site.network.hold(site.network.client, HOST4, 82) for _ in range(6)]
    expect(site.counts(FAR), {f"{address}:9000": 2 for address in SERVERS4}, "connections")
    said = [str(number) for number in range(20)]
    for each in held:
        expect([each.say(word) for word in said], said, "a connection while it is offloaded")
    site.apply(FAR)
    for each in held:
        expect(each.say("again"), "again", "the same without offload")
