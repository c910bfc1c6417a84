"""Maglev tables: they keep to the weights, and little moves."""

from dataclasses import replace

import pytest

from lbctl.model import Endpoint, Family, Listener, Protocol, Scheduler, Service


def maglev_service(*weights: int) -> Service:
    return Service(
        name="web",
        listeners=(Listener(protocol=Protocol.TCP, port=80),),
        endpoints=tuple(Endpoint(port=8001 + i, weight=w) for i, w in enumerate(weights)),
        scheduler=Scheduler.MAGLEV,
    )


@pytest.mark.parametrize("weights", [(1, 1, 1), (3, 2, 1), (1,), (10, 1), (1,) * 50])
def test_maglev_tables_keep_to_the_weights(weights: tuple[int, ...]) -> None:
    made = maglev_service(*weights)
    for endpoint, weight in zip(made.endpoints, weights, strict=True):
        wanted = weight / sum(weights)
        assert abs(float(made.shares(Family.IPV4)[endpoint.to]) - wanted) <= 0.01 * wanted


@pytest.mark.parametrize("count", range(2, 20))
def test_maglev_moves_hardly_more_than_its_share(count: int) -> None:
    """Of N endpoints one goes: 1/N of the clients move, plus the few that Maglev itself moves."""
    service = maglev_service(*[1] * count)
    gone, *left = service.endpoints
    before = service.slots(Family.IPV4)
    after = replace(service, endpoints=tuple(left)).slots(Family.IPV4)
    assert len(before) == len(after)
    stray = sum(a != b for a, b in zip(before, after, strict=True) if a != gone)
    assert stray / len(before) < 0.05
