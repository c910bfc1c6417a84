"""Turns and counters of ladders: a machine that counts as the kernel does must not notice a rewrite."""

from collections import Counter
from collections.abc import Sequence
from itertools import cycle, islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbctl.model import schedule
from lbctl_iptables.carry import at_start, carry
from lbctl_iptables.rules import Rule, rules_of

CHAIN = "LBCTL-web"
WEIGHTS = st.lists(st.integers(1, 5), min_size=1, max_size=5).map(tuple)
COUNTS = st.integers(0, 200)


def ladder(slots: Sequence[int], *, protocols: Sequence[str] = ("tcp",), guard: bool = False) -> list[Rule]:
    """The rules of a service as they are compiled, endpoint n on port 8000 + n."""
    lines = ["-m addrtype --src-type LOCAL -m comment --comment web -j RETURN"] if guard else []
    for protocol in protocols:
        for left, slot in zip(range(len(slots), 0, -1), slots, strict=True):
            nth = f"-m statistic --mode nth --every {left} --packet 0 " if left > 1 else ""
            to = f"-j REDIRECT --to-ports {8000 + slot}"
            lines.append(f"-p {protocol} {nth}-m comment --comment web/{8000 + slot} {to}")
    return rules_of(CHAIN, "\n".join(lines))


def texts(rules: Sequence[Rule]) -> list[str]:
    return [rule.text for rule in rules]


def sums(rules: Sequence[Rule]) -> Counter[tuple[str | None, str | None]]:
    counts: Counter[tuple[str | None, str | None]] = Counter()
    for rule in rules:
        counts[rule.option("-p"), rule.endpoint or "no endpoint"] += rule.packets
    return +counts


class Machine:
    """A ladder as the kernel runs it.

    A rule sees the connections that the earlier ones left. Of those it lets `--packet` pass, takes one, and
    from then on one of each `--every` (net/netfilter/xt_statistic.c).
    """

    def __init__(self, rules: Sequence[Rule]) -> None:
        self.rules = list(rules)
        self.packets = [rule.packets for rule in rules]
        self._left = [int(rule.option("--packet") or 0) for rule in rules]

    def connect(self, protocol: str = "tcp") -> str | None:
        for i, rule in enumerate(self.rules):
            if rule.option("-p") != protocol:
                continue
            every = int(rule.option("--every") or 1)
            hit = self._left[i] == 0
            self._left[i] = every - 1 if hit else self._left[i] - 1
            if hit:
                self.packets[i] += 1
                return rule.endpoint
        return None

    def dump(self) -> list[Rule]:
        """What iptables-save --counters prints: the counters, and `--packet` as it was written."""
        return [
            Rule(chain=r.chain, tokens=r.tokens, packets=p, bytes=60 * p)
            for r, p in zip(self.rules, self.packets, strict=True)
        ]


def sequence(slots: Sequence[int], start: int, count: int) -> list[str]:
    return [str(8000 + slot) for slot in islice(cycle(slots), start % len(slots), start % len(slots) + count)]


@given(WEIGHTS, st.lists(st.integers(0, 40), min_size=1, max_size=5))
def test_a_rewritten_ladder_goes_on_where_it_was(weights: tuple[int, ...], pauses: list[int]) -> None:
    slots = schedule(weights)
    machine = Machine(ladder(slots))
    done = 0
    for count in pauses:
        assert [machine.connect() for _ in range(count)] == sequence(slots, done, count)
        done += count
        old = machine.dump()
        rewritten = carry(ladder(slots), at_start(old))
        assert sums(rewritten) == sums(old)
        assert texts(at_start(rewritten)) == texts(ladder(slots))
        machine = Machine(rewritten)
    assert [machine.connect() for _ in range(2 * len(slots))] == sequence(slots, done, 2 * len(slots))


@given(WEIGHTS, COUNTS, COUNTS)
def test_protocols_have_their_own_turns(weights: tuple[int, ...], tcp: int, udp: int) -> None:
    slots = schedule(weights)
    rules = ladder(slots, protocols=("tcp", "udp"), guard=True)
    machine = Machine(rules)
    for protocol, count in (("tcp", tcp), ("udp", udp)):
        assert [machine.connect(protocol) for _ in range(count)] == sequence(slots, 0, count)
    again = Machine(carry(rules, machine.dump()))
    for protocol, count in (("udp", udp), ("tcp", tcp)):
        assert [again.connect(protocol) for _ in range(9)] == sequence(slots, count, 9)


@given(WEIGHTS, WEIGHTS, st.lists(COUNTS, min_size=30, max_size=30))
def test_no_connection_is_forgotten_but_those_of_endpoints_that_go(
    before: tuple[int, ...], after: tuple[int, ...], counts: list[int]
) -> None:
    old = [
        Rule(chain=r.chain, tokens=r.tokens, packets=n, bytes=60 * n)
        for r, n in zip(ladder(schedule(before), guard=True), cycle(counts), strict=False)
    ]
    new = ladder(schedule(after), guard=True)
    carried = carry(new, old)
    kept = {rule.endpoint or "no endpoint" for rule in new}
    assert sums(carried) == {key: n for key, n in sums(old).items() if key[1] in kept}
    assert all(rule.bytes == 60 * rule.packets for rule in carried)
    assert texts(at_start(carried)) == texts(new)
    # Whatever the turn, a period gives everybody the exact share.
    machine = Machine(carried)
    slots = schedule(after)
    period = Counter(machine.connect() for _ in range(len(slots)))
    assert period == Counter(str(8000 + slot) for slot in slots)


@given(WEIGHTS, COUNTS)
def test_carrying_twice_is_carrying_once(weights: tuple[int, ...], count: int) -> None:
    rules = ladder(schedule(weights))
    machine = Machine(rules)
    for _ in range(count):
        machine.connect()
    once = carry(rules, machine.dump())
    assert carry(rules, once) == once
    assert at_start(at_start(once)) == at_start(once)


def test_the_turn_is_written_as_the_packet_that_each_rule_waits_for() -> None:
    rules = ladder((0, 1, 2))
    machine = Machine(rules)
    assert [machine.connect() for _ in range(4)] == ["8000", "8001", "8002", "8000"]
    assert [rule.option("--packet") for rule in carry(rules, machine.dump())] == ["2", "0", None]
    assert machine.connect() == "8001"
    assert [rule.option("--packet") for rule in carry(rules, machine.dump())] == ["1", "1", None]


@pytest.mark.parametrize(
    "edit",
    [
        # Not a turn: two rules ahead of one that is not, a number beyond the ladder, an --every of its own.
        ("--every 3 --packet 0", "--every 3 --packet 1"),
        ("--every 2 --packet 0", "--every 2 --packet 1"),
        ("--every 3 --packet 0", "--every 4 --packet 0"),
        ("--every 3 --packet 0", "--every 4 --packet 3"),
    ],
)
def test_what_somebody_changed_by_hand_is_no_turn(edit: tuple[str, str]) -> None:
    text = "\n".join(texts(ladder((0, 1, 2)))).replace(*edit)
    changed = rules_of(CHAIN, text)
    assert texts(at_start(changed)) == text.split("\n")


def test_rules_that_are_no_ladder_are_left_alone() -> None:
    for text in (
        "",
        "-j RETURN",
        "-p tcp -j ACCEPT\n-p tcp -m comment --comment web/1 -j REDIRECT --to-ports 1",
    ):
        rules = rules_of(CHAIN, text)
        assert carry(rules, rules) == rules
        assert at_start(rules) == rules
