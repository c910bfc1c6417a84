"""Programs → what their rules do: every selector that leads to an endpoint or a mark, followed to its end.

The rules are first searched for selectors: what all conditions on the way to an endpoint have in common. Then
the connections of each selector are sent through all chains of their hook, where they meet every rule that is
for all of them; a rule that is for some of them only is another selector's.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from lbctl_netfilter.budget import Budget
from lbctl_netfilter.family import FamilyAnalysis
from lbctl_netfilter.findings import CURED
from lbctl_netfilter.ir import JUMPS, Act
from lbctl_netfilter.ledger import Ledger
from lbctl_netfilter.log import shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lbctl.model import AnalysedService
    from lbctl_netfilter.corrections import Corrections, Lines
    from lbctl_netfilter.ir import FamilyProgram, Rule
    from lbctl_netfilter.log import Log


class Analyser:
    """What the rules of a text do. `rules` is how many it has; `work`, for how many it may take its time."""

    def __init__(self, log: Log, corrections: Corrections, rules: int, *, work: int | None = None) -> None:
        self._log = log
        self._corrections = corrections
        self._rules = rules
        self._budget = Budget.of(work or rules)
        self._families: list[FamilyAnalysis] = []
        self.ledger = Ledger(log)

    @property
    def untouched(self) -> int:
        """Rules that are understood and are no balancing."""
        return self._rules - self.ledger.known

    @property
    def services(self) -> tuple[AnalysedService, ...]:
        """All services."""
        return tuple(found.service for family in self._families for found in family.found)

    def add(self, program: FamilyProgram) -> None:
        """Analyse the rules of one family."""
        self._cut_loops(program)
        program.connect()
        family = FamilyAnalysis(program, self.ledger, self._log, self._corrections, self._budget)
        self._families.append(family)
        family.follow()

    def finish(self) -> None:
        """Complete the services when all families are known: rules of both may move one counter."""
        self.ledger.complete()
        for family in self._families:
            family.finish()

    def correct(self) -> None:
        """Give all findings of a ladder its one correction; the last thing to do."""
        findings = self._log.findings
        wanted = {found.line for found in findings if found.code in CURED and found.corrected}
        cures: dict[int, Lines] = {}
        for family in self._families if wanted else ():
            cures = family.cures(wanted) | cures
        for number, found in enumerate(findings):
            cure = cures.get(found.line)
            if cure and found.code in CURED and found.corrected:
                findings[number] = replace(found, corrected=cure)

    def _cut_loops(self, program: FamilyProgram) -> None:
        """Chains that lead back to themselves: the rule that closes the circle leads nowhere."""
        chains = program.chains
        done: dict[str, bool] = {}
        for start in chains:
            if start in done:
                continue
            stack: list[tuple[str, Iterator[tuple[Rule, str]]]] = [(start, _calls(chains[start].rules))]
            done[start] = False
            while stack:
                chain, calls = stack[-1]
                for rule, target in calls:
                    if target not in chains or rule.act is Act.GO_ON:
                        continue
                    if target not in done:
                        done[target] = False
                        stack.append((target, _calls(chains[target].rules)))
                        break
                    if not done[target]:
                        self._log.refuse(
                            "chain-loop",
                            rule,
                            f"chain {shown(target)} jumps back to itself here: the kernel "
                            "refuses the whole table, and loads 0 of its rules",
                        )
                        self.ledger.lose(rule, "chain-loop", "it closes a loop of chains")
                        rule.act, rule.switch = Act.GO_ON, None
                else:
                    done[chain] = True
                    stack.pop()


def _calls(rules: Sequence[Rule]) -> Iterator[tuple[Rule, str]]:
    for rule in rules:
        if rule.act in JUMPS or rule.act is Act.SWITCH:
            for target in rule.targets:
                yield rule, target
