"""The hooks of the kernel as data, and what connections pass at one: base chains by priority."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from lbctl.model import Step
from lbctl.values import dataclass
from lbctl_netfilter.budget import Budget
from lbctl_netfilter.conditions import (
    ALL,
    EVERY_BIT,
    LOCAL_SOURCE,
    NONE,
    REMOTE_SOURCE,
    covers,
    mark_of,
    single,
    without,
)
from lbctl_netfilter.follow import Visit, Walk
from lbctl_netfilter.index import ChainIndex, index, matters
from lbctl_netfilter.ir import INGRESS, JUMPS, Act
from lbctl_netfilter.population import EMPTY, START, WHOLE, ConnectionState, End, Out, Population, ratio

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from lbctl_netfilter.conditions import Condition, Selector
    from lbctl_netfilter.ir import Base, Chain, FamilyProgram, Rule

#: All hooks, in the order in which a document names them.
HOOKS = (INGRESS, "prerouting", "input", "forward", "output", "postrouting")
#: Where connections arrive, and the hooks that they may pass before each other one.
ENTRIES = (INGRESS, "prerouting", "output")
BEFORE: Mapping[str, tuple[str, ...]] = {
    "prerouting": (INGRESS,),
    "input": (INGRESS, "prerouting"),
    "forward": (INGRESS, "prerouting"),
    "postrouting": (INGRESS, "prerouting", "output", "forward"),
}
#: Connections that are followed one by one.
MOST_TURNS = 1024


class Dispatch(NamedTuple):
    """The rules of a hook's base chains for some connections, where they do no more than to lead on."""

    #: What they have in common with those of another hook that lead to the same.
    alike: Sequence[object]
    rules: Sequence[Rule]


@dataclass(frozen=True, slots=True)
class Hook:
    """The base chains that are passed, and all chains as they are here."""

    #: "" where it is not known what leads into the chain that is passed.
    name: str
    passed: Sequence[Base]
    chains: Mapping[str, ChainIndex]
    bits: int
    #: How many rules the text has.
    rules: int

    @property
    def names(self) -> tuple[str, ...]:
        """As a service has them."""
        return (self.name,) if self.name else ()

    def followed(self, given: Selector, budget: Budget) -> tuple[Walk, Population]:
        """Return the path of new connections, and what becomes of them. Raise `BudgetExceeded`."""
        walk = Walk(self.chains, given, self.bits, budget)
        population = self._through(walk, start_of(given))
        counters = [counter for counter, _ in walk.counters]
        if len(set(counters)) < len(counters):
            population = self._one_by_one(walk) or population
        return walk, population

    def later(self, given: Selector, budget: Budget, connmark: int | None) -> Walk:
        """Return the path of packets behind the first one, of connections with a mark.

        Raise `BudgetExceeded`.
        """
        walk = Walk(self.chains, given, self.bits, budget, later=True)
        self._through(walk, start_of(given)._replace(connmark=connmark))
        return walk

    def path(self, given: Selector) -> tuple[Step, ...]:
        """The rules that connections meet: which part of them arrives at each, and which it matches."""
        walk, _ = self.followed(given, Budget.of(self.rules))
        steps: list[Step] = []
        entered = dict(walk.entered if not walk.averaged else [(0, self.name)])
        at = self.name
        for number, visit in enumerate(walk.averaged or walk.visits):
            rule = visit.rule
            at = entered.get(number, at) if self.name else ""
            if visit.arriving and (rule.act is not Act.GO_ON or rule.marks or rule.opaque):
                # The parts of a counter that is asked twice are known where its connections were followed.
                arriving, matched = (None, None) if walk.twice else (visit.arriving, visit.matched)
                steps.append(
                    Step(
                        _stands(at, rule.place),
                        rule.line,
                        rule.text,
                        arriving,
                        matched,
                        self.name,
                        rule.element,
                    )
                )
        return tuple(steps)

    def leads(self, given: Selector) -> Dispatch | None:
        """How its base chains lead these connections on; None where they do anything else with them."""
        alike: list[object] = []
        rules: list[Rule] = []
        for base in self.passed:
            here = self.chains[base.chain]
            if here.chain.policy is Act.DROP:
                alike.append((base.kind, here.chain.policy_text))
            for rule in here.candidates(given):
                if rule.refused or not rule.first:
                    continue
                covered = covers(rule.where, given)
                if covered is not ALL:
                    if covered is not NONE and matters(rule, self.chains):
                        return None
                    continue
                if rule.steps or rule.opaque or rule.act not in JUMPS:
                    return None
                alike.append((base.kind, rule.where, rule.act, rule.target, rule.remarks, rule.settled))
                rules.append(rule)
        return Dispatch(alike, rules)

    def is_like(self, other: Hook) -> bool:
        """Return True if all that its base chains do is to lead on, as those of the other hook do."""
        bases = {base.chain for base in (*self.passed, *other.passed)}
        mine, theirs = (
            [(base.kind, _ways(hook.chains[base.chain].rules)) for base in hook.passed]
            for hook in (self, other)
        )
        return mine == theirs and all(
            chain is other.chains[name] for name, chain in self.chains.items() if name not in bases
        )

    def leads_as(self, other: Hook, walk: Walk) -> bool:
        """Return True if the chains that connections were led to at the other hook are the same here."""
        return all(
            self.chains.get(target) is other.chains.get(target)
            for visit in walk.visits
            for target in visit.rule.targets
        )

    def _through(self, walk: Walk, start: ConnectionState) -> Population:
        on = WHOLE if start is START else Population(1, {start: {1: 1}})
        for number, base in enumerate(self.passed):
            walk.entered.append((len(walk.visits), base.hook))
            walk.enter(base)
            on = walk.chain(base.chain, on)
            chain = self.chains[base.chain].chain
            if chain.policy is Act.DROP:
                walk.parts.dropped()
                walk.end(on, Out(End.LOST, chain.policy_text, None))
                on = EMPTY
            if not walk.nat or number + 1 < len(self.passed):
                # Accepted in one chain, they go on to the next.
                on = on.joined(walk.accepted())
        return walk.result(on)

    def _one_by_one(self, walk: Walk) -> Population | None:
        """Return a period in which connections ask a counter more than once.

        None where it is not to be followed.
        """
        single = Walk(walk.chains, walk.given, walk.bits, walk.budget)
        single.turns = {}
        states: list[ConnectionState] = []
        ends = [0]
        seen: dict[frozenset[object], int] = {}
        while walk.modes == {"nth"} and len(states) < MOST_TURNS:
            turns = frozenset((key, turn) for key, turn in single.turns.items() if turn)
            first = seen.setdefault(turns, len(states))
            if first < len(states):
                # What comes once, before the period, is in no share.
                walk.starts = states[:first]
                walk.averaged = _averaged([single.visits[a:b] for a, b in pairwise(ends[first:])])
                return Population.of(states[first:])
            states += self._through(single, start_of(walk.given)).states
            ends.append(len(single.visits))
        walk.twice = True
        return None


