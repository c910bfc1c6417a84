"""What any backend has to do, feature by feature: an intent, and what real connections must show.

A check asks for `services`. A backend whose capabilities lack something in them must refuse it by name; one
that compiles them has to pass.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import replace
from ipaddress import ip_address, ip_network
from itertools import product
from typing import TYPE_CHECKING, Any

from lbctl.config import loads
from lbctl.conformance.network import (
    CLIENT4,
    CLIENT6,
    HOST4,
    HOST6,
    INSIDE4,
    NEIGHBOUR4,
    SERVERS4,
    SERVERS6,
)
from lbctl.conformance.site import NEIGHBOUR, OWNER, Failed, expect, turns
from lbctl.errors import Stale
from lbctl.model import (
    Endpoint,
    Family,
    Intent,
    Listener,
    Protocol,
    Scheduler,
    Service,
    SourceNat,
    State,
)
from lbctl.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from lbctl.conformance.site import Site

#: Sockets that refuse at once take far less, ones that are not answered as long as a client waits.
AT_ONCE = 0.5
#: The 0.1 % quantile of chi-square with two degrees of freedom: a fair dice fails once in a thousand runs.
CHI_SQUARE = 13.8
CLIENTS = 24


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ConformanceCheck:
    """One thing that a backend has to do, or to refuse. `feature` where it is for users to choose.

    With `allow_remap`, the user has no wish which endpoint a hash scheduler names for a client. `offload` are
    interfaces as the intent has them.
    `run` raises `Failed` where the kernel does not do what `services` say, which it is to apply itself.
    """

    name: str
    services: tuple[Service, ...]
    run: Callable[[Site], None]
    feature: bool
    allow_remap: bool
    offload: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.name


CHECKS: list[ConformanceCheck] = []


def check(
    name: str,
    *services: Service,
    feature: bool = True,
    allow_remap: bool = False,
    offload: tuple[str, ...] = (),
) -> Callable[[Callable[[Site], None]], Callable[[Site], None]]:
    """Make a function a check that asks for `services`."""

    def register(run: Callable[[Site], None]) -> Callable[[Site], None]:
        made = ConformanceCheck(
            name=name,
            services=services,
            run=run,
            feature=feature,
            allow_remap=allow_remap,
            offload=offload,
        )
        CHECKS.append(made)
        return run

    return register


def listener(port: int = 80, address: str | None = None, kind: str = "tcp") -> Listener:
    """Return a listener, of TCP where nothing else is said."""
    return Listener(port=port, address=ip_address(address) if address else None, protocol=Protocol(kind))


def ports(*numbers: int, **options: Any) -> tuple[Endpoint, ...]:
    """Endpoints on this host."""
    return tuple(Endpoint(port=number, **options) for number in numbers)


def places(*addresses: str) -> tuple[Endpoint, ...]:
    """Endpoints elsewhere, each on port 9000."""
    return tuple(Endpoint(address=ip_address(address), port=9000) for address in addresses)


def service(*endpoints: Endpoint, name: str = "web", **options: Any) -> Service:
    """Return a service, on port 80 of any address where nothing else is said."""
    return Service(name=name, endpoints=endpoints, **{"listeners": (listener(),), **options})


WEB = service(*ports(8001, 8002, 8003))
OTHER = service(*ports(8004, 8005), name="other", listeners=(listener(81),))
FAR = service(
    *places(*SERVERS4), name="far", listeners=(listener(82), listener(54, kind="udp"), listener(83, HOST4))
)
WEIGHTED = service(
    *(Endpoint(port=port, weight=weight) for port, weight in ((8001, 3), (8002, 2), (8003, 1)))
)
#: Of one family, where nothing is said of the other: each costs some drivers their time.
HERE, UNEVEN = (replace(each, listeners=(listener(80, HOST4),)) for each in (WEB, WEIGHTED))
ASIDE = replace(OTHER, listeners=(listener(81, HOST4),))


def _states(**states: State) -> Service:
    endpoints = (Endpoint(port=int(port[1:]), state=state) for port, state in states.items())
    return service(*endpoints, listeners=HERE.listeners)


def _balances(site: Site, asked: Service, *addresses: str, kind: str = "tcp", rounds: int = 3) -> None:
    """Clients elsewhere and on the host take their turns, on the first listener's port."""
    port = asked.listeners[0].port
    site.apply(asked)
    for address in addresses:
        family = Family.of(ip_address(address))
        count = rounds * len(asked.slots(family))
        expect(
            site.ask(address, port, count, kind=kind),
            turns(asked, count, family=family),
            f"{kind} to {address}",
        )


