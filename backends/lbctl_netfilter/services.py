"""What becomes of the connections of a selector → the service that they are of."""

from __future__ import annotations

from dataclasses import field, replace
from fractions import Fraction
from functools import partial
from math import lcm
from typing import TYPE_CHECKING, NamedTuple

from lbctl.model import MAX_SLOTS, Affinity, AnalysedService, EndpointShare, PathEnd
from lbctl.values import dataclass
from lbctl_netfilter.conditions import LOCAL, YES, is_negative, rest, spelled, when, words
from lbctl_netfilter.follow import numbers_of
from lbctl_netfilter.hooks import HOOKS
from lbctl_netfilter.ir import Act
from lbctl_netfilter.population import End, ratio
from lbctl_netfilter.selectors import SelectorKind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from lbctl.model import Family, SourceNat, Step
    from lbctl_netfilter.conditions import Condition, Selector
    from lbctl_netfilter.follow import Walk
    from lbctl_netfilter.hooks import Hook
    from lbctl_netfilter.ir import Pick, Rule
    from lbctl_netfilter.population import ConnectionState, Odds, Population
    from lbctl_netfilter.selectors import FoundSelector

_SNAT = frozenset({"snat"})
#: The hook of this host's own connections.
_OWN = "output"
_BY_LOOPBACK: Condition = ("oif", words("lo"))
_DROPPING = frozenset({Act.DROP, Act.UNKNOWN})
#: The longest table of a hash that is shown slot by slot.
_LONGEST = 1 << 16
#: Exemptions that are listed one by one.
_MOST_EXEMPTIONS = 256
_ORIGINAL = "policy ACCEPT: the original destination"


@dataclass(slots=True)
class TracedService:
    """A service with all that was seen on the path of its connections."""

    service: AnalysedService
    kind: SelectorKind
    walk: Walk
    selector: FoundSelector
    family: Family
    hook: Hook
    walks: list[Walk] = field(default_factory=list)
    #: True where rules say by themselves that some connections are not to be balanced.
    explicit_leak: bool = False
    #: Picks that are made anew for packets behind the first one of a connection.
    anew: frozenset[object] = frozenset()
    #: True where rules say by themselves that this host's own connections are not to be balanced.
    left_out: bool = False


class Excluded(NamedTuple):
    """Connections of a selector that a service is not about, and the rule that makes the difference."""

    conditions: Sequence[Condition]
    rule: Rule


def leaves_nothing(past: Sequence[Excluded], bits: int) -> bool:
    """Return True if one of the rules in front takes every connection, whatever it looks at."""
    return any(
        rest(name, values, bits) == ()
        for each in past
        if len(each.conditions) == 1
        for name, values in each.conditions
    )


class _Label(NamedTuple):
    """What a service calls the end of some connections."""

    to: str | None
    action: str
    why: str
    rule: Rule | None
    name: str | None = None


class _Parts:
    """The parts of all connections that go to each endpoint, and elsewhere."""

    def __init__(
        self, population: Population, selector: FoundSelector, kind: SelectorKind, bits: int
    ) -> None:
        self.shares: dict[str, Odds] = {}
        self.leaks: dict[str, Odds] = {}
        self.actions: dict[str, None] = {}
        self.names: dict[str, str | None] = {}
        self.order: dict[str, int] = {}
        #: The end of each state, in their order.
        self.ends: list[str | None] = []
        self.outcomes: dict[tuple[int | None, str | None, str], Odds] = {}
        label = label_of(kind)
        for state, chances in population.states.items():
            to, action, why, rule, name = label(state)
            part: Odds = 0
            for chance, places in chances.items():
                part += chance * places.bit_count()
            to = _shown(to, selector, bits)
            self.ends.append(to)
            line = None if rule is None else rule.line
            self.outcomes[line, to, why] = self.outcomes.get((line, to, why), 0) + part
            if to is None:
                self.leaks[why] = self.leaks.get(why, 0) + part
                continue
            self.shares[to] = self.shares.get(to, 0) + part
            self.actions[action] = None
            if rule is not None and line is not None and line < self.order.get(to, line + 1):
                # Of several rules for one endpoint, the first one names it.
                self.order[to] = line
                self.names[to] = name or rule.origin.comment


