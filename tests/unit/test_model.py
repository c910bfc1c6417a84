"""Intents as values: what they refuse, and what they say of themselves."""

from fractions import Fraction
from ipaddress import ip_address, ip_network

import pytest

from lbctl.model import (
    MAX_WEIGHT,
    Endpoint,
    Family,
    Intent,
    Item,
    LiftedProgram,
    LiftedService,
    Listener,
    Program,
    Protocol,
    Service,
    State,
    default_seed,
    endpoint_family,
    split,
)

TCP = Protocol.TCP
V4, V6 = Family.IPV4, Family.IPV6


def listener(
    address: str | None = None, port: int = 80, protocol: Protocol = TCP, last_port: int = 0
) -> Listener:
    where = ip_address(address) if address else None
    return Listener(protocol=protocol, port=port, address=where, last_port=last_port)


def endpoint(address: str | None = None, port: int | None = 8000, **options: object) -> Endpoint:
    return Endpoint(port=port, address=ip_address(address) if address else None, **options)  # type: ignore[arg-type]


def service(*endpoints: Endpoint, listeners: tuple[Listener, ...] | None = None) -> Service:
    return Service(name="web", listeners=listeners or (listener(),), endpoints=endpoints)


@pytest.mark.parametrize("port", [0, -1, 65536])
def test_a_port_that_is_none(port: int) -> None:
    with pytest.raises(ValueError, match=f"port {port} is not between 1 and 65535"):
        listener(port=port)
    with pytest.raises(ValueError, match="port"):
        endpoint(port=port)


@pytest.mark.parametrize("weight", [0, -1, MAX_WEIGHT + 1])
def test_a_weight_that_is_none(weight: int) -> None:
    with pytest.raises(ValueError, match="weight"):
        endpoint(weight=weight)


@pytest.mark.parametrize("seed", [-1, 1 << 32])
def test_a_seed_that_is_none(seed: int) -> None:
    with pytest.raises(ValueError, match="32-bit"):
        Service(name="web", listeners=(), endpoints=(), seed=seed)


@pytest.mark.parametrize("owner", ["", "Blue", "o" * 13, "a b", "a_b", "-a"])
def test_an_owner_that_is_none(owner: str) -> None:
    with pytest.raises(ValueError, match="owner"):
        Intent(owner=owner)


@pytest.mark.parametrize("mark", [0, 0x1000, 0x7000, -0x3, 1 << 32 | 1])
def test_a_mark_that_is_none(mark: int) -> None:
    with pytest.raises(ValueError, match="two bits"):
        Intent(mark=mark)


def test_the_seed_of_a_name_never_changes() -> None:
    """Every host must have the same, and an update of lbctl must not move every client."""
    assert default_seed("web") == 0xBC4EDBCE
    assert service(endpoint()).hash_seed == default_seed("web")
    assert Service(name="web", listeners=(), endpoints=(), seed=0).hash_seed == 0


def test_how_listeners_and_endpoints_are_written() -> None:
    assert str(listener()) == "80/tcp"
    assert str(listener("192.0.2.1", 53, Protocol.UDP)) == "192.0.2.1:53/udp"
    assert str(listener("2001:db8::1", 53)) == "[2001:db8::1]:53/tcp"
    assert [e.to for e in (endpoint(), endpoint("10.0.0.1"), endpoint("2001:db8::1"))] == [
        "8000",
        "10.0.0.1:8000",
        "[2001:db8::1]:8000",
    ]
    assert str(listener(port=80, last_port=90)) == "80-90/tcp"
    assert str(listener("2001:db8::1", 80, last_port=65535)) == "[2001:db8::1]:80-65535/tcp"
    assert listener(port=80, last_port=80) == listener()
    assert [endpoint(a, None).to for a in ("10.0.0.1", "2001:db8::1")] == ["10.0.0.1", "2001:db8::1"]
    assert endpoint("2001:db8::1").name == "[2001:db8::1]:8000"
    assert endpoint(name="a").name == "a"


@pytest.mark.parametrize(
    ("one", "other", "overlap"),
    [
        (listener(), listener(), True),
        (listener(), listener("192.0.2.1"), True),
        (listener("2001:db8::1"), listener(), True),
        (listener("192.0.2.1"), listener("192.0.2.2"), False),
        (listener("192.0.2.1"), listener("2001:db8::1"), False),
        (listener(), listener(port=81), False),
        (listener(), listener(protocol=Protocol.UDP), False),
        (listener(port=80, last_port=90), listener(port=90, last_port=91), True),
        (listener(port=80, last_port=90), listener(port=91, last_port=92), False),
        (listener(port=80, last_port=90), listener("192.0.2.1", port=82, last_port=83), True),
        (listener("192.0.2.2", port=80, last_port=90), listener("192.0.2.1", port=82, last_port=83), False),
        (listener(port=80, last_port=90), listener(port=82), False),
    ],
)
def test_overlaps(one: Listener, other: Listener, overlap: bool) -> None:
    assert one.overlaps(other) is overlap
    assert other.overlaps(one) is overlap


@pytest.mark.parametrize(("port", "last_port"), [(80, 79), (80, 65536), (80, -1)])
def test_a_range_that_is_none(port: int, last_port: int) -> None:
    with pytest.raises(ValueError, match="no range"):
        listener(port=port, last_port=last_port)


