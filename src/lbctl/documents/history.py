"""What `history` prints, and the interruption that several documents report."""

from __future__ import annotations

from typing import TYPE_CHECKING

from typing_extensions import TypedDict

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lbctl.engine import HistoryEntry, Unsettled


class InterruptedDocument(TypedDict):
    """A change that a crash cut short, and that no command has finished or rolled back yet."""

    number: int
    action: str
    time: str
    user: str


class EntryDocument(InterruptedDocument):
    """A state on record. `parent` is the state before: 0 for no rules, null if it is not on record.

    `trial` is null if it was not applied on trial; else `confirmed`, `reverted` or `failed`, or `running` if
    its end was not seen yet.
    """

    backend: str
    driver: str
    parent: int | None
    services: int
    digest: str
    trial: str | None


class TrialDocument(TypedDict):
    """A trial that was not confirmed yet; `left` are seconds, `deadline` is its end, in UTC."""

    state: str
    left: float
    deadline: str


class UnsettledDocument(TypedDict):
    """What processes that are gone left of a change, and a trial; null for none."""

    interrupted: InterruptedDocument | None
    trial: TrialDocument | None


class HistoryDocument(UnsettledDocument):
    """The states of an owner, oldest first."""

    owner: str
    history: list[EntryDocument]


def history(owner: str, entries: Iterable[HistoryEntry], left: Unsettled) -> HistoryDocument:
    """Return the document of the history of an owner."""
    return HistoryDocument(owner=owner, history=[_entry(entry) for entry in entries], **unsettled(left))


def unsettled(left: Unsettled) -> UnsettledDocument:
    """Return the document of what is unsettled."""
    document = UnsettledDocument(interrupted=None, trial=None)
    if (entry := left.entry) is not None:
        document["interrupted"] = InterruptedDocument(
            number=entry.number, action=entry.action, time=entry.time, user=entry.user
        )
    if (trial := left.trial) is not None:
        document["trial"] = TrialDocument(
            state=trial.standing, left=round(trial.left, 3), deadline=trial.deadline
        )
    return document


def _entry(entry: HistoryEntry) -> EntryDocument:
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
        trial=entry.trial,
    )
