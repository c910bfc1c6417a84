"""Which connections the filters of a host surely drop, whatever else is let through elsewhere."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

from lbctl_netfilter.conditions import (
    ALL,
    BITS,
    EVERYTHING,
    NONE,
    SOME,
    Coverage,
    Selector,
    Words,
    covers,
    exactly,
    of,
    words,
)
from lbctl_netfilter.hooks import bases
from lbctl_netfilter.ir import Act, Match, SetMark

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lbctl.model import Address, Family
    from lbctl_netfilter.conditions import Condition
    from lbctl_netfilter.ir import Base, Chain, FamilyProgram, Rule

_LOOPBACK = "lo"


class PartialFate(Enum):
    """What rules do to a connection of which not all is known."""

    ACCEPT = "accept"
    DROP = "drop"
    OPEN = "open"


class Fate(NamedTuple):
    """How a connection ends, and by which rule; None for a policy.

    None instead of a fate stands for a connection that comes to the end of the rules.
    """

    end: PartialFate
    rule: Rule | None = None


class Dropped(NamedTuple):
    """The base chain that drops a connection, and its rule; None for its policy."""

    base: Base
    rule: Rule | None


_ACCEPTED, _OPEN = Fate(PartialFate.ACCEPT), Fate(PartialFate.OPEN)


def packet(
    family: Family,
    protocol: str,
    address: Address | None,
    port: int,
    incoming: str | None,
    outgoing: str | None,
) -> Selector:
    """Return the first packet of a connection that was translated already.

    `incoming` None stands for any link but loopback.
    """
    given: list[Condition] = [
        ("proto", words(protocol)),
        ("dport", exactly(port)),
        ("ctstatus", words("dnat")),
        ("ctdir", words("original")),
        ("iif", words(incoming) if incoming else Words(None, frozenset({_LOOPBACK}))),
    ]
    given += [("dst", exactly(int(address)))] if address else []
    given += [("oif", words(outgoing))] if outgoing else []
    return of(*given, bits=BITS[family]) or EVERYTHING


def dropped(program: FamilyProgram, given: Selector, hook: str) -> Dropped | None:
    """Return what surely drops a connection at a hook; None where nothing does, or that is not known.

    Each base chain decides by itself, and an accept in one overrides no drop in another.
    """
    for base in bases(program, hook):
        chain = program.chains[base.chain]
        if chain.own:
            # Rules of lbctl refuse what is not served, and that alone.
            continue
        end = Fate(PartialFate.DROP) if chain.policy is Act.DROP else _ACCEPTED
        fate = _FilterPath(program.chains, given).through(base.chain, end)
        if fate is not None and fate.end is PartialFate.DROP:
            return Dropped(base, fate.rule)
    return None


def _either(taken: Fate | None, passed: Fate | None) -> Fate | None:
    """Return the fate behind a rule that may take a connection, or let it pass."""
    if taken is None or passed is None:
        return None if taken is passed else _OPEN
    return passed if taken.end is passed.end else _OPEN


class _FilterPath:
    """Connections of one kind on their path through chains."""

    def __init__(self, chains: Mapping[str, Chain], given: Selector) -> None:
        self._chains = chains
        self._given = given
        self._known: dict[str, Fate | None] = {}

    def through(self, name: str, end: Fate | None = None) -> Fate | None:
        """Return what becomes of them in a chain, from its `end` back to its first rule."""
        if name in self._known:
            return self._known[name]
        # Of a chain that leads to itself, nothing is known.
        self._known[name] = _OPEN
        fate = end
        for rule in reversed(self._chains[name].rules):
            if (
                not rule.first
                or rule.refused
                or (rule.target in self._chains and self._chains[rule.target].own)
            ):
                continue
            covered = self._covers(rule)
            if covered is not NONE:
                taken = self._taken(rule, fate, end)
                fate = taken if covered is ALL else _either(taken, fate)
        self._known[name] = fate
        return fate

    def _covers(self, rule: Rule) -> Coverage:
        coverage = covers(rule.where, self._given)
        for step in rule.steps:
            more = SOME
            if isinstance(step, Match):
                more = covers(step.where, self._given)
            elif isinstance(step, SetMark):
                more = ALL
            if coverage is NONE or more is NONE:
                return NONE
            coverage = coverage if more is ALL else SOME
        return SOME if rule.opaque and coverage is ALL else coverage

    def _taken(self, rule: Rule, behind: Fate | None, end: Fate | None) -> Fate | None:
        """Return what becomes of those that a rule matches.

        `behind` it and at the `end` of its chain, of others.
        """
        match rule.act:
            case Act.DROP:
                # A packet that is queued may come back.
                return Fate(PartialFate.DROP, rule) if rule.target in _DROPPING else _ACCEPTED
            case Act.ACCEPT:
                return _ACCEPTED
            case Act.RETURN:
                return end
            case Act.JUMP if rule.target in self._chains:
                return self.through(rule.target) or behind
            case Act.GOTO if rule.target in self._chains:
                return self.through(rule.target) or end
            case Act.GO_ON:
                return behind
            case _:
                return _OPEN


_DROPPING = frozenset({"DROP", "REJECT", "drop", "reject"})
