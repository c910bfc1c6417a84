"""The steps that a migration is made of: each changes one store, proves itself, and can be undone."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

from lbctl.engine.change.apply import perform
from lbctl.engine.change.plan import plan_between, removal_here
from lbctl.engine.migrate.read import reader
from lbctl.engine.record.history import read_retired
from lbctl.errors import ApplyFailed, NoBackend
from lbctl.model import Intent, Plan
from lbctl.spi import Migrator
from lbctl.values import dataclass

if TYPE_CHECKING:
    from lbctl.engine.change.session import Session
    from lbctl.model import Program


@dataclass(frozen=True, slots=True, kw_only=True)
class Retire:
    """Rules of others that leave their places, or come `back` there; see `lbctl.spi.Migrator`."""

    record: str
    #: What the store holds of others before and after.
    before: str = ""
    after: str = ""
    #: The dump without them, as the kernel holds it then.
    dump: str = ""
    back: bool = False
    #: What the user should know.
    notes: tuple[str, ...] = ()

    @property
    def changed(self) -> bool:
        """Nobody makes one that changes nothing."""
        return True


Step: TypeAlias = Plan | Retire


def removal_of(session: Session, owner: str) -> Plan:
    """As `removal_here`, of a migration: what flows there are belongs to the rules of both sides."""
    return replace(removal_here(session, owner), stale=())


def between(session: Session, before: Program, after: Program, intent: Intent) -> Plan:
    """As `way`, of a migration."""
    made = plan_between(session, before, after, intent)
    return replace(made, stale=())


def returning(session: Session, retired: str) -> tuple[Session, Retire]:
    """Return the store of retired foreign rules, and the step that restores them; see `Migration.retired`."""
    store, record = read_retired(retired)
    for backend, driver in session.stores():
        if driver.store == store:
            there = session.at(backend, driver, "they were here")
            return there, Retire(record=record, back=True, notes=_notes(there, record))
    raise NoBackend(f"{store} can no longer be reached here")


def _notes(session: Session, record: str) -> tuple[str, ...]:
    text = reader(session.backend).dump(session.host, session.driver)
    return migrator_of(session).side_effects(session.driver, text, record)


def is_standing(session: Session, step: Retire) -> bool:
    """Return True if all foreign rules are in their places."""
    return migrator_of(session).is_present(session.host, session.driver, step.record)


def do(session: Session, step: Step) -> None:
    """Carry out one step."""
    if isinstance(step, Plan):
        perform(session, step)
    elif step.back:
        migrator_of(session).restore_rules(session.host, session.driver, step.record)
    else:
        migrator_of(session).remove_rules(session.host, session.driver, step.record)


def undo(session: Session, step: Step) -> None:
    """Have a store be as it was before a step, whatever part of that was done."""
    if isinstance(step, Retire):
        do(session, replace(step, back=not step.back))
        return
    now = session.backend.observe(session.host, session.driver, step.owner)
    perform(session, between(session, now, step.before, Intent(owner=step.owner)))


def others_of(session: Session, owner: str) -> str:
    """The foreign rules in the store of a session: the same text as long as no program changes them."""
    backend = session.backend
    if not isinstance(backend, Migrator):
        return ""
    return backend.foreign_rules(backend.dump(session.host, session.driver), owner)


def rules_of(session: Session, step: Step) -> tuple[list[str], list[str]]:
    """Return the rules of a store before and after a step, as lines."""
    if isinstance(step, Retire):
        return step.before.splitlines(), step.after.splitlines()
    before, after = (session.backend.render(program).splitlines() for program in (step.before, step.after))
    return before, after


def script(session: Session, step: Step, *, coming: bool) -> str:
    """Return a step as the tools of its store do it on a host without lbctl."""
    backend = session.backend
    if isinstance(step, Retire):
        by = migrator_of(session)
        return "" if step.back else by.removal_text(session.host, session.driver, step.record)
    program = step.after if coming else step.before
    return backend.render(program, dialect=session.capabilities.dialect, remove=not coming)


def migrator_of(session: Session) -> Migrator:
    """Return the backend of a session; raises `ApplyFailed` for one that cannot remove foreign rules."""
    if not isinstance(session.backend, Migrator):
        raise ApplyFailed(f"backend {session.backend.name} cannot remove foreign rules")
    return session.backend
