"""A text → what its rules do: every selector that leads to an endpoint or a mark, followed to its end.

The rules are first walked for selectors: what all conditions on the way to an endpoint have in common. Then
the connections of each selector are sent through all chains of their hook, where they meet every rule that is
for all of them; a rule that is for some of them only is another selector's.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from typing import TYPE_CHECKING

from lbctl.model import Family, ReadService, Severity, Step
from lbctl_iptables import layout
from lbctl_iptables.reading import findings, remarks
from lbctl_iptables.reading import where as w
from lbctl_iptables.reading.flow import Budget, TooMuch
from lbctl_iptables.reading.hook import Hook, Leads
from lbctl_iptables.reading.later import Later
from lbctl_iptables.reading.meaning import LEADING, Act, Marked, Meaning, Recent
from lbctl_iptables.reading.program import Program
from lbctl_iptables.reading.ruleset import BUILTIN
from lbctl_iptables.reading.selectors import Seek, Selector, leading_chains
from lbctl_iptables.reading.services import Found, falls_through, service_of
from lbctl_iptables.reading.understanding import Understanding
from lbctl_iptables.reading.where import LOCAL_SOURCE, REMOTE_SOURCE, Where
from lbctl_iptables.reading.words import shown, words

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from lbctl_iptables.reading.flow import Walk
    from lbctl_iptables.reading.ruleset import Log, Ruleset, Table

#: Hook → the tables that a new connection passes there, in their order.
_HOOKS = {
    "prerouting": ("raw", "mangle", "nat"),
    "input": ("mangle", "nat"),
    "output": ("raw", "mangle", "nat"),
    "postrouting": ("mangle", "nat"),
}
#: More hidden combinations than this are not worth their memory.
_MOST_SERVICES = 200_000
#: Reasons why a service depends on others that are said.
_MOST_REASONS = 3


@dataclass(frozen=True, slots=True)
class _Followed:
    """What was found of a selector's connections at a hook that only leads them on."""

    hook: Hook
    leads: Leads
    selector: Selector
    walk: Walk
    found: Sequence[Found]


