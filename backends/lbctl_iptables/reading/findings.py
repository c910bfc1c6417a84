"""What is wrong with rules: its consequence in numbers and, where one can say, the rules that are right."""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache
from typing import TYPE_CHECKING

from lbctl.model import Severity, brief
from lbctl_iptables import layout
from lbctl_iptables.pick import DRAW
from lbctl_iptables.reading import right
from lbctl_iptables.reading import where as w
from lbctl_iptables.reading.meaning import LEADING, Act, Asked, Chance, Marked, Nth, Recent

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from lbctl.model import Family, ReadService
    from lbctl_iptables.reading.flow import Visit, Walk
    from lbctl_iptables.reading.meaning import Meaning
    from lbctl_iptables.reading.reader import Found
    from lbctl_iptables.reading.ruleset import Log, Rule
    from lbctl_iptables.reading.where import Where

ERROR, WARNING, INFO = Severity.ERROR, Severity.WARNING, Severity.INFO
#: Decimals that are nearer to a fraction than this are that fraction's, stored.
_NEAR = Fraction(1, 1 << 20)
#: Fractions that people write as decimals that do not end: halves of nothing are left out.
_SMALL = tuple(
    {Fraction(1, below) for below in range(3, 17)}
    | {Fraction(above, below) for below in range(3, 8) for above in range(1, below)}
)
#: What becomes of connections by a rule that iptables refuses.
_REFUSED = "iptables refuses the rule, so that 0 % of connections meet it"
#: What is known of connections to a rule that is not understood.
_UNKNOWN = "it may take anything from 0 % to 100 % of connections"
#: Rules that decide nothing of a connection, and those that keep what they take.
_IDLE = frozenset({Act.GO_ON, Act.UNKNOWN})
_KEEPING = frozenset({Act.TO, Act.END, Act.RETURN})
#: What the rules of a ladder ask.
_RUNGS = (Nth, Chance)
#: Clients that a list of `recent` keeps unless the module was told otherwise.
_LIST = 100


def shown(text: str) -> str:
    """A name of the text for a sentence: printable, and cut."""
    made = text.encode("unicode_escape").decode("ascii")
    return made if len(made) <= 60 else made[:57] + "..."


def percent(share: Fraction) -> str:
    """A share for people: `29.6 %`."""
    return f"{float(share) * 100:.3g} %"


def words(where: Where, family: Family) -> str:
    """Connections in words."""
    parts = [f"{where.protocol} connections" if where.protocol else "connections"]
    if where.dst is not None:
        parts.append(f"to {w.show_net(where.dst, family)}")
    if where.dport is not None:
        parts.append(f"to port {w.show_ports(where.dport)}")
    parts += [f"with {name} {shown(value)}" for name, value in where.extra]
    return " ".join(parts)


# -- one rule by itself


def misplaced(meaning: Meaning) -> tuple[str, tuple[str, ...]] | None:
    """Why iptables refuses the target of a rule where it stands, and where it may; None where it does not."""
    rule, target = meaning.rule, meaning.target
    if target in {"DNAT", "REDIRECT"}:
        good = ["PREROUTING", "OUTPUT"]
    elif target == "SNAT":
        good = ["POSTROUTING", "INPUT"]
    elif target == "MASQUERADE":
        good = ["POSTROUTING"]
    else:
        return None
    wrong = rule.chain in layout.HOOKS and rule.chain not in good
    if rule.table != "nat":
        reason = f"{target} is for table nat alone, and this is table {rule.table}: {_REFUSED}"
    elif wrong:
        reason = f"{target} is not possible in {rule.chain}, only in {' and '.join(good)}: {_REFUSED}"
    else:
        return None
    return reason, right.elsewhere(rule, "nat", good[0] if wrong else rule.chain)


def of_rules(
    meanings: Sequence[Meaning], lost: set[int], fragments: set[tuple[Family, str]], log: Log
) -> None:
    """What can be said of a rule without knowing who comes to it."""
    seen: dict[object, int] = {}
    before: Meaning | None = None
    old: dict[object, list[Rule]] = {}
    for meaning in meanings:
        if "removed-match" in meaning.remarks:
            old.setdefault(right.counter(meaning.rule), []).append(meaning.rule)
    for meaning in meanings:
        rule = meaning.rule
        for remark in meaning.remarks:
            fragment = (rule.family, rule.table) in fragments
            _remark(remark, meaning, id(rule) in lost, fragment, old, log)
        if rule.table in {"nat", "mangle"} and meaning.act not in _IDLE:
            key = (rule.family, rule.table, rule.chain, rule.spec.source, rule.spec.destination, rule.words)
            first = seen.setdefault(key, rule.line)
            if first != rule.line:
                log.find(
                    "duplicate-rules",
                    WARNING,
                    rule.line,
                    rule.text,
                    f"the same rule as in line {first}: 2 rules where 1 is meant; did a script run twice?",
                    right.lines(right.own([rule])),
                )
        if meaning.steps:
            _steps(meaning, before, log)
        if not meaning.possible and meaning.act is Act.TO and rule.table == "nat":
            log.find(
                "unreachable-rule",
                WARNING,
                rule.line,
                rule.text,
                "0 % of connections come to it: no new one matches, and table nat sees nothing else",
                right.for_new(rule),
            )
        before = meaning