@pytest.mark.parametrize(
    ("address", "port"),
    [
        (None, 80),
        ("10.0.0.1", 80),
        ("2001:db8::1", 80),
        ("10.0.0.1", None),
        ("2001:db8::1", None),
        ("::", None),
    ],
)
def test_an_endpoint_is_split_as_it_was_joined(address: str | None, port: int | None) -> None:
    to = endpoint(address, port).to
    assert split(to) == (address or "", str(port or ""))
    assert endpoint_family(to) is (Family.of(ip_address(address)) if address else None)


def test_an_endpoint_has_a_place() -> None:
    with pytest.raises(ValueError, match="a port, an address, or both"):
        endpoint(None, None)


@pytest.mark.parametrize("name", ["", "a" * 16, "a/b", "a b", "*", "-a", "a+", "a*b", 'a"', "a\n", "é"])
def test_an_interface_that_is_none(name: str) -> None:
    with pytest.raises(ValueError, match="interface"):
        Service(name="web", listeners=(), endpoints=(), interfaces=(name,))


def test_a_listener_is_not_at_an_excluded_address() -> None:
    with pytest.raises(ValueError, match="leaves alone"):
        Service(
            name="web",
            listeners=(listener("192.0.2.1"),),
            endpoints=(),
            exclude=(ip_network("192.0.2.0/24"),),
        )


def test_which_listeners_a_destination_has() -> None:
    found = listener("192.0.2.1", 80, last_port=90)
    assert found.matches(80, ip_address("192.0.2.1"))
    assert found.matches(90, ip_address("192.0.2.1"))
    assert not found.matches(91, ip_address("192.0.2.1"))
    assert not found.matches(80, ip_address("192.0.2.2"))
    assert listener().matches(80, ip_address("::1"))


def test_a_process_on_this_host_serves_both_families() -> None:
    web = service(endpoint(), endpoint(port=8001))
    assert web.families == (V4, V6)
    assert [e.port for e in web.slots(V4)] == [e.port for e in web.slots(V6)] == [8000, 8001]


def test_endpoints_elsewhere_serve_their_own_family() -> None:
    web = service(endpoint("10.0.0.1"), endpoint("10.0.0.2"), endpoint("2001:db8::1"))
    assert web.families == (V4, V6)
    assert [e.to for e in web.slots(V4)] == ["10.0.0.1:8000", "10.0.0.2:8000"]
    assert web.shares(V4) == {"10.0.0.1:8000": Fraction(1, 2), "10.0.0.2:8000": Fraction(1, 2)}
    assert web.shares(V6) == web.by_weight(V6) == {"[2001:db8::1]:8000": Fraction(1)}
    only4 = service(endpoint("10.0.0.1"))
    assert only4.families == (V4,)
    assert only4.shares(V6) == {}


def test_a_listener_with_an_address_is_of_that_family_only() -> None:
    both = (listener("192.0.2.1"), listener("2001:db8::9"), listener(port=81))
    web = service(endpoint(), listeners=both)
    assert web.listeners_of(V4) == (both[0], both[2])
    assert web.listeners_of(V6) == (both[1], both[2])
    only4 = service(endpoint("10.0.0.1"), listeners=(listener("192.0.2.1"), listener(port=81)))
    assert only4.families == (V4,)
    assert only4.listeners_of(V6) == ()


def test_who_takes_new_connections() -> None:
    active, spare = endpoint(port=1), endpoint(port=2, state=State.BACKUP)
    drained = endpoint(port=3, state=State.DRAIN)
    assert service(active, spare, drained).slots(V4) == (active,)
    assert service(spare, drained).slots(V4) == (spare,)
    assert service(drained).slots(V4) == ()
    assert service(active, spare, drained).shares(V4) == {
        "1": Fraction(1),
        "2": Fraction(0),
        "3": Fraction(0),
    }


def test_families_of_networks() -> None:
    assert Family.of(ip_network("10.0.0.0/8")) is V4
    assert Family.of(ip_network("2001:db8::/32")) is V6


def test_a_program_has_no_key_twice() -> None:
    with pytest.raises(ValueError, match="same key"):
        Program("lbctl", (Item(("ip", "table"), "a"), Item(("ip", "table"), "b")))


def test_a_program_finds_its_items() -> None:
    table, chain = Item(("ip", "table"), ""), Item(("ip", "chain", "c"), "")
    program = Program("lbctl", (table, chain))
    assert program
    assert not Program("lbctl")
    assert list(program.of_kind("chain")) == [chain]
    assert program.by_key[("ip", "table")] is table
    assert program == Program("lbctl", (table, chain))
    assert program != Program("lbctl", (chain, table))


def test_a_leak_is_a_slot_without_endpoint() -> None:
    lifted = LiftedService(
        name="web",
        family=V4,
        listener=listener(),
        mode="nth",
        slots=("8001", None, "8001", "8002"),
        action="redirect",
    )
    assert lifted.shares == {"8001": Fraction(1, 2), "8002": Fraction(1, 4)}
    assert lifted.leak == Fraction(1, 4)
    assert LiftedProgram() == LiftedProgram(services=(), unsupported=())
