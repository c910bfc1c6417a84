"""The suite for pytest: `pytest --pyargs lbctl.conformance`, a test for each check and usable driver."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from lbctl.conformance import CHECKS, ConformanceCheck, DriverUnderTest, Support, run, ways
from lbctl.host import LocalHost

if TYPE_CHECKING:
    from collections.abc import Iterator

WAYS = ways(LocalHost())


@pytest.fixture(scope="module", params=[way for way in WAYS if not way.reason], ids=str)
def way(request: pytest.FixtureRequest) -> Iterator[DriverUnderTest]:
    """One usable driver of one installed backend."""
    yield request.param
    request.param.clear()


@pytest.mark.parametrize("check", CHECKS, ids=str)
def test_conformance(way: DriverUnderTest, check: ConformanceCheck) -> None:
    """The backend does what the intent says, or refuses it by name."""
    outcome = run(check, way)
    if outcome.verdict is Support.FAILED:
        pytest.fail(outcome.reason, pytrace=False)
