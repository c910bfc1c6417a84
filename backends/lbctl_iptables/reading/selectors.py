"""Chains → the selectors in them: what all conditions on the way to an endpoint or a mark have in common."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lbctl_iptables.reading import where as w
from lbctl_iptables.reading.meaning import LEADING, Act
from lbctl_iptables.reading.where import EVERYTHING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lbctl_iptables.reading.flow import Budget
    from lbctl_iptables.reading.meaning import Meaning
    from lbctl_iptables.reading.program import Program
    from lbctl_iptables.reading.where import Where


@dataclass(slots=True)
class Selector:
    """Connections that some rule leads somewhere, and what the rules on the way say of them."""

    where: Where
    name: str | None = None
    kinds: set[str] = field(default_factory=set)
    leaves: list[Meaning] = field(default_factory=list)


@dataclass(slots=True)
class _Way:
    """A chain on the way to endpoints, and what led there."""

    rules: Iterator[Meaning]
    path: Where
    name: str | None
    picked: bool
    #: True where an endpoint was picked in table nat.
    mapping: bool


class Seek:
    """Finds the selectors of a hook."""

    def __init__(
        self,
        budget: Budget,
        cannot: Callable[[Meaning], None],
        bits: int,
        selectors: dict[Where, Selector],
        reached: set[tuple[str, str]],
    ) -> None:
        self._budget = budget
        self._cannot = cannot
        self._bits = bits
        self._selectors = selectors
        self._reached = reached

    def chain(self, programs: dict[str, Program], table: str, chain: str, leading: set[str]) -> None:
        """Everything that a chain leads to."""
        way = [self._enter(programs[chain], table, EVERYTHING)]
        while way:
            step = way[-1]
            for meaning in step.rules:
                inner = self._rule(meaning, step, programs, table, leading)
                if inner is not None:
                    way.append(inner)
                    break
            else:
                way.pop()

    def _enter(
        self,
        program: Program,
        table: str,
        path: Where,
        name: str | None = None,
        *,
        picked: bool = False,
        mapping: bool = False,
    ) -> _Way:
        self._budget.spend(1 + len(program.meanings))
        self._reached.add((table, program.name))
        return _Way(iter(program.meanings), path, name, picked, mapping)

    def _rule(
        self, meaning: Meaning, way: _Way, programs: dict[str, Program], table: str, leading: set[str]
    ) -> _Way | None:
        """One rule, and the chain that it leads to."""
        act = meaning.act
        follows = (act is Act.JUMP or act is Act.GOTO) and meaning.target in leading
        if not follows and act is not Act.TO and act is not Act.MARK:
            return None
        if meaning.unclear is not None:
            if act is not Act.MARK or meaning.picks:
                self._cannot(meaning)
            return None
        whole = meaning.whole(self._bits) if meaning.steps else meaning.where
        here = None if whole is None else w.meet(way.path, whole, self._bits)
        if here is None:
            return None
        comment = meaning.rule.spec.comment
        chosen = way.picked or meaning.picks
        if follows:
            # What leads to a service names it; what leads to an endpoint names that.
            name = way.name if chosen or comment is None else comment
            mapping = way.mapping or (chosen and table == "nat")
            return self._enter(programs[meaning.target], table, here, name, picked=chosen, mapping=mapping)
        if act is Act.MARK and (not chosen or (way.mapping and not meaning.picks)):
            # Where an endpoint was picked, a mark is a note about it.
            return None
        if act is Act.TO and meaning.action == "snat" and not chosen and len(meaning.to) < 2:
            return None
        if act is Act.MARK and meaning.marking is not None and meaning.marking[1] in {"save", "restore"}:
            return None
        selector = self._selectors.get(here)
        if selector is None:
            selector = self._selectors[here] = Selector(here, way.name)
        if selector.name is None:
            selector.name = way.name or (comment if not chosen else None)
        selector.kinds.add("nat" if act is Act.TO else "mark")
        selector.leaves.append(meaning)
        return None


def leading_chains(meanings: dict[str, list[Meaning]]) -> set[str]:
    """The chains that lead to an endpoint or a mark."""
    back: dict[str, set[str]] = {}
    waiting: list[str] = []
    for chain, rules in meanings.items():
        if any(m.act is Act.TO or m.act is Act.MARK for m in rules):
            waiting.append(chain)
        for meaning in rules:
            if meaning.act in LEADING:
                back.setdefault(meaning.target, set()).add(chain)
    found = set(waiting)
    while waiting:
        for chain in back.get(waiting.pop(), ()):
            if chain not in found:
                found.add(chain)
                waiting.append(chain)
    return found
