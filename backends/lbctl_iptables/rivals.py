"""Foreign rules in a dump: which translate before lbctl's, drop what these let pass, or write to the mark."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import TYPE_CHECKING

from lbctl.model import AnalysedService, Family, Severity
from lbctl.spi import Problem
from lbctl_iptables import layout
from lbctl_iptables.reading import read_ruleset
from lbctl_iptables.reading.corrections import read_of
from lbctl_iptables.reading.lower import Lowering
from lbctl_iptables.reading.rule import Store
from lbctl_iptables.reading.ruleset import read_tables
from lbctl_netfilter import filters
from lbctl_netfilter.conditions import BITS, LOCAL, spelled, when
from lbctl_netfilter.ir import ENDS
from lbctl_netfilter.log import Log
from lbctl_rules.diagnosis import Rival

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from lbctl.model import Intent
    from lbctl.spi import Passage
    from lbctl_iptables.reading.rule import IptRule
    from lbctl_iptables.reading.ruleset import IptTable, Ruleset
    from lbctl_netfilter import ir

_HOOK = {"PREROUTING": "prerouting", "OUTPUT": "output"}
#: Rules that are shown as evidence.
_SHOWN = 3
_MARKING = {"MARK", "CONNMARK"}
_COUNTERS = re.compile(r"^\[\d+:\d+\] ")


def read_dump(command: str, text: str, family: Family) -> FamilyRules:
    """Return the rules of a dump of one family; `command` shows and changes them."""
    return FamilyRules(command, read_tables(text, family, Log()))


class FamilyRules:
    """The rules of one family in one store, and where each stands. `command` shows and changes them."""

    def __init__(self, command: str, ruleset: Ruleset) -> None:
        self.command = command
        self.ruleset = ruleset
        self._numbers = {
            id(rule): number for chain in ruleset.chains for number, rule in enumerate(chain.rules, 1)
        }
        self.rules = {rule.line: rule for chain in ruleset.chains for rule in chain.rules}

    def table(self, family: Family, name: str) -> IptTable | None:
        """Return a table that exists."""
        return self.ruleset.stores.get(Store(family), {}).get(name)

    def evidence(self, rule: IptRule) -> str:
        """Return a rule with its place."""
        place = f"{self.command}, table {rule.table}, {rule.chain} rule {self._numbers[id(rule)]}"
        return f"{place}: {_COUNTERS.sub('', rule.text)}"

    def removal(self, rule: IptRule) -> str:
        """Return the command that deletes a rule."""
        return f"{self.command} -t {rule.table} -D {rule.chain} {self._numbers[id(rule)]}"


# -- who decides before us


def rivals(places: FamilyRules, family: Family, owner: str, store: str, *, ours: bool) -> Iterator[Rival]:
    """Yield the foreign rules that translate new connections before those managed by lbctl.

    Where ours stand in the same table, those in front of the jump to them; else all, by the same priority.
    """
    nat = places.table(family, layout.NAT)
    if nat is None:
        return
    let_through: list[ir.Rule] = []
    lowering = Lowering()
    chains = {name: f"nat {name}" for name in nat.chains}
    theirs: dict[str, list[IptRule]] = {}
    for name in _HOOK:
        chain = nat.chains.get(name)
        if chain is None:
            continue
        jump = next((i for i, r in enumerate(chain.rules) if layout.owns(owner, r.spec.target)), None)
        if ours:
            # Where there is none yet, it will be the first.
            theirs[name] = list(chain.rules)[: jump or 0]
            lowered = [lowering.rule(rule, chains) for rule in theirs[name]]
            let_through += [rule for rule in lowered if rule.first and rule.act in ENDS]
        else:
            theirs[name] = [rule for rule in chain.rules if not layout.owns(owner, rule.spec.target)]
    # Tables that come before decide nothing here.
    view = places.ruleset.only(Store(family), layout.NAT, theirs)
    for service in read_ruleset(view, Log()).services:
        if service.backends and set(service.hooks) & set(_HOOK.values()):
            rules = [places.rules[line] for line in (service.picking or service.lines)[:_SHOWN]]
            yield _rival(service, rules, places, store, certain=ours)
    for rule in let_through:
        yield _rival(_unbalanced(rule, family), [read_of(rule)], places, store, certain=True)


def _rival(
    service: AnalysedService, rules: Sequence[IptRule], places: FamilyRules, store: str, *, certain: bool
) -> Rival:
    return Rival(
        service=service,
        source=store,
        rules=tuple(map(places.evidence, rules)),
        # The last one first, as numbers move up.
        deletions=tuple(places.removal(rule) for rule in reversed(rules)),
        certain=certain,
        owner=layout.owner_of(rules[0].chain) if rules else None,
    )


def _unbalanced(rule: ir.Rule, family: Family) -> AnalysedService:
    """Return what a rule lets through as it is."""
    where, bits = rule.where, BITS[family]
    local = LOCAL in where.extra
    asked = {field: spelled(field, values, bits) for field, values in where.conditions}
    extra = [pair for pair in where.extra if pair != LOCAL]
    return AnalysedService(
        family=family,
        proto=asked.get("proto", "any"),
        dst=asked.get("dst", "local" if local else "any"),
        dport=asked.get("dport", "any"),
        hooks=(_HOOK[read_of(rule).chain],),
        action="none",
        mode="none",
        backends=(),
        leak=Fraction(1),
        when=when(extra, bits) or None,
    )


# -- what is dropped on its way


def drops(places: FamilyRules, family: Family, passages: Iterable[Passage]) -> Iterator[tuple[Passage, str]]:
    """Yield the passages that surely are dropped, and by what."""
    table = places.table(family, layout.FILTER)
    if table is None:
        return
    program = Lowering().program(family, {layout.FILTER: table}, 0)
    for passage in passages:
        given = filters.packet(
            family,
            passage.protocol,
            passage.address,
            passage.port,
            passage.incoming,
            passage.outgoing,
        )
        hook = "forward" if passage.outgoing else "input"
        found = filters.dropped(program, given, hook)
        if found is not None and found.rule is not None:
            yield passage, places.evidence(read_of(found.rule))
        elif found is not None:
            by = f"the policy of {hook.upper()} is DROP, no rule accepts"
            yield passage, f"{places.command}, table filter: {by}"


# -- who writes to our bits of the mark


def marked(places: FamilyRules, intent: Intent) -> Iterator[Problem]:
    """Foreign rules that change the mark bits by which our later chains know what earlier ones decided."""
    if not any(service.remote or service.allow or service.deny for service in intent.services):
        return
    lowering = Lowering()
    for rule in places.rules.values():
        if rule.spec.target not in _MARKING or layout.owner_of(rule.chain):
            continue
        markings = lowering.rule(rule, {}).markings
        # A connection's mark comes to the packet by a rule that restores it.
        if any(not each.connection and each.written & intent.mark for each in markings):
            yield Problem(
                code="mark-shared",
                severity=Severity.WARNING,
                message=f"a foreign rule writes to bits {intent.mark:#x} of the packet mark, by which "
                "lbctl marks whose source address to replace and which clients to refuse",
                evidence=places.evidence(rule),
                fix="set mark = 0x… in the intent file to two unused bits, or a mask in that rule, e.g. "
                "--set-mark 0x1/0xff",
            )


# -- whose chains there are


def owned(places: FamilyRules) -> Iterator[tuple[str, str]]:
    """Yield the owner of each chain of ours, with where that chain is."""
    for tables in places.ruleset.stores.values():
        for table in tables.values():
            for name in table.chains:
                owner = layout.owner_of(name)
                if owner is not None:
                    yield owner, f"chain {name} of {places.command} -t {table.name}"
