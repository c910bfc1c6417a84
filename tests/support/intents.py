"""Hypothesis strategies for whole intents, within what both backends can express.

Names, ports and addresses come from small pools, so that two intents often differ in little: the same
service with another weight, listener or endpoint. That is where a delta has work to do.
"""

from dataclasses import replace
from fractions import Fraction
from ipaddress import IPv4Address, IPv6Address, ip_network

from hypothesis import strategies as st

from lbctl.model import (
    DEFAULT_MARK,
    DEFAULT_OWNER,
    Address,
    AllDown,
    Check,
    Endpoint,
    Family,
    HealthPolicy,
    Intent,
    Limit,
    Listener,
    Protocol,
    Scheduler,
    Service,
    SourceNat,
    State,
    TcpProbe,
    slot_count,
    takeover_obstacles,
)

#: Those that need no running agent.
SCHEDULERS = [each for each in Scheduler if each is not Scheduler.LEAST_CONNECTIONS]
LONG = "n" * 63
LONGER = "n" * 62 + "o"
NAMES = st.sampled_from(["web", "api", "dns", "a", "0", "x-1", "drop", LONG, LONGER]) | st.from_regex(
    r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", fullmatch=True
)
OWNERS = st.sampled_from([DEFAULT_OWNER, DEFAULT_OWNER, "blue", "0", "a-b", "o" * 12])
MARKS = st.sampled_from([DEFAULT_MARK, DEFAULT_MARK, 0x3, 0xC0000000])
PORTS = st.sampled_from([1, 53, 80, 443, 65535]) | st.integers(1, 65535)
V4 = st.integers(1, 6).map(lambda n: IPv4Address("10.0.0.0") + n)
V6 = st.integers(1, 6).map(lambda n: IPv6Address("2001:db8:2::") + n)
ADDRESSES = {Family.IPV4: V4, Family.IPV6: V6}
ALLOWED = st.sampled_from(
    [
        ip_network(text)
        for text in (
            "10.0.0.0/8",
            "10.0.0.0/9",
            "10.128.0.0/9",
            "192.0.2.1/32",
            "0.0.0.0/0",
            "2001:db8::/32",
            "2001:db8::1/128",
            "::/0",
        )
    ]
)
AFFINITIES = st.sampled_from([1, 59, 60, 3600, 10800, 86400, 93784, 30 * 86400])
WEIGHTS = st.just(1) | st.integers(1, 12)
NETWORKS = ("10.0.0.0/24", "192.0.2.0/24", "2001:db8:2::/64")


#: First and last ports: some meet, some hold ports of PORTS.
RANGES = st.sampled_from([(1, 65535), (50, 90), (80, 81), (60, 100), (443, 1000), (30000, 65535)])
INTERFACES = st.sampled_from(["eth0", "ppp*", "a" * 15, "br-1.2", "0"])


@st.composite
def endpoints(
    draw: st.DrawFn,
    families: frozenset[Family],
    *,
    local: bool,
    states: st.SearchStrategy[State],
    bare: bool = False,
) -> tuple[Endpoint, ...]:
    """At least one endpoint of each family, all of one kind, no place twice; with `bare` without ports."""
    places: list[tuple[Address | None, int | None]] = []
    if local:
        places += [(None, port) for port in draw(st.lists(PORTS, min_size=1, max_size=5, unique=True))]
    else:
        for family in sorted(families):
            pairs = st.tuples(ADDRESSES[family], st.none() if bare else PORTS)
            places += draw(st.lists(pairs, min_size=1, max_size=4, unique=True))
        places = draw(st.permutations(places))
    weights = draw(st.lists(WEIGHTS, min_size=len(places), max_size=len(places)))
    named = draw(st.booleans())
    return tuple(
        Endpoint(
            port=port,
            address=address,
            weight=weight,
            name=f"e{i}" if named else "",
            state=draw(states),
        )
        for i, ((address, port), weight) in enumerate(zip(places, weights, strict=True))
    )


