"""What any backend has to do with the keys that say which connections a service is for: see `checks`."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING

from lbctl.conformance.checks import check, listener, ports, service
from lbctl.conformance.network import (
    CLIENT4,
    CLIENT6,
    HOST4,
    HOST6,
    INSIDE4,
    INSIDE6,
    NEIGHBOUR4,
    SERVERS4,
    SERVERS6,
)
from lbctl.conformance.site import expect, turns
from lbctl.model import Endpoint, Family, Listener, Protocol, Scheduler, SourceNat

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lbctl.conformance.network import Responder
    from lbctl.conformance.site import Site

#: Another address of the client.
SECOND4 = "192.0.2.66"
#: Ports of the range that somebody is asked at.
ASKED = (20000, 25000, 30000, 50000)


def span(first: int, last: int, kind: str = "udp", address: str | None = None) -> Listener:
    """Return a listener with a range of ports."""
    where = ip_address(address) if address else None
    return Listener(protocol=Protocol(kind), port=first, last_port=last, address=where)


def hosts(*addresses: str) -> tuple[Endpoint, ...]:
    """Return endpoints elsewhere that keep the port of a connection."""
    return tuple(Endpoint(address=ip_address(address)) for address in addresses)


def elsewhere(site: Site, asked: Iterable[int], *kinds: str) -> Responder:
    """Start endpoints on each address of the server, at several ports; each answers with its address."""
    responder = site.network.responder(site.network.server)
    for kind in kinds or ("udp",):
        for port in asked:
            for address in (*SERVERS4, *SERVERS6):
                responder.listen(port, address=address, kind=kind, name=address)
    responder.start()
    return responder


MEDIA = service(*hosts(*SERVERS4, *SERVERS6), name="media", listeners=(span(20000, 50000),))
INSIDE = service(*ports(8001, 8002), name="inside", listeners=(listener(25000, kind="udp"),))
FENCED = replace(
    MEDIA, listeners=(span(20000, 30000, "tcp", HOST4), span(20000, 50000, "udp", HOST6)), name="fenced"
)


@check("listener port ranges", MEDIA, INSIDE)
def _ranges(site: Site) -> None:
    elsewhere(site, ASKED)
    site.network.local_endpoints((8001, 8002), "udp")
    site.apply(MEDIA, INSIDE)
    for address, family in ((HOST4, Family.IPV4), (HOST6, Family.IPV6)):
        for taken, port in enumerate((20000, 30000, 50000)):
            expect(
                site.ask(address, port, kind="udp"),
                turns(MEDIA, 1, family=family, after=taken),
                f"port {port}",
            )
        for port in (19999, 50001):
            expect(site.ask(address, port, kind="udp"), ["refused"], f"port {port}, outside the range")
        expect(site.ask(address, 25000, 2, kind="udp"), turns(INSIDE, 2), "a single port inside the range")
        expect(site.counts(MEDIA, family), {e.to: int(e.serves(family)) for e in MEDIA.endpoints}, "counts")
    expect(site.ask_here(HOST4, 30000, 3, kind="udp"), turns(MEDIA, 3), "local clients")
    expect(site.ask(SERVERS4[2], 30000, kind="udp"), [SERVERS4[2]], "traffic that is only forwarded")
    site.apply(MEDIA)
    expect(site.ask(HOST4, 25000, 3, kind="udp"), turns(MEDIA, 3), "the port once its listener is gone")
    site.apply(INSIDE)
    expect(site.ask(HOST4, 25000, kind="udp"), turns(INSIDE, 1), "the port once the range is gone")
    expect(site.ask(HOST4, 30000, kind="udp"), ["refused"], "a port of a range that is gone")


@check("listener port ranges of an address", FENCED)
def _ranges_of_addresses(site: Site) -> None:
    elsewhere(site, (20000, 30000), "tcp", "udp")
    site.apply(FENCED)
    expect(site.ask(HOST4, 30000, 3), turns(FENCED, 3), "the address")
    expect(site.ask(HOST6, 20000, 3, kind="udp"), turns(FENCED, 3, family=Family.IPV6), "of IPv6")
    expect(site.ask(INSIDE4, 30000), ["refused"], "another address")
    wider = replace(FENCED, listeners=(span(20000, 40000, "tcp", HOST4), FENCED.listeners[1]))
    site.apply(wider)
    expect(site.ask(HOST4, 30000, 3), turns(FENCED, 3), "a range that grew")
    expect(site.plan(wider).changed, False, "applied again, something changes")


@check("listener port ranges: a range grows and shrinks, and its pick goes on", MEDIA, feature=False)
def _resized(site: Site) -> None:
    elsewhere(site, ASKED)
    site.apply(MEDIA)
    for taken, last in enumerate((50000, 60000, 30000)):
        site.apply(replace(MEDIA, listeners=(span(20000, last),)))
        expect(site.ask(HOST4, 30000, kind="udp"), turns(MEDIA, 1, after=taken), f"the range to {last}")
    expect(site.ask(HOST4, 50000, kind="udp"), ["refused"], "a port that the range had")


_KEEPING = replace(MEDIA, affinity=3600, endpoints=hosts(*SERVERS4, *SERVERS6))
#: What keeps no clients, on an endpoint of the service that does.
_PLAIN = service(*hosts(SERVERS4[2]), name="plain", listeners=(listener(25000, kind="udp"),))


@check("listener port ranges with affinity", _KEEPING)
def _ranges_with_affinity(site: Site) -> None:
    elsewhere(site, ASKED)
    site.network.client.address("uplink", f"{SECOND4}/24")
    site.apply(_KEEPING, _PLAIN)
    expect(site.ask(port=25000, kind="udp", source=SECOND4), [SERVERS4[2]], "a single port inside")
    found = [site.ask(port=port, kind="udp") for port in (20000, 30000, 50000)]
    expect(found, [[SERVERS4[0]]] * 3, "one client at several ports")
    expect(len(set(site.ask(HOST6, 30000, 4, kind="udp"))), 1, "endpoints of a client of IPv6")
    expect(site.ask(port=30000, count=2, kind="udp", source=SECOND4), [SERVERS4[1]] * 2, "a second client")
    counted = {SERVERS4[0]: 3, SERVERS4[1]: 2, SERVERS4[2]: 0}
    found4 = {to: count for to, count in site.counts(_KEEPING).items() if to in SERVERS4}
    expect(found4, counted, "connections that the kernel counted")
    gone = replace(_KEEPING, endpoints=hosts(SERVERS4[1], *SERVERS6))
    site.apply(gone, _PLAIN)
    expect(site.ask(port=30000, kind="udp"), [SERVERS4[1]], "a client whose endpoint went")


_GUARDED = replace(MEDIA, deny=(ip_network(f"{CLIENT4}/32"),), source_nat=SourceNat.ALWAYS)


@check(
    "listener port ranges: a single port inside has only what its own service says", _GUARDED, feature=False
)
def _hidden(site: Site) -> None:
    responder = elsewhere(site, ASKED)
    single = replace(_PLAIN, source_nat=SourceNat.NEVER)
    site.apply(_GUARDED, single)
    expect(site.ask(port=30000, kind="udp"), ["refused"], "a client that the range refuses")
    expect(site.ask(port=25000, kind="udp"), [SERVERS4[2]], "this client at the single port")
    expect(responder.peers, [CLIENT4], "whom its endpoint sees")
    local = replace(INSIDE, listeners=single.listeners)
    site.network.local_endpoints((8001, 8002), "udp")
    site.apply(_GUARDED, local)
    expect(site.ask(port=25000, count=2, kind="udp"), turns(local, 2), "a single port of local endpoints")


_HAIRPIN = replace(MEDIA, listeners=(span(20000, 50000, "tcp"),))


@check("listener port ranges with source-nat hairpin", _HAIRPIN)
def _hairpin(site: Site) -> None:
    responder = elsewhere(site, (20000, 30000), "tcp")
    site.apply(_HAIRPIN)
    expect(site.ask(INSIDE4, 30000), [SERVERS4[0]], "a client elsewhere")
    found = site.network.ask(site.network.server, INSIDE4, 30000, 2, source=NEIGHBOUR4)
    expect(found, list(SERVERS4[1:]), "a neighbour of the endpoints")
    expect(responder.peers, [CLIENT4, INSIDE4, INSIDE4], "whom the endpoints see")


KEPT = service(
    *hosts(*SERVERS4, *SERVERS6), name="kept", listeners=(listener(80), listener(53, HOST4, "udp"))
)
_HASHED = replace(KEPT, scheduler=Scheduler.SOURCE_HASH, listeners=(listener(81, HOST4),), name="hashed")


@check("endpoints without a port", KEPT)
def _kept_ports(site: Site) -> None:
    elsewhere(site, (80, 53, 81), "tcp", "udp")
    weighted = replace(KEPT, endpoints=(*hosts(*SERVERS4[:2], *SERVERS6), weighing(SERVERS4[2], 2)))
    for asked in (KEPT, weighted):
        site.apply()
        site.apply(asked)
        count = len(asked.slots(Family.IPV4))
        expect(site.ask(HOST4, 80, count), turns(asked, count), "IPv4")
        expect(site.ask(HOST6, 80, 3), turns(asked, 3, family=Family.IPV6), "IPv6")
        expect(site.ask(HOST4, 53, count, kind="udp"), turns(asked, count), "another listener")
    if site.refusal([_HASHED]) is None:
        site.apply(_HASHED)
        expect(len(set(site.ask(port=81, count=3))), 1, "endpoints of one client of a hash")


def weighing(address: str, weight: int) -> Endpoint:
    """Return an endpoint without a port that has a weight."""
    return Endpoint(address=ip_address(address), weight=weight)


_OUTSIDE = service(*ports(8001, 8002), interfaces=("none0", "outside"))
_STRICT = replace(_OUTSIDE, allow=(ip_network(f"{SECOND4}/32"),), local_clients=False, name="strict")


@check("interfaces", _OUTSIDE)
def _interfaces(site: Site) -> None:
    site.network.local_endpoints((80, 8001, 8002))
    site.network.client.address("uplink", f"{SECOND4}/24")
    server = site.network.server

    def inside(address: str) -> list[str]:
        return site.network.ask(server, address, 80)

    for names in (_OUTSIDE.interfaces, ("out*",)):
        asked = replace(_OUTSIDE, interfaces=names)
        site.apply(asked)
        expect(site.ask(count=2), turns(asked, 2), "a client by the interface")
        expect(site.ask(HOST6, count=2), turns(asked, 2), "of IPv6")
        for address in (INSIDE4, INSIDE6):
            expect(inside(address), ["80"], "a client by another interface")
        expect(site.ask_here(count=2), turns(asked, 2), "local clients")
        site.apply()
    site.apply(replace(_OUTSIDE, local_clients=False))
    expect(site.ask_here(), ["80"], "local clients that are left alone")
    if site.refusal([_STRICT]) is None:
        site.apply(_STRICT)
        expect(site.ask(), ["refused"], "a client that is not allowed")
        expect(site.ask(source=SECOND4), ["8001"], "a client that is allowed")
        expect(inside(INSIDE4), ["80"], "a client by another interface is not refused")
        expect(site.ask_here(), ["80"], "a local client is not refused")


_DENYING = service(
    *ports(8001),
    listeners=(listener(), listener(53, kind="udp")),
    deny=tuple(
        ip_network(text) for text in (f"{CLIENT4}/32", "198.51.100.0/24", "198.51.100.7/32", f"{CLIENT6}/128")
    ),
)


@check("deny", _DENYING)
def _deny(site: Site) -> None:
    site.network.local_endpoints((80, 8001))
    site.network.local_endpoints((53, 8001), "udp")
    site.network.client.address("uplink", f"{SECOND4}/24")
    site.apply(_DENYING)
    for address in (HOST4, HOST6):
        expect(site.ask(address), ["refused"], "a denied client")
        expect(site.ask(address, 53, kind="udp"), ["refused"], "a denied client's datagram")
    expect(site.ask(source=SECOND4, count=2), ["8001"] * 2, "another client")
    expect(site.ask(port=53, kind="udp", source=SECOND4), ["8001"], "another client's datagram")
    expect(site.ask_here(), ["8001"], "a local client")
    both = replace(_DENYING, allow=(ip_network("192.0.2.0/24"),))
    if site.refusal([both]) is None:
        site.apply(both)
        expect(site.ask(), ["refused"], "a client that is allowed and denied")
        expect(site.ask(source=SECOND4), ["8001"], "a client that is allowed")
    site.apply(replace(_DENYING, deny=(ip_network(f"{SECOND4}/32"),)))
    expect(site.ask(), ["8001"], "a client that was let in later")
    expect(site.ask(source=SECOND4), ["refused"], "a client that is denied now")


_SPARING = service(*ports(8001), exclude=(ip_network(f"{INSIDE4}/32"), ip_network("2001:db8:2::/64")))
_SPARED = service(*ports(8002), name="spared", listeners=(listener(80, INSIDE4),))


@check("exclude", _SPARING)
def _exclude(site: Site) -> None:
    site.network.local_endpoints((80, 8001, 8002))
    for asked in (_SPARING, replace(_SPARING, allow=(ip_network(f"{SECOND4}/32"),))):
        if site.refusal([asked]) is not None:
            continue
        site.apply(asked)
        served = ["refused"] if asked.allow else ["8001"]
        expect(site.ask(), served, "an address that is not excluded")
        for address in (INSIDE4, INSIDE6):
            expect(site.ask(address), ["80"], "an excluded address")
            expect(site.ask_here(address), ["80"], "an excluded address, from the host itself")
    site.apply(_SPARING, _SPARED)
    expect(site.ask(INSIDE4, count=2), ["8002"] * 2, "another service at the excluded address")
    expect(site.ask(), ["8001"], "an address that is not excluded")
    expect(site.ask(INSIDE6), ["80"], "an excluded address of another family")
