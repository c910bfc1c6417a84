"""The simulation of many hosts, in small: what it finds are laws of the tables."""

import importlib.util
import sys
from pathlib import Path
from random import Random
from types import ModuleType

import pytest

from lbctl.model import Family


@pytest.fixture(scope="module", name="fleet")
def _fleet() -> ModuleType:
    path = Path(__file__).parents[2] / "bench" / "fleet.py"
    spec = importlib.util.spec_from_file_location("bench_fleet", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("failed", [1, 2, 5])
def test_only_the_clients_of_a_failed_endpoint_move(fleet: ModuleType, failed: int) -> None:
    found = fleet.failure(fleet.pool("web", 20), frozenset(range(failed)))
    assert found.bypassed == 0
    # Built anew, tables move others too; and a remainder nearly all.
    assert 0 < found.maglev < 0.05
    assert found.source_hash > 0.4


def test_hosts_differ_only_about_what_they_disagree_on(fleet: ModuleType) -> None:
    web = fleet.pool("web", 20)
    whole = web.slots(Family.IPV4)
    dice = Random(5)
    for _ in range(20):
        one, other = (frozenset(dice.sample(range(20), dice.randrange(4))) for _ in range(2))
        about = {web.endpoints[n] for n in one ^ other} | {web.endpoints[n] for n in one & other}
        tables = zip(whole, fleet.bypassed(web, one), fleet.bypassed(web, other), strict=True)
        assert all(a is b for owner, a, b in tables if owner not in about)


def test_a_fleet(fleet: ModuleType) -> None:
    size = {"hosts": 20, "services": 5, "endpoints": 12, "large": 120}
    arguments = {**size, "seed": 3, "wrong": 0.02, "down": 0.05}
    found = fleet.simulate(**arguments)
    assert found == fleet.simulate(**arguments)
    assert [row["bypassed"] for row in found["failures"]] == [0] * 6
    views = found["views"]
    assert len({row["hosts_differ"] for row in views.values()}) == 1
    assert 0 < views["bypassed"]["lost"] < views["maglev"]["lost"] < views["source_hash"]["lost"]


def test_hosts_that_agree_lose_nothing(fleet: ModuleType) -> None:
    web = fleet.pool("web", 20)
    down = frozenset({3, 7})
    for make in (fleet.bypassed, fleet.rebuilt, fleet.source_hashed):
        found = fleet.disagreement([(web, down, {down: 50})], make)
        assert (found.hosts_differ, found.lost, found.dead) == (0, 0, 0)


def test_two_hosts_by_hand(fleet: ModuleType) -> None:
    """One of two hosts holds an endpoint to be down: its clients change it, on the way there and back."""
    web = fleet.pool("web", 20)
    wrong = frozenset({4})
    table = web.slots(Family.IPV4)
    share = sum(holder is web.endpoints[4] for holder in table) / len(table)
    seen = {frozenset(): 1, wrong: 1}
    found = fleet.disagreement([(web, frozenset(), seen)], fleet.bypassed)
    assert found.hosts_differ == 1
    assert found.lost == pytest.approx(share)
    # If it is down indeed, half of these connections were lost before.
    found = fleet.disagreement([(web, wrong, seen)], fleet.bypassed)
    assert (found.lost, found.dead) == (pytest.approx(share / 2), pytest.approx(share / 2))
