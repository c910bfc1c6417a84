"""What connections meet behind the hook that gave them an endpoint: refusals by mark, and another source.

Their destination is the endpoint's now, and their marks are those that they got on the way; all else of them
is not known. So a rule is for all of them, for none, or for those that meet some condition more.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from lbctl.model import SourceNat
from lbctl.values import dataclass
from lbctl_netfilter.budget import Budget, BudgetExceeded
from lbctl_netfilter.conditions import (
    ALL,
    BITS,
    LOCAL_SOURCE,
    NONE,
    SOME,
    YES,
    Selector,
    Words,
    covers,
    exactly,
    place_of,
    unmet,
    words,
)
from lbctl_netfilter.hooks import bases
from lbctl_netfilter.index import reach
from lbctl_netfilter.ir import JUMPS, Act, DrawMark, MarkIs, Match, SetMark
from lbctl_netfilter.population import End, Out, Population

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from lbctl_netfilter.conditions import Condition, Values
    from lbctl_netfilter.follow import Walk
    from lbctl_netfilter.ir import Base, Chain, FamilyProgram, Rule
    from lbctl_netfilter.population import ConnectionState, Odds

#: Conditions under which a rule is for connections, beyond what is known of them.
Conditions: TypeAlias = "frozenset[Condition]"
#: The packet's mark and the connection's; None where some have another one.
_Marks: TypeAlias = tuple[int | None, int | None]
#: Not through the loopback interface, as a condition of connections that this host makes.
_OUTWARD: Condition = ("oif", Words(None, frozenset({"lo"})))
#: Back through the link on which they came in.
BACK: Condition = ("oif=iif", YES)
#: What connections have whose destination was replaced.
_REPLACED: Sequence[Condition] = (("ctdir", words("original")), ("ctstatus", words("dnat")))
#: What is no condition on a field: chance, a memory, or what other rules left.
_MORE: Condition = ("and", words("more"))
_NO_CONDITIONS: Conditions = frozenset()
_ENDING = frozenset({Act.ACCEPT, Act.DROP})
#: What stays as it is when connections get another destination.
_KEPT = frozenset({"src", "sport", "mac", "iif"})
#: Values that rules ask of one field, up to which endpoints are sorted by them.
_MANY = 64
#: Chains that lead from one to the next, up to which they are followed.
_DEEPEST = 100
_WORK, _LEAST_WORK = 20, 500_000
#: Action → the hook behind PREROUTING that connections with such an endpoint pass.
_NEXT = {"dnat": "forward", "redirect": "input"}


class Met(NamedTuple):
    """A rule that ends the path of connections or replaces their source, and for which ones it does."""

    rule: Rule
    conditions: Conditions


class Exit(Enum):
    """How connections leave a rule or a chain."""

    ON = "on"
    BACK = "back"
    ACCEPTED = "accepted"
    DROPPED = "dropped"
    REPLACED = "replaced"

    __hash__ = object.__hash__


class Behind:
    """The chains of one family behind the hooks that map connections."""

    def __init__(self, program: FamilyProgram) -> None:
        self._program = program
        self._bits = BITS[program.family]
        self._budget = Budget.of(program.rules, work=_WORK, least=_LEAST_WORK)
        self._known: dict[object, Sequence[Met]] = {}
        self._passing: dict[str, tuple[Base, ...]] = {}
        behind = [rule for base in bases(program, "postrouting") for rule in self._reach(base)]
        self._replaces = any(
            rule.action == "snat"
            or rule.act is Act.UNKNOWN
            or rule.opaque
            or any(target not in program.chains for target in rule.targets)
            for rule in behind
        )
        self._filters = {
            hook: [base for base in bases(program, hook) if base.kind == "filter"]
            for hook in ("input", "forward", "output")
        }
        asking = {
            hook: [rule for base in found for rule in self._reach(base)]
            for hook, found in self._filters.items()
        }
        self._refuses = {hook: any(rule.asks_mark for rule in rules) for hook, rules in asking.items()}
        #: True where what becomes of connections depends on the filter that they pass.
        self.refuses = any(self._refuses.values())
        for hook, refuses in self._refuses.items():
            behind += asking[hook] if refuses else ()
        for hook in ("forward", *(("prerouting", "output") if self._replaces else ())):
            behind += [
                rule for base in bases(program, hook) if self._marks(base) for rule in self._reach(base)
            ]
        self._asked: dict[str, dict[Values, None]] = {}
        for rule in behind:
            for where in _wheres(rule):
                for field, values in where.conditions:
                    self._asked.setdefault(field, {})[values] = None
        # Of clients in a network it matters whether the endpoint is in it too.
        for field, other in (("dst", "src"), ("ctorigdst", "dst")):
            if other in self._asked:
                self._asked.setdefault(field, {}).update(self._asked[other])

    def _reach(self, base: Base) -> Iterator[Rule]:
        """Yield the rules of a base chain and of those that it leads to."""
        chains = self._program.chains
        for name in reach([base.chain] if base.chain in chains else [], self._program.calls):
            yield from chains[name].rules

    def _marks(self, base: Base) -> bool:
        return any(rule.marks for rule in self._reach(base))

    # -- refusals

    def refused(self, population: Population, walk: Walk, hook: str) -> Population:
        """Return the population, in which those that a filter refuses for their mark have no endpoint.

        Raise `BudgetExceeded`.
        """
        if not self.refuses:
            return population
        made: list[tuple[ConnectionState, Odds, int]] = []
        for state, chance, places in population.parts():
            by = self._refusal(state, walk, hook)
            if by is not None:
                state = state._replace(out=Out(End.LOST, f"{by.target} in line {by.line}", by))
            made.append((state, chance, places))
        return Population.collect(population.length, made)

    def _refusal(self, state: ConnectionState, walk: Walk, hook: str) -> Rule | None:
        if state.out is None or state.out.end is not End.ENDPOINT or state.out.rule is None:
            return None
        at = "output" if hook == "output" else _NEXT.get(state.out.rule.action, "")
        if not self._refuses.get(at):
            return None
        for met in self._met(state, walk, tuple(self._filters[at])):
            if not met.conditions and not met.rule.maps:
                return met.rule if met.rule.act is Act.DROP and met.rule.asks_mark else None
        return None

    # -- another source

    def source_nat(
        self, population: Population, walk: Walk, hook: str, *, own: bool
    ) -> tuple[SourceNat | None, tuple[int, ...]]:
        """When the client's address is replaced; None where rules do not say, or there is no word for it.

        The lines are of the rules for which there is none. `own` are rules that lbctl manages.
        """
        answers: set[SourceNat | None] = set()
        if not self._replaces:
            mapped = any(
                state.out is not None
                and state.out.end is End.ENDPOINT
                and state.out.rule is not None
                and state.out.rule.action == "dnat"
                for state in population.states
            )
            return SourceNat.NEVER if mapped and (own or self._program.whole) else None, ()
        lines: set[int] = set()
        seen: set[object] = set()
        for state in population.states:
            out = state.out
            if out is None or out.rule is None or out.end is not End.ENDPOINT or out.rule.action != "dnat":
                continue
            known = self._endpoint(out.text, walk.given)
            key = state.mark, state.connmark, self._signature(known)
            if key in seen:
                continue
            seen.add(key)
            try:
                met = self._met(state, walk, self._passed(hook))
            except BudgetExceeded:
                return None, ()
            lines |= {each.rule.line for each in met if each.rule.act not in _ENDING}
            answers.add(self._answer(met, known))
        if answers == {SourceNat.NEVER}:
            return SourceNat.NEVER if own or self._program.whole else None, ()
        if SourceNat.HAIRPIN in answers:
            answers.discard(SourceNat.NEVER)
        answer = answers.pop() if len(answers) == 1 else None
        return answer, () if answer else tuple(sorted(lines))

    def _passed(self, hook: str) -> tuple[Base, ...]:
        """Return the base chains that connections pass behind the one that gave them an endpoint."""
        known = self._passing.get(hook)
        if known is None:
            here = bases(self._program, hook)
            nat = max((base.priority for base in here if base.kind == "nat"), default=0)
            found = [base for base in here if base.kind != "nat" and base.priority > nat]
            found += bases(self._program, *(["forward"] if hook == "prerouting" else []), "postrouting")
            known = self._passing[hook] = tuple(
                base
                for base in found
                if (base.kind == "nat" and base.hook == "postrouting") or self._marks(base)
            )
        return known

    def _answer(self, met: Sequence[Met], endpoint: Selector) -> SourceNat | None:
        kinds = {_kind(each.conditions, endpoint) for each in met if each.rule.act not in _ENDING}
        if SourceNat.ALWAYS in kinds or not kinds:
            return SourceNat.ALWAYS if kinds else SourceNat.NEVER
        return kinds.pop() if len(kinds) == 1 else None

    # -- rules

    def _met(self, state: ConnectionState, walk: Walk, passed: tuple[Base, ...]) -> Sequence[Met]:
        """The rules that matter to connections with an endpoint, in some base chains one after another."""
        known = self._endpoint(state.out.text if state.out else "", walk.given)
        # Bits that rules for some of the connections may have set.
        unknown = walk.parts.unknown_bits
        key = passed, state.mark, state.connmark, unknown, self._signature(known)
        found = self._known.get(key)
        if found is None:
            marks = state.mark, state.connmark
            path = Path(self._program.chains, known, self._budget, marks=marks, unknown=unknown)
            path.through(passed)
            found = self._known[key] = path.met
        return found

    def _signature(self, known: Selector) -> object:
        """Return what endpoints have in common that meet the same rules."""
        made: list[object] = []
        for field, asked in self._asked.items():
            mine = known.get(field)
            if mine is None or len(asked) > _MANY:
                made.append(mine)
                continue
            made.append(tuple([_coverage(values, mine) for values in asked]))
        return tuple(made)

    def _endpoint(self, to: str, given: Selector) -> Selector:
        """Return what is known of connections of a selector once they have an endpoint."""
        address, port = place_of(to, self._bits)
        dst = given.dst if address is None else exactly(address)
        dport = given.dport if port is None else exactly(port)
        extra: dict[str, Values] = {field: values for field, values in given.extra if field in _KEPT}
        extra |= dict(_REPLACED)
        if given.dst is not None:
            extra["ctorigdst"] = given.dst
        if given.dport is not None:
            extra["ctorigdstport"] = given.dport
        return Selector(given.proto, dst, dport, tuple(sorted(extra.items(), key=lambda pair: pair[0])))


def _coverage(values: Values, mine: Values) -> object:
    one, other = Selector(extra=(("x", values),)), Selector(extra=(("x", mine),))
    return covers(one, other)


def _kind(conditions: Conditions, endpoint: Selector) -> SourceNat | None:
    if not conditions:
        return SourceNat.ALWAYS
    if conditions == {BACK} or (LOCAL_SOURCE in conditions and conditions <= {LOCAL_SOURCE, _OUTWARD}):
        return SourceNat.HAIRPIN
    [(field, clients), *more] = conditions
    if field != "src" or more or endpoint.dst is None or isinstance(clients, Words) or len(clients) > 1:
        return None
    # A client in the endpoint's network, to which the endpoint would answer without us.
    [(low, high)] = clients
    count = high - low + 1
    network = not count & (count - 1) and not low % count
    near = all(low <= first and last <= high for first, last in endpoint.dst)
    return SourceNat.HAIRPIN if network and near else None


@dataclass(frozen=True, slots=True)
class _Left:
    """How connections leave a rule, and what it asked that is not known of them."""

    asked: Conditions
    exits: frozenset[Exit]


_PASSED = frozenset({Exit.ON})


class Path:
    """Connections of which some is known on their path through chains."""

    def __init__(
        self, chains: Mapping[str, Chain], given: Selector, budget: Budget, *, marks: _Marks, unknown: int = 0
    ) -> None:
        self._chains = chains
        self._given = given
        self._budget = budget
        self._marks: _Marks = marks
        #: Bits of the packet's mark that are not known.
        self._unknown = unknown
        self._depth = 0
        self._nat = False
        #: True where a chain of NAT let some go with the source that they have.
        self._spared = False
        self.met: list[Met] = []

    def through(self, passed: Iterable[Base]) -> None:
        """Follow connections through base chains: what one accepts goes on to the next."""
        under = _NO_CONDITIONS
        for base in passed:
            if base.chain not in self._chains:
                continue
            self._nat = base.kind == "nat"
            exits = self.chain(base.chain, under)
            if exits <= {Exit.DROPPED, Exit.REPLACED}:
                return
            if Exit.DROPPED in exits:
                under |= {_MORE}

    def chain(self, name: str, under: Conditions = _NO_CONDITIONS) -> frozenset[Exit]:
        """Follow connections through a chain, and return how they leave it. Raise `BudgetExceeded`."""
        exits: set[Exit] = set()
        self._depth += 1
        # All of them: an index leaves out those that are for some of the connections.
        for rule in self._chains[name].rules:
            if rule.refused or not rule.first:
                continue
            self._budget.spend()
            before = self._marks
            left = self._rule(rule, under)
            if left.asked:
                # What some have met is not known of the others.
                packet, connection = (
                    mark if mark == other else None for mark, other in zip(self._marks, before, strict=True)
                )
                self._marks = packet, connection
            exits |= left.exits - _PASSED
            if not left.asked and Exit.ON not in left.exits:
                break
            if left.exits & {Exit.BACK, Exit.ACCEPTED, Exit.DROPPED}:
                under |= {_MORE}
        else:
            exits.add(Exit.BACK)
        self._depth -= 1
        return frozenset(exits)

    def _rule(self, rule: Rule, under: Conditions) -> _Left:
        asked = self._asks(rule)
        if asked is None:
            return _Left(_NO_CONDITIONS, _PASSED)
        here, act = under | asked, rule.act
        is_verdict = act is Act.SWITCH and not rule.action
        if act is Act.UNKNOWN or is_verdict or (act in JUMPS and self._depth >= _DEEPEST):
            # It may do anything.
            self.met.append(Met(rule, here | {_MORE}))
            return _Left(asked | {_MORE}, frozenset({Exit.ON, Exit.ACCEPTED}))
        match act:
            case Act.TO | Act.SWITCH:
                if rule.action != "snat":
                    return _Left(asked, _PASSED)
                here |= {_MORE} if self._spared or act is Act.SWITCH else _NO_CONDITIONS
                self.met.append(Met(rule, here))
                return _Left(asked, frozenset({Exit.REPLACED}))
            case Act.ACCEPT | Act.DROP:
                self.met.append(Met(rule, here))
                self._spared |= bool(here) and self._nat and act is Act.ACCEPT
                exit_ = Exit.ACCEPTED if act is Act.ACCEPT else Exit.DROPPED
                return _Left(asked, frozenset({exit_}))
            case Act.RETURN:
                return _Left(asked, frozenset({Exit.BACK}))
            case Act.JUMP | Act.GOTO:
                if rule.target not in self._chains:
                    self.met.append(Met(rule, here | {_MORE}))
                    return _Left(asked, frozenset({Exit.ON, Exit.ACCEPTED}))
                exits = self.chain(rule.target, here)
                if act is Act.JUMP and Exit.BACK in exits:
                    exits = (exits - {Exit.BACK}) | _PASSED
                return _Left(asked, exits)
        return _Left(asked, _PASSED)

    def _asks(self, rule: Rule) -> Conditions | None:
        """Return what a rule asks that is not known of the connections; None where it is not for them."""
        found: set[Condition] = {_MORE} if rule.opaque else set()
        for step in rule.steps:
            match step:
                case MarkIs():
                    mark = self._marks[step.connection]
                    if mark is None or (not step.connection and step.mask & self._unknown):
                        found.add(_MORE)
                    elif not any(low <= mark & step.mask <= high for low, high in step.values):
                        return None
                case SetMark():
                    if covers(rule.where, self._given) is not NONE:
                        self._marks = step.marking.apply(*self._marks)
                case DrawMark():
                    packet, connection = self._marks
                    of_connection = {marking.connection for _, marking in step.cases} == {True}
                    self._marks = (packet, None) if of_connection else (None, connection)
                case Match():
                    pass
                case _:
                    found.add(_MORE)
        fields = self._asks_fields(rule)
        return None if fields is None else frozenset(found | fields)

    def _asks_fields(self, rule: Rule) -> set[Condition] | None:
        """The conditions of its fields that are not known to hold; None where one of them does not hold."""
        found: set[Condition] = set()
        for where in _wheres(rule):
            covered = covers(where, self._given)
            if covered is NONE:
                return None
            if covered is SOME:
                found.update(unmet(where, self._given))
            elif covered is ALL:
                # Of a status that is known, others may be there as well.
                status = where.get("ctstatus")
                if isinstance(status, Words) and status.names is None:
                    found.add(("ctstatus", status))
        return found


def _wheres(rule: Rule) -> Iterator[Selector]:
    yield rule.where
    yield from (step.where for step in rule.steps if isinstance(step, Match))
