"""What each endpoint gets in the end: the intent file and the owners of an endpoint's state beside it.

The file says what is wanted, the operator drains endpoints and sets weights by command, checks take out the
endpoints that fail. They are stored apart and never mixed: `effective` is the one place that joins them,
for every command and for the agent, and it gives each endpoint that is not as the file has it one visible
reason. An endpoint is in rotation only if all of its owners agree.
"""

from __future__ import annotations

import operator
from dataclasses import field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeAlias

from lbctl.model.answer import Discovered, merged
from lbctl.model.intent import (
    MAX_SLOTS,
    MAX_WEIGHT,
    NAME,
    Deal,
    Endpoint,
    Family,
    Intent,
    Scheduler,
    Service,
    State,
)
from lbctl.model.schedule import slot_count
from lbctl.model.verdict import (
    NO_VERDICTS,
    Health,
    Judgement,
    KeptBy,
    KnownVerdicts,
    Verdict,
    Verdicts,
    awaited,
    judge,
)
from lbctl.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from lbctl.model.forward import Hop

#: The name of a service and of one of its endpoints (`Endpoint.name`).
Place: TypeAlias = tuple[str, str]

#: The same object each time: what facts that say nothing about a service are compared by.
_NOTHING: Mapping[str, Override] = {}
_NO_HOPS: frozenset[Hop] = frozenset()
_NO_REASONS: Mapping[str, str] = {}
_NO_DEALS: frozenset[Deal] = frozenset()

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
    #: By the name of the service: what checks say now. Where nothing changed, the same objects as before.
    verdicts: Mapping[str, Verdicts] = field(default_factory=dict)
    #: The same of an agent that does not run any more: shown, and nothing else.
    old: Mapping[str, Verdicts] = field(default_factory=dict)
    #: The same of the last good answers of sources; a service without one is not named.
    found: Mapping[str, Discovered] = field(default_factory=dict)
    #: The next hops that are known, of services that need them.
    hops: Mapping[str, frozenset[Hop]] = field(default_factory=dict)
    #: By the name of the service: `Endpoint.to` → why it has no next hop.
    unreachable: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    #: The slots that the agent dealt last, of services that have them dealt.
    deals: Mapping[str, frozenset[Deal]] = field(default_factory=dict)
    #: True if the verdicts are of an agent that runs: an endpoint that it has none of is new to it.
    live: bool = False

    def __bool__(self) -> bool:
        return any(
            (
                *(self.overrides, self.verdicts, self.old, self.found),
                *(self.hops, self.unreachable, self.deals),
            )
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """What checks say of an endpoint in one family, and what becomes of it."""

    family: Family
    verdict: Verdict
    #: Why it serves although it failed or was not checked yet; None for no such thing.
    kept: KeptBy | None = None
    #: True where no agent runs any more, so that the verdict is only shown.
    old: bool = False

    def __str__(self) -> str:
        """What is said of the endpoint, in a few words."""
        verdict = self.verdict
        match verdict.health:
            case Health.UNKNOWN:
                text = "not checked yet" if verdict.checked is None else f"unknown: {self._result}"
            case Health.UP | Health.DOWN:
                text = f"{verdict.health}: {self._result} since {time_of(verdict.since)}"
        if verdict.waits and self.kept is None:
            text += ", waits for its first pass"
        if verdict.held:
            text += ", passes again, stays out for its hold time"
        if verdict.part < 1:
            text += f", slow start at {verdict.part} of its weight"
        if self.kept is not None:
            text += f", kept by {self.kept}" if self.kept is not KeptBy.EMPTY else ", kept: no other passes"
        return text + (", but no agent runs" if self.old else "")

    @property
    def _result(self) -> str:
        verdict = self.verdict
        times = (
            f" \N{MULTIPLICATION SIGN}{verdict.count}"
            if verdict.count > 1 and verdict.health is not Health.UP
            else ""
        )
        return f"{verdict.result or 'no result'}{times}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """Why an endpoint gets what it gets: what each of its owners says."""

    #: What the file says.
    state: State
    weight: int
    #: What the operator says; None for nothing.
    operator: Override | None = None
    #: What checks say, by family.
    checked: tuple[Checked, ...] = ()
    #: What the source says; None if it does not name the endpoint.
    source: State | None = None
    #: True if only the source has the endpoint.
    discovered: bool = False
    #: Why a discovered endpoint has no next hop and is left out; "" for no such thing.
    unreachable: str = ""

    def of(self, family: Family) -> Reason:
        """Return the reason without what checks say of the other family."""
        return replace(self, checked=tuple(each for each in self.checked if each.family is family))

    def __str__(self) -> str:
        said = [f"operator: {self.operator}"] if self.operator is not None else []
        if self.source is not None and (self.discovered or self.source is not State.ACTIVE):
            said.append(f"{self.source} by its source")
        elif self.operator is None and (self.state is not State.ACTIVE or not self.checked):
            said.append(f"{self.state} in the file")
        said += [f"no packets: {self.unreachable}"] if self.unreachable else []
        texts = {each.family: str(each) for each in self.checked}
        alike = len(set(texts.values())) == 1
        said += list(texts.values())[:1] if alike else [f"{family} {text}" for family, text in texts.items()]
        return "; ".join(said)


@dataclass(frozen=True, slots=True, kw_only=True)
class Effective:
    """An intent as it is carried out, and why it differs from the file's."""

    #: What backends compile.
    intent: Intent
    #: What the file says, and the history records.
    file: Intent
    #: The file with the endpoints of sources, before any other fact: what is checked, and can be drained.
    known: Intent
    #: Overrides of endpoints that the file does not have.
    unused: tuple[Override, ...] = ()
    #: KeptBy for the next call of `effective`; None where facts say nothing.
    basis: _Basis | None = field(default=None, repr=False, compare=False)

    @property
    def reasons(self) -> Mapping[Place, Reason]:
        """The reason of each endpoint that facts say something about; see `reason` for the others."""
        found = (self._outcome(service.name) for service in self.file.services)
        return {place: reason for each in found if each for place, reason in each.reasons.items()}

    @property
    def overrides(self) -> tuple[Override, ...]:
        """The overrides in force."""
        return tuple(each.operator for each in self.reasons.values() if each.operator is not None)

    @property
    def waiting(self) -> tuple[Service, ...]:
        """The services that are left out, since they have no endpoints before their source answers."""
        waiting = [each for each in self.file.services if each.discover is not None and not each.endpoints]
        known = {service.name for service in self.known.services} if waiting else set()
        return tuple(service for service in waiting if service.name not in known)

    def reason(self, service: str, endpoint: Endpoint) -> Reason:
        """Return the reason of any endpoint of the file."""
        outcome = self._outcome(service)
        found = outcome.reasons.get((service, endpoint.name)) if outcome else None
        return found or Reason(state=endpoint.state, weight=endpoint.weight)

    def only(self, services: Collection[str | None]) -> tuple[tuple[Service, ...], tuple[Service, ...]]:
        """Return some services of the file, and the same as they are carried out."""
        if self.basis is None:
            mine, carried = (
                [service for service in intent.services if service.name in services]
                for intent in (self.file, self.intent)
            )
            return tuple(mine), tuple(carried)
        numbers = self.basis.index.numbers
        wanted = sorted([numbers[name] for name in services if name is not None and name in numbers])
        mine = [self.file.services[number] for number in wanted]
        return tuple(mine), tuple([self.basis.carried[number] for number in wanted])

    def _outcome(self, service: str) -> _Outcome | None:
        return self.basis.outcomes.get(service) if self.basis is not None else None


def effective(intent: Intent, facts: Facts, last: Effective | None = None) -> Effective:
    """Return an intent as facts have it carried out; the very same intent where they change nothing.

    `last` is what was returned before, for the services that stayed the same object: where their facts did
    too, the result is taken from there. Raises `ValueError` for weights that together need more slots than
    a service can have.
    """
    if not facts and all(service.endpoints for service in intent.services):
        return Effective(intent=intent, file=intent, known=intent)
    past = last.basis if last is not None else None
    alike = past is not None and past.facts.live is facts.live
    if last is not None and past is not None and last.file is intent and alike:
        basis = _renewed(intent, facts, past, past, _changed(past.facts, facts))
    else:
        index = _FileIndex.of(intent)
        fresh = _Basis(index=index, carried=intent.services, known=intent.services)
        basis = _renewed(intent, facts, fresh, past or fresh, index.numbers)
    known = last.known if last is not None and past is not None and basis.known is past.known else None
    return Effective(
        intent=basis.index.intent(intent, basis.carried),
        file=intent,
        # The same object as before where it says the same: what follows it looks at nothing then.
        known=known or basis.index.intent(intent, basis.known),
        unused=tuple(
            override
            for place, override in facts.overrides.items()
            if not (outcome := basis.outcomes.get(place[0])) or place not in outcome.reasons
        ),
        basis=basis,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _FileIndex:
    """What is looked up in the file: the number of each service, and the numbers of those with a source."""

    numbers: Mapping[str, int]
    discovering: Sequence[int]

    @classmethod
    def of(cls, intent: Intent) -> _FileIndex:
        return cls(
            numbers={service.name: number for number, service in enumerate(intent.services)},
            discovering=[n for n, service in enumerate(intent.services) if service.discover is not None],
        )

    def intent(self, intent: Intent, services: Sequence[Service]) -> Intent:
        """Return the intent with other services; the very same one where they are the same.

        A service that still waits for the first answer of its source has no endpoints, and is left out.
        """
        waiting = {number for number in self.discovering if not services[number].endpoints}
        if waiting:
            left = [service for number, service in enumerate(services) if number not in waiting]
            return replace(intent, services=tuple(left))
        same = all(map(operator.is_, services, intent.services))
        return intent if same else replace(intent, services=tuple(services))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Basis:
    """What an effective intent was made from, by which the next one costs only what changed."""

    index: _FileIndex
    facts: Facts = field(default_factory=Facts)
    #: All services of the file, in its order: as they are carried out, and with the endpoints of sources.
    carried: Sequence[Service]
    known: Sequence[Service]
    #: By service, of those that facts say something about.
    outcomes: Mapping[str, _Outcome] = field(default_factory=dict)


def _renewed(intent: Intent, facts: Facts, basis: _Basis, past: _Basis, services: Iterable[str]) -> _Basis:
    """Return a basis with what facts make of some services anew, if the outcome is not in `past`."""
    overrides: dict[str, dict[str, Override]] = {}
    for (name, endpoint), override in facts.overrides.items():
        overrides.setdefault(name, {})[endpoint] = override
    checked, ended = KnownVerdicts(facts.verdicts), KnownVerdicts(facts.old)
    outcomes, carried, known = dict(basis.outcomes), list(basis.carried), list(basis.known)
    for name in services:
        number = basis.index.numbers.get(name)
        if number is None:
            continue
        file = intent.services[number]
        own = _ServiceFacts.of(file, facts, overrides.get(name, _NOTHING))
        if own or checked.of(file) or ended.of(file):
            before = past.outcomes.get(name)
            if before is None or file is not before.file or not own.is_as(before.facts):
                before = _outcome(file, own, intent, checked=checked, ended=ended)
            outcomes[name], carried[number] = before, before.service
            if known[number] != before.known:
                known[number] = before.known
        else:
            outcomes.pop(name, None)
            carried[number] = known[number] = file
    same = all(map(operator.is_, known, basis.known))
    return _Basis(
        index=basis.index,
        facts=facts,
        carried=carried,
        known=basis.known if same else known,
        outcomes=outcomes,
    )


def _changed(old: Facts, new: Facts) -> frozenset[str]:
    """Return the services about which facts say something else, or the same by another object."""
    decided = {place[0] for place, _ in old.overrides.items() ^ new.overrides.items()}
    pairs: tuple[tuple[Mapping[str, object], Mapping[str, object]], ...] = (
        (old.verdicts, new.verdicts),
        (old.old, new.old),
        (old.found, new.found),
        (old.hops, new.hops),
        (old.unreachable, new.unreachable),
        (old.deals, new.deals),
    )
    return frozenset(decided.union(*[_replaced(was, now) for was, now in pairs if was is not now]))


def _replaced(was: Mapping[str, object], now: Mapping[str, object]) -> Iterator[str]:
    """Yield the keys of which two mappings do not have the same object."""
    find = was.get
    yield from [name for name, value in now.items() if find(name) is not value]
    yield from [name for name in was if name not in now]


@dataclass(frozen=True, slots=True, kw_only=True)
class _ServiceFacts:
    """What facts say about one service."""

    overrides: Mapping[str, Override]
    #: Many: those that changed are another object.
    verdicts: Verdicts = field(compare=False)
    old: Verdicts = field(compare=False)
    live: bool
    discovered: Discovered | None
    hops: frozenset[Hop]
    unreachable: Mapping[str, str]
    deals: frozenset[Deal]

    @classmethod
    def of(cls, service: Service, facts: Facts, overrides: Mapping[str, Override]) -> _ServiceFacts:
        name = service.name
        return cls(
            overrides=overrides,
            verdicts=facts.verdicts.get(name, NO_VERDICTS),
            old=facts.old.get(name, NO_VERDICTS),
            live=facts.live,
            discovered=facts.found.get(name) if service.discover is not None else None,
            hops=facts.hops.get(name, _NO_HOPS),
            unreachable=facts.unreachable.get(name, _NO_REASONS),
            deals=facts.deals.get(name, _NO_DEALS),
        )

    def __bool__(self) -> bool:
        return bool(
            self.overrides
            or self.verdicts
            or self.old
            or self.discovered
            or self.hops
            or self.unreachable
            or self.deals
        )

    def is_as(self, other: _ServiceFacts) -> bool:
        """Return True if the same is said."""
        return self.verdicts is other.verdicts and self.old is other.old and self == other


@dataclass(frozen=True, slots=True, kw_only=True)
class _Outcome:
    """What facts make of one service, and what it was made from."""

    file: Service
    facts: _ServiceFacts
    #: With the endpoints of its source.
    known: Service
    service: Service
    reasons: Mapping[Place, Reason]


def _outcome(
    file: Service, facts: _ServiceFacts, intent: Intent, *, checked: KnownVerdicts, ended: KnownVerdicts
) -> _Outcome:
    answer = facts.discovered.within(intent, file) if facts.discovered is not None else ()
    service = merged(file, answer)
    own = {each.to: each for each in file.endpoints}
    # One of the file without a next hop is an error of the file; for the answer of a source, no change of
    # the file helps, and the other endpoints go on.
    lost = {to: reason for to, reason in facts.unreachable.items() if to not in own}
    decided = [_endpoint(each, facts.overrides.get(each.name)) for each in service.endpoints]
    endpoints = tuple([replace(each, state=State.DRAIN) if each.to in lost else each for each in decided])
    found = service if endpoints == service.endpoints else replace(service, endpoints=endpoints)
    if found is not service:
        _check_slots(found)
    judged = checked.of(service)
    if facts.live:
        judged = awaited(found, judged)
    judgement = judge(found, judged)
    if judgement.limits:
        found = replace(found, limits=judgement.limits)
    if facts.hops:
        found = replace(found, hops=facts.hops)
    if facts.deals and file.scheduler is Scheduler.LEAST_CONNECTIONS:
        found = replace(found, deals=facts.deals)
    shown = ended.of(service)
    by_source = {each.to: each.state for each in answer}
    reasons = {
        (service.name, each.name): Reason(
            state=own.get(each.to, each).state,
            weight=own.get(each.to, each).weight,
            operator=facts.overrides.get(each.name),
            checked=tuple(_checked(each, service, judgement, judged, shown)),
            source=by_source.get(each.to),
            discovered=each.to not in own,
            unreachable=lost.get(each.to, ""),
        )
        for each in service.endpoints
    }
    said = {
        place: reason
        for place, reason in reasons.items()
        if reason.operator or reason.checked or reason.source or reason.unreachable
    }
    return _Outcome(file=file, facts=facts, known=service, service=found, reasons=said)


def _check_slots(service: Service) -> None:
    for family in service.families:
        slots = slot_count([e.weight for e in service.ready(family)])
        if slots > MAX_SLOTS:
            raise ValueError(
                f'service "{service.name}": exact shares of the weights need {slots} slots, '
                f"more than {MAX_SLOTS}"
            )


def _checked(
    endpoint: Endpoint, service: Service, judgement: Judgement, verdicts: Verdicts, old: Verdicts
) -> Iterator[Checked]:
    for family in service.families:
        place = (endpoint.name, family)
        if (verdict := verdicts.get(place)) is not None:
            yield Checked(family=family, verdict=verdict, kept=judgement.kept.get(place))
        elif (verdict := old.get(place)) is not None:
            yield Checked(family=family, verdict=verdict, old=True)


def _endpoint(endpoint: Endpoint, override: Override | None) -> Endpoint:
    if override is None:
        return endpoint
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


def left_to_failed(before: Effective, after: Effective) -> dict[str, tuple[Family, ...]]:
    """Return service → the families that only endpoints which checks found down serve in `after`.

    Families in which that is so in `before` too are left out.
    """
    had = _kept_by_all_down(before)
    found: dict[str, tuple[Family, ...]] = {}
    for service, family in _kept_by_all_down(after) - had:
        found[service] = tuple(sorted((*found.get(service, ()), family)))
    return found


def _kept_by_all_down(effective: Effective) -> set[tuple[str, Family]]:
    return {
        (service, each.family)
        for (service, _), reason in effective.reasons.items()
        for each in reason.checked
        if each.kept is KeptBy.ALL_DOWN
    }
