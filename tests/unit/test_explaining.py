"""Which services take a connection, and who gets it."""

from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest

from lbctl.config.values import listener
from lbctl.engine.inspect.explain import Connection, Trace, explain
from lbctl.model import Affinity, AnalysedService, Analysis, EndpointShare, Family, Step, shares
from lbctl.model.jenkins import jenkins, slot_of

HASHED = Affinity(kind="hash", by="source address", seconds=None)


def service(*slots: str, **more: Any) -> AnalysedService:
    values: dict[str, Any] = {
        "family": Family.IPV4,
        "proto": "tcp",
        "dst": "local",
        "dport": "80",
        "hooks": ("prerouting",),
        "action": "redirect",
        "mode": "hash",
        "backends": tuple(EndpointShare(to=to, share=share) for to, share in shares(slots).items()),
        "leak": 0,
        "slots": slots,
        "hash_seed": 1,
        "placing": slot_of,
        "affinity": HASHED,
    }
    return AnalysedService(**{**values, **more})


def explained(asked: str, *services: AnalysedService, client: str | None = None, **more: Any) -> list[Trace]:
    connection = Connection(
        listener=listener(asked), client=None if client is None else ip_address(client), **more
    )
    return list(explain(connection, {"x": Analysis(format="nft", services=services)}))


def ways(asked: str, *services: AnalysedService, client: str | None = None) -> list[AnalysedService]:
    return [way.service for way in explained(asked, *services, client=client)]


def test_the_hash_has_its_known_values() -> None:
    # Computed by the kernel's own jhash.h.
    assert jenkins(b"", 0) == 0xDEADBEEF
    assert jenkins(b"Four score and seven years ago", 0) == 0x17770551


def test_slots_are_spans_of_the_hash() -> None:
    for n in range(256):
        client = ip_address(f"10.0.0.{n}")
        assert slot_of(client, 8, 5) // 2 == slot_of(client, 4, 5)
    counted = [slot_of(ip_address(f"2001:db8::{n:x}"), 4, 5) for n in range(400)]
    assert all(60 < counted.count(slot) < 140 for slot in range(4))


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("80/tcp", ["local"]),
        # Whether an address is this host's, rules do not say.
        ("192.0.2.1:80/tcp", ["192.0.2.1", "local"]),
        ("192.0.2.2:80/tcp", ["192.0.2.0/24", "local"]),
        ("203.0.113.1:80/tcp", ["local", "any"]),
        ("[2001:db8::1]:80/tcp", []),
        ("80/udp", []),
        ("81/tcp", []),
    ],
)
def test_who_takes_it(asked: str, found: list[str]) -> None:
    services = [replace(service("a"), dst=dst) for dst in ("any", "local", "192.0.2.0/24", "192.0.2.1")]
    assert [each.dst for each in ways(asked, *services)] == found


@pytest.mark.parametrize(
    ("ports", "takes"), [("80,443", True), ("79-81", True), ("any", True), ("81-90", False)]
)
def test_ports(ports: str, takes: bool) -> None:
    assert bool(ways("80/tcp", service("a", dport=ports))) is takes


@pytest.mark.parametrize(
    ("sources", "takes"),
    [
        ("10.0.0.0/8", True),
        ("! 10.0.0.0/8", False),
        ("192.0.2.1,10.0.0.1-10.0.0.9", True),
        ("192.0.2.1", False),
    ],
)
def test_clients(sources: str, takes: bool) -> None:
    narrow = service("a", when={"src": sources})
    assert bool(ways("80/tcp", narrow, client="10.0.0.5")) is takes
    assert ways("80/tcp", narrow)
    assert not ways("80/tcp", narrow, client="2001:db8::1")


def test_the_endpoint_of_a_client() -> None:
    client = ip_address("10.0.0.5")

    def chosen(found: AnalysedService) -> tuple[int | None, str | None]:
        [way] = explained("80/tcp", found, client=str(client))
        return way.slot, way.chosen

    slot = slot_of(client, 3, 1)
    assert chosen(service("a", "b", "c")) == (slot, "abc"[slot])
    assert chosen(service("a", "b", "c", mode="nth", affinity=None, hash_seed=None)) == (None, None)
    assert chosen(service("a", "b", "c", placing=None)) == (None, None)
    assert chosen(service("a", mode="single", affinity=None)) == (None, "a")
    # Who came before may be elsewhere.
    assert chosen(service("a", "b", affinity=replace(HASHED, kind="map", seconds=9))) == (None, None)


@pytest.mark.parametrize(
    ("when", "open_"),
    [
        # What is known decides; what is not known is told.
        ({"src": "10.0.0.0/8"}, ()),
        ({"src": "10.0.0.0/8, ! 10.0.0.0/24"}, None),
        ({"src": "192.0.2.0/24"}, None),
        ({"src": "@clients"}, ("src",)),
        ({"sport": "1024-65535"}, ()),
        ({"sport": "53,1024-65535"}, ()),
        ({"sport": "! 40000"}, None),
        ({"iif": "eth0"}, ()),
        ({"iif": "eth+"}, ()),
        ({"iif": '"eth*"'}, ()),
        ({"iif": "! eth0"}, None),
        ({"iif": "eth1"}, None),
        ({"iif": "eth1,eth0"}, ()),
        ({"uid": "0"}, ("uid",)),
        ({"uid": "0", "iif": "eth1"}, None),
        ({"mark": "0x1", "src": "10.0.0.0/8"}, ("mark",)),
    ],
)
def test_conditions_are_decided_where_they_can_be(
    when: dict[str, str], open_: tuple[str, ...] | None
) -> None:
    found = service("a", when=when)
    told = explained("80/tcp", found, client="10.0.0.5", source_port=40000, interface="eth0")
    assert [tuple(name for name, _ in way.open) for way in told] == ([] if open_ is None else [open_])
    # Of a connection of which nothing is known, everything is open.
    [way] = explained("80/tcp", found)
    assert dict(way.open) == when


def test_a_narrow_way_that_is_sure_leaves_no_other() -> None:
    wide, narrow = service("a"), service("b", when={"src": "10.0.0.0/8"})
    assert ways("80/tcp", wide, narrow) == [narrow, wide]
    assert ways("80/tcp", wide, narrow, client="10.0.0.1") == [narrow]
    assert ways("80/tcp", wide, narrow, client="192.0.2.1") == [wide]
    # A mark is no endpoint, and another hook another way.
    mark = service("mark 0x1", when={"src": "10.0.0.0/8"}, action="mark")
    assert ways("80/tcp", wide, mark, client="10.0.0.1") == [mark, wide]
    both = service("a", hooks=("prerouting", "output"))
    assert ways("80/tcp", both, narrow, client="10.0.0.1") == [narrow, both]


def test_connections_of_this_host_have_their_own_way() -> None:
    path = tuple(Step(f"{hook}: t", line, "", hook=hook) for hook, line in (("prerouting", 1), ("output", 2)))
    both = service("a", hooks=("prerouting", "output"), way=lambda: path)
    outside = service("a", dport="80-81")
    iif = service("a", when={"iif": "eth0"}, hooks=("output",))
    assert [(way.service, way.path) for way in explained("80/tcp", both, outside, iif, own=True)] == [
        (both, path[1:])
    ]
    assert [way.path for way in explained("80/tcp", both)] == [path[:1]]
    only = service("a", hooks=("output",))
    assert explained("80/tcp", only)
    assert not explained("80/tcp", only, interface="eth0")
