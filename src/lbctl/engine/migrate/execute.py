"""Carrying out a migration: add the new rules, verify them on the live kernel, remove the old ones."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from lbctl.engine.change.apply import changing, ensure_replannable
from lbctl.engine.inspect.compare import compare
from lbctl.engine.migrate.plan import coming, going, live, names
from lbctl.engine.migrate.steps import Retire, Step, do, is_standing, migrator_of, others_of, undo
from lbctl.engine.record import history, overrides
from lbctl.errors import ApplyFailed, Overtaken, PermissionDenied, Stale, StateUnknown
from lbctl.model import Plan, diff
from lbctl.spi import Migrator, ensure_fresh

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lbctl.engine.change.session import Session
    from lbctl.engine.inspect.compare import Pair
    from lbctl.engine.migrate.migration import Migration
    from lbctl.engine.record.history import HistoryEntry
    from lbctl.host import Host
    from lbctl.model import Remembered


def run_migration(
    session: Session, made: Migration, *, back_to: HistoryEntry | None = None
) -> tuple[str, ...]:
    """Carry out a migration under the lock of its owner; returns what the user should know.

    Raises as `apply` does. Whatever fails, the kernel is as it was before, but for `StateUnknown`.
    """
    with changing(session, made.owner, back_to):
        return tuple(move(made, back_to=back_to))


def move(made: Migration, *, back_to: HistoryEntry | None = None, in_any_case: bool = False) -> list[str]:
    """As `migrate`, by who holds the lock; `in_any_case` as in `carry_out`."""
    made = _current(made)
    source, target = made.source, made.target
    entry, notes = _begin(made, back_to, in_any_case=in_any_case)
    begun: list[tuple[Session, Step]] = []
    try:
        _attempt(begun, target, _with_clients(made))
        _prove(made)
        _follow_up(made)
        others = others_of(source, made.owner)
        if isinstance(made.go, Retire) and others != made.go.before:
            raise Overtaken(f"foreign rules in {source.place} changed since the plan", hint="plan again")
        _attempt(begun, source, made.go)
        _prove_gone(made, made.go.after if isinstance(made.go, Retire) else others)
    except BaseException as cause:
        _return(made, begun, cause)
        raise
    try:
        if entry is not None:
            history.settle(target.host, made.owner, entry)
    except (ApplyFailed, PermissionDenied) as error:
        notes.append(f"Not in the history yet: {error.message}")
    overrides.note_use(target.host, made.owner, made.intent)
    return notes


def _current(made: Migration) -> Migration:
    """Return a migration as the kernel now is, where it may be planned anew; see `ensure_replannable`."""
    places = ((made.target, made.come), (made.source, made.go))
    try:
        for session, step in places:
            if isinstance(step, Plan):
                mark = session.backend.generation(session.host, session.driver)
                ensure_fresh(step, mark, partial(session.observe, made.owner))
    except Stale as stale:
        ensure_replannable(*made.plan, stale)
        anew = None if made.again is None else made.again()
        if anew is None:
            raise
        return anew
    return made


def _attempt(begun: list[tuple[Session, Step]], session: Session, step: Step) -> None:
    """Carry out a step, which then is one to undo: unless it is refused as a whole."""
    begun.append((session, step))
    try:
        do(session, step)
    except (ApplyFailed, Stale):
        if isinstance(step, Plan):
            begun.pop()
        raise


def _begin(
    made: Migration, back_to: HistoryEntry | None, *, in_any_case: bool
) -> tuple[HistoryEntry | None, list[str]]:
    """Write down what is about to be brought about."""
    try:
        record_start(made)
        entry = upcoming(made, back_to)
        if entry is not None:
            history.begin(made.target.host, made.owner, entry)
    except (ApplyFailed, PermissionDenied) as error:
        if not in_any_case:
            raise
        return None, [f"Not in the history: {error.message}"]
    return entry, []


def upcoming(
    made: Migration, back_to: HistoryEntry | None = None, *, host: Host | None = None
) -> HistoryEntry | None:
    """Return the state that a migration leads to, by the record on a `host`, else on its own."""
    session, plan = made.plan
    allow = session.allow_remap
    return history.upcoming(host or session.host, plan, back_to, moved=made.retired, allow_remap=allow)


def _return(made: Migration, begun: Sequence[tuple[Session, Step]], cause: BaseException) -> None:
    """Undo what was done, the last first; raises what is to be said instead of `cause`."""
    try:
        for session, step in reversed(begun):
            undo(session, step)
    except (ApplyFailed, Stale, StateUnknown) as error:
        raise StateUnknown(
            f"{cause}; then rolling back failed: {error.message}",
            hint="lbctl plan shows what the kernel holds; lbctl migrate begins again",
        ) from error
    with suppress(ApplyFailed):
        history.drop(made.target.host, made.owner)
    if isinstance(cause, StateUnknown):
        raise ApplyFailed(f"{cause.message}; everything is restored", hint=cause.hint) from cause


def _prove(made: Migration) -> None:
    """Raise `ApplyFailed` unless the live kernel shows what the migration said."""
    step, target = made.come, made.target
    if isinstance(step, Retire):
        if not is_standing(target, step):
            raise ApplyFailed(f"not all previous rules are restored in {target.place}")
        return
    left = diff(target.backend.observe(target.host, target.driver, made.owner), step.after)
    if left:
        raise ApplyFailed(f"the added rules differ when read back: {' '.join(left[0].key)}")
    if made.comparison is None:
        return
    shown = {_told(pair) for pair in made.comparison.pairs}
    found = compare(going(made, live(made.source)), coming(made, live(target)))
    odd = [pair for pair in found.pairs if _told(pair) not in shown]
    if odd or len(found.pairs) != len(made.comparison.pairs):
        raise ApplyFailed(
            f"the live kernel does not do what was planned: {names(odd) or 'a service'}",
            hint="other rules of this host may act on it first: see lbctl compare "
            f"live:{made.source.place} live:{target.place}",
        )


def _prove_gone(made: Migration, others: str) -> None:
    """Raise `ApplyFailed` unless what should go has gone, and nothing else."""
    source = made.source
    if isinstance(made.go, Plan):
        left = diff(source.backend.observe(source.host, source.driver, made.owner), made.go.after)
        if left:
            raise ApplyFailed(f"rules that should be removed are still there: {' '.join(left[0].key)}")
    if others_of(source, made.owner) != others:
        raise ApplyFailed(
            f"foreign rules in {source.place} changed meanwhile", hint="lbctl migrate tries again"
        )


def _told(pair: Pair) -> object:
    """Return what was said of a service: all that the user agreed to."""
    return pair.service.selector, pair.hooks, pair.verdict, tuple(pair.shares.items()), pair.leak


def _with_clients(made: Migration) -> Step:
    """Return what comes, with the clients that are known where it comes from."""
    return replace(made.come, clients=_clients(made)) if isinstance(made.come, Plan) else made.come


def _clients(made: Migration) -> tuple[Remembered, ...]:
    source = made.source
    if made.foreign is not None:
        return migrator_of(source).clients_of(source.host, made.foreign.text, made.foreign.lines)
    if not isinstance(source.backend, Migrator) or not isinstance(made.go, Plan):
        return ()
    return source.backend.clients(source.host, source.driver, made.owner)


def _follow_up(made: Migration) -> None:
    """Bring in the clients that came while the rules did."""
    target = made.target
    if isinstance(target.backend, Migrator) and isinstance(made.come, Plan):
        target.backend.remember(target.host, target.driver, made.owner, _clients(made))


def record_start(made: Migration) -> None:
    """Have the history know the state that a migration leaves; raises `ApplyFailed`."""
    source = made.source
    if made.start is None:
        return
    entry = history.upcoming(source.host, made.start, allow_remap=source.allow_remap)
    if entry is not None:
        history.add(source.host, made.owner, entry)
