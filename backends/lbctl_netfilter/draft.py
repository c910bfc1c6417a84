"""One rule while a front end lowers it: what it asks so far, in the order in which the kernel asks it."""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING

from lbctl_netfilter.conditions import (
    BITS,
    EVERYTHING,
    Words,
    fact,
    narrowed,
    of,
    rest,
    tcp_flags,
    words,
)
from lbctl_netfilter.ir import Draw, DrawMark, MarkIs, Match, Opaque, Rule, SetMark, Switch

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lbctl.model import Family
    from lbctl_netfilter.conditions import Selector, Values
    from lbctl_netfilter.ir import Act, Origin, Step

#: FIN, SYN, RST and ACK, of which the first packet of a TCP connection has SYN alone.
_OPENING, _SYN = 0x17, 0x02


class Draft:
    """The conditions and steps of a rule."""

    __slots__ = (
        "asks_mark",
        "bits",
        "element",
        "family",
        "first",
        "later",
        "marks",
        "opaque",
        "picks",
        "remarks",
        "steps",
        "where",
    )

    def __init__(self, family: Family) -> None:
        self.family = family
        self.bits = BITS[family]
        self.where: Selector = EVERYTHING
        self.steps: tuple[Step, ...] = ()
        #: True where a number is picked.
        self.picks = False
        #: True where a mark is asked for, and where one is set.
        self.asks_mark = self.marks = False
        #: True where the first packet of a connection may match, and where later ones may.
        self.first = self.later = True
        self.opaque: Opaque | None = None
        self.remarks: tuple[str, ...] = ()
        self.element: str | None = None

    @property
    def possible(self) -> bool:
        """False where no packet matches."""
        return self.first or self.later

    def fork(self) -> Draft:
        """Return the same so far."""
        return copy(self)

    def add(self, field: str, values: Values, inverted: bool = False) -> None:
        """Ask for one more condition."""
        if inverted:
            others = rest(field, values, self.bits)
            if others is None or not (isinstance(others, Words) or others):
                self.never()
                return
            values = others
        if not (self.picks or self.marks):
            met = narrowed(self.where, field, values, self.bits)
            if met is None:
                self.never()
            else:
                self.where = met
            return
        found = of((field, values), bits=self.bits)
        if found is None:
            self.never()
        else:
            self.step(Match(found))

    def fact(self, name: str, value: str, inverted: bool = False) -> None:
        """Ask for a condition of which nothing but its truth is known."""
        self.add(*fact(name, value, inverted=inverted))

    def step(self, step: Step) -> None:
        """Do one more step."""
        self.steps += (step,)
        match step:
            case Draw():
                self.picks = True
            case DrawMark():
                self.picks = self.marks = True
            case SetMark():
                self.marks = True
            case MarkIs():
                self.asks_mark = True
            case _:
                pass

    def never(self) -> None:
        """No packet matches."""
        self.first = self.later = False

    def packets(self, *, first: bool, later: bool) -> None:
        """Note whether the first packet of a connection may match, and whether others may."""
        self.first &= first
        self.later &= later

    def tcp_flags(self, mask: int, values: Iterable[int], inverted: bool = False) -> None:
        """Ask for one of some values of the TCP flags in `mask`.

        The first packet of a connection has SYN, and neither FIN, RST nor ACK; the client's later packets
        have no SYN.
        """
        hits = frozenset(value for value in values if not value & ~mask)
        opens = any((value ^ _SYN) & mask & _OPENING == 0 for value in hits)
        if mask & ~_OPENING == 0:
            follows = sum(not value & _SYN for value in hits)
            others = (1 << (mask & ~_SYN).bit_count()) - follows
            self.packets(first=opens is not inverted, later=bool(others if inverted else follows))
            return
        if not inverted:
            self.first &= opens
        if not mask & (mask - 1) and hits == {0}:
            hits, inverted = frozenset({mask}), not inverted
        self.add(f"tcp-flags/{mask:#x}", words(*(tcp_flags(mask, value) for value in hits)), inverted)

    def cannot(self, what: str, reason: str) -> None:
        """Note the first thing that is not understood."""
        self.opaque = self.opaque or Opaque(what, reason)

    def rule(self, origin: Origin, act: Act, target: str = "", switch: Switch | None = None) -> Rule:
        """Return the rule, which does something to what matches."""
        return Rule(
            origin,
            self.where,
            act,
            self.steps,
            target,
            switch=switch,
            picks=self.picks or switch is not None,
            asks_mark=self.asks_mark,
            marks=self.marks,
            first=self.first,
            later=self.later,
            opaque=self.opaque,
            element=self.element,
            remarks=self.remarks,
        )
