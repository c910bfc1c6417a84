"""Chains → the selectors in them: what all conditions on the way to an endpoint or a mark have in common."""

from __future__ import annotations

from dataclasses import field
from enum import Enum
from typing import TYPE_CHECKING

from lbctl.values import dataclass
from lbctl_netfilter.conditions import EVERYTHING, meet
from lbctl_netfilter.index import reach
from lbctl_netfilter.ir import Act, Draw, DrawMark, SetMark

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterator, Mapping, Sequence

    from lbctl_netfilter.budget import Budget
    from lbctl_netfilter.conditions import Selector
    from lbctl_netfilter.index import ChainIndex
    from lbctl_netfilter.ir import Base, FamilyProgram, Rule


class SelectorKind(Enum):
    """What rules give the connections of a selector."""

    NAT = "nat"
    MARK = "mark"
    #: They lead to an endpoint that no connection gets.
    NOTHING = "nothing"

    __hash__ = object.__hash__


@dataclass(slots=True)
class FoundSelector:
    """Connections that some rule leads somewhere, and what the rules on the way say of them."""

    where: Selector
    name: str | None = None
    kinds: set[SelectorKind] = field(default_factory=set)
    leaves: list[Rule] = field(default_factory=list)
    #: What the selectors lead to of which these connections are a part.
    part_of: set[SelectorKind] = field(default_factory=set)

    @property
    def led(self) -> set[SelectorKind]:
        """What they lead to, by themselves or as a part of others."""
        return self.kinds | self.part_of

    def copy(self) -> FoundSelector:
        """Return the same, as it was found."""
        return FoundSelector(self.where, self.name, set(self.kinds), list(self.leaves))

    @property
    def is_part(self) -> bool:
        """True where it is a part of another selector, and nothing else."""
        return bool(self.part_of) and not self.kinds


@dataclass(slots=True)
class _SearchFrame:
    """A chain on the way to endpoints, and what led there."""

    rules: Iterator[Rule]
    path: Selector
    name: str | None
    picked: bool
    #: True where an endpoint was picked in a chain of NAT.
    mapping: bool


