"""Turns and counters of ladders: a machine that counts as the kernel does must not notice a rewrite."""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import cycle, islice
from math import gcd

import pytest
from hypothesis import given, settings, strategies as st

from lbctl.host.fake import FakeHost
from lbctl.model import DEFAULT_OWNER, Endpoint, Family, Intent, Listener, Protocol, Service
from lbctl_iptables import backend, layout
from lbctl_iptables.counters import at_start, restore_counters
from lbctl_iptables.rules import DumpedRule, rules_of

Chains = Mapping[str, Sequence[DumpedRule]]

ENTRY = "LBCTL-web"
WEIGHTS = st.lists(st.integers(1, 7), min_size=1, max_size=12).map(tuple)
COUNTS = st.integers(0, 200)


def web(weights: Sequence[int], *, protocols: Sequence[Protocol] = (Protocol.TCP,)) -> Service:
    """A service whose endpoint n is port 8000 + n."""
    return Service(
        name="web",
        listeners=tuple(Listener(protocol=protocol, port=80) for protocol in protocols),
        endpoints=tuple(Endpoint(port=8000 + i, weight=weight) for i, weight in enumerate(weights)),
        local_clients=False,
    )


def chains(service: Service) -> dict[str, list[DumpedRule]]:
    """The chains of a service, as they are compiled."""
    program = backend.compile(Intent(services=(service,)), backend.probe(FakeHost()).capabilities)
    return {
        item.key[3]: rules_of(item.text)
        for item in program.of_kind("chain")
        if item.key[0] == layout.WORD[Family.IPV4] and item.service == service.name
    }


def texts(found: Chains) -> dict[str, list[str]]:
    return {name: [rule.text for rule in rules] for name, rules in found.items()}


def started(found: Chains) -> dict[str, list[DumpedRule]]:
    return {name: at_start(rules) for name, rules in found.items()}


def sums(found: Chains) -> Counter[tuple[str | None, str]]:
    counts: Counter[tuple[str | None, str]] = Counter()
    for rule in (rule for rules in found.values() for rule in rules if rule.endpoint is not None):
        counts[rule.option("-p"), str(rule.endpoint)] += rule.packets
    return +counts


class Machine:
    """Chains as the kernel runs them.

    A rule sees the connections that the earlier ones left. Of those it lets `--packet` pass, takes one, and
    from then on one of each `--every` (net/netfilter/xt_statistic.c).
    """

    def __init__(self, found: Chains) -> None:
        self.chains = {name: list(rules) for name, rules in found.items()}
        self._left = {
            (name, i): int(rule.option("--packet") or 0)
            for name, rules in found.items()
            for i, rule in enumerate(rules)
        }
        #: Rules that the last connection met.
        self.met = 0

    def connect(self, protocol: str = "tcp") -> str | None:
        self.met = 0
        return self._enter(ENTRY, protocol)

    def _enter(self, name: str, protocol: str) -> str | None:
        for i, rule in enumerate(self.chains[name]):
            self.met += 1
            if rule.option("-p") not in {None, protocol} or "--src-type" in rule.text:
                continue
            every = int(rule.option("--every") or 1)
            hit = self._left[name, i] == 0
            self._left[name, i] = every - 1 if hit else self._left[name, i] - 1
            if hit:
                self.chains[name][i] = DumpedRule(
                    text=rule.text, packets=rule.packets + 1, bytes=rule.bytes + 60
                )
                return rule.endpoint or self._enter(str(rule.option("-g")), protocol)
        return None


def sequence(service: Service, start: int, count: int) -> list[str]:
    slots = [endpoint.to for endpoint in service.slots(Family.IPV4)]
    return list(islice(cycle(slots), start % len(slots), start % len(slots) + count))


@settings(deadline=None)
@given(WEIGHTS, st.lists(st.integers(0, 60), min_size=1, max_size=5))
def test_a_rewritten_ladder_goes_on_where_it_was(weights: tuple[int, ...], pauses: list[int]) -> None:
    service = web(weights)
    machine = Machine(chains(service))
    done = 0
    for count in pauses:
        assert [machine.connect() for _ in range(count)] == sequence(service, done, count)
        done += count
        rewritten = restore_counters(DEFAULT_OWNER, chains(service), started(machine.chains))
        assert sums(rewritten) == sums(machine.chains)
        assert texts(started(rewritten)) == texts(chains(service))
        machine = Machine(rewritten)
    period = 2 * len(service.slots(Family.IPV4))
    assert [machine.connect() for _ in range(period)] == sequence(service, done, period)


@settings(deadline=None)
@given(WEIGHTS, COUNTS, COUNTS)
def test_protocols_have_their_own_turns(weights: tuple[int, ...], tcp: int, udp: int) -> None:
    service = web(weights, protocols=(Protocol.TCP, Protocol.UDP))
    machine = Machine(chains(service))
    for protocol, count in (("tcp", tcp), ("udp", udp)):
        assert [machine.connect(protocol) for _ in range(count)] == sequence(service, 0, count)
    again = Machine(restore_counters(DEFAULT_OWNER, chains(service), machine.chains))
    for protocol, count in (("udp", udp), ("tcp", tcp)):
        assert [again.connect(protocol) for _ in range(9)] == sequence(service, count, 9)


