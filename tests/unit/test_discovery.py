"""What sources answer: the bounds of an answer, what it makes of a service, and the last good one kept."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv6Address, ip_address, ip_network

import pytest

from lbctl.agent.health import Moment
from lbctl.agent.sources import AnswerKeeper
from lbctl.agent.sources.keeper import CONFIRMATIONS, PACE
from lbctl.model import (
    Discovered,
    Discovery,
    Endpoint,
    EtcdAccess,
    Family,
    Intent,
    Listener,
    Protocol,
    Service,
    State,
    WeightOwner,
)
from lbctl.model.answer import merged, problem

DNS = Discovery(source="dns", name="_http._tcp.api.example.internal")
WEB = Service(
    name="web",
    listeners=(Listener(protocol=Protocol.TCP, port=80, address=ip_address("192.0.2.1")),),
    endpoints=(),
    discover=DNS,
)


def at(address: str, port: int | None = 80, **keys: object) -> Endpoint:
    return Endpoint(address=ip_address(address), port=port, **keys)  # type: ignore[arg-type]


A, B, C = at("10.0.0.1"), at("10.0.0.2"), at("10.0.0.3")


class World:
    """A keeper and a clock."""

    def __init__(self, service: Service = WEB) -> None:
        self.intent = Intent(services=(service,))
        self.keeper = AnswerKeeper(lambda source: source == "systemd")
        self.keeper.replace(self.intent)
        self.now = 0.0

    def answer(self, *endpoints: Endpoint, after: float = 1.0) -> bool:
        """Give an answer after a while, and judge it; True if something changed."""
        self.now += after
        self.keeper.note("web", endpoints)
        return bool(self.keeper.step(Moment(self.now, 1000 + self.now)))

    @property
    def kept(self) -> tuple[Endpoint, ...] | None:
        return self.keeper.known()["web"].answer

    @property
    def error(self) -> str | None:
        return self.keeper.known()["web"].error


def test_ten_minutes_of_outage_keep_the_last_good_answer_and_its_time() -> None:
    world = World()
    assert world.answer(A, B)
    for _ in range(600):
        world.now += 1
        world.keeper.fail("web", "no DNS server answers")
    assert world.kept == (A, B)
    known = world.keeper.known()["web"]
    assert (known.good, known.error) == (1001.0, "no DNS server answers")
    assert world.answer(A, C)
    assert (world.kept, world.error) == ((A, C), None)


def test_the_same_error_is_news_once() -> None:
    world = World()
    assert world.keeper.fail("web", "refused")
    assert not world.keeper.fail("web", "refused")
    assert world.keeper.fail("web", "no route")


def test_a_confirmed_answer_is_no_change_but_younger() -> None:
    world = World()
    world.answer(A)
    before = world.kept
    assert not world.answer(at("10.0.0.1"))
    assert world.kept is before
    assert world.keeper.known()["web"].good == 1002.0


def test_an_answer_in_another_order_is_no_change() -> None:
    world = World()
    world.answer(A, B)
    assert not world.answer(B, A)


def test_an_empty_answer_never_counts_without_allow_empty() -> None:
    world = World()
    world.answer(A)
    for _ in range(10):
        world.answer()
    assert (world.kept, world.error) == ((A,), "the answer is empty")
    assert not world.keeper.doubts("web")


def test_an_allowed_empty_answer_counts_once_it_is_confirmed() -> None:
    world = World(replace(WEB, discover=replace(DNS, allow_empty=True)))
    world.answer(A)
    for count in range(1, CONFIRMATIONS):
        world.answer()
        assert world.kept == (A,)
        assert world.error == f"the answer is empty ({count} of {CONFIRMATIONS} times)"
        assert world.keeper.doubts("web")
    world.answer()
    assert (world.kept, world.error) == ((), None)
    assert not world.keeper.doubts("web")


def test_confirmations_are_counted_in_a_row() -> None:
    world = World(replace(WEB, discover=replace(DNS, allow_empty=True)))
    world.answer(A)
    world.answer()
    world.answer()
    world.answer(A)
    world.answer()
    world.answer()
    assert world.kept == (A,)


def test_a_flood_of_changes_is_judged_ten_times_a_second_and_ends_with_the_last() -> None:
    world = World()
    judged = 0
    for number in range(1000):
        judged += world.answer(A, at(f"10.1.{number // 250}.{number % 250 + 1}"), after=0.001)
    assert 9 <= judged <= 11
    due = world.keeper.next()
    assert due is not None
    assert due - world.now <= PACE
    world.keeper.step(Moment(due, 1000 + due))
    assert world.kept == (A, at("10.1.3.250"))
    assert world.keeper.next() is None


def test_a_first_change_after_a_pause_is_judged_at_once() -> None:
    world = World()
    assert world.answer(A)
    assert world.answer(B, after=PACE)


def test_another_intent_keeps_what_the_same_source_said() -> None:
    world = World()
    world.answer(A, B)
    world.keeper.replace(Intent(services=(replace(WEB, endpoints=(C,)),)))
    assert world.kept == (A, B)
    world.keeper.replace(Intent(services=(replace(WEB, discover=replace(DNS, name="other.example")),)))
    assert world.kept is None


def test_another_intent_with_closer_bounds_drops_what_lies_beyond() -> None:
    world = World()
    world.answer(A)
    closer = replace(DNS, within=(ip_network("10.9.0.0/16"),))
    world.keeper.replace(Intent(services=(replace(WEB, discover=closer),)))
    assert (world.kept, world.error) == (None, "endpoint 10.0.0.1:80 is not in a network of `within`")


def test_a_restored_answer_counts_until_the_source_says_more_unless_it_lies_beyond() -> None:
    keeper = AnswerKeeper(lambda _: False)
    restored = Discovered(source=DNS.source, name=DNS.name, endpoints=(A,), good=900.0)
    keeper.replace(Intent(services=(WEB,)), {"web": restored})
    assert keeper.answers() == {"web": restored}
    assert keeper.known()["web"].good == 900.0
    keeper = AnswerKeeper(lambda _: False)
    keeper.replace(Intent(services=(WEB,)), {"web": replace(restored, endpoints=(at("127.0.0.1"),))})
    assert keeper.answers() == {}


@pytest.mark.parametrize(
    ("answer", "wrong"),
    [
        ((), "the answer is empty"),
        ((A, A), "endpoint 10.0.0.1:80 is given twice"),
        ((at("127.0.0.1"),), "endpoint 127.0.0.1:80 is a loopback, link-local or multicast address"),
        ((at("169.254.1.1"),), "endpoint 169.254.1.1:80 is a loopback, link-local or multicast address"),
        ((at("fe80::1"),), "endpoint [fe80::1]:80 is a loopback, link-local or multicast address"),
        ((at("224.0.0.1"),), "endpoint 224.0.0.1:80 is a loopback, link-local or multicast address"),
        ((at("0.1.2.3"),), "endpoint 0.1.2.3:80 is not the address of a host"),
        # Python 3.13 writes ::ffff:10.0.0.1.
        (
            (at("::ffff:10.0.0.1"),),
            f"endpoint [{IPv6Address('::ffff:a00:1')}]:80 is not the address of a host",
        ),
        ((at("255.255.255.255"),), "endpoint 255.255.255.255:80 is not the address of a host"),
        ((at("192.0.2.1"),), 'endpoint 192.0.2.1:80 is a listener of service "web"'),
        ((at("192.0.2.1", 81),), None),
        ((at("192.0.2.1", None),), 'endpoint 192.0.2.1 is a listener of service "web"'),
        ((Endpoint(port=8001),), "endpoint 8001 is a port of this host"),
        ((A, at("10.0.0.2", None)), "endpoints of two kinds: with and without an address or a port"),
        ((A, B), None),
    ],
)
def test_the_bounds_of_an_answer(answer: tuple[Endpoint, ...], wrong: str | None) -> None:
    assert problem(Intent(services=(WEB,)), WEB, answer, local=False) == wrong


def test_no_two_endpoints_have_one_name() -> None:
    own = Endpoint(port=9000, name="8001")
    service = replace(WEB, endpoints=(own,))
    intent = Intent(services=(service,))
    assert problem(intent, service, (Endpoint(port=8001),), local=True) == "two endpoints have the name 8001"
    assert problem(intent, service, (Endpoint(port=8002, name="8001"),), local=True) is None


@pytest.mark.parametrize("own", [(), (C,)])
def test_each_address_family_of_the_listeners_keeps_an_endpoint(own: tuple[Endpoint, ...]) -> None:
    listeners = (*WEB.listeners, Listener(protocol=Protocol.TCP, port=80, address=ip_address("2001:db8::1")))
    service = replace(WEB, listeners=listeners, endpoints=own)
    intent = Intent(services=(service,))
    wrong = "no endpoint is of the address family of listener [2001:db8::1]:80/tcp"
    assert problem(intent, service, (A,), local=False) == wrong
    assert problem(intent, service, (A, at("2001:db8::2")), local=False) is None
    anywhere = replace(WEB, listeners=(Listener(protocol=Protocol.TCP, port=80),))
    assert problem(intent, anywhere, (A,), local=False) is None


def test_within_is_the_bound_where_it_is_given() -> None:
    service = replace(WEB, discover=replace(DNS, within=(ip_network("127.0.0.0/8"),)))
    intent = Intent(services=(service,))
    assert problem(intent, service, (at("127.0.0.2"),), local=False) is None
    assert problem(intent, service, (A,), local=False) == (
        "endpoint 10.0.0.1:80 is not in a network of `within`"
    )


def test_a_local_source_may_name_ports_of_this_host() -> None:
    assert problem(Intent(services=(WEB,)), WEB, (Endpoint(port=8001),), local=True) is None


def test_an_answer_larger_than_max_is_wrong() -> None:
    service = replace(WEB, discover=replace(DNS, max=2))
    assert problem(Intent(services=(service,)), service, (A, B, C), local=False) == (
        "3 endpoints are more than 2"
    )


def test_weights_that_need_too_many_slots_are_wrong_only_if_they_count() -> None:
    heavy = (replace(A, weight=4095), replace(B, weight=4096))
    assert problem(Intent(services=(WEB,)), WEB, heavy, local=False) is None
    service = replace(WEB, discover=replace(DNS, weight=WeightOwner.SOURCE))
    assert problem(Intent(services=(service,)), service, heavy, local=False) == (
        "exact shares of these weights need 8191 slots, more than 4096"
    )


def test_a_range_of_ports_takes_endpoints_without_a_port() -> None:
    listeners = (Listener(protocol=Protocol.UDP, port=2000, last_port=3000),)
    service = replace(WEB, listeners=listeners)
    intent = Intent(services=(service,))
    assert problem(intent, service, (at("10.0.0.1", None),), local=False) is None
    assert problem(intent, service, (A,), local=False) == (
        "endpoints with a port behind a listener with a range of ports"
    )


def test_discovered_endpoints_follow_those_of_the_file_by_address() -> None:
    service = replace(WEB, endpoints=(C,))
    found = merged(service, (at("2001:db8::1"), at("10.0.0.10"), B, A))
    assert [e.to for e in found.endpoints] == [
        "10.0.0.3:80", "10.0.0.1:80", "10.0.0.2:80", "10.0.0.10:80", "[2001:db8::1]:80",
    ]  # fmt: skip
    assert merged(service, (A, B)) == merged(service, (B, A))
    assert merged(service, ()) is service


def test_an_endpoint_of_both_keeps_its_name_and_serves_only_if_both_let_it() -> None:
    own = replace(A, name="a", weight=3)
    service = replace(WEB, endpoints=(own,))
    assert merged(service, (A,)) is service
    drained = merged(service, (replace(A, state=State.DRAIN, weight=7),)).endpoints[0]
    assert (drained.name, drained.state, drained.weight) == ("a", State.DRAIN, 3)
    drain_in_file = replace(service, endpoints=(replace(own, state=State.DRAIN),))
    assert merged(drain_in_file, (A,)) is drain_in_file


def test_the_weight_belongs_to_the_file_or_to_the_source() -> None:
    service = replace(WEB, endpoints=(replace(A, weight=3),))
    answer = (replace(A, weight=7), replace(B, weight=5))
    assert [e.weight for e in merged(service, answer).endpoints] == [3, 1]
    by_source = replace(service, discover=replace(DNS, weight=WeightOwner.SOURCE))
    assert [e.weight for e in merged(by_source, answer).endpoints] == [7, 5]


def test_a_name_that_is_taken_gives_way_to_the_address() -> None:
    service = replace(WEB, endpoints=(replace(A, name="a"),))
    found = merged(service, (replace(B, name="a"), replace(C, name="c")))
    assert [e.name for e in found.endpoints] == ["a", "10.0.0.2:80", "c"]
    assert len(found.shares(Family.IPV4)) == 3


@pytest.mark.parametrize(
    ("source", "good", "bad"),
    [
        ("dns", ("_http._tcp.example.org", "api.example.org:8080", "api"), ("a b", "x:0", "_x.y:80", "-")),
        ("etcd", ("/services/api/", "services"), ("/", "/a/../b", "/a//b", "/a b")),
        ("file", ("/run/targets.json",), ("targets.json", "/run/../x.json", "/run/x.yml")),
        ("systemd", ("app@*.service",), ("app.service", "app@8001.service", "-H x@*.service")),
        ("docker", ("lbctl.service=api", "web"), ("", "a=b=c", "a b")),
        ("consul", ("api",), ("a/b", "../x")),
        ("kubernetes", ("default/api:http", "api"), ("a/b/c", "A/b")),
        ("of-a-third-party", ("any:thing*",), ("a b", "x\n", "\u00e4")),
    ],
)
def test_names_that_sources_can_be_asked_for(
    source: str, good: tuple[str, ...], bad: tuple[str, ...]
) -> None:
    for name in good:
        assert str(Discovery(source=source, name=name)) == f"{source} {name}"
    for name in bad:
        with pytest.raises(ValueError, match="is not"):
            Discovery(source=source, name=name)


def test_access_to_etcd_is_checked() -> None:
    urls = ("https://192.0.2.1:2379", "http://[2001:db8::1]:2379", "https://etcd.example.org:2379/")
    assert EtcdAccess(endpoints=urls).endpoints == urls
    for wrong in ("ftp://x:1", "http://x", "http://x:0", "http://x:70000", "http://u:p@x:1", "http://x:1/y"):
        with pytest.raises(ValueError, match="URL"):
            EtcdAccess(endpoints=(wrong,))
    with pytest.raises(ValueError, match="password-file"):
        EtcdAccess(endpoints=urls, user="agent")
