"""How near the tables of Maglev come to the weights, for any weights."""

from collections import Counter
from fractions import Fraction
from math import gcd

from hypothesis import given, settings, strategies as st

from lbctl.model import (
    MAX_WEIGHT,
    Endpoint,
    Family,
    Listener,
    Protocol,
    Scheduler,
    Service,
    State,
    slot_count,
)
from lbctl.model.maglev import PLACES, SIZES, table_size

V4 = Family.IPV4

#: Mostly small tables, which are filled in no time; now and then any that a file can ask for.
SMALL = st.lists(st.integers(1, 5), min_size=1, max_size=4)
WEIGHTS = SMALL | SMALL | SMALL | st.lists(st.integers(1, 12), min_size=1, max_size=8)
ANY = WEIGHTS | st.lists(st.integers(1, MAX_WEIGHT), min_size=1, max_size=5).filter(
    lambda weights: slot_count(weights) <= MAX_WEIGHT
)


def service(weights: list[int], seed: int | None = None, scheduler: Scheduler = Scheduler.MAGLEV) -> Service:
    return Service(
        name="web",
        listeners=(Listener(protocol=Protocol.TCP, port=80),),
        endpoints=tuple(Endpoint(port=8001 + i, weight=w) for i, w in enumerate(weights)),
        scheduler=scheduler,
        seed=seed,
    )


@settings(deadline=None, max_examples=60)
@given(weights=ANY, seed=st.sampled_from([0, 1, 0xFFFFFFFF]))
def test_a_share_is_nearer_to_its_weight_than_one_turn(weights: list[int], seed: int) -> None:
    """The bound in the docstring of `lbctl.model.maglev`, and the places of the last turn behind it."""
    web = service(weights, seed)
    table = web.slots(Family.IPV4)
    size, total = len(table), slot_count(weights)
    taken = Counter(endpoint.to for endpoint in table)
    turns, rest = divmod(size, total)
    for endpoint in web.endpoints:
        turn = endpoint.weight // gcd(*weights)
        assert turns * turn <= taken[endpoint.to] <= (turns + (rest > 0)) * turn
        share, meant = web.shares(V4)[endpoint.to], web.by_weight(V4)[endpoint.to]
        assert meant == Fraction(endpoint.weight, sum(weights))
        assert share == Fraction(taken[endpoint.to], size)
        assert abs(share - meant) < Fraction(turn, size)
        assert abs(share - meant) < meant * Fraction(total, size)
    assert sum(web.by_weight(V4).values()) == sum(web.shares(V4).values()) == 1
    assert web.deviation() == max(abs(s - web.by_weight(V4)[to]) for to, s in web.shares(V4).items())
    assert web.deviation() < Fraction(max(weights) // gcd(*weights), size)


@given(total=st.integers(1, MAX_WEIGHT))
def test_a_table_has_a_hundred_places_for_each_unit_of_weight_or_is_the_largest(total: int) -> None:
    size = table_size(total)
    assert size in SIZES
    assert size >= PLACES * total or size == SIZES[-1]
    assert Fraction(total, size) <= (Fraction(1, PLACES) if total <= 655 else Fraction(1, 15))


#: Those whose slots are as exact as their weights.
EXACT = [Scheduler.ROUND_ROBIN, Scheduler.RANDOM, Scheduler.SOURCE_HASH]


@given(weights=WEIGHTS, scheduler=st.sampled_from(EXACT))
def test_every_other_scheduler_keeps_to_the_weights(weights: list[int], scheduler: Scheduler) -> None:
    web = service(weights, scheduler=scheduler)
    assert web.shares(V4) == web.by_weight(V4)
    assert web.deviation() == 0


def test_who_takes_no_connections_has_no_share_by_weight() -> None:
    draining = Endpoint(port=1, weight=5, state=State.DRAIN)
    web = Service(
        name="web",
        listeners=(Listener(protocol=Protocol.TCP, port=80),),
        endpoints=(draining, Endpoint(port=2), Endpoint(port=3, weight=2)),
        scheduler=Scheduler.MAGLEV,
    )
    assert web.by_weight(V4) == {"1": 0, "2": Fraction(1, 3), "3": Fraction(2, 3)}
    # 2039 places: 680 and 1359 of them.
    assert web.deviation() == Fraction(1, 6117)
