"""How a slot is picked: slots → a tree of ladders.

A ladder is the rules of one chain, each with a condition, the last with none: a connection is taken by the
first that matches. A rule sees only what the earlier ones left, so the conditions of a ladder over N turns
are one of N, one of N - 1, … one of 2. Where a ladder would be long it becomes a tree, whose rules lead to
the ladders of groups, so that a connection meets O(log N) rules, and each slot has the same connections as
before:

- by turns, the group at place i of d takes the connections i, i + d, i + 2d, …, and so the slots there;
  where N has no small divisor, the first slot gets a rule of its own, and N - 1 has one;
- by chance, a group has the sum of its endpoints' chances;
- by the client's hash, a group has all of its endpoints' slots.

For up to 32 slots of IPv4, the hash of `cluster` picks the very slot that nftables picks with
`jhash … mod N seed S`. Everything else that hashes is in `lbctl_iptables.bytecode`.
"""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from math import gcd
from typing import TYPE_CHECKING, TypeAlias, TypeVar, assert_never

from lbctl.model import Family, Scheduler, bypassed, period
from lbctl.values import dataclass
from lbctl_iptables import bytecode

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lbctl.model import Endpoint, Service

Condition: TypeAlias = tuple[str, ...]
Node: TypeAlias = "Endpoint | Ladder"
T = TypeVar("T")

#: Rules of one ladder that are not worth a jump: a rule met costs a connection some 10 ns, and a chain more
#: than a rule costs whoever loads it and reads it back.
SHORT = 12
#: What a long ladder is split by: the first that divides it. Four ladders of one are met as soon as two of
#: two, with half of the jumps.
_FANS = (4, 2, 3, 5, 7)
#: Nodes that `cluster` can distinguish.
MAX_NODES = 32
#: `random` draws a number of 31 bits, and compares.
DRAW = 1 << 31


@dataclass(frozen=True, slots=True)
class Ladder:
    """The rules of one chain: conditions and what they lead to; the last condition is empty."""

    rungs: tuple[tuple[Condition, Node], ...]


def picker(service: Service, family: Family) -> Node | None:
    """Return what picks among the ready endpoints of a service; None where there is none."""
    slots = service.slots(family)
    if not slots:
        return None
    match service.scheduler:
        case Scheduler.ROUND_ROBIN:
            # A kernel's counter that stays is of no use here: a changed ladder carries its turns over.
            return _by_turns(slots[: period(slots)])
        case Scheduler.RANDOM | Scheduler.LEAST_CONNECTIONS:
            # To deal again rewrites the ladder, and turns would begin anew each time.
            return _by_chance(tuple(Counter(slots).items()))
        case Scheduler.SOURCE_HASH | Scheduler.MAGLEV:
            return _by_hash(service, family)
    assert_never(service.scheduler)


def _by_hash(service: Service, family: Family) -> Node:
    """With the same shares as nftables; with the same endpoint for each client if that can be expressed."""
    if has_same_hash(service, family):
        slots = service.slots(family)
        return _by_nodes(slots, 0, len(slots), service.hash_seed)
    slots = _remapped(service, family)
    starts = [place for place, slot in enumerate(slots) if not place or slot != slots[place - 1]]
    ends = [*starts[1:], len(slots)]
    parts = [(start, end, slots[start]) for start, end in zip(starts, ends, strict=True)]
    return _by_slots(parts, len(slots), family, service.hash_seed)


def has_same_hash(service: Service, family: Family) -> bool:
    """Return True if a client of `family` gets the very endpoint that nftables gives it."""
    if service.scheduler is not Scheduler.SOURCE_HASH:
        return False
    slots = service.slots(family)
    return len(slots) <= MAX_NODES and (family is Family.IPV4 or len(set(slots)) <= 1)


