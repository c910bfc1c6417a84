"""What is wrong with a rule by itself, whoever comes to it."""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache
from typing import TYPE_CHECKING

from lbctl.model import Severity
from lbctl_iptables import layout
from lbctl_iptables.pick import DRAW
from lbctl_iptables.reading import corrections
from lbctl_iptables.reading.corrections import read_of
from lbctl_iptables.reading.values import number, stored_chance
from lbctl_netfilter.conditions import BITS, described
from lbctl_netfilter.ir import Act, Draw, PickKind
from lbctl_netfilter.log import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from lbctl.model import Family
    from lbctl_iptables.reading.ruleset import Rule
    from lbctl_netfilter import ir
    from lbctl_netfilter.log import Log

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
#: Rules that decide nothing of a connection.
_IDLE = frozenset({Act.GO_ON, Act.UNKNOWN})


def misplaced(meaning: ir.Rule) -> tuple[str, tuple[str, ...]] | None:
    """Why iptables refuses the target of a rule where it stands, and where it may; None where it does not."""
    rule, target = read_of(meaning), meaning.target
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
    return reason, corrections.elsewhere(rule, "nat", good[0] if wrong else rule.chain)


def of_rules(
    rules: Sequence[ir.Rule], is_lost: Callable[[Rule], bool], fragments: set[tuple[Family, str]], log: Log
) -> None:
    """What can be said of a rule without knowing who comes to it."""
    seen: dict[object, int] = {}
    before: ir.Rule | None = None
    old: dict[object, list[Rule]] = {}
    for each in rules:
        if "removed-match" in each.remarks:
            old.setdefault(corrections.counter(read_of(each)), []).append(read_of(each))
    for each in rules:
        rule = read_of(each)
        for remark in each.remarks:
            fragment = (rule.family, rule.table) in fragments
            _remark(remark, each, is_lost(rule), fragment, old, log)
        if rule.table in {"nat", "mangle"} and (each.marks or each.act not in _IDLE):
            key = (rule.family, rule.table, rule.chain, rule.spec.source, rule.spec.destination, rule.words)
            first = seen.setdefault(key, rule.line)
            if first != rule.line:
                log.find(
                    "duplicate-rules",
                    WARNING,
                    rule.line,
                    rule.text,
                    f"the same rule as in line {first}: 2 rules where 1 is meant; did a script run twice?",
                    corrections.lines(corrections.own([rule])),
                )
        if each.steps:
            _steps(each, before, log)
        if not each.first and not each.refused and each.act is Act.TO and rule.table == "nat":
            log.find(
                "unreachable-rule",
                WARNING,
                rule.line,
                rule.text,
                "0 % of connections come to it: no new one matches, and table nat sees nothing else",
                corrections.for_new(rule),
            )
        before = each


def _remark(
    code: str, meaning: ir.Rule, lost: bool, fragment: bool, old: Mapping[object, list[Rule]], log: Log
) -> None:
    rule = read_of(meaning)
    what, reason = meaning.opaque or ("", "")
    match code:
        case "nth-missing-packet":
            log.find(
                code,
                WARNING,
                rule.line,
                rule.text,
                f"--every without --packet: older releases took it as 0; today's {_REFUSED}",
                corrections.restated(rule, "packet", "0"),
            )
        case "packet-out-of-range":
            packet, every = (number(_statistic(rule, name)) or 0 for name in ("packet", "every"))
            log.find(
                code,
                ERROR,
                rule.line,
                rule.text,
                f"--packet {packet} is not below --every {every}: {_REFUSED}",
                corrections.restated(rule, "packet", str(packet % max(every, 1))),
            )
        case "obsolete-negation":
            log.find(
                code,
                WARNING,
                rule.line,
                rule.text,
                f"`!` stands before the option since iptables 1.4.3: `! --{rule.spec.obsolete[0]} …`; "
                f"behind it, {_REFUSED}",
                corrections.lines(corrections.own([rule])),
            )
        case "removed-match":
            log.find(
                code,
                ERROR,
                rule.line,
                rule.text,
                f"{reason}: {_REFUSED}",
                corrections.without_old_matches(old[corrections.counter(rule)], rule),
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
                corrections.declared(rule, meaning.target),
            )
        case "family-mismatch":
            log.find(
                code, ERROR, rule.line, rule.text, f"{reason}: {_REFUSED}", corrections.other_family(rule)
            )
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
                corrections.each_in_turn(rule, "to-destination", _targets(meaning, "to-destination")),
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
                corrections.each_in_turn(rule, "to-source", _targets(meaning, "to-source")),
            )
        case "port-range-target":
            log.find(
                code,
                WARNING,
                rule.line,
                rule.text,
                f"a range of ports without --random: 100 % of connections go to {shown(meaning.to[0][0])}, "
                "the first one",
                corrections.random_port(rule),
            )