def is_balanced(walk: Walk, population: Population, kind: SelectorKind) -> bool:
    """Return True if the connections are those of a service."""
    if kind is SelectorKind.NOTHING:
        return True
    label = label_of(kind)
    ends = (found for found in map(label, population.states) if found.to is not None)
    if walk.modes:
        return next(ends, None) is not None
    return kind is not SelectorKind.MARK and any(found.action not in _SNAT for found in ends)


def service_of(
    family: Family,
    hook: Hook,
    selector: FoundSelector,
    walk: Walk,
    population: Population,
    kind: SelectorKind,
    source: tuple[SourceNat | None, tuple[int, ...]],
    past: Sequence[Excluded],
) -> AnalysedService:
    """Return the service. `past` is what it is not about."""
    bits, where = hook.bits, _told_by_destination(selector.where, hook)
    parts = _Parts(population, selector, kind, bits)
    mode = _mode(walk, parts)
    slots, pick = _slots(walk, population, selector, kind, parts, mode, bits)
    length = population.length
    order = _order(slots, parts)
    lines, picking = _lines(walk, kind)
    several = "mark" if kind is SelectorKind.MARK else "mixed"
    action = next(iter(parts.actions)) if len(parts.actions) == 1 else (several if parts.actions else "")
    return AnalysedService(
        family=family,
        proto=_positive("proto", where, bits),
        dst=_positive("dst", where, bits, "local" if LOCAL in where.extra else "any"),
        dport=_positive("dport", where, bits),
        hooks=hook.names,
        action=action or selector.leaves[0].action or "none",
        mode=mode,
        backends=tuple(
            EndpointShare(
                to=to,
                share=ratio(parts.shares[to], length),
                name=_endpoint_name(parts.names.get(to), selector.name),
            )
            for to in order
        ),
        leak=ratio(sum(parts.leaks.values()), length),
        leak_to="; ".join(parts.leaks) or None,
        affinity=_affinity(walk, mode),
        when=when(_when(where, past, bits), bits) or None,
        name=selector.name,
        slots=slots,
        hash_seed=pick.seed if pick else None,
        placing=pick.placing if pick else None,
        source_nat=source[0] if kind is SelectorKind.NAT else None,
        source_lines=source[1] if kind is SelectorKind.NAT else (),
        way=partial(hook.path, selector.where),
        lines=lines,
        picking=picking,
        outcomes=tuple(
            PathEnd(line, to, ratio(part, length), why) for (line, to, why), part in parts.outcomes.items()
        ),
    )


def _told_by_destination(where: Selector, hook: Hook) -> Selector:
    """Return a selector as others say the same: what this host sends by lo goes to its own addresses."""
    if hook.name != _OWN or _BY_LOOPBACK not in where.extra:
        return where
    return where._replace(extra=tuple(sorted({*where.extra, LOCAL} - {_BY_LOOPBACK})))


def _positive(name: str, where: Selector, bits: int, otherwise: str = "any") -> str:
    """Return a field as a service has it: negations stand among the other conditions."""
    values = where.get(name)
    if values is None or is_negative(name, values, bits):
        return otherwise
    return spelled(name, values, bits)


def _mode(walk: Walk, parts: _Parts) -> str:
    if not parts.shares:
        return "none"
    if not walk.modes or (len(parts.shares) == 1 and not parts.leaks):
        return "single"
    return next(iter(walk.modes)) if len(walk.modes) == 1 else "mixed"


def _slots(
    walk: Walk,
    population: Population,
    selector: FoundSelector,
    kind: SelectorKind,
    parts: _Parts,
    mode: str,
    bits: int,
) -> tuple[tuple[str | None, ...], Pick | None]:
    """One period, or the slots of a hash and what picks them; nothing where it is not known."""
    if mode == "single":
        return tuple(parts.shares), None
    if mode == "hash":
        if len(walk.hashes) != 1:
            return (), None
        [pick] = walk.hashes.values()
        if pick.placing is None or pick.modulus > _LONGEST:
            return (), None
        if walk.table is not None:
            targets = numbers_of(walk.table)
            return tuple([_shown(each.to, selector, bits) if each else None for each in targets]), pick
        label = label_of(kind)
        found = _hash_slots(population, pick, lambda state: _shown(label(state).to, selector, bits))
        return (found, pick) if found else ((), None)
    if walk.twice or walk.doubts:
        # What is only right on average, since its period is too long to follow, has no sequence.
        return (), None
    made = tuple(population.sequence(parts.ends))
    label = label_of(kind)
    return _from_start(made, [_shown(label(state).to, selector, bits) for state in walk.starts]), None


