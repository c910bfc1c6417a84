"""What `history` prints, and the interruption that several documents report."""

from __future__ import annotations

from typing import TYPE_CHECKING, NotRequired

from typing_extensions import TypedDict

from lbctl.documents.shares import KeyChangeDocument, key_changes

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lbctl.engine import Difference, HistoryEntry, Unsettled


class InterruptedDocument(TypedDict):
    """A change: its number in the history, what made it, when and who."""

    number: int
    action: str
    time: str
    user: str


class EntryDocument(InterruptedDocument):
    """A state on record. `parent` is the state before: 0 for no rules, null if it is not on record.

    `intent` is what was applied, as the text of an intent file; given with a number and with `--export`.
    `trial` is null if it was not applied on trial; else `confirmed`, `reverted` or `failed`, or `running` if
    its end was not seen yet.
    """

    backend: str
    driver: str
    parent: int | None
    services: int
    digest: str
    intent: NotRequired[str]
    trial: str | None


class ServiceKeysDocument(TypedDict):
    """The keys of a service that changed; the key `service` is a whole service that was added or removed."""

    name: str
    changes: list[KeyChangeDocument]


class DifferenceDocument(TypedDict):
    """What a state changed. `before` is the number of the state that held before it, 0 for no rules."""

    before: int
    changes: list[KeyChangeDocument]
    services: list[ServiceKeysDocument]


class TrialDocument(TypedDict):
    """A trial that was not confirmed yet; `left` are seconds, `deadline` is its end, in UTC."""

    state: str
    left: float
    deadline: str


class UnsettledDocument(TypedDict):
    """A change that a crash cut short and no command has ended yet, and a trial; null for none."""

    interrupted: InterruptedDocument | None
    trial: TrialDocument | None


class HistoryDocument(UnsettledDocument):
    """The states of an owner, oldest first; with a number, that one. `diff` is given with `--diff`."""

    owner: str
    history: list[EntryDocument]
    diff: NotRequired[DifferenceDocument]


def history(
    owner: str, entries: Iterable[HistoryEntry], left: Unsettled, *, intents: bool = False
) -> HistoryDocument:
    """Return the document of states of an owner, with `intents` each with what was applied."""
    listed = [_entry(entry, intent=intents) for entry in entries]
    pending = unsettled(left)
    return HistoryDocument(
        owner=owner, history=listed, interrupted=pending["interrupted"], trial=pending["trial"]
    )


def difference(of: Difference) -> DifferenceDocument:
    """Return the document of what a state changed."""
    return DifferenceDocument(
        before=of.before.number,
        changes=key_changes(of.changes),
        services=[
            ServiceKeysDocument(name=name, changes=key_changes(changes))
            for name, changes in of.services.items()
        ],
    )


def unsettled(left: Unsettled) -> UnsettledDocument:
    """Return the document of what is unsettled."""
    document = UnsettledDocument(interrupted=None, trial=None)
    if (entry := left.entry) is not None:
        document["interrupted"] = interrupted(entry)
    if (trial := left.trial) is not None:
        document["trial"] = TrialDocument(
            state=trial.standing, left=round(trial.left, 3), deadline=trial.deadline
        )
    return document


def interrupted(entry: HistoryEntry) -> InterruptedDocument:
    """Return the document of a change."""
    return InterruptedDocument(number=entry.number, action=entry.action, time=entry.time, user=entry.user)


def _entry(entry: HistoryEntry, *, intent: bool) -> EntryDocument:
    document = EntryDocument(
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
    if intent:
        document["intent"] = entry.text
    return document
