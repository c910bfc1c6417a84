"""What is wrong with rules as connections meet them, in shares.

What is wrong with the text of a rule by itself is for the checks of a front end.
"""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, TypeAlias, TypeGuard

from lbctl.model import brief
from lbctl_netfilter.conditions import described, size, spelled, unmarked
from lbctl_netfilter.ir import INGRESS, JUMPS, Act, Draw, MarkIs, Match, Memory, PickKind
from lbctl_netfilter.log import WARNING, percent, shown
from lbctl_netfilter.selectors import SelectorKind

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from lbctl.model import AnalysedService, Family
    from lbctl_netfilter.conditions import Selector
    from lbctl_netfilter.corrections import Corrections, Lines
    from lbctl_netfilter.follow import Visit, Walk
    from lbctl_netfilter.ir import Origin, Rule
    from lbctl_netfilter.log import Log
    from lbctl_netfilter.services import TracedService

#: Counters, and the connections that move each.
Movers: TypeAlias = "Mapping[object, Sequence[tuple[Family, Selector]]]"
#: Rules that keep what they match.
_KEEPING = frozenset({Act.TO, Act.ACCEPT, Act.DROP, Act.RETURN})
#: Findings that one correction of the whole ladder mends.
CURED = frozenset(
    {
        "equal-probability-on-each-line",
        "every-n-on-each-line",
        "no-catch-all",
        "nth-missing-packet",
        "packet-out-of-range",
        "probability-rounding",
        "probability-zero",
        "statistic-before-selector",
    }
)
#: How many times the part of another one a rung takes at most, that was to take the same.
_EVEN = Fraction(11, 10)
#: Why a pick is made for every packet, in words: at other hooks, and at ingress.
_WITHOUT_MARK = "without a match on new connections, and a connection mark that keeps the choice"
_AT_INGRESS = "no connection is tracked at ingress. Without a hash of the client's address"
#: Clients that a list of `recent` keeps unless the module was loaded with another limit.
_LIST = 100