@check("scheduler round-robin, with weights", WEIGHTED)
def _weights(site: Site) -> None:
    site.network.local_endpoints((8001, 8002, 8003))
    _balances(site, WEIGHTED, HOST4, HOST6, rounds=5)


@check("scheduler random", replace(WEIGHTED, scheduler=Scheduler.RANDOM))
def _random(site: Site) -> None:
    site.network.local_endpoints((8001, 8002, 8003))
    asked = replace(WEIGHTED, scheduler=Scheduler.RANDOM)
    site.apply(asked)
    count = 900
    answers = site.ask(count=count)
    expect_about(answers, {to: float(share * count) for to, share in asked.by_weight(Family.IPV4).items()})
    if answers[:60] == answers[60:120]:
        raise Failed("the same sequence again: that is not random")


def expect_about(answers: Sequence[str], wanted: Mapping[str, float], most: float = CHI_SQUARE) -> None:
    """Raise `Failed` if no fair dice gives three endpoints these numbers of connections."""
    found = Counter(answers)
    expect(set(found) - set(wanted), set(), "answers from elsewhere")
    distance = sum((found[to] - number) ** 2 / number for to, number in wanted.items())
    if distance > most:
        raise Failed(f"{dict(found)} of {len(answers)} connections, not about {wanted}")


#: Where clients come to, and where they come from.
_CROWDS = {Family.IPV4: (HOST4, "198.51.100."), Family.IPV6: (HOST6, "2001:db8:9::")}


def crowd(site: Site) -> None:
    """Give the client many addresses."""
    lines = [
        f"address add 198.51.100.{i}/32 dev uplink\naddress add 2001:db8:9::{i}/128 dev uplink nodad\n"
        for i in range(1, CLIENTS + 1)
    ]
    site.network.client.run("ip", "-batch", "-", stdin="".join(lines))
    site.network.host.ip("route", "add", "198.51.100.0/24", "via", CLIENT4)
    site.network.host.ip("-6", "route", "add", "2001:db8:9::/64", "via", CLIENT6)


def who_serves_whom(site: Site, asked: Service) -> Mapping[str, str]:
    """Return each client's endpoint; raises `Failed` for a client that has two."""
    served = {}
    for family in asked.families:
        address, prefix = _CROWDS[family]
        for source in (f"{prefix}{i}" for i in range(1, CLIENTS + 1)):
            first, second = site.ask(address, source=source, count=2)
            expect(second, first, f"the second connection of client {source}")
            served[source] = first
    return served


def _keeps_clients(site: Site, asked: Service) -> Mapping[str, str]:
    """Across other services' changes, and after a removal: the same client has the same endpoint."""
    site.network.local_endpoints((8001, 8002, 8003, 8004, 8005))
    crowd(site)
    site.apply(asked)
    served = who_serves_whom(site, asked)
    expect(set(served.values()), {e.to for e in asked.endpoints}, "endpoints that serve a client")
    site.apply(ASIDE, asked)
    expect(who_serves_whom(site, asked), served, "after another service's change")
    site.apply()
    site.apply(asked)
    expect(who_serves_whom(site, asked), served, "after it was taken out and applied again")
    return served


HASHED, HASHED6 = (
    replace(WEB, scheduler=Scheduler.SOURCE_HASH, listeners=(listener(80, address),))
    for address in (HOST4, HOST6)
)
TABLED = replace(WEB, scheduler=Scheduler.MAGLEV)


@check("scheduler source-hash", HASHED)
def _source_hash(site: Site) -> None:
    served = _keeps_clients(site, HASHED)
    site.apply(seeded := replace(HASHED, seed=1))
    if who_serves_whom(site, seeded) == served:
        raise Failed("another seed places each client as before")


@check("scheduler source-hash for IPv6 clients", HASHED6)
def _source_hash6(site: Site) -> None:
    _keeps_clients(site, HASHED6)


