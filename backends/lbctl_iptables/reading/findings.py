"""What is wrong with rules as connections meet them, and in which shares.

As in `remarks`, each with its consequence in numbers and, where one can say, the rules that are right.
"""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

from lbctl.model import Severity, brief
from lbctl_iptables import layout
from lbctl_iptables.pick import DRAW
from lbctl_iptables.reading import right
from lbctl_iptables.reading import where as w
from lbctl_iptables.reading.meaning import LEADING, Act, Asked, Chance, Marked, Nth, Recent
from lbctl_iptables.reading.words import percent, shown, words

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lbctl.model import ReadService
    from lbctl_iptables.reading.flow import Visit, Walk
    from lbctl_iptables.reading.meaning import Meaning
    from lbctl_iptables.reading.ruleset import Log, Rule
    from lbctl_iptables.reading.services import Found
    from lbctl_iptables.reading.where import Where

ERROR, WARNING, INFO = Severity.ERROR, Severity.WARNING, Severity.INFO
#: Rules that keep what they take.
_KEEPING = frozenset({Act.TO, Act.END, Act.RETURN})
#: What the rules of a ladder ask.
_RUNGS = (Nth, Chance)
#: Clients that a list of `recent` keeps unless the module was told otherwise.
_LIST = 100


def of_services(found: Sequence[Found], movers: dict[Meaning, list[Where]], log: Log) -> None:
    """What can be said when it is known who comes to a rule, and in which shares."""
    reached = {visit.meaning for each in found for walk in each.walks for visit in walk.visits if visit.came}
    said: set[tuple[str, int]] = set()
    outward = {
        (each.service.proto, each.service.dport)
        for each in found
        if "output" in each.service.hooks and each.service.action in {"redirect", "dnat"}
    }
    for each in found:
        for walk in each.walks:
            _ladders(each, walk, said, log)
            _shared(each, walk, movers, said, log)
            _marks(each, walk, said, log)
            _recent(walk, said, log)
        _unreachable(each, reached, said, log)
        _leak(each, said, log)
        _outward(each.service, outward, each, said, log)


def _once(said: set[tuple[str, int]], code: str, meaning: Meaning) -> bool:
    key = (code, id(meaning))
    if key in said:
        return False
    said.add(key)
    return True


def _rungs(walk: Walk) -> Iterator[list[Visit]]:
    """Rules that were met one after another in one chain and keep what they take."""
    ways: dict[int, list[Visit]] = {}
    for visit in walk.visits:
        if visit.came:
            ways.setdefault(visit.way, []).append(visit)
    for visits in ways.values():
        if len(visits) < 2:
            continue
        kept: list[Visit] = []
        for i, visit in enumerate(visits):
            if (
                visit.meaning.act in _KEEPING
                or (i + 1 < len(visits) and visit.took and visits[i + 1].came == visit.came - visit.took)
                or (i + 1 == len(visits) and visit.meaning.act in LEADING)
                or (visit.meaning.act is Act.MARK and _guarded(visit.meaning))
            ):
                kept.append(visit)
        yield kept


def _guarded(meaning: Meaning) -> bool:
    """True for a rule that asks for a mark before it counts, so that what others marked is not counted."""
    for step in meaning.steps:
        if isinstance(step, Marked):
            return True
        if isinstance(step, _RUNGS):
            return False
    return False


