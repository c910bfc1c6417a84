"""`fwd`, with the MAC addresses that a rule writes before → rules of the engine, with the endpoints of each.

A frame that is sent on at ingress goes to a MAC address (`ether daddr set … fwd to eth1`), to a neighbour
(`fwd ip to 192.0.2.1 device eth1`), or to whatever is behind a link (`fwd to eth1`). Rules managed by lbctl
have the endpoint of each pair of MAC addresses in the comment of its slot.
"""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, NamedTuple

from lbctl_netfilter.ir import Act, Branch, Switch
from lbctl_nftables import layout
from lbctl_nftables.reading.lookups import only
from lbctl_nftables.reading.picks import pick_of
from lbctl_nftables.reading.syntax import (
    Concat,
    Forwarding,
    FrameStatement,
    Lookup,
    NumberExpression,
    UnsupportedSyntax,
    Update,
)
from lbctl_nftables.reading.values import ask, host_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lbctl.model import Family
    from lbctl_netfilter.draft import Draft
    from lbctl_netfilter.ir import Rule
    from lbctl_nftables.reading.lookups import Lookups
    from lbctl_nftables.reading.syntax import Element, Key, Operand, Statement

#: What such a rule does, as `Rule.action` and in words.
ACTION, WORD = "dsr", "fwd"
#: Fields that only the key of a connection has.
_PORTS = frozenset({"th sport", "tcp sport", "udp sport"})
#: Fields that all packets of a client's connection have in common, of which a hash keeps it at its endpoint.
_CONSTANT = _PORTS | {
    *("ip saddr", "ip daddr", "ip6 saddr", "ip6 daddr", "th dport", "tcp dport", "udp dport"),
    *("meta l4proto", "ip protocol", "ether saddr", "ether daddr", "iifname", "vlan id"),
}


class _Target(NamedTuple):
    """What says where a frame goes, and what kind of place that is: `mac`, `link` or "" for an address."""

    kind: str
    value: Operand


class Frames:
    """Lowers the statements of one table that send frames on. `make` adds a rule of the engine."""

    def __init__(self, lookups: Lookups, family: Family, *, own: bool, make: Callable[..., Rule]) -> None:
        self._lookups = lookups
        self._family = family
        self._own = own
        self._make = make

    def lower(
        self, draft: Draft, statements: Sequence[Statement], number: int, place: tuple[object, int]
    ) -> None:
        """Add the rules for a `fwd` that is statement `number` of a rule; raise `UnsupportedSyntax`."""
        forwarding = statements[number]
        assert isinstance(forwarding, Forwarding)  # noqa: S101 (that is what it is called for)
        if forwarding.family and forwarding.family != layout.WORD[self._family]:
            return
        targets = _targets(forwarding, statements[:number])
        chosen = [each for each in targets if not isinstance(each.value, tuple)]
        if len(chosen) > 1:
            raise UnsupportedSyntax("fwd: MAC address and link are chosen independently")
        self._to(draft, chosen[0] if chosen else targets[0], place)

    def _to(self, draft: Draft, target: _Target, place: tuple[object, int]) -> None:
        match target.value:
            case tuple() as key:
                rule = self._make(draft, Act.TO, WORD)
                rule.action, rule.to = ACTION, ((self._endpoint(target.kind, key), Fraction(1)),)
            case Lookup(key=NumberExpression() as pick, members=members):
                if pick.kind == "jhash" and not _CONSTANT.issuperset(pick.of.split(" . ")):
                    raise UnsupportedSyntax(f"jhash {pick.of}")

                def branch(element: Element) -> Branch | None:
                    return self._branch(target.kind, element)

                switch = Switch(pick_of(pick, place), self._lookups.cases(draft, pick, members, branch))
                self._make(draft, Act.SWITCH, WORD, switch).action = ACTION
            case Lookup() as lookup:
                self._looked_up(draft, target.kind, lookup, place)
            case NumberExpression() as pick:
                raise UnsupportedSyntax(f"fwd to a number of {pick.kind}")

    def _looked_up(self, draft: Draft, kind: str, lookup: Lookup, place: tuple[object, int]) -> None:
        memory = self._lookups.memory(lookup.members)
        if memory is not None and _is_connection(lookup):
            # It knows connections, and a new one is none of them.
            draft.first = False
            self._make(draft, Act.ACCEPT, WORD).action = ACTION
        elif memory is not None:
            draft.step(memory)
            self._make(draft, Act.GO_ON)
        else:
            for conditions, element in self._lookups.entries(lookup.key, lookup.members):
                made = draft.fork()
                ask(made, conditions)
                made.element = element.text
                if made.possible and isinstance(element.data, tuple):
                    to = self._to_text(element)
                    value = (to,) if to is not None else element.data
                    self._to(made, _Target("" if to is not None else kind, value), place)

    def _branch(self, kind: str, element: Element) -> Branch | None:
        if not isinstance(element.data, tuple):
            return None
        to = self._to_text(element)
        if to is not None:
            return Branch(Act.TO, to)
        return Branch(Act.TO, self._endpoint(kind, element.data), element.comment or None)

    def _to_text(self, element: Element) -> str | None:
        """Return the endpoint of a slot of rules managed by lbctl: `service/endpoint` is its comment."""
        return (element.comment.partition("/")[2] or None) if self._own else None

    def _endpoint(self, kind: str, key: Key) -> str:
        """Return a place as it is shown; raise `UnsupportedSyntax` for what is none."""
        text = only(key)
        if kind:
            return f"{kind} {text}"
        shown = host_of(text, self._family)
        if shown is None:
            raise UnsupportedSyntax(text)
        return shown


def sends(statements: Sequence[Statement], number: int) -> bool:
    """Return True if a rule sends on what it writes MAC addresses into, with nothing asked in between."""
    for statement in statements[number + 1 :]:
        if isinstance(statement, Forwarding):
            return True
        if not isinstance(statement, (FrameStatement, Update)):
            return False
    return False


def _targets(forwarding: Forwarding, before: Sequence[Statement]) -> list[_Target]:
    """Return all that says where a frame goes, what says most first."""
    found = [_Target("", forwarding.address)] if forwarding.address is not None else []
    written = [each for each in before if isinstance(each, FrameStatement) and each.daddr]
    if written and not found:
        found.append(_Target("mac", written[-1].value))
    return [*found, _Target("link", forwarding.device)]


def _is_connection(lookup: Lookup) -> bool:
    return isinstance(lookup.key, Concat) and any(part.name in _PORTS for part in lookup.key.parts)