@check("scheduler maglev", TABLED)
def _maglev(site: Site) -> None:
    before = _keeps_clients(site, TABLED)
    site.apply(replace(TABLED, endpoints=ports(8001, 8002)))
    after = who_serves_whom(site, TABLED)
    moved = [c for c, to in before.items() if to != "8003" and after[c] != to]
    expect("8003" in after.values(), False, "an endpoint that is gone serves")
    # The paper has a few percent move along.
    if len(moved) > len(before) / 8:
        raise Failed(f"{len(moved)} of {len(before)} clients moved, though their endpoint stayed")


@check("hash schedulers with --allow-remap", HASHED6, TABLED, feature=False, allow_remap=True)
def _remap(site: Site) -> None:
    _keeps_clients(site, HASHED6)
    site.apply(TABLED)
    served = who_serves_whom(site, TABLED)
    expect(set(served.values()), {e.to for e in TABLED.endpoints}, "endpoints that serve a client")


def _kept(seconds: int, name: str = "web", listeners: tuple[Listener, ...] = (listener(),)) -> Service:
    return service(*ports(8001, 8002), name=name, affinity=seconds, listeners=listeners)


@check("affinity", _kept(3600))
def _affinity(site: Site) -> None:
    site.network.local_endpoints((8001, 8002))
    site.network.client.address("uplink", "192.0.2.66/24")
    long, short = _kept(3600), _kept(1, "short", ASIDE.listeners)
    site.apply(long, short)
    expect(site.ask(count=4), ["8001"] * 4, "a client that comes again")
    expect(len(set(site.ask(HOST6, count=4))), 1, "endpoints of a client of IPv6")
    expect(site.ask(count=4, source="192.0.2.66"), ["8002"] * 4, "a second client")
    for family, taken in ((Family.IPV4, 8), (Family.IPV6, 4)):
        expect(
            sum(site.counts(long, family).values()), taken, f"{family} connections that the kernel counted"
        )
    site.apply(long, short, service(*ports(8001), name="more", listeners=(listener(82, HOST4),)))
    expect(site.ask(count=2), ["8001"] * 2, "a client after another service's change")
    gone = replace(long, endpoints=ports(8002))
    site.apply(gone, short)
    expect(site.ask(count=2), ["8002"] * 2, "a client whose endpoint went")
    first = _within_its_time(site, port=81)
    time.sleep(1.3)
    expect(site.ask(port=81) == [first], False, "a client after its time is where it was")


def _within_its_time(site: Site, *, port: int) -> str:
    """Return the endpoint of a client that comes again and again, for longer than one second in all.

    Its second begins anew with each connection. A machine that stumbles in between is given another chance.
    """
    while True:
        answers, times = [], []
        for pause in (0.0, 0.6, 0.6):
            time.sleep(pause)
            answers += site.ask(port=port)
            times.append(time.monotonic())
        if max(times[1] - times[0], times[2] - times[1]) < 0.9:
            expect(answers, answers[:1] * 3, "a client within its time")
            return answers[0]


KEPT = _kept(3600, listeners=HERE.listeners)
DRAINING = replace(KEPT, endpoints=(*ports(8001, state=State.DRAIN), *ports(8002)))


@check("affinity: a client whose endpoint drains is moved", DRAINING, feature=False)
def _affinity_drains(site: Site) -> None:
    site.network.local_endpoints((8001, 8002))
    site.apply(KEPT)
    expect(site.ask(count=2), ["8001"] * 2, "a client")
    site.apply(DRAINING)
    expect(site.ask(count=2), ["8002"] * 2, "the client when its endpoint drains")
    site.apply(KEPT)
    expect(site.ask(count=2), ["8002"] * 2, "the client when its first endpoint is back")


@check("endpoint state drain", _states(p8001=State.DRAIN, p8002=State.ACTIVE))
def _drain(site: Site) -> None:
    holder = site.network.holder((8001, 8002))
    site.apply(_states(p8001=State.ACTIVE, p8002=State.ACTIVE))
    held = [site.network.hold(site.network.client, HOST4, 80) for _ in range(2)]
    expect(holder.ports, [8001, 8002], "two connections")
    site.apply(_states(p8001=State.DRAIN, p8002=State.ACTIVE))
    for _ in range(3):
        site.network.hold(site.network.client, HOST4, 80)
    expect(holder.ports[2:], [8002] * 3, "new connections")
    expect([one.say("on") for one in held], ["on"] * 2, "established connections")


