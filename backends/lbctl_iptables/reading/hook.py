"""What connections pass at a hook of the kernel: its own chains, table by table, and all they lead to."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from lbctl.model import Step
from lbctl_iptables.reading import where as w
from lbctl_iptables.reading.flow import MOST_TURNS, Budget, Visit, Walk
from lbctl_iptables.reading.meaning import LEADING, Act
from lbctl_iptables.reading.stream import START, Out, State, Stream, ratio
from lbctl_iptables.reading.words import shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lbctl_iptables.reading.meaning import Meaning
    from lbctl_iptables.reading.program import Program
    from lbctl_iptables.reading.where import Where


#: Policies of chains behind which connections are still on their way.
_GOES_ON = frozenset({"ACCEPT", "-"})


class Leads(NamedTuple):
    """The rules of a hook's own chains for some connections, where they do no more than to lead on."""

    #: What they have in common with those of another hook that lead to the same.
    alike: Sequence[object]
    meanings: Sequence[Meaning]


@dataclass(frozen=True, slots=True)
class Hook:
    """The chains that are passed, each with its table, and the chains of all tables as they are here."""

    #: "" where it is not known what leads into the chain that is passed.
    name: str
    passed: Sequence[tuple[str, str]]
    programs: dict[str, dict[str, Program]]
    bits: int
    #: How many rules the text has.
    rules: int

    @property
    def names(self) -> tuple[str, ...]:
        """As a service has them."""
        return (self.name,) if self.name else ()

    def walked(self, where: Where, budget: Budget) -> tuple[Walk, Stream]:
        """The way of new connections, and what becomes of them. Raises `TooMuch`."""
        walk = Walk(self.programs.get("nat", {}), where, self.bits, budget)
        stream = self._through(walk)
        if len(set(walk.counters)) < len(walk.counters):
            stream = self._one_by_one(walk) or stream
        return walk, stream

    def way(self, where: Where) -> tuple[Step, ...]:
        """The rules that connections meet: which part of them comes to each, and which it takes."""
        walk, _ = self.walked(where, Budget.of(self.rules))
        steps: list[Step] = []
        entered = dict(walk.entered if not walk.met else [(0, self.name)])
        at = self.name
        for number, visit in enumerate(walk.met or walk.visits):
            meaning = visit.meaning
            at = entered.get(number, at).lower() if self.name else ""
            if visit.came and meaning.act is not Act.GO_ON:
                rule = meaning.rule
                stands = _stands(at, rule.table, rule.chain)
                # The masses of a counter that is asked twice are known where its connections were followed.
                came, took = (None, None) if walk.twice else (visit.came, visit.took)
                steps.append(Step(stands, rule.line, rule.text, came, took, self.name))
        return tuple(steps)

    def leads(self, where: Where) -> Leads | None:
        """How its own chains lead these connections on; None where they do anything else with them."""
        alike: list[object] = []
        meanings: list[Meaning] = []
        for table, chain in self.passed:
            program = self.programs[table][chain]
            if program.policy is not None and program.policy not in _GOES_ON:
                alike.append((table, program.policy))
            for meaning in program.candidates(where):
                sees = w.covers(meaning.where, where, self.bits)
                if not sees:
                    if sees is None and meaning.excepts:
                        return None
                    continue
                if meaning.steps or meaning.unclear or meaning.act not in LEADING:
                    return None
                found = (meaning.where, meaning.act, meaning.target, meaning.remarks, meaning.settled)
                alike.append((table, *found))
                meanings.append(meaning)
        return Leads(alike, meanings)

    def leads_as(self, other: Hook, walk: Walk) -> bool:
        """True where the chains that connections were led to at the other hook are the same here."""
        return all(
            self.programs[visit.meaning.rule.table].get(visit.meaning.target)
            is other.programs[visit.meaning.rule.table].get(visit.meaning.target)
            for visit in walk.visits
            if visit.meaning.act is Act.JUMP or visit.meaning.act is Act.GOTO
        )

    def _through(self, walk: Walk) -> Stream:
        on = Stream(states={START: {1: 1}})
        for name, chain in self.passed:
            walk.programs = self.programs[name]
            walk.entered.append((len(walk.visits), chain))
            on = walk.chain(self.programs[name][chain], on)
            policy = self.programs[name][chain].policy
            if policy is not None and policy not in _GOES_ON:
                walk.end(on, Out("leak", f"policy {shown(policy)}", None))
                on = Stream()
            if name != "nat" or (name, chain) != self.passed[-1]:
                # Behind an ACCEPT, the next table is asked.
                on.add(walk.accepted())
        on.add(walk.ended)
        walk.ended = Stream()
        return on

    def _one_by_one(self, walk: Walk) -> Stream | None:
        """A period in which connections ask a counter more than once; None where it is not to be followed."""
        single = Walk(walk.programs, walk.given, walk.bits, walk.budget)
        single.turns = {}
        states: list[State] = []
        ends = [0]
        seen: dict[frozenset[object], int] = {}
        while walk.modes == {"nth"} and len(states) < MOST_TURNS:
            turns = frozenset((key, turn) for key, turn in single.turns.items() if turn)
            first = seen.setdefault(turns, len(states))
            if first < len(states):
                # What comes once, before the period, is in no share.
                walk.starts = states[:first]
                walk.met = _averaged([single.visits[a:b] for a, b in pairwise(ends[first:])])
                return Stream.of(states[first:])
            states += self._through(single).states
            ends.append(len(single.visits))
        walk.twice = True
        return None


def _averaged(turns: Sequence[Sequence[Visit]]) -> list[Visit]:
    """What connections met that were followed one by one, as what one of them meets on average."""
    first: dict[Meaning, Visit] = {}
    came: Counter[Meaning] = Counter()
    took: Counter[Meaning] = Counter()
    for visits in turns:
        first |= {visit.meaning: visit for visit in visits if visit.came and visit.meaning not in first}
        # A rule that one connection meets twice is met by one connection.
        came.update({visit.meaning for visit in visits if visit.came})
        took.update({visit.meaning for visit in visits if visit.took})
    count = len(turns)
    return [
        visit._replace(came=ratio(came[meaning], count), took=ratio(took[meaning], count))
        for meaning, visit in first.items()
    ]


@lru_cache(maxsize=1 << 14)
def _stands(hook: str, table: str, chain: str) -> str:
    return f"{hook}: {table} {chain}" if hook else f"{table} {chain}"
