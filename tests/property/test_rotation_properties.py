"""Laws of slots while some endpoints are out or return, over random services."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from ipaddress import IPv4Address

from hypothesis import given, strategies as st

from lbctl.model import (
    AllDown,
    Check,
    Endpoint,
    Family,
    HealthPolicy,
    Limit,
    Listener,
    Protocol,
    Scheduler,
    Service,
    State,
    TcpProbe,
    shares,
)
from lbctl.model.rotation import MAX_PADDED, PADDING, bypassed, padded, period, turns
from lbctl.model.schedule import schedule, slot_count

V4 = Family.IPV4
WEIGHTS = st.lists(st.integers(1, 6), min_size=1, max_size=9).map(tuple)
PART = st.sampled_from([Fraction(0), Fraction(1, 8), Fraction(1, 2), Fraction(7, 8), Fraction(1)])
HASHES = [Scheduler.SOURCE_HASH, Scheduler.MAGLEV]


def service(weights: tuple[int, ...], scheduler: Scheduler, **more: object) -> Service:
    return Service(
        name="web",
        listeners=(Listener(protocol=Protocol.TCP, port=80),),
        endpoints=tuple(
            Endpoint(port=80, address=IPv4Address("10.0.0.1") + i, weight=w) for i, w in enumerate(weights)
        ),
        scheduler=scheduler,
        check=Check(probe=TcpProbe()),
        **more,  # type: ignore[arg-type]
    )


def limited(of: Service, parts: tuple[Fraction, ...]) -> Service:
    limits = [
        Limit(family=V4, to=e.to, part=part) for e, part in zip(of.endpoints, parts, strict=True) if part < 1
    ]
    return replace(of, limits=frozenset(limits))


@st.composite
def hash_changes(draw: st.DrawFn) -> tuple[Service, Service, Endpoint, bool]:
    """A hash before and after the part of one endpoint changes, while another one stays whole."""
    weights = draw(WEIGHTS.filter(lambda w: len(w) > 1))
    plain = service(weights, draw(st.sampled_from(HASHES)))
    before = [draw(PART) for _ in weights]
    stays, changes = draw(st.permutations(range(len(weights))))[:2]
    before[stays] = Fraction(1)
    after = list(before)
    after[changes] = draw(PART)
    sides = [limited(plain, tuple(side)) for side in (before, after)]
    return sides[0], sides[1], plain.endpoints[changes], after[changes] >= before[changes]


@given(hash_changes())
def test_a_change_moves_slots_of_its_endpoint_only(drawn: tuple[Service, Service, Endpoint, bool]) -> None:
    before, after, changed, more = drawn
    for was, will in zip(before.slots(V4), after.slots(V4), strict=True):
        if was != will:
            assert (will if more else was) == changed


@given(WEIGHTS, st.sampled_from(HASHES), st.data())
def test_an_endpoint_of_a_hash_has_its_part_of_its_slots(
    weights: tuple[int, ...], scheduler: Scheduler, data: st.DataObject
) -> None:
    plain = service(weights, scheduler)
    parts = (Fraction(1), *data.draw(st.tuples(*[PART] * (len(weights) - 1))))
    before, after = plain.slots(V4), limited(plain, parts).slots(V4)
    for endpoint, part in zip(plain.endpoints, parts, strict=True):
        own = [place for place, slot in enumerate(before) if slot == endpoint]
        kept = sum(after[place] == endpoint for place in own)
        if part in {0, 1}:
            assert kept == part * len(own)
        else:
            # A slot that it does not get may lead to it again only by another slot that it has.
            assert kept >= part * len(own)


@given(st.integers(2, 9), st.integers(0, 2**32 - 1), st.data())
def test_slots_of_a_failed_endpoint_spread_over_the_others(
    count: int, seed: int, data: st.DataObject
) -> None:
    size = 2039
    table = tuple(i % count for i in range(size))
    failed = data.draw(st.integers(0, count - 1))
    parts = tuple(Fraction(int(i != failed)) for i in range(count))
    found = shares(bypassed(table, parts, seed))
    for index in range(count):
        assert abs(found.get(index, 0) - Fraction(int(index != failed), count - 1)) < Fraction(1, 20)


def test_what_few_survivors_get_is_drawn_among_them() -> None:
    table = tuple(range(400)) * 5
    parts = tuple(Fraction(int(i < 2)) for i in range(400))
    found = shares(bypassed(table, parts, 1))
    assert found.keys() == {0, 1}
    assert all(Fraction(2, 5) < share < Fraction(3, 5) for share in found.values())


@given(WEIGHTS, st.booleans())
def test_padding_is_bounded_and_a_multiple(weights: tuple[int, ...], ramps: bool) -> None:
    count = padded(weights, ramps=ramps)
    assert count % slot_count(weights) == 0
    assert count <= max(slot_count(weights), min(PADDING * len(weights), MAX_PADDED))


@given(st.integers(2, 16), st.integers(0, 15))
def test_one_failure_of_equals_keeps_the_number_of_slots(count: int, failed: int) -> None:
    plain = service((1,) * count, Scheduler.ROUND_ROBIN)
    parts = tuple(Fraction(int(i != failed % count)) for i in range(count))
    assert len(limited(plain, parts).slots(V4)) == len(plain.slots(V4))


@given(WEIGHTS, st.sampled_from([Scheduler.ROUND_ROBIN, Scheduler.RANDOM]), st.data())
def test_survivors_have_exact_shares(
    weights: tuple[int, ...], scheduler: Scheduler, data: st.DataObject
) -> None:
    alive = data.draw(st.tuples(*[st.booleans()] * len(weights)).filter(any))
    left = limited(service(weights, scheduler), tuple(Fraction(int(each)) for each in alive))
    total = sum(w for w, up in zip(weights, alive, strict=True) if up)
    expected = [Fraction(w, total) if up else 0 for w, up in zip(weights, alive, strict=True)]
    assert list(left.shares(V4).values()) == expected
    assert left.deviation() == 0


@given(WEIGHTS)
def test_a_check_does_not_change_the_sequence(weights: tuple[int, ...]) -> None:
    checked = service(weights, Scheduler.ROUND_ROBIN)
    plain = replace(checked, check=None)
    slots = checked.slots(V4)
    assert slots[: period(slots)] == plain.slots(V4)[: period(plain.slots(V4))]


@given(WEIGHTS.filter(lambda w: len(w) > 1), st.data())
def test_a_returning_endpoint_only_gains(weights: tuple[int, ...], data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(weights) - 1))
    count = padded(weights, ramps=True)
    before: set[int] = set()
    for step in range(1, 9):
        parts = tuple(Fraction(step, 8) if i == index else Fraction(1) for i in range(len(weights)))
        table = turns(weights, parts, count)
        assert len(table) == count
        own = {place for place, holder in enumerate(table) if holder == index}
        full = count * weights[index] // sum(weights)
        assert len(own) == -(-step * full // 8)
        assert before <= own
        before = own
    assert table == schedule(weights) * (count // slot_count(weights))


def test_backups_serve_when_no_active_one_passes_and_the_policy_decides_when_none_does() -> None:
    plain = service((1, 1, 1), Scheduler.ROUND_ROBIN)
    a, b, c = plain.endpoints
    c = Endpoint(port=c.port, address=c.address, state=State.BACKUP)
    plain = replace(plain, endpoints=(a, b, c))

    def ready(*out: Endpoint, policy: AllDown = AllDown.KEEP) -> tuple[Endpoint, ...]:
        limits = frozenset(Limit(family=V4, to=e.to) for e in out)
        return replace(plain, limits=limits, health=HealthPolicy(all_down=policy)).ready(V4)

    assert ready() == (a, b)
    assert ready(a) == (b,)
    assert ready(a, b) == (c,)
    assert ready(a, b, c) == (a, b)
    assert ready(a, b, c, policy=AllDown.REJECT) == ()
    assert ready(c) == (a, b)


def test_families_are_limited_apart() -> None:
    local = replace(
        service((1,), Scheduler.ROUND_ROBIN), endpoints=(Endpoint(port=8001), Endpoint(port=8002))
    )
    down = replace(local, limits=frozenset({Limit(family=Family.IPV6, to="8001")}))
    assert [e.to for e in down.ready(V4)] == ["8001", "8002"]
    assert [e.to for e in down.ready(Family.IPV6)] == ["8002"]
    assert [family for family in Family if down.takes_out(down.endpoints[0], family)] == [Family.IPV6]
