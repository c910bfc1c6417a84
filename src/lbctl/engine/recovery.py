"""After a crash: what an lbctl that is gone left pending is finished, taken back, or found to be done.

Each command that changes something begins with `recover`. So nobody plans from a kernel that is between two
states, and the history again ends with what the kernel holds.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from lbctl.engine import history
from lbctl.engine.change import end_flows, perform, plan_beside, way
from lbctl.engine.steps import do, is_standing, removal_of, returning
from lbctl.errors import LbctlError, NoBackend, Stale, StateUnknown, Unsupported
from lbctl.model import diff

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lbctl.engine.history import Entry
    from lbctl.engine.session import Session
    from lbctl.engine.steps import Step
    from lbctl.host import Host
    from lbctl.model import Plan, Program


def interrupted(host: Host, owner: str) -> Entry | None:
    """What an lbctl that is gone was about to bring about; None for nothing, or while it works."""
    if history.pending(host, owner) is None:
        return None
    try:
        with host.lock(owner):
            return history.pending(host, owner)
    except Stale:
        return None


def recover(session: Session, owner: str) -> tuple[str, ...]:
    """Finish or take back what an lbctl was interrupted in, if one was; returns what the user should know.

    Raises `StateUnknown` where neither can be done, and `Stale` where another lbctl is at work.
    """
    host = session.host
    if history.pending(host, owner) is None:
        return ()
    session.need_privilege()
    with host.lock(owner, patience=session.patience):
        found = history.pending(host, owner)
        if found is None:
            return ()
        if found.namespace != host.namespace():
            history.drop(host, owner)
            how = "before this host, or its network namespace, started anew and without its rules"
        else:
            how = _recover(session, owner, found)
        session.memory.save()
    return (f"Interrupted, {how}: {found}.",)


def _recover(session: Session, owner: str, found: Entry) -> str:
    try:
        session = session.like(found)
        new = session.compile(found.intent)
    except (NoBackend, Unsupported) as error:
        history.drop(session.host, owner)
        return f"and nobody can say how far it came: {error.message}"
    others = session.elsewhere(owner)
    if others:
        return _recover_move(session, others[0], owner, found, new)
    last = history.last_of(session.host, owner)
    if found.action == "migrate" and found.retired:
        return _recover_retirement(session, owner, found, new)
    if found.action == "rollback" and last is not None and last.retired:
        return _recover_return(session, owner, found, new, last.retired)
    held, old = session.observe(owner), _old(session, owner, found)
    plan = _way(session, found, held, new)
    if plan.changed and old is not None and not diff(held, old):
        history.drop(session.host, owner)
        return "before it changed anything"
    try:
        perform(session, plan)
    except LbctlError as error:
        _take_back(session, owner, found, old, error)
        return f"and taken back now, since it cannot be finished: {error.message}"
    if old is not None:
        end_flows(session, _way(session, found, old, new))
    history.settle(session.host, owner, found)
    return "and finished now" if plan.changed else "when all of it was done"


def _recover_move(session: Session, source: Session, owner: str, found: Entry, new: Program) -> str:
    """A move of rules of lbctl. Old rules that stand in full may do so as the new ones were not proved."""
    last = history.last_of(session.host, owner)
    whole = last is not None and not plan_beside(session.like(last), last.intent).changed
    back = [(session, removal_of(session, owner))]
    on = [(session, _way(session, found, session.observe(owner), new)), (source, removal_of(source, owner))]
    return _end_move(session, owner, found, back if whole else on, whole=whole)


def _recover_retirement(session: Session, owner: str, found: Entry, new: Program) -> str:
    """As `_recover_move`, where the old rules are those of others."""
    source, step = returning(session, found.retired)
    whole, held, old = is_standing(source, step), session.observe(owner), _old(session, owner, found)
    if whole and old is not None:
        return _end_move(session, owner, found, [(session, _way(session, found, held, old))], whole=True)
    on: list[tuple[Session, Step]] = [(session, _way(session, found, held, new))]
    return _end_move(session, owner, found, [*on, (source, replace(step, back=False))], whole=False)


def _recover_return(session: Session, owner: str, found: Entry, new: Program, retired: str) -> str:
    """As `_recover_move`, where the rules of others are those that come."""
    there, step = returning(session, retired)
    held, old = session.observe(owner), _old(session, owner, found)
    whole = old is not None and not diff(held, old)
    on: list[tuple[Session, Step]] = [(there, step), (session, _way(session, found, held, new))]
    return _end_move(
        session, owner, found, [(there, replace(step, back=False))] if whole else on, whole=whole
    )


def _end_move(
    session: Session, owner: str, found: Entry, steps: Iterable[tuple[Session, Step]], *, whole: bool
) -> str:
    try:
        for where, step in steps:
            do(where, step)
    except LbctlError as error:
        raise StateUnknown(
            f"{found.action} number {found.number} was interrupted half way: {error.message}",
            hint="lbctl plan --rules shows what the kernel holds",
        ) from error
    if whole:
        history.drop(session.host, owner)
        return "and taken back now, since the old rules were all there"
    history.settle(session.host, owner, found)
    return "and finished now"


def _take_back(session: Session, owner: str, found: Entry, old: Program | None, cause: LbctlError) -> None:
    try:
        if old is None:
            raise cause
        perform(session, _way(session, found, session.observe(owner), old))
    except LbctlError as error:
        raise StateUnknown(
            f"{found.action} number {found.number} was interrupted half way, and cannot be finished: "
            f"{cause.message}; nor taken back: {error.message}",
            hint="lbctl plan --rules shows what the kernel holds",
        ) from error
    history.drop(session.host, owner)


def _old(session: Session, owner: str, found: Entry) -> Program | None:
    """What the store of an interrupted state held before that; None where nobody knows."""
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


def _way(session: Session, found: Entry, before: Program, after: Program) -> Plan:
    return way(session.host, session.backend, session.driver, before, after, found.intent)