@settings(deadline=None)
@given(WEIGHTS, WEIGHTS, st.lists(COUNTS, min_size=30, max_size=30))
def test_no_connection_is_forgotten_but_those_of_endpoints_that_go(
    before: tuple[int, ...], after: tuple[int, ...], counts: list[int]
) -> None:
    numbers = cycle(counts)
    old = {
        name: [
            DumpedRule(text=rule.text, packets=n, bytes=60 * n)
            for rule, n in zip(rules, numbers, strict=False)
        ]
        for name, rules in chains(web(before)).items()
    }
    new = chains(web(after))
    carried = restore_counters(DEFAULT_OWNER, new, old)
    kept = {str(rule.endpoint) for rules in new.values() for rule in rules}
    assert sums(carried) == {key: n for key, n in sums(old).items() if key[1] in kept}
    assert all(rule.bytes == 60 * rule.packets for rules in carried.values() for rule in rules)
    assert texts(started(carried)) == texts(new)
    # Whatever the turns, a period gives everybody the exact share.
    machine = Machine(carried)
    slots = sequence(web(after), 0, len(web(after).slots(Family.IPV4)))
    assert Counter(machine.connect() for _ in slots) == Counter(slots)


@settings(deadline=None)
@given(WEIGHTS, COUNTS)
def test_carrying_twice_is_carrying_once(weights: tuple[int, ...], count: int) -> None:
    machine = Machine(chains(web(weights)))
    for _ in range(count):
        machine.connect()
    once = restore_counters(DEFAULT_OWNER, chains(web(weights)), machine.chains)
    assert restore_counters(DEFAULT_OWNER, chains(web(weights)), once) == once
    assert started(started(once)) == started(once)


@pytest.mark.parametrize("slots", [1, 2, 5, 8, 9, 11, 16, 27, 31, 37, 64, 96, 127, 997, 1024, 4093, 4096])
def test_a_long_ladder_has_the_sequence_of_the_slots_and_few_rules_to_meet(slots: int) -> None:
    # Weights that share no divisor, so that each unit is a slot.
    parts = (slots,) if slots < 3 else (slots // 2 + 1 if gcd(slots // 2 + 1, slots) == 1 else 1,)
    weights = (1,) * slots if slots <= 64 else (*parts, slots - parts[0])
    service = web(weights)
    period = len(service.slots(Family.IPV4))
    assert period == slots
    machine = Machine(chains(service))
    most = 0
    found = []
    for _ in range(period + 3):
        found.append(machine.connect())
        most = max(most, machine.met)
    assert found == sequence(service, 0, period + 3)
    # Of a thousand slots, a list would have a connection meet a thousand rules.
    assert most <= 16 if slots <= 64 else most <= 40


def three() -> dict[str, list[DumpedRule]]:
    return chains(web((1, 1, 1)))


def test_rules_of_earlier_versions_hand_their_counters_on() -> None:
    """Each had a comment."""

    def commented(rule: DumpedRule, number: int) -> DumpedRule:
        condition, target, to = rule.text.rpartition("-j ")
        return DumpedRule(f"{condition}-m comment --comment web/{number} {target}{to}", number, 60 * number)

    old = {ENTRY: [commented(rule, number) for number, rule in enumerate(three()[ENTRY])]}
    carried = restore_counters(DEFAULT_OWNER, three(), old)[ENTRY]
    assert [(rule.packets, rule.bytes) for rule in carried[1:]] == [(1, 60), (2, 120), (3, 180)]
    # Six connections are two rounds of three.
    assert [rule.option("--packet") for rule in carried[1:]] == ["0", "0", None]


def test_the_turn_is_written_as_the_packet_that_each_rule_waits_for() -> None:
    machine = Machine(three())
    assert [machine.connect() for _ in range(4)] == ["8000", "8001", "8002", "8000"]
    _, *rungs = restore_counters(DEFAULT_OWNER, three(), machine.chains)[ENTRY]
    assert [rule.option("--packet") for rule in rungs] == ["2", "0", None]
    assert machine.connect() == "8001"
    _, *rungs = restore_counters(DEFAULT_OWNER, three(), machine.chains)[ENTRY]
    assert [rule.option("--packet") for rule in rungs] == ["1", "1", None]


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
    text = "\n".join(texts(three())[ENTRY]).replace(*edit)
    assert [rule.text for rule in at_start(rules_of(text))] == text.split("\n")


def test_rules_that_are_no_ladder_are_left_alone() -> None:
    for text in (
        "",
        "-j RETURN",
        "-p tcp -j ACCEPT\n-p tcp -m comment --comment web/1 -j REDIRECT --to-ports 1",
    ):
        rules = rules_of(text)
        assert restore_counters(DEFAULT_OWNER, {ENTRY: rules}, {ENTRY: rules}) == {ENTRY: rules}
        assert at_start(rules) == rules
