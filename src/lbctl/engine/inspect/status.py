"""What the kernel does, held against what the intent wants.

Whether the two differ is cheap to say, as often as one likes: where the kernel's generation is the one that
lbctl last knew, no rule is read. What the kernel counted has to be read.
"""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

from lbctl.engine.change.counters import Taken, counted
from lbctl.engine.change.established import Established
from lbctl.engine.change.plan import as_left, changed_services, lift_sides
from lbctl.engine.inspect.annotate import gone
from lbctl.engine.inspect.checks import endpoint_marks, service_marks
from lbctl.engine.inspect.failing import failing_lines
from lbctl.engine.inspect.overlaps import find_overlaps
from lbctl.engine.inspect.sources import waiting_lines
from lbctl.model import Family, agreed, diff, given_settings
from lbctl.spi import count_rules
from lbctl.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from lbctl.engine.change.counters import Counted, Place
    from lbctl.engine.change.session import Session
    from lbctl.engine.inspect.overlaps import Overlap
    from lbctl.model import Change, Effective, Intent, KeyChange, Reason, Service, ServiceChange, State
    from lbctl.spi import RuleCounts


@dataclass(frozen=True, slots=True, kw_only=True)
class FamilyStatus:
    """What one endpoint gets of the connections of one family.

    `wanted` is the exact share of its slots, `by_weight` what its weight alone would give: two numbers for
    Maglev tables, else the same. `actual` is the share of the connections that the service's endpoints took
    in this family since `ServiceStatus.since`, None before the first. `established` is None where connections
    cannot be listed.
    """

    wanted: Fraction
    by_weight: Fraction
    actual: Fraction | None
    connections: int
    established: int | None
    packets: int
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointStatus:
    """One endpoint, in each family in which it can get connections of its service.

    `state` and `weight` are those in effect, `reason` is why. `mark` is why it does not get its connections
    all the same, in a few words; "" for no such reason.
    """

    name: str
    to: str
    state: State
    weight: int
    reason: Reason
    mark: str
    families: Mapping[Family, FamilyStatus]

    @property
    def wanted(self) -> Fraction | None:
        """The share of its slots in every family; None where families disagree."""
        return self._agreed(each.wanted for each in self.families.values())

    @property
    def by_weight(self) -> Fraction | None:
        """As `wanted`, by its weight alone."""
        return self._agreed(each.by_weight for each in self.families.values())

    @property
    def actual(self) -> Fraction | None:
        """Its share in each family that had connections, 0 before the first; None where they disagree."""
        return self._agreed(each.actual for each in self.families.values() if each.actual is not None)

    @staticmethod
    def _agreed(shares: Iterable[Fraction]) -> Fraction | None:
        return agreed(tuple(shares) or (Fraction(0),))

    @property
    def connections(self) -> int:
        """New connections of all families."""
        return sum(each.connections for each in self.families.values())

    @property
    def established(self) -> int | None:
        """Established connections of all families; None where they cannot be listed."""
        known = [each.established for each in self.families.values() if each.established is not None]
        return sum(known) if len(known) == len(self.families) else None

    @property
    def packets(self) -> int:
        """Packets of all families."""
        return sum(each.packets for each in self.families.values())

    @property
    def bytes(self) -> int:
        """Bytes of all families."""
        return sum(each.bytes for each in self.families.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceStatus:
    """One service with its endpoints.

    `slots` has the number of slots in each family, `deviation` is `Service.deviation`. `since` is when the
    service last changed and `actual` begins to count, as `Counted.since`.
    """

    name: str
    listen: tuple[str, ...]
    scheduler: str
    slots: tuple[int, ...]
    deviation: Fraction
    since: str | None
    endpoints: tuple[EndpointStatus, ...]
    #: The keys of the intent that are not at their defaults.
    settings: tuple[KeyChange, ...] = ()

    @property
    def connections(self) -> int:
        """New connections of all endpoints and families."""
        return sum(endpoint.connections for endpoint in self.endpoints)


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """Where the kernel differs from an intent; what counts connections is no difference."""

    backend: str
    driver: str
    #: What to change to make the kernel hold the intent, and the services concerned.
    changes: tuple[Change, ...]
    services: tuple[ServiceChange, ...]
    #: Other stores that hold rules of the same owner: they balance the same connections too.
    elsewhere: tuple[str, ...]
    #: One sentence if all rules that were applied are gone, or those of one family; else None.
    gone: str | None = None
    #: Where the kernel holds the intent as it was carried out when, or since, the last agent ended: the
    #: endpoints that its checks found down, and which are out for that. None where no such thing matters.
    left_out: tuple[str, ...] | None = None

    @property
    def in_sync(self) -> bool:
        """False where the kernel differs from the intent as it was applied, or another store has rules."""
        return not self.changes and not self.elsewhere

    @property
    def rules(self) -> Mapping[str | None, Sequence[str]]:
        """Service → the keys of its rules that differ; None → those of no service."""
        found: dict[str | None, list[str]] = {}
        for change in self.changes:
            found.setdefault(change.service, []).append(" ".join(change.key))
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """Every service of an intent, as it is in the kernel."""

    drift: Drift
    #: The intent with what operators decided.
    effective: Effective
    #: Service → what keeps it from being served at all.
    marks: Mapping[str, str]
    #: What every place of this host holds, whoever put it there.
    stores: tuple[RuleCounts, ...]
    services: tuple[ServiceStatus, ...]
    #: What checks found down, a sentence each.
    failing: tuple[str, ...] = ()
    #: A line for each service that waits for the first answer of its source.
    waiting: tuple[str, ...] = ()
    #: Other owners with the same listeners.
    overlaps: tuple[Overlap, ...] = ()


def drift(session: Session, intent: Intent, *, follow: bool = False) -> Drift:
    """Return where the kernel differs from an intent. Changes nothing.

    With `follow`, the rules are looked for in other stores where the chosen one has none.
    """
    return _drift(session, intent, follow=follow)[1]


def _drift(session: Session, intent: Intent, *, follow: bool) -> tuple[Session, Drift]:
    """Return the session of the store that was looked at, and what was found."""
    wanted = session.compile(intent)
    held = session.held(intent.owner, like=wanted)
    others = session.elsewhere(intent.owner)
    if follow and others and not held:
        return _drift(others[0], intent, follow=False)
    changes = diff(held, wanted)
    left_out = None
    for left in as_left(session, intent.owner) if changes else ():
        if not diff(held, program := left.compile(intent)):
            left_out = tuple(_left_out(session.effective(intent), left.effective(intent)))
            session, wanted, changes = left, program, ()
            break
    if not changes:
        session.memory.keep(session.choice.driver.store, wanted.at(held.generation))
    was, will = lift_sides(session.backend, held, wanted, changes)
    services = changed_services(was, will, changes, intent.services)
    # Rules that nothing leads to any more are not gone: then only what leads there differs.
    lost = {change.service for change in changes} >= {service.name for service in services}
    return session, Drift(
        backend=session.backend.name,
        driver=session.driver,
        changes=changes,
        services=services,
        gone=gone(session, intent, services) if lost else None,
        elsewhere=tuple(other.choice.driver.store for other in others),
        left_out=left_out,
    )


def _left_out(intent: Effective, left: Effective) -> Iterator[str]:
    """Yield the endpoints that an intent has in rotation, and that checks took out of it."""
    for service, own in zip(intent.intent.services, left.intent.services, strict=True):
        if own is service:
            continue
        out = {
            f: {e.name for e in service.ready(f)} - {e.name for e in own.ready(f)} for f in service.families
        }
        for endpoint in service.endpoints:
            families = [family for family, names in out.items() if endpoint.name in names]
            if families:
                every = len(families) == sum(endpoint.serves(family) for family in service.families)
                yield f"{service.name}/{endpoint.name}" + ("" if every else f" ({families[0]})")


def status(session: Session, intent: Intent, *, follow: bool = False, only: Collection[str] = ()) -> Status:
    """Read the kernel's counters and connections for the services of an intent; see `drift`.

    With `only`, services of other names are left out, but not where they differ.
    """
    session, found = _drift(session, intent, follow=follow)
    effective = session.effective(intent)
    services = [service for service in effective.intent.services if not only or service.name in only]
    counts = counted(session, intent.owner, [service.name for service in services])
    connections = Established.on(session, intent.owner, services)
    marks = endpoint_marks(session.host, effective.intent)
    return Status(
        drift=found,
        effective=effective,
        marks=service_marks(effective.intent),
        stores=count_rules(session.host, session.candidates),
        services=tuple(_service(s, counts[s.name], connections, effective, marks) for s in services),
        failing=tuple(failing_lines(session.host, effective, services)),
        waiting=tuple(waiting_lines(effective)),
        overlaps=find_overlaps(session, effective.intent),
    )


def _service(
    service: Service,
    own: Counted,
    connections: Established,
    effective: Effective,
    marks: Mapping[tuple[str, str], str],
) -> ServiceStatus:
    families = {family: _family(service, family, own.taken, connections) for family in service.families}
    return ServiceStatus(
        name=service.name,
        listen=tuple(str(listener) for listener in service.listeners),
        scheduler=service.scheduler,
        slots=tuple(len(service.slots(family)) for family in service.families),
        deviation=service.deviation(),
        since=own.since,
        settings=given_settings(service),
        endpoints=tuple(
            EndpointStatus(
                name=endpoint.name,
                to=endpoint.to,
                state=endpoint.state,
                weight=endpoint.weight,
                reason=effective.reason(service.name, endpoint),
                mark=marks.get((service.name, endpoint.to), ""),
                families={
                    family: found[endpoint.to] for family, found in families.items() if endpoint.to in found
                },
            )
            for endpoint in service.endpoints
        ),
    )


def _family(
    service: Service,
    family: Family,
    own: Mapping[Place, Taken],
    connections: Established,
) -> Mapping[str, FamilyStatus]:
    """`Endpoint.to` → what it gets of a family, for each endpoint that can serve it."""
    # Of endpoints too that the intent no longer has, as long as the kernel counts for them.
    total = sum(taken.recently for (where, _), taken in own.items() if where is family)
    wanted, by_weight = service.shares(family), service.by_weight(family)
    result = {}
    for endpoint in service.endpoints:
        if endpoint.to not in wanted:
            continue
        taken = own.get((family, endpoint.to), Taken())
        result[endpoint.to] = FamilyStatus(
            wanted=wanted[endpoint.to],
            by_weight=by_weight[endpoint.to],
            actual=Fraction(taken.recently, total) if total else None,
            connections=taken.connections,
            established=connections.of(service, endpoint, family),
            # What balances sees the first packet of each connection.
            packets=taken.connections,
            bytes=taken.bytes,
        )
    return result
