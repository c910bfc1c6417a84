"""Going back to a state on record: by a plan, or by a migration where its rules were elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from lbctl.engine.change.apply import apply, carry_out, ensure_last_holds
from lbctl.engine.change.plan import plan
from lbctl.engine.migrate.execute import move, run_migration
from lbctl.engine.migrate.migration import Migration
from lbctl.engine.migrate.plan import plan_back, plan_restoring
from lbctl.engine.record import history
from lbctl.model import Plan

if TYPE_CHECKING:
    from lbctl.engine.change.session import Session
    from lbctl.engine.record.history import HistoryEntry

Way: TypeAlias = Plan | Migration


def roll_back(session: Session, owner: str, to: int | None = None) -> tuple[Way, HistoryEntry]:
    """Return the way to the state before the last apply, or to the one with a number, and that state.

    Raises `ApplyFailed` where there is no such state on record, or none that can be reached in one step,
    `IntentError` for an unknown number, and `Stale` where the kernel does not hold what the history has last:
    then something else would be reverted.
    """
    host = session.host
    target = history.restorable(host, owner) if to is None else history.state(host, owner, to)
    ensure_last_holds(session, owner)
    last = history.last_of(host, owner)
    retired = history.retired_since(host, owner, last, target) if last else ""
    return way_back(session, target, retired), target


def way_back(session: Session, target: HistoryEntry, retired: str = "") -> Way:
    """Return the way to a state on record; `retired` are the foreign rules removed when it was left."""
    there = session.like(target)
    if retired:
        return plan_restoring(there, target.intent, retired)
    others = there.elsewhere(target.intent.owner)
    return plan_back(there, others[0], target.intent) if others else plan(there, target.intent)


def go_back(session: Session, way: Way, target: HistoryEntry) -> tuple[str, ...]:
    """Carry out the way to a state on record; returns what the user should know. Raises as `apply` does."""
    if isinstance(way, Migration):
        return run_migration(session, way, back_to=target)
    return apply(session.like(target), (way,), record=True, back_to=target)


def go(
    session: Session, way: Way, *, back_to: HistoryEntry | None = None, in_any_case: bool = False
) -> list[str]:
    """Carry out either, by who holds the lock of the owner; see `carry_out`."""
    if isinstance(way, Migration):
        return move(way, back_to=back_to, in_any_case=in_any_case)
    there = session.like(back_to) if back_to is not None else session
    return carry_out(there, way, back_to=back_to, in_any_case=in_any_case)
