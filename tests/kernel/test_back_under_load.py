"""Going back while connections keep coming: a trial that reverts, and a rollback, lose none of them."""

import time
from collections import Counter

import pytest

from lbctl.conformance.network import HOST4, HOST6
from lbctl.model import Family
from support import storm
from support.network import Network, intent, service
from support.waves import KNOCKERS, Knock, Storm, reported, size

STORM = size(6000)
PORTS = (8001, 8002, 8003)


@pytest.mark.parametrize("driver", ["nft", "legacy"])
def test_nothing_is_lost_on_the_way_back(network: Network, driver: str) -> None:
    three, two = (intent(service("web", "80/tcp", *map(str, ports))) for ports in (PORTS, PORTS[:2]))
    words = ("apply", "--yes", "--driver", driver)
    assert network.lbctl(*words, config=three).code == 0
    local = [f"{host}:{port}" for host in (HOST4, f"[{HOST6}]") for port in PORTS]
    waves = Storm(network, [(network.host, local)], [f"{HOST4}:80", f"[{HOST6}]:80"], clients=16)
    steps: list[tuple[float, float]] = []

    def step(*command: str, config: str, code: int = 0) -> None:
        waves.wait(waves.count() + STORM // 4)
        begun = time.monotonic()
        done = network.lbctl(*command, config=config)
        steps.append((begun, time.monotonic()))
        assert done.code == code, done.err

    try:
        waves.begin()
        started = time.monotonic()
        step(*words, "--trial", "1s", config=two, code=8)
        step(*words, config=two)
        step("rollback", "--yes", config=two)
        waves.wait(waves.count() + STORM // 4)
        took = time.monotonic() - started
        reports = waves.end()
    finally:
        waves.close()
    found = reported(reports)
    failed = [knock for knock in found if knock.failed]
    print(
        f"{driver}: {len(found)} connections in {took:.0f} s, {len(failed)} failed; "
        f"{KNOCKERS * storm.HELD} held"
    )
    assert not failed
    assert [report["broken"] for report in reports] == [[]] * KNOCKERS
    trial, applied, returned = steps
    phases = (
        ("before", 0.0, trial[0], PORTS),
        ("reverted", trial[1], applied[0], PORTS),
        ("applied", applied[1], returned[0], PORTS[:2]),
        ("rolled back", returned[1], float("inf"), PORTS),
    )
    for name, after, until, ports in phases:
        for family in Family:
            within = [k for k in found if k.family is family and k.begin >= after and k.end <= until]
            counts = Counter(map(_port, within))
            print(f"  {name}: {family} {sorted(counts.items())}")
            assert sorted(counts) == sorted(map(str, ports))
            # Who was under way at both ends of a phase has taken a turn that is not counted here.
            assert max(counts.values()) - min(counts.values()) <= 1 + 2 * KNOCKERS
    tried = Counter(_port(k) for k in found if k.begin >= trial[0] and k.end <= trial[1])
    assert tried["8003"] < min(tried["8001"], tried["8002"])


def _port(knock: Knock) -> str:
    """The port of the endpoint that answered."""
    return knock.answer.rpartition(":")[2]
