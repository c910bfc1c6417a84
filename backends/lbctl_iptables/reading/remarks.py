"""What is wrong with a rule by itself, whoever comes to it."""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache
from typing import TYPE_CHECKING

from lbctl.model import Severity
from lbctl_iptables import layout
from lbctl_iptables.pick import DRAW
from lbctl_iptables.reading import right
from lbctl_iptables.reading.meaning import Act, Asked, Chance, Nth
from lbctl_iptables.reading.words import shown, words

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lbctl.model import Family
    from lbctl_iptables.reading.meaning import Meaning
    from lbctl_iptables.reading.ruleset import Log, Rule

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
    if not 2 <= digits <= 11 or not re.fullmatch(r"0?\.[0-9]+", step.written):
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
