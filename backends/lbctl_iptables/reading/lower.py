"""The tables of one family → a program of the engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbctl_iptables import layout
from lbctl_iptables.reading import targets
from lbctl_iptables.reading.matches import ADDRESSES, conditions
from lbctl_iptables.reading.ruleset import BUILTIN
from lbctl_iptables.reading.values import UnreadableValue, addresses
from lbctl_netfilter.conditions import BITS, narrowed, spans_rest, top_of
from lbctl_netfilter.ir import Act, Base, Chain, FamilyProgram
from lbctl_netfilter.log import shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from lbctl.model import Family
    from lbctl_iptables.reading.rule import IptRule as ReadRule
    from lbctl_iptables.reading.ruleset import IptChain as ReadChain, IptTable
    from lbctl_netfilter.conditions import Selector
    from lbctl_netfilter.draft import Draft
    from lbctl_netfilter.ir import Rule

#: Table → its priority at each hook, where it is called.
PRIORITIES: Mapping[str, int] = {"raw": -300, "mangle": -150, "nat": -100, "filter": 0, "security": 50}
#: What table nat does behind the routing, it does after all others.
_SOURCE_PRIORITY = 100
#: What a rule that is not understood is called, where iptables does not load it.
_REFUSED = frozenset({"removed-match", "family-mismatch", "unparsable-line"})


class Lowering:
    """Lowers the rules of one family."""

    def __init__(self) -> None:
        self._room = targets.MOST_RANGED
        #: What rules ask beside addresses, by their words, and the selectors of each with addresses; with a
        #: rule that holds the matches, which are known by their identity.
        self._known: dict[object, tuple[Draft, dict[object, Selector | None], ReadRule]] = {}
        self._addressed: dict[object, dict[object, Selector | None]] = {}

    def program(self, family: Family, tables: Mapping[str, IptTable], rules: int) -> FamilyProgram:
        """Return what the tables of a family say. `rules` is how many the text has."""
        chains: dict[str, Chain] = {}
        bases: list[Base] = []
        for table in tables.values():
            names = {name: f"{table.name} {name}" for name in table.chains}
            for read in table.chains.values():
                chains[names[read.name]] = self._chain(read, names)
            bases += [_base(table.name, name) for name in BUILTIN[table.name] if name in table.chains]
        nat = tables.get("nat")
        return FamilyProgram(
            family,
            bases,
            chains,
            whole=nat is not None and nat.whole and "POSTROUTING" in nat.chains,
            rules=rules,
            fragments=list(_fragments(tables, chains)),
        )

    def _chain(self, read: ReadChain, names: Mapping[str, str]) -> Chain:
        policy = Act.ACCEPT if read.policy in {None, "ACCEPT", "-"} else Act.DROP
        return Chain(
            names[read.name],
            [self.rule(rule, names) for rule in read.rules],
            policy,
            f"policy {shown(read.policy)}" if read.policy else "",
            read.line,
            service=_service(read),
            own=layout.owner_of(read.name) is not None,
        )

    def rule(self, read: ReadRule, chains: Mapping[str, str]) -> Rule:
        """Return a rule as the engine has it. `chains` are the names of its table's chains."""
        asked, where = self._asked(read)
        rule = asked.rule(read, Act.GO_ON)
        rule.where = where
        targets.lower(rule, read, chains, self._room)
        rule.refused = rule.opaque is not None and not _REFUSED.isdisjoint(rule.remarks)
        if len(rule.to) > 1:
            self._room -= len(rule.to)
        return rule

    def _asked(self, read: ReadRule) -> tuple[Draft, Selector]:
        """Return what a rule asks, and for which connections it is.

        Rules that differ in their addresses only ask the same otherwise; those of a ladder are for the same
        connections, and share one selector.
        """
        spec, header = read.spec, read.spec.header
        if "fragment" in header or spec.obsolete:
            return _whole(read)
        asked = (header.get("protocol"), header.get("in-interface"), header.get("out-interface"))
        key = (asked, spec.inverted, *map(id, spec.matches))
        known = self._known.get(key)
        if known is None:
            plain = conditions(read, addressed=False)
            addressed = self._addressed.setdefault((plain.where, spec.inverted), {})
            known = self._known[key] = plain, addressed, read
        plain, addressed, _ = known
        addresses = header.get("source"), header.get("destination")
        if addresses not in addressed:
            addressed[addresses] = _with_addresses(plain.where, read)
        where = addressed[addresses]
        return (plain, where) if where is not None else _whole(read)


def _whole(read: ReadRule) -> tuple[Draft, Selector]:
    asked = conditions(read)
    return asked, asked.where


def _with_addresses(plain: Selector, read: ReadRule) -> Selector | None:
    """Return connections to and from the addresses of a rule; None if these are none, or leave nothing."""
    where: Selector | None = plain
    for option, field in ADDRESSES.items():
        text = read.spec.get(option)
        if not text or where is None:
            continue
        try:
            found = addresses(text, read.family)
        except UnreadableValue:
            return None
        if option in read.spec.inverted:
            if found is None:
                return None
            found = spans_rest(found, top_of(field, BITS[read.family]))
        if found is not None:
            where = narrowed(where, field, found, BITS[read.family])
    return where


def _service(read: ReadChain) -> str | None:
    """Return the service whose chain this is, if lbctl manages it."""
    owner = layout.owner_of(read.name)
    if owner is None or layout.is_shared(owner, read.name):
        return None
    if (named := layout.service_of(owner, read.name)) is not None:
        return named
    return next((rule.comment.partition("/")[0] for rule in read.rules if rule.comment), None)


def _base(table: str, chain: str) -> Base:
    kind = "nat" if table == "nat" else "filter" if table in {"filter", "security"} else "route"
    source = table == "nat" and chain in {"POSTROUTING", "INPUT"}
    priority = _SOURCE_PRIORITY if source else PRIORITIES[table]
    return Base(chain.lower(), priority, kind, f"{table} {chain}", table)


def _fragments(tables: Mapping[str, IptTable], chains: Mapping[str, Chain]) -> Iterator[Base]:
    """Yield the chains of parts of tables that nothing in the text leads to."""
    for name, table in tables.items():
        entered_here = any(table.chains[c].rules for c in BUILTIN[name] if c in table.chains)
        if table.whole or entered_here or not table.fragment:
            continue
        entered = {
            target
            for each in table.chains
            for rule in chains[f"{name} {each}"].rules
            for target in rule.targets
        }
        for each in table.chains:
            place = f"{name} {each}"
            if place not in entered and each not in BUILTIN[name]:
                yield Base("", 0, "nat" if name == "nat" else "route", place, name)