def _ladders(found: Found, walk: Walk, said: set[tuple[str, int]], log: Log) -> None:
    leak = found.service.leak
    for rungs in _rungs(walk):
        nth: dict[int, list[Visit]] = {}
        chance: dict[int, list[Visit]] = {}
        bare = False
        # lbctl writes ladders of weights, where equal chances may well be wanted: no number is all of these.
        weighted = any(layout.owner_of(visit.meaning.rule.chain) for visit in rungs)
        picking = 0 if weighted else sum(bool(visit.meaning.picks) for visit in rungs)
        selectors: dict[Where, Visit] = {}
        for visit in rungs:
            meaning = visit.meaning
            picks = [step for step in meaning.steps if isinstance(step, _RUNGS)]
            bare |= not meaning.picks
            if len(picks) != 1:
                continue
            selectors.setdefault(visit.path, visit)
            if isinstance(picks[0], Nth) and not picks[0].inverted and picks[0].every > 1:
                nth.setdefault(picks[0].every, []).append(visit)
            elif isinstance(picks[0], Chance) and 0 < picks[0].stored < DRAW and not picks[0].inverted:
                chance.setdefault(picks[0].stored, []).append(visit)
        if len(selectors) > 1 and walk.modes == {"nth"}:
            *_, last = selectors.values()
            if _once(said, "selectors-differ", last.meaning):
                log.find(
                    "selectors-differ",
                    ERROR,
                    last.meaning.rule.line,
                    last.meaning.rule.text,
                    f"the {len(rungs)} rules of one ladder ask for different connections: "
                    + "; ".join(words(where, found.family) for where in list(selectors)[:4])
                    + f"; they give {_got(rungs)}",
                    right.alike([visit.meaning.rule for visit in rungs]),
                )
        for every, visits in nth.items():
            packets = {step.packet for v in visits for step in v.meaning.steps if isinstance(step, Nth)}
            if _repeated(
                every, len(visits), leak, bare, apart=len(packets) > 1, alone=len(visits) == picking
            ):
                what = f"one of {every}"
                _same_on_each(found, "every-n-on-each-line", what, visits, rungs, said, log)
        for stored, visits in chance.items():
            if _repeated(
                round(DRAW / stored), len(visits), leak, bare, apart=False, alone=len(visits) == picking
            ):
                what = f"a chance of {percent(Fraction(stored, DRAW))}"
                _same_on_each(found, "equal-probability-on-each-line", what, visits, rungs, said, log)


def _repeated(every: int, count: int, leak: Fraction, bare: bool, *, apart: bool, alone: bool) -> bool:
    """True where so many rules with one of `every` are no ladder that anybody would want.

    Where they are not `alone`, others pick too: two equal ones among these may come from weights.
    """
    if count < 2:
        return False
    if leak and not bare:
        return True
    # One of 2, one of 2 and the rest is 2:1:1, and right.
    return (apart and count == every) or (alone and every > 2 and count in {every - 1, every})


def _same_on_each(
    found: Found,
    code: str,
    what: str,
    visits: Sequence[Visit],
    rungs: Sequence[Visit],
    said: set[tuple[str, int]],
    log: Log,
) -> None:
    first = visits[0].meaning
    if not _once(said, code, first):
        return
    service = found.service
    leak = f", and {percent(service.leak)} reach no endpoint" if service.leak else ""
    bare = [visit for visit in rungs if not visit.meaning.picks][:1]
    rules = right.own(visit.meaning.rule for visit in [*visits, *bare])
    log.find(
        code,
        ERROR,
        first.rule.line,
        first.rule.text,
        f"{what} on each of {len(visits)} lines (to line {visits[-1].meaning.rule.line}), of which each "
        f"sees only what the ones before it left: they get {_got(visits)}{leak}",
        right.ladder(rules, by_chance=code == "equal-probability-on-each-line"),
    )


def _got(visits: Sequence[Visit]) -> str:
    """What rules take, in words."""
    return ", ".join(percent(visit.took) for visit in visits[:8])


def _leak(found: Found, said: set[tuple[str, int]], log: Log) -> None:
    service = found.service
    if not service.leak or not service.backends or found.explicit_leak:
        return
    picking = [v for walk in found.walks for v in walk.visits if v.meaning.picks and v.came]
    if not picking:
        return
    last = picking[-1].meaning
    rungs = [
        v for v in found.walk.visits if v.meaning.picks and v.came and v.meaning.rule.chain == last.rule.chain
    ]
    if not _once(said, "no-catch-all", last):
        return
    several = len(service.backends) > 1
    log.find(
        "no-catch-all",
        ERROR if several else WARNING,
        last.rule.line,
        last.rule.text,
        f"{percent(service.leak)} of new connections ({brief(service.leak)}) reach no endpoint: "
        f"{service.leak_to}; without a statistic, the last rule would take them",
        _caught(rungs),
    )


