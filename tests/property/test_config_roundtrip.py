"""Any intent that keeps the rules of a file survives being written and read."""

from __future__ import annotations

import json
import tomllib
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_network

from hypothesis import given, strategies as st

from lbctl.config import dump, loads
from lbctl.config.render import quote
from lbctl.errors import ConfigProblem, IntentError
from lbctl.model import (
    INTERFACE,
    MAX_OWNER,
    MAX_SLOTS,
    MAX_WEIGHT,
    Address,
    Endpoint,
    Family,
    Intent,
    Listener,
    Network,
    Protocol,
    Scheduler,
    Service,
    SourceNat,
    State,
    slot_count,
    takeover_obstacles,
)

PORTS = st.integers(1, 65535)
NAMES = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", fullmatch=True)
INTERFACES = st.from_regex(INTERFACE, fullmatch=True).filter(lambda name: name != "lo")
V4 = st.integers(1, 0xDFFFFFFF).map(IPv4Address)
V6 = st.integers(1 << 120, (0xFF << 120) - 1).map(IPv6Address)


def networks(address: Address, prefix: int) -> Network:
    return ip_network((address, min(prefix, address.max_prefixlen)), strict=False)


@st.composite
def endpoints(draw: st.DrawFn) -> tuple[Endpoint, ...]:
    first = draw(st.integers(1, 60000))
    if draw(st.booleans()):
        return tuple(Endpoint(port=first + i) for i in range(draw(st.integers(1, 1500))))
    local = draw(st.booleans())
    addresses: st.SearchStrategy[Address | None] = st.none() if local else V4 | V6
    bare = not local and draw(st.booleans())
    where = st.tuples(addresses, st.none() if bare else PORTS)
    places = draw(st.lists(where, min_size=1, max_size=6, unique=True))
    names = draw(st.lists(NAMES, min_size=len(places), max_size=len(places), unique=True))
    plain = draw(st.booleans())
    made = []
    for (address, port), name in zip(places, names, strict=True):
        if plain:
            made.append(Endpoint(port=port, address=address))
        else:
            made.append(
                Endpoint(
                    port=port,
                    address=address,
                    # digits could be the name that another endpoint has by default
                    name=draw(st.sampled_from(["", "" if name.isdigit() else name])),
                    weight=draw(st.sampled_from([1, 2, 3, MAX_WEIGHT])),
                    state=draw(st.sampled_from(State)),
                )
            )
    return tuple(made)


@st.composite
def services(draw: st.DrawFn) -> Service:
    backends = draw(endpoints())
    families = [f for f in Family if any(e.serves(f) for e in backends)]
    addresses = [{Family.IPV4: V4, Family.IPV6: V6}[f] for f in families]
    single = st.builds(
        Listener,
        protocol=st.sampled_from(Protocol),
        port=PORTS,
        address=st.one_of(st.none(), *addresses),
    )
    ranges = st.tuples(single, PORTS).map(lambda x: replace(x[0], last_port=max(x[0].port, x[1])))
    listeners = draw(
        st.lists(single | ranges if backends[0].port is None else single, min_size=1, max_size=4)
    )
    anywhere = any(listener.address is None for listener in listeners)
    excluded = draw(st.lists(st.builds(networks, V4 | V6, st.integers(8, 128)), max_size=anywhere and 3))
    scheduler, source_nat = draw(st.sampled_from(Scheduler)), draw(st.sampled_from(SourceNat))
    impossible = any(takeover_obstacles(scheduler, source_nat, listeners, backends))
    return Service(
        name=draw(NAMES),
        listeners=tuple(listeners),
        endpoints=backends,
        scheduler=scheduler,
        local_clients=draw(st.booleans()),
        seed=draw(st.none() | st.integers(0, 0xFFFFFFFF)),
        affinity=draw(st.none() | st.integers(1, 30 * 86400)),
        source_nat=source_nat,
        takeover=not impossible and draw(st.booleans()),
        allow=tuple(draw(st.lists(st.builds(networks, V4 | V6, st.integers(0, 128)), max_size=3))),
        deny=tuple(draw(st.lists(st.builds(networks, V4 | V6, st.integers(0, 128)), max_size=3))),
        interfaces=tuple(draw(st.lists(INTERFACES, max_size=3, unique=True))),
        exclude=tuple(net for net in excluded if not any(x.address and x.address in net for x in listeners)),
    )