@check("endpoint state backup", _states(p8001=State.ACTIVE, p8002=State.BACKUP))
def _backup(site: Site) -> None:
    site.network.local_endpoints((8001, 8002, 8003))
    spare = ports(8002, 8003, state=State.BACKUP)
    site.apply(replace(HERE, endpoints=(*ports(8001), *spare)))
    expect(site.ask(count=3), ["8001"] * 3, "while an active one is left")
    site.apply(replace(HERE, endpoints=spare))
    expect(site.ask(count=4), ["8002", "8003"] * 2, "when none is left")


NOBODY = replace(
    _states(p8001=State.DRAIN), listeners=(listener(), listener(53, kind="udp"), listener(81, HOST4))
)
SERVED = replace(NOBODY, endpoints=ports(8001))


@check("rejects (RST or ICMP) when no endpoint is available", NOBODY)
def _nobody(site: Site) -> None:
    # Behind the listeners is somebody whom a connection would reach if it were let through.
    site.network.local_endpoints((80, 81, 8001))
    site.network.local_endpoints((53, 8001), "udp")
    elsewhere = site.network.responder(site.network.server)
    elsewhere.listen(80, name="elsewhere")
    elsewhere.start()
    site.apply(SERVED)
    expect(site.ask(), ["8001"], "while there is one")
    site.apply(NOBODY)
    _refused(site, HOST4, HOST6)
    expect(site.ask(port=81), ["refused"], "a listener with an address")
    expect(site.ask(INSIDE4, 81), ["81"], "another address")
    expect(site.ask(SERVERS4[0]), ["elsewhere"], "traffic that is only forwarded")
    site.apply(SERVED)
    expect(site.ask(), ["8001"], "when there is one again")


def _refused(site: Site, *addresses: str, source: str | None = CLIENT4) -> None:
    for port, kind in ((80, "tcp"), (53, "udp")):
        for address in addresses:
            begun = time.monotonic()
            expect(site.ask(address, port, kind=kind, source=source), ["refused"], f"{kind} to {address}")
            expect(site.ask_here(address, port, kind=kind), ["refused"], f"{kind} from the host itself")
            if time.monotonic() - begun > AT_ONCE:
                raise Failed(f"{kind} to {address}: refused late")


GUARDED = service(
    *ports(8001),
    listeners=(listener(), listener(53, kind="udp")),
    allow=tuple(
        ip_network(text)
        for text in ("192.0.2.66/32", f"{CLIENT6}/128", "198.51.100.0/24", "198.51.100.128/25")
    ),
)


@check("allow", GUARDED, replace(FAR, allow=GUARDED.allow))
def _allow(site: Site) -> None:
    site.network.local_endpoints((80, 8001))
    site.network.local_endpoints((53, 8001), "udp")
    site.network.client.address("uplink", "192.0.2.66/24")
    site.network.remote_endpoints(9000)
    site.apply(GUARDED, replace(FAR, allow=GUARDED.allow))
    expect(site.ask(source="192.0.2.66", count=2), ["8001"] * 2, "an allowed client")
    expect(site.ask(port=82, source="192.0.2.66"), [SERVERS4[0]], "an allowed client of addresses elsewhere")
    expect(site.ask(port=82), ["refused"], "another client of addresses elsewhere")
    expect(site.ask(port=53, kind="udp", source="192.0.2.66"), ["8001"], "an allowed client's datagram")
    expect(site.ask(HOST6), ["8001"], "an allowed client of IPv6")
    _refused(site, HOST4)
    site.apply(replace(GUARDED, allow=(ip_network(f"{CLIENT4}/32"),)))
    expect(site.ask(), ["8001"], "a client that was let in later")
    _refused(site, HOST4, source="192.0.2.66")


@check("tcp", WEB)
def _tcp(site: Site) -> None:
    site.network.local_endpoints((8001, 8002, 8003))
    _balances(site, WEB, HOST4, HOST6, INSIDE4)


DNS = replace(WEB, listeners=(listener(53, kind="udp"),))


@check("udp", DNS)
def _udp(site: Site) -> None:
    site.network.local_endpoints((8001, 8002, 8003), "udp")
    _balances(site, DNS, HOST4, HOST6, kind="udp")
    # A server on all addresses answers its own host from another one than was asked, unless over loopback.
    expect(site.ask_here("127.0.0.1", 53, 3, kind="udp"), turns(DNS, 3), "own clients")


TELE = replace(WEB, listeners=(listener(38412, kind="sctp"),))
TELE_FAR = service(*places(*SERVERS4, *SERVERS6), name="far", listeners=(listener(38413, kind="sctp"),))