class Findings:
    """Notes what is wrong with the services of one family."""

    def __init__(self, log: Log, corrections: Corrections, bits: int, own: frozenset[str]) -> None:
        self._log = log
        self._corrections = corrections
        self._bits = bits
        #: The chains that lbctl manages.
        self._own = own
        self._said: set[tuple[str, Origin]] = set()
        #: Chain → its ladder as it would be right.
        self._cures: dict[str, Lines] = {}

    def of_services(
        self,
        found: Sequence[TracedService],
        movers: Movers,
    ) -> None:
        """Report what depends on which connections arrive at a rule, and in which shares."""
        reached = {
            visit.rule for each in found for walk in each.walks for visit in walk.visits if visit.arriving
        }
        outward = {
            (each.service.proto, each.service.dport)
            for each in found
            if "output" in each.service.hooks and each.service.action in {"redirect", "dnat"}
        }
        for each in found:
            for walk in each.walks:
                self._early(walk)
                self._ladders(each, walk)
                self._shared(each, walk, movers, found)
                self._marks(each, walk)
                self._anew(each, walk)
                self._recent(walk)
            self._unreachable(each, reached)
            self._unmatched(each)
            self._outward(each.service, outward, each)

    def _once(self, code: str, rule: Rule) -> bool:
        key = code, rule.origin
        if key in self._said:
            return False
        self._said.add(key)
        return True

    def _early(self, walk: Walk) -> None:
        """A counter in front of a condition: it moves for connections that the rule is not for."""
        for rule, counted in walk.early.items():
            counts = False
            for step in rule.steps:
                if isinstance(step, Draw) and step.pick.kind is PickKind.COUNTER and step.pick.modulus > 1:
                    counts = True
                elif counts and isinstance(step, Match) and self._once("statistic-before-selector", rule):
                    self._log.find(
                        "statistic-before-selector",
                        rule,
                        "conditions are evaluated in their order: the counter counts "
                        f"100 % of {described(counted, self._bits)}, and only then the rule checks for "
                        f"{described(step.where, self._bits)}, whose shares may be anything from 0 % to "
                        "100 %",
                        self._corrections.behind(rule),
                    )

    # -- one correction for each ladder

    def ladders(self, found: Sequence[TracedService], wanted: Collection[int]) -> dict[int, Lines]:
        """By the line of a rung, the one correction of its ladder; of ladders with none wanted, nothing."""
        cures: dict[int, Lines] = {}
        for each in found:
            if each.kind is SelectorKind.MARK or not any(
                visit.rule.line in wanted for visit in each.walk.visits
            ):
                continue
            for rungs in _rungs(each.walk):
                if not any(_is_rung(step) for visit in rungs for step in visit.rule.steps):
                    continue
                rules = [visit.rule for visit in rungs]
                lines = self._cures.get(rules[0].place)
                if lines is None and _is_even(rungs):
                    by_chance = _by_chance(rules)
                    lines = self._corrections.equal(rules, each.service, by_chance=by_chance)
                for rule in rules if lines else ():
                    cures.setdefault(rule.line, lines or ())
        return cures

    # -- ladders

    def _ladders(self, found: TracedService, walk: Walk) -> None:
        leak = found.service.leak
        for rungs in _rungs(walk):
            nth: dict[int, list[Visit]] = {}
            chance: dict[tuple[int, int], list[Visit]] = {}
            bare = False
            # lbctl writes ladders of weights, where equal chances may well be wanted.
            weighted = bool(self._own) and any(visit.rule.place in self._own for visit in rungs)
            picking = 0 if weighted else sum(bool(visit.rule.picks) for visit in rungs)
            selectors: dict[Selector, Visit] = {}
            for visit in rungs:
                rule = visit.rule
                picks = [step for step in rule.steps if _is_rung(step)]
                bare |= not rule.picks
                if len(picks) != 1:
                    continue
                [step] = picks
                selectors.setdefault(visit.path, visit)
                hits, total = size(step.hits), step.pick.modulus
                if step.pick.kind is PickKind.COUNTER and hits == 1 and total > 1:
                    nth.setdefault(total, []).append(visit)
                elif step.pick.kind is PickKind.DICE and 0 < hits < total and step.hits[0][0] == 0:
                    chance.setdefault((hits, total), []).append(visit)
            if len(selectors) > 1 and walk.modes == {"nth"}:
                self._differs(rungs, list(selectors.values()))
            for every, visits in nth.items():
                turns = {step.hits for v in visits for step in v.rule.steps if _is_rung(step)}
                apart, alone = len(turns) > 1, len(visits) == picking
                if _repeated(every, len(visits), leak, bare, apart=apart, alone=alone):
                    self._same("every-n-on-each-line", f"one of {every}", found, visits, rungs)
            for (hits, total), visits in chance.items():
                alone = len(visits) == picking
                if _repeated(round(total / hits), len(visits), leak, bare, apart=False, alone=alone):
                    what = f"a chance of {percent(Fraction(hits, total))}"
                    self._same("equal-probability-on-each-line", what, found, visits, rungs)

    def _differs(self, rungs: Sequence[Visit], different: Sequence[Visit]) -> None:
        last = different[-1].rule
        if self._once("selectors-differ", last):
            asked = "; ".join(described(visit.path, self._bits) for visit in different[:4])
            self._log.find(
                "selectors-differ",
                last,
                f"the {len(rungs)} rules of one ladder match different connections: {asked}; "
                f"they give {_got(rungs)}",
                self._corrections.alike([visit.rule for visit in rungs]),
            )

    def _same(
        self, code: str, what: str, found: TracedService, visits: Sequence[Visit], rungs: Sequence[Visit]
    ) -> None:
        first = visits[0].rule
        if not self._once(code, first):
            return
        service = found.service
        leak = f", and {percent(service.leak)} are unmatched" if service.leak else ""
        bare = [visit for visit in rungs if not visit.rule.picks][:1]
        by_chance = code == "equal-probability-on-each-line"
        rules = [visit.rule for visit in [*visits, *bare]]
        cure = self._cures[first.place] = self._corrections.equal(rules, service, by_chance=by_chance)
        self._log.find(
            code,
            first,
            f"{what} on each of {len(visits)} lines (to line {visits[-1].rule.line}); each "
            f"sees only what the ones before it left: they get {_got(visits)}{leak}",
            cure,
        )

    def _unmatched(self, found: TracedService) -> None:
        service = found.service
        if not service.leak or not service.backends or found.explicit_leak:
            return
        picking = [v for walk in found.walks for v in walk.visits if v.rule.picks and v.arriving]
        if not picking:
            return
        last = picking[-1].rule
        rungs = [v for v in found.walk.visits if v.rule.picks and v.arriving and v.rule.place == last.place]
        partly = [rule for rule in found.walk.parts.mapping if rule.place == last.place]
        if partly:
            # What these leave, others take in part.
            self._differs_from(found, last, partly[-1])
            return
        if not self._once("no-catch-all", last):
            return
        self._log.find(
            "no-catch-all",
            last,
            f"{percent(service.leak)} of new connections ({brief(service.leak)}) are unmatched: "
            f"{service.leak_to}; if the last rule did not pick, it would match them",
            self._cures.get(last.place) or self._caught(rungs, service),
            None if len(service.backends) > 1 else WARNING,
        )

    def _differs_from(self, found: TracedService, last: Rule, other: Rule) -> None:
        """A rule beside a ladder that takes a part of what its rungs leave."""
        if self._once("selectors-differ", other):
            wanted = described(found.selector.where, self._bits)
            self._log.find(
                "selectors-differ",
                other,
                f"it matches {described(other.where, self._bits)}, and the rungs up to line {last.line} "
                f"match {wanted}: it matches only a part of what they leave",
                self._corrections.alike([last, other]),
            )

    def _caught(self, rungs: Sequence[Visit], service: AnalysedService) -> Lines:
        """The rungs of a ladder, the last one with all that is left; equal parts, if they were equal."""
        rules = [rung.rule for rung in rungs]
        by_chance = _by_chance(rules)
        if len({rung.matched for rung in rungs}) == 1:
            return self._corrections.equal(rules, service, by_chance=by_chance)
        return self._corrections.caught(rules, service, by_chance=by_chance)

    def _unreachable(self, found: TracedService, reached: set[Rule]) -> None:
        chains: dict[str, tuple[Rule | None, Lines | None]] = {}
        for rule in found.selector.leaves:
            if not rule.maps or rule in reached or not self._once("unreachable-rule", rule):
                continue
            if found.hook.name == INGRESS and rule.later:
                # Packets of established connections may reach it.
                continue
            if rule.place not in chains:
                chains[rule.place] = self._taking(found, rule.place)
            last, ladder = chains[rule.place]
            if last is not None and ladder is None:
                ladder = self._corrections.own([rule, last])
            self._log.find(
                "unreachable-rule",
                rule,
                "0 % of connections reach it: rules before it match them all",
                ladder or (),
            )

    def _taking(self, found: TracedService, place: str) -> tuple[Rule | None, Lines | None]:
        """The last rule of a chain that takes connections, and its rules as the rungs that they should be.

        None for the rungs where rules ask for different connections: one belongs ahead of a rule for more.
        """
        taking = [
            visit.rule
            for visit in found.walk.visits
            if visit.matched and visit.rule.maps and visit.rule.place == place
        ]
        if not taking:
            return None, None
        rungs = [each for each in found.selector.leaves if each.maps and each.place == place]
        if taking[-1] not in rungs or len({rung.where for rung in rungs}) > 1:
            return taking[-1], None
        targets: dict[object, Rule] = {}
        for rung in rungs:
            targets.setdefault((rung.target, rung.to, rung.switch, rung.text if rung.switch else ""), rung)
        return taking[-1], self._corrections.equal(list(targets.values()), None, by_chance=False)

    # -- counters

    def _shared(
        self,
        found: TracedService,
        walk: Walk,
        movers: Movers,
        everything: Sequence[TracedService],
    ) -> None:
        ports = found.selector.where.dport
        many = ports is not None and size(ports) > 1
        for counter, rule in walk.counters:
            if len(movers[counter]) == 1 and not many and rule not in walk.wide:
                continue
            own = found.selector.where
            mine = [
                where
                for family, where in movers[counter]
                if family is found.family and (where == own or unmarked(where) != own)
            ]
            others = len(mine) - 1
            wide = rule in walk.wide and not any(isinstance(step, Match) for step in rule.steps)
            if not (others or many or wide) or not self._once("shared-counter", rule):
                continue
            if others:
                each = [described(where, self._bits) for where in mine[:4]]
                listed = f"{len(mine)} listeners: {'; '.join(each)}"
            elif many:
                listed = f"ports {spelled('dport', ports or (), self._bits)}"
            else:
                listed = described(walk.wide[rule], self._bits)
            listeners = mine if others else [found.selector.where]
            if many and not others:
                listeners = [
                    found.selector.where._replace(dport=((port, port),))
                    for low, high in ports or ()
                    for port in range(low, min(high, low + _LIST) + 1)
                ]
            # A whole ladder that is shared is exact over all who share it.
            self._log.find(
                "shared-counter",
                rule,
                f"one counter serves {listed}; shares are exact over all of them, but those of each may be "
                "anything from 0 % to 100 %, depending on the order of connections",
                self._apart(found, walk, rule, listeners, everything),
                WARNING if wide else None,
            )

    def _apart(
        self,
        found: TracedService,
        walk: Walk,
        rule: Rule,
        listeners: Sequence[Selector],
        everything: Sequence[TracedService],
    ) -> Lines:
        """Return a ladder for each listener; nothing where more than a ladder of endpoints is shared."""
        frame = next((visit.frame for visit in walk.visits if visit.rule is rule), None)
        rungs = [visit.rule for visit in walk.visits if visit.frame == frame]
        plain = all(
            rung.maps and not any(isinstance(step, MarkIs | Memory) for step in rung.steps) for rung in rungs
        )
        if not plain or not found.hook.name or walk.memories:
            return ()
        wanted = set(listeners)
        services = [
            each.service
            for each in everything
            if each.selector.where in wanted and each.hook.name == found.hook.name
        ]
        return self._corrections.apart(rungs, listeners, found.hook.name, services)

    # -- marks and memories

    def _marks(self, found: TracedService, walk: Walk) -> None:
        if found.kind is not SelectorKind.MARK:
            return
        lost: dict[tuple[Rule, Rule], Fraction] = {}
        for who, by, part in walk.overwritten:
            if not by.asks_mark or not by.picks:
                lost[who, by] = lost.get((who, by), Fraction(0)) + part
        for (who, by), part in lost.items():
            if self._once("last-mark-wins", by):
                self._log.find(
                    "last-mark-wins",
                    by,
                    f"a mark does not end a chain: {percent(part)} of connections, which line {who.line} "
                    "marked, get this mark instead",
                    self._guarded(found, by),
                )

    def _anew(self, found: TracedService, walk: Walk) -> None:
        """A pick that is made again for packets behind the first one of a connection."""
        if not found.anew:
            return
        shares = found.service.backends
        for visit in walk.visits:
            rule = visit.rule
            if rule.picks and visit.arriving and found.anew & set(walk.met):
                if self._once("per-packet-balancing", rule):
                    got = ", ".join(f"{each.to} {percent(each.share)}" for each in shares[:8])
                    ingress = found.hook.name == INGRESS
                    self._log.find(
                        "per-packet-balancing",
                        rule,
                        f"every packet reaches this rule: {_AT_INGRESS if ingress else _WITHOUT_MARK}, "
                        f"100 % of connections have their packets spread ({got})",
                        () if ingress else self._remembered(walk, rule),
                        # A datagram may well be all of its connection.
                        WARNING if ingress and found.service.proto == "udp" else None,
                    )
                return

    def _guarded(self, found: TracedService, by: Rule) -> Lines:
        """Return the rules that mark, of which the later one leaves alone what is marked."""
        before = [v.rule for v in found.walk.visits if v.rule.marks and v.matched]
        before = before[: before.index(by)] if by in before else []
        return self._corrections.unmarked([each for each in before if each.place == by.place], by)

    def _remembered(self, walk: Walk, rule: Rule) -> Lines:
        """Return the rules that pick, for new connections alone, and their marks kept."""
        chain = [v.rule for v in walk.visits if v.rule.place == rule.place and v.arriving]
        if any(not each.marks or any(m.connection for m in each.markings) for each in chain):
            return ()
        return self._corrections.remembered(chain)

    def _recent(self, walk: Walk) -> None:
        for memory, rule in walk.memories[:1]:
            if memory.kind != "recent" or memory.inverted or not self._once("affinity-recent", rule):
                continue
            time = f"for {memory.seconds} seconds" if memory.seconds is not None else "without a time limit"
            self._log.find(
                "affinity-recent",
                rule,
                f"clients are kept {time} by their {memory.by} in list {shown(memory.name)}; a list holds "
                f"{_LIST} clients unless xt_recent was loaded with another ip_list_tot, and more are "
                "forgotten silently",
            )

    # -- local connections

    def _outward(self, service: AnalysedService, outward: set[tuple[str, str]], found: TracedService) -> None:
        if (
            not outward
            or service.hooks != ("prerouting",)
            or service.action not in {"redirect", "dnat"}
            or (service.proto, service.dport) in outward
            or found.left_out
            or not found.selector.leaves
        ):
            return
        first = found.selector.leaves[0]
        if not self._once("prerouting-only", first):
            return
        bases = {base.chain for base in found.hook.passed if base.kind == "nat"}
        rules = [visit.rule for visit in found.walk.visits if visit.matched and visit.rule.place in bases]
        broken = any(rule.place in self._cures for rule in rules)
        self._log.find(
            "prerouting-only",
            first,
            "connections made on this host pass OUTPUT and not PREROUTING: 0 % of them are balanced, and "
            "those to other services of this text are",
            () if broken else self._corrections.outward(rules),
        )


