"""Other owners of rules on this host whose listeners overlap with those of an intent.

Both rule sets match such a connection, and the kernel translates it once: the shares of one of the owners are
not those that its plan shows. Which one depends on the backend and on who loaded rules last.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbctl.engine.record import history
from lbctl.errors import LbctlError
from lbctl.model import Family
from lbctl.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from lbctl.engine.change.session import Session
    from lbctl.model import Intent, Listener, Protocol, Service

#: Listeners that are named.
_NAMED = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlap:
    """Another owner that the host holds rules of for listeners of an intent.

    `listeners` are the overlapping ones, each with the name of the other owner's service.
    """

    owner: str
    listeners: tuple[tuple[Listener, str], ...]

    def __str__(self) -> str:
        named = ", ".join(f'{listener} (service "{name}")' for listener, name in self.listeners[:_NAMED])
        more = f" and {len(self.listeners) - _NAMED} more" if len(self.listeners) > _NAMED else ""
        return f'owner "{self.owner}" balances {named}{more} too'

    @property
    def note(self) -> str:
        """What that means, and what to do."""
        text = str(self)
        return (
            f"{text[0].upper()}{text[1:]}. Only one of the two rule sets acts on a connection, so these "
            f"shares hold only if it is this one. Take the listener out of one intent file, or run: "
            f"lbctl remove --owner {self.owner}"
        )


def find_overlaps(session: Session, intent: Intent) -> tuple[Overlap, ...]:
    """Return each other owner that the host holds rules of for listeners of an intent.

    Other owners are those of the history. Their rules are read from the kernel only if listeners overlap.
    """
    others = [owner for owner in history.owners(session.host) if owner != intent.owner]
    return tuple(found for owner in others if (found := _overlap(session, intent, owner)))


def _overlap(session: Session, intent: Intent, owner: str) -> Overlap | None:
    try:
        last = history.last_of(session.host, owner)
        if last is None:
            return None
        shared = tuple(dict.fromkeys(_shared(intent.services, last.intent)))
        if not shared or not session.like(last).observe(owner):
            return None
    except LbctlError:
        # A history that nothing can be made of, or a store that cannot be read.
        return None
    return Overlap(owner=owner, listeners=shared)


def _shared(services: Iterable[Service], other: Intent) -> Iterator[tuple[Listener, str]]:
    """Yield the listeners of services that one of another intent overlaps, and the name of its service."""
    theirs: dict[tuple[Family, Protocol, int], list[tuple[Listener, str]]] = {}
    ranges: dict[Family, list[tuple[Listener, str]]] = {family: [] for family in Family}
    for family, listener, service in _listeners(other.services):
        if listener.is_range:
            ranges[family].append((listener, service))
        else:
            theirs.setdefault((family, listener.protocol, listener.port), []).append((listener, service))
    for family, listener, _ in _listeners(services):
        if listener.is_range:
            single = [pair for key, pairs in theirs.items() if key[0] is family for pair in pairs]
        else:
            single = theirs.get((family, listener.protocol, listener.port), [])
        for there, name in (*single, *ranges[family]):
            if listener.meets(there):
                yield listener, name


def _listeners(services: Iterable[Service]) -> Iterator[tuple[Family, Listener, str]]:
    return (
        (family, listener, service.name)
        for service in services
        for family in service.families
        for listener in service.listeners_of(family)
    )
