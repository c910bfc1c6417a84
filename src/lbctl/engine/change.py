"""Plan and apply. Removing is applying the empty intent; there is no other way to change the kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbctl.errors import ApplyFailed, StateUnknown
from lbctl.host import forget_flows
from lbctl.model import Intent, Plan, diff, diff_services, stale_flows

if TYPE_CHECKING:
    from lbctl.engine.session import Session
    from lbctl.host import Host
    from lbctl.model import Program
    from lbctl.spi import Backend


def plan(session: Session, intent: Intent) -> Plan:
    """What `apply` would change to make the kernel hold `intent`. Changes nothing.

    Raises `ApplyFailed` where another backend still holds rules of the same owner: both would balance the
    same connections.
    """
    after = session.compile(intent)
    before = session.observe(intent.owner)
    for backend, driver in session.stores():
        if driver.store == session.choice.driver.store:
            continue
        if backend.observe(session.host, driver.name, intent.owner):
            raise ApplyFailed(
                f'{driver.store} still holds the rules of owner "{intent.owner}"',
                hint=f"lbctl migrate --to {session.backend.name} moves them without losing a connection; "
                f"or: lbctl remove --driver {driver.name}",
            )
    return _plan(session.backend, session.driver, before, after, intent)


def removal(session: Session, owner: str, *, everywhere: bool) -> tuple[Plan, ...]:
    """The plans that take out everything of an owner: in the chosen store, or in every one."""
    session.need_privilege()
    nothing = Intent(owner=owner)
    plans = []
    for backend, driver in session.stores():
        if everywhere or driver.name == session.driver:
            capabilities = next(c.probe.capabilities for c in session.candidates if c.backend is backend)
            after = backend.compile(nothing, capabilities)
            before = backend.observe(session.host, driver.name, owner)
            plans.append(_plan(backend, driver.name, before, after, nothing))
    return tuple(plans)


def apply(session: Session, plans: tuple[Plan, ...]) -> tuple[str, ...]:
    """Carry out plans, each atomically, under the lock of their owner; returns what the user should know.

    Raises `Stale` where the kernel moved since the plan, or another lbctl holds the lock; `ApplyFailed` where
    nothing was changed; `StateUnknown` where the kernel does not hold afterwards what was planned.
    """
    by_name = {candidate.backend.name: candidate.backend for candidate in session.candidates}
    notes: list[str] = []
    for each in plans:
        if each.changed:
            with session.host.lock(each.after.owner):
                _apply(session.host, by_name[each.backend], each)
                # Only now: with the old rules in place, the next datagram would make the same flow again.
                if not forget_flows(session.host, each.stale):
                    flows = ", ".join(map(str, each.stale))
                    notes.append(f"UDP flows stay where they were, since there is no conntrack here: {flows}")
    return tuple(notes)


def _apply(host: Host, backend: Backend, plan: Plan) -> None:
    owner = plan.after.owner
    backend.apply(host, plan)
    left = diff(backend.observe(host, plan.driver, owner), plan.after)
    if left:
        raise StateUnknown(
            f"the kernel took the rules, but reads back otherwise: {' '.join(left[0].key)}",
            hint="lbctl plan --rules shows the difference",
        )


def _plan(backend: Backend, driver: str, before: Program, after: Program, intent: Intent) -> Plan:
    changes = diff(before, after)
    was, will = backend.lift(before), backend.lift(after)
    return Plan(
        backend=backend.name,
        driver=driver,
        # The kernel's order means nothing; the same order on both sides makes their texts comparable.
        before=before.in_order_of(after),
        after=after,
        changes=changes,
        services=diff_services(was, will, changes),
        stale=stale_flows(was, will, intent),
    )
