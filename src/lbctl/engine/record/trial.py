"""A change on trial: what is known of it, and how it ends.

All that waiting, confirming and reverting processes have in common is one small file, changed only by who
holds the owner's lock. It holds the state to return to in full: the history may be gone by then.
"""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from enum import StrEnum
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, assert_never

from lbctl.engine.record import history
from lbctl.engine.record.history import TrialState
from lbctl.engine.record.lock import owner_lock
from lbctl.errors import ApplyFailed, Damaged, LbctlError, Reverted, Stale
from lbctl.model import read_record
from lbctl.values import dataclass

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from lbctl.engine.record.history import HistoryEntry
    from lbctl.host import Host
    from lbctl.model import Shape

#: Seconds that a reverter waits for the one of the trial before, which may not have seen yet that it is over.
_HANDOVER = 5.0
_SHAPE: Shape = {
    "ident": str,
    "state": str,
    "deadline": float,
    "namespace": str | None,
    "owner": str,
    "retired": str,
    "report": str,
    "before": str,
}
_PROMISE_SHAPE: Shape = {"ident": str, "path": str, "text": str}


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A change that is reverted unless it is confirmed."""

    #: Tells it from the trials before it.
    ident: str
    state: TrialState
    #: When it is reverted, on `Host.clock`.
    deadline: float
    #: The network namespace and start of the host that the clock and the rules belong to.
    namespace: str | None
    #: The state to return to, and its owner.
    owner: str
    before: HistoryEntry
    #: The foreign rules that were removed, as `HistoryEntry.retired`.
    retired: str = ""
    #: What the reverter did, in words.
    report: str = ""

    def left(self, host: Host) -> float:
        """Return the seconds until it is reverted."""
        return max(0.0, self.deadline - host.clock())


class Standing(StrEnum):
    """What becomes of a trial that needs attention."""

    RUNNING = "running"
    #: Its time is over, and its reverter is at work.
    REVERTING = "reverting"
    #: It runs, but the process that would revert it is gone.
    UNGUARDED = "unguarded"
    #: Its time is over, and the process that should have reverted it is gone.
    ABANDONED = "abandoned"
    #: It could not be reverted.
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """A trial that is not over in every respect, and what becomes of it."""

    trial: Trial
    standing: Standing
    #: Seconds until it is to be reverted.
    left: float
    #: When that is, as ISO 8601 in UTC, by the clock that the host has now.
    deadline: str

    def __str__(self) -> str:
        left = f"{ceil(self.left)} s"
        match self.standing:
            case Standing.RUNNING:
                return f"On trial: reverted in {left} unless you run lbctl confirm."
            case Standing.REVERTING:
                return "On trial: the time is over, and it is being reverted."
            case Standing.UNGUARDED:
                return (
                    f"On trial for {left} more, but the process that would revert it is gone: "
                    "lbctl confirm keeps the change, lbctl rollback reverts it."
                )
            case Standing.ABANDONED:
                return (
                    "A trial was not confirmed in time, and the process that had to revert it is gone: "
                    "lbctl rollback reverts it, as does the next command that changes something."
                )
            case Standing.FAILED:
                return f"A trial is over, but not reverted: {self.trial.report}; lbctl rollback tries again."
            case _:
                assert_never(self.standing)


def outlook(host: Host, owner: str) -> Outlook | None:
    """Return what becomes of the trial of an owner; None if there is none that needs attention."""
    found = read_trial(host, owner)
    if found is None or found.namespace != host.namespace():
        return None
    left = found.left(host)
    match found.state:
        case TrialState.RUNNING if is_guarded(host, owner):
            standing = Standing.RUNNING if left else Standing.REVERTING
        case TrialState.RUNNING:
            standing = Standing.UNGUARDED if left else Standing.ABANDONED
        case TrialState.FAILED:
            standing = Standing.FAILED
        case _:
            return None
    due = datetime.fromtimestamp(host.now() + found.deadline - host.clock(), UTC)
    return Outlook(trial=found, standing=standing, left=left, deadline=due.isoformat(timespec="seconds"))


def running(host: Host, owner: str) -> Trial | None:
    """Return the trial of an owner that has not ended, be its time over or not."""
    found = read_trial(host, owner)
    if found is None or found.state is not TrialState.RUNNING or found.namespace != host.namespace():
        return None
    return found


def ensure_none(host: Host, owner: str) -> None:
    """Raise `Stale` while a trial runs; called by the holder of the lock, before another change."""
    found = outlook(host, owner)
    if found is None or found.standing is Standing.FAILED:
        return
    hint = {
        Standing.REVERTING: "try again in a moment; --wait 30s waits",
        Standing.ABANDONED: "lbctl rollback reverts it",
    }.get(found.standing, "lbctl confirm keeps it, lbctl rollback reverts it")
    raise Stale(f'a trial of owner "{owner}" has not ended. {found}', hint=hint)


def ensure_ended(host: Host, owner: str, *, patience: float = 0.0) -> None:
    """As `ensure_none`, for a command that has not the lock yet: it waits as it would for the lock."""
    if outlook(host, owner) is not None:
        with owner_lock(host, owner, patience=patience):
            ensure_none(host, owner)


def guarding(host: Host, owner: str) -> AbstractContextManager[None]:
    """Be the process that reverts the trials of an owner, as `is_guarded` shows; see `Host.lock`."""
    return host.lock(guard_of(owner), patience=_HANDOVER)


def is_guarded(host: Host, owner: str) -> bool:
    """Return True while the process lives that reverts the trial of an owner, or if that cannot be known."""
    try:
        with host.lock(guard_of(owner)):
            return False
    except LbctlError:
        return True


def confirm(host: Host, owner: str, *, patience: float = 0.0) -> Trial:
    """Keep what is on trial. Raises `ApplyFailed` where nothing is, and `Reverted` where it is too late."""
    with owner_lock(host, owner, patience=patience):
        found = running(host, owner)
        if found is None:
            last = read_trial(host, owner)
            if last is not None and last.state is TrialState.REVERTED and _is_latest(host, last):
                raise Reverted(f"too late to confirm: {last.report or 'the trial was reverted'}")
            raise ApplyFailed(f'no trial of owner "{owner}" is running', hint="lbctl apply --trial 60s")
        if not found.left(host):
            raise Reverted("too late to confirm: the time of the trial is over")
        save(host, replace(found, state=TrialState.CONFIRMED))
        history.mark_trial(host, owner, TrialState.CONFIRMED)
    return found


def _is_latest(host: Host, reverted: Trial) -> bool:
    """Return True if what a trial was reverted to is what was reached last."""
    last = history.last_of(host, reverted.owner)
    return last is None or last.digest == reverted.before.digest


@dataclass(frozen=True, slots=True, kw_only=True)
class PromisedFile:
    """A file that is to be written once a trial is confirmed."""

    path: Path
    text: str


def promise(host: Host, tried: Trial, file: PromisedFile) -> None:
    """Note a file for who confirms a trial, be it another process; raises `ApplyFailed`."""
    record = {"ident": tried.ident, "path": str(file.path.absolute()), "text": file.text}
    host.save(_promise(tried.owner), json.dumps(record) + "\n")


def take_promise(host: Host, confirmed: Trial) -> PromisedFile | None:
    """Return the file that is to be written now that a trial is confirmed, once; None if there is none."""
    text = host.saved(_promise(confirmed.owner))
    if text is None:
        return None
    host.save(_promise(confirmed.owner), None)
    try:
        fields = read_record(text, _PROMISE_SHAPE)
    except Damaged:
        return None
    if fields["ident"] != confirmed.ident:
        return None  # of a trial that was not confirmed
    return PromisedFile(path=Path(fields["path"]), text=fields["text"])


def end(host: Host, trial: Trial, state: TrialState, report: str = "") -> None:
    """Write down how a trial ended unconfirmed. On a full disk it is forgotten, which means the same."""
    history.mark_trial(host, trial.owner, state)
    try:
        save(host, replace(trial, state=state, report=report))
    except ApplyFailed:
        host.save(record_of(trial.owner), None)
    host.save(_promise(trial.owner), None)


def save(host: Host, trial: Trial) -> None:
    """Write down a trial; raises `ApplyFailed`."""
    fields = ("ident", "state", "deadline", "namespace", "owner", "retired", "report")
    document = {field: getattr(trial, field) for field in fields}
    host.save(record_of(trial.owner), json.dumps(document | {"before": history.to_text(trial.before)}) + "\n")


def read_trial(host: Host, owner: str) -> Trial | None:
    """Return the last trial of an owner in this network namespace.

    None if there was none, or it cannot be read.
    """
    try:
        return _read(host, owner)
    except Damaged:
        return None


def damaged(host: Host, owner: str) -> tuple[str, ...]:
    """What is wrong with the record of the last trial of an owner, in one line; () if it can be read."""
    try:
        _read(host, owner)
    except Damaged as error:
        return (f"{record_of(owner)} is damaged and is ignored: {error}",)
    return ()


def _read(host: Host, owner: str) -> Trial | None:
    text = host.saved(record_of(owner))
    if text is None:
        return None
    fields = read_record(text, _SHAPE)
    if fields["state"] not in list(TrialState):
        raise Damaged("state: not one of a trial")
    if fields["owner"] != owner:
        raise Damaged("owner: not the one whose trial it is")
    if fields["retired"]:
        history.read_retired(fields["retired"])
    state, before = TrialState(fields.pop("state")), _before(fields.pop("before"))
    return Trial(**fields, state=state, before=before)


def _before(text: str) -> HistoryEntry:
    # Number 0 is the host without rules, which no file of the history stands for.
    return history.from_text(text, first=0)


def forget(host: Host, owner: str) -> None:
    """Have there be no trial: what was to be tried was not done."""
    host.save(record_of(owner), None)
    host.save(_promise(owner), None)


def announce(host: Host, owner: str, ident: str) -> None:
    """Say that a trial is watched from now on."""
    host.save(f"{owner}.watched", ident)


def is_watched(host: Host, trial: Trial) -> bool:
    """Return True once `announce` was called for a trial."""
    return host.saved(f"{trial.owner}.watched") == trial.ident


def _promise(owner: str) -> str:
    return f"{owner}.promise"


def guard_of(owner: str) -> str:
    """Return the name of the lock that the process holds which reverts the trials of an owner."""
    return f"{owner}.trial"


def record_of(owner: str) -> str:
    """Return the name under which the trial of an owner is saved."""
    return f"{owner}.trial"
