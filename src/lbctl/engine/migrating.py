"""Moving services from one place of rules to another one, without losing a connection.

A migration is two steps and their proofs: the new rules come in, the old ones go. Nothing is in force between
them that was not before or will not be after: where nftables takes part, it decides for each new connection
while both are in, ahead of both flavours of iptables, so that a move to it takes effect when its rules come
in, and a move from it when they go. Each step can be undone; undoing both, the last one first, is the
migration back.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from difflib import unified_diff
from typing import TYPE_CHECKING, TypeAlias

from lbctl.engine import history
from lbctl.engine.change import changing, perform, plan_beside, way
from lbctl.engine.comparing import Verdict, compare
from lbctl.engine.importing import imported, read_live
from lbctl.errors import ApplyFailed, IntentError, PermissionDenied, Stale, StateUnknown
from lbctl.model import Intent, Plan, diff
from lbctl.spi import Moving, Reader

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from lbctl.engine.comparing import Comparison, Pair
    from lbctl.engine.history import Entry
    from lbctl.engine.session import Session
    from lbctl.model import Program, Reading, Remembered
    from lbctl.spi import Backend

Step: TypeAlias = Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    """The way from rules in one store to rules in another one that do the same."""

    owner: str
    source: Session
    target: Session
    come: Step
    go: Step
    #: The source as it is, which is worth a place in the history.
    start: Plan | None = None
    #: What holds afterwards, and where that is from, in words.
    intent: Intent
    origin: str
    #: What the services that move select: family, protocol, address, port.
    selectors: frozenset[tuple[str, ...]] = frozenset()
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

    @property
    def untouched(self) -> tuple[str, ...]:
        """What stays where the old rules are."""
        return tuple(_others(self.source, self.owner).splitlines())

    @property
    def diffs(self) -> tuple[tuple[str, ...], ...]:
        """The rules of each store before and after, as unified diffs."""
        return tuple(
            tuple(unified_diff(before, after, f"{store} now", f"{store} then", lineterm=""))
            for store, before, after in (
                (each.place, _lines(each, step.before), _lines(each, step.after))
                for each, step in ((self.target, self.come), (self.source, self.go))
            )
        )

    @property
    def scripts(self) -> tuple[tuple[str, str], ...]:
        """The two steps, as the tools of each store do them on a host without lbctl."""
        backend = self.source.backend
        going = backend.withdrawal(self.go.before) if isinstance(backend, Moving) else ""
        coming = self.target.backend.render(self.come.after)
        return (self.target.place, coming), (self.source.place, going)

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know before agreeing."""
        return self.come.notes


def migration(
    session: Session, owner: str, *, source: str | None = None, intent: Intent | None = None
) -> Migration | None:
    """The migration of an owner's rules to the store of a session; None where they are there already.

    They come from the store `source`, or from where they are. `intent` is what a file says: the kernel must
    hold it. Without one, it is the last state of the history, else what the rules themselves say.
    """
    session.need_privilege()
    there = _source(session, owner, source)
    if there is None:
        return None
    start, origin = _start(there, owner, intent)
    meant = start.intent or Intent(owner=owner)
    come = replace(plan_beside(session, meant), stale=())
    coming = _reader(session.backend).read(session.backend.render(come.after))
    selectors = frozenset(service.selector[:4] for service in coming.services)
    going = _live(there, selectors)
    return Migration(
        owner=owner,
        source=there,
        target=session,
        come=come,
        go=removal_of(there, owner),
        intent=meant,
        start=start,
        origin=origin,
        selectors=selectors,
        comparison=_ensure_alike(compare(going, coming), session),
    )


def _source(session: Session, owner: str, name: str | None) -> Session | None:
    """The session on the store that services are to come from; None where all are where they are to go."""
    stores = list(session.stores())
    if name == session.place:
        raise IntentError(f"{name} is where the rules are to go, and cannot be where they come from")
    if name is not None:
        found = next(((b, d) for b, d in stores if d.store == name), None)
        if found is None:
            names = ", ".join(driver.store for _, driver in stores)
            raise IntentError(f'"{name}" is no store of rules that this host can use', hint=f"one of {names}")
        return session.at(*found, "asked for")
    holding = session.elsewhere(owner)
    if len(holding) > 1:
        names = " and ".join(other.place for other in holding)
        raise IntentError(f'{names} hold rules of owner "{owner}"', hint="--from says which of them go")
    if not holding and session.observe(owner):
        return None
    if not holding:
        raise ApplyFailed(f'there is nothing to move: no other store holds rules of owner "{owner}"')
    return holding[0]


