"""What each endpoint gets in the end: the intent file and the owners of an endpoint's state beside it.

The file says what is wanted, the operator drains endpoints and sets weights by command. They are stored apart
and never mixed: `effective` is the one place that joins them, for every command and for the agent, and it
gives each endpoint that is not as the file has it one visible reason. An endpoint is in rotation only if all
of its owners agree.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeAlias

from lbctl.model.intent import MAX_SLOTS, MAX_WEIGHT, NAME, Endpoint, Family, Intent, Service, State
from lbctl.model.schedule import slot_count

if TYPE_CHECKING:
    from collections.abc import Mapping

#: The name of a service and of one of its endpoints (`Endpoint.name`).
Place: TypeAlias = tuple[str, str]

#: Characters that a name and a reason given by an operator have at most.
MAX_WHO = 64
MAX_WHY = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Override:
    """What an operator decided about one endpoint by command. Beside the file, never in it."""

    service: str
    #: `Endpoint.name`.
    endpoint: str
    #: True: no new connections, whatever the file says. False leaves the file's state alone.
    drained: bool = False
    #: The weight instead of the file's; None leaves the file's alone.
    weight: int | None = None
    #: Who decided it, when in seconds since 1970 (UTC), and the reason that was given, maybe none.
    who: str
    since: float
    why: str = ""
    #: Since when the intent that was applied last does not have the endpoint; None while it has.
    unused_since: float | None = None

    def __post_init__(self) -> None:
        if not NAME.match(self.service):
            raise ValueError(f"service name {self.service!r} is not a name")
        if not self.drained and self.weight is None:
            raise ValueError("an override that overrides nothing")
        if self.weight is not None and not 1 <= self.weight <= MAX_WEIGHT:
            raise ValueError(f"weight {self.weight} is not between 1 and {MAX_WEIGHT}")
        lines = (("endpoint", self.endpoint, MAX_WHO), ("who", self.who, MAX_WHO), ("why", self.why, MAX_WHY))
        for what, text, most in lines:
            if len(text) > most or not text.isprintable():
                raise ValueError(f"{what} is not a line of at most {most} characters")
        time_of(self.since)

    @property
    def place(self) -> Place:
        """What it is about."""
        return self.service, self.endpoint

    @property
    def time(self) -> str:
        """When it was decided, as ISO 8601 in UTC."""
        return time_of(self.since)

    def __str__(self) -> str:
        """What it does, who decided that and why: `drained by root since … (deploy)`."""
        what = ["drained"] if self.drained else []
        what += [f"weight {self.weight}"] if self.weight is not None else []
        why = f" ({self.why})" if self.why else ""
        return f"{', '.join(what)} by {self.who} since {self.time}{why}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is known of endpoints besides the intent."""

    overrides: Mapping[Place, Override] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.overrides)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """Why an endpoint gets what it gets: what each of its owners says."""

    #: What the file says.
    state: State
    weight: int
    #: What the operator says; None for nothing.
    operator: Override | None = None

    def __str__(self) -> str:
        if self.operator is not None:
            return f"operator: {self.operator}"
        return f"{self.state} in the file"


@dataclass(frozen=True, slots=True, kw_only=True)
class Effective:
    """An intent as it is carried out, and why it differs from the file's."""

    #: What backends compile.
    intent: Intent
    #: What the file says, and the history records.
    file: Intent
    #: The reason of each endpoint that facts say something about; see `reason` for the others.
    reasons: Mapping[Place, Reason] = field(default_factory=dict)
    #: Overrides of endpoints that the file does not have.
    unused: tuple[Override, ...] = ()

    @property
    def overrides(self) -> tuple[Override, ...]:
        """The overrides in force."""
        return tuple(each.operator for each in self.reasons.values() if each.operator is not None)

    def reason(self, service: str, endpoint: Endpoint) -> Reason:
        """Return the reason of any endpoint of the file."""
        found = self.reasons.get((service, endpoint.name))
        return found or Reason(state=endpoint.state, weight=endpoint.weight)


def effective(intent: Intent, facts: Facts) -> Effective:
    """Return an intent as facts have it carried out; the very same intent where they change nothing.

    Raises `ValueError` for weights that together need more slots than a service can have.
    """
    if not facts:
        return Effective(intent=intent, file=intent)
    concerned = {service for service, _ in facts.overrides}
    reasons: dict[Place, Reason] = {}
    services = tuple([_effective(s, facts, reasons) if s.name in concerned else s for s in intent.services])
    same = all(ours is theirs for ours, theirs in zip(services, intent.services, strict=True))
    return Effective(
        intent=intent if same else replace(intent, services=services),
        file=intent,
        reasons=reasons,
        unused=tuple(o for place, o in facts.overrides.items() if place not in reasons),
    )


def _effective(service: Service, facts: Facts, reasons: dict[Place, Reason]) -> Service:
    endpoints = tuple([_endpoint(service, each, facts, reasons) for each in service.endpoints])
    if endpoints == service.endpoints:
        return service
    found = replace(service, endpoints=endpoints)
    for family in found.families:
        slots = slot_count([e.weight for e in found.ready(family)])
        if slots > MAX_SLOTS:
            raise ValueError(
                f'service "{service.name}": exact shares of the weights need {slots} slots, '
                f"more than {MAX_SLOTS}"
            )
    return found


def _endpoint(service: Service, endpoint: Endpoint, facts: Facts, reasons: dict[Place, Reason]) -> Endpoint:
    override = facts.overrides.get((service.name, endpoint.name))
    if override is None:
        return endpoint
    reasons[override.place] = Reason(state=endpoint.state, weight=endpoint.weight, operator=override)
    return replace(
        endpoint,
        state=State.DRAIN if override.drained else endpoint.state,
        weight=override.weight or endpoint.weight,
    )


def time_of(seconds: float) -> str:
    """Return a moment in seconds since 1970 as ISO 8601 in UTC; raises `ValueError` for one out of range."""
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
    except (OverflowError, OSError) as error:
        raise ValueError(f"{seconds} is not a time") from error


def emptied(before: Intent, after: Intent) -> dict[str, tuple[Family, ...]]:
    """Return service → the families in which no endpoint takes connections of `after`, but one of `before`.

    Services that are the very same value on both sides are not looked at.
    """
    old = {service.name: service for service in before.services}
    found = {}
    for service in after.services:
        was = old.get(service.name)
        if was is not None and was is not service:
            lost = tuple(f for f in service.families if was.ready(f) and not service.ready(f))
            if lost:
                found[service.name] = lost
    return found
