"""What holds for the slots of any weights."""

from collections import Counter
from fractions import Fraction
from math import gcd

from hypothesis import given, strategies as st

from lbctl.model import schedule, shares, slot_count

WEIGHTS = st.lists(st.integers(1, 40), min_size=1, max_size=8).map(tuple)


@given(WEIGHTS)
def test_shares_are_exact(weights: tuple[int, ...]) -> None:
    assert shares(schedule(weights)) == {i: Fraction(w, sum(weights)) for i, w in enumerate(weights)}


@given(WEIGHTS)
def test_the_period_is_the_shortest(weights: tuple[int, ...]) -> None:
    slots = schedule(weights)
    # Exact shares need a multiple of every denominator, and no shorter prefix repeats.
    assert len(slots) == slot_count(weights) == sum(weights) // gcd(*weights)
    for length in range(1, len(slots)):
        if len(slots) % length == 0:
            assert slots != slots[:length] * (len(slots) // length)


@given(WEIGHTS)
def test_every_prefix_is_near_the_exact_share(weights: tuple[int, ...]) -> None:
    """Endpoint i of n is never a whole connection ahead of its share, nor n - 1 behind.

    Why: in units of W, an endpoint's deviation is its credit (credit = k·w - W·taken). All credits add up
    to 0 after each step. Before a step's charge they add up to W, so the largest, which is charged, is
    above 0 and ends above -W: nobody's credit ever falls to -W, so nobody is a connection ahead. The other
    n - 1 credits together are above -(n - 1)·W, so one's own is below (n - 1)·W: nobody is n - 1 connections
    behind. For two endpoints that is less than one connection either way.
    """
    steps = [Fraction(w, sum(weights)) for w in weights]
    taken: Counter[int] = Counter()
    for k, slot in enumerate(schedule(weights), start=1):
        taken[slot] += 1
        for i, step in enumerate(steps):
            ahead = taken[i] - k * step
            assert ahead < 1
            assert -ahead < max(1, len(weights) - 1)


@given(st.integers(1, 200), st.integers(1, 4096))
def test_equal_weights_take_turns_in_the_order_of_the_file(count: int, weight: int) -> None:
    assert schedule((weight,) * count) == tuple(range(count))


@given(WEIGHTS, st.integers(1, 100))
def test_only_the_ratio_of_weights_counts(weights: tuple[int, ...], factor: int) -> None:
    assert schedule(tuple(w * factor for w in weights)) == schedule(weights)


@given(WEIGHTS)
def test_nobody_heavier_comes_less_often(weights: tuple[int, ...]) -> None:
    counts = Counter(schedule(weights))
    for i, first in enumerate(weights):
        for j, second in enumerate(weights):
            assert (first < second) == (counts[i] < counts[j])
