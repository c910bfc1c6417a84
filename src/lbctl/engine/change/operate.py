"""Draining endpoints and setting weights by command: the intent stays what was applied, overrides change.

Like an apply it is planned first and carried out as one transaction, verified. It always starts from the
intent that was applied last, never from a file: what else was edited there is not applied by the way.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

from lbctl.config.values import nearest
from lbctl.engine.change.apply import carry_out, changing
from lbctl.engine.change.plan import as_left, holds_soon, plan
from lbctl.engine.record import history, overrides, trial
from lbctl.errors import ApplyFailed, IntentError, PermissionDenied, Stale, StateUnknown
from lbctl.model import MAX_WHO, Override, emptied, inert, left_to_failed
from lbctl.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from lbctl.engine.change.session import Session
    from lbctl.engine.record.history import HistoryEntry
    from lbctl.host import Host
    from lbctl.model import Endpoint, Family, Intent, Place, Plan, Service

#: The override of an endpoint as it is → as it shall be; None for none.
Decision: TypeAlias = "Callable[[Place, Override | None], Override | None]"
#: Endpoints that a hint lists.
_LISTED = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Operated:
    """One endpoint that an operation is about."""

    service: str
    #: The endpoint as it was applied; None if only an unused override is left of it.
    endpoint: Endpoint | None
    #: `Endpoint.name`.
    name: str
    #: Its override before the operation and after it; None for none.
    before: Override | None
    after: Override | None

    def __str__(self) -> str:
        return f"{self.service}/{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """Overrides that are to be set or ended, and the plan that this leads to."""

    #: On the store that holds the rules.
    session: Session
    #: The state that was applied last.
    state: HistoryEntry
    targets: tuple[Operated, ...]
    #: All overrides of the owner on both sides.
    before: tuple[Override, ...]
    after: tuple[Override, ...]
    plan: Plan
    #: True if the kernel does not hold what was applied last: then the plan restores that too.
    drifted: bool
    #: The services that no endpoint serves any more because of it, and the families.
    emptied: Mapping[str, tuple[Family, ...]]
    #: The services that only endpoints which checks found down serve because of it, and the families.
    failed: Mapping[str, tuple[Family, ...]]

    @property
    def changed(self) -> bool:
        """False if there is nothing to do."""
        return self.before != self.after or self.plan.changed

    @property
    def doubtful(self) -> bool:
        """True if it does more than was asked for: then the user is to be asked."""
        return self.drifted or bool(self.emptied) or bool(self.failed)


def drain(session: Session, owner: str, names: Sequence[str], *, why: str = "") -> Operation:
    """Return the operation that has endpoints get no new connections.

    What is drained already keeps its date and reason, unless another reason is given. Raises as `planned`.
    """

    def decide(place: Place, now: Override | None) -> Override:
        if now is not None and now.drained and why in ("", now.why):
            return now
        return _decided(session.host, place, now, drained=True, why=why)

    return planned(session, owner, names, decide)


def activate(session: Session, owner: str, names: Sequence[str]) -> Operation:
    """Return the operation that ends drains by command; raises as `planned`."""

    def decide(_place: Place, now: Override | None) -> Override | None:
        return None if now is None or now.weight is None else replace(now, drained=False)

    return planned(session, owner, names, decide)


def weigh(
    session: Session, owner: str, names: Sequence[str], weight: int | None, *, why: str = ""
) -> Operation:
    """Return the operation that sets a weight, or ends such a setting (None); raises as `planned`."""

    def decide(place: Place, now: Override | None) -> Override | None:
        if weight is None:
            return None if now is None or not now.drained else replace(now, weight=None)
        if now is not None and now.weight == weight and why in ("", now.why):
            return now
        return _decided(session.host, place, now, weight=weight, why=why)

    return planned(session, owner, names, decide)


def _decided(
    host: Host,
    place: Place,
    now: Override | None,
    *,
    drained: bool = False,
    weight: int | None = None,
    why: str,
) -> Override:
    """Return an override of today that keeps what another one says beside it."""
    try:
        return Override(
            service=place[0],
            endpoint=place[1],
            drained=drained or (now is not None and now.drained),
            weight=now.weight if weight is None and now is not None else weight,
            who=inert(host.user())[:MAX_WHO],
            since=host.now(),
            why=why,
        )
    except ValueError as error:
        raise IntentError(str(error)) from error


def decisions(host: Host, owner: str) -> str:
    """Return the endpoints that operators have decided about, e.g. `web/8001, web/8002`; "" for none."""
    return ", ".join(f"{each.service}/{each.endpoint}" for each in overrides.read(host, owner))


def planned(session: Session, owner: str, names: Sequence[str], decide: Decision) -> Operation:
    """Return the operation that decides about endpoints, named `SERVICE/ENDPOINT`. Changes nothing.

    An endpoint goes by its name or by its address. Raises `ApplyFailed` where nothing is applied,
    `IntentError` for unknown names, `Stale` while a trial runs, and as `plan` does.
    """
    host = session.host
    session.need_privilege()
    last = history.last_of(host, owner)
    if last is None or not last.services:
        raise ApplyFailed(f'owner "{owner}" has no service applied on this host', hint="lbctl apply first")
    trial.ensure_none(host, owner)
    there = session.like(last)
    drifted = not holds_soon(there, last.intent)
    facts = there.facts(owner)
    before = dict(facts.overrides)
    intent, after = last.intent, dict(before)
    known = there.effective(intent).known
    targets = []
    for service, name, endpoint in resolve(known, names, tuple(before.values())):
        place = (service, name)
        decision = decide(place, before.get(place))
        after.pop(place, None)
        if decision is not None:
            after[place] = decision
        targets.append(
            Operated(service=service, endpoint=endpoint, name=name, before=before.get(place), after=decision)
        )
    now = replace(there, assumed=facts)
    # What an agent that has ended left out stays out: this is about the named endpoints and no others.
    lefts = as_left(now, owner) if there.cautious else ()
    base = next((each for each in (now, *lefts) if not plan(each, intent).changed), None)
    base = base or now
    then = replace(base, assumed=replace(base.facts(owner), overrides=after))
    made = plan(then, intent)
    carried = now.effective(intent), then.effective(intent)
    return Operation(
        session=there if base is now else then,
        state=last,
        targets=tuple(targets),
        before=tuple(before.values()),
        after=tuple(after.values()),
        plan=made,
        drifted=drifted,
        emptied=emptied(*(each.intent for each in carried)),
        failed=left_to_failed(*carried),
    )


def operate(operation: Operation) -> tuple[str, ...]:
    """Carry out an operation under the lock of its owner; returns what the user should know.

    Raises as `apply` does. If the kernel refuses, the overrides are what they were. After a crash in between,
    the next command that changes something has the kernel hold what is on record.
    """
    session, owner = operation.session, operation.plan.owner
    host = session.host
    with changing(session, owner, None):
        last = history.last_of(host, owner)
        found = overrides.read(host, owner)
        if found != operation.before or last is None or last.number != operation.state.number:
            raise Stale("another lbctl changed the intent or an endpoint since the plan", hint="try again")
        if not operation.plan.changed:
            overrides.write(host, owner, operation.after)
            return ()
        # Before the overrides: whatever of this a crash leaves is completed then.
        repaired = history.repaired(host, operation.plan, allow_remap=session.allow_remap)
        if repaired is not None:
            history.begin(host, owner, repaired)
        try:
            overrides.write(host, owner, operation.after)
            notes = carry_out(session, operation.plan)
        except (ApplyFailed, PermissionDenied, Stale) as error:
            _restore(host, owner, operation.before, error)
            raise
    session.memory.save()
    return tuple(notes)


def _restore(host: Host, owner: str, before: Sequence[Override], cause: Exception) -> None:
    try:
        if overrides.read(host, owner) != before:
            overrides.write(host, owner, before)
        history.drop(host, owner)
    except (ApplyFailed, PermissionDenied) as error:
        raise StateUnknown(
            f"{cause}; the kernel is unchanged, but the override stays in the state: {error.message}",
            hint="the next lbctl apply carries it out; lbctl status shows it",
        ) from cause


def resolve(
    intent: Intent,
    names: Sequence[str],
    overridden: Sequence[Override] = (),
    *,
    where: str = "applied on this host",
) -> tuple[tuple[str, str, Endpoint | None], ...]:
    """Return the service, `Endpoint.name` and endpoint of each of `SERVICE/ENDPOINT`, each once.

    `overridden` may be of endpoints that are gone, `where` is for messages. Raises `IntentError` that reports
    every unknown name.
    """
    services = {service.name: service for service in intent.services}
    gone = {each.place for each in overridden}
    found: dict[tuple[str, str], Endpoint | None] = {}
    faults: list[IntentError] = []
    for word in names:
        service, _, name = word.partition("/")
        endpoint = _endpoint(services.get(service), name)
        if endpoint is not None:
            found[service, endpoint.name] = endpoint
        elif (service, name) in gone:
            found[service, name] = None
        else:
            faults.append(_unknown(services, word, where))
    if len(faults) == 1:
        raise faults[0]
    if faults:
        raise IntentError("\n".join(f"{each.message} ({each.hint})" for each in faults))
    return tuple((service, name, endpoint) for (service, name), endpoint in found.items())


def _endpoint(service: Service | None, name: str) -> Endpoint | None:
    every = service.endpoints if service is not None else ()
    by_name = (each for each in every if each.name == name)
    return next(by_name, next((each for each in every if each.to == name), None))


def _unknown(services: dict[str, Service], word: str, where: str) -> IntentError:
    name, slash, end = word.partition("/")
    if name not in services:
        near = nearest(name, services)
        if not slash and near is None:
            owners = (each for each, service in services.items() if _endpoint(service, name) is not None)
            near = next((f"{each}/{name}" for each in owners), None)
        hint = f'did you mean "{near}"?' if near else f"services: {_few(list(services))}"
        return IntentError(f'no service "{name}" is {where}', hint=hint)
    ends = list(dict.fromkeys(x for each in services[name].endpoints for x in (each.name, each.to)))
    if not slash or not end:
        return IntentError(
            f'"{word}" does not name an endpoint', hint=f"one of {_few([f'{name}/{x}' for x in ends])}"
        )
    # Ports that look alike are no typing errors of each other.
    near = None if end.isdecimal() else nearest(end, ends)
    hint = f'did you mean "{name}/{near}"?' if near else f"one of {_few([f'{name}/{x}' for x in ends])}"
    return IntentError(f'service "{name}" has no {where.split()[0]} endpoint "{end}"', hint=hint)


def _few(names: Sequence[str]) -> str:
    more = len(names) - _LISTED
    return ", ".join(names[:_LISTED]) + (f" and {more} more" if more > 0 else "")
