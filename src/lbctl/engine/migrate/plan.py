"""Planning a migration: which services, from which store, and what the target would hold instead."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from lbctl.engine.change.plan import plan_beside
from lbctl.engine.inspect.compare import Relation, compare
from lbctl.engine.migrate.foreign import SharePolicy, foreign_rules, has_services, unread_rules
from lbctl.engine.migrate.intent import imported
from lbctl.engine.migrate.migration import Agreement, Migration
from lbctl.engine.migrate.read import reader
from lbctl.engine.migrate.steps import Retire, removal_of, returning
from lbctl.engine.record import history
from lbctl.errors import ApplyFailed, IntentError, Unsupported
from lbctl.model import Intent, Plan
from lbctl.spi import Migrator

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

    from lbctl.engine.change.session import Session
    from lbctl.engine.inspect.compare import Pair
    from lbctl.engine.migrate.foreign import ForeignRules
    from lbctl.model import Analysis, Service


def plan_migration(
    session: Session,
    owner: str,
    *,
    source: str | None = None,
    intent: Intent | None = None,
    exclude: Collection[str] = (),
    policy: SharePolicy | None = None,
) -> Migration | None:
    """Return the migration of services to the store of a session; None if there are none elsewhere.

    They are taken from the store `source`, or from where they are: rules of an owner as they stand, else
    foreign rules that balance, without those that `exclude` names. `intent` is what a file says: the kernel
    must hold it. Without one, it is the last state of the history, else what the rules themselves say.
    Changes nothing. Raises `IntentError` if the user has to decide, and `ApplyFailed` if they cannot be
    migrated.
    """
    session.need_privilege()
    there = _source(session, owner, source)
    if there is None:
        return None
    # What is there by consent stays what it is.
    there = replace(there, allow_remap=True)
    if not there.observe(owner):
        return _plan_foreign(session, there, owner, intent, exclude, policy)
    if exclude or policy:
        raise IntentError(
            f"the rules in {there.place} are managed by lbctl, and are migrated as they are",
            hint="--exclude, --fix and --keep are for foreign rules",
        )
    start, origin = _start(there, owner, intent)
    meant = start.intent or Intent(owner=owner)
    drifted = _drifted(start)
    come = replace(plan_beside(session, meant), stale=())
    coming = reader(session.backend).read(session.backend.render(come.after))
    made = Migration(
        owner=owner,
        source=there,
        target=session,
        come=come,
        go=removal_of(there, owner),
        intent=meant,
        start=None if drifted else start,
        drifted=drifted,
        origin=origin,
        selectors=frozenset(service.selector[:4] for service in coming.services),
        again=partial(plan_migration, session, owner, source=source, intent=intent),
    )
    return _agreeable(made, coming)


def _source(session: Session, owner: str, name: str | None) -> Session | None:
    """Return the session on the store that services are to come from; None where there are none elsewhere."""
    stores = [(backend, driver) for backend, driver in session.stores() if driver.store != session.place]
    if name == session.place:
        raise IntentError(f"{name} is the target of the migration, and cannot be its source")
    if name is not None:
        found = next((place for place in stores if place[1].store == name), None)
        if found is None:
            names = ", ".join(driver.store for _, driver in stores)
            raise IntentError(
                f'"{name}" is not a store of rules that can be used here', hint=f"one of {names}"
            )
        return session.at(*found, "asked for")
    holding = _holding(session, owner)
    if len(holding) > 1:
        names = " and ".join(other.place for other in holding)
        raise IntentError(f"{names} hold rules that balance", hint="--from names the one to migrate")
    return holding[0] if holding else None


def _holding(session: Session, owner: str) -> tuple[Session, ...]:
    """Return the other stores with rules of an owner; if there are none, those with rules that balance."""
    if managed := session.elsewhere(owner):
        return managed
    return tuple(other for other in _others(session) if _has_services(other))


def _others(session: Session) -> Iterator[Session]:
    for backend, driver in session.stores():
        if driver.store != session.place:
            yield session.at(backend, driver, "it is another one")


def _not_understood(session: Session) -> str:
    """Return which rules of a store may balance and are not understood; "" for none."""
    backend = session.backend
    if not isinstance(backend, Migrator):
        return ""
    found = unread_rules(backend, backend.dump(session.host, session.driver))
    if not found:
        return ""
    rules = "1 rule that is" if len(found) == 1 else f"{len(found)} rules that are"
    return (
        f" {session.place} has {rules} not understood and may balance ({found[0].what}: {found[0].reason}): "
        f"see lbctl import --from {session.place}."
    )


def nothing_to_migrate(session: Session, owner: str, source: str | None) -> str:
    """Return why `plan_migration` returned None, and where there is something if a `source` was named."""
    if source is None:
        unread = "".join(_not_understood(other) for other in _others(session))
        return f"Nothing to migrate: no balancing rules outside {session.place}.{unread}"
    others = [other.place for other in _holding(session, owner)]
    hint = f" {' and '.join(others)} has some: --from {others[0]}." if others else ""
    return f"Nothing to migrate: no balancing rules in {source}.{hint}"


def _has_services(session: Session) -> bool:
    backend = session.backend
    return isinstance(backend, Migrator) and has_services(backend, backend.dump(session.host, session.driver))


def _plan_foreign(
    session: Session,
    there: Session,
    owner: str,
    given: Intent | None,
    exclude: Collection[str],
    policy: SharePolicy | None,
) -> Migration | None:
    """Return the migration of foreign rules; None where there are none to migrate."""
    backend = there.backend
    if not isinstance(backend, Migrator):
        raise ApplyFailed(f"backend {backend.name} cannot remove foreign rules")
    text = backend.dump(there.host, there.driver)
    found = foreign_rules(backend, text, exclude, policy)
    if found is None:
        return None
    meant, twins = _merged(session, owner, given, found)
    come = replace(plan_beside(session, meant), stale=())
    going = found.retirement
    made = Migration(
        owner=owner,
        source=there,
        target=session,
        come=come,
        go=Retire(
            record=going.record,
            before=backend.foreign_rules(text, owner),
            after=backend.foreign_rules(going.after, owner),
            dump=going.after,
            notes=backend.side_effects(there.driver, going.after, going.record),
        ),
        intent=meant,
        origin="the existing rules",
        foreign=replace(found, lines={name: at for name, at in found.lines.items() if name not in twins}),
        twins=twins,
    )
    coming = reader(session.backend).read(session.backend.render(come.after))
    return _agreeable(made, coming)


def _merged(
    session: Session, owner: str, given: Intent | None, found: ForeignRules
) -> tuple[Intent, Mapping[str, str]]:
    """Return what holds then, with what the target has already; and `Migration.twins`."""
    base = Intent(owner=owner)
    if session.observe(owner):
        base = _start(session, owner, given)[0].intent or base
    taken = {service.name for service in base.services}
    services = list(base.services)
    twins: dict[str, str] = {}
    for service in found.services:
        twin = next((s for s in base.services if _overlap(s, service)), None)
        if twin is not None:
            twins[service.name] = twin.name
            continue
        if service.name in taken:
            raise IntentError(
                f'there is a service "{service.name}" in {session.place} already',
                hint=f'--exclude "{service.name}" leaves the other one where it is',
            )
        services.append(service)
    return replace(base, services=tuple(services)), twins


def _overlap(one: Service, other: Service) -> bool:
    return any(x.overlaps(y) for x in one.listeners for y in other.listeners)


def _start(source: Session, owner: str, given: Intent | None) -> tuple[Plan, str]:
    """The plan that leads to the intent that an owner's rules in a store were made from, and its origin.

    It changes nothing, unless the kernel does not hold what was applied: then that is what is meant.
    """
    last = history.last_of(source.host, owner)
    applied = last is not None and source.store(last.backend, last.driver) == source.place
    if given is not None:
        found = _there(source, given)
        if found.changed and not (applied and last is not None and last.intent == given):
            raise ApplyFailed(
                f"{source.place} differs from the intent file",
                hint=f"lbctl plan --driver {source.driver} shows the difference; apply it there first",
            )
        return found, "the intent file"
    if last is not None:
        found = plan_beside(source, last.intent)
        if not found.changed or (applied and not _is_explained(source, owner)):
            return found, f"the history (number {last.number})"
    return _explained(source, owner)


def _there(source: Session, given: Intent) -> Plan:
    """Return the plan of a file for a store that holds another one if it cannot hold this one."""
    try:
        return plan_beside(source, given)
    except Unsupported as error:
        raise ApplyFailed(
            f"{source.place} differs from the intent file, which it cannot hold: {error.message}",
            hint="migrate with a file of what it holds, which loses no connection; then lbctl apply changes "
            "the service, and says what that loses",
        ) from error


def _explained(source: Session, owner: str) -> tuple[Plan, str]:
    """As `_start`, from what the rules themselves say; raises `ApplyFailed` if no intent says it."""
    text = source.backend.render(source.observe(owner))
    read = imported(reader(source.backend).read(text))
    found = plan_beside(source, replace(read.intent, owner=owner))
    if read.lost or read.unread or found.changed:
        raise ApplyFailed(
            f"no intent is known that gives the rules in {source.place}", hint="--config names its file"
        )
    return found, "the existing rules"


def _is_explained(source: Session, owner: str) -> bool:
    """Return True if some other intent than the last applied one gives exactly the rules in the kernel."""
    try:
        _explained(source, owner)
    except ApplyFailed:
        return False
    return True


def _drifted(start: Plan) -> frozenset[str]:
    """Return the services that the kernel does not hold as a plan's intent says."""
    if not start.changed:
        return frozenset()
    names = {change.service for change in start.changes}
    every = start.intent.services if start.intent else ()
    return frozenset(each.name for each in every if None in names or each.name in names)


