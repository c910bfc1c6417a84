"""Weights → slots: the sequences that people will compare with what they see."""

from fractions import Fraction

import pytest

from lbctl.model import schedule, shares, slot_count


@pytest.mark.parametrize(
    ("weights", "slots"),
    [
        ((), ""),
        ((1,), "a"),
        ((7,), "a"),
        ((1, 1, 1), "abc"),
        ((4, 4, 4, 4), "abcd"),
        ((3, 2, 1), "abacba"),
        ((30, 20, 10), "abacba"),
        ((1, 2, 3), "cbacbc"),
        ((5, 1, 1), "aabacaa"),
        ((2, 1), "aba"),
        ((1, 2), "bab"),
        ((2, 2, 1), "abcab"),
        ((4, 1), "aabaa"),
    ],
)
def test_the_sequence_of(weights: tuple[int, ...], slots: str) -> None:
    assert "".join("abcd"[i] for i in schedule(weights)) == slots


def test_heavy_endpoints_never_get_their_slots_in_a_row() -> None:
    text = "".join("abc"[i] for i in schedule((3, 2, 1)))
    assert text != "aaabbc"
    # Over the seam too: the period is repeated for ever.
    assert "aaa" not in text * 2


def test_slot_count_is_the_length_without_the_work() -> None:
    for weights in ((), (1,), (6, 4, 2), (3, 2, 1), (997,), (5, 5)):
        assert slot_count(weights) == len(schedule(weights))
    assert slot_count((4096, 4095)) == 8191


def test_shares_are_fractions_in_order_of_appearance() -> None:
    assert list(shares("abacba").items()) == [
        ("a", Fraction(1, 2)),
        ("b", Fraction(1, 3)),
        ("c", Fraction(1, 6)),
    ]
    assert shares("") == {}


def test_a_prime_number_of_slots() -> None:
    slots = schedule((500, 300, 197))
    assert len(slots) == 997
    assert [slots.count(i) for i in range(3)] == [500, 300, 197]
