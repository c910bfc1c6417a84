"""The parts of a selector's connections for which a rule does something else than for the others.

A rule for some of the connections that a walk follows is not on the path of all. Those that it matches are a
*part*, which the selector's service is not about. Where the rule alone decides what becomes of them, that is
all; any other part is followed as a selector of its own. A mark that only a part gets matters when a rule
asks for its bits, and not before: until then the part is *pending*.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from lbctl.values import dataclass
from lbctl_netfilter.conditions import ALL, NONE, SOME, Coverage, covers, meet, size, unmet
from lbctl_netfilter.index import CONNECTION, written_by
from lbctl_netfilter.ir import Act, Draw, MarkIs, Match, Memory

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lbctl_netfilter.budget import Budget
    from lbctl_netfilter.conditions import Condition, Selector
    from lbctl_netfilter.index import ChainIndex
    from lbctl_netfilter.ir import Rule
    from lbctl_netfilter.marks import Marking
    from lbctl_netfilter.population import Population

#: The fields of a listener: of two selectors that differ by these only, the narrower one stands for itself.
LISTENER = frozenset({"proto", "dst", "dport", "dst-type"})
#: Chains that lead from one to the next, up to which they are searched for parts.
_DEEPEST = 64
#: Acts behind which a connection does not come back to the rules that follow.
_LEAVING = frozenset({Act.ACCEPT, Act.RETURN, Act.GOTO})
_CERTAIN = frozenset({Act.TO, Act.ACCEPT, Act.DROP})


class Part(NamedTuple):
    """Why a selector is not about some of its connections."""

    rule: Rule
    #: True where the rule alone decides what becomes of them.
    certain: bool


class At(NamedTuple):
    """Where a walk meets a rule: with which connections, and where these would go on."""

    population: Population
    #: True where all connections of the selector come here, in the state in which the population is.
    whole: bool
    #: True in a base chain, in which a return is an end.
    base: bool


@dataclass(slots=True)
class _Pending:
    """A part with marks of its own."""

    rule: Rule
    #: The bits that differ: of the packet's mark, and above them of the connection's.
    bits: int
    #: True for those that left the base chain, whose other rules they do not meet.
    absent: bool


class Parts:
    """Collects the parts of one selector's connections while these are followed."""

    def __init__(self, chains: Mapping[str, ChainIndex], given: Selector, bits: int, budget: Budget) -> None:
        self._chains = chains
        self._given = given
        self._bits = bits
        self._budget = budget
        self._pending: dict[Selector, _Pending] = {}
        #: Those of them for whose marks no rule has asked that matters.
        self._unasked: dict[Selector, _Pending] = {}
        self._marked: dict[Selector, Part] = {}
        #: True in a chain of kind `nat`.
        self.nat = False
        #: Parts with another endpoint.
        self.mapped: dict[Selector, Part] = {}
        #: Rules that give a part an endpoint, and by which conditions.
        self.mapping: dict[Rule, tuple[Condition, ...]] = {}

    @property
    def marked(self) -> dict[Selector, Part]:
        """Parts with another mark."""
        pending = {
            where: Part(each.rule, certain=False) for where, each in self._pending.items() if each.bits
        }
        return self._marked | pending

    @property
    def any(self) -> bool:
        """True where there are parts."""
        return bool(self.mapped or self._marked or self._pending)

    @property
    def unknown_bits(self) -> int:
        """The bits of the packet's mark that parts may have set."""
        bits = 0
        for each in self._pending.values():
            bits |= each.bits
        return bits & CONNECTION - 1

    # -- rules

    def meet(self, rule: Rule, path: Selector, at: At) -> None:
        """Note what a rule for some of the connections does; `path` is all that led to it."""
        if rule.maps and (conditions := unmet(rule.where, self._given)):
            self.mapping[rule] = tuple(conditions)
        self._rule(rule, self._given, path, at, 0)

    def _rule(self, rule: Rule, within: Selector, path: Selector, at: At, depth: int) -> None:
        if rule.act is Act.GO_ON and not rule.marks:
            return
        whole = rule.whole(self._bits) if rule.steps else rule.where
        where = None if whole is None else meet(within, whole, self._bits)
        if where is None:
            return
        matching = self._matching(rule, at.population)
        if matching is NONE:
            return
        sure = at.whole and matching is ALL and rule.opaque is None
        if rule.act is Act.GO_ON:
            self._wait(where, rule, written_by(rule))
            return
        if rule.act is Act.JUMP and rule.opaque is None and rule.target in self._chains and depth < _DEEPEST:
            self._jump(rule, where, path, at._replace(whole=sure, base=False), depth)
            return
        if self.nat or rule.act not in _LEAVING:
            certain = rule.act in _CERTAIN or (rule.act is Act.RETURN and at.base)
            self._split(where, rule, certain=sure and certain)
        if rule.act in _LEAVING:
            self._wait(where, rule, 0, absent=True)
            if rule.act is Act.GOTO and rule.target in self._chains and not self.nat:
                self._jump(rule, where, path, at._replace(whole=sure, base=False), depth)

    def _jump(self, rule: Rule, where: Selector, path: Selector, at: At, depth: int) -> None:
        """Search a chain that a part is led to."""
        chain = self._chains[rule.target]
        if chain.idle:
            return
        there = meet(path, rule.where, self._bits)
        listeners = all(field in LISTENER for field, _ in unmet(rule.where, self._given))
        if chain.maps_only and listeners and there is not None and covers(self._given, there) is ALL:
            # Whatever has an endpoint there is a narrower selector.
            return
        rules = chain.candidates(where)
        self._budget.spend(1 + len(rules))
        for inner in rules:
            if inner.refused or not inner.first:
                continue
            coverage = covers(inner.where, where)
            if coverage is NONE:
                continue
            if inner.act is not Act.RETURN:
                self._rule(inner, where, there or path, at, depth + 1)
            if inner.act is Act.GO_ON:
                continue
            alone = coverage is ALL and not inner.steps and inner.opaque is None
            if alone and inner.act not in {Act.JUMP, Act.SWITCH}:
                break
            if inner.act in {Act.JUMP, Act.SWITCH, Act.RETURN, Act.GOTO} or inner.steps:
                # Some may not come to the rules behind it.
                at = at._replace(whole=False)

    def _matching(self, rule: Rule, population: Population) -> Coverage:
        """Return how many of a population the steps of a rule match, as far as its conditions do."""
        found = ALL
        for step in rule.steps:
            each = SOME
            match step:
                case MarkIs():
                    self.asked(rule, step)
                    each = _with_mark(step, population)
                case Draw() if size(step.hits) in {0, step.pick.modulus}:
                    each = ALL if step.hits else NONE
                case Memory():
                    # A client that is new is in no list.
                    each = ALL if step.asks == step.inverted else NONE
                case Match():
                    each = ALL
                case _:
                    pass
            if each is NONE:
                return NONE
            found = found if each is ALL else SOME
        return found

    # -- marks

    def asked(self, rule: Rule, step: MarkIs) -> None:
        """A rule asks for bits of a mark."""
        mask = step.mask * CONNECTION if step.connection else step.mask
        for where, each in list(self._unasked.items()):
            if not each.bits & mask:
                continue
            if rule.act is Act.GO_ON:
                each.bits |= written_by(rule)
                continue
            self._split(where, each.rule)
            if self.nat:
                del self._unasked[where]

    def set(self, marking: Marking) -> None:
        """A rule sets a mark of all connections that are still here."""
        source = marking.packet | marking.kept * CONNECTION if marking.copies else 0
        written = marking.written * (CONNECTION if marking.connection else 1)
        for each in self._pending.values():
            if each.absent or each.bits & source:
                each.bits |= written

    def dropped(self) -> None:
        """Some connections that are still here are dropped."""
        for where, each in self._pending.items():
            if each.absent:
                self._split(where, each.rule)

    def next_base(self, *, nat: bool) -> None:
        """All connections come to another base chain."""
        self.nat = nat
        for each in self._pending.values():
            each.absent = False

    def _wait(self, where: Selector, rule: Rule, bits: int, *, absent: bool = False) -> None:
        known = self._pending.get(where)
        if known is None:
            self._pending[where] = self._unasked[where] = _Pending(rule, bits, absent)
        else:
            known.bits |= bits
            known.absent |= absent

    def _split(self, where: Selector, rule: Rule, *, certain: bool = False) -> None:
        self.mapped.setdefault(where, Part(rule, certain))
        if not self.nat:
            self._marked.setdefault(where, Part(rule, certain))


def _with_mark(step: MarkIs, population: Population) -> Coverage:
    met = missed = False
    for state in population.states:
        mark = state.connmark if step.connection else state.mark
        if mark is None:
            return SOME
        if any(low <= mark & step.mask <= high for low, high in step.values):
            met = True
        else:
            missed = True
    return NONE if not met else SOME if missed else ALL