class Reader:
    """Reads one ruleset."""

    def __init__(self, ruleset: Ruleset, log: Log) -> None:
        self._ruleset = ruleset
        self._log = log
        self._budget = Budget.of(ruleset.rules)
        self.found: list[Found] = []
        #: Counters, and who moves them.
        self.movers: dict[Meaning, list[Where]] = {}
        self.meanings: list[Meaning] = []
        self._touched: set[int] = set()
        self._lost: set[int] = set()
        #: Families of which packets of known connections leave the chains early.
        self._only_new: set[Family] = set()
        #: Selectors that a rule for connections of one origin keeps from all endpoints of a hook.
        self._left_out: set[tuple[Family, Where]] = set()

    @property
    def untouched(self) -> int:
        """Rules that are understood and are no balancing."""
        return self._ruleset.rules - len(self._touched | self._lost)

    def read(self) -> tuple[ReadService, ...]:
        """All services."""
        families = dict.fromkeys(family for family, _ in self._ruleset.tables)
        for family in families:
            tables = {name: table for (f, name), table in self._ruleset.tables.items() if f is family}
            self._family(family, tables)
        fragments = {key for key, table in self._ruleset.tables.items() if table.fragment and not table.whole}
        remarks.of_rules(self.meanings, self._lost, fragments, self._log)
        for wheres in self.movers.values():
            if len(wheres) > 1:
                wheres[:] = dict.fromkeys(wheres)
        for found in self.found:
            asked = any(visit.meaning.settled for walk in found.walks for visit in walk.visits)
            found.left_out = asked or (found.family, found.selector.where) in self._left_out
        services = [self._finished(found) for found in self.found]
        findings.of_services(self.found, self.movers, self._log)
        return tuple(services)

    def _finished(self, found: Found) -> ReadService:
        """With the word on whether other traffic moves its counters."""
        reasons: list[str] = []
        for walk in found.walks:
            if walk.long and any(visit.meaning.asks_mark for visit in walk.visits):
                reasons.append("counters that come round together after too long a time to be followed")
            if walk.twice:
                reasons.append("the turn of a counter that one connection asks more than once")
            for meaning, _ in walk.counters:
                if len(reasons) >= _MOST_REASONS:
                    break
                line = meaning.rule.line
                if meaning in walk.wide:
                    more = words(walk.wide[meaning], found.family)
                    reasons.append(f"all of {more}, which move the counter of line {line}")
                movers = self.movers[meaning]
                if len(movers) > 1:
                    other = movers[0] if movers[0] != found.selector.where else movers[1]
                    more = words(other, found.family)
                    rest = f" and {len(movers) - 2} more" if len(movers) > 2 else ""
                    reasons.append(f"{more}{rest}, which move the counter of line {line} too")
        if reasons:
            found.service = replace(
                found.service,
                exact=False,
                depends_on="; ".join(dict.fromkeys(reasons[:_MOST_REASONS])),
            )
        return found.service

    # -- one family

    def _family(self, family: Family, tables: dict[str, Table]) -> None:
        bits = w.BITS[family]
        marks = any(
            rule.spec.target in {"MARK", "CONNMARK"}
            for table in tables.values()
            for chain in table.chains.values()
            for rule in chain.rules
        )
        understanding = Understanding(marks=marks)
        programs: dict[str, dict[str, Program]] = {}
        leading: dict[str, set[str]] = {}
        for name in ("raw", "mangle", "nat", "filter", "security"):
            table = tables.get(name)
            if table is None:
                continue
            meanings = understanding.chains(table)
            for each in meanings.values():
                for meaning in each:
                    self._place(meaning)
                self.meanings += each
            self._loops(meanings)
            programs[name] = {
                chain.name: Program(chain.name, meanings[chain.name], bits, chain.policy)
                for chain in table.chains.values()
            }
            leading[name] = leading_chains(meanings)
        self._hooks(family, tables, programs, leading, bits)

    def _place(self, meaning: Meaning) -> None:
        """Take out what iptables refuses where it stands, and what is not understood at all."""
        rule = meaning.rule
        misplaced = remarks.misplaced(meaning)
        if misplaced is not None:
            reason, corrected = misplaced
            self._log.find("wrong-table", Severity.ERROR, rule.line, rule.text, reason, corrected)
            self._lose(meaning, "wrong-table", reason)
            meaning.act = Act.GO_ON
        elif (
            meaning.unclear and {"removed-match", "family-mismatch", "unparsable-line"} & set(meaning.remarks)
        ) or (meaning.unclear and meaning.act is Act.UNKNOWN and rule.table == "nat"):
            self._lose(meaning, *meaning.unclear)
        if (
            not meaning.possible
            and rule.table == "mangle"
            and "later-packets" in meaning.remarks
            and meaning.act in {Act.END, Act.RETURN, Act.GOTO}
        ):
            self._only_new.add(rule.family)

    def _loops(self, meanings: dict[str, list[Meaning]]) -> None:
        """Chains that lead back to themselves: the rule that closes the circle leads nowhere."""
        done: dict[str, int] = {}
        for start in meanings:
            if start in done:
                continue
            stack: list[tuple[str, Iterator[Meaning]]] = [(start, iter(meanings[start]))]
            done[start] = 1
            while stack:
                chain, rules = stack[-1]
                for meaning in rules:
                    if meaning.act not in LEADING:
                        continue
                    state = done.get(meaning.target, 0)
                    if state == 1:
                        self._log.accept = False
                        self._log.find(
                            "chain-loop",
                            Severity.ERROR,
                            meaning.rule.line,
                            meaning.rule.text,
                            f"chain {shown(meaning.target)} leads back to itself here: iptables "
                            "refuses the whole table, and loads 0 of its rules",
                        )
                        self._lose(meaning, "chain-loop", "it closes a circle of chains")
                        meaning.act = Act.GO_ON
                    elif state == 0:
                        done[meaning.target] = 1
                        stack.append((meaning.target, iter(meanings[meaning.target])))
                        break
                else:
                    done[chain] = 2
                    stack.pop()

    def _lose(self, meaning: Meaning, what: str, reason: str) -> None:
        if id(meaning.rule) not in self._lost:
            self._lost.add(id(meaning.rule))
            self._log.cannot(meaning.rule.line, meaning.rule.text, what, reason)

    def _hooks(
        self,
        family: Family,
        tables: dict[str, Table],
        programs: dict[str, dict[str, Program]],
        leading: dict[str, set[str]],
        bits: int,
    ) -> None:
        results: dict[object, Found] = {}
        reached: set[tuple[str, str]] = set()
        nat = tables.get("nat")
        whole = nat is not None and nat.whole and "POSTROUTING" in nat.chains
        self._later = Later(family, programs, self._ruleset.rules, whole=whole)
        rules = self._ruleset.rules
        hooks: list[Hook] = []
        for name, tables_of in _HOOKS.items():
            passed = [(table, name.upper()) for table in tables_of if name.upper() in programs.get(table, {})]
            here = {table: _settled(programs[table], name) for table, _ in passed}
            hooks.append(Hook(name, passed, here, bits, rules))
        leads = [hook for hook in hooks if any(chain in leading[table] for table, chain in hook.passed)]
        followed: dict[Where, _Followed] | None = {} if len(leads) > 1 else None
        for hook in leads:
            self._hook(family, hook, leading, results, reached, followed)
        self._by_mark(family, programs, bits, results)
        for name, table in tables.items():
            entered_here = any(table.chains[c].rules for c in BUILTIN[name] if c in table.chains)
            if table.whole or entered_here or not table.fragment or name not in programs:
                continue
            entered = {m.target for p in programs[name].values() for m in p.meanings}
            for chain in table.chains.values():
                root = chain.name not in entered and chain.name not in BUILTIN[name]
                if root and chain.name in leading[name] and (name, chain.name) not in reached:
                    first = next(iter(chain.rules), None)
                    self._log.find(
                        "partial-dump",
                        Severity.INFO,
                        first.line if first else chain.line,
                        first.text if first else "",
                        f"nothing in the text leads into chain {shown(chain.name)}: by this text "
                        "alone, 0 % of connections come to it",
                    )
                    hook = Hook("", [(name, chain.name)], programs, bits, rules)
                    self._hook(family, hook, leading, results, reached, None)

    def _hook(
        self,
        family: Family,
        hook: Hook,
        leading: dict[str, set[str]],
        results: dict[object, Found],
        reached: set[tuple[str, str]],
        followed: dict[Where, _Followed] | None,
    ) -> None:
        """The services of a hook. `followed` is what was found at others; None where no other has any."""
        selectors: dict[Where, Selector] = {}
        seek = Seek(self._budget, self._cannot, hook.bits, selectors, reached)
        for name, chain in hook.passed:
            if chain in leading[name]:
                try:
                    seek.chain(hook.programs[name], name, chain, leading[name])
                except TooMuch:
                    self._too_much(hook.programs[name][chain])
        for selector in selectors.values():
            if len(self.found) >= _MOST_SERVICES:
                self._refuse(selector.leaves, f"more than {_MOST_SERVICES} services")
                break
            leads = None if followed is None else hook.leads(selector.where)
            known = followed.get(selector.where) if followed is not None and leads is not None else None
            if known is not None and leads is not None and self._is_same(known, hook, selector, leads):
                self._also(known, hook, selector, leads)
                continue
            found = list(self._follow(family, hook, selector))
            kept = [self._keep(each, results) for each in found]
            if found and followed is not None and leads is not None:
                followed[selector.where] = _Followed(hook, leads, selector, found[0].walk, kept)

    def _is_same(self, known: _Followed, hook: Hook, selector: Selector, leads: Leads) -> bool:
        """True where connections get at this hook what they get at a known one."""
        other = known.selector
        return (
            leads.alike == known.leads.alike
            and (selector.name, selector.kinds, selector.leaves) == (other.name, other.kinds, other.leaves)
            and hook.leads_as(known.hook, known.walk)
            and not self._later.refuses
        )

    def _also(self, known: _Followed, hook: Hook, selector: Selector, leads: Leads) -> None:
        """The services that were found at another hook are there at this one too."""
        took = {visit.meaning for visit in known.walk.visits if visit.took}
        pairs = zip(known.leads.meanings, leads.meanings, strict=True)
        rules = [here.rule for there, here in pairs if there in took]
        self._touched.update(map(id, rules))
        for found in known.found:
            _merge(found, hook.names, [rule.line for rule in rules], partial(hook.way, selector.where))

    def _by_mark(
        self,
        family: Family,
        programs: dict[str, dict[str, Program]],
        bits: int,
        results: dict[object, Found],
    ) -> None:
        """Sources that are chosen behind the routing by a mark, for connections whose marks are balanced."""
        behind = [
            (name, "POSTROUTING") for name in _HOOKS["postrouting"] if "POSTROUTING" in programs.get(name, {})
        ]
        if not any(m.asks_mark for p in programs.get("nat", {}).values() for m in p.meanings):
            return
        for found in list(self.found):
            if found.family is not family or "mark" not in found.selector.kinds:
                continue
            first = found.service.hooks[0] if found.service.hooks else ""
            if first not in {"prerouting", "output"}:
                continue
            here = {name: _settled(chains, first) for name, chains in programs.items()}
            passed = [(name, first.upper()) for name in _HOOKS[first] if first.upper() in here.get(name, {})]
            hook = Hook("postrouting", [*passed, *behind], here, bits, self._ruleset.rules)
            for chosen in self._follow(family, hook, found.selector):
                if chosen.service.action == "snat" and len(chosen.service.backends) > 1:
                    self._keep(chosen, results)

    def _keep(self, found: Found, results: dict[object, Found]) -> Found:
        """A service; one that is the same at another hook takes it in, and is returned."""
        service = found.service
        key = (
            found.family,
            found.selector.where,
            service.action,
            service.mode,
            # A fraction takes longer to be hashed than its two numbers.
            tuple((each.to, each.name, *each.share.as_integer_ratio()) for each in service.backends),
            service.leak.as_integer_ratio(),
            service.affinity,
            service.slots,
            tuple((service.when or {}).items()),
        )
        same = results.get(key)
        if same is None:
            results[key] = found
            self.found.append(found)
            return found
        _merge(same, service.hooks, service.lines, service.way)
        same.walks.append(found.walk)
        return same

    def _too_much(self, program: Program) -> None:
        about = f"chain {shown(program.name)}: chains that lead on too many ways"
        self._refuse(program.meanings, about)

    def _refuse(self, meanings: Sequence[Meaning], what: str) -> None:
        """Have the text not be trusted, for what is not followed from some rules on."""
        rule = meanings[0].rule if meanings else None
        self._log.accept = False
        self._log.find(
            "unsupported-target",
            Severity.ERROR,
            rule.line if rule else 1,
            rule.text if rule else "",
            f"{what} are not followed",
        )
        if meanings:
            self._lose(meanings[0], "rules", f"{what} are not followed")

    # -- one selector

    def _follow(self, family: Family, hook: Hook, selector: Selector) -> Iterator[Found]:
        if not hook.passed:
            return
        try:
            whole, stream = hook.walked(selector.where, self._budget)
            stream = self._later.refused(stream, selector.where, hook.name)
            ours = any(map(layout.owner_of, {visit.meaning.rule.chain for visit in whole.visits}))
            source = self._later.source_nat(stream, selector.where, ours=ours)
        except TooMuch:
            entered = [hook.programs[name][chain] for name, chain in hook.passed]
            self._too_much(next((program for program in entered if program.meanings), entered[0]))
            return
        for meaning, _ in whole.counters:
            self.movers.setdefault(meaning, []).append(selector.where)
        for meaning in whole.unread:
            self._cannot(meaning)
        mapped = any(state.out is not None and state.out.kind == "to" for state in stream.states)
        by_mark = any(visit.meaning.asks_mark and visit.meaning.act is Act.TO for visit in whole.visits)
        kinds: list[str] = []
        if mapped and ("nat" in selector.kinds or by_mark):
            kinds.append("nat")
        elif "nat" in selector.kinds and not mapped:
            if any(visit.took and visit.meaning.settled for visit in whole.visits):
                self._left_out.add((family, selector.where))
            else:
                kinds.append("nothing")
        if "mark" in selector.kinds and not (mapped and by_mark):
            kinds.append("mark")
        for kind in kinds:
            made = service_of(family, hook, selector, whole, stream, kind, source)
            if made is not None:
                self._touch(whole, kind)
                found = Found(made, whole, selector, family, hook, [whole])
                returned = sum(whole.returned.values(), Fraction(0))
                found.explicit_leak = bool(made.leak) and (
                    returned == made.leak or not falls_through(stream, kind)
                )
                found.per_packet = kind == "mark" and self._per_packet(family, whole)
                yield found

    def _per_packet(self, family: Family, walk: Walk) -> bool:
        """True where packets behind a connection's first one are picked for as well."""
        remarks = {remark for visit in walk.visits for remark in visit.meaning.remarks}
        if "first-packets" in remarks or family in self._only_new:
            return False
        restores = any(v.meaning.marking and v.meaning.marking[1] == "restore" for v in walk.visits)
        return not (restores and any(v.meaning.asks_mark for v in walk.visits)) and not any(
            isinstance(step, Marked) and step.connection for v in walk.visits for step in v.meaning.steps
        )

    def _cannot(self, meaning: Meaning) -> None:
        if meaning.unclear and (meaning.picks or meaning.act not in {Act.MARK, Act.GO_ON}):
            self._lose(meaning, *meaning.unclear)

    def _touch(self, walk: Walk, kind: str) -> None:
        for visit in walk.visits:
            meaning = visit.meaning
            act = meaning.act
            if act is Act.MARK and kind != "mark" and not meaning.picks:
                continue
            if (
                act is Act.TO
                or (act is not Act.GO_ON and visit.took)
                or any(isinstance(step, Recent) for step in meaning.steps)
            ):
                self._touched.add(id(meaning.rule))


