"""What an intent needs beside a backend: an agent, for services whose slots are dealt."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbctl.engine.record import history
from lbctl.engine.record.verdicts import is_live
from lbctl.errors import LbctlError, Unsupported
from lbctl.model import Scheduler

if TYPE_CHECKING:
    from lbctl.engine.change.session import Session
    from lbctl.model import Intent, Plan, Service


def dealt_services(intent: Intent) -> tuple[Service, ...]:
    """Return the services of an intent whose slots are dealt."""
    return tuple(each for each in intent.services if each.scheduler is Scheduler.LEAST_CONNECTIONS)


def ensure_agent(session: Session, plan: Plan) -> None:
    """Raise `Unsupported` for a service that is to have its slots dealt from now on while no agent runs."""
    lacking = lacks_agent(session, plan)
    if lacking:
        raise Unsupported(
            backend=session.backend.name,
            service=lacking[0],
            feature=f"scheduler {Scheduler.LEAST_CONNECTIONS}",
            needs="a running agent, which counts connections: start lbctl agent, then apply",
        )


def lacks_agent(session: Session, plan: Plan) -> tuple[str, ...]:
    """Return the services that a plan has dealt for the first time, if no agent runs that would deal."""
    wanted = () if plan.intent is None else dealt_services(plan.intent)
    if not wanted or is_live(session.host, plan.owner):
        return ()
    try:
        last = history.last_of(session.host, plan.owner)
        known = {each.name for each in dealt_services(last.intent)} if last is not None else set()
    except LbctlError:
        known = set()
    return tuple(each.name for each in wanted if each.name not in known)
