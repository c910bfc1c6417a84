"""Foreign rules that balance: which of them can be migrated, as which services, and what goes with them."""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from fractions import Fraction
from typing import TYPE_CHECKING

from lbctl.engine.inspect.explain import stands_before
from lbctl.engine.migrate.intent import imported, is_balancing, own_endpoint, shown
from lbctl.errors import ApplyFailed, IntentError
from lbctl.model import EndpointShare, Severity, decimal, unmatched
from lbctl.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from lbctl.engine.migrate.intent import Imported
    from lbctl.model import AnalysedService, Analysis, Finding, Service, UnsupportedRule
    from lbctl.spi import Migrator, Retirement

#: What balances connections over endpoints, and not marks or addresses of clients.
_TO_ENDPOINTS = {"redirect", "dnat"}
#: Rules of what cannot move that are shown.
_FEW = 4


class SharePolicy(StrEnum):
    """What becomes of shares that are not what the rules were meant to give."""

    FIX = "fix"
    KEEP = "keep"


@dataclass(frozen=True, slots=True, kw_only=True)
class Retained:
    """Rules that are not migrated: the name by which they are shown and excluded, and why."""

    name: str
    rules: tuple[str, ...]
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignRules:
    """What is migrated of a store's foreign rules, and what is not."""

    services: tuple[Service, ...]
    #: The dump, and the lines of it that each service was read from.
    text: str
    lines: Mapping[str, Collection[int]]
    #: Above each service in a file: the rules that it was read from.
    comments: Mapping[str, Sequence[str]]
    #: The services as they were read.
    read: tuple[AnalysedService, ...]
    #: Those of them that get equal shares, since theirs are not what was meant.
    fixed: frozenset[object]
    #: Those whose unmatched traffic goes where it went, by an endpoint of its own.
    kept: frozenset[object]
    #: What was decided about shares that are not what the rules mean; None if that was not needed.
    policy: SharePolicy | None
    findings: tuple[Finding, ...]
    retained: tuple[Retained, ...]
    retirement: Retirement
    notes: tuple[str, ...]

    @property
    def fixed_selectors(self) -> frozenset[object]:
        """The selectors of `fixed`, as `seen` has them."""
        return frozenset(_as_selected(each).selector for each in self.read if each.selector in self.fixed)

    def seen(self, reading: Analysis) -> Analysis:
        """Return the migrated services of a reading of their source, as an intent selects them."""
        moving = {_place(each) for each in self.read}
        services = tuple(_as_selected(s) for s in reading.services if _place(s) in moving)
        return replace(reading, services=services, findings=(), unsupported=())

    def arrived(self, reading: Analysis) -> Analysis:
        """Return the migrated services of a reading of their target."""
        selectors = {_as_selected(each).selector[1:4] for each in self.read}
        leaking = {_as_selected(each).selector[1:4] for each in self.read if each.selector in self.kept}
        services = tuple(
            _leak_again(s) if s.selector[1:4] in leaking else s
            for s in reading.services
            if s.selector[1:4] in selectors
        )
        return replace(reading, services=services, findings=(), unsupported=())


def with_policy(reading: Analysis, policy: SharePolicy) -> Analysis:
    """Return what was read with the shares that a policy gives each service; unchanged if it cannot."""

    def can(service: AnalysedService) -> bool:
        kept = service.exact or policy is SharePolicy.FIX
        return kept and service.action in _TO_ENDPOINTS and is_balancing(service)

    services = tuple(_corrected(x, reading, policy) if can(x) else x for x in reading.services)
    return replace(reading, services=services)


def has_services(backend: Migrator, text: str) -> bool:
    """Return True if some rules of a dump balance, and no other program would write them again."""
    reading = backend.read(text)
    return bool(_parted(backend, text, reading)[0]) or any(
        _is_ladder_of_marks(each) and backend.managing_program(text, each.picking) is None
        for each in reading.services
    )


