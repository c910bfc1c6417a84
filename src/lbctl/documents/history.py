"""What `history` prints, and the interruption that several documents report."""

from __future__ import annotations

from typing import TYPE_CHECKING

from typing_extensions import TypedDict

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lbctl.engine import Entry


class InterruptedDocument(TypedDict):
    """A change that a crash cut short, and that no command has finished or rolled back yet."""

    number: int
    action: str
    time: str
    user: str


class EntryDocument(InterruptedDocument):
    """A state on record. `parent` is the state before: 0 for no rules, null if it is not on record."""

    backend: str
    driver: str
    parent: int | None
    services: int
    digest: str


class HistoryDocument(TypedDict):
    """The states of an owner, oldest first."""

    owner: str
    history: list[EntryDocument]
    interrupted: InterruptedDocument | None


def history(owner: str, entries: Iterable[Entry], pending: Entry | None) -> HistoryDocument:
    """Return the document of the history of an owner."""
    return HistoryDocument(
        owner=owner, history=[_entry(entry) for entry in entries], interrupted=interrupted(pending)
    )


def interrupted(entry: Entry | None) -> InterruptedDocument | None:
    """Return the document of a change that was interrupted, if one was."""
    if entry is None:
        return None
    return InterruptedDocument(number=entry.number, action=entry.action, time=entry.time, user=entry.user)


def _entry(entry: Entry) -> EntryDocument:
    return EntryDocument(
        number=entry.number,
        time=entry.time,
        user=entry.user,
        action=entry.action,
        backend=entry.backend,
        driver=entry.driver,
        parent=entry.parent,
        services=entry.services,
        digest=entry.digest,
    )