def start_of(given: Selector) -> ConnectionState:
    """How connections arrive: without marks, but for those that they are selected by."""
    marks: dict[bool, int | None] = {False: 0, True: 0}
    for field, values in given.extra:
        if (asked := mark_of(field)) is not None:
            connection, mask = asked
            value = single(values)
            marks[connection] = value if isinstance(value, int) and mask == EVERY_BIT else None
    return START if marks == {False: 0, True: 0} else START._replace(mark=marks[False], connmark=marks[True])


def _averaged(turns: Sequence[Sequence[Visit]]) -> list[Visit]:
    """Return what connections met that were followed one by one, as what one of them meets on average."""
    first: dict[Rule, Visit] = {}
    arriving: Counter[Rule] = Counter()
    matched: Counter[Rule] = Counter()
    for visits in turns:
        first |= {visit.rule: visit for visit in visits if visit.arriving and visit.rule not in first}
        # A rule that one connection meets twice is met by one connection.
        arriving.update({visit.rule for visit in visits if visit.arriving})
        matched.update({visit.rule for visit in visits if visit.matched})
    count = len(turns)
    return [
        visit._replace(arriving=ratio(arriving[rule], count), matched=ratio(matched[rule], count))
        for rule, visit in first.items()
    ]


def _ways(rules: Sequence[Rule]) -> object:
    """Return how rules lead on; something that nothing else is like for rules that do more."""
    if any(rule.steps or rule.opaque or rule.act not in JUMPS for rule in rules):
        return object()
    return [
        (rule.where, rule.act, rule.target, rule.first, rule.refused, rule.serves_none, rule.origin.comment)
        for rule in rules
    ]


@lru_cache(maxsize=1 << 14)
def _stands(hook: str, place: str) -> str:
    return f"{hook}: {place}" if hook else place


def hooks(program: FamilyProgram, bits: int, leading: Collection[str]) -> list[Hook]:
    """Return all hooks with chains that lead to an endpoint or a mark, each as far as these."""
    plain = index({name: chain.rules for name, chain in program.chains.items()}, program.chains)
    found = []
    for name in HOOKS:
        passed = bases(program, name)
        while passed and passed[-1].chain not in leading:
            passed.pop()
        if passed:
            found.append(Hook(name, passed, settled(plain, program.chains, name), bits, program.rules))
    return found


def bases(program: FamilyProgram, *names: str) -> list[Base]:
    """Return the base chains of some hooks, one hook after another."""
    found = [base for base in program.bases if base.hook in names]
    return sorted(found, key=lambda base: (names.index(base.hook), base.priority))


def settled(plain: Mapping[str, ChainIndex], chains: Mapping[str, Chain], hook: str) -> dict[str, ChainIndex]:
    """Return the chains as a hook has them.

    What this host sends has an address of its own, and what arrives from elsewhere has not.
    """
    if hook not in ENTRIES:
        return dict(plain)
    here, there = (LOCAL_SOURCE, REMOTE_SOURCE) if hook == "output" else (REMOTE_SOURCE, LOCAL_SOURCE)
    changed = {
        name: [_without(rule, here) for rule in known.rules if there not in rule.where.extra]
        for name, known in plain.items()
        if known.asks_source
    }
    if not changed:
        return dict(plain)
    made = index(changed, chains)
    for name, each in made.items():
        known = plain[name]
        each.idle, each.maps_only, each.written = known.idle, known.maps_only, known.written
    return {**plain, **made}


def _without(rule: Rule, condition: Condition) -> Rule:
    """Return the same rule where a condition always holds."""
    if condition not in rule.where.extra:
        return rule
    return replace(rule, where=without(rule.where, condition[0]), settled=True)