def _start(source: Session, owner: str, given: Intent | None) -> tuple[Plan, str]:
    """The plan that changes nothing: the intent that an owner's rules in a store were made from."""
    if given is not None:
        found = plan_beside(source, given)
        if found.changed:
            raise ApplyFailed(
                f"{source.place} does not hold what the intent file says",
                hint=f"lbctl plan --driver {source.driver} shows the difference; apply it there first",
            )
        return found, "the intent file"
    last = history.last_of(source.host, owner)
    if last is not None:
        found = plan_beside(source, last.intent)
        if not found.changed:
            return found, f"number {last.number} of the history"
    text = source.backend.render(source.observe(owner))
    read = imported(_reader(source.backend).read(text))
    found = plan_beside(source, replace(read.intent, owner=owner))
    if read.notes or found.changed:
        raise ApplyFailed(
            f"no intent is known that gives the rules in {source.place}", hint="--config names its file"
        )
    return found, f"the rules in {source.place}"


def removal_of(session: Session, owner: str) -> Plan:
    """The plan that takes an owner's rules out of one store."""
    nothing = Intent(owner=owner)
    return _between(session, session.observe(owner), session.compile(nothing), nothing)


def _between(session: Session, before: Program, after: Program, intent: Intent) -> Plan:
    """A plan of a migration: what flows there are belongs to the rules of both sides."""
    made = way(session.host, session.backend, session.driver, before, after, intent)
    return replace(made, stale=(), notes=())


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


def migrate(session: Session, made: Migration, *, back_to: Entry | None = None) -> tuple[str, ...]:
    """Carry out a migration under the lock of its owner; returns what the user should know.

    Raises as `apply` does. Whatever fails, the kernel is as it was before, but for `StateUnknown`.
    """
    with changing(session, made.owner, back_to):
        return tuple(move(made, back_to=back_to))


def move(made: Migration, *, back_to: Entry | None = None, in_any_case: bool = False) -> list[str]:
    """As `migrate`, by who holds the lock; `in_any_case` as in `carry_out`."""
    source, target = made.source, made.target
    entry, notes = _begin(made, back_to, in_any_case=in_any_case)
    try:
        _do(target, replace(made.come, clients=_clients(source, made.owner)))
        _prove(made)
        _follow_up(made)
        others = _others(source, made.owner)
        _do(source, made.go)
        _prove_gone(made, others)
    except BaseException as cause:
        _return(made, cause)
        raise
    try:
        if entry is not None:
            history.settle(target.host, made.owner, entry)
    except (ApplyFailed, PermissionDenied) as error:
        notes.append(f"The history does not have this yet: {error.message}")
    return notes


def _begin(made: Migration, back_to: Entry | None, *, in_any_case: bool) -> tuple[Entry | None, list[str]]:
    """Write down what is about to be brought about."""
    try:
        record_start(made)
        entry = history.upcoming(made.target, made.come, back_to, moved="")
        if entry is not None:
            history.begin(made.target.host, made.owner, entry)
    except (ApplyFailed, PermissionDenied) as error:
        if not in_any_case:
            raise
        return None, [f"The history does not have this: {error.message}"]
    return entry, []


def _do(session: Session, step: Step) -> None:
    perform(session, step)


def _undo(session: Session, step: Step) -> None:
    now = session.backend.observe(session.host, session.driver, step.before.owner)
    if diff(now, step.before):
        perform(session, _between(session, now, step.before, Intent(owner=step.before.owner)))


def _return(made: Migration, cause: BaseException) -> None:
    """Undo what was done, the last first; raises what is to be said instead of `cause`."""
    try:
        _undo(made.source, made.go)
        _undo(made.target, made.come)
    except (ApplyFailed, Stale, StateUnknown) as error:
        raise StateUnknown(
            f"{cause}; then the way back failed: {error.message}",
            hint="lbctl plan shows what the kernel holds; lbctl migrate begins again",
        ) from error
    with suppress(ApplyFailed):
        history.drop(made.target.host, made.owner)
    if isinstance(cause, StateUnknown):
        raise ApplyFailed(f"{cause.message}; everything is as it was", hint=cause.hint) from cause


