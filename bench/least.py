"""Least connections by dealt slots, held against IPVS's definition, by simulation.

    python bench/least.py [SECONDS]

Connections arrive at random (Poisson) and last for random times; one endpoint of four may be slower than the
others, or begin empty. IPVS's `wlc` sends each to the endpoint with the fewest connections for its weight at
that moment. lbctl counts once a second and deals slots, which are taken in turn until the next count; here a
count takes effect 0.1 s later, as the agent needs at most. Round robin is what both are better than.

Printed is how far endpoints are from their fair part of all connections, in connections: the mean over time,
and the largest that 99 of 100 moments do not exceed.
"""

from __future__ import annotations

import heapq
import random
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lbctl.engine.change.dealing import Load, Measured, deal_again
from lbctl.model import Endpoint, Family, Listener, Protocol, Scheduler, Service, deal, slots_for
from lbctl.model.dealing import laid_out

if TYPE_CHECKING:
    from programs import Programs
    from sizes import Size

PERIOD, DELAY = 1.0, 0.1
#: Seconds that are not looked at: what is established has to grow to what it is for long.
WARM = 30.0
SAMPLE = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What arrives: connections a second, and how many seconds they last at each endpoint on average."""

    title: str
    rate: float
    lasting: tuple[float, ...]
    weights: tuple[int, ...] = (1, 1, 1, 1)


CASES = (
    Case(title="long connections, alike", rate=20, lasting=(30, 30, 30, 30)),
    Case(title="long connections, one endpoint lasts 4 times as long", rate=20, lasting=(20, 20, 20, 80)),
    Case(title="short connections, alike", rate=500, lasting=(0.5, 0.5, 0.5, 0.5)),
    Case(title="short connections, one endpoint 4 times as slow", rate=500, lasting=(0.5, 0.5, 0.5, 2)),
    Case(title="weights 4, 2, 1, 1", rate=50, lasting=(20, 20, 20, 20), weights=(4, 2, 1, 1)),
)


@dataclass(slots=True, kw_only=True)
class State:
    """What is established now."""

    counts: list[int]
    ends: list[tuple[float, int]] = field(default_factory=list)


Pick = Callable[[float, State], int]


def ipvs(case: Case) -> Pick:
    """The definition: the fewest connections for the weight, the first of equals."""
    weights = case.weights
    return lambda _, state: min(range(len(weights)), key=lambda i: (state.counts[i] + 1) / weights[i])


def turns(case: Case) -> Pick:
    count = slots_for(len(case.weights))
    usual = deal(case.weights, [0] * len(case.weights), 1 << 20, count)
    table = cycle(laid_out(usual, usual))
    return lambda _, __: next(table)


def dealt(case: Case) -> Pick:
    """Slots that are dealt again once a second, from what was counted a moment before."""
    count = slots_for(len(case.weights))
    usual = deal(case.weights, [0] * len(case.weights), 1 << 20, count)
    service = Service(
        name="simulated",
        listeners=(Listener(protocol=Protocol.TCP, port=80, address=ip_address("192.0.2.1")),),
        endpoints=tuple(Endpoint(port=1 + i, weight=weight) for i, weight in enumerate(case.weights)),
        scheduler=Scheduler.LEAST_CONNECTIONS,
    )
    places = [(Family.IPV4, str(1 + i)) for i in range(len(case.weights))]
    table, place, counted = laid_out(usual, usual), 0, PERIOD
    arrived = [0] * len(case.weights)
    before: Measured | None = None
    coming: list[tuple[float, tuple[int, ...]]] = []

    def pick(now: float, state: State) -> int:
        nonlocal table, place, counted, before, service
        if now >= counted:
            load = Load(
                established=dict(zip(places, state.counts, strict=True)),
                arrived=dict(zip(places, arrived, strict=True)),
            )
            found = Measured(time=now, loads={service.name: load})
            deals = deal_again([service], before, found, PERIOD)[service.name]
            service, before, counted = replace(service, deals=deals), found, now + PERIOD
            coming.append((now + DELAY, tuple([(e.port or 0) - 1 for e in service.slots(Family.IPV4)])))
        while coming and now >= coming[0][0]:
            table = coming.pop(0)[1]
        place = (place + 1) % count
        arrived[table[place]] += 1
        return table[place]

    return pick


def run(case: Case, pick: Pick, seconds: float) -> list[float]:
    """Return, for each moment, how far the endpoint that is farthest is from its fair part."""
    chance = random.Random(7)
    state = State(counts=[0] * len(case.weights))
    found: list[float] = []
    now, sampled, whole = 0.0, WARM, sum(case.weights)
    while now < WARM + seconds:
        now += chance.expovariate(case.rate)
        while state.ends and state.ends[0][0] <= now:
            _, ended = heapq.heappop(state.ends)
            state.counts[ended] -= 1
        chosen = pick(now, state)
        state.counts[chosen] += 1
        heapq.heappush(state.ends, (now + chance.expovariate(1 / case.lasting[chosen]), chosen))
        while sampled <= now:
            total = sum(state.counts)
            fair = [total * weight / whole for weight in case.weights]
            found.append(max(abs(a - b) for a, b in zip(state.counts, fair, strict=True)))
            sampled += SAMPLE
    return found


WAYS: dict[str, Callable[[Case], Pick]] = {
    "IPVS wlc": ipvs,
    "lbctl least-connections": dealt,
    "round robin": turns,
}


def measured(seconds: float) -> Iterator[dict[str, Any]]:
    """Yield, for each case, the mean and the p99 of each way."""
    for case in CASES:
        rows = {}
        for name, way in WAYS.items():
            found = run(case, way(case), seconds)
            rows[name] = {
                "mean": round(statistics.mean(found), 2),
                "p99": round(statistics.quantiles(found, n=100)[98], 1),
            }
        yield {"case": case.title, "arriving": round(case.rate * (PERIOD + DELAY)), "ways": rows}


def part(size: Size, programs: Programs, folder: Path) -> dict[str, Any]:  # noqa: ARG001 (a part's)
    """The rows of all cases."""
    return {"cases": list(measured(size.simulated))}


def main(words: Sequence[str]) -> None:
    seconds = float(words[0]) if words else 120.0
    for row in measured(seconds):
        print(f"{row['case']} ({row['arriving']} connections arrive from one count to the end of its table)")
        for name, figures in row["ways"].items():
            print(f"    {name:24} mean {figures['mean']:8.2f}   p99 {figures['p99']:8.1f}")


if __name__ == "__main__":
    main(sys.argv[1:])
