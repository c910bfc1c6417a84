"""After a crash: a change that an ended process left pending is completed, reverted, or found complete.

Each command that changes something begins with `recover`. So nobody plans from a kernel that is between two
states, and the history again ends with what the kernel holds.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from lbctl.engine.change.apply import end_flows, perform
from lbctl.engine.change.plan import plan_beside, plan_between
from lbctl.engine.migrate.steps import Retire, between, do, is_standing, removal_of, returning
from lbctl.engine.record import history, trial
from lbctl.engine.record.lock import owner_lock
from lbctl.engine.undo.reverter import revert
from lbctl.errors import LbctlError, NoBackend, StateUnknown, Unsupported
from lbctl.model import diff
from lbctl.values import dataclass

if TYPE_CHECKING:
    from lbctl.engine.change.session import Session
    from lbctl.engine.migrate.steps import Step
    from lbctl.engine.record.history import HistoryEntry
    from lbctl.host import Host
    from lbctl.model import Plan, Program


def recover(session: Session, owner: str, *, trials: bool = True) -> tuple[str, ...]:
    """Complete what processes that are gone left of a change; returns what the user should know.

    A change that was interrupted is finished or reverted. A trial that no process reverts any more is
    reverted, unless the caller does that (not `trials`). Damaged records are dropped. Raises `StateUnknown`
    if neither can be done, and `Stale` while another lbctl is at work.
    """
    notes = _settle_pending(session, owner)
    if trials:
        notes += _revert_abandoned(session, owner)
    return notes + _drop_damaged(session, owner)


def _revert_abandoned(session: Session, owner: str) -> tuple[str, ...]:
    host = session.host
    found = trial.outlook(host, owner)
    if found is None or found.standing is not trial.Standing.ABANDONED:
        return ()
    session.need_privilege()
    revert(session, found.trial, patience=session.patience)
    now = trial.outlook(host, owner)
    if now is not None:
        raise StateUnknown(str(now), hint="lbctl plan --rules shows what the kernel holds")
    gone = "The process that had to revert a trial is gone: the change was not confirmed in time, and is"
    return (f"{gone} reverted now to {found.trial.before.state}.",)


def _drop_damaged(session: Session, owner: str) -> tuple[str, ...]:
    """Drop the records that every command would report; those of the history stay for a repair."""
    host = session.host
    notes = []
    for lines, drop in ((history.damaged_pending, history.drop), (trial.damaged, trial.forget)):
        for line in lines(host, owner):
            session.need_privilege()
            with owner_lock(host, owner, patience=session.patience):
                drop(host, owner)
            notes.append(f"{line}. It was removed; lbctl plan compares the kernel with the intent.")
    return tuple(notes)


def _settle_pending(session: Session, owner: str) -> tuple[str, ...]:
    """Finish or revert the change that an lbctl was interrupted in."""
    host = session.host
    if history.pending(host, owner) is None:
        return ()
    session.need_privilege()
    with owner_lock(host, owner, patience=session.patience):
        found = history.pending(host, owner)
        if found is None:
            return ()
        if found.namespace != host.namespace():
            history.drop(host, owner)
            how = "before this host, or its network namespace, restarted without its rules"
        else:
            how = _recover(session, owner, found)
        session.memory.save()
    return (f"Interrupted, {how}: {found}.",)


def _recover(session: Session, owner: str, found: HistoryEntry) -> str:
    try:
        session = session.like(found)
        new = session.compile(found.intent)
    except (NoBackend, Unsupported) as error:
        history.drop(session.host, owner)
        return f"state unknown: {error.message}"
    held, old = session.observe(owner), _old(session, owner, found)
    move = _move(session, owner, found, held, old, new)
    if move is not None:
        return _end(move, session.host, owner, found)
    plan = _way(session, found, held, new)
    if plan.changed and old is not None and not diff(held, old):
        history.drop(session.host, owner)
        return "nothing changed"
    try:
        perform(session, plan)
    except LbctlError as error:
        _take_back(session, owner, found, old, error)
        return f"reverted now, since it cannot be completed: {error.message}"
    if old is not None:
        end_flows(session, _way(session, found, old, new))
    history.settle(session.host, owner, found)
    return "completed now" if plan.changed else "already complete"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Move:
    """What is left to do of a move that was cut: the steps that take it `back`, or those that finish it."""

    steps: tuple[tuple[Session, Step], ...]
    back: bool


def _move(
    session: Session, owner: str, found: HistoryEntry, held: Program, old: Program | None, new: Program
) -> _Move | None:
    """Return the move that was cut; None for a change of one store.

    Old rules that stand in full may do so as the new ones were not proved: what came for them goes again.
    """
    come: tuple[Session, Step]
    go: tuple[Session, Step]
    here = session, between(session, held, new, found.intent)
    last = history.last_of(session.host, owner)
    others = session.elsewhere(owner)
    if others:
        come, go = here, (others[0], removal_of(others[0], owner))
        whole = last is not None and not plan_beside(session.like(last), last.intent).changed
    elif found.action == "migrate" and found.retired:
        source, leaves = returning(session, found.retired)
        come, go = here, (source, replace(leaves, back=False))
        whole = is_standing(source, leaves)
    elif found.action == "rollback" and (retired := _retired(session.host, owner, last, found)):
        come, go = returning(session, retired), here
        whole = old is not None and not diff(held, old)
    else:
        return None
    if not whole or old is None:
        return _Move(steps=(come, go), back=False)
    where, step = come
    if isinstance(step, Retire):
        return _Move(steps=((where, replace(step, back=False)),), back=True)
    return _Move(steps=((where, between(session, held, old, found.intent)),), back=True)


def _retired(host: Host, owner: str, last: HistoryEntry | None, found: HistoryEntry) -> str:
    return history.retired_since(host, owner, last, found) if last is not None else ""


def _end(move: _Move, host: Host, owner: str, found: HistoryEntry) -> str:
    try:
        for where, step in move.steps:
            do(where, step)
    except LbctlError as error:
        raise StateUnknown(
            f"{found.action} number {found.number} was interrupted: {error.message}",
            hint="lbctl plan --rules shows what the kernel holds",
        ) from error
    if move.back:
        history.drop(host, owner)
        return "reverted now, since all old rules were still there"
    history.settle(host, owner, found)
    return "completed now"


def _take_back(
    session: Session, owner: str, found: HistoryEntry, old: Program | None, cause: LbctlError
) -> None:
    try:
        if old is None:
            raise cause
        perform(session, _way(session, found, session.observe(owner), old))
    except LbctlError as error:
        raise StateUnknown(
            f"{found.action} number {found.number} was interrupted, and cannot be completed: "
            f"{cause.message}; nor reverted: {error.message}",
            hint="lbctl plan --rules shows what the kernel holds",
        ) from error
    history.drop(session.host, owner)


def _old(session: Session, owner: str, found: HistoryEntry) -> Program | None:
    """Return what the store of an interrupted state held before that; None where that is unknown."""
    last = history.last_of(session.host, owner) or history.before(session.host, found)
    if last is None or last.number == found.number:
        # There were rules before the history, or the last state was being repaired.
        return None
    if session.store(last.backend, last.driver) != session.choice.driver.store:
        # That one has been empty since, as no two stores may hold rules of one owner.
        last = history.nothing(last, owner)
    try:
        return replace(session, allow_remap=last.allow_remap).compile(last.intent)
    except Unsupported:
        return None


def _way(session: Session, found: HistoryEntry, before: Program, after: Program) -> Plan:
    return plan_between(session, before, after, found.intent)
