"""Moving services from one place of rules to another one, without losing a connection.

A migration is two steps and their proofs: the new rules come in, the old ones go. Nothing is in force between
them that was not before or will not be after: where nftables takes part, it decides for each new connection
while both are in, ahead of both flavours of iptables, so that a move to it takes effect when its rules come
in, and a move from it when they go. Each step can be undone; undoing both, the last one first, is the
migration back.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from difflib import unified_diff
from typing import TYPE_CHECKING

from lbctl.engine import history
from lbctl.engine.change import plan_beside
from lbctl.engine.comparing import Verdict, compare
from lbctl.engine.importing import ROUNDED, imported
from lbctl.engine.lifting import Cure, lift, movable
from lbctl.engine.steps import (
    Retire,
    Step,
    others_of,
    reader,
    removal_of,
    retirer,
    returning,
    rules_of,
    script,
)
from lbctl.errors import ApplyFailed, IntentError
from lbctl.model import Intent, Plan
from lbctl.spi import Migrator

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from lbctl.engine.comparing import Comparison, Pair
    from lbctl.engine.lifting import Lift, Stay
    from lbctl.engine.session import Session
    from lbctl.model import Finding, Reading, Service


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    """The way from rules in one store to rules in another one that do the same."""

    owner: str
    source: Session
    target: Session
    come: Step
    go: Step
    #: What holds afterwards, and where that is from, in words.
    intent: Intent
    origin: str
    #: The source as it is, which is worth a place in the history.
    start: Plan | None = None
    #: Services that the source does not hold as they were applied: what comes is what was applied.
    drifted: frozenset[str] = frozenset()
    #: What the services that move select: family, protocol, address, port.
    selectors: frozenset[tuple[str, ...]] = frozenset()
    #: What moves where it is rules of others.
    lift: Lift | None = None
    #: Services of it that listen where lbctl has one already, and that one: their rules only go.
    twins: Mapping[str, str] = field(default_factory=dict)
    #: The rules that go, and those that come, service by service; None for a way back, which is only proved.
    comparison: Comparison | None = None

    @property
    def changed(self) -> bool:
        """False where there is nothing to move."""
        return self.come.changed or self.go.changed

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """What goes and what comes, service by service."""
        return self.comparison.pairs if self.comparison else ()

    def told(self, pair: Pair) -> str | None:
        """How a service that comes relates to the one that goes; None where it is not what was agreed to."""
        if pair.verdict.equal:
            return str(pair.verdict)
        if pair.b is not None and pair.b.name in self.drifted:
            return "restored as it was applied"
        if pair.a is None and self.lift is not None:
            # Rules of others are of one family, where a port of lbctl is of both.
            return "comes in addition" if self.comes(pair) else "is there already"
        if pair.a is None or pair.b is None or pair.a.action != pair.b.action:
            return None
        if self.lift is not None and pair.a.selector in self.lift.fixed_selectors and self.comes(pair):
            return "equal shares instead"
        # Draws are of 31 bits; a Maglev table is off from the weights, which is what others get it by.
        meant = next((s for s in self.intent.services if s.name == pair.b.name), None)
        near = ROUNDED + (meant.deviation() if meant is not None and self.target.allow_remap else 0)
        return f"same shares within {float(pair.distance):.1g}" if pair.distance < near else None

    def comes(self, pair: Pair) -> bool:
        """False for a service that the target has already."""
        return pair.b is None or pair.b.name not in self.twins.values()

    @property
    def untouched(self) -> tuple[str, ...]:
        """What stays where the old rules are."""
        left = self.go.after if isinstance(self.go, Retire) else others_of(self.source, self.owner)
        return tuple(left.splitlines())

    @property
    def returns(self) -> tuple[str, ...]:
        """The rules of others that come back."""
        return retirer(self.target).retired(self.come.record) if isinstance(self.come, Retire) else ()

    @property
    def left(self) -> tuple[str, ...]:
        """The rules among what is untouched."""
        backend = self.source.backend
        return backend.rules_in("\n".join(self.untouched)) if isinstance(backend, Migrator) else ()

    @property
    def diffs(self) -> tuple[tuple[str, ...], ...]:
        """The rules of each store before and after, as unified diffs."""
        sides = ((self.target, self.come), (self.source, self.go))
        return tuple(
            tuple(unified_diff(*rules_of(at, step), f"{at.place} now", f"{at.place} then", lineterm=""))
            for at, step in sides
        )

    @property
    def scripts(self) -> tuple[tuple[str, str], ...]:
        """The two steps, as the tools of each store do them on a host without lbctl."""
        sides = ((self.target, self.come, True), (self.source, self.go, False))
        return tuple((at.place, script(at, step, coming=coming)) for at, step, coming in sides)

    @property
    def stays(self) -> tuple[Stay, ...]:
        """Rules of others that balance and stay."""
        return self.lift.stays if self.lift else ()

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What is wrong with rules of others that move."""
        return self.lift.findings if self.lift else ()

    @property
    def comments(self) -> Mapping[str, Sequence[str]]:
        """Service → the rules of others that it was read from."""
        return self.lift.comments if self.lift else {}

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know before agreeing."""
        notes = dict.fromkeys((*self.come.notes, *self.go.notes))
        if self.drifted:
            services = ", ".join(sorted(self.drifted))
            notes[
                f"{self.source.place} does not hold {services} as applied: what comes is what was applied"
            ] = None
        twins = (
            f"{mine} of lbctl does what the rules of {x} do: they only go" for x, mine in self.twins.items()
        )
        return (*notes, *(self.lift.notes if self.lift else ()), *self._additions(), *twins)

    def _additions(self) -> Iterator[str]:
        """What is balanced then, and is not now; a family of which nothing is, as a whole."""
        now = {pair.service.family for pair in self.pairs if pair.a is not None}
        added = [pair.service for pair in self.pairs if pair.a is None and self.comes(pair)]
        for family in dict.fromkeys(each.family for each in added if each.family not in now):
            yield f"{family.replace('ip', 'IP')} is balanced too, from then on"
        for each in dict.fromkeys(each.selector[:4] for each in added if each.family in now):
            yield f"{' '.join(each)}: balanced from then on, but not now"

    @property
    def plan(self) -> tuple[Session, Plan]:
        """The step with the rules of lbctl that hold afterwards, and where."""
        for session, step in ((self.target, self.come), (self.source, self.go)):
            if isinstance(step, Plan):
                return session, step
        raise ValueError("a migration without rules of lbctl")

    @property
    def retired(self) -> str:
        """What has to be known to put back rules of others that go; "" for none."""
        if not isinstance(self.go, Retire):
            return ""
        return json.dumps({"store": self.source.place, "record": self.go.record})


def migration(
    session: Session,
    owner: str,
    *,
    source: str | None = None,
    intent: Intent | None = None,
    exclude: Collection[str] = (),
    cure: Cure | None = None,
) -> Migration | None:
    """The migration of services to the store of a session; None where there are none elsewhere.

    They come from the store `source`, or from where they are: rules of an owner as they stand, else rules of
    others that balance, without those that `exclude` names. `intent` is what a file says: the kernel must
    hold it. Without one, it is the last state of the history, else what the rules themselves say. Changes
    nothing. Raises `IntentError` where the user has to say which, and `ApplyFailed` where they cannot move.
    """
    session.need_privilege()
    there = _source(session, owner, source)
    if there is None:
        return None
    # What is there by consent stays what it is.
    there = replace(there, allow_remap=True)
    if not there.observe(owner):
        return _lifting(session, there, owner, intent, exclude, cure)
    if exclude or cure:
        raise IntentError(
            f"the rules in {there.place} are those of lbctl, and move as they are",
            hint="--exclude, --fix and --keep are for rules of others",
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
    )
    return _agreeable(made, coming)


def _source(session: Session, owner: str, name: str | None) -> Session | None:
    """The session on the store that services are to come from; None where there are none elsewhere."""
    stores = [(backend, driver) for backend, driver in session.stores() if driver.store != session.place]
    if name == session.place:
        raise IntentError(f"{name} is where the rules are to go, and cannot be where they come from")
    if name is not None:
        found = next((place for place in stores if place[1].store == name), None)
        if found is None:
            names = ", ".join(driver.store for _, driver in stores)
            raise IntentError(f'"{name}" is no store of rules that can be used here', hint=f"one of {names}")
        return session.at(*found, "asked for")
    holding = session.elsewhere(owner)
    if not holding:
        others = [session.at(backend, driver, "it is another one") for backend, driver in stores]
        holding = tuple(other for other in others if _has_services(other))
    if len(holding) > 1:
        names = " and ".join(other.place for other in holding)
        raise IntentError(f"{names} hold rules that balance", hint="--from says which of them go")
    return holding[0] if holding else None


def _has_services(session: Session) -> bool:
    backend = session.backend
    return isinstance(backend, Migrator) and movable(backend, backend.dump(session.host, session.driver))


def _lifting(
    session: Session,
    there: Session,
    owner: str,
    given: Intent | None,
    exclude: Collection[str],
    cure: Cure | None,
) -> Migration | None:
    """The migration of rules of others; None where there are none that could move."""
    backend = there.backend
    if not isinstance(backend, Migrator):
        raise ApplyFailed(f"backend {backend.name} cannot take out rules of others")
    text = backend.dump(there.host, there.driver)
    found = lift(backend, text, exclude, cure)
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
            before=backend.others(text, owner),
            after=backend.others(going.after, owner),
            notes=backend.side_effects(there.driver, going.after, going.record),
        ),
        intent=meant,
        origin="reading the rules",
        lift=replace(found, lines={name: at for name, at in found.lines.items() if name not in twins}),
        twins=twins,
    )
    coming = reader(session.backend).read(session.backend.render(come.after))
    return _agreeable(made, coming)


def _merged(
    session: Session, owner: str, given: Intent | None, found: Lift
) -> tuple[Intent, Mapping[str, str]]:
    """What holds then, with what the target has already; and `Migration.twins`."""
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
        found = plan_beside(source, given)
        if found.changed and not (applied and last is not None and last.intent == given):
            raise ApplyFailed(
                f"{source.place} does not hold what the intent file says",
                hint=f"lbctl plan --driver {source.driver} shows the difference; apply it there first",
            )
        return found, "the intent file"
    if last is not None:
        found = plan_beside(source, last.intent)
        if not found.changed or (applied and not _is_explained(source, owner)):
            return found, f"the history (number {last.number})"
    return _explained(source, owner)


def _explained(source: Session, owner: str) -> tuple[Plan, str]:
    """As `_start`, from what the rules themselves say; raises `ApplyFailed` if no intent says it."""
    text = source.backend.render(source.observe(owner))
    read = imported(reader(source.backend).read(text))
    found = plan_beside(source, replace(read.intent, owner=owner))
    if read.notes or found.changed:
        raise ApplyFailed(
            f"no intent is known that gives the rules in {source.place}", hint="--config names its file"
        )
    return found, "reading the rules"


def _is_explained(source: Session, owner: str) -> bool:
    """True if some other intent than the last applied one gives exactly the rules in the kernel."""
    try:
        _explained(source, owner)
    except ApplyFailed:
        return False
    return True


def _drifted(start: Plan) -> frozenset[str]:
    """The services that the kernel does not hold as a plan's intent says."""
    if not start.changed:
        return frozenset()
    names = {change.service for change in start.changes}
    every = start.intent.services if start.intent else ()
    return frozenset(each.name for each in every if None in names or each.name in names)