@st.composite
def services(draw: st.DrawFn, *, everything: bool, selective: bool) -> Service:
    local = draw(st.booleans())
    bare = selective and not local and draw(st.booleans())
    families = frozenset(draw(st.lists(st.sampled_from(Family), min_size=1, max_size=2, unique=True)))
    candidates = st.builds(
        Listener,
        protocol=st.sampled_from(Protocol if everything else [Protocol.TCP, Protocol.UDP]),
        port=PORTS,
        address=st.one_of(st.none(), *(ADDRESSES[family] for family in sorted(families))),
    )
    if bare:
        wide = st.tuples(candidates, RANGES)
        candidates |= wide.map(lambda x: replace(x[0], port=x[1][0], last_port=x[1][1]))
    listeners: list[Listener] = []
    for listener in draw(st.lists(candidates, min_size=1, max_size=4)):
        if not any(listener.overlaps(other) for other in listeners):
            listeners.append(listener)
    states = st.sampled_from(State) if everything else st.just(State.ACTIVE)
    chosen = draw(endpoints(families, local=local, states=states, bare=bare))
    exclude = draw(st.lists(ALLOWED, max_size=2)) if selective else []
    if all(x.address for x in listeners):
        exclude = []
    exclude = [net for net in exclude if not any(x.address and x.address in net for x in listeners)]
    mixed = mixed_ports(chosen)
    scheduler = draw(st.sampled_from(SCHEDULERS)) if everything else Scheduler.ROUND_ROBIN
    source_nat = draw(st.sampled_from(SourceNat))
    impossible = any(takeover_obstacles(scheduler, source_nat, listeners, chosen))
    return Service(
        name=draw(NAMES),
        listeners=tuple(listeners),
        endpoints=chosen,
        scheduler=scheduler,
        seed=draw(st.none() | st.sampled_from([0, 1, 0xFFFFFFFF])),
        allow=tuple(draw(st.lists(ALLOWED, max_size=3))) if everything else (),
        affinity=draw(st.none() | AFFINITIES) if everything and not mixed else None,
        local_clients=draw(st.booleans()),
        source_nat=source_nat,
        takeover=not impossible and draw(st.booleans()),
        deny=tuple(draw(st.lists(ALLOWED, max_size=2))) if selective else (),
        interfaces=tuple(draw(st.lists(INTERFACES, max_size=2, unique=True))) if selective else (),
        exclude=tuple(exclude),
    )


def _small(service: Service) -> bool:
    return all(
        slot_count([e.weight for e in service.endpoints if e.serves(family)]) <= 60 for family in Family
    )


@st.composite
def intents(
    draw: st.DrawFn,
    *,
    owner: str | None = None,
    min_services: int = 0,
    max_services: int = 4,
    everything: bool = False,
    selective: bool = False,
) -> Intent:
    """Any intent whose listeners do not overlap.

    `owner` fixes the owner, for intents that follow another. `everything` adds what one backend alone can
    express: other schedulers, states, allowed clients, SCTP, affinity. `selective` adds ranges of ports,
    endpoints without a port, denied clients, interfaces and excluded addresses.
    """
    kept: list[Service] = []
    drawn = st.lists(
        services(everything=everything, selective=selective).filter(_small),
        min_size=min_services,
        max_size=max_services,
        unique_by=lambda s: s.name,
    )
    for service in draw(drawn):
        if not any(overlap(service, other) for other in kept):
            kept.append(service)
    return Intent(services=tuple(kept), owner=owner or draw(OWNERS), mark=draw(MARKS))


@st.composite
def checked(draw: st.DrawFn, intent: Intent) -> Intent:
    """The intent with checks, some of whose endpoints are out or return."""
    parts = st.sampled_from([Fraction(0), Fraction(1, 3), Fraction(1)])
    services = []
    for service in intent.services:
        limits = {
            Limit(family=family, to=e.to, part=part)
            for family in service.families
            for e in service.endpoints
            if e.serves(family) and (part := draw(parts)) < 1
        }
        health = HealthPolicy(
            all_down=draw(st.sampled_from(AllDown)), slow_start=draw(st.sampled_from([0, 30_000]))
        )
        check = draw(st.none() | st.just(Check(probe=TcpProbe())))
        services.append(replace(service, check=check, health=health, limits=frozenset(limits)))
    return replace(intent, services=tuple(services))


def overlap(one: Service, other: Service) -> bool:
    """Return True if two services cannot be in one intent."""
    return any(
        mine.overlaps(theirs) and not (_leaves(one, mine, theirs) or _leaves(other, theirs, mine))
        for mine in one.listeners
        for theirs in other.listeners
    )


def _leaves(service: Service, listener: Listener, other: Listener) -> bool:
    """True where the service leaves alone what one of its listeners shares with another one."""
    return (
        listener.address is None
        and other.address is not None
        and any(other.address in network for network in service.exclude)
    )


def mixed_ports(endpoints: tuple[Endpoint, ...]) -> bool:
    """True where clients cannot be kept: nftables keeps them by the address alone where that is IPv6."""
    return len({e.port for e in endpoints if e.address and e.address.version == 6}) > 1


def forgetful(intent: Intent) -> Intent:
    """The intent without affinity and ranges of ports, for hosts that have no maps for these."""
    made = []
    for service in intent.services:
        listeners = tuple(listener for listener in service.listeners if not listener.is_range)
        exclude = service.exclude if any(listener.address is None for listener in listeners) else ()
        if listeners:
            made.append(replace(service, affinity=None, listeners=listeners, exclude=exclude))
    return replace(intent, services=tuple(made))