def plan_restoring(target: Session, intent: Intent, retired: str) -> Migration:
    """The migration that restores foreign rules, and an earlier intent in the store that they moved to."""
    there, come = returning(target, retired)
    return Migration(
        owner=intent.owner,
        source=target,
        target=there,
        come=come,
        go=replace(plan_beside(target, intent), stale=(), notes=()),
        intent=intent,
        origin="the history",
    )


def plan_back(target: Session, source: Session, intent: Intent) -> Migration:
    """Return the migration that has an intent of before hold again in `target`."""
    owner = intent.owner
    come = replace(plan_beside(target, intent), stale=())
    return Migration(
        owner=owner,
        source=source,
        target=target,
        come=come,
        go=removal_of(source, owner),
        intent=intent,
        origin="the history",
        again=partial(plan_back, target, source, intent),
    )


def _agreeable(made: Migration, reading: Analysis) -> Migration:
    """With what goes held against what comes; raises `ApplyFailed` where connections would get another."""
    made = replace(made, comparison=compare(going(made, live(made.source)), coming(made, reading)))
    odd = [pair for pair in made.pairs if made.agreement(pair) is Agreement.NONE]
    if made.twins and any(pair.b is None or not made.adds(pair) for pair in odd):
        both = (f'"{mine}" of lbctl and the rules of {theirs}' for theirs, mine in made.twins.items())
        raise IntentError(
            f"{', '.join(both)} listen in the same place and do not do the same: {names(odd)}",
            hint=" ".join(f'--exclude "{name}"' for name in made.twins) + " leaves those where they are",
        )
    if odd:
        hashed = all(pair.a and pair.b and pair.a.mode == pair.b.mode == "hash" for pair in odd)
        raise ApplyFailed(
            f"{made.target.place} would not do the same: {names(odd)}",
            hint="--allow-remap lets clients change their endpoints" if hashed else None,
        )
    remapped = [pair for pair in made.pairs if pair.verdict is Relation.OTHER_CLIENTS]
    if remapped and not made.target.allow_remap:
        raise ApplyFailed(
            f"clients would change their endpoints: {names(remapped)}", hint="--allow-remap lets them"
        )
    return made


def going(made: Migration, reading: Analysis) -> Analysis:
    """Return the services that move, of a reading of their source."""
    return made.foreign.seen(reading) if made.foreign else _only(reading, made.selectors)


def coming(made: Migration, reading: Analysis) -> Analysis:
    """Return the services that move, of a reading of their target."""
    return made.foreign.arrived(reading) if made.foreign else _only(reading, made.selectors)


def _only(reading: Analysis, selectors: Collection[tuple[str, ...]]) -> Analysis:
    services = tuple(s for s in reading.services if s.selector[:4] in selectors)
    return replace(reading, services=services, findings=(), unsupported=())


def live(session: Session) -> Analysis:
    """Return what all rules of a store do in the live kernel."""
    backend = reader(session.backend)
    return backend.read(backend.dump(session.host, session.driver))


def names(pairs: Iterable[Pair]) -> str:
    """Services in a sentence."""
    named = (" ".join((*pair.service.selector[:4], f"({pair.verdict})")) for pair in pairs)
    return ", ".join(dict.fromkeys(named))