def migration_returning(target: Session, intent: Intent, retired: str) -> Migration:
    """The migration that has rules of others hold again, and an intent of before where they went to."""
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


def migration_back(target: Session, source: Session, intent: Intent) -> Migration:
    """The migration that has an intent of before hold again in `target`."""
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
    )


def _agreeable(made: Migration, reading: Reading) -> Migration:
    """With what goes held against what comes; raises `ApplyFailed` where connections would get another."""
    made = replace(made, comparison=compare(going(made, live(made.source)), coming(made, reading)))
    odd = [pair for pair in made.pairs if made.told(pair) is None]
    if made.twins and any(pair.b is None or not made.comes(pair) for pair in odd):
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
    remapped = [pair for pair in made.pairs if pair.verdict is Verdict.OTHER_CLIENTS]
    if remapped and not made.target.allow_remap:
        raise ApplyFailed(
            f"clients would change their endpoints: {names(remapped)}", hint="--allow-remap lets them"
        )
    return made


def going(made: Migration, reading: Reading) -> Reading:
    """The services that move, of a reading of their source."""
    return made.lift.seen(reading) if made.lift else _only(reading, made.selectors)


def coming(made: Migration, reading: Reading) -> Reading:
    """The services that move, of a reading of their target."""
    return made.lift.arrived(reading) if made.lift else _only(reading, made.selectors)


def _only(reading: Reading, selectors: Collection[tuple[str, ...]]) -> Reading:
    services = tuple(s for s in reading.services if s.selector[:4] in selectors)
    return replace(reading, services=services, findings=(), unsupported=())


def live(session: Session) -> Reading:
    """What all rules of a store do in the live kernel."""
    backend = reader(session.backend)
    return backend.read(backend.dump(session.host, session.driver))


def names(pairs: Iterable[Pair]) -> str:
    """Services in a sentence."""
    named = (" ".join((*pair.service.selector[:4], f"({pair.verdict})")) for pair in pairs)
    return ", ".join(dict.fromkeys(named))
