"""Carrying out plans: noted first, verified after."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, NoReturn

from lbctl.engine.change import counters
from lbctl.engine.change.needs import ensure_agent
from lbctl.engine.change.plan import holds_soon, plan_beside, plan_between, removal, removal_here
from lbctl.engine.record import history, overrides, trial
from lbctl.engine.record.lock import owner_lock
from lbctl.engine.record.verdicts import is_live
from lbctl.errors import (
    ApplyFailed,
    LbctlError,
    Overtaken,
    PermissionDenied,
    Stale,
    StateUnknown,
    ToolCrashed,
)
from lbctl.host import forget_flows
from lbctl.model import Forward, Intent, diff

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lbctl.engine.change.session import Session
    from lbctl.engine.record.history import HistoryEntry
    from lbctl.host import Host
    from lbctl.model import Plan, Program


def ensure_last_holds(session: Session, owner: str) -> None:
    """Raise `Stale` where the kernel does not hold what the history has last."""
    last = history.last_of(session.host, owner)
    if last and not holds_soon(session.like(last), last.intent):
        raise Stale(
            f"the kernel rules differ from the last recorded state, number {last.number}",
            hint="lbctl plan shows the difference; lbctl rollback can revert a later lbctl apply",
        )


def apply(
    session: Session, plans: tuple[Plan, ...], *, record: bool = False, back_to: HistoryEntry | None = None
) -> tuple[str, ...]:
    """Carry out plans of this session, each atomically; returns what the user should know.

    Each is carried out under the lock of its owner.

    With `record`, each is noted in the history, `back_to` being what a rollback returns to. A plan that
    changes nothing is noted too where the history has another intent: that is what then holds. A program that
    changes much and often does without: noting a state writes its whole intent. Rollback then refuses to take
    back what it did not see, and a change that a crash cuts in two is a difference that the next plan finds.

    Raises `Stale` where the kernel changed since the plan, which may not be made anew (`ensure_replannable`),
    another lbctl holds the lock, or one was interrupted (`recover`); `ApplyFailed` where nothing was changed,
    be it for want of room to write it down (which keeps no rules from being removed); `StateUnknown` where
    the kernel does not hold afterwards what was planned; `Unsupported` where a service begins to need an
    agent and none runs.
    """
    notes: list[str] = []
    for each in plans:
        if each.changed or (record and not history.knows(session.host, each)):
            owner = each.after.owner
            if back_to is None:
                ensure_agent(session, each)
            with changing(session, owner, back_to):
                # Rules are removed in an emergency too: a full disk is one.
                removes = back_to is None and each.intent is not None and not each.intent.services
                notes += carry_out(session, each, record=record, back_to=back_to, in_any_case=removes)
                if removes:
                    overrides.forget(session.host, owner)
    return tuple(notes)


def remove(
    session: Session, owner: str, *, everywhere: bool = False, record: bool = False
) -> tuple[str, ...]:
    """Remove everything of an owner, from the chosen store or from every one; raises as `apply` does."""
    changes = removal(session, owner, everywhere=everywhere)
    return tuple(note for place, plan in changes for note in apply(place, (plan,), record=record))


@contextmanager
def changing(session: Session, owner: str, back_to: HistoryEntry | None) -> Iterator[None]:
    """Hold the lock of an owner, to change its rules.

    Raises `Stale` while a trial runs; going back ends it. Any change ends one that could not be reverted.
    """
    with owner_lock(session.host, owner, patience=session.patience):
        history.ensure_settled(session.host, owner)
        if back_to is None:
            trial.ensure_none(session.host, owner)
        found = trial.outlook(session.host, owner)
        yield
        if found is not None:
            trial.end(session.host, found.trial, history.TrialState.REVERTED)


def carry_out(
    session: Session,
    plan: Plan,
    *,
    record: bool = True,
    back_to: HistoryEntry | None = None,
    in_any_case: bool = False,
) -> list[str]:
    """As `apply`, of one plan, by who holds the lock.

    `in_any_case` has it done where it cannot be noted too, and whatever is pending: that is over with it.
    """
    plan = _current(session, plan)
    try:
        return _carry_out(session, plan, record=record, back_to=back_to, in_any_case=in_any_case)
    except Stale as stale:
        plan = _anew(session, plan, stale)
        return _carry_out(session, plan, record=record, back_to=back_to, in_any_case=in_any_case)


def _carry_out(
    session: Session, plan: Plan, *, record: bool, back_to: HistoryEntry | None, in_any_case: bool
) -> list[str]:
    if not record:
        return perform(session, plan)
    host, owner = session.host, plan.after.owner
    entry = None
    unnoted: list[str] = []
    try:
        entry = history.upcoming(host, plan, back_to, allow_remap=session.allow_remap)
        if entry is None and plan.changed:
            entry = history.repaired(host, plan, allow_remap=session.allow_remap)
        if entry is not None:
            history.begin(host, owner, entry)
    except (ApplyFailed, PermissionDenied) as error:
        if plan.changed and not in_any_case:
            raise
        if plan.changed:
            unnoted.append(f"Not in the history: {error.message}")
        entry = None
    try:
        notes = perform(session, plan) + unnoted
    except (ApplyFailed, Stale):
        if not in_any_case:
            _drop(host, owner)
        raise
    if entry is None:
        _drop(host, owner)
        return notes
    try:
        history.settle(host, owner, entry)
    except (ApplyFailed, PermissionDenied) as error:
        notes.append(f"Not in the history yet: {error.message}")
    if plan.intent is not None:
        overrides.note_use(host, owner, plan.intent)
    return notes


def _current(session: Session, plan: Plan) -> Plan:
    """Return a plan as the verdicts of now have it; raise `Overtaken` if operators decided something since.

    What checks find changes at any time, and the agent carries it out without a question.
    """
    made = plan.effective
    if made is None:
        return plan
    now = session.effective(made.file)
    if now.intent == made.intent:
        return plan
    if (now.overrides, now.unused) != (made.overrides, made.unused):
        raise Overtaken("endpoints were drained or activated since the plan was made", hint="plan again")
    return plan_beside(session, made.file)


def _anew(session: Session, plan: Plan, stale: Stale) -> Plan:
    """Return a plan that became stale as the kernel now is; raise `stale` where only its user may do that."""
    ensure_replannable(session, plan, stale)
    if plan.effective is not None:
        return plan_beside(session, plan.effective.file)
    if plan.intent is not None and not plan.intent.services:
        return removal_here(session, plan.owner)
    raise stale


def ensure_replannable(session: Session, plan: Plan, stale: Stale) -> None:
    """Raise `stale` unless a plan may be made anew by who holds the lock.

    It may where no person was asked, and where an agent changed the kernel: no command did, and whatever
    another program did, an agent reverts. An agent changes rules at any time, and what it found is on record
    a moment before.
    """
    host, owner = session.host, plan.owner
    if session.unattended or (is_live(host, owner) and history.latest(host, owner) == plan.state):
        return
    raise stale


def _drop(host: Host, owner: str) -> None:
    # Where that fails, the next command finds out that nothing of it holds.
    with suppress(ApplyFailed):
        history.drop(host, owner)


def perform(session: Session, plan: Plan) -> list[str]:
    """Have the kernel hold what a plan leads to, if it does not; returns what the user should know.

    What was written is verified. Raises `ApplyFailed` if the kernel holds what it held before: nothing was
    changed, or what was written came back wrong and was undone; `StateUnknown` if neither can be verified.
    """
    if not plan.changed:
        return []
    backend = session.backend
    notes: list[str] = []
    counted = counters.before_change(session, plan)
    try:
        held = backend.apply(session.host, plan)
        fault = "what was written differs when read back"
    except ToolCrashed as crash:
        held, fault = _after_crash(session, plan, crash), crash.message
        notes = [f"{fault}, but all of the change is in the kernel."]
    if wrong := diff(held, plan.after):
        _undo(session, plan, held, f"{fault}: {' '.join(wrong[0].key)}")
    counters.after_change(session, plan, held, counted)
    session.memory.keep(session.place, plan.after.at(held.generation))
    session.next_hops(plan.after.owner).note(session.host, plan.after.owner, plan.effective)
    return notes + end_flows(session, plan)


def _after_crash(session: Session, plan: Plan, crash: ToolCrashed) -> Program:
    """Return what the kernel holds after a tool was ended by a signal while it wrote."""
    try:
        return session.backend.observe(session.host, session.driver, plan.after.owner)
    except LbctlError as error:
        message = f"{crash.message}; then the kernel could not be read: {error.message}"
        raise StateUnknown(message, hint=crash.hint) from crash


def _undo(session: Session, plan: Plan, held: Program, fault: str) -> NoReturn:
    """Return from what the kernel holds to what it held before a plan, verify that, and report the fault."""
    hint = "lbctl backends shows the tool; another version of it, another driver or --backend may be right"
    if not diff(held, plan.before):
        raise ApplyFailed(f"{fault}; the kernel holds the rules from before", hint=hint)
    try:
        back = plan_between(session, held, plan.before, Intent(owner=plan.after.owner))
        left = diff(session.backend.apply(session.host, back), plan.before)
        reason = f"the kernel then holds another {' '.join(left[0].key)}" if left else ""
    except LbctlError as error:
        reason = error.message
    if reason:
        raise StateUnknown(
            f"{fault}; the state before could not be restored: {reason}",
            hint="lbctl plan --rules shows what the kernel holds",
        )
    raise ApplyFailed(f"{fault}; the state before is restored and verified", hint=hint)


def end_flows(session: Session, plan: Plan) -> list[str]:
    """Forget the flows that a plan ends; returns what the user should know.

    Once the kernel holds it: with the old rules in place, the next datagram would make the same flow again.
    """
    tracked = [flow for flow in plan.stale if flow.forward is Forward.NAT]
    if not tracked or forget_flows(session.host, tracked):
        return []
    flows = ", ".join(map(str, tracked))
    return [f"UDP flows keep their removed endpoints, since the command conntrack is missing: {flows}"]
