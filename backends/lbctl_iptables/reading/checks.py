"""What is wrong with a rule by itself, whatever connections it sees."""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache
from typing import TYPE_CHECKING

from lbctl_iptables import layout
from lbctl_iptables.pick import DRAW
from lbctl_iptables.reading import corrections
from lbctl_iptables.reading.corrections import read_of
from lbctl_iptables.reading.values import number, stored_chance
from lbctl_netfilter.conditions import BITS, described
from lbctl_netfilter.ir import Act, Draw, PickKind
from lbctl_netfilter.log import WARNING, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from lbctl.model import Severity
    from lbctl_iptables.reading.rule import IptRule, Store
    from lbctl_netfilter import ir
    from lbctl_netfilter.corrections import Lines
    from lbctl_netfilter.log import Log

#: Decimals that are nearer to a fraction than this are that fraction's, stored.
_NEAR = Fraction(1, 1 << 20)
#: Fractions that people write as decimals that do not end: halves of nothing are left out.
_SMALL = tuple(
    {Fraction(1, below) for below in range(3, 17)}
    | {Fraction(above, below) for below in range(3, 8) for above in range(1, below)}
)
#: What becomes of connections by a rule that iptables refuses.
_REFUSED = "iptables refuses the rule, so that 0 % of connections match it"
#: What is known of connections to a rule that is not understood.
_UNKNOWN = "it may match anything from 0 % to 100 % of connections"
#: Target → the chains of table nat that may have it, or lead to it.
_PLACES: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("DNAT", "REDIRECT"), ("PREROUTING", "OUTPUT")),
    "SNAT": ("POSTROUTING", "INPUT"),
    "MASQUERADE": ("POSTROUTING",),
}
#: Rules that decide nothing of a connection.
_IDLE = frozenset({Act.GO_ON, Act.UNKNOWN})


def misplaced(meaning: ir.Rule) -> tuple[str, Lines] | None:
    """Why iptables refuses the target of a rule where it stands, and where it may; None if it does not."""
    rule, target = read_of(meaning), meaning.target
    good = _PLACES.get(target)
    if good is None:
        return None
    wrong = rule.chain in layout.HOOKS and rule.chain not in good
    if rule.table != "nat":
        reason = f"{target} is allowed in table nat only, and this is table {rule.table}: {_REFUSED}"
    elif wrong:
        reason = f"{target} is not possible in {rule.chain}, only in {' and '.join(good)}: {_REFUSED}"
    else:
        return None
    return reason, corrections.elsewhere(rule, "nat", good[0] if wrong else rule.chain)