def _merge(
    found: Found, hooks: Sequence[str], lines: Sequence[int], way: Callable[[], tuple[Step, ...]]
) -> None:
    """A service that is the same at more hooks."""
    service = found.service
    found.service = replace(
        service,
        hooks=tuple(hook for hook in _HOOKS if hook in {*service.hooks, *hooks}),
        lines=tuple(sorted({*service.lines, *lines})),
        way=partial(_joined, service.way, way),
    )


def _joined(one: Callable[[], tuple[Step, ...]], other: Callable[[], tuple[Step, ...]]) -> tuple[Step, ...]:
    return one() + other()


def _settled(programs: dict[str, Program], hook: str) -> dict[str, Program]:
    """The chains of a table as a hook has them.

    What this host sends has an address of its own, and what comes in from elsewhere has not.
    """
    if hook not in {"prerouting", "output"}:
        return programs
    here, there = (LOCAL_SOURCE, REMOTE_SOURCE) if hook == "output" else (REMOTE_SOURCE, LOCAL_SOURCE)
    made = dict(programs)
    for name, program in programs.items():
        if any(
            here in meaning.where.extra or there in meaning.where.extra
            for meaning in program.meanings
            if meaning.where.extra
        ):
            meanings = [
                meaning.without(here) for meaning in program.meanings if there not in meaning.where.extra
            ]
            made[name] = Program(name, meanings, program.bits, program.policy)
    return made