def unread_rules(backend: Migrator, text: str) -> tuple[UnsupportedRule, ...]:
    """Return the rules of a dump that matter and are not understood, without those of known programs."""
    found = backend.read(text).unsupported
    return tuple(each for each in found if backend.managing_program(text, (each.line,)) is None)


def foreign_rules(
    backend: Migrator, text: str, exclude: Collection[str] = (), policy: SharePolicy | None = None
) -> ForeignRules | None:
    """Return what is migrated of the rules in a dump; None for nothing. Pure.

    Raises `IntentError` if the user has to decide about something, as about what cannot be migrated, and
    `ApplyFailed` if what is migrated cannot be separated from what is not.
    """
    lines = text.split("\n")
    reading = backend.read(text)
    moving, retained = _parted(backend, text, reading)
    corrected = tuple(_corrected(each, reading, policy) for each in moving)
    found = imported(replace(reading, services=corrected, unsupported=()), lines, exact=True)
    lost = list(_lost(backend, text, reading, found))
    out = _out(found, lost, exclude)
    retained += [Retained(name=x.name, rules=x.rules, reason="excluded") for x in lost]
    services = tuple(s for s in found.intent.services if s.name not in out)
    if not services:
        return None
    retained += [
        Retained(name=s.name, rules=_rules(lines, found.lines[s.name]), reason="excluded")
        for s in found.intent.services
        if s.name in out
    ]
    mine = {line for s in services for line in found.lines[s.name]}
    left = {_place(service) for service, _ in found.lost}
    going = tuple(s for s in moving if set(s.picking) <= mine and _place(s) not in left)
    odd = [each for each in going if _needs_decision(each, reading)]
    if odd and policy is None:
        raise IntentError(
            "; ".join(_what_is_wrong(each, reading) for each in odd),
            hint="--fix gives each endpoint the same share; --keep reproduces the current shares, including "
            "unmatched traffic",
        )
    return ForeignRules(
        services=services,
        text=text,
        lines={service.name: found.lines[service.name] for service in services},
        comments=found.comments,
        read=going,
        fixed=frozenset(s.selector for s in odd) if policy is SharePolicy.FIX else frozenset(),
        kept=frozenset(s.selector for s in odd if s.leak) if policy is SharePolicy.KEEP else frozenset(),
        policy=policy,
        findings=tuple(x for x in reading.findings if x.line in mine),
        retained=tuple(retained),
        retirement=_retirement(backend, text, reading, going),
        notes=tuple(_notes(services, found)),
    )


def _out(found: Imported, lost: Sequence[_Unexpressed], exclude: Collection[str]) -> set[str]:
    """Return the names of what is excluded; raises `IntentError` for what must be and is not."""
    names = {service.name: service.name for service in found.intent.services}
    names |= {alias: each.name for each in lost for alias in (each.place, each.name)}
    out = _excluded(exclude, names)
    if refused := [each for each in lost if each.name not in out]:
        words = dict.fromkeys(f'--exclude "{each.name}"' for each in refused)
        raise IntentError(
            "\n".join(line for each in refused for line in each.text()),
            hint=f"{' '.join(words)} leaves {'it where it is' if len(refused) == 1 else 'them there'}",
        )
    return out


@dataclass(frozen=True, slots=True)
class _Unexpressed:
    """What an intent cannot hold."""

    name: str
    #: Another name: which line of the dump it begins with.
    place: str
    rules: tuple[str, ...]
    reason: str

    def text(self) -> Iterator[str]:
        """Lines that say that it cannot be migrated, and which rules it is."""
        yield f"{self.name} cannot be migrated: {self.reason}"
        yield from (f"    {rule}" for rule in self.rules[:_FEW])
        if len(self.rules) > _FEW:
            yield f"    … and {len(self.rules) - _FEW} more"


