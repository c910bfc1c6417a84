"""Programs → what their rules do: every selector that leads to an endpoint or a mark, followed to its end.

The rules are first searched for selectors: what all conditions on the way to an endpoint have in common. Then
the connections of each selector are sent through all chains of their hook, where they meet every rule that is
for all of them; a rule that is for some of them only is another selector's.
"""

from __future__ import annotations

from collections import deque
from dataclasses import field, replace
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from lbctl.values import dataclass
from lbctl_netfilter.budget import Budget, BudgetExceeded
from lbctl_netfilter.conditions import (
    ALL,
    BITS,
    EVERYTHING,
    covers,
    described,
    mark_field,
    narrowed,
    spans_meet,
    unmarked,
    unmet,
)
from lbctl_netfilter.findings import CURED, Findings, Movers
from lbctl_netfilter.follow import keeps_port
from lbctl_netfilter.hooks import BEFORE, ENTRIES, Hook, bases, hooks, settled
from lbctl_netfilter.index import index, reach
from lbctl_netfilter.ir import INGRESS, JUMPS, Act, MarkIs
from lbctl_netfilter.log import INFO, Place, shown
from lbctl_netfilter.marks import possible
from lbctl_netfilter.parts import LISTENER
from lbctl_netfilter.population import End
from lbctl_netfilter.selectors import FoundSelector, Search, SelectorKind, leading_chains
from lbctl_netfilter.services import (
    Excluded,
    TracedService,
    decides,
    falls_through,
    identity,
    is_balanced,
    leaves_nothing,
    merge,
    rules_met,
    rungs_of,
    service_of,
)
from lbctl_netfilter.source_nat import Behind

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from lbctl.model import AnalysedService, Family, SourceNat
    from lbctl_netfilter.conditions import Selector
    from lbctl_netfilter.corrections import Corrections, Lines
    from lbctl_netfilter.follow import Walk
    from lbctl_netfilter.hooks import Dispatch
    from lbctl_netfilter.index import ChainIndex
    from lbctl_netfilter.ir import Base, FamilyProgram, Origin, Rule
    from lbctl_netfilter.log import Log
    from lbctl_netfilter.population import Population

#: More hidden combinations than this are not worth their memory.
MOST_SERVICES = 200_000
#: Reasons why a service depends on others that are listed.
_MOST_REASONS = 3
#: Parts that are followed: of one selector, and of all in any text; and the work for each of its rules.
_MOST_PARTS, _LEAST_PARTS = 64, 1024
_PART_WORK, _LEAST_PART_WORK = 30, 150_000
#: Parts of parts, up to which it is known what a service is not about.
_DEEPEST = 64
#: Hooks between that by which packets arrive and the routing, or behind it.
_BETWEEN = {INGRESS: ("prerouting", "forward"), "prerouting": ("forward",)}
#: Marks of connections whose later packets are followed.
_MOST_MARKS = 16


@dataclass(slots=True)
class _Result:
    """What becomes of the connections of a selector at a hook."""

    hook: Hook
    selector: FoundSelector
    walk: Walk
    #: None when the services were made.
    population: Population | None
    source: tuple[SourceNat | None, tuple[int, ...]]
    anew: frozenset[object]
    #: The kinds of services that they are of, and what these are not about: those of marks, and others.
    kinds: Sequence[SelectorKind] = ()
    past: dict[bool, list[Excluded]] = field(default_factory=dict)
    found: Sequence[TracedService] = ()
    #: What the selector was known to lead to when they were made.
    led: frozenset[SelectorKind] = frozenset()


class _Known(NamedTuple):
    """What was found of a selector's connections at a hook that only leads them on."""

    hook: Hook
    leads: Dispatch
    result: _Result


