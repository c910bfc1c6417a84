"""Plans. Removing is applying the empty intent; there is no other way to change the kernel."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from lbctl.engine.change import facts
from lbctl.engine.change.render import capabilities_here
from lbctl.engine.record import history
from lbctl.engine.record.next_hops import with_next_hops
from lbctl.engine.record.verdicts import is_live
from lbctl.errors import ApplyFailed, IntentError
from lbctl.model import (
    Action,
    Intent,
    Plan,
    diff,
    diff_services,
    given_settings,
    intent_changes,
    stale_flows,
    touched,
)
from lbctl.spi import AUTO

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from lbctl.engine.change.session import Session
    from lbctl.host import Host
    from lbctl.model import Change, Effective, LiftedProgram, Program, Service, ServiceChange
    from lbctl.spi import Backend


#: Seconds that an agent has to carry out what it found, and between two looks whether it did.
_AGENT, _LOOK = 5.0, 0.1


def plan(session: Session, intent: Intent) -> Plan:
    """Return what `apply` would change to make the kernel hold `intent`. Changes nothing.

    Raises `ApplyFailed` if another store still holds rules of the same owner: both would balance the same
    connections.
    """
    return _plan_from(session, intent, alone=True)


def holds(session: Session, intent: Intent) -> bool:
    """Return True if the kernel holds an intent: with the verdicts of now, or as the last agent left it."""
    return not plan(session, intent).changed or any(
        not plan(left, intent).changed for left in as_left(session, intent.owner)
    )


def holds_soon(session: Session, intent: Intent) -> bool:
    """As `holds`, but wait for an agent: what it found is on record a moment before the kernel holds it."""
    host = session.host
    until = host.clock() + (_AGENT if is_live(host, intent.owner) else 0.0)
    while not holds(session, intent):
        if host.clock() >= until:
            return False
        host.sleep(_LOOK)
    return True


def as_left(session: Session, owner: str) -> Iterator[Session]:
    """Yield sessions whose facts are those that were in force when the last agent ended, or a little later.

    Endpoints that it found down are out then. That is no change by another program.
    """
    for known in facts.as_left(session.facts(owner)):
        yield replace(session, assumed=known)


def plan_beside(session: Session, intent: Intent) -> Plan:
    """Return the same whatever other stores hold: for a caller that removes that itself."""
    return _plan_from(session, intent, alone=False)


def _plan_from(session: Session, intent: Intent, *, alone: bool) -> Plan:
    effective = session.effective(intent)
    after = session.compile_exactly(effective.intent)
    before = session.held(intent.owner, like=after)
    if alone and not session.remembers(before):
        # Once looked at is enough: while this store holds rules, lbctl puts none into another.
        _refuse_other_stores(session, intent.owner)
    made = plan_between(session, before, after, intent, effective)
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
                hint=f"lbctl migrate --to {session.place} migrates them without losing a connection; "
                f"or: lbctl remove --driver {driver.name}",
            )


def plan_against(
    host: Host,
    base: Intent,
    intent: Intent,
    *,
    backend: str = AUTO,
    driver: str | None = None,
    allow_remap: bool = False,
) -> tuple[Backend, Plan]:
    """Return what changes from one intent to another, and the backend that both are compiled for.

    Needs no privilege and reads no rules: of the host, only what a passive probe finds. The backend need not
    be usable here.

    Raises `IntentError` for another owner or an unknown backend, and `Unsupported`.
    """
    if base.owner != intent.owner:
        raise IntentError(
            f'the owners differ: "{base.owner}" before, "{intent.owner}" after',
            hint="two owners have rules of their own: compare files of one owner",
        )
    chosen, found = capabilities_here(host, backend, driver)
    capabilities = replace(found, remap=allow_remap)
    before, after = (chosen.compile(with_next_hops(host, each), capabilities) for each in (base, intent))
    made = pure_plan(chosen, driver or "", before, after, intent)
    changed = intent_changes(base, intent)
    services = tuple(
        replace(each, changes=changed.get(each.name, ())) if each.action is Action.CHANGE else each
        for each in with_settings(made.services, intent)
    )
    return chosen, replace(made, services=services)


def with_settings(services: Sequence[ServiceChange], intent: Intent) -> tuple[ServiceChange, ...]:
    """Return services of which those that are added have their settings as changes from the defaults."""
    new = {service.name: service for service in intent.services}
    return tuple(
        replace(each, changes=given)
        if each.action is Action.ADD and each.name in new and (given := given_settings(new[each.name]))
        else each
        for each in services
    )


def describe(session: Session, plan: Plan) -> tuple[ServiceChange, ...]:
    """Return all services of both sides of a plan with their shares, unchanged ones included."""
    return describe_plan(session.backend, plan)


def describe_plan(backend: Backend, plan: Plan) -> tuple[ServiceChange, ...]:
    """As `describe`, for a plan without a session."""
    lift = backend.lift
    wanted = plan.intent.services if plan.intent is not None else ()
    known = {service.name: service for service in plan.services}
    found = diff_services(lift(plan.before), lift(plan.after), plan.changes, wanted)
    return tuple(
        replace(each, changes=known[each.name].changes, order=known[each.name].order)
        if each.name in known
        else each
        for each in found
    )


def removal(session: Session, owner: str, *, everywhere: bool) -> tuple[tuple[Session, Plan], ...]:
    """Return the plans that remove everything of an owner, from the chosen store or from every one.

    Each with the session that can carry it out.
    """
    session.need_privilege()
    places = (
        session.at(backend, driver, "to be emptied")
        for backend, driver in session.stores()
        if everywhere or driver.name == session.driver
    )
    return tuple((place, removal_here(place, owner)) for place in places)


def removal_here(session: Session, owner: str) -> Plan:
    """Return the plan that removes everything of an owner from the store of a session."""
    nothing = Intent(owner=owner)
    before, after = session.observe(owner), session.compile(nothing)
    return plan_between(session, before, after, nothing)


def lift_sides(
    backend: Backend, before: Program, after: Program, changes: tuple[Change, ...]
) -> tuple[LiftedProgram, LiftedProgram]:
    """Return the services of two programs that the changes between them may concern.

    That is each service of which an item changes, and every one where an item changes that they share.
    """
    concerned = touched(changes)
    if None in concerned:
        return backend.lift(before), backend.lift(after)
    return backend.lift(before.only(concerned)), backend.lift(after.only(concerned))


def changed_services(
    before: LiftedProgram, after: LiftedProgram, changes: tuple[Change, ...], wanted: Iterable[Service]
) -> tuple[ServiceChange, ...]:
    """Return the services that changes add, change or remove; `wanted` are those of the intent."""
    found = diff_services(before, after, changes, wanted)
    return tuple(service for service in found if service.action is not Action.NONE)


def plan_between(
    session: Session, before: Program, after: Program, intent: Intent, effective: Effective | None = None
) -> Plan:
    """Return the plan from one program to another, which is that of an intent, as it is `effective`."""
    made = pure_plan(session.backend, session.driver, before, after, intent, effective)
    if not made.changed:
        return made
    state = history.latest(session.host, intent.owner)
    return replace(made, notes=session.backend.notes(session.host, made), state=state)


def pure_plan(
    backend: Backend,
    driver: str,
    before: Program,
    after: Program,
    intent: Intent,
    effective: Effective | None = None,
) -> Plan:
    """Return what `plan_between` does, without what only the host can add."""
    changes = diff(before, after)
    wanted, carried_out = _concerned(intent, effective, touched(changes))
    was, will = lift_sides(backend, before, after, changes)
    return Plan(
        backend=backend.name,
        driver=driver,
        before=before,
        after=after,
        changes=changes,
        services=changed_services(was, will, changes, wanted),
        stale=stale_flows(was, will, carried_out),
        intent=intent,
        effective=effective,
    )


def _concerned(
    intent: Intent, effective: Effective | None, services: frozenset[str | None]
) -> tuple[Sequence[Service], Sequence[Service]]:
    """Return the services of an intent that changes may concern, and the same as they are carried out.

    Of an endpoint that a check took out other flows end than of one that the file drains.
    """
    if None in services:
        return intent.services, effective.intent.services if effective is not None else intent.services
    if effective is not None:
        return effective.only(services)
    wanted = [service for service in intent.services if service.name in services]
    return wanted, wanted
