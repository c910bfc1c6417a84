"""What existing rules do → the intent that does the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from lbctl.engine.migrate.groups import ANYWHERE, groups
from lbctl.engine.migrate.services import service_of
from lbctl.engine.migrate.weights import NotExpressible
from lbctl.model import (
    Analysis,
    Intent,
    Listener,
    Service,
)
from lbctl.values import dataclass

if TYPE_CHECKING:
    from lbctl.model import Address, AnalysedService, UnsupportedRule

_BALANCING = {"nth", "random", "hash", "mixed"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """An intent, what stands above each of its services, and what it cannot hold."""

    intent: Intent
    comments: Mapping[str, Sequence[str]]
    notes: tuple[str, ...]
    #: The lines that each service was read from.
    lines: Mapping[str, tuple[int, ...]]
    #: The services that are not in the intent, each with the reason.
    lost: tuple[tuple[AnalysedService, str], ...]
    #: The rules that may balance and are not understood.
    unread: tuple[UnsupportedRule, ...] = ()

    @property
    def complete(self) -> bool:
        """True if the intent holds every service that balances, and each rule was understood."""
        return not self.unread and not any(is_balancing(service) for service, _ in self.lost)


class _Quotations(Mapping[str, Sequence[str]]):
    """The lines that each service was read from, verbatim; a large text is not there once more."""

    def __init__(self, lines: Mapping[str, Sequence[int]], source: Sequence[str]) -> None:
        self._lines = lines
        self._source = source

    def __getitem__(self, name: str) -> Sequence[str]:
        source = self._source
        numbers = [line for line in self._lines[name] if 0 < line <= len(source)]
        return [f"line {line}: {source[line - 1].strip()}" for line in numbers]

    def __iter__(self) -> Iterator[str]:
        return iter(self._lines)

    def __len__(self) -> int:
        return len(self._lines)


def is_balancing(service: AnalysedService) -> bool:
    """Return True for a service that spreads its connections over several endpoints, or leaves some out."""
    return service.mode in _BALANCING and len(service.backends) > (0 if service.leak else 1)


def imported(reading: Analysis, source: Sequence[str] = (), *, exact: bool = False) -> Imported:
    """Return the intent that does what was read. `source` are the lines of the text, for comments.

    Clients that rules exempt pass untouched; those of `deny`, which an intent has for them, are refused. With
    `exact` a service with such clients is none that an intent can hold.
    """
    notes: list[str] = []
    made: dict[str, Service] = {}
    numbers: dict[str, tuple[int, ...]] = {}
    lost: list[tuple[AnalysedService, str]] = []
    taken = _Taken()
    last: dict[str, int] = {}
    for group in groups(reading.services):
        try:
            service, remarks = _made(group, made, last, exact=exact)
        except NotExpressible as reason:
            group, failed = _expressible(group, str(reason), made, last, exact=exact)
            lost += failed
            if not group:
                continue
            service, remarks = _made(group, made, last, exact=exact)
        if (clash := taken.clash(service)) is not None:
            lost += [(each, clash) for each in group]
            continue
        taken.add(service)
        made[service.name] = service
        notes += [f"{service.name}: {remark}" for remark in remarks]
        numbers[service.name] = tuple(dict.fromkeys([line for each in group for line in each.lines]))
    notes += [f"{shown(each)}: {reason}" for each, reason in lost]
    notes += [f"line {each.line}: {each.what}: {each.reason}" for each in reading.unsupported]
    return Imported(
        intent=Intent(services=tuple(made.values())),
        comments=_Quotations(numbers, source),
        notes=tuple(notes),
        lines=numbers,
        lost=tuple(lost),
        unread=reading.unsupported,
    )


def _made(
    group: Sequence[AnalysedService], made: Mapping[str, Service], last: dict[str, int], *, exact: bool
) -> tuple[Service, list[str]]:
    """Return the service that a group is, with remarks; raises `NotExpressible`."""
    service, remarks = service_of(group, made, last)
    if exact and service.deny:
        exempt = ", ".join(map(str, service.deny))
        raise NotExpressible(f"it exempts clients ({exempt}), and an intent would refuse them")
    return service, remarks


def _expressible(
    group: list[AnalysedService],
    reason: str,
    made: Mapping[str, Service],
    last: Mapping[str, int],
    *,
    exact: bool,
) -> tuple[list[AnalysedService], list[tuple[AnalysedService, str]]]:
    """Return what of a group can be one service, and the rest; all of it cannot be one, for a `reason`."""
    failed = {}
    for place, each in enumerate(group) if len(group) > 1 else ():
        try:
            _made([each], made, dict(last), exact=exact)
        except NotExpressible as own:
            failed[place] = str(own)
    rest = [each for place, each in enumerate(group) if place not in failed]
    if not failed or not rest:
        return [], [(each, reason) for each in group]
    lost = [(group[place], own) for place, own in failed.items()]
    try:
        _made(rest, made, dict(last), exact=exact)
    except NotExpressible as together:
        return [], lost + [(each, str(together)) for each in rest]
    return rest, lost


class _Taken:
    """The listeners of services so far; see `Listener.overlaps`."""

    def __init__(self) -> None:
        #: By protocol and port, with all ranges of ports together, and then by address.
        self._found: dict[object, dict[Address | None, list[tuple[Listener, Service]]]] = {}

    def add(self, service: Service) -> None:
        """Add the listeners of a service."""
        for listener in service.listeners:
            self._beside(listener).setdefault(listener.address, []).append((listener, service))

    def clash(self, service: Service) -> str | None:
        """Return why a service cannot be beside these: a connection could match a listener of both."""
        for listener in service.listeners:
            for other, rival in self._rivals(listener):
                if (
                    listener.overlaps(other)
                    and not _leaves_to(service, listener, other)
                    and not _leaves_to(rival, other, listener)
                ):
                    return _clash(service, listener, rival, other)
        return None

    def _beside(self, listener: Listener) -> dict[Address | None, list[tuple[Listener, Service]]]:
        key = listener.protocol, None if listener.is_range else listener.port
        return self._found.setdefault(key, {})

    def _rivals(self, listener: Listener) -> Iterator[tuple[Listener, Service]]:
        found = self._beside(listener)
        addresses = list(found) if listener.address is None else [None, listener.address]
        for address in addresses:
            yield from found.get(address, ())


def _clash(service: Service, listener: Listener, rival: Service, other: Listener) -> str:
    """Return that two services have one listener, and how to have one for local and for other connections."""
    why = (
        f"{listener} overlaps with {other}, the listener of {rival.name}; an intent has one service for both"
    )
    if service.local_clients is rival.local_clients:
        return why
    outside = rival if service.local_clients else service
    return (
        f"{why}, and the same shares for local connections and for those from outside: "
        f"{outside.name} without `local-clients = false`"
    )


def _leaves_to(service: Service, listener: Listener, other: Listener) -> bool:
    """Return True if a service excludes the address of another listener from its own one."""
    return (
        listener.address is None
        and other.address is not None
        and any(other.address in network for network in service.exclude)
    )


def own_endpoint(service: AnalysedService) -> str:
    """Return the listener of a service as an endpoint of it: who is sent there goes where he went without."""
    if service.action == "redirect" or service.dst in ANYWHERE:
        return service.dport
    return f"[{service.dst}]:{service.dport}" if ":" in service.dst else f"{service.dst}:{service.dport}"


def shown(service: AnalysedService) -> str:
    """Return a service in a sentence."""
    return f"{service.dst}:{service.dport}/{service.proto} ({service.family})"