def _prove(made: Migration) -> None:
    """Raise `ApplyFailed` unless the live kernel shows what the migration said."""
    step, target = made.come, made.target
    left = diff(target.backend.observe(target.host, target.driver, made.owner), step.after)
    if left:
        raise ApplyFailed(f"what came in reads back otherwise: {' '.join(left[0].key)}")
    if made.comparison is None:
        return
    shown = {_told(pair) for pair in made.comparison.pairs}
    live = compare(_live(made.source, made.selectors), _live(target, made.selectors))
    odd = [pair for pair in live.pairs if _told(pair) not in shown]
    if odd or len(live.pairs) != len(made.comparison.pairs):
        raise ApplyFailed(
            f"the live kernel does not do what was planned: {_names(odd) or 'a service'}",
            hint="other rules of this host may act on it first: see lbctl compare "
            f"live:{made.source.place} live:{target.place}",
        )


def _prove_gone(made: Migration, others: str) -> None:
    """Raise `ApplyFailed` unless what should go has gone, and nothing else."""
    source = made.source
    left = diff(source.backend.observe(source.host, source.driver, made.owner), made.go.after)
    if left:
        raise ApplyFailed(f"what should have gone is still there: {' '.join(left[0].key)}")
    if _others(source, made.owner) != others:
        raise ApplyFailed(
            f"rules of others in {source.place} changed meanwhile", hint="lbctl migrate tries again"
        )


def _ensure_alike(found: Comparison, target: Session) -> Comparison:
    """Raise `ApplyFailed` where a move would change what connections get."""
    odd = [pair for pair in found.pairs if not pair.verdict.equal]
    if odd:
        raise ApplyFailed(f"{target.place} would not do the same: {_names(odd)}")
    remapped = [pair for pair in found.pairs if pair.verdict is Verdict.OTHER_CLIENTS]
    if remapped and not target.allow_remap:
        raise ApplyFailed(
            f"clients would change their endpoints: {_names(remapped)}", hint="--allow-remap lets them"
        )
    return found


def _live(session: Session, selectors: Collection[tuple[str, ...]]) -> Reading:
    """What the live rules of a store do for some services."""
    backends = (candidate.backend for candidate in session.candidates)
    reading = read_live(session.host, session.place, backends)
    services = tuple(s for s in reading.services if s.selector[:4] in selectors)
    return replace(reading, services=services, findings=(), unsupported=())


def _told(pair: Pair) -> object:
    """What was said of a service: all that the user agreed to."""
    return pair.service.selector, pair.hooks, pair.verdict, tuple(pair.shares.items()), pair.leak


def _names(pairs: Iterable[Pair]) -> str:
    named = (" ".join((*pair.service.selector[:4], f"({pair.verdict})")) for pair in pairs)
    return ", ".join(dict.fromkeys(named))


def _clients(source: Session, owner: str) -> tuple[Remembered, ...]:
    backend = source.backend
    return backend.clients(source.host, source.driver, owner) if isinstance(backend, Moving) else ()


def _follow_up(made: Migration) -> None:
    """Bring in the clients that came while the rules did."""
    target = made.target
    if isinstance(target.backend, Moving):
        clients = _clients(made.source, made.owner)
        target.backend.remember(target.host, target.driver, made.owner, clients)


def _others(session: Session, owner: str) -> str:
    backend = session.backend
    return backend.others(session.host, session.driver, owner) if isinstance(backend, Moving) else ""


def _lines(session: Session, program: Program) -> list[str]:
    return session.backend.render(program).splitlines()


def _reader(backend: Backend) -> Reader:
    if not isinstance(backend, Reader):
        raise ApplyFailed(f"backend {backend.name} cannot read rules, and so cannot prove what they do")
    return backend


def record_start(made: Migration) -> None:
    """Have the history know the state that a migration leaves; raises `ApplyFailed`."""
    entry = history.upcoming(made.source, made.start) if made.start is not None else None
    if entry is not None:
        history.add(made.source.host, made.owner, entry)