def _remark(
    code: str, meaning: Meaning, lost: bool, fragment: bool, old: Mapping[object, list[Rule]], log: Log
) -> None:
    rule = meaning.rule
    what, reason = meaning.unclear or ("", "")
    match code:
        case "nth-missing-packet":
            log.find(
                code,
                WARNING,
                rule.line,
                rule.text,
                f"--every without --packet: older releases took it as 0; today's {_REFUSED}",
                right.restated(rule, "packet", "0"),
            )
        case "packet-out-of-range":
            step = next(step for step in meaning.steps if isinstance(step, Nth))
            log.find(
                code,
                ERROR,
                rule.line,
                rule.text,
                f"--packet {step.packet} is not below --every {step.every}: {_REFUSED}",
                right.restated(rule, "packet", str(step.packet % step.every)),
            )
        case "obsolete-negation":
            log.find(
                code,
                WARNING,
                rule.line,
                rule.text,
                f"`!` stands before the option since iptables 1.4.3: `! --{rule.spec.obsolete[0]} …`; "
                f"behind it, {_REFUSED}",
                right.lines(right.own([rule])),
            )
        case "removed-match":
            log.find(
                code,
                ERROR,
                rule.line,
                rule.text,
                f"{reason}: {_REFUSED}",
                right.without_old_matches(old[right.counter(rule)], rule),
            )
        case "unsupported-match" if lost:
            log.find(code, WARNING, rule.line, rule.text, f"match {shown(what)}: {reason}; {_UNKNOWN}")
        case "unsupported-target" if rule.table == "nat" or lost:
            log.find(code, WARNING, rule.line, rule.text, f"target {shown(what)}: {reason}; {_UNKNOWN}")
        case "undefined-chain":
            log.find(
                code,
                WARNING if fragment else ERROR,
                rule.line,
                rule.text,
                f"{shown(meaning.target)} is no target and no chain of table {rule.table} in this text; what "
                "connections meet there is not known, and without it iptables loads 0 rules of the table",
                right.declared(rule, meaning.target),
            )
        case "family-mismatch":
            log.find(code, ERROR, rule.line, rule.text, f"{reason}: {_REFUSED}", right.other_family(rule))
        case "unparsable-line":
            log.accept = False
            log.find(code, ERROR, rule.line, rule.text, reason)
        case "dnat-range":
            count = len(meaning.to)
            log.find(
                code,
                WARNING,
                rule.line,
                rule.text,
                reason
                or f"DNAT to {count} addresses hashes {meaning.by}: 100 % of a client's connections go to "
                "the same one, and none take turns",
                right.each_in_turn(rule, "to-destination", _targets(meaning, "to-destination")),
            )
        case "snat-pool":
            log.find(
                code,
                INFO,
                rule.line,
                rule.text,
                reason
                or f"SNAT to {len(meaning.to)} addresses hashes {meaning.by}: 100 % of a client's "
                "connections leave from the same one, and none take turns",
                right.each_in_turn(rule, "to-source", _targets(meaning, "to-source")),
            )
        case "port-range-target":
            log.find(
                code,
                WARNING,
                rule.line,
                rule.text,
                f"a range of ports without --random: 100 % of connections go to {shown(meaning.to[0][0])}, "
                "the first one",
                right.random_port(rule),
            )


def _targets(meaning: Meaning, option: str) -> list[str]:
    """The addresses that a target chooses from, one by one."""
    given = meaning.rule.spec.values.get(option, [])
    return [values[0] for values in given] if len(given) > 1 else [to for to, _ in meaning.to]


def _steps(meaning: Meaning, before: Meaning | None, log: Log) -> None:
    rule = meaning.rule
    picked = False
    for step in meaning.steps:
        if isinstance(step, Chance):
            picked = True
            _chance(step, rule, log)
        elif isinstance(step, Nth):
            picked = True
            _differs(step, meaning, before, log)
        elif picked and isinstance(step, Asked):
            log.find(
                "statistic-before-selector",
                ERROR,
                rule.line,
                rule.text,
                "matches are asked in their order: the statistic counts "
                f"100 % of {words(meaning.where, rule.family)}, and only then the rule asks for "
                f"{words(step.where, rule.family)}, whose shares may be anything from 0 % to 100 %",
                right.behind(rule),
            )
            return