class Search:
    """Finds the selectors of a hook."""

    def __init__(
        self,
        budget: Budget,
        cannot: Callable[[Rule], None],
        bits: int,
        found: dict[Selector, FoundSelector],
        reached: set[str],
        external: Mapping[Rule, Selector],
    ) -> None:
        self._budget = budget
        #: What rules ask of marks that no rule before them sets: a condition on arriving packets.
        self._external = external
        self._cannot = cannot
        self._bits = bits
        self._found = found
        self._reached = reached

    def base(self, chains: Mapping[str, ChainIndex], base: Base, leading: set[str]) -> None:
        """Everything that a base chain leads to. Raise `BudgetExceeded`."""
        nat = base.serves
        frames = [self._enter(chains[base.chain], EVERYTHING)]
        while frames:
            frame = frames[-1]
            for rule in frame.rules:
                inner = self._rule(rule, frame, chains, leading, nat=nat)
                if inner:
                    frames += reversed(inner)
                    break
            else:
                frames.pop()

    def _enter(
        self,
        chain: ChainIndex,
        path: Selector,
        name: str | None = None,
        *,
        picked: bool = False,
        mapping: bool = False,
    ) -> _SearchFrame:
        self._budget.spend(1 + len(chain.rules))
        self._reached.add(chain.chain.name)
        return _SearchFrame(iter(chain.rules), path, chain.chain.service or name, picked, mapping)

    def _rule(
        self,
        rule: Rule,
        frame: _SearchFrame,
        chains: Mapping[str, ChainIndex],
        leading: set[str],
        *,
        nat: bool,
    ) -> Sequence[_SearchFrame]:
        """One rule, and the chains that it leads to."""
        act = rule.act
        leads = act is Act.JUMP or act is Act.GOTO
        if leads and rule.target in leading:
            pass
        elif leads and rule.serves_none and nat and rule.first:
            self._serve_none(rule, frame, chains)
            return ()
        elif not (rule.picks or rule.marks or act is Act.TO or act is Act.UNKNOWN):
            return ()
        if rule.refused or not rule.first:
            return ()
        if rule.opaque is not None:
            self._opaque(rule, nat=nat)
            return ()
        here = self._here(rule, frame)
        if here is None:
            return ()
        chosen = frame.picked or rule.picks
        comment = rule.origin.comment
        name = frame.name or ((comment or None) if not chosen else None)
        if act is Act.GO_ON and rule.picks and not rule.marks:
            # Its counter may be that of other rules.
            self._found.setdefault(here, FoundSelector(here))
            return ()
        # Where an endpoint was picked, a mark is a note about it.
        if (
            rule.marks
            and ((frame.picked and not frame.mapping) or _marks_by_pick(rule))
            and not _copies(rule)
        ):
            self._note(rule, name, SelectorKind.MARK, here)
        if rule.maps and _gives_endpoint(rule):
            single = rule.action == "snat" and not chosen and len(rule.to) < 2
            if not single:
                self._note(rule, name, SelectorKind.NAT, here)
        if not leads and act is not Act.SWITCH:
            return ()
        # What leads to a service names it; what leads to an endpoint names that.
        name = frame.name if chosen or not comment else comment
        mapping = frame.mapping or (chosen and nat)
        return [
            self._enter(chains[target], here, name, picked=chosen, mapping=mapping)
            for target in rule.targets
            if target in leading
        ]

    def _opaque(self, rule: Rule, *, nat: bool) -> None:
        """Report a rule that may give an endpoint, as far as is known."""
        matters = not rule.marks or rule.picks or rule.act is Act.TO
        if matters and (rule.act is not Act.UNKNOWN or nat):
            self._cannot(rule)

    def _here(self, rule: Rule, frame: _SearchFrame) -> Selector | None:
        """Return the connections that may match a rule; None if there are none."""
        whole = rule.whole(self._bits) if rule.steps else rule.where
        here = None if whole is None else meet(frame.path, whole, self._bits)
        if here is not None and rule.asks_mark:
            here = meet(here, self._external.get(rule, EVERYTHING), self._bits)
        return here

    def _serve_none(self, rule: Rule, frame: _SearchFrame, chains: Mapping[str, ChainIndex]) -> None:
        """Note the connections of a service without any endpoint."""
        here = meet(frame.path, rule.where, self._bits)
        if here is not None:
            self._note(rule, frame.name or chains[rule.target].chain.service, SelectorKind.NAT, here)

    def _note(self, rule: Rule, name: str | None, kind: SelectorKind, here: Selector) -> None:
        found = self._found.get(here)
        if found is None:
            found = self._found[here] = FoundSelector(here)
        found.name = found.name or name
        found.kinds.add(kind)
        found.leaves.append(rule)


def _gives_endpoint(rule: Rule) -> bool:
    """Return True if a rule that maps connections has an endpoint for some."""
    cases = rule.switch.cases if rule.switch is not None else ()
    return rule.act is Act.TO or any(case.act is Act.TO for _, case in cases)


def _marks_by_pick(rule: Rule) -> bool:
    """Return True if a rule sets a mark by a number that it picks."""
    picked = False
    for step in rule.steps:
        if isinstance(step, DrawMark) or (picked and isinstance(step, SetMark)):
            return True
        picked |= isinstance(step, Draw)
    return False


def _copies(rule: Rule) -> bool:
    """Return True if all that a rule does to marks is to copy one to the other."""
    return not rule.picks and all(marking.copies for marking in rule.markings)


def leading_chains(program: FamilyProgram, serving: Container[str]) -> set[str]:
    """The chains that lead to an endpoint, a mark or a pick; of those `serving`, also to what may be one."""
    back: dict[str, list[str]] = {}
    waiting: list[str] = []
    for chain in program.chains.values():
        if any(
            rule.maps
            or rule.marks
            or rule.picks
            or (chain.name in serving and (rule.serves_none or (rule.opaque and rule.act is Act.UNKNOWN)))
            for rule in chain.rules
        ):
            waiting.append(chain.name)
        for target in program.calls[chain.name]:
            back.setdefault(target, []).append(chain.name)
    return reach(waiting, back)