def _lost(backend: Migrator, text: str, reading: Analysis, found: Imported) -> Iterator[_Unexpressed]:
    lines = text.split("\n")
    for service, reason in found.lost:
        place = _line_name(service.picking)
        yield _Unexpressed(shown(service), place, _rules(lines, service.lines), reason)
    for service in reading.services:
        if _is_ladder_of_marks(service) and backend.managing_program(text, service.picking) is None:
            name, place = service.backends[0].to, _line_name(service.picking)
            yield _Unexpressed(name, place, _rules(lines, service.lines), _no_endpoints(service))
    for each in unread_rules(backend, text):
        place = _line_name((each.line,))
        yield _Unexpressed(place, place, (each.rule,), f"{each.what}: {each.reason}")


def _excluded(names: Collection[str], known: Mapping[str, str]) -> set[str]:
    """Return the names that are to stay, as they are shown; raises `IntentError` for one that nothing has.

    `known` are all names, and those as which they are shown.
    """
    for name in names:
        if _plain(name) not in known:
            hint = f"one of {', '.join(sorted(set(known.values())))}" if known else None
            raise IntentError(f'--exclude: there is no "{name}" here', hint=hint)
    return {known[_plain(name)] for name in names}


def _notes(services: Sequence[Service], found: Imported) -> Iterator[str]:
    for service in services:
        if service.allow:
            yield f"{service.name}: other clients than those of allow, whom the rules let pass, are refused"
        yield from (note for note in found.notes if note.startswith(f"{service.name}: "))


def _parted(backend: Migrator, text: str, reading: Analysis) -> tuple[list[AnalysedService], list[Retained]]:
    """Return the services that may move, and those that other programs write again."""
    moving: list[AnalysedService] = []
    retained: list[Retained] = []
    lines = text.split("\n")
    single = [each for each in reading.services if each.action in _TO_ENDPOINTS and not is_balancing(each)]
    for service in reading.services:
        if service.action not in _TO_ENDPOINTS or not is_balancing(service):
            continue
        managing_program = backend.managing_program(text, service.picking)
        # What takes some of its connections first, and does not migrate.
        narrower = next((each for each in single if stands_before(each, service)), None)
        if managing_program is None and narrower is not None:
            name = service.name or _line_name(service.picking)
            first = f"{shown(narrower)} is not migrated, and its rules come first"
            reason = f"{first}: lbctl would match its connections"
            retained.append(Retained(name=name, rules=_rules(lines, service.picking), reason=reason))
        elif managing_program is None:
            moving.append(service)
        else:
            name = service.name or _line_name(service.picking)
            reason = f"{managing_program} writes these rules, and would do so again"
            retained.append(Retained(name=name, rules=_rules(lines, service.picking), reason=reason))
    return moving, retained


def _retirement(
    backend: Migrator, text: str, reading: Analysis, going: Sequence[AnalysedService]
) -> Retirement:
    """Return all rules of these services; raises `ApplyFailed` where some serve others too."""
    places = {_place(each) for each in going}
    staying = [s for s in reading.services if _place(s) not in places]
    for each in going:
        other = next((s for s in staying if set(s.picking) & set(each.picking)), None)
        if other is not None:
            raise ApplyFailed(f"the rules of {shown(each)} serve {shown(other)} too, which is not migrated")
    # What picks goes, and what then leads to nothing: connections of others may pass the rest too.
    lines = {line for each in going for line in each.picking}
    for _ in range(len(text)):
        made = backend.retire(text, lines)
        hooks = {(selector, hook) for selector, at in places for hook in at}
        now = backend.read(made.after).services
        left = [s for s in now if any((s.selector, hook) in hooks for hook in s.hooks)]
        if not left:
            break
        # Rules that only bring clients back pick nobody, and those of another hook are told with the first.
        back = _numbers(text, made.lines)
        met = {n for each in left for n in each.picking or [step.line for step in each.path]}
        more = {back[line - 1] for line in met}
        if more <= lines:
            raise ApplyFailed(f"the rules of {shown(left[0])} cannot be removed completely")
        lines |= more
    still = {_identity(s) for s in backend.read(made.after).services}
    for each in staying:
        if _identity(each) not in still:
            raise ApplyFailed(f"{shown(each)} would change without the removed rules")
    return made


