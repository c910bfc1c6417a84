"""Which services take a connection, and who gets it."""

from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest

from lbctl.config.values import listener
from lbctl.engine.explaining import explain
from lbctl.model import Family, Kept, Reading, ReadService, ReadShare, shares
from lbctl.model.jenkins import jenkins, slot_of

HASHED = Kept(kind="hash", by="source address", seconds=None)


def service(*slots: str, **more: Any) -> ReadService:
    values: dict[str, Any] = {
        "family": Family.IPV4,
        "proto": "tcp",
        "dst": "local",
        "dport": "80",
        "hooks": ("prerouting",),
        "action": "redirect",
        "mode": "hash",
        "backends": tuple(ReadShare(to=to, share=share) for to, share in shares(slots).items()),
        "leak": 0,
        "slots": slots,
        "hash_seed": 1,
        "affinity": HASHED,
    }
    return ReadService(**{**values, **more})


def ways(asked: str, *services: ReadService, client: str | None = None) -> list[ReadService]:
    found = explain(
        listener(asked),
        {"x": Reading(format="nft", services=services)},
        None if client is None else ip_address(client),
    )
    return [way.service for way in found]


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
        ("80/tcp", ["local", "any"]),
        ("192.0.2.1:80/tcp", ["192.0.2.1", "192.0.2.0/24", "local", "any"]),
        ("192.0.2.2:80/tcp", ["192.0.2.0/24", "local", "any"]),
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
        ("!= 10.0.0.0/8", False),
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

    def chosen(found: ReadService) -> tuple[int | None, str | None]:
        [way] = explain(listener("80/tcp"), {"x": Reading(format="nft", services=(found,))}, client)
        return way.slot, way.chosen

    slot = slot_of(client, 3, 1)
    assert chosen(service("a", "b", "c")) == (slot, "abc"[slot])
    assert chosen(service("a", "b", "c", mode="nth", affinity=None, hash_seed=None)) == (None, None)
    assert chosen(service("a", mode="single", affinity=None)) == (None, "a")
    # Who came before may be elsewhere.
    assert chosen(service("a", "b", affinity=replace(HASHED, kind="map", seconds=9))) == (None, None)