def _order(slots: Sequence[str | None], parts: _Parts) -> list[str]:
    """Endpoints in the order of the rules; those of one rule as they get their turns."""
    if len(set(parts.order.values())) == len(parts.shares):
        return sorted(parts.shares, key=parts.order.__getitem__)
    seen = {to: number for number, to in reversed(list(enumerate(slots[:MAX_SLOTS])))}
    return sorted(parts.shares, key=lambda to: (parts.order.get(to, 0), seen.get(to, MAX_SLOTS)))


def _lines(walk: Walk, kind: SelectorKind) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the lines of the rules that take part, and of those that pick."""
    lines: set[int] = set()
    picking: set[int] = set()
    for visit in walk.visits:
        rule = visit.rule
        if rule.opaque is not None:
            continue
        line, maps = rule.line, rule.maps
        if not visit.matched:
            if maps and visit.arriving:
                lines.add(line)
            continue
        if rule.act is not Act.GO_ON or (rule.marks and kind is SelectorKind.MARK):
            lines.add(line)
        if maps or rule.picks:
            picking.add(line)
    return tuple(sorted(lines)), tuple(sorted(picking))


def label_of(kind: SelectorKind) -> Callable[[ConnectionState], _Label]:
    """Return what tells the end of a connection, for a kind of service."""
    return _marked if kind is SelectorKind.MARK else _mapped


def _mapped(state: ConnectionState) -> _Label:
    out = state.out
    if out is None:
        return _Label(None, "", _ORIGINAL, None)
    if out.end is End.ENDPOINT:
        return _Label(out.text, out.rule.action if out.rule else "", "", out.rule, out.name)
    return _Label(None, "", out.text, out.rule)


def _marked(state: ConnectionState) -> _Label:
    out = state.out
    if out is not None and out.end is End.LOST:
        return _Label(None, "", out.text, out.rule)
    if state.by is not None and state.mark:
        return _Label(f"mark {state.mark:#x}", "mark", "", state.by)
    if state.connection_by is not None and state.connmark:
        return _Label(f"mark {state.connmark:#x}", "connmark", "", state.connection_by)
    return _Label(None, "", "no mark", None)


def falls_through(population: Population, kind: SelectorKind) -> bool:
    """Return True if some connections come to the end of the rules."""
    if kind is SelectorKind.MARK:
        return any(_marked(state).to is None and state.out is None for state in population.states)
    return any(state.out is None for state in population.states)


def _affinity(walk: Walk, mode: str) -> Affinity | None:
    for memory, rule in walk.memories:
        leads = memory.kind == "map" or rule.maps or rule.act in {Act.JUMP, Act.GOTO}
        if not memory.inverted and leads:
            return Affinity(kind=memory.kind, by=memory.by, seconds=memory.seconds)
    if mode == "hash":
        by = {pick.by for pick in walk.hashes.values()} | {visit.rule.by for visit in walk.visits}
        by.discard("")
        if len(by) == 1 and all(pick.by for pick in walk.hashes.values()):
            return Affinity(kind="hash", by=by.pop(), seconds=None)
    return None


def _when(where: Selector, past: Sequence[Excluded], bits: int) -> list[Condition]:
    """The conditions beside protocol, address and port, and what rules in front leave of each field."""
    made: list[Condition] = [
        pair for pair in where.conditions[:3] if pair[0] in _HEAD and is_negative(*pair, bits)
    ]
    made += [pair for pair in where.extra if pair != LOCAL or where.dst is not None]
    if len(past) > _MOST_EXEMPTIONS:
        made.append((f"not={len(past)} rules from line {past[0].rule.line} on", YES))
    for each in past if len(past) <= _MOST_EXEMPTIONS else ():
        if len(each.conditions) == 1:
            [(name, values)] = each.conditions
            others = rest(name, values, bits)
            if others is not None:
                made.append((name, others))
                continue
        text = " ".join(f"{name} {text}" for name, text in when(each.conditions, bits).items())
        made.append((f"not={text}", YES))
    return made


_HEAD = frozenset({"proto", "dst", "dport"})


def _hash_slots(
    population: Population, pick: Pick, to_of: Callable[[ConnectionState], str | None]
) -> tuple[str | None, ...]:
    """Return where the clients of each slot go; empty where they do not all go to one place."""
    spans: list[tuple[Fraction, Fraction, str | None]] = []
    for state in population.states:
        span = next(((low, high) for key, low, high in state.nodes), None)
        spans.append((*(span or (Fraction(0), Fraction(1))), to_of(state)))
    size = pick.modulus
    for low, high, _ in spans:
        size = lcm(size, low.denominator, high.denominator)
        if size > _LONGEST:
            return ()
    slots: list[str | None] = [None] * size
    taken = [0] * size
    for low, high, to in spans:
        for i in range(int(low * size), int(high * size)):
            taken[i] += 1
            slots[i] = to
    return tuple(slots) if max(taken) == 1 else ()


def _from_start(slots: tuple[str | None, ...], starts: Sequence[str | None]) -> tuple[str | None, ...]:
    """A period as it is for the very first connection; empty where what comes before it is no part of it."""
    if not starts or not slots:
        return slots
    count = len(slots)
    first = -len(starts) % count
    whole = (*slots[first:], *slots[:first])
    return whole if all(each == whole[i % count] for i, each in enumerate(starts)) else ()


def _shown(to: str | None, selector: FoundSelector, bits: int) -> str | None:
    """An endpoint as it is shown: where only the address is rewritten, the port is that of the listener."""
    if to == "local" and selector.where.dport is not None:
        return spelled("dport", selector.where.dport, bits)
    return to


def _endpoint_name(comment: str | None, service: str | None) -> str | None:
    if comment and service and comment.startswith(f"{service}/"):
        return comment[len(service) + 1 :]
    return None


# -- the same at several hooks


def identity(found: TracedService) -> object:
    """Return what services have in common that are the same at several hooks."""
    service = found.service
    return (
        found.family,
        found.selector.where,
        service.action,
        service.mode,
        # A fraction takes longer to be hashed than its two numbers.
        tuple((each.to, each.name, *each.share.as_integer_ratio()) for each in service.backends),
        service.leak.as_integer_ratio(),
        service.affinity,
        service.hash_seed,
        service.slots,
        tuple((service.when or {}).items()),
    )


def merge(
    found: TracedService,
    hooks: Sequence[str],
    lines: Sequence[int],
    way: Callable[[], tuple[Step, ...]],
    outcomes: Sequence[PathEnd] = (),
) -> None:
    """Have a service be at more hooks, where it is the same."""
    service = found.service
    found.service = replace(
        service,
        hooks=tuple(hook for hook in HOOKS if hook in {*service.hooks, *hooks}),
        lines=tuple(sorted({*service.lines, *lines})),
        way=partial(_both, service.way, way),
        outcomes=tuple(dict.fromkeys((*service.outcomes, *outcomes))),
    )


def _both(one: Callable[[], tuple[Step, ...]], other: Callable[[], tuple[Step, ...]]) -> tuple[Step, ...]:
    return one() + other()


def rungs_of(walk: Walk) -> dict[Rule, tuple[tuple[Fraction, Fraction | None], ...]]:
    """Return, by rule that picks, which parts of all connections arrive at it and match it, at each visit."""
    found: dict[Rule, tuple[tuple[Fraction, Fraction | None], ...]] = {}
    for visit in walk.visits:
        if visit.rule.picks:
            found[visit.rule] = (*found.get(visit.rule, ()), (visit.arriving, visit.matched))
    return found


def decides(found: TracedService, walk: Walk, rule: Rule) -> bool:
    """True where the shares of a service may depend on what a rule picks.

    Endpoints do not depend on a mark that no rule asks for. Marks do not depend on a pick behind the last
    rule that sets a mark or drops.
    """
    if found.kind is not SelectorKind.MARK:
        return rule.act is not Act.GO_ON or any(visit.rule.asks_mark for visit in walk.visits)
    entered = [found.hook.chains[base.chain].chain for base in found.hook.passed]
    if any(chain.policy is Act.DROP for chain in entered):
        return True
    for visit in reversed(walk.visits):
        if visit.rule.marks or visit.rule.act in _DROPPING:
            return True
        if visit.rule is rule:
            return False
    return True


def rules_met(found: TracedService) -> Iterator[Rule]:
    """Yield all rules that its connections arrive at."""
    for walk in found.walks:
        for visit in walk.visits:
            if visit.arriving:
                yield visit.rule