def _numbers(text: str, gone: Collection[int]) -> list[int]:
    """Return the numbers that the lines had which are left."""
    out = set(gone)
    return [number for number in range(1, text.count("\n") + 2) if number not in out]


def _place(service: AnalysedService) -> tuple[tuple[object, ...], tuple[str, ...]]:
    """Return what tells a service from all others: at each hook, rules may do something else."""
    return service.selector, service.hooks


def _identity(service: AnalysedService) -> object:
    return (*service.selector, service.hooks, service.mode, service.backends, service.leak, service.slots)


def _needs_decision(service: AnalysedService, reading: Analysis) -> bool:
    """Return True if the shares are not what was meant."""
    return bool(service.leak) or not service.exact or any(_errors(service, reading))


def _errors(service: AnalysedService, reading: Analysis) -> Iterator[Finding]:
    return (x for x in reading.findings if x.severity is Severity.ERROR and x.line in service.lines)


def _what_is_wrong(service: AnalysedService, reading: Analysis) -> str:
    reasons = [f"{found.code} (line {found.line}): {found.message}" for found in _errors(service, reading)]
    if not reasons and not service.exact:
        reasons = [f"its shares depend on {service.depends_on}"]
    if not reasons:
        reasons = [unmatched(service.leak)]
    return f"{shown(service)}: {'; '.join(reasons)}"


def _corrected(service: AnalysedService, reading: Analysis, policy: SharePolicy | None) -> AnalysedService:
    """Return the service with the shares that it is to have."""
    if not _needs_decision(service, reading):
        return service
    if policy is SharePolicy.KEEP:
        if not service.exact:
            raise IntentError(
                f"{shown(service)}: shares that depend on {service.depends_on} cannot be kept",
                hint="--fix gives each endpoint the same share, or --exclude leaves it",
            )
        return _let_leak(service) if service.leak else service
    count = len(service.backends)
    return replace(
        service,
        backends=tuple(replace(each, share=Fraction(1, count)) for each in service.backends),
        slots=tuple(each.to for each in service.backends),
        mode="random" if service.mode == "random" else "nth",
        leak=Fraction(0),
        exact=True,
    )


def _let_leak(service: AnalysedService) -> AnalysedService:
    """The service with an endpoint that is the listener itself: who is sent there is sent nowhere else."""
    own = own_endpoint(service)
    return replace(
        service,
        backends=(*service.backends, EndpointShare(to=own, share=service.leak)),
        slots=tuple(slot or own for slot in service.slots),
        leak=Fraction(0),
    )


def _leak_again(service: AnalysedService) -> AnalysedService:
    """Return the other way round, for what is held against the rules of before."""
    own = own_endpoint(service)
    return replace(
        service,
        backends=tuple(each for each in service.backends if each.to != own),
        slots=tuple(None if slot == own else slot for slot in service.slots),
        leak=service.leak + sum((x.share for x in service.backends if x.to == own), start=Fraction(0)),
    )


def _as_selected(service: AnalysedService) -> AnalysedService:
    """Return a service as lbctl selects it: a port alone is one of this host's own addresses."""
    return replace(service, dst="local") if service.dst == "any" else service


def _no_endpoints(service: AnalysedService) -> str:
    return f"it chooses by {service.action}; an intent sends connections to endpoints"


def _is_ladder_of_marks(service: AnalysedService) -> bool:
    """Return True for what balances, but not over endpoints."""
    balances = is_balancing(service) and len(service.backends) > 1
    return balances and service.action not in _TO_ENDPOINTS


def _line_name(lines: Sequence[int]) -> str:
    return f"line {min(lines, default=0)}"


def _plain(name: str) -> str:
    """Return a name as it is shown: `line 4` for `4` and `line-4` too."""
    line = decimal(name.lower().removeprefix("line").strip(" -"))
    return name if line is None else f"line {line}"


def _rules(lines: Sequence[str], numbers: Sequence[int]) -> tuple[str, ...]:
    return tuple(lines[n - 1].strip() for n in numbers if 0 < n <= len(lines))