def _targets(meaning: ir.Rule, option: str) -> list[str]:
    """The addresses that a target chooses from, one by one."""
    given = read_of(meaning).spec.values.get(option, [])
    return [values[0] for values in given] if len(given) > 1 else [to for to, _ in meaning.to]


def _statistic(rule: Rule, option: str) -> str:
    """What an option of match statistic has in a rule."""
    return next(
        (
            values[0]
            for match in rule.spec.matches
            if match.name == "statistic"
            for name, _, values in match.options
            if name == option and values
        ),
        "",
    )


def _steps(meaning: ir.Rule, before: ir.Rule | None, log: Log) -> None:
    for step in meaning.steps:
        if isinstance(step, Draw) and step.pick.kind is PickKind.DICE:
            _chance(_statistic(read_of(meaning), "probability"), read_of(meaning), log)
        elif isinstance(step, Draw) and step.pick.kind is PickKind.COUNTER:
            _differs(step, meaning, before, log)


def _chance(written: str, rule: Rule, log: Log) -> None:
    stored = stored_chance(written) or 0
    if stored == 0:
        log.find(
            "probability-zero",
            WARNING,
            rule.line,
            rule.text,
            f"--probability {shown(written)} is stored as 0 of 2^31: 0 % of connections match",
            corrections.restated(rule, "probability", corrections.SMALLEST) if float(written) > 0 else (),
        )
        return
    meant = _meant(written, stored)
    if meant is not None:
        log.find(
            "probability-rounding",
            WARNING,
            rule.line,
            rule.text,
            f"--probability {shown(written)} is {stored}/2147483648 and not {meant}: "
            f"{float(stored * 100 / DRAW):.6g} % of connections, not {float(meant * 100):.6g} %",
            corrections.restated(rule, "probability", f"{float(meant):.11f}"),
        )


@lru_cache(maxsize=1 << 12)
def _meant(written: str, stored: int) -> Fraction | None:
    """The fraction that was cut to some decimals, where its cut is off by enough to matter."""
    digits = len(written.partition(".")[2])
    if not 2 <= digits <= 11 or not re.fullmatch(r"0?\.[0-9]+", written):
        return None
    value, scale = Fraction(written), 10**digits
    for fraction in _SMALL:
        # One that has an end is written in full.
        if (fraction * 10**6).denominator == 1:
            continue
        cut, rounded = int(fraction * scale), int(fraction * scale + Fraction(1, 2))
        if value * scale in {cut, rounded} and abs(Fraction(stored, DRAW) - fraction) >= _NEAR:
            return fraction
    return None


def _differs(step: Draw, meaning: ir.Rule, before: ir.Rule | None, log: Log) -> None:
    """A ladder's next rung that asks for something else."""
    if before is None or before.act is not Act.TO or meaning.act is not Act.TO:
        return
    above = next((x for x in before.steps if isinstance(x, Draw) and x.pick.kind is PickKind.COUNTER), None)
    rule, other = read_of(meaning), read_of(before)
    every = step.pick.modulus
    if (
        above is not None
        and above.pick.modulus == every + 1
        and before.where != meaning.where
        and (rule.table, rule.chain, rule.family) == (other.table, other.chain, other.family)
    ):
        bits = BITS[rule.family]
        log.find(
            "selectors-differ",
            ERROR,
            rule.line,
            rule.text,
            f"one of {every} behind one of {above.pick.modulus} in line {other.line}, but it asks for "
            f"{described(meaning.where, bits)} where line {other.line} asks for "
            f"{described(before.where, bits)}: of those, 0 % come to this rule",
            corrections.alike([other, rule]),
        )