def _caught(rungs: Sequence[Visit]) -> tuple[str, ...]:
    """The rungs of a ladder, the last one with all that is left; equal parts, if they were equal."""
    rules = right.own(rung.meaning.rule for rung in rungs)
    if len({rung.took for rung in rungs}) == 1:
        by_chance = any(isinstance(step, Chance) for rung in rungs for step in rung.meaning.steps)
        return right.ladder(rules, by_chance=by_chance)
    return right.lines([*rules[:-1], *((rule, right.picked(spec, None)) for rule, spec in rules[-1:])])


def _unreachable(found: Found, reached: set[Meaning], said: set[tuple[str, int]], log: Log) -> None:
    chains: dict[str, tuple[Rule | None, right.Lines | None]] = {}
    for meaning in found.selector.leaves:
        if meaning.act is Act.TO and meaning not in reached and _once(said, "unreachable-rule", meaning):
            rule = meaning.rule
            if rule.chain not in chains:
                chains[rule.chain] = _taking(found, rule.chain)
            last, ladder = chains[rule.chain]
            if last is not None and ladder is None:
                ladder = right.lines(right.own([rule, last]))
            log.find(
                "unreachable-rule",
                WARNING,
                rule.line,
                rule.text,
                "0 % of connections come to it: rules before it take them all",
                ladder or (),
            )


def _taking(found: Found, chain: str) -> tuple[Rule | None, right.Lines | None]:
    """The last rule of a chain that takes connections, and all its rules as the rungs that they should be.

    None for the rungs where rules ask for different connections: one belongs ahead of a rule for more.
    """
    taking = [
        visit.meaning.rule
        for visit in found.walk.visits
        if visit.took and visit.meaning.act is Act.TO and visit.meaning.rule.chain == chain
    ]
    if not taking:
        return None, None
    rungs = [each for each in found.selector.leaves if each.act is Act.TO and each.rule.chain == chain]
    if taking[-1] not in [rung.rule for rung in rungs] or len({rung.where for rung in rungs}) > 1:
        return taking[-1], None
    targets: dict[object, Rule] = {}
    for rung in rungs:
        targets.setdefault((rung.target, str(rung.rule.spec.values)), rung.rule)
    return taking[-1], right.ladder(right.own(targets.values()))


def _shared(
    found: Found,
    walk: Walk,
    movers: dict[Meaning, list[Where]],
    said: set[tuple[str, int]],
    log: Log,
) -> None:
    ports = found.selector.where.dport
    many = ports is not None and (len(ports) > 1 or ports[0][0] != ports[0][1])
    for meaning, _ in walk.counters:
        others = len(movers[meaning]) - 1
        wide = meaning in walk.wide and not any(isinstance(step, Asked) for step in meaning.steps)
        if not (others or many or wide) or not _once(said, "shared-counter", meaning):
            continue
        if others:
            each = [words(where, found.family) for where in movers[meaning][:4]]
            listed = f"{len(movers[meaning])} listeners: {'; '.join(each)}"
        elif many:
            listed = f"ports {w.show_ports(ports or ())}"
        else:
            listed = words(walk.wide[meaning], found.family)
        listeners = list(movers[meaning]) if others else [found.selector.where]
        if many and not others:
            listeners = [
                found.selector.where._replace(dport=((port, port),))
                for low, high in ports or ()
                for port in range(low, min(high, low + _LIST) + 1)
            ]
        # A whole ladder that is shared is exact over all who share it.
        log.find(
            "shared-counter",
            INFO if not wide else WARNING,
            meaning.rule.line,
            meaning.rule.text,
            f"one counter serves {listed}; shares are exact over all of them, and those of each may be "
            "anything from 0 % to 100 %, by the order in which connections come",
            _apart(found, walk, meaning, listeners),
        )


