"""The difference between two programs, as a value: the one diff of lbctl."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from enum import StrEnum
from fractions import Fraction
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, TypeVar

from lbctl.model.addresses import Family, endpoint_family
from lbctl.model.check import OnDown
from lbctl.model.forward import Forward
from lbctl.model.kinds import Protocol
from lbctl.model.lifted import FamilyListener
from lbctl.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from lbctl.model.changes import KeyChange
    from lbctl.model.effect import Effective
    from lbctl.model.endpoints import Listener
    from lbctl.model.intent import Intent, Service
    from lbctl.model.lifted import LiftedProgram
    from lbctl.model.program import Item, Key, Part, Program

T = TypeVar("T")

#: Where connections arrive → `Endpoint.to` → the share of them that it gets, exact; None where the rules are
#: not understood.
Shares: TypeAlias = Mapping[FamilyListener, Mapping[str, Fraction] | None]

_NOTHING = Fraction(0)


class Action(StrEnum):
    """What happens to a service."""

    ADD = "add"
    CHANGE = "change"
    REMOVE = "remove"
    NONE = "none"


class Change(NamedTuple):
    """One item that comes (`before` is None), goes (`after` is None), or gets another text."""

    before: Item | None
    after: Item | None

    @property
    def item(self) -> Item:
        """The item as it will be, or was."""
        item = self.after or self.before
        if item is None:
            raise ValueError("a change without items")
        return item

    @property
    def key(self) -> Key:
        """The key of the item."""
        return self.item.key

    @property
    def service(self) -> str | None:
        """The service that owns the item; None for what all services share."""
        return self.item.service


class EndpointChange(NamedTuple):
    """The share of one endpoint on both sides of a plan, in each place that balances connections there.

    A place where an endpoint of its kind cannot serve is left out; a share is None where it is unknown.
    """

    to: str
    before: Mapping[FamilyListener, Fraction | None]
    after: Mapping[FamilyListener, Fraction | None]

    @property
    def families(self) -> tuple[Family, ...]:
        """The families in which it can get connections on either side."""
        return families_of((*self.before, *self.after))

    def in_family(self, family: Family) -> tuple[Fraction | None, Fraction | None]:
        """Return the share before and after of the connections of a family.

        Listeners that a side does not balance are not looked at, and 0 is the share where it balances none of
        them. None where its listeners disagree, or the share is unknown.
        """
        before, after = (
            [share for frontend, share in side.items() if frontend.family is family]
            for side in (self.before, self.after)
        )
        return agreed(before) if before else _NOTHING, agreed(after) if after else _NOTHING


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceChange:
    """What a plan does to one service, with its shares on both sides."""

    name: str
    action: Action
    before: Shares = field(default_factory=dict)
    after: Shares = field(default_factory=dict)
    #: The keys of the intent that differ, as far as they are known; those of a service that is added differ
    #: from their defaults. Filled in by `lbctl.engine.annotate`.
    changes: tuple[KeyChange, ...] = ()
    #: `Endpoint.to` of the endpoints, in the order of the intent.
    order: tuple[str, ...] = ()

    @property
    def listeners(self) -> tuple[str, ...]:
        """The listeners of both sides, each once, in one order: backends find them in different ones."""
        found = dict.fromkeys(frontend.listener for frontend in (*self.before, *self.after))
        return tuple(map(str, sorted(found, key=_order) if len(found) > 1 else found))

    @property
    def endpoints(self) -> tuple[EndpointChange, ...]:
        """The endpoints that get connections on either side, in the order of `targets`."""
        before, after = (
            {frontend: shares for frontend, shares in side.items() if _may_reach(shares)}
            for side in (self.before, self.after)
        )
        return tuple(EndpointChange(to, _shares_of(to, before), _shares_of(to, after)) for to in self.targets)

    @property
    def targets(self) -> tuple[str, ...]:
        """`Endpoint.to` of those that get connections on either side: as the intent has them, then others."""
        found = dict.fromkeys(
            to for side in (self.after, self.before) for shares in side.values() for to in shares or ()
        )
        return tuple(dict.fromkeys((*[to for to in self.order if to in found], *found)))

    @property
    def unbalanced_before(self) -> tuple[FamilyListener, ...]:
        """The places whose connections reach endpoints after, and none before."""
        return _missing(self.before, self.after)

    @property
    def unbalanced_after(self) -> tuple[FamilyListener, ...]:
        """The places whose connections reach endpoints before, and none after."""
        return _missing(self.after, self.before)


def agreed(values: Iterable[T]) -> T | None:
    """Return the one value that all of them are; None where they differ."""
    found = set(values)
    return found.pop() if len(found) == 1 else None


def families_of(frontends: Iterable[FamilyListener]) -> tuple[Family, ...]:
    """Return the families of some places, each once, IPv4 first."""
    found = {frontend.family for frontend in frontends}
    return tuple(family for family in Family if family in found)


def _shares_of(to: str, side: Shares) -> Mapping[FamilyListener, Fraction | None]:
    own = endpoint_family(to)
    return {
        frontend: None if shares is None else shares.get(to, _NOTHING)
        for frontend, shares in side.items()
        if own is None or frontend.family is own or to in (shares or ())
    }


def _missing(side: Shares, other: Shares) -> tuple[FamilyListener, ...]:
    """Return the places that surely get no endpoint on one side, though they may on the other."""
    return tuple(
        frontend
        for frontend, shares in other.items()
        if _may_reach(shares) and not _may_reach(side.get(frontend, {}))
    )


def _may_reach(shares: Mapping[str, Fraction] | None) -> bool:
    return shares is None or bool(shares)


@dataclass(frozen=True, slots=True, kw_only=True)
class StaleFlow:
    """Datagrams that the kernel would go on sending where a plan no longer wants them.

    A datagram socket's flow is placed once, as a connection is, but may never end by itself. `to` is the
    endpoint that goes, as `Endpoint.to`; None for flows that reached the listener before it was balanced.
    """

    family: Family
    listener: Listener
    to: str | None
    #: How the flows reached the endpoint: the kernel tracks those that are translated.
    forward: Forward = Forward.NAT

    def __str__(self) -> str:
        return f"{self.listener} {self.family} → {self.to or 'itself'}"


class Remembered(NamedTuple):
    """A client that keeps its endpoint (`Endpoint.to`) of a service for so many seconds more."""

    service: str
    family: Family
    client: str
    to: str
    seconds: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How to get from the program `before`, which the kernel holds, to the program `after`."""

    backend: str
    driver: str
    before: Program
    after: Program
    changes: tuple[Change, ...]
    #: The services that change, with their shares; the others of `after` stay as they are.
    services: tuple[ServiceChange, ...]
    #: What to forget once `after` holds.
    stale: tuple[StaleFlow, ...] = ()
    #: What the user should know before agreeing, each a sentence or two in words.
    notes: tuple[str, ...] = ()
    #: Clients that other rules kept until now, and that `after` shall keep from its first connection on.
    clients: tuple[Remembered, ...] = ()
    #: What the user asks for, and the history records; None for a plan that was not made from an intent.
    intent: Intent | None = None
    #: What `after` was compiled from, and why; None where that is `intent` itself, or it was not looked at.
    effective: Effective | None = None
    #: The number of the state that was the last one on record when it was made; None for none, or unknown.
    state: int | None = None

    @property
    def owner(self) -> str:
        """Whose rules it changes."""
        return self.after.owner

    @property
    def changed(self) -> bool:
        """False where the kernel already holds `after`."""
        return bool(self.changes)


