"""Least connections: slots that are dealt again by what is established."""

from __future__ import annotations

from fractions import Fraction
from ipaddress import ip_address

from hypothesis import given, strategies as st

from lbctl.engine.change.dealing import Load, Measured, deal_again
from lbctl.engine.record import deals
from lbctl.host.fake import FakeHost
from lbctl.model import (
    Deal,
    Endpoint,
    Facts,
    Family,
    Intent,
    Limit,
    Listener,
    Protocol,
    Scheduler,
    Service,
    deal,
    effective,
    slots_for,
)
from lbctl.model.dealing import LEAST, apportioned, laid_out

V4 = Family.IPV4
PORTS = (8001, 8002, 8003)


def service(*weights: int, **options: object) -> Service:
    weights = weights or (1, 1, 1)
    return Service(
        name="web",
        listeners=(Listener(protocol=Protocol.TCP, port=80, address=ip_address("192.0.2.1")),),
        endpoints=tuple(Endpoint(port=8001 + n, weight=weight) for n, weight in enumerate(weights)),
        scheduler=Scheduler.LEAST_CONNECTIONS,
        **options,  # type: ignore[arg-type]
    )


def slots(of: Service) -> dict[str, int]:
    found = [endpoint.to for endpoint in of.slots(V4)]
    return {to: found.count(to) for to in dict.fromkeys(found)}


def measured(time: float, established: dict[str, int], arrived: int = 0) -> Measured:
    """`arrived` at each of three."""
    load = Load(
        established={(V4, to): n for to, n in established.items()},
        arrived={(V4, str(port)): arrived for port in PORTS},
    )
    return Measured(time=time, loads={"web": load})


def test_who_has_the_least_gets_what_arrives() -> None:
    # 10 more level 5, 0 and 10: at 25 / 3 for the first two, so the last gets none of them, but one slot.
    assert deal([1, 1, 1], [5, 0, 10], 10, 64) == (16, 47, 1)
    assert deal([1, 1, 1], [5, 5, 5], 0, 64) == (22, 21, 21)
    assert deal([1, 1], [1000, 0], 1, 64) == (1, 63)


def test_load_is_by_weight() -> None:
    assert deal([3, 1], [30, 10], 100, 64) == (48, 16)
    assert deal([3, 1], [10, 10], 0, 64) == (63, 1)


@given(
    st.lists(st.tuples(st.integers(1, 100), st.integers(0, 10_000)), min_size=1, max_size=20),
    st.integers(0, 100_000),
)
def test_the_next_connections_level_the_load_as_one_after_another_would(
    members: list[tuple[int, int]], arrivals: int
) -> None:
    weights, established = [w for w, _ in members], [c for _, c in members]
    count = slots_for(len(members))
    dealt = deal(weights, established, arrivals, count)
    assert sum(dealt) == count
    assert min(dealt) >= 1
    # By IPVS's definition: each goes to the endpoint with the least connections for its weight.
    led = [0] * len(members)
    few = min(max(arrivals, 1), 300)
    if few == max(arrivals, 1):
        for _ in range(few):
            one = min(range(len(members)), key=lambda i: Fraction(established[i] + led[i] + 1, weights[i]))
            led[one] += 1
        # Rounding: by one connection each way, and by the slots that everybody has.
        for mine, theirs in zip(dealt, led, strict=True):
            assert abs(mine - theirs * count / few) <= len(members) + (len(members) + 1) * count / few


@given(st.lists(st.integers(1, 50), min_size=1, max_size=12), st.data())
def test_a_table_has_what_was_dealt_and_changes_few_slots(counts: list[int], data: st.DataObject) -> None:
    usual = tuple(counts)
    order = data.draw(st.permutations(counts))
    table = laid_out(usual, tuple(order))
    assert [table.count(index) for index in range(len(counts))] == list(order)
    usually = laid_out(usual, usual)
    moved = sum(one != other for one, other in zip(table, usually, strict=True))
    assert moved == sum(max(0, old - new) for old, new in zip(usual, order, strict=True))


