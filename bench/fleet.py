"""How many clients lose their endpoint while hosts that share no state disagree: a simulation of tables.

    python bench/fleet.py [--hosts 1000] [--services 1000] [--endpoints 20] [--large 1000] [--seed 1] …

No kernel takes part: the tables are those that lbctl's model makes, and each slot of a table stands for an
equal part of the clients. Two questions:

- *Failures*: some endpoints of one pool go. The clients of these have to move; how many others do?
- *Views*: each host checks all endpoints by itself, and is wrong about each of them with a small probability.
  A client's connection moves from one host to another, both drawn at random. How often does the second host
  send it to another endpoint than the first did?

Each question is asked for the tables that lbctl makes when a check fails (built from the file's members,
failed slots bypassed), and for tables that are built anew from the members that are left, by Maglev
and by source-hash.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from ipaddress import IPv4Address
from typing import TypeAlias

from lbctl.model import Endpoint, Family, Limit, Listener, Protocol, Scheduler, Service

#: Indices of the endpoints that a host holds to be down.
Down: TypeAlias = frozenset[int]
#: Slot → who gets its clients.
Table: TypeAlias = Sequence[Endpoint]
Maker: TypeAlias = Callable[[Service, Down], Table]

_FIRST = int(IPv4Address("10.0.0.1"))
#: Services for which tables are built anew for each view: that costs far more than what lbctl does.
_SAMPLE = 20


def pool(name: str, count: int) -> Service:
    """Return a service with Maglev and so many endpoints of equal weight."""
    endpoints = tuple(Endpoint(address=IPv4Address(_FIRST + n), port=8080) for n in range(count))
    listener = Listener(protocol=Protocol.TCP, port=80, address=IPv4Address("192.0.2.10"))
    return Service(name=name, listeners=(listener,), endpoints=endpoints, scheduler=Scheduler.MAGLEV)


def bypassed(service: Service, down: Down) -> Table:
    """Return lbctl's table while these endpoints fail their checks."""
    limits = frozenset(Limit(family=Family.IPV4, to=service.endpoints[n].to) for n in down)
    return replace(service, limits=limits).slots(Family.IPV4)


def rebuilt(service: Service, down: Down) -> Table:
    """Return the table of the endpoints that are left, by the service's scheduler."""
    left = tuple(e for n, e in enumerate(service.endpoints) if n not in down)
    return replace(service, endpoints=left or service.endpoints).slots(Family.IPV4)


def source_hashed(service: Service, down: Down) -> Table:
    """As `rebuilt`, by source-hash."""
    return rebuilt(replace(service, scheduler=Scheduler.SOURCE_HASH), down)