def diff(before: Program, after: Program) -> tuple[Change, ...]:
    """Return the changes that lead from one program to another.

    First what comes or changes, in the order of `after`; then what goes, last created first. Parts that are
    the same object on both sides are not looked into.
    """
    before, after = _apart(before, after)
    old, new = before.by_key, after.by_key
    come = [
        Change(was, item)
        for item in after.items
        if (was := old.get(item.key)) is None or was.text != item.text
    ]
    go = [Change(item, None) for item in reversed(before.items) if item.key not in new]
    return (*come, *go)


def _apart(before: Program, after: Program) -> tuple[Program, Program]:
    """Both without the parts that are the same object."""
    was: Sequence[Part] = before.parts
    will: Sequence[Part] = after.parts
    if was is will:
        return before.of(()), after.of(())
    if len(was) == len(will):
        # Most often each service keeps its place: a look at each place finds nearly all of them.
        pairs = [pair for pair in zip(was, will, strict=True) if pair[0] is not pair[1]]
        was, will = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    both = set(map(id, was)) & set(map(id, will))
    return (
        before.of([part for part in was if id(part) not in both]),
        after.of([part for part in will if id(part) not in both]),
    )


def touched(changes: Iterable[Change]) -> frozenset[str | None]:
    """Return the services that own what changes, before or after; None stands for what all services share."""
    return frozenset([item.service for change in changes for item in change if item])