@check("sctp", TELE, TELE_FAR)
def _sctp(site: Site) -> None:
    site.network.local_endpoints((8001, 8002, 8003), "sctp")
    _balances(site, TELE, HOST4, HOST6, kind="sctp")
    for family in Family:
        counted = {"8001": 3, "8002": 3, "8003": 3}
        expect(site.counts(TELE, family), counted, f"{family} connections that the kernel counted")
    responder = site.network.remote_endpoints(9000, "sctp")
    _balances(site, TELE_FAR, HOST4, HOST6, kind="sctp")
    expect(site.ask_here(port=38413, count=3, kind="sctp"), turns(TELE_FAR, 3), "own clients")
    expect(set(responder.peers[:9]), {CLIENT4}, "whom the endpoints see")
    found = site.network.ask(site.network.server, INSIDE4, 38413, 3, kind="sctp", source=NEIGHBOUR4)
    expect(found, turns(TELE_FAR, 3), "a neighbour of the endpoints")


BARRED = replace(TELE, allow=(ip_network("198.51.100.0/24"), ip_network("2001:db8:9::/64")))


@check("sctp: disallowed clients get an ABORT or ICMP error", BARRED, feature=False)
def _sctp_refused(site: Site) -> None:
    site.network.local_endpoints((8001, 8002, 8003, 38412), "sctp")
    site.apply(BARRED)
    for address in (HOST4, HOST6):
        expect(site.ask(address, 38412, kind="sctp"), ["refused"], address)


BOTH = service(
    *places(*SERVERS4, *SERVERS6),
    listeners=tuple(listener(80, address, kind) for kind in ("tcp", "udp") for address in (HOST4, HOST6)),
)


@check("IPv4, IPv6", BOTH)
def _families(site: Site) -> None:
    site.network.remote_endpoints(9000, "tcp", "udp")
    for kind in ("tcp", "udp"):
        _balances(site, BOTH, HOST4, HOST6, kind=kind)
        for address, family in ((HOST4, Family.IPV4), (HOST6, Family.IPV6)):
            found = site.ask_here(address, count=3, kind=kind)
            expect(found, turns(BOTH, 3, family=family), f"{kind} of own clients to {address}")


@check("endpoints: ports of this host, or addresses", FAR, OTHER)
def _kinds(site: Site) -> None:
    site.network.remote_endpoints(9000, "tcp", "udp")
    site.network.local_endpoints((8004, 8005))
    site.apply(FAR, OTHER)
    expect(site.ask(port=82, count=6), turns(FAR, 6), "addresses by tcp")
    expect(site.ask(INSIDE4, 82, 3), turns(FAR, 3), "by another address of this host")
    expect(site.ask(port=54, kind="udp", count=6), turns(FAR, 6), "addresses by udp")
    expect(site.ask(port=81, count=4), turns(OTHER, 4), "ports of this host")


RANGE = 'schema = 1\n[[service]]\nname = "web"\nlisten = "80/tcp"\nendpoints = ["8001-8012"]\n'


@check("ranges of ports", *loads(RANGE).services)
def _ranges(site: Site) -> None:
    [asked] = loads(RANGE).services
    site.network.local_endpoints(range(8001, 8013))
    _balances(site, asked, HOST4)


SEVERAL = service(
    *ports(8001, 8002),
    listeners=(listener(80, HOST4), listener(81, INSIDE4), listener(80, HOST6), listener(53, HOST4, "udp")),
)


@check("several listeners of one service", SEVERAL)
def _several(site: Site) -> None:
    site.network.local_endpoints((80, 8001, 8002))
    site.network.local_endpoints((8001, 8002), "udp")
    site.apply(SEVERAL)
    for each in SEVERAL.listeners:
        found = Counter(site.ask(str(each.address), each.port, 4, kind=each.protocol))
        expect(found, {"8001": 2, "8002": 2}, str(each))
    expect(site.ask(INSIDE4, 80), ["80"], "an address that is no listener")
    expect(site.ask(HOST4, 81), ["refused"], "a port that is no listener")