def _chance(step: Chance, rule: Rule, log: Log) -> None:
    if step.stored == 0:
        log.find(
            "probability-zero",
            WARNING,
            rule.line,
            rule.text,
            f"--probability {shown(step.written)} is stored as 0 of 2^31: 0 % of connections match",
            right.restated(rule, "probability", right.SMALLEST) if _is_positive(step.written) else (),
        )
        return
    meant = _meant(step)
    if meant is not None:
        log.find(
            "probability-rounding",
            WARNING,
            rule.line,
            rule.text,
            f"--probability {shown(step.written)} is {step.stored}/2147483648 and not {meant}: "
            f"{float(step.stored * 100 / DRAW):.6g} % of connections, not {float(meant * 100):.6g} %",
            right.restated(rule, "probability", f"{float(meant):.11f}"),
        )


def _is_positive(text: str) -> bool:
    return float(text) > 0


@lru_cache(maxsize=1 << 12)
def _meant(step: Chance) -> Fraction | None:
    """The fraction that was cut to some decimals, where its cut is off by enough to matter."""
    digits = len(step.written.partition(".")[2])
    if not 2 <= digits <= 11 or not re.fullmatch(r"0?\.\d+", step.written):
        return None
    value, scale = Fraction(step.written), 10**digits
    for fraction in _SMALL:
        # One that has an end is written in full.
        if (fraction * 10**6).denominator == 1:
            continue
        cut, rounded = int(fraction * scale), int(fraction * scale + Fraction(1, 2))
        if value * scale in {cut, rounded} and abs(Fraction(step.stored, DRAW) - fraction) >= _NEAR:
            return fraction
    return None


def _differs(step: Nth, meaning: Meaning, before: Meaning | None, log: Log) -> None:
    """A ladder's next rung that asks for something else."""
    if before is None or before.act is not Act.TO or meaning.act is not Act.TO:
        return
    above = next((x for x in before.steps if isinstance(x, Nth)), None)
    rule, other = meaning.rule, before.rule
    if (
        above is not None
        and above.every == step.every + 1
        and before.where != meaning.where
        and (rule.table, rule.chain, rule.family) == (other.table, other.chain, other.family)
    ):
        log.find(
            "selectors-differ",
            ERROR,
            rule.line,
            rule.text,
            f"one of {step.every} behind one of {above.every} in line {other.line}, but it asks for "
            f"{words(meaning.where, rule.family)} where line {other.line} asks for "
            f"{words(before.where, rule.family)}: of those, 0 % come to this rule",
            right.alike([other, rule]),
        )


# -- rules as connections meet them


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
            _unreachable(each, reached, said, log)
            _shared(each, walk, movers, said, log)
            _marks(each, walk, said, log)
            _recent(walk, said, log)
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
        # lbctl writes ladders of weights, where equal chances may well be wanted.
        weighted = any(layout.owner_of(visit.meaning.rule.chain) for visit in rungs)
        picking = 0
        selectors: dict[Where, Visit] = {}
        for visit in rungs:
            meaning = visit.meaning
            picks = [step for step in meaning.steps if isinstance(step, _RUNGS)]
            bare |= not meaning.picks
            picking += bool(meaning.picks)
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
            alone = len(visits) == picking and not weighted
            if _repeated(every, len(visits), leak, bare, apart=len(packets) > 1, alone=alone):
                what = f"one of {every}"
                _same_on_each(found, "every-n-on-each-line", what, visits, rungs, said, log)
        for stored, visits in chance.items():
            alone = len(visits) == picking and not weighted
            if _repeated(round(DRAW / stored), len(visits), leak, bare, apart=False, alone=alone):
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
    for meaning in found.selector.leaves:
        if meaning.act is Act.TO and meaning not in reached and _once(said, "unreachable-rule", meaning):
            log.find(
                "unreachable-rule",
                WARNING,
                meaning.rule.line,
                meaning.rule.text,
                "0 % of connections come to it: rules before it take them all",
                _reached(found, meaning),
            )


def _reached(found: Found, meaning: Meaning) -> tuple[str, ...]:
    """A rule so that connections come to it: a rung as the others are, or ahead of a rule for more."""
    rule = meaning.rule
    taking = [
        visit.meaning.rule
        for visit in found.walk.visits
        if visit.took and visit.meaning.act is Act.TO and visit.meaning.rule.chain == rule.chain
    ]
    rungs = [each for each in found.selector.leaves if each.act is Act.TO and each.rule.chain == rule.chain]
    if not taking:
        return ()
    if taking[-1] not in [rung.rule for rung in rungs] or any(rung.where != meaning.where for rung in rungs):
        return right.lines(right.own([rule, taking[-1]]))
    targets: dict[object, Rule] = {}
    for rung in rungs:
        targets.setdefault((rung.target, str(rung.rule.spec.values)), rung.rule)
    return right.ladder(right.own(targets.values()))


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