def keeps_the_rules(service: Service) -> bool:
    return all(
        slot_count([e.weight for e in service.endpoints if e.serves(family) and e.state is state])
        <= MAX_SLOTS
        for family in Family
        for state in State
    )


@st.composite
def intents(draw: st.DrawFn) -> Intent:
    kept: list[Service] = []
    for service in draw(st.lists(services().filter(keeps_the_rules), max_size=4, unique_by=lambda s: s.name)):
        seen = [x for other in kept for x in other.listeners]
        fine = []
        for listener in service.listeners:
            if not any(listener.overlaps(x) for x in seen + fine):
                fine.append(listener)
        if len(fine) == len(service.listeners):
            kept.append(service)
    owner = draw(NAMES.filter(lambda name: len(name) <= MAX_OWNER))
    bits = draw(st.lists(st.integers(0, 31), min_size=2, max_size=2, unique=True))
    return Intent(services=tuple(kept), owner=owner, mark=sum(1 << bit for bit in bits))


@given(intents())
def test_an_intent_survives_its_file(intent: Intent) -> None:
    text = dump(intent)
    assert loads(text) == intent
    assert dump(loads(text)) == text


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_every_text_survives_quoting(text: str) -> None:
    assert tomllib.loads(f"a = {quote(text)}") == {"a": text}


NEAR = st.builds(
    Listener,
    protocol=st.sampled_from(Protocol),
    port=st.integers(1, 3),
    address=st.none() | st.integers(1, 3).map(IPv4Address),
)
NEAR_RANGES = st.builds(
    lambda near, first, more: replace(near, port=first, last_port=first + more),
    NEAR,
    st.integers(1, 9),
    st.integers(1, 4),
)


@given(st.lists(NEAR | NEAR_RANGES, min_size=1, max_size=8))
def test_overlaps_are_found_exactly_where_the_model_has_them(listeners: list[Listener]) -> None:
    services = tuple(
        Service(name=f"s{i}", listeners=(x,), endpoints=(Endpoint(address=IPv4Address(9)),))
        for i, x in enumerate(listeners)
    )
    later = {i for i, x in enumerate(listeners) if any(x.overlaps(y) for y in listeners[:i])}
    try:
        loads(dump(Intent(services=services)))
    except IntentError as error:
        found = {int(p.message.split('"')[1][1:]) for p in error.problems}
    else:
        found = set()
    assert found == later


KEYS = st.sampled_from(
    [
        "schema",
        "owner",
        "mark",
        "service",
        "name",
        "listen",
        "endpoints",
        "endpoint",
        "address",
        "weight",
        "state",
        "scheduler",
        "local-clients",
        "seed",
        "affinity",
        "source-nat",
        "allow",
        "deny",
        "interfaces",
        "exclude",
        "takeover",
        "zzz",
    ]
)
TEXTS = st.sampled_from(
    [
        "web",
        "80/tcp",
        "8001",
        "10.0.0.1:80",
        "10.0.0.1",
        "20-30/udp",
        "eth0",
        "[::1]:1",
        "1-9",
        "3h",
        "80",
        "::1",
        "x:1/tcp",
        "[",
        "]",
        "/",
        "-",
        ":",
        "1/",
        "[::1]/x",
    ]
)
ODD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | TEXTS,
    lambda value: st.lists(value, max_size=3) | st.dictionaries(KEYS, value, max_size=6),
    max_leaves=12,
)


@given(
    st.lists(
        st.dictionaries(st.sampled_from(["name", "listen", "endpoints", "endpoint", "allow", "seed"]), ODD)
    ),
    ODD,
)
def test_any_json_is_either_an_intent_or_explained(services: list[object], more: object) -> None:
    document: dict[str, object] = {"schema": 1, "service": services}
    if isinstance(more, dict):
        document |= more
    problems: tuple[ConfigProblem, ...] | None = None
    try:
        loads(json.dumps(document))
    except IntentError as error:
        problems = error.problems
    assert problems is None or len(problems) > 0
    for problem in problems or ():
        assert problem.line >= 1
        assert problem.hint
        assert f"{problem}{problem.hint}".isprintable()
