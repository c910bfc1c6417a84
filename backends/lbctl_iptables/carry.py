"""What a rewritten ladder takes over from the one before: its counters, and whose turn it is.

The kernel starts a rule's nth counter anew whenever the rule is written; in the legacy flavour, whenever
anybody writes anything in the table. Left alone, each change would send the next connection to the first
endpoint. So a ladder is written with the counters it had, and with its turn encoded in `--packet`: after s of
M connections, the rules of the first s slots have had their turn and take the connection after M - s more.

The turn needs no memory of its own: it is the sum of the ladder's counters modulo M, since counters and turn
are always written together.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lbctl_iptables.rules import Rule


def carry(rules: Sequence[Rule], old: Sequence[Rule]) -> list[Rule]:
    """`rules` with the counters of the same endpoints or rules in `old`, and the turn that follows."""
    left: dict[tuple[str, ...], tuple[int, int]] = {}
    for rule in old:
        packets, size = left.get(_identity(rule), (0, 0))
        left[_identity(rule)] = packets + rule.packets, size + rule.bytes
    counted = []
    for rule in rules:
        # An endpoint with several slots keeps its count in the first of them.
        packets, size = left.pop(_identity(rule), (0, 0))
        counted.append(replace(rule, packets=packets, bytes=size))
    return list(_turned(counted))


def at_start(rules: Sequence[Rule]) -> list[Rule]:
    """`rules` with every ladder's turn taken out; anything but a turn in `--packet` stays as it is."""
    turns = {}
    for protocol, ladder in _ladders(rules).items():
        starts = [_number(rule, "--packet") for rule in ladder]
        turn = next((i for i, start in enumerate(starts) if not start), 0)
        turns[protocol] = turn if starts == _starts(len(ladder), turn) else 0
    result = []
    for rule in rules:
        turned = turns.get(rule.option("-p") or "", 0) and rule.option("--packet") is not None
        result.append(_with_packet(rule, 0) if turned else rule)
    return result


def _turned(rules: Sequence[Rule]) -> Iterator[Rule]:
    ladders = _ladders(rules)
    seen = dict.fromkeys(ladders, 0)
    starts = {p: _starts(len(x), sum(rule.packets for rule in x) % len(x)) for p, x in ladders.items()}
    for rule in rules:
        protocol = rule.option("-p") or ""
        if protocol in ladders and rule.endpoint is not None:
            place = seen[protocol]
            seen[protocol] += 1
            yield _with_packet(rule, starts[protocol][place]) if rule.option("--packet") else rule
        else:
            yield rule


def _starts(count: int, turn: int) -> list[int]:
    """The `--packet` of each rule of a ladder of `count` whose turn is `turn`; 0 for the last, bare one."""
    return [count - turn if i < turn else 0 for i in range(count)]


def _ladders(rules: Sequence[Rule]) -> dict[str, list[Rule]]:
    """Protocol → the rules that send to endpoints, where they form a ladder N, N-1, … 2, bare."""
    ladders: dict[str, list[Rule]] = {}
    for rule in rules:
        if rule.endpoint is not None:
            ladders.setdefault(rule.option("-p") or "", []).append(rule)
    return {
        protocol: ladder
        for protocol, ladder in ladders.items()
        if [_number(rule, "--every") or 1 for rule in ladder] == list(range(len(ladder), 0, -1))
    }


def _identity(rule: Rule) -> tuple[str, ...]:
    return rule.tokens if rule.endpoint is None else (rule.option("-p") or "", rule.endpoint)


def _number(rule: Rule, option: str) -> int:
    text = rule.option(option) or ""
    return int(text) if text.isdecimal() else 0


def _with_packet(rule: Rule, packet: int) -> Rule:
    place = rule.tokens.index("--packet") + 1
    return replace(rule, tokens=(*rule.tokens[:place], str(packet), *rule.tokens[place + 1 :]))
