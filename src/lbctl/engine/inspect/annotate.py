"""What a person should see of a plan besides its shares: the changed keys, and what is wrong with the host.

Apart from `plan` itself, which programs call often: this reads the history and the host.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING

from lbctl.config import revive
from lbctl.engine.change.needs import lacks_agent
from lbctl.engine.change.plan import with_settings
from lbctl.engine.inspect.checks import HostFacts, cheap_checks
from lbctl.engine.inspect.grouping import folded, grouped
from lbctl.engine.inspect.overlaps import find_overlaps
from lbctl.engine.inspect.sources import waiting_lines
from lbctl.engine.record import history, verdicts
from lbctl.errors import Damaged, LbctlError
from lbctl.model import (
    Action,
    Family,
    Health,
    KeyChange,
    KnownVerdicts,
    Limit,
    Scheduler,
    diff,
    service_changes,
    time_of,
    touched,
)
from lbctl.spi import Case, Problem, Reader

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from lbctl.engine.change.session import Session
    from lbctl.engine.inspect.grouping import ProblemGroup
    from lbctl.model import Intent, LiftedService, Plan, Program, Service, ServiceChange, Verdicts

_NO_AGENT = (
    "{services}: scheduler least-connections needs a running agent, which counts connections: "
    "apply refuses it until lbctl agent runs"
)
_IN_WORDS = {Family.IPV4: "IPv4", Family.IPV6: "IPv6"}
#: Services that a note names.
_NAMED = 4
#: Stores with more foreign rules are left to `doctor`: so many are read in about half a second.
_MOST_FOREIGN = 500
#: How lifted rules pick → the scheduler that they come from, as far as there is only one.
_SCHEDULERS = {"nth": Scheduler.ROUND_ROBIN, "random": Scheduler.RANDOM}


def annotate(session: Session, plan: Plan) -> Plan:
    """Return a plan with the changed keys of its services, and with notes on what is wrong with the host.

    Changes nothing. What cannot be read is left out.
    """
    if plan.intent is None:
        return plan
    services = _with_changes(session, in_recorded_order(session, plan), plan.intent)
    effective = plan.intent if plan.effective is None else plan.effective.intent
    notes = [*plan.notes, *(each.note for each in find_overlaps(session, effective))]
    notes += host_notes(session, effective, rules=plan.changed)
    notes[:0] = failed_notes(session, plan, plan.intent)
    if plan.effective is not None:
        notes[:0] = waiting_lines(plan.effective)
    if lacking := lacks_agent(session, plan):
        notes.insert(0, _NO_AGENT.format(services=", ".join(lacking)))
    if lost := gone(session, plan.intent, plan.services):
        notes.insert(0, lost)
    return replace(plan, services=services, notes=tuple(dict.fromkeys(notes)))


def in_recorded_order(session: Session, plan: Plan) -> Plan:
    """Return a plan with the services that it removes in the order in which they were applied.

    That is the order of the intent file; the kernel lists them in one of its own.
    """
    if all(each.action is not Action.REMOVE for each in plan.services):
        return plan
    last = history.last_of(session.host, plan.owner)
    known = {} if last is None else _endpoints_of(last)
    places = {name: place for place, name in enumerate(known)}
    removed = iter(
        sorted(
            (replace(each, order=known.get(each.name, ())) for each in plan.services if _removed(each)),
            key=lambda each: places.get(each.name, len(places)),
        )
    )
    services = tuple(next(removed) if _removed(each) else each for each in plan.services)
    return replace(plan, services=services)


def _removed(service: ServiceChange) -> bool:
    return service.action is Action.REMOVE


def _endpoints_of(entry: history.HistoryEntry) -> Mapping[str, tuple[str, ...]]:
    """Return `Endpoint.to` of the endpoints of each service of a recorded intent; {} if it cannot be read."""
    try:
        services = entry.intent.services
    except LbctlError:
        return {}
    return {service.name: tuple(endpoint.to for endpoint in service.endpoints) for service in services}


def host_notes(session: Session, intent: Intent, *, rules: bool = False) -> tuple[str, ...]:
    """Return what is wrong with the host for an intent, one sentence for each kind of problem.

    With `rules`, foreign rules that decide before lbctl are looked for too, unless there are very many.
    """
    facts = HostFacts(host=session.host)
    found = [each for each in cheap_checks(facts, intent) if isinstance(each, Problem)]
    if rules:
        found += _taken(session, intent, facts)
    return tuple(map(_note, grouped(found)))


def gone(session: Session, intent: Intent, services: Sequence[ServiceChange]) -> str | None:
    """Return one sentence if rules that were applied are gone as a whole, or those of one family.

    `services` are all that differ from what the kernel holds, as `Plan.services` and `Drift.services` are.
    """
    families = [family for family in Family if _lacks(family, services, intent)]
    last = history.last_of(session.host, intent.owner) if families else None
    if last is None or last.backend != session.backend.name or not last.services:
        return None
    try:
        wanted = {family for service in last.intent.services for family in service.families}
    except LbctlError:
        return None
    lost = [family for family in families if family in wanted]
    if not lost:
        return None
    words = " and ".join(_IN_WORDS[family] for family in lost)
    which, whose = ("", "no") if set(lost) == wanted else (f" for {words}", f"no {words}")
    return (
        f"lbctl's own tables{which} are gone (restart, or nft flush ruleset?), {whose} connection is "
        "balanced: lbctl apply restores them"
    )


def _lacks(family: Family, services: Sequence[ServiceChange], intent: Intent) -> bool:
    """Return True if the kernel balances nothing of a family, though the intent does.

    A service that is to be removed is there: another name for one is no loss.
    """
    if any(frontend.family is family for each in services for frontend in each.before):
        return False
    wanted = {service.name for service in intent.services if family in service.families}
    missing = {
        each.name
        for each in services
        if any(frontend.family is family for frontend in each.after)
        and not any(frontend.family is family for frontend in each.before)
    }
    return bool(wanted) and wanted <= missing


# -- endpoints that failed


def failed_notes(session: Session, plan: Plan, intent: Intent) -> tuple[str, ...]:
    """Return one sentence for each endpoint that an ended agent found down, and that a plan adds or omits.

    While an agent runs, its verdicts are part of the plan.
    """
    recorded = verdicts.read(session.host, intent.owner)
    if recorded is None or recorded.live or plan.effective is None:
        return ()
    if all(v.health is not Health.DOWN for own in recorded.verdicts.values() for v in own.values()):
        return ()
    known = KnownVerdicts(recorded.verdicts)
    changes = {change.name: change for change in plan.services}
    return tuple(
        note
        for service in plan.effective.intent.services
        for note in _failed_notes(service, known.of(service), changes.get(service.name))
    )


def _failed_notes(service: Service, known: Verdicts, change: ServiceChange | None) -> Iterator[str]:
    endpoints = {endpoint.name: endpoint for endpoint in service.endpoints}
    for (name, family), verdict in known.items():
        endpoint = endpoints.get(name)
        if endpoint is None or verdict.health is not Health.DOWN:
            continue
        since = time_of(verdict.since)
        failed = f"{service.name}/{name} ({family}) is down since {since} ({verdict.result})"
        if change is not None and _gains(change, endpoint.to, family):
            yield f"{failed}, but gets connections: the agent that found this has ended"
        elif endpoint in service.ready(family):
            continue  # kept, as it was: by all-down, for instance
        elif Limit(family=family, to=endpoint.to) in service.limits:
            yield f"{failed}, and stays out: --ignore-health adds it"


def _gains(change: ServiceChange, to: str, family: Family) -> bool:
    """Return True if an endpoint that gets no connection of a family is to get some."""
    for endpoint in change.endpoints:
        if endpoint.to == to:
            before, after = endpoint.in_family(family)
            return before == 0 and after != 0
    return False


# -- the changed keys


def _with_changes(session: Session, plan: Plan, intent: Intent) -> tuple[ServiceChange, ...]:
    changed = {service.name for service in plan.services if service.action is Action.CHANGE}
    services = with_settings(plan.services, intent)
    if not changed:
        return services
    new = {service.name: service for service in intent.services if service.name in changed}
    held = _on_record(session, plan, intent)
    unknown = changed - held.keys()
    lifted = _lifted(session, plan.before, unknown)
    return tuple(
        replace(service, changes=_changes(new.get(service.name), held, lifted.get(service.name, ())))
        if service.name in changed
        else service
        for service in services
    )


def _changes(
    service: Service | None, held: Mapping[str, Service], lifted: Sequence[LiftedService]
) -> tuple[KeyChange, ...]:
    if service is None:
        return ()
    if service.name in held:
        return service_changes(held[service.name], service)
    return tuple(_read_from(lifted, service))


def _on_record(session: Session, plan: Plan, intent: Intent) -> Mapping[str, Service]:
    """Return the services of the intent that was applied last, as far as the kernel holds them."""
    last = history.last_of(session.host, intent.owner)
    if last is None or last.backend != plan.backend:
        return {}
    try:
        old = revive(last.text, intent, f"history {last.number}")
        effective = session.effective(old).intent
        # What is the same on both sides is the same part of both programs, and is not compared.
        previous = {"previous": plan.after} if plan.after.origin is not None else {}
        program = session.backend.compile(effective, session.capabilities, **previous)
    except (Damaged, LbctlError):
        return {}
    other = touched(diff(plan.before, program))
    return {service.name: service for service in old.services if service.name not in other}


def _lifted(session: Session, before: Program, names: Collection[str]) -> Mapping[str, list[LiftedService]]:
    found: dict[str, list[LiftedService]] = {}
    for service in session.backend.lift(before.only(frozenset(names))).services if names else ():
        found.setdefault(service.name, []).append(service)
    return found


def _read_from(lifted: Sequence[LiftedService], service: Service) -> Iterator[KeyChange]:
    """Yield the keys that the rules alone show to differ: where a service listens, and how it picks."""
    was = tuple(dict.fromkeys(str(each.listener) for each in lifted))
    will = tuple(map(str, service.listeners))
    # A listener that is only missing is missing: this is about one that moves.
    if set(was) - set(will) and set(will) - set(was):
        yield KeyChange(key="listen", before=was, after=will)
    schedulers = {_SCHEDULERS.get(each.mode) for each in lifted}
    if len(schedulers) == 1 and (one := schedulers.pop()) is not None and one is not service.scheduler:
        yield KeyChange(key="scheduler", before=str(one), after=str(service.scheduler))


# -- the host


def _taken(session: Session, intent: Intent, facts: HostFacts) -> Iterator[Problem]:
    """Yield foreign rules that decide about connections of an intent before lbctl."""
    driver = session.choice.driver
    case = Case(
        intent=intent,
        store=driver.store,
        precedence=driver.precedence if driver.precedence is not None else -sys.maxsize,
        addresses=tuple(facts.addresses),
        most_rules=_MOST_FOREIGN,
    )
    for backend, each in session.stores():
        if not isinstance(backend, Reader):
            continue
        try:
            yield from (
                p for p in backend.diagnose(session.host, each.name, case) if p.code == "listener-taken"
            )
        except LbctlError:
            continue


def _note(group: ProblemGroup) -> str:
    """Return a group of problems as one sentence."""
    if (whole := group.whole) is not None:
        return f"{whole.service}: {whole.message}" if whole.service else whole.message
    services = [f"{name} {folded(about)}".strip() for name, about in group.services.items()]
    more = len(services) - _NAMED
    rest = f"; and {more} more services (see lbctl doctor)" if more > 0 else ""
    return f"{group.general.message}: {'; '.join(services[:_NAMED])}{rest}"