class Analyser:
    """What the rules of a text do. `rules` is how many it has; `work`, for how many it may take its time."""

    def __init__(self, log: Log, corrections: Corrections, rules: int, *, work: int | None = None) -> None:
        self._log = log
        self._corrections = corrections
        self._rules = rules
        self._budget = Budget.of(work or rules)
        self._families: list[_Family] = []
        self._touched: set[Origin] = set()
        self._lost: set[Origin] = set()
        #: Counters, and the connections that move each, once for each hook.
        self.movers: dict[object, Sequence[tuple[Family, Selector]]] = {}
        #: The paths of connections, at all hooks.
        self.walks: dict[tuple[Family, Selector], list[Walk]] = {}
        #: All selectors that were followed: of these it is known which counters they move.
        self.followed: set[tuple[Family, Selector]] = set()

    @property
    def untouched(self) -> int:
        """Rules that are understood and are no balancing."""
        return self._rules - len(self._lost | self._touched)

    @property
    def services(self) -> tuple[AnalysedService, ...]:
        """All services."""
        return tuple(found.service for family in self._families for found in family.found)

    def is_lost(self, origin: Origin) -> bool:
        """Return True for a rule that is reported as not understood."""
        return origin in self._lost

    def lose(self, rule: Rule, what: str, reason: str) -> None:
        """Report a rule that would matter and is not understood."""
        if rule.origin not in self._lost:
            self._lost.add(rule.origin)
            self._log.cannot(rule, what, reason)

    def add(self, program: FamilyProgram) -> None:
        """Analyse the rules of one family."""
        self._cut_loops(program)
        program.connect()
        family = _Family(self, program, self._log, self._corrections, self._budget)
        self._families.append(family)
        family.follow()

    def finish(self) -> None:
        """Complete the services when all families are known: rules of both may move one counter."""
        for counter, selectors in self.movers.items():
            if len(selectors) > 1:
                self.movers[counter] = list(dict.fromkeys(selectors))
        for family in self._families:
            family.finish(self.movers)

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

    def touch(self, rule: Rule) -> None:
        """Note a rule that is a part of a service."""
        self._touched.add(rule.origin)

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
                        self.lose(rule, "chain-loop", "it closes a loop of chains")
                        rule.act, rule.switch = Act.GO_ON, None
                else:
                    done[chain] = True
                    stack.pop()


def _calls(rules: Sequence[Rule]) -> Iterator[tuple[Rule, str]]:
    for rule in rules:
        if rule.act in JUMPS or rule.act is Act.SWITCH:
            for target in rule.targets:
                yield rule, target


def _external(program: FamilyProgram, hook: Hook) -> dict[Rule, Selector]:
    """Return what rules ask of marks that no rule sets before them: conditions on arriving packets."""
    chains = program.chains
    here = {name for name in leading_from(program, hook.passed) if name in chains}
    asking = [rule for name in here for rule in hook.chains[name].rules if rule.asks_mark]
    if not asking:
        return {}
    setting = (rule for name in here for rule in hook.chains[name].rules if rule.marks)
    known = possible({marking for rule in setting for marking in rule.markings})
    if known is None:
        return {}
    before = leading_from(program, bases(program, *BEFORE.get(hook.name, ())))
    for rule in (rule for name in before - here for rule in chains[name].rules if rule.marks):
        for marking in rule.markings:
            # It may be set, and nothing says for whom.
            known[marking.connection].discard(0)
    bits = BITS[program.family]
    external: dict[Rule, Selector] = {}
    for rule in asking:
        found: Selector | None = EVERYTHING
        for step in rule.steps:
            if not isinstance(step, MarkIs):
                continue
            marks = {mark & step.mask for mark in known[step.connection]}
            if not any(low <= mark <= high for mark in marks for low, high in step.values):
                field = mark_field(connection=step.connection, mask=step.mask)
                values = spans_meet(step.values, ((0, step.mask),))
                found = found and narrowed(found, field, values, bits)
        if found is not None and found is not EVERYTHING:
            external[rule] = found
    return external