def stale_flows(
    before: LiftedProgram, after: LiftedProgram, wanted: Iterable[Service]
) -> tuple[StaleFlow, ...]:
    """Return the flows that outlive their reason when `before` becomes `after`.

    An endpoint that drains keeps its flows; one that a check took out loses those of UDP, and those of TCP
    where the service says so. `wanted` are the services of `after` as the intent has them.
    """
    wanted = tuple(wanted)
    was = [service for service in before.services if service.listener.protocol is Protocol.UDP]
    concerned = {service.listener for service in was}
    # Of many services few change, and only with theirs can a flow be kept.
    kept = {
        (family, listener, endpoint.to)
        for service in (wanted if was else ())
        for listener in service.listeners
        if listener in concerned
        for family in Family
        for endpoint in service.endpoints
        if not (service.limits and service.takes_out(endpoint, family))
    }
    gone = [
        StaleFlow(family=service.family, listener=service.listener, to=to, forward=service.forward)
        for service in was
        for to in service.shares
        if (service.family, service.listener, to) not in kept
    ]
    known = {(service.family, service.listener) for service in was}
    new = [
        StaleFlow(family=service.family, listener=service.listener, to=None)
        for service in after.services
        if service.listener.protocol is Protocol.UDP
        and service.forward is Forward.NAT
        and (service.family, service.listener) not in known
    ]
    return (*gone, *_cut(before, wanted), *new)


def _cut(before: LiftedProgram, wanted: Iterable[Service]) -> tuple[StaleFlow, ...]:
    """Return the TCP connections of endpoints that a check takes out, where `on-down` is `cut`."""
    ended = {
        (family, listener, endpoint.to)
        for service in wanted
        if service.limits and service.health.on_down is OnDown.CUT
        for family in Family
        for listener in service.listeners_of(family)
        if listener.protocol is Protocol.TCP
        for endpoint in service.endpoints
        if endpoint.serves(family) and service.takes_out(endpoint, family)
    }
    if not ended:
        return ()
    return tuple(
        StaleFlow(family=service.family, listener=service.listener, to=to, forward=service.forward)
        for service in before.services
        for to in service.shares
        if (service.family, service.listener, to) in ended
    )


def diff_services(
    before: LiftedProgram, after: LiftedProgram, changes: tuple[Change, ...], wanted: Iterable[Service] = ()
) -> tuple[ServiceChange, ...]:
    """Return each service of either side with its shares; the endpoints of `wanted` in the order there.

    A service changes if one of its items does, or if its shares do: what all share leads to it.
    """
    old, new = _shares(before), _shares(after)
    # In a first plan all are added, and no service is looked up.
    concerned = touched(changes) if old else frozenset()
    orders = {service.name: service.endpoints for service in wanted}
    result = []
    for name in [*new, *(name for name in old if name not in new)]:
        if name not in old:
            action = Action.ADD
        elif name not in new:
            action = Action.REMOVE
        else:
            changed = name in concerned or old[name] != new[name]
            action = Action.CHANGE if changed else Action.NONE
        result.append(
            ServiceChange(
                name=name,
                action=action,
                before=old.get(name, {}),
                after=new.get(name, {}),
                order=tuple([endpoint.to for endpoint in orders.get(name, ())]),
            )
        )
    return tuple(result)


def _shares(lifted: LiftedProgram) -> dict[str, dict[FamilyListener, Mapping[str, Fraction] | None]]:
    result: dict[str, dict[FamilyListener, Mapping[str, Fraction] | None]] = {}
    for service in lifted.services:
        shares = service.shares if service.understood else None
        result.setdefault(service.name, {})[FamilyListener(service.family, service.listener)] = shares
    return result


def _order(listener: Listener) -> tuple[int, int, Protocol, int, int]:
    address = listener.address
    where = address.version if address else 0, int(address or 0)
    return *where, listener.protocol, listener.port, listener.last_port