@check("any local address, excluding forwarded traffic", WEB)
def _forwarded(site: Site) -> None:
    site.network.local_endpoints((8001, 8002, 8003))
    elsewhere = site.network.responder(site.network.server)
    elsewhere.listen(80, name="elsewhere")
    elsewhere.start()
    site.apply(WEB)
    for address in (SERVERS4[0], SERVERS6[0]):
        expect(site.ask(address, count=2), ["elsewhere"] * 2, f"forwarded to {address}")
        expect(site.ask_here(address), ["elsewhere"], f"this host's own to {address}")
    expect(site.ask(INSIDE4, count=3), turns(WEB, 3), "another address of this host")


@check("local clients (optional)", WEB, replace(OTHER, local_clients=False))
def _own_clients(site: Site) -> None:
    site.network.local_endpoints((80, 81, 8001, 8002, 8003, 8004, 8005))
    apart = replace(OTHER, local_clients=False)
    site.apply(WEB, apart)
    for address in (HOST4, "127.0.0.1"):
        expect(site.ask_here(address, count=3), turns(WEB, 3), f"own clients to {address}")
    for address in (HOST6, "::1"):
        expect(site.ask_here(address, count=3), turns(WEB, 3), f"own clients to {address}")
    for address in (HOST4, HOST6):
        expect(site.ask_here(address, 81, 2), ["81"] * 2, "own clients, who are left out")
        expect(site.ask(address, 81, 2), turns(apart, 2), "clients elsewhere")


FOREIGN = replace(OTHER, local_clients=False, allow=(ip_network("203.0.113.0/24"),))
DRAINED = replace(OTHER, local_clients=False, endpoints=ports(8004, state=State.DRAIN))


@check("local clients that are left out are not rejected", FOREIGN, feature=False)
def _own_clients_pass(site: Site) -> None:
    site.network.local_endpoints((81, 8004, 8005))
    for asked in (FOREIGN, DRAINED):
        if site.refusal([asked]) is None:
            site.apply(asked)
            expect(site.ask(HOST4, 81), ["refused"], "clients elsewhere")
            expect(site.ask_here(HOST4, 81), ["81"], "own clients, who are left out")


def _translated(kind: SourceNat) -> Service:
    return service(*places(SERVERS4[0]), listeners=(listener(80, INSIDE4),), source_nat=kind)


def _sees(site: Site, kind: SourceNat, *, client: str, neighbour: str | None) -> None:
    """Whom an endpoint sees: the client, or this host where the answer would pass it by."""
    responder = site.network.remote_endpoints(9000)
    site.apply(_translated(kind))
    expect(site.ask(INSIDE4), [SERVERS4[0]], "a client elsewhere")
    expect(responder.peers, [client], "whom the endpoint sees")
    for source in (NEIGHBOUR4, SERVERS4[0]):
        responder.peers.clear()
        found = site.network.ask(site.network.server, INSIDE4, 80, source=source, timeout=0.3)
        # Without translation the endpoint answers its neighbour directly, who knows nothing of it.
        expect(found, [SERVERS4[0] if neighbour else "timeout"], f"{source}, in the endpoint's network")
        if neighbour:
            expect(responder.peers, [neighbour], "whom the endpoint sees")


@check("source-nat hairpin", _translated(SourceNat.HAIRPIN))
def _hairpin(site: Site) -> None:
    _sees(site, SourceNat.HAIRPIN, client=CLIENT4, neighbour=INSIDE4)


@check("source-nat always", _translated(SourceNat.ALWAYS))
def _always(site: Site) -> None:
    _sees(site, SourceNat.ALWAYS, client=INSIDE4, neighbour=INSIDE4)


@check("source-nat never", _translated(SourceNat.NEVER))
def _never(site: Site) -> None:
    _sees(site, SourceNat.NEVER, client=CLIENT4, neighbour=None)


_SHARED = service(
    *places(*SERVERS4, *SERVERS6),
    listeners=(listener(80, HOST4), listener(80, HOST6), listener(53, HOST4, "udp")),
    scheduler=Scheduler.SOURCE_HASH,
    takeover=True,
)