class _Family:
    """The services of one family."""

    def __init__(
        self, analysis: Analyser, program: FamilyProgram, log: Log, corrections: Corrections, budget: Budget
    ) -> None:
        self._analysis = analysis
        self._program = program
        self._log = log
        self._budget = budget
        self._bits = BITS[program.family]
        #: The chains that lbctl manages.
        self._own = frozenset(name for name, each in program.chains.items() if each.own)
        self._findings = Findings(log, corrections, self._bits, self._own)
        self.found: list[TracedService] = []
        self._results: dict[object, TracedService] = {}
        #: The last hook at which all that leads to endpoints was looked for, and what was found.
        self._searched: tuple[Hook, Mapping[Selector, FoundSelector]] | None = None
        #: Selectors that a rule for connections of one origin keeps from all endpoints of a hook.
        self._left_out: set[Selector] = set()
        self._behind = Behind(program)
        #: How many parts of selectors are followed, and for how long.
        self._left = max(_LEAST_PARTS, program.rules >> 3)
        self._parts_budget = Budget.of(program.rules, work=_PART_WORK, least=_LEAST_PART_WORK)

    def follow(self) -> None:
        """Find all services."""
        nat = [base for base in self._program.bases if base.serves]
        serving = leading_from(self._program, nat)
        leading = leading_chains(self._program, serving)
        reached: set[str] = set()
        at = hooks(self._program, self._bits, leading)
        followed: dict[Selector, _Known] | None = {} if len(at) > 1 else None
        for hook in at:
            self._hook(hook, leading, reached, followed)
        self._by_mark()
        self._fragments(leading, reached)
        self._results.clear()

    def finish(self, movers: Movers) -> None:
        """Say what shares depend on, and what is wrong."""
        for found in self.found:
            asked = any(visit.rule.settled for walk in found.walks for visit in walk.visits)
            found.left_out = asked or found.selector.where in self._left_out
            found.service = self._finished(found, movers)
        self._findings.of_services(self.found, movers)
        self._keep_ports()

    def _keep_ports(self) -> None:
        """Drop findings about ranges of ports that hold the port of each listener: it stays."""
        kept: dict[Origin, bool] = {}
        for found in self.found:
            for rule in rules_met(found):
                if rule.ports is not None:
                    stays = keeps_port(rule, found.selector.where)
                    kept[rule.origin] = kept.get(rule.origin, True) and stays
        if not any(kept.values()):
            return
        for chain in self._program.chains.values():
            for rule in chain.rules:
                if kept.get(rule.origin):
                    rule.remarks = tuple(each for each in rule.remarks if each != "port-range-target")

    def cures(self, wanted: Collection[int]) -> dict[int, Lines]:
        """By the line of a rung, the one correction of its ladder, for ladders with some of these lines."""
        return self._findings.ladders(self.found, wanted)

    def _finished(self, found: TracedService, movers: Movers) -> AnalysedService:
        """Return the service, with what its shares depend on beside its rules."""
        reasons = [reason for walk in found.walks for reason in self._reasons(found, walk, movers)]
        if not reasons:
            return found.service
        few = "; ".join(dict.fromkeys(reasons[:_MOST_REASONS]))
        return replace(found.service, exact=False, depends_on=few)

    def _reasons(self, found: TracedService, walk: Walk, movers: Movers) -> Iterator[str]:
        for rule in walk.doubts:
            what = rule.opaque.what if rule.opaque else "mark" if rule.asks_mark else rule.target.lower()
            yield f"line {rule.line}, which may match or not ({what})"
        if found.service.mode in {"single", "none"}:
            return
        if walk.long and any(visit.rule.asks_mark for visit in walk.visits):
            yield "counters whose common period is too long to follow"
        if walk.twice:
            yield "a counter that one connection advances more than once"
        if found.kind is SelectorKind.NAT and any(
            decides(found, walk, walk.met[each]) for each in found.anew
        ):
            yield "packets of established connections"
        for counter, rule in walk.counters:
            wide = walk.wide.get(rule)
            if wide is None and len(movers[counter]) == 1:
                continue
            line = rule.line
            if wide is not None and (found.family, wide) not in self._analysis.followed:
                more = described(wide, self._bits)
                yield f"all of {more}, which move the counter of line {line}"
            mine = found.family, found.selector.where
            # What has a mark that no rule sets has it from elsewhere, and is a part of these connections.
            others = [
                each
                for each in movers[counter]
                if each != mine
                and (each[0], unmarked(each[1])) != mine
                and not self._alike(found, walk, each)
            ]
            if others and decides(found, walk, rule):
                family, other = others[0]
                rest = f" and {len(others) - 1} more" if len(others) > 1 else ""
                more = described(other, BITS[family])
                prefix = "" if family is found.family else f"{family} "
                yield f"{prefix}{more}{rest}, which move the counter of line {line} too"

    def _alike(self, found: TracedService, walk: Walk, other: tuple[Family, Selector]) -> bool:
        """True for some of the service's own connections that its picks treat as they treat all others."""
        family, where = other
        if family is not found.family or covers(walk.given, where) is not ALL:
            return False
        mine = {rule: met for rule, met in rungs_of(walk).items() if decides(found, walk, rule)}
        theirs = map(rungs_of, self._analysis.walks.get(other, ()))
        return all(met.keys().isdisjoint(mine) or mine.items() <= met.items() for met in theirs)

    # -- hooks

    def _hook(
        self,
        hook: Hook,
        leading: set[str],
        reached: set[str],
        followed: dict[Selector, _Known] | None,
    ) -> None:
        """The services of a hook. `followed` is what was found at others; None where no other has any."""
        selectors = self._selectors(hook, leading, reached)
        waiting = deque(selectors.values())
        results: dict[Selector, _Result] = {}
        while waiting:
            selector = waiting.popleft()
            if len(self.found) + len(results) >= MOST_SERVICES:
                self._refuse(selector.leaves, f"more than {MOST_SERVICES} services")
                break
            known = results.get(selector.where)
            if known is None or (known.population is None and known.led != selector.led):
                known = self._at(hook, selector, followed)
                if known is None:
                    continue
                results[selector.where] = known
                if known.hook is hook and not known.walk.parts.any:
                    # The population of a service takes more memory than all else of it.
                    self._build(known, {})
            waiting += self._parts(known, selectors)
        mine = [result for result in results.values() if result.hook is hook]
        whole = [result for result in mine if result.population is not None]
        for result in whole:
            result.kinds = self._kinds(result, result.population)
        for result in whole:
            self._build(result, results)
        for result in mine:
            result.found = [self._keep(each) for each in result.found]

    def _selectors(self, hook: Hook, leading: set[str], reached: set[str]) -> dict[Selector, FoundSelector]:
        """Return what leads to an endpoint or a mark at a hook; another one may lead to the very same."""
        external = _external(self._program, hook)
        if self._searched is not None and not external and hook.is_like(self._searched[0]):
            return {where: each.copy() for where, each in self._searched[1].items()}
        selectors: dict[Selector, FoundSelector] = {}
        search = Search(self._budget, self._cannot, hook.bits, selectors, reached, external)
        for base in hook.passed:
            if base.chain in leading:
                try:
                    search.base(hook.chains, base, leading)
                except BudgetExceeded:
                    self._too_much(hook.chains[base.chain])
        if not external:
            self._searched = hook, {where: each.copy() for where, each in selectors.items()}
        return selectors

    def _build(self, result: _Result, at: Mapping[Selector, _Result]) -> None:
        """Make the services of a selector."""
        if result.population is None:
            return
        result.led = frozenset(result.selector.led)
        result.kinds = self._kinds(result, result.population)
        result.found = list(self._services(result, result.population, at))
        result.population = None

    def _at(
        self, hook: Hook, selector: FoundSelector, followed: dict[Selector, _Known] | None
    ) -> _Result | None:
        """Return what becomes of the connections of a selector, which may be known from another hook."""
        leads = None if followed is None else hook.leads(selector.where)
        if followed is None or leads is None:
            return self._followed(hook, selector)
        known = followed.get(selector.where)
        if known is not None and self._is_same(known, hook, selector, leads):
            self._also(known, hook, selector, leads)
            return known.result
        result = self._followed(hook, selector)
        if result is not None:
            followed[selector.where] = _Known(hook, leads, result)
        return result

    def _parts(self, result: _Result, selectors: dict[Selector, FoundSelector]) -> Iterator[FoundSelector]:
        """Parts of a selector that are to be followed, or were for fewer reasons."""
        selector, parts = result.selector, result.walk.parts
        led = selector.led
        # Another endpoint of a part is nothing to services of marks, unless a mark chooses the endpoint.
        found = parts.mapped if led - {SelectorKind.MARK} or _is_by_mark(result.walk) else {}
        marked = parts.marked if SelectorKind.MARK in led else {}
        most = _MOST_PARTS
        for where, part in (found | marked).items():
            kinds = set[SelectorKind]()
            if where in found:
                kinds |= led - {SelectorKind.MARK} or led
            if where in marked:
                kinds.add(SelectorKind.MARK)
            own = selectors.get(where)
            if own is not None:
                if not kinds <= own.kinds | own.part_of:
                    own.part_of |= kinds
                    yield own
            elif not part.certain and self._left and most:
                self._left -= 1
                most -= 1
                leaves = [*selector.leaves, part.rule] if part.rule.maps else list(selector.leaves)
                selectors[where] = FoundSelector(where, selector.name, leaves=leaves, part_of=set(kinds))
                yield selectors[where]

    def _is_same(self, known: _Known, hook: Hook, selector: FoundSelector, leads: Dispatch) -> bool:
        """Return True if connections get at this hook what they get at a known one."""
        other = known.result.selector
        return (
            leads.alike == known.leads.alike
            and (selector.name, selector.kinds, selector.leaves) == (other.name, other.kinds, other.leaves)
            and hook.leads_as(known.hook, known.result.walk)
            and not self._behind.refuses
        )

    def _also(self, known: _Known, hook: Hook, selector: FoundSelector, leads: Dispatch) -> None:
        """The services that were found at another hook are there at this one too."""
        took = {visit.rule for visit in known.result.walk.visits if visit.matched}
        pairs = zip(known.leads.rules, leads.rules, strict=True)
        rules = [here for there, here in pairs if there in took]
        for rule in rules:
            self._analysis.touch(rule)
        for found in known.result.found:
            merge(found, hook.names, [rule.line for rule in rules], partial(hook.path, selector.where))

    def _by_mark(self) -> None:
        """Sources that are chosen behind the routing by a mark, for connections whose marks are balanced."""
        program = self._program
        behind = bases(program, "postrouting")
        entered = leading_from(program, [base for base in behind if base.kind == "nat"])
        if not any(rule.asks_mark for name in entered for rule in program.chains[name].rules):
            return
        plain = index({name: chain.rules for name, chain in program.chains.items()}, program.chains)
        for found in list(self.found):
            first = found.service.hooks[0] if found.service.hooks else ""
            if found.kind is not SelectorKind.MARK or first not in ENTRIES:
                continue
            between = bases(program, *_BETWEEN.get(first, ()))
            marking = [base for base in between if plain[base.chain].written]
            passed = [*bases(program, first), *marking, *behind]
            here = settled(plain, program.chains, first)
            hook = Hook("postrouting", passed, here, self._bits, program.rules)
            result = self._followed(hook, found.selector)
            if result is None or result.population is None:
                continue
            result.kinds = self._kinds(result, result.population)
            for chosen in self._services(result, result.population, {}):
                if chosen.service.action != "snat" or len(chosen.service.backends) < 2:
                    continue
                if not self._depends_on_more(chosen.walk, behind):
                    self._keep(chosen)

    def _depends_on_more(self, walk: Walk, behind: Sequence[Base]) -> bool:
        """Return True if a rule behind the routing is for some of the connections whose mark is balanced."""
        entered = leading_from(self._program, behind)
        for rule, conditions in walk.parts.mapping.items():
            if rule.place in entered:
                what = conditions[0][0]
                reason = (
                    f"it is for some of the connections whose mark is balanced, by {what}: the outgoing link "
                )
                self._analysis.lose(rule, what, reason + "may depend on the mark")
                return True
        return False

    def _fragments(self, leading: set[str], reached: Collection[str]) -> None:
        """Chains of a part of a table, into which nothing of the text leads."""
        if not self._program.fragments:
            return
        plain = index({name: c.rules for name, c in self._program.chains.items()}, self._program.chains)
        for base in self._program.fragments:
            if base.chain not in leading or base.chain in reached:
                continue
            chain = self._program.chains[base.chain]
            self._log.find(
                "partial-dump",
                next(iter(chain.rules), Place(chain.line)),
                f"nothing in the text jumps to chain {shown(chain.name.rpartition(' ')[2])}: by this text "
                "alone, 0 % of connections reach it",
                severity=INFO,
            )
            hook = Hook("", [base], plain, self._bits, self._program.rules)
            self._hook(hook, leading, set(reached), None)

    def _keep(self, found: TracedService) -> TracedService:
        """Return a service; one that is the same at another hook takes it in, and is returned."""
        key = identity(found)
        same = self._results.get(key)
        if same is None:
            self._results[key] = found
            self.found.append(found)
            return found
        service = found.service
        merge(same, service.hooks, service.lines, service.way, service.outcomes)
        same.walks.append(found.walk)
        return same

    def _too_much(self, chain: ChainIndex) -> None:
        name = chain.chain.name.rpartition(" ")[2]
        self._refuse(chain.rules, f"chain {shown(name)}: chains with too many paths")

    def _refuse(self, rules: Sequence[Rule], what: str) -> None:
        """Have the text not be trusted, for what is not followed from some rules on."""
        reason = f"{what} are not followed"
        self._log.refuse("unsupported-target", rules[0] if rules else Place(1), reason)
        if rules:
            self._analysis.lose(rules[0], "rules", reason)

    # -- one selector

    def _followed(self, hook: Hook, selector: FoundSelector) -> _Result | None:
        """Return what becomes of the connections of a selector; None where that takes too long."""
        if not hook.passed:
            return None
        try:
            walk, population = hook.followed(
                selector.where, self._parts_budget if selector.is_part else self._budget
            )
            source: tuple[SourceNat | None, tuple[int, ...]] = (None, ())
            if hook.name != INGRESS:
                # What is sent on at ingress meets no other hook, and keeps its source.
                population = self._behind.refused(population, walk, hook.name)
                own = bool(self._own) and any(visit.rule.place in self._own for visit in walk.visits)
                source = self._behind.source_nat(population, walk, hook.name, own=own)
            anew = self._anew(hook, selector, walk, population)
        except BudgetExceeded:
            if not selector.is_part:
                entered = [hook.chains[base.chain] for base in hook.passed]
                self._too_much(next((chain for chain in entered if chain.rules), entered[0]))
            return None
        mine = self._program.family, selector.where
        self._analysis.followed.add(mine)
        alone = (mine,)
        for counter in walk.met:
            known = self._analysis.movers.setdefault(counter, alone)
            if isinstance(known, list):
                known.append(mine)
            elif known is not alone:
                self._analysis.movers[counter] = [*known, mine]
        if walk.met:
            self._analysis.walks.setdefault(mine, []).append(walk)
        return _Result(hook, selector, walk, population, source, anew)

    def _services(
        self, result: _Result, population: Population, at: Mapping[Selector, _Result]
    ) -> Iterator[TracedService]:
        """Yield the services of a selector, when it is known which of its parts have their own."""
        hook, selector, walk = result.hook, result.selector, result.walk
        for kind in result.kinds:
            past = self._past(result, kind, at)
            if leaves_nothing(past, hook.bits):
                continue
            family = self._program.family
            made = service_of(family, hook, selector, walk, population, kind, result.source, past)
            self._touch(walk, kind)
            found = TracedService(made, kind, walk, selector, family, hook, [walk])
            found.explicit_leak = bool(made.leak) and (
                sum(walk.returned.values()) == made.leak or not falls_through(population, kind)
            )
            found.anew = result.anew
            yield found
        for rule in walk.doubts:
            self._cannot(rule)

    def _past(
        self, result: _Result, kind: SelectorKind, at: Mapping[Selector, _Result], depth: int = 0
    ) -> Sequence[Excluded]:
        """What a service is not about: parts that are not, as a whole, the service of a narrower listener."""
        marks = kind is SelectorKind.MARK
        known = result.past.get(marks)
        if known is not None:
            return known
        walk = result.walk
        found = result.past[marks] = []
        for where, part in (walk.parts.marked if marks else walk.parts.mapped).items():
            own = at.get(where)
            if where == walk.given or (own is None and not part.certain):
                walk.doubts[part.rule] = None
                continue
            conditions = unmet(where, walk.given)
            whole = (
                own is not None
                and any((each is SelectorKind.MARK) == marks for each in own.kinds)
                and all(field in LISTENER for field, _ in conditions)
                and (depth >= _DEEPEST or not self._past(own, kind, at, depth + 1))
            )
            if not whole:
                found.append(Excluded(conditions, part.rule))
        return found

    def _kinds(self, result: _Result, population: Population | None) -> tuple[SelectorKind, ...]:
        """Return the kinds of services that connections are of."""
        if population is None:
            return ()
        found = self._led(result.selector, result.walk, population)
        return tuple(kind for kind in found if is_balanced(result.walk, population, kind))

    def _led(self, selector: FoundSelector, walk: Walk, population: Population) -> Iterator[SelectorKind]:
        mapped = any(state.out is not None and state.out.end is End.ENDPOINT for state in population.states)
        by_mark = _is_by_mark(walk)
        led = selector.led
        if mapped and (SelectorKind.NAT in led or by_mark):
            yield SelectorKind.NAT
        elif SelectorKind.NAT in selector.kinds and not mapped and not walk.doubts:
            met = {visit.rule for visit in walk.visits if visit.arriving}
            own = any(rule.place in self._own for rule in selector.leaves)
            if any(visit.matched and visit.rule.settled for visit in walk.visits):
                self._left_out.add(selector.where)
            elif not all(rule.asks_mark for rule in selector.leaves) and (
                not own or not met.isdisjoint(selector.leaves)
            ):
                # Rules of lbctl that no connection comes to are for clients that are let in nowhere.
                yield SelectorKind.NOTHING
        if SelectorKind.MARK in led and not (mapped and by_mark):
            yield SelectorKind.MARK

    def _anew(
        self, hook: Hook, selector: FoundSelector, walk: Walk, population: Population
    ) -> frozenset[object]:
        """Return the picks that are made again for packets behind the first one of a connection."""
        if not walk.of_packets:
            return frozenset()
        marks = dict.fromkeys(state.connmark for state in population.states)
        again: set[object] = set()
        for mark in list(marks)[:_MOST_MARKS]:
            again.update(hook.later(selector.where, self._budget, mark).met)
        found = again.intersection(walk.of_packets)
        # At ingress a hash sees what clients send, and no replies: it is the same for all of a connection.
        return frozenset(found - walk.hashes.keys() if hook.name == INGRESS else found)

    def _cannot(self, rule: Rule) -> None:
        if rule.opaque and (rule.picks or rule.act is not Act.GO_ON):
            self._analysis.lose(rule, *rule.opaque)
        elif rule.asks_mark:
            self._analysis.lose(rule, "mark", "its earlier value depends on more than the rules")
        elif not rule.opaque:
            reason = "it is for more parts of other rules' connections than are followed one by one"
            self._analysis.lose(rule, rule.target.lower() or "part", reason)

    def _touch(self, walk: Walk, kind: SelectorKind) -> None:
        for visit in walk.visits:
            rule = visit.rule
            if rule.marks and rule.act is Act.GO_ON and kind is not SelectorKind.MARK and not rule.picks:
                continue
            taking = visit.matched and (rule.act is not Act.GO_ON or rule.marks)
            if rule.maps or taking or any(rule is asked for _, asked in walk.memories):
                self._analysis.touch(rule)


def _is_by_mark(walk: Walk) -> bool:
    """Return True if a rule that gives an endpoint asks for a mark."""
    return any(visit.rule.asks_mark and visit.rule.maps for visit in walk.visits)


def leading_from(program: FamilyProgram, entered: Sequence[Base]) -> set[str]:
    """Return the chains that some base chains lead to, these too."""
    return reach([base.chain for base in entered], program.calls)
