"""When two readings are equal, and what is said where they are not."""

from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest

from lbctl.engine.inspect.compare import Relation, compare
from lbctl.model import Affinity, AnalysedService, Analysis, EndpointShare, Family, UnsupportedRule, shares


def service(*slots: str | None, mode: str = "nth", **more: Any) -> AnalysedService:
    found = {to: share for to, share in shares(slots).items() if to is not None}
    values: dict[str, Any] = {
        "family": Family.IPV4,
        "proto": "tcp",
        "dst": "local",
        "dport": "80",
        "hooks": ("prerouting",),
        "action": "redirect",
        "mode": mode,
        "backends": tuple(EndpointShare(to=to, share=share) for to, share in found.items()),
        "leak": 1 - sum(found.values(), start=Fraction(0)),
        "slots": slots,
    }
    return AnalysedService(**{**values, **more})


def reading(*services: AnalysedService, **more: Any) -> Analysis:
    return Analysis(format="nft", services=services, **more)


def hashed(*slots: str, seed: int = 7) -> AnalysedService:
    return service(
        *slots, mode="hash", hash_seed=seed, affinity=Affinity(kind="hash", by="source address", seconds=None)
    )


KEPT = Affinity(kind="map", by="source address", seconds=60)
CASES = {
    "the same": (service("a", "b"), service("a", "b"), Relation.IDENTICAL),
    "a period twice": (service("a", "b"), service("a", "b", "a", "b"), Relation.IDENTICAL),
    "another turn": (service("a", "b", "c"), service("a", "c", "b"), Relation.OTHER_ORDER),
    "by chance": (service("a", "b"), service("a", "b", mode="random", slots=()), Relation.OTHER_ORDER),
    "chance twice": (
        service("a", "b", mode="random", slots=()),
        service("b", "a", mode="random", slots=()),
        Relation.IDENTICAL,
    ),
    "one hash": (hashed("a", "b"), hashed("a", "a", "b", "b"), Relation.IDENTICAL),
    "one hash, other slots": (hashed("a", "b"), hashed("b", "a"), Relation.OTHER_CLIENTS),
    "another seed": (hashed("a", "b"), hashed("a", "b", seed=8), Relation.OTHER_CLIENTS),
    "a hash for a turn": (service("a", "b"), hashed("a", "b"), Relation.OTHER_CLIENTS),
    "clients that are kept": (service("a", "b"), service("a", "b", affinity=KEPT), Relation.OTHER_CLIENTS),
    "other means to keep them": (
        service("a", "b", affinity=replace(KEPT, kind="recent")),
        service("a", "b", affinity=KEPT),
        Relation.IDENTICAL,
    ),
    "another share": (service("a", "b"), service("a", "a", "b"), Relation.DIFFERENT),
    "a leak": (service("a", "b"), service("a", "b", None), Relation.DIFFERENT),
    "another endpoint": (service("a"), service("b"), Relation.DIFFERENT),
}


@pytest.mark.parametrize(("a", "b", "verdict"), CASES.values(), ids=CASES)
def test_verdicts(a: AnalysedService, b: AnalysedService, verdict: Relation) -> None:
    found = compare(reading(a), reading(b))
    [pair] = found.pairs
    assert pair.verdict is verdict
    assert found.equal is verdict.equal
    assert [each.verdict for each in compare(reading(b), reading(a)).pairs] == [verdict]


@pytest.mark.parametrize("hooks", [("prerouting",), ("prerouting", "output")])
def test_rules_for_any_address_are_held_against_what_this_host_gets(hooks: tuple[str, ...]) -> None:
    both, own = service("a", "b", dst="any", hooks=hooks), service("a", "b", hooks=hooks)
    forwarded, here = compare(reading(both), reading(own)).pairs
    assert (forwarded.service.dst, forwarded.verdict, forwarded.hooks) == ("any", Relation.ONLY_A, hooks)
    assert forwarded.notes == ("not counting connections to this host itself",)
    assert (here.service.dst, here.verdict, here.hooks) == ("local", Relation.IDENTICAL, hooks)
    here, forwarded = compare(reading(own), reading(both)).pairs
    assert (forwarded.verdict, here.verdict) == (Relation.ONLY_B, Relation.IDENTICAL)
    # Where a side says something of its own for this host, that holds.
    pairs = compare(reading(both, replace(own, leak=Fraction(1), backends=())), reading(own)).pairs
    assert [pair.verdict for pair in pairs] == [Relation.ONLY_A, Relation.DIFFERENT]
    # And a port of its own is another service.
    [one, other] = compare(reading(both), reading(replace(own, dport="81"))).pairs
    assert (one.verdict, other.verdict) == (Relation.ONLY_A, Relation.ONLY_B)


def test_numbers() -> None:
    [pair] = compare(reading(service("a", "b")), reading(service("a", "c", None))).pairs
    third, half, none = Fraction(1, 3), Fraction(1, 2), Fraction(0)
    assert pair.shares == {"a": (half, third), "b": (half, none), "c": (none, third)}
    assert pair.leak == (none, third)


def test_a_side_may_lack_a_service() -> None:
    a, b = service("a"), service("a", dport="81")
    found = compare(reading(a, b), reading(b))
    assert [(pair.service.dport, pair.verdict) for pair in found.pairs] == [
        ("80", Relation.ONLY_A),
        ("81", Relation.IDENTICAL),
    ]
    assert not found.equal
    assert [pair.verdict for pair in compare(reading(b), reading(a, b)).pairs][-1] is Relation.ONLY_B


def test_a_condition_makes_another_service() -> None:
    found = compare(reading(service("a", when={"src": "10.0.0.0/8"})), reading(service("a")))
    assert {pair.verdict for pair in found.pairs} == {Relation.ONLY_A, Relation.ONLY_B}


def test_places_are_held_apart() -> None:
    both = service("a", "b", hooks=("prerouting", "output"))
    assert compare(reading(both), reading(service("a", "b"), service("a", "b", hooks=("output",)))).equal
    found = compare(reading(both), reading(service("a", "b"), service("a", "a", "b", hooks=("output",))))
    assert [(pair.hooks, pair.verdict) for pair in found.pairs] == [
        (("prerouting",), Relation.IDENTICAL),
        (("output",), Relation.DIFFERENT),
    ]


def test_what_is_not_understood_leaves_a_doubt() -> None:
    lost = UnsupportedRule(line=1, rule="x", what="x", reason="x")
    a, b = reading(service("a")), reading(service("a"), unsupported=(lost,))
    assert not compare(a, b).equal
    assert compare(b, b).equal
    assert not compare(a, replace(a, accept=False)).equal
