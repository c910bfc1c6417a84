"""What rewritten ladders take over from those before: their counters, and whose turn it is.

The kernel starts a rule's nth counter anew whenever the rule is written; in the legacy flavour, whenever
anybody writes anything in the table. Left alone, each change would send the next connection to the first
endpoint. So a ladder is written with the counters it had, and with its turn encoded in `--packet`: a rung
that has one of N connections and has seen s of them takes the connection after N - s more.

The turn needs no memory of its own: a tree of ladders with M slots that has taken T connections is where it
is after the first T modulo M, and T is the sum of the counters at its ends, since counters and turn are
always written together. So it is also the turn of a tree that got other slots, and no endpoint has to wait
for long, however often the slots change.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, TypeAlias

from lbctl_iptables import layout
from lbctl_iptables.rules import DumpedRule

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator, Mapping, Sequence

#: Where a chain's ladder begins, one of how many each of its rungs takes, and the ladders that these lead to.
_Ladder: TypeAlias = "tuple[int, list[int], list[str | None]]"
_Counts: TypeAlias = "dict[Hashable, tuple[int, int]]"


def restore_counters(
    owner: str, new: Mapping[str, Sequence[DumpedRule]], old: Mapping[str, Sequence[DumpedRule]]
) -> dict[str, list[DumpedRule]]:
    """Return the chains `new` with the counters of the same endpoints or rules in `old`, and with turns.

    `new` has all chains of a tree or none.
    """
    here: dict[str, _Counts] = {name: {} for name in new}
    spare: _Counts = {}
    for name, rules in old.items():
        wanted = set(_identities(owner, name, new.get(name, ())))
        for rule, same in zip(rules, _identities(owner, name, rules), strict=True):
            _add(here[name] if same in wanted else spare, same, rule)
    result: dict[str, list[DumpedRule]] = {}
    for name, rules in new.items():
        result[name] = counted = []
        for rule, same in zip(rules, _identities(owner, name, rules), strict=True):
            # An endpoint with several slots keeps its count in the first of them.
            packets, size = here[name].pop(same, (0, 0))
            more, larger = spare.pop(same, (0, 0))
            counted.append(DumpedRule(rule.text, packets + more, size + larger))
    for tree in _trees(result):
        result |= tree.turned()
    return result


def at_start(rules: Sequence[DumpedRule]) -> list[DumpedRule]:
    """`rules` with the ladder's turn taken out; anything but a turn in `--packet` stays as it is."""
    first, every = _ladder(rules)
    if not every:
        return list(rules)
    packets = [_number(rule, "--packet") for rule in rules[first:]]
    if not any(packets) or packets != _packets(every, -packets[0] % every[0]):
        return list(rules)
    return [*rules[:first], *(_with_packet(rule, 0) for rule in rules[first:])]


class _Tree:
    """Ladders that lead to one another, and whose turn it is in each."""

    def __init__(
        self, chains: Mapping[str, list[DumpedRule]], ladders: Mapping[str, _Ladder], root: str
    ) -> None:
        self._rules = chains
        self._ladders = ladders
        #: The ladders of this tree, and for each how many connections each of its rungs has seen.
        self._seen: dict[str, list[int]] = {}
        #: The slots and the connections that they took.
        self._slots = self._taken = 0
        self._enter(root)
        for _ in range(self._taken % self._slots):
            self._connect(root)

    def _enter(self, name: str) -> None:
        first, every, below = self._ladders[name]
        self._seen[name] = [0] * len(every)
        for rule, target in zip(self._rules[name][first:], below, strict=True):
            if target is not None and target not in self._seen:
                self._enter(target)
            else:
                self._slots += 1
                self._taken += rule.packets

    def _connect(self, name: str | None) -> None:
        while name is not None:
            _, every, below = self._ladders[name]
            seen = self._seen[name]
            for i, one_of in enumerate(every):
                seen[i] += 1
                if (seen[i] - 1) % one_of == 0:
                    name = below[i]
                    break

    def turned(self) -> dict[str, list[DumpedRule]]:
        """Return the ladders with the turn of each rung."""
        result = {}
        for name, seen in self._seen.items():
            first, every, _ = self._ladders[name]
            rules = self._rules[name]
            rungs = (
                _with_packet(rule, -count % one_of)
                for rule, count, one_of in zip(rules[first:], seen, every, strict=True)
            )
            result[name] = [*rules[:first], *rungs]
        return result


def _trees(chains: Mapping[str, list[DumpedRule]]) -> Iterator[_Tree]:
    """Yield the trees whose ladders are all in `chains`."""
    ladders: dict[str, _Ladder] = {}
    for name, rules in chains.items():
        first, every = _ladder(rules)
        if every:
            ladders[name] = first, every, [rule.option("-g") for rule in rules[first:]]
    for name, (first, every, below) in ladders.items():
        ladders[name] = first, every, [target if target in ladders else None for target in below]
    inner = {target for _, _, below in ladders.values() for target in below}
    for name in ladders:
        if name not in inner:
            yield _Tree(chains, ladders, name)


def _ladder(rules: Sequence[DumpedRule]) -> tuple[int, list[int]]:
    """Where a chain's ladder of turns begins, and one of how many each of its rungs takes; [] for no ladder.

    In a ladder all turns come round with those of the first rung.
    """
    first = next((i for i, rule in enumerate(rules) if " --every " in rule.text), len(rules))
    every = [_number(rule, "--every") or 1 for rule in rules[first:]]
    steps = pairwise(every)
    sound = every[-1:] == [1] and all(of > below and (of - 1) % below == 0 for of, below in steps)
    return first, every if sound else []


def _packets(every: Sequence[int], turn: int) -> list[int]:
    """Return the `--packet` of each rung of a ladder that has taken `turn` connections since its start."""
    seen = [0] * len(every)
    for _ in range(turn):
        for i, one_of in enumerate(every):
            seen[i] += 1
            if (seen[i] - 1) % one_of == 0:
                break
    return [-count % one_of for count, one_of in zip(seen, every, strict=True)]


def _identities(owner: str, chain: str, rules: Sequence[DumpedRule]) -> list[Hashable]:
    """Return what each rule counts: connections to an endpoint of a service, or else whatever it matches."""
    service = layout.service_of(owner, chain, "\n".join([rule.text for rule in rules]))
    return [_identity(chain, service, rule) for rule in rules]


def _identity(chain: str, service: str | None, rule: DumpedRule) -> Hashable:
    to, below = rule.endpoint, rule.option("-g")
    if to is not None:
        return service, rule.option("-p"), to
    if below is not None:
        return "--rcheck" in rule.text, below
    return chain, rule.text


def _add(counts: _Counts, same: Hashable, rule: DumpedRule) -> None:
    packets, size = counts.get(same, (0, 0))
    counts[same] = packets + rule.packets, size + rule.bytes


def _number(rule: DumpedRule, option: str) -> int:
    text = rule.option(option) or ""
    return int(text) if text.isdecimal() else 0


def _with_packet(rule: DumpedRule, packet: int) -> DumpedRule:
    before, option, after = rule.text.partition(" --packet ")
    if not option:
        return rule
    _, blank, rest = after.partition(" ")
    return rule._replace(text=f"{before}{option}{packet}{blank}{rest}")
