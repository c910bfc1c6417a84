"""Trying a change out, and taking it back by itself.

The reverter is a process of its own, outside of the terminal that the change was made from: that is the one
that may hang when the change was wrong. It is there, and has looked at the host, before anything changes, and
it reverts by the same plan and apply as `rollback`.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

from lbctl.engine.change.apply import changing, ensure_last_holds
from lbctl.engine.migrate.execute import record_start, upcoming
from lbctl.engine.migrate.migration import Migration
from lbctl.engine.record import history, trial
from lbctl.engine.record.history import TrialState
from lbctl.engine.record.lock import owner_lock
from lbctl.engine.record.trial import PromisedFile, Trial
from lbctl.engine.undo.rollback import Way, go, way_back
from lbctl.engine.undo.standby import orders
from lbctl.errors import ApplyFailed, LbctlError, Stale, StateUnknown
from lbctl.model import Plan, diff

if TYPE_CHECKING:
    from collections.abc import Callable

    from lbctl.engine.change.session import Session
    from lbctl.host import Host

#: Seconds between two looks at what others did.
_PAUSE = 0.1
#: Seconds for the reverter to come up.
_STARTING = 20.0
#: Seconds that the waiting process leaves to the reverter before it reverts itself.
_LATE = 5.0
_LOCK_PATIENCE = 30.0
_ATTEMPTS = 20


def try_out(
    session: Session, way: Way, seconds: float, *, promised: PromisedFile | None = None
) -> tuple[Trial, list[str]]:
    """Carry out a plan or a migration that is reverted after `seconds` unless `confirm` comes first.

    Returns at once, with what the user should know. `promised` is a file for who confirms it. Raises as
    `apply` does, and `ApplyFailed` where there is no state on record to return to, or no reverter comes up.
    """
    host, owner = session.host, way.owner
    with changing(session, owner, None):
        tried = Trial(
            ident=f"{os.getpid()}.{host.clock():.6f}",
            state=TrialState.RUNNING,
            deadline=host.clock() + _STARTING + seconds,
            namespace=host.namespace(),
            owner=owner,
            before=_before(session, way),
            retired=way.retired if isinstance(way, Migration) else "",
        )
        trial.save(host, tried)
        try:
            _start_watch(session, way, tried)
            # From here on it is reverted even if this process dies at once.
            tried = replace(tried, deadline=host.clock() + seconds)
            trial.save(host, tried)
            if promised is not None:
                trial.promise(host, tried, promised)
            notes = go(session, way)
            history.mark_trial(host, owner, TrialState.RUNNING)
        except (ApplyFailed, Stale):
            trial.forget(host, owner)
            raise
        tried = replace(tried, deadline=host.clock() + seconds)
        try:
            trial.save(host, tried)
            _postpone(host, tried)
        except ApplyFailed as error:
            notes.append(f"The trial ends earlier, by the duration of the change: {error.message}")
    session.memory.save()
    return tried, notes


def ensure_revertible(session: Session, way: Way) -> None:
    """Raise what `try_out` would raise if there is no state to return to. Changes nothing.

    For a command that asks before it changes something.
    """
    if isinstance(way, Plan):
        _before(session, way)
    else:
        ensure_last_holds(session, way.owner)


def _before(session: Session, way: Way) -> history.HistoryEntry:
    if isinstance(way, Migration):
        record_start(way)
        entry = upcoming(way)
    else:
        entry = history.upcoming(session.host, way, allow_remap=session.allow_remap)
    found = history.before(session.host, entry) if entry else None
    if found is None:
        raise ApplyFailed(
            "the history has no state that a trial could return to",
            hint="apply once without --trial, or remove",
        )
    ensure_last_holds(session, way.owner)
    return found


def _postpone(host: Host, tried: Trial) -> None:
    """Have what reverts a trial know its deadline: a process of lbctl reads it from the record."""
    if not host.is_here():
        host.postpone(tried.ident, trial.guard_of(tried.owner), tried.deadline)


def _start_watch(session: Session, way: Way, tried: Trial) -> None:
    host = session.host
    if not host.is_here():
        host.stand_by(orders(session, way, tried))
        return
    host.detach([sys.executable, "-sP", "-m", "lbctl", "watch-trial", tried.owner, tried.ident])
    until = host.clock() + _STARTING
    while not trial.is_watched(host, tried):
        if host.clock() >= until:
            raise ApplyFailed("the process that reverts the trial did not start; nothing was changed")
        host.sleep(_PAUSE / 4)


def watch(session: Session, owner: str, ident: str) -> None:
    """Stand by until a trial is over, and revert it in time unless it was confirmed."""
    host = session.host
    with trial.guarding(host, owner):
        trial.announce(host, owner, ident)
        while (tried := _current(session, owner, ident)) is not None:
            if tried.left(host):
                host.sleep(min(tried.left(host), _PAUSE))
            else:
                try:
                    revert(session, tried)
                except Stale:
                    host.sleep(_PAUSE)


def await_end(session: Session, tried: Trial, look: Callable[[float], None] = lambda _: None) -> Trial:
    """Return the trial once it is over. Should its reverter be gone, it is reverted here.

    `look` is called several times a second, with the seconds that are left.
    """
    host = session.host
    while (now := _current(session, tried.owner, tried.ident)) is not None:
        look(now.left(host))
        if host.clock() > now.deadline + _LATE:
            revert(session, now)
        else:
            host.sleep(_PAUSE)
    found = trial.read_trial(host, tried.owner)
    # Forgotten: that is how it ends on a full disk, and only unconfirmed.
    return found if found and found.ident == tried.ident else replace(tried, state=TrialState.REVERTED)


def revert(session: Session, tried: Trial, *, patience: float = _LOCK_PATIENCE) -> None:
    """Revert a trial whose time is over, unless it ended otherwise while the lock was waited for.

    Raises `Stale` if another process holds the lock for longer than `patience`, in seconds.
    """
    host, owner = session.host, tried.owner
    with owner_lock(host, owner, patience=patience):
        for _ in range(_ATTEMPTS):
            now = _current(session, owner, tried.ident)
            if now is None or now.left(host):
                return
            try:
                # The rules may be elsewhere than a session of today would put them.
                _go_back(session.like(now.before), now)
            except LbctlError as error:
                failure = error.message
                host.sleep(_PAUSE)
            else:
                trial.end(host, now, TrialState.REVERTED, _report(session, now))
                return
        trial.end(host, tried, TrialState.FAILED, f"the trial could not be reverted: {failure}")


def _go_back(session: Session, tried: Trial) -> None:
    way = way_back(session, tried.before, tried.retired)
    go(session, way, back_to=tried.before, in_any_case=True)
    # Read from the kernel, whatever is believed of it.
    if isinstance(way, Plan) and diff(session.observe(tried.owner), way.after):
        raise StateUnknown("the reverted rules differ when read back")
    session.memory.save()


def _report(session: Session, tried: Trial) -> str:
    late = session.host.clock() - tried.deadline
    return (
        f"the trial was not confirmed and was reverted to {tried.before.state}, "
        f"{late:.1f} s after its time; read back"
    )


def _current(session: Session, owner: str, ident: str) -> Trial | None:
    found = trial.read_trial(session.host, owner)
    return found if found and found.ident == ident and found.state is TrialState.RUNNING else None
