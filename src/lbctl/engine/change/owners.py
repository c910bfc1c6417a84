"""Other owners of rules on this host whose listeners overlap with those of an intent.

Both rule sets match such a connection, and the kernel translates it once: the shares of one of the owners are
not those that its plan shows. Which one depends on the backend and on who loaded rules last.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbctl.engine.record import history
from lbctl.errors import LbctlError
from lbctl.model import Family, touched

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from lbctl.engine.change.session import Session
    from lbctl.model import Intent, Listener, Plan, Protocol, Service

#: Listeners that a note names.
_NAMED = 4


def overlap_notes(session: Session, plan: Plan, intent: Intent) -> tuple[str, ...]:
    """Return a note for each other owner that the host holds rules of for listeners of a plan's services.

    Other owners are those of the history. Their rules are read from the kernel only if listeners overlap.
    """
    others = [owner for owner in history.owners(session.host) if owner != intent.owner]
    if not others:
        return ()
    changed = touched(plan.changes) | {service.name for service in plan.services}
    services = [service for service in intent.services if service.name in changed]
    return tuple(note for owner in others if (note := _note(session, services, owner)))


def _note(session: Session, services: Sequence[Service], owner: str) -> str | None:
    last = history.last_of(session.host, owner)
    try:
        if last is None:
            return None
        shared = list(dict.fromkeys(_shared(services, last.intent)))
        if not shared or not session.like(last).observe(owner):
            return None
    except LbctlError:
        # A history that nothing can be made of, or a store that cannot be read.
        return None
    named = ", ".join(f'{listener} (service "{name}")' for listener, name in shared[:_NAMED])
    more = f" and {len(shared) - _NAMED} more" if len(shared) > _NAMED else ""
    return (
        f'Owner "{owner}" balances {named}{more} too. Only one of the two rule sets acts on a connection, so '
        f"these shares hold only if it is this one. Take the listener out of one intent file, or run: "
        f"lbctl remove --owner {owner}"
    )


def _shared(services: Sequence[Service], other: Intent) -> Iterator[tuple[Listener, str]]:
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