def _remapped(service: Service, family: Family) -> tuple[Endpoint, ...]:
    """Return slots in which those of one endpoint are neighbours, so that few rules tell them apart."""
    members = service.rotation(family)
    divisor = gcd(*[endpoint.weight for endpoint, _ in members])
    table = [i for i, (endpoint, _) in enumerate(members) for _ in range(endpoint.weight // divisor)]
    parts = tuple([part for _, part in members])
    return tuple([members[i][0] for i in bypassed(tuple(table), parts, service.hash_seed)])


def _ladder(rungs: Sequence[tuple[Condition, Node]]) -> Node:
    """Return a ladder whose last rung takes what is left; its node alone if there is only one."""
    *others, (_, last) = rungs
    return Ladder((*others, ((), last))) if others else last


def _by_turns(slots: tuple[Endpoint, ...]) -> Node:
    return _ladder(list(_turns(slots)))


def _turns(slots: tuple[Endpoint, ...]) -> Iterator[tuple[Condition, Node]]:
    count = len(slots)
    if count <= SHORT:
        for i, slot in enumerate(slots):
            yield _every(count - i), slot
        return
    fan = next((fan for fan in _FANS if count % fan == 0), None)
    if fan is None:
        yield _every(count), slots[0]
        yield from _turns(slots[1:])
        return
    for i in range(fan):
        yield _every(fan - i), _by_turns(slots[i::fan])


def _every(turns: int) -> Condition:
    return ("-m", "statistic", "--mode", "nth", "--every", str(turns), "--packet", "0")


def _by_chance(parts: Sequence[tuple[Endpoint, int]]) -> Node:
    rest = sum(weight for _, weight in parts)
    rungs: list[tuple[Condition, Node]] = []
    for group in _grouped(parts):
        chance = sum(weight for _, weight in group)
        below = _by_chance(group) if len(group) > 1 else group[0][0]
        rungs.append((_chance(Fraction(chance, rest)), below))
        rest -= chance
    return _ladder(rungs)


def _chance(chance: Fraction) -> Condition:
    """Return a chance as iptables-save prints the nearest that the kernel has: eleven digits give it back."""
    stored = round(chance * DRAW)
    return ("-m", "statistic", "--mode", "random", "--probability", f"{stored / DRAW:.11f}")


def _by_nodes(nodes: Sequence[Node], first: int, total: int, seed: int) -> Node:
    """Return what leads to `nodes`, those from `first` on of a hash with `total` nodes.

    The hash is scaled to the nodes, so that neighbours are one node of a hash with fewer.
    """
    count = len(nodes)
    fan = next((fan for fan in _FANS if count % fan == 0), None)
    if count > SHORT and fan is not None:
        size = count // fan
        groups = [_by_nodes(nodes[i : i + size], first + i, total, seed) for i in range(0, count, size)]
        return _ladder([(_node(first // size + i, total // size, seed), g) for i, g in enumerate(groups)])
    # Whoever has the most nodes gets what the rules leave.
    most = max(nodes, key=nodes.count)
    rungs = [(_node(i, total, seed), node) for i, node in enumerate(nodes, first) if node != most]
    return _ladder([*rungs, ((), most)])


def _node(node: int, total: int, seed: int) -> Condition:
    one = ("--cluster-local-nodemask", f"0x{1 << node:08x}", "--cluster-total-nodes", str(total))
    return ("-m", "cluster", *one, "--cluster-hash-seed", f"0x{seed:08x}")


def _grouped(parts: Sequence[T]) -> Iterator[Sequence[T]]:
    """Yield a few groups of neighbours, alike in number; each by itself where there are few."""
    count = len(parts)
    fan = count if count <= SHORT else _FANS[0]
    for i in range(fan):
        yield parts[count * i // fan : count * (i + 1) // fan]


def _by_slots(parts: Sequence[tuple[int, int, Endpoint]], total: int, family: Family, seed: int) -> Node:
    """What leads to endpoints by a hash of `total` slots, of which each has those from one up to another."""
    rungs: list[tuple[Condition, Node]] = []
    for group in _grouped(parts):
        slots = bytecode.Slots(family, seed, total, group[0][0], group[-1][1])
        below = _by_slots(group, total, family, seed) if len(group) > 1 else group[0][2]
        rungs.append((("-m", "bpf", "--bytecode", slots.program()), below))
    return _ladder(rungs)