def _apart(found: Found, walk: Walk, meaning: Meaning, listeners: Sequence[Where]) -> tuple[str, ...]:
    """A ladder for each listener; nothing where more than a ladder of endpoints is shared."""
    way = next((visit.way for visit in walk.visits if visit.meaning is meaning), None)
    rungs = [visit.meaning for visit in walk.visits if visit.way == way]
    plain = all(
        rung.act is Act.TO and not any(isinstance(step, Marked | Recent) for step in rung.steps)
        for rung in rungs
    )
    if not plain or not found.hook.name or walk.recent:
        return ()
    return right.apart([rung.rule for rung in rungs], listeners, found.hook.name.upper())


def _marks(found: Found, walk: Walk, said: set[tuple[str, int]], log: Log) -> None:
    if found.service.action not in {"mark", "connmark"}:
        return
    lost: dict[tuple[Meaning, Meaning], Fraction] = {}
    for who, by, part in walk.overwritten:
        if not by.asks_mark or not by.picks:
            lost[who, by] = lost.get((who, by), Fraction(0)) + part
    for (who, by), part in lost.items():
        if _once(said, "last-mark-wins", by):
            log.find(
                "last-mark-wins",
                ERROR,
                by.rule.line,
                by.rule.text,
                f"a mark does not end a chain: {percent(part)} of connections, which line {who.rule.line} "
                "marked, get this mark instead",
                _guarded_rules(found, by),
            )
    shares = found.service.backends
    if found.per_packet:
        for visit in walk.visits:
            meaning = visit.meaning
            if meaning.picks and visit.came and meaning.rule.table != "nat":
                if _once(said, "per-packet-balancing", meaning):
                    log.find(
                        "per-packet-balancing",
                        ERROR,
                        meaning.rule.line,
                        meaning.rule.text,
                        f"table {meaning.rule.table} sees every packet: without a match for new connections, "
                        "and CONNMARK to remember what they got, 100 % of connections have their packets "
                        f"spread ({', '.join(f'{each.to} {percent(each.share)}' for each in shares[:8])})",
                        _remembered(walk, meaning),
                    )
                return


def _guarded_rules(found: Found, by: Meaning) -> tuple[str, ...]:
    """The rules that mark, of which the later one leaves alone what is marked."""
    if by.marking is None:
        return ()
    connection, _, _, mask = by.marking
    before = [v.meaning for v in found.walk.visits if v.meaning.act is Act.MARK and v.took]
    before = before[: before.index(by)] if by in before else []
    same = [each.rule for each in before if each.rule.chain == by.rule.chain]
    return right.unmarked(same, by.rule, mask, connection=connection)


def _remembered(walk: Walk, meaning: Meaning) -> tuple[str, ...]:
    """The rules that pick, for new connections alone, and their marks kept."""
    chain = [v.meaning for v in walk.visits if v.meaning.rule.chain == meaning.rule.chain and v.came]
    if any(each.act is not Act.MARK or each.action == "connmark" for each in chain):
        return ()
    return right.remembered([each.rule for each in chain])


def _recent(walk: Walk, said: set[tuple[str, int]], log: Log) -> None:
    if walk.recent:
        step, meaning = walk.recent[0]
        if not step.inverted and _once(said, "affinity-recent", meaning):
            time = f"for {step.seconds} seconds" if step.seconds is not None else "without an end"
            log.find(
                "affinity-recent",
                INFO,
                meaning.rule.line,
                meaning.rule.text,
                f"clients are kept {time} by their {step.by} in list {shown(step.name)}; a list holds "
                f"{_LIST} "
                "clients unless xt_recent was loaded with another ip_list_tot, and more are forgotten in "
                "silence",
            )


def _outward(
    service: ReadService,
    outward: set[tuple[str, str]],
    found: Found,
    said: set[tuple[str, int]],
    log: Log,
) -> None:
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
    if _once(said, "prerouting-only", first):
        log.find(
            "prerouting-only",
            WARNING,
            first.rule.line,
            first.rule.text,
            "connections made on this host pass OUTPUT and not PREROUTING: 0 % of them are balanced, and "
            "those to other services of this text are",
            right.outward(
                [
                    visit.meaning.rule
                    for visit in found.walk.visits
                    if visit.took
                    and visit.meaning.rule.chain == "PREROUTING"
                    and visit.meaning.rule.table == "nat"
                ]
            ),
        )
