"""The difference between two programs, as a value: the one diff of lbctl."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from typing import TYPE_CHECKING, NamedTuple

from lbctl.model.intent import Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from lbctl.model.intent import Family, Intent, Listener, Service
    from lbctl.model.lifted import Lifted
    from lbctl.model.program import Item, Key, Part, Program


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
    """The share of one endpoint on both sides of a plan."""

    to: str
    before: Fraction
    after: Fraction


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceChange:
    """What a plan does to one service."""

    name: str
    action: Action
    listeners: tuple[str, ...]
    endpoints: tuple[EndpointChange, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StaleFlow:
    """Datagrams that the kernel would go on sending where a plan no longer wants them.

    A datagram socket's flow is placed once, as a connection is, but may never end by itself. `to` is the
    endpoint that goes, as `Endpoint.to`; None for flows that reached the listener before it was balanced.
    """

    family: Family
    listener: Listener
    to: str | None

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
    #: What `after` was compiled from; None for a plan that was not made from an intent.
    intent: Intent | None = None

    @property
    def owner(self) -> str:
        """Whose rules it changes."""
        return self.after.owner

    @property
    def changed(self) -> bool:
        """False where the kernel already holds `after`."""
        return bool(self.changes)


def diff(before: Program, after: Program) -> tuple[Change, ...]:
    """The changes that lead from one program to another.

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
    """The services that own what changes, before or after; None stands for what all services share."""
    return frozenset([item.service for change in changes for item in change if item])


def stale_flows(before: Lifted, after: Lifted, wanted: Iterable[Service]) -> tuple[StaleFlow, ...]:
    """The flows that outlive their reason when `before` becomes `after`; who drains keeps its own.

    `wanted` are the services of `after` as the intent has them.
    """
    was = [service for service in before.services if service.listener.protocol is Protocol.UDP]
    concerned = {service.listener for service in was}
    # Of many services few change, and only with theirs can a flow be kept.
    kept = {
        (listener, endpoint.to)
        for service in (wanted if was else ())
        for listener in service.listeners
        if listener in concerned
        for endpoint in service.endpoints
    }
    gone = [
        StaleFlow(family=service.family, listener=service.listener, to=to)
        for service in was
        for to in service.shares
        if (service.listener, to) not in kept
    ]
    known = {(service.family, service.listener) for service in was}
    new = [
        StaleFlow(family=service.family, listener=service.listener, to=None)
        for service in after.services
        if service.listener.protocol is Protocol.UDP and (service.family, service.listener) not in known
    ]
    return (*gone, *new)


def diff_services(before: Lifted, after: Lifted, changes: tuple[Change, ...]) -> tuple[ServiceChange, ...]:
    """Each service of either side with its shares; a service is changed where one of its items is."""
    old, new = _shares(before), _shares(after)
    listeners = _listeners(before) | _listeners(after)
    # In a first plan all are added, and none is asked for.
    concerned = touched(changes) if old else frozenset()
    result = []
    for name in [*new, *(name for name in old if name not in new)]:
        if name not in old:
            action = Action.ADD
        elif name not in new:
            action = Action.REMOVE
        else:
            action = Action.CHANGE if name in concerned else Action.NONE
        was, will = old.get(name, {}), new.get(name, {})
        result.append(
            ServiceChange(
                name=name,
                action=action,
                listeners=listeners[name],
                endpoints=tuple(
                    EndpointChange(to=to, before=was.get(to, _NOTHING), after=will.get(to, _NOTHING))
                    for to in [*will, *(to for to in was if to not in will)]
                ),
            )
        )
    return tuple(result)


def _shares(lifted: Lifted) -> Mapping[str, Mapping[str, Fraction]]:
    result: dict[str, dict[str, Fraction]] = {}
    for service in lifted.services:
        result.setdefault(service.name, {}).update(service.shares)
    return result


def _listeners(lifted: Lifted) -> dict[str, tuple[str, ...]]:
    result: dict[str, dict[Listener, None]] = {}
    for service in lifted.services:
        result.setdefault(service.name, {})[service.listener] = None
    # Backends look for listeners in different orders.
    return {
        name: tuple(map(str, sorted(found, key=_order) if len(found) > 1 else found))
        for name, found in result.items()
    }


def _order(listener: Listener) -> tuple[int, int, Protocol, int]:
    address = listener.address
    return address.version if address else 0, int(address or 0), listener.protocol, listener.port