def test_slots_are_those_of_the_weights_until_some_are_dealt() -> None:
    plain = service(2, 1, 1)
    assert slots(plain) == {"8001": 32, "8002": 16, "8003": 16}
    dealt = frozenset(Deal(family=V4, to=to, slots=n) for to, n in (("8001", 60), ("8002", 2), ("8003", 2)))
    found = effective(Intent(services=(plain,)), Facts(deals={"web": dealt})).intent.services[0]
    assert slots(found) == {"8001": 60, "8002": 2, "8003": 2}
    # An endpoint that was dealt none, say a new one, has its share of the weights.
    some = frozenset(each for each in dealt if each.to != "8003")
    found = effective(Intent(services=(plain,)), Facts(deals={"web": some})).intent.services[0]
    assert slots(found) == slots(plain)


def test_the_number_of_slots_stays_while_an_endpoint_fails() -> None:
    failed = service(limits=frozenset({Limit(family=V4, to="8002")}))
    assert slots(failed) == {"8001": 32, "8003": 32}
    assert len(service().slots(V4)) == len(failed.slots(V4)) == LEAST


def test_deals_of_another_scheduler_are_left_alone() -> None:
    other = Service(name="web", listeners=service().listeners, endpoints=service().endpoints)
    dealt = frozenset({Deal(family=V4, to="8001", slots=9)})
    assert effective(Intent(services=(other,)), Facts(deals={"web": dealt})).intent.services[0] == other


def test_as_many_are_expected_as_arrived() -> None:
    first = deal_again([service()], None, measured(10.0, {"8001": 30}, arrived=400), 1.0)["web"]
    # Nothing is known of arrivals: the next one goes to who has none.
    assert {each.to: each.slots for each in first} == {"8001": 1, "8002": 32, "8003": 31}
    before = measured(10.0, {"8001": 30}, arrived=400)
    now = measured(12.0, {"8001": 130, "8002": 100, "8003": 100}, arrived=500)
    second = deal_again([service()], before, now, 1.0)["web"]
    # 300 in two seconds, and none ended.
    wanted = deal([1, 1, 1], [130, 100, 100], 150, LEAST)
    assert {each.to: each.slots for each in second} == dict(zip(map(str, PORTS), wanted, strict=True))


def test_an_endpoint_whose_connections_last_longer_gets_fewer() -> None:
    # All have 100 now, and 400 arrived: of those of the first none ended, of the others all that there were.
    dealt = deal([1, 1, 1], [100, 100, 100], 400, 64, [0.0, 1.0, 1.0])
    assert dealt[0] < dealt[1] == dealt[2]


def test_nearly_the_same_is_dealt_as_before() -> None:
    old = frozenset(
        Deal(family=V4, to=str(port), slots=n) for port, n in zip(PORTS, (22, 21, 21), strict=True)
    )
    dealt = deal_again([service(deals=old)], measured(0, {}), measured(1, {"8001": 11, "8002": 10}, 900), 1.0)
    assert dealt["web"] is old


def test_other_commands_find_what_was_dealt() -> None:
    host = FakeHost()
    dealt = {"web": frozenset({Deal(family=V4, to="8001", slots=9), Deal(family=V4, to="8002", slots=55)})}
    deals.write(host, "lbctl", dealt)
    assert deals.read(host, "lbctl") == dealt
    for damaged in ("", "[]", '{"format_version":1}', host.memory["lbctl.deals"].replace("9", "-9")):
        host.memory["lbctl.deals"] = damaged
        assert deals.read(host, "lbctl") == {}
    deals.write(host, "lbctl", {})
    assert "lbctl.deals" not in host.memory


@given(st.lists(st.fractions(0, 10**6), min_size=1, max_size=30), st.integers(30, 256))
def test_slots_are_apportioned_to_the_last(parts: list[Fraction], count: int) -> None:
    found = apportioned(parts, count)
    assert sum(found) == count
    assert min(found) >= 1