class Checks:
    """Checks of rules that need not know which connections arrive at them.

    `fragments` are the tables of which the text may have a part only.
    """

    def __init__(
        self, is_lost: Callable[[IptRule], bool], fragments: set[tuple[Store, str]], log: Log
    ) -> None:
        self._is_lost = is_lost
        self._fragments = fragments
        self._log = log
        #: Rules of the removed match nth, by the counter that they shared.
        self._old: dict[object, list[IptRule]] = {}
        #: Where a rule was written first.
        self._lines: dict[object, int] = {}

    def of_rules(self, rules: Sequence[ir.Rule]) -> None:
        """Report what they find."""
        for each in rules:
            if "removed-match" in each.remarks:
                self._old.setdefault(corrections.counter(read_of(each)), []).append(read_of(each))
        before: ir.Rule | None = None
        for each in rules:
            rule = read_of(each)
            for remark in each.remarks:
                self._remark(remark, each, rule)
            if rule.table in {"nat", "mangle"} and (each.marks or each.act not in _IDLE):
                self._duplicate(rule)
            for step in each.steps:
                if isinstance(step, Draw) and step.pick.kind is PickKind.DICE:
                    self._chance(_statistic(rule, "probability"), rule)
                elif isinstance(step, Draw) and step.pick.kind is PickKind.COUNTER and before is not None:
                    self._differs(step, each, before)
            if not each.first and not each.refused and each.act is Act.TO and rule.table == "nat":
                message = "0 % of connections reach it: no new one matches, and table nat sees nothing else"
                self._log.find("unreachable-rule", rule, message, corrections.for_new(rule))
            before = each

    def _remark(self, code: str, meaning: ir.Rule, rule: IptRule) -> None:
        """Report what a remark on a rule means."""
        what, reason = meaning.opaque or ("", "")
        severity: Severity | None = None
        lines: Lines = ()
        match code:
            case "nth-missing-packet":
                message = f"--every without --packet: older releases assumed 0; current {_REFUSED}"
                lines = corrections.restated(rule, "packet", "0")
            case "packet-out-of-range":
                packet, every = (number(_statistic(rule, name)) or 0 for name in ("packet", "every"))
                message = f"--packet {packet} is not below --every {every}: {_REFUSED}"
                lines = corrections.restated(rule, "packet", str(packet % max(every, 1)))
            case "obsolete-negation":
                message = "since iptables 1.4.3, `!` goes before the option: "
                message += f"`! --{rule.spec.obsolete[0]} …`; after it, {_REFUSED}"
                lines = corrections.own([rule])
            case "removed-match":
                message = f"{reason}: {_REFUSED}"
                lines = corrections.without_old_matches(self._old[corrections.counter(rule)], rule)
            case "unsupported-match" if self._is_lost(rule):
                message = f"match {shown(what)}: {reason}; {_UNKNOWN}"
            case "unsupported-target" if rule.table == "nat" or self._is_lost(rule):
                message = f"target {shown(what)}: {reason}; {_UNKNOWN}"
            case "undefined-chain":
                severity = WARNING if (rule.store, rule.table) in self._fragments else None
                message = (
                    f"{shown(meaning.target)} is neither a target nor a chain of table {rule.table} in this "
                )
                message += "text; what it does to connections is unknown, and without it iptables loads 0 "
                message += "rules of the table"
                lines = corrections.declared(rule, meaning.target)
            case "family-mismatch":
                message, lines = f"{reason}: {_REFUSED}", corrections.other_family(rule)
            case "unparsable-line":
                message, self._log.accept = reason, False
            case "dnat-range" | "snat-pool":
                side, verb = ("destination", "go to") if code == "dnat-range" else ("source", "leave from")
                message = f"{rule.spec.target} to {len(meaning.to)} addresses hashes {meaning.by}: 100 % of "
                message += f"a client's connections {verb} the same one: that is not round robin"
                message, lines = reason or message, _in_turn(meaning, rule, f"to-{side}")
            case "port-range-target":
                message = "a range of ports without --random: 100 % of connections go to "
                message += f"{shown(meaning.to[0][0])}, the first one"
                lines = corrections.random_port(rule)
            case _:
                return
        self._log.find(code, rule, message, lines, severity)

    def _duplicate(self, rule: IptRule) -> None:
        addresses = (rule.spec.get("source"), rule.spec.get("destination"))
        first = self._lines.setdefault(
            (rule.store, rule.place, addresses, rule.words or rule.text), rule.line
        )
        if first != rule.line:
            message = f"the same rule as in line {first}: 2 rules where 1 is meant; did a script run twice?"
            self._log.find("duplicate-rules", rule, message, corrections.own([rule]))

    def _chance(self, written: str, rule: IptRule) -> None:
        stored = stored_chance(written) or 0
        if stored == 0:
            message = f"--probability {shown(written)} is stored as 0 of 2^31: 0 % of connections match"
            is_some = float(written) > 0
            lines = corrections.restated(rule, "probability", corrections.SMALLEST) if is_some else ()
            self._log.find("probability-zero", rule, message, lines)
        elif (meant := _meant(written, stored)) is not None:
            message = f"--probability {shown(written)} is {stored}/2147483648 and not {meant}: "
            message += f"{float(stored * 100 / DRAW):.6g} % of connections, not {float(meant * 100):.6g} %"
            lines = corrections.restated(rule, "probability", f"{float(meant):.11f}")
            self._log.find("probability-rounding", rule, message, lines)

    def _differs(self, step: Draw, meaning: ir.Rule, before: ir.Rule) -> None:
        """Report a ladder's next rung that asks for something else."""
        rule, other, every = read_of(meaning), read_of(before), step.pick.modulus
        if before.act is not Act.TO or meaning.act is not Act.TO or before.where == meaning.where:
            return
        above = next(
            (x for x in before.steps if isinstance(x, Draw) and x.pick.kind is PickKind.COUNTER), None
        )
        if (
            above is None
            or above.pick.modulus != every + 1
            or (rule.store, rule.place) != (other.store, other.place)
        ):
            return
        asked, above_asked = (described(each.where, BITS[rule.family]) for each in (meaning, before))
        message = f"one of {every} behind one of {above.pick.modulus} in line {other.line}, but it asks for "
        message += f"{asked} where line {other.line} asks for {above_asked}: of those, 0 % come to this rule"
        self._log.find("selectors-differ", rule, message, corrections.alike([other, rule]))


def _in_turn(meaning: ir.Rule, rule: IptRule, option: str) -> Lines:
    """Return a rule for each of the addresses that a target chooses from, round robin."""
    given = rule.spec.values.get(option, ())
    targets = [values[0] for values in given] if len(given) > 1 else [to for to, _ in meaning.to]
    return corrections.each_in_turn(rule, option, targets)


def _statistic(rule: IptRule, option: str) -> str:
    """Return what an option of match statistic has in a rule."""
    options = [each for match in rule.spec.matches if match.name == "statistic" for each in match.options]
    return next((values[0] for name, _, values in options if name == option and values), "")


@lru_cache(maxsize=1 << 12)
def _meant(written: str, stored: int) -> Fraction | None:
    """Return the fraction that was cut to some decimals, where its cut is off by enough to matter."""
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