# -- failures of one pool


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Which part of all clients moved when some endpoints of a pool failed, and needed not to."""

    endpoints: int
    failed: int
    must_move: float
    bypassed: float
    maglev: float
    source_hash: float


def failure(service: Service, down: Down) -> Failure:
    """Return what a failure of these endpoints does to the clients of all others."""
    return Failure(
        endpoints=len(service.endpoints),
        failed=len(down),
        must_move=len(down) / len(service.endpoints),
        bypassed=_needless(service, bypassed(service, frozenset()), bypassed(service, down), down),
        maglev=_needless(service, rebuilt(service, frozenset()), rebuilt(service, down), down),
        source_hash=_needless_by_remainder(service, down),
    )


def _needless(service: Service, before: Table, after: Table, down: Down) -> float:
    gone = {service.endpoints[n] for n in down}
    moved = sum(was is not now for was, now in zip(before, after, strict=True) if was not in gone)
    return moved / len(before)


def _needless_by_remainder(service: Service, down: Down) -> float:
    """Return the same for tables of different sizes: clients by the remainders for both sizes."""
    whole, left = len(service.endpoints), len(service.endpoints) - len(down)
    survivors = [n for n in range(whole) if n not in down]
    clients = whole * left
    moved = sum(n % whole not in down and survivors[n % left] != n % whole for n in range(clients))
    return moved / clients


# -- views of many hosts


@dataclass(frozen=True, slots=True, kw_only=True)
class Disagreement:
    """How often a second host sends a client elsewhere than the first, as parts of all pairs and clients."""

    services: int
    #: Pairs of hosts that do not hold the same endpoints to be down.
    hosts_differ: float
    #: Clients whose endpoint on the first host is well, and is another one on the second.
    lost: float
    #: The same, but the first host's endpoint is really down: these connections were lost before.
    dead: float


def views(hosts: int, endpoints: int, down: Down, wrong: float, dice: random.Random) -> Mapping[Down, int]:
    """Return what hosts hold to be down → how many do, if each is wrong about each with a probability."""
    seen = (
        frozenset(n for n in range(endpoints) if (n in down) is not (dice.random() < wrong))
        for _ in range(hosts)
    )
    return Counter(seen)


def disagreement(services: Iterable[tuple[Service, Down, Mapping[Down, int]]], make: Maker) -> Disagreement:
    """Return how much tables differ: services, each with its truth and the views of hosts."""
    count = 0
    differ = lost = dead = 0.0
    for service, down, seen in services:
        count += 1
        gone = {service.endpoints[n] for n in down}
        hosts = sum(seen.values())
        pairs = hosts * (hosts - 1)
        differ += 1 - sum(each * (each - 1) for each in seen.values()) / pairs
        for holders, clients in _holders(seen, {view: make(service, view) for view in seen}):
            elsewhere = {e: number * (hosts - number) / pairs for e, number in holders.items()}
            well = sum(part for e, part in elsewhere.items() if e not in gone)
            lost += clients * well
            dead += clients * (sum(elsewhere.values()) - well)
    return Disagreement(services=count, hosts_differ=differ / count, lost=lost / count, dead=dead / count)


def _holders(
    seen: Mapping[Down, int], tables: Mapping[Down, Table]
) -> Iterator[tuple[Mapping[Endpoint, int], float]]:
    """Yield for each part of the clients on which hosts differ who gets it on how many hosts, and its size.

    Only the slots in which a table differs from the commonest one are counted: they are few.
    """
    most = max(seen, key=lambda view: seen[view])
    common = tables[most]
    hosts = sum(seen.values())
    if any(len(table) != len(common) for table in tables.values()):
        common, tables = _of_one_size(tables, most)
    others: dict[int, Counter[Endpoint]] = {}
    for view, table in tables.items():
        for slot, (usual, holder) in enumerate(zip(common, table, strict=True)):
            if holder is not usual:
                others.setdefault(slot, Counter())[holder] += seen[view]
    for slot, holders in others.items():
        holders[common[slot]] = hosts - holders.total()
        yield holders, 1 / len(common)


def _of_one_size(tables: Mapping[Down, Table], most: Down) -> tuple[Table, Mapping[Down, Table]]:
    """Return tables of several sizes as tables of sampled clients, each a hash of its own."""
    dice = random.Random(len(tables))
    clients = [dice.getrandbits(32) for _ in range(2039)]
    sampled = {view: [table[client % len(table)] for client in clients] for view, table in tables.items()}
    return sampled[most], sampled


# -- the whole


def simulate(
    *, hosts: int, services: int, endpoints: int, large: int, seed: int, wrong: float, down: float
) -> dict[str, object]:
    """Return all figures, as they are printed with --json. The same arguments give the same figures."""
    dice = random.Random(seed)
    failures = [
        failure(one, frozenset(dice.sample(range(len(one.endpoints)), failed)))
        for one, failing in ((pool("pool", endpoints), (1, 2, 5)), (pool("large", large), (1, 10, 50)))
        for failed in failing
    ]
    fleet = []
    for number in range(services):
        truth = frozenset(n for n in range(endpoints) if dice.random() < down)
        fleet.append((pool(f"s{number}", endpoints), truth, views(hosts, endpoints, truth, wrong, dice)))
    sample = fleet[:_SAMPLE]
    return {
        "failures": [asdict(each) for each in failures],
        "views": {
            "bypassed": asdict(disagreement(fleet, bypassed)),
            "maglev": asdict(disagreement(sample, rebuilt)),
            "source_hash": asdict(disagreement(sample, source_hashed)),
        },
    }


def main() -> int:
    """Run the simulation and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    for name, default in (
        ("hosts", 1000),
        ("services", 1000),
        ("endpoints", 20),
        ("large", 1000),
        ("seed", 1),
    ):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--wrong", type=float, default=0.01, help="a host is wrong about an endpoint")
    parser.add_argument("--down", type=float, default=0.01, help="an endpoint is down")
    parser.add_argument("--json", action="store_true")
    options = vars(parser.parse_args())
    as_json = options.pop("json")
    found = simulate(**options)
    if as_json:
        sys.stdout.write(json.dumps(found, indent=2) + "\n")
    else:
        sys.stdout.write("\n".join(_tables(found)) + "\n")
    return 0


def _tables(found: dict[str, object]) -> Iterator[str]:
    failures, seen = found["failures"], found["views"]
    assert isinstance(failures, list)
    assert isinstance(seen, dict)
    yield "| endpoints | failed | must move | check fails: others moved | Maglev anew | source-hash anew |"
    yield "|---|---|---|---|---|---|"
    for row in failures:
        parts = [f"{row[key]:.2%}" for key in ("must_move", "bypassed", "maglev", "source_hash")]
        yield f"| {row['endpoints']} | {row['failed']} | {' | '.join(parts)} |"
    yield ""
    yield "| tables | services | hosts differ | healthy endpoint lost | was dead before |"
    yield "|---|---|---|---|---|"
    for name, row in seen.items():
        parts = [f"{row[key]:.2%}" for key in ("hosts_differ", "lost", "dead")]
        yield f"| {name} | {row['services']} | {' | '.join(parts)} |"


if __name__ == "__main__":
    sys.exit(main())
