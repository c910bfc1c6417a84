"""Plan and apply. Removing is applying the empty intent; there is no other way to change the kernel."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, NoReturn

from lbctl.engine import history, trial
from lbctl.errors import ApplyFailed, LbctlError, PermissionDenied, Stale, StateUnknown, ToolCrashed
from lbctl.host import forget_flows
from lbctl.model import Action, Intent, Plan, diff, diff_services, stale_flows, touched

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lbctl.engine.history import Entry
    from lbctl.engine.session import Session
    from lbctl.host import Host
    from lbctl.model import Program, ServiceChange
    from lbctl.spi import Backend


def plan(session: Session, intent: Intent) -> Plan:
    """What `apply` would change to make the kernel hold `intent`. Changes nothing.

    Raises `ApplyFailed` where another backend still holds rules of the same owner: both would balance the
    same connections.
    """
    return _plan_from(session, intent, alone=True)


def plan_beside(session: Session, intent: Intent) -> Plan:
    """As `plan`, whatever other stores hold: for who takes that out himself."""
    return _plan_from(session, intent, alone=False)


def _plan_from(session: Session, intent: Intent, *, alone: bool) -> Plan:
    after = session.compile(intent)
    before = session.held(intent.owner, like=after)
    if alone and not session.remembers(before):
        # Once looked at is enough: while this store holds rules, lbctl puts none into another.
        _refuse_other_stores(session, intent.owner)
    made = way(session.host, session.backend, session.driver, before, after, intent)
    if not made.changed:
        session.memory.keep(session.place, after.at(before.generation))
    return made


def _refuse_other_stores(session: Session, owner: str) -> None:
    for backend, driver in session.stores():
        if driver.store == session.place:
            continue
        if backend.observe(session.host, driver.name, owner):
            raise ApplyFailed(
                f'{driver.store} still holds the rules of owner "{owner}"',
                hint=f"lbctl migrate --to {session.backend.name} moves them without losing a connection; "
                f"or: lbctl remove --driver {driver.name}",
            )


def describe(session: Session, plan: Plan) -> tuple[ServiceChange, ...]:
    """All services of both sides of a plan with their shares, those too that stay as they are."""
    lift = next(c.backend.lift for c in session.candidates if c.backend.name == plan.backend)
    return diff_services(lift(plan.before), lift(plan.after), plan.changes)


def removal(session: Session, owner: str, *, everywhere: bool) -> tuple[Plan, ...]:
    """The plans that take out everything of an owner: in the chosen store, or in every one."""
    session.need_privilege()
    return tuple(
        removal_here(session.at(backend, driver, "to be emptied"), owner)
        for backend, driver in session.stores()
        if everywhere or driver.name == session.driver
    )


def removal_here(session: Session, owner: str) -> Plan:
    """The plan that takes everything of an owner out of the store of a session."""
    nothing = Intent(owner=owner)
    before, after = session.observe(owner), session.compile(nothing)
    return way(session.host, session.backend, session.driver, before, after, nothing)


def ensure_last_holds(session: Session, owner: str) -> None:
    """Raise `Stale` where the kernel does not hold what the history has last."""
    last = history.last_of(session.host, owner)
    if last and plan(session.like(last), last.intent).changed:
        raise Stale(
            f"the kernel does not hold what the history has last, which is number {last.number}",
            hint="lbctl plan shows what differs; what lbctl apply then makes, rollback can take back",
        )


def apply(
    session: Session, plans: tuple[Plan, ...], *, record: bool = False, back_to: Entry | None = None
) -> tuple[str, ...]:
    """Carry out plans, each atomically, under the lock of their owner; returns what the user should know.

    With `record`, each is noted in the history, `back_to` being what a rollback returns to. A plan that
    changes nothing is noted too where the history has another intent: that is what then holds. A program that
    changes much and often does without: noting a state writes its whole intent. Rollback then refuses to take
    back what it did not see, and a change that a crash cuts in two is a difference that the next plan finds.

    Raises `Stale` where the kernel moved since the plan, another lbctl holds the lock, or one was interrupted
    (`recover`); `ApplyFailed` where nothing was changed, as for want of room to note it; `StateUnknown` where
    the kernel does not hold afterwards what was planned.
    """
    notes: list[str] = []
    for each in plans:
        if each.changed or (record and not history.knows(session, each)):
            owner = each.after.owner
            with changing(session, owner, back_to):
                notes += carry_out(session, each, record=record, back_to=back_to)
    return tuple(notes)


@contextmanager
def changing(session: Session, owner: str, back_to: Entry | None) -> Iterator[None]:
    """Hold the lock of an owner, to change its rules.

    Raises `Stale` while a trial runs; going back ends it.
    """
    with session.host.lock(owner, patience=session.patience):
        history.ensure_settled(session.host, owner)
        running = trial.running(session.host, owner)
        if running and back_to is None:
            raise Stale(
                f'a trial of owner "{owner}" is running, for {running.left(session.host):.0f} s more',
                hint="lbctl confirm keeps it, lbctl rollback takes it back",
            )
        yield
        if running:
            trial.end(session.host, running, trial.State.REVERTED)


def carry_out(
    session: Session,
    plan: Plan,
    *,
    record: bool = True,
    back_to: Entry | None = None,
    in_any_case: bool = False,
) -> list[str]:
    """As `apply`, of one plan, by who holds the lock.

    `in_any_case` has it done where it cannot be noted too, and whatever is pending: that is over with it.
    """
    if not record:
        return perform(session, plan)
    host, owner = session.host, plan.after.owner
    entry = None
    try:
        entry = history.upcoming(session, plan, back_to)
        if entry is None and plan.changed:
            entry = history.repaired(session, plan)
        if entry is not None:
            history.begin(host, owner, entry)
    except (ApplyFailed, PermissionDenied):
        if plan.changed and not in_any_case:
            raise
        entry = None
    try:
        notes = perform(session, plan)
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
        notes.append(f"The history does not have this yet: {error.message}")
    return notes


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
    backend = next(c.backend for c in session.candidates if c.backend.name == plan.backend)
    notes: list[str] = []
    try:
        held = backend.apply(session.host, plan)
        fault = "the kernel holds something else than what was written"
    except ToolCrashed as crash:
        held, fault = _after_crash(session, backend, plan, crash), crash.message
        notes = [f"{fault}, but all of the change is in the kernel."]
    if wrong := diff(held, plan.after):
        _undo(session, backend, plan, held, f"{fault}: {' '.join(wrong[0].key)}")
    store = session.store(plan.backend, plan.driver)
    session.memory.keep(store, plan.after.at(held.generation))
    return notes + end_flows(session, plan)


def _after_crash(session: Session, backend: Backend, plan: Plan, crash: ToolCrashed) -> Program:
    """What the kernel holds after a tool was ended by a signal while it wrote."""
    try:
        return backend.observe(session.host, plan.driver, plan.after.owner)
    except LbctlError as error:
        message = f"{crash.message}; then the kernel could not be read: {error.message}"
        raise StateUnknown(message, hint=crash.hint) from crash


def _undo(session: Session, backend: Backend, plan: Plan, held: Program, fault: str) -> NoReturn:
    """Return from what the kernel holds to what it held before a plan, verify that, and report the fault."""
    hint = "lbctl backends shows the tool; another version of it, another driver or --backend may be right"
    if not diff(held, plan.before):
        raise ApplyFailed(f"{fault}; the kernel holds the rules from before", hint=hint)
    try:
        back = way(session.host, backend, plan.driver, held, plan.before, Intent(owner=plan.after.owner))
        left = diff(backend.apply(session.host, back), plan.before)
        reason = f"the kernel then holds {' '.join(left[0].key)} otherwise" if left else ""
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
    if forget_flows(session.host, plan.stale):
        return []
    flows = ", ".join(map(str, plan.stale))
    return [f"UDP flows stay where they were, since there is no conntrack here: {flows}"]


def way(host: Host, backend: Backend, driver: str, before: Program, after: Program, intent: Intent) -> Plan:
    """The plan from one program to another, which is that of an intent."""
    changes = diff(before, after)
    concerned = touched(changes)
    was, will = backend.lift(before.only(concerned)), backend.lift(after.only(concerned))
    services = tuple(s for s in diff_services(was, will, changes) if s.action is not Action.NONE)
    made = Plan(
        backend=backend.name,
        driver=driver,
        before=before,
        after=after,
        changes=changes,
        services=services,
        stale=stale_flows(was, will, intent.services),
        intent=intent,
    )
    return replace(made, notes=backend.notes(host, made)) if made.changed else made