@check("takeover", _SHARED, allow_remap=True)
def _takeover(site: Site) -> None:
    """What endpoints send is dropped where no connection is known for it: another host may have had one."""
    network = site.network
    outside = network.responder(network.client)
    for kind in ("tcp", "udp"):
        outside.listen(7000, kind=kind, name="outside")
    outside.start()
    site.apply(_SHARED)
    for address, kind in product((CLIENT4, CLIENT6), ("tcp", "udp")):
        source = (SERVERS6 if ":" in address else SERVERS4)[0]
        guarded = kind == "tcp" or address == CLIENT4
        for port, dropped in ((9000, guarded), (9001, False)):
            found = network.begin(network.server, (source, port), (address, 7000), kind)
            expect([found], ["timeout" if dropped else "outside"], f"{kind} from port {port} of an endpoint")
    network.remote_endpoints(9000, "tcp", "udp")
    for address, servers in ((HOST4, SERVERS4), (HOST6, SERVERS6)):
        [endpoint] = set(site.ask(address, count=3))
        expect([endpoint in servers], [True], "an endpoint of the service")
    expect(site.ask(HOST4, 53, kind="udp"), site.ask(HOST4), "the same client, by datagrams")


# -- laws: what users need not ask for, so that they ask for little else


@check("statistics are exact", WEIGHTED, feature=False)
def _statistics(site: Site) -> None:
    site.network.local_endpoints((8001, 8002, 8003))
    site.apply(WEIGHTED)
    expect(site.counts(WEIGHTED), {"8001": 0, "8002": 0, "8003": 0}, "before the first connection")
    site.ask(count=12)
    site.ask_here(HOST6, count=6)
    for family, counted in (
        (Family.IPV4, {"8001": 6, "8002": 4, "8003": 2}),
        (Family.IPV6, {"8001": 3, "8002": 2, "8003": 1}),
    ):
        expect(site.counts(WEIGHTED, family), counted, f"{family} connections that the kernel counted")


@check("what is read back is what was compiled, and has the exact shares", WEIGHTED, OTHER, feature=False)
def _read_back(site: Site) -> None:
    asked = (WEIGHTED, OTHER)
    site.apply(*asked)
    with site.network.host.entered():
        backend, driver = site.session.backend, site.session.driver
        read = backend.observe(site.session.host, driver, OWNER)
        program = site.session.compile(Intent(services=asked, owner=OWNER))
    expect(dict(read.by_key) == dict(program.by_key), True, "the same items")
    lifted = backend.lift(read)
    expect(lifted.unsupported, (), "items that cannot be read")
    for each in asked:
        for found in (s for s in lifted.services if s.name == each.name):
            expect(found.leak, 0, f"what escapes {each.name}")
            got = {to: share for to, share in each.shares(found.family).items() if share}
            expect(dict(found.shares), got, f"shares of {each.name}")
            expect(sum(got.values()), 1, f"shares of {each.name} in sum")
        places_ = {(f, x) for f in each.families for x in each.listeners_of(f)}
        seen = {(s.family, s.listener) for s in lifted.services if s.name == each.name}
        expect(seen, places_, f"listeners of {each.name}")


@check("reading and checking change nothing", WEB, feature=False)
def _passive(site: Site) -> None:
    site.network.local_endpoints((80,))
    plan = site.plan(WEB)
    with site.network.host.entered():
        site.session.check(plan.after)
        backend = site.session.backend
        expect(bool(backend.render(plan.after)), True, "a rendered text")
        read = backend.observe(site.session.host, site.session.driver, OWNER)
    expect(bool(read), False, "anything in the kernel")
    expect(site.ask(), ["80"], "who answers")


@check("applying again writes nothing", HERE, ASIDE, feature=False)
def _again(site: Site) -> None:
    site.network.local_endpoints((8001, 8002, 8003))
    site.apply(HERE, ASIDE)
    expect(site.ask(count=4), turns(HERE, 4), "connections")
    for _ in range(2):
        with site.network.host.entered():
            before = site.session.backend.generation(site.session.host, site.session.driver)
        expect(site.apply(HERE, ASIDE).changed, False, "a second apply has something to do")
        with site.network.host.entered():
            after = site.session.backend.generation(site.session.host, site.session.driver)
        expect(after, before, "the kernel's mark")
        site.afresh()
    expect(site.counts(HERE), {"8001": 2, "8002": 1, "8003": 1}, "counters")
    expect(site.ask(count=5), turns(HERE, 5, after=4), "turns")


@check("a change of one service disturbs no other", HERE, ASIDE, feature=False)
def _delta(site: Site) -> None:
    site.network.local_endpoints((8001, 8002, 8003, 8004, 8005))
    taken = 0
    less = replace(ASIDE, endpoints=ports(8005))
    moved = replace(ASIDE, listeners=(listener(82, HOST4, "udp"),))
    for others in ((ASIDE,), (less,), (moved,), ()):
        site.apply(HERE, *others)
        expect(site.ask(count=4), turns(HERE, 4, after=taken), "turns across changes")
        taken += 4
    expect(sum(site.counts(HERE).values()), taken, "counters across changes")


