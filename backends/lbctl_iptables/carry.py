"""What rewritten ladders take over from those before: their counters, and whose turn it is.

The kernel starts a rule's nth counter anew whenever the rule is written; in the legacy flavour, whenever
anybody writes anything in the table. Left alone, each change would send the next connection to the first
endpoint. So a ladder is written with the counters it had, and with its turn encoded in `--packet`: a rung
that has one of N connections and has seen s of them takes the connection after N - s more.

The turn needs no memory of its own: it is the sum of the ladder's counters modulo its length, since counters
and turn are always written together. Where a service gets other ladders than before, each endpoint keeps its
counters, and the turns of the new ladders follow from where these come to lie.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence

    from lbctl_iptables.rules import Rule

_Counts: TypeAlias = "dict[Hashable, tuple[int, int]]"


def carry(new: Mapping[str, Sequence[Rule]], old: Mapping[str, Sequence[Rule]]) -> dict[str, list[Rule]]:
    """The rules of the chains `new` with the counters of the same endpoints or rules in `old`, and turns."""
    here: dict[str, _Counts] = {name: {} for name in new}
    spare: _Counts = {}
    for name, rules in old.items():
        wanted = {_identity(name, rule) for rule in new.get(name, ())}
        for rule in rules:
            same = _identity(name, rule)
            if same in wanted:
                _add(here[name], same, rule)
            elif rule.endpoint is not None:
                _add(spare, same, rule)
    result = {}
    for name, rules in new.items():
        counted = []
        for rule in rules:
            same = _identity(name, rule)
            # An endpoint with several slots keeps its count in the first of them.
            packets, size = here[name].pop(same, (0, 0))
            more, larger = spare.pop(same, (0, 0))
            counted.append(replace(rule, packets=packets + more, bytes=size + larger))
        result[name] = _turned(counted)
    return result


def at_start(rules: Sequence[Rule]) -> list[Rule]:
    """`rules` with the ladder's turn taken out; anything but a turn in `--packet` stays as it is."""
    first, every = _ladder(rules)
    if not every:
        return list(rules)
    packets = [_number(rule, "--packet") for rule in rules[first:]]
    if not any(packets) or packets != _packets(every, -packets[0] % every[0]):
        return list(rules)
    return [*rules[:first], *(_with_packet(rule, 0) for rule in rules[first:])]


def _turned(rules: list[Rule]) -> list[Rule]:
    first, every = _ladder(rules)
    if not every:
        return rules
    turn = sum(rule.packets for rule in rules[first:]) % every[0]
    packets = _packets(every, turn)
    rungs = (_with_packet(rule, packet) for rule, packet in zip(rules[first:], packets, strict=True))
    return [*rules[:first], *rungs]


def _ladder(rules: Sequence[Rule]) -> tuple[int, list[int]]:
    """Where a chain's ladder of turns begins, and one of how many each of its rungs takes; [] for no ladder.

    In a ladder all turns come round with those of the first rung.
    """
    first = next((i for i, rule in enumerate(rules) if " --every " in rule.text), len(rules))
    every = [_number(rule, "--every") or 1 for rule in rules[first:]]
    steps = pairwise(every)
    sound = every[-1:] == [1] and all(of > below and (of - 1) % below == 0 for of, below in steps)
    return first, every if sound else []


def _packets(every: Sequence[int], turn: int) -> list[int]:
    """The `--packet` of each rung of a ladder that has taken `turn` connections since its start."""
    seen = [0] * len(every)
    for _ in range(turn):
        for i, one_of in enumerate(every):
            seen[i] += 1
            if (seen[i] - 1) % one_of == 0:
                break
    return [-count % one_of for count, one_of in zip(seen, every, strict=True)]


def _identity(chain: str, rule: Rule) -> Hashable:
    """What a rule counts: connections to an endpoint of a service, or else whatever it matches."""
    to = rule.endpoint
    if to is not None:
        return (rule.option("--comment") or "").partition("/")[0], rule.option("-p"), to
    return chain, _with_packet(rule, 0).text


def _add(counts: _Counts, same: Hashable, rule: Rule) -> None:
    packets, size = counts.get(same, (0, 0))
    counts[same] = packets + rule.packets, size + rule.bytes


def _number(rule: Rule, option: str) -> int:
    text = rule.option(option) or ""
    return int(text) if text.isdecimal() else 0


def _with_packet(rule: Rule, packet: int) -> Rule:
    before, option, after = rule.text.partition(" --packet ")
    if not option:
        return rule
    _, blank, rest = after.partition(" ")
    return replace(rule, text=f"{before}{option}{packet}{blank}{rest}")