def _is_rung(step: object) -> TypeGuard[Draw]:
    return isinstance(step, Draw) and step.pick.kind is not PickKind.HASH


def _rungs(walk: Walk) -> Iterator[list[Visit]]:
    """Rules that were met one after another in one chain and keep what they match."""
    frames: dict[int, list[Visit]] = {}
    for visit in walk.visits:
        if visit.arriving and visit.matched is not None:
            frames.setdefault(visit.frame, []).append(visit)
    for visits in frames.values():
        if len(visits) < 2:
            continue
        kept: list[Visit] = []
        for i, visit in enumerate(visits):
            if (
                visit.rule.act in _KEEPING
                or (
                    i + 1 < len(visits)
                    and visit.matched
                    and visits[i + 1].arriving == visit.arriving - visit.matched
                )
                or (i + 1 == len(visits) and visit.rule.act in JUMPS)
                or (visit.rule.marks and _is_guarded(visit.rule))
            ):
                kept.append(visit)
        yield kept


def _by_chance(rules: Sequence[Rule]) -> bool:
    """Return True for a ladder of draws."""
    return any(
        isinstance(step, Draw) and step.pick.kind is PickKind.DICE for rule in rules for step in rule.steps
    )


def _is_even(rungs: Sequence[Visit]) -> bool:
    """Return True if rungs take about the same, as far as they take anything."""
    taken = [visit.matched for visit in rungs if visit.matched]
    return bool(taken) and min(taken) * _EVEN >= max(taken)


def _is_guarded(rule: Rule) -> bool:
    """True for a rule that asks for a mark before it counts, so that what others marked is not counted."""
    for step in rule.steps:
        if isinstance(step, MarkIs):
            return True
        if _is_rung(step):
            return False
    return False


def _repeated(every: int, count: int, leak: Fraction, bare: bool, *, apart: bool, alone: bool) -> bool:
    """Return True if so many rules with one of `every` are a mistake, and no ladder.

    Where they are not `alone`, others pick too: two equal ones among these may come from weights.
    """
    if count < 2:
        return False
    if leak and not bare:
        return True
    # One of 2, one of 2 and the rest is 2:1:1, and right.
    return (apart and count == every) or (alone and every > 2 and count in {every - 1, every})


def _got(visits: Sequence[Visit]) -> str:
    """Return what rules take, in words."""
    return ", ".join(percent(visit.matched or Fraction(0)) for visit in visits[:8])