@check("established connections survive changes", HERE, feature=False)
def _established(site: Site) -> None:
    holder = site.network.holder((8001, 8002, 8003))
    site.apply(HERE)
    held = [site.network.hold(site.network.client, HOST4, 80) for _ in range(3)]
    expect(sorted(holder.ports), [8001, 8002, 8003], "three connections")
    for asked in (replace(HERE, endpoints=ports(8002)), UNEVEN):
        site.apply(asked)
        expect([one.say("on") for one in held], ["on"] * 3, "established connections")


FLOWS = service(*ports(8001, 8002), listeners=(listener(53, HOST4, "udp"),))


@check("UDP flows of a removed endpoint are deleted", FLOWS, feature=False)
def _flows(site: Site) -> None:
    site.network.local_endpoints((53, 8001, 8002, 8003), "udp")
    early = site.network.flow(site.network.client, HOST4, 53)
    expect(early.say(), "53", "before there is a service")
    site.apply(FLOWS)
    expect(early.say(), "8001", "a flow that came before the service")
    flows = [site.network.flow(site.network.client, HOST4, 53) for _ in range(2)]
    expect([flow.say() for flow in flows], ["8002", "8001"], "new flows")
    site.apply(replace(FLOWS, endpoints=ports(8002, 8003)))
    after = [flow.say() for flow in (early, *flows)]
    expect(after[1], "8002", "the flow whose endpoint stayed")
    expect("8001" in after, False, "an endpoint that is gone answers")


@check("drift is detected and repaired", HERE, ASIDE, feature=False)
def _drift(site: Site) -> None:
    site.network.local_endpoints((8001, 8002, 8003, 8004, 8005))
    ours = site.session
    site.apply(HERE, ASIDE)
    for drifted in ((replace(HERE, endpoints=ports(8003, 8001)), ASIDE), ()):
        # Somebody else, of whom the first session knows nothing.
        site.afresh()
        site.apply(*drifted)
        site.session = ours
        expect(site.plan(HERE, ASIDE).changed, True, "a difference is seen")
        site.apply(HERE, ASIDE)
        expect(site.plan(HERE, ASIDE).changed, False, "a difference is left")
        expect(sorted(site.ask(count=3)), ["8001", "8002", "8003"], "after the repair")


@check("a stale plan is refused", HERE, ASIDE, feature=False)
def _stale(site: Site) -> None:
    site.network.local_endpoints((8001, 8002, 8003))
    site.apply(HERE)
    plan, ours = site.plan(HERE, ASIDE), site.session
    site.afresh()
    site.apply(UNEVEN)
    site.session = ours
    try:
        site.carry_out(plan)
    except Stale:
        expect(site.ask(count=6), turns(UNEVEN, 6), "what another process applied")
        return
    raise Failed("it was applied")


@check("owners do not see each other", HERE, ASIDE, feature=False)
def _owners(site: Site) -> None:
    site.network.local_endpoints((8001, 8002, 8003, 8004, 8005))
    site.apply(HERE)
    site.apply(ASIDE, owner=NEIGHBOUR)
    expect(site.plan(HERE).changed, False, "the first owner's rules have changed")
    expect(site.ask(port=81, count=2), turns(ASIDE, 2), "the second owner's service")
    site.apply(owner=NEIGHBOUR)
    expect(site.ask(count=3), turns(HERE, 3), "the first owner's service")
    expect(site.ask(port=81), ["refused"], "the second owner's, gone")


@check("removing leaves nothing", WEB, OTHER, feature=False)
def _removed(site: Site) -> None:
    site.network.local_endpoints((80, 8001, 8002, 8003))
    site.apply(WEB, OTHER)
    expect(site.ask(), ["8001"], "before")
    site.apply()
    site.afresh()
    with site.network.host.entered():
        read = site.session.observe(OWNER)
        counted = site.session.backend.stats(site.session.host, site.session.driver, OWNER)
    expect([item.key for item in read.items], [], "items")
    expect(list(counted), [], "counters")
    expect(site.ask(), ["80"], "who answers")
    expect(site.plan().changed, False, "a second removal has something to do")
