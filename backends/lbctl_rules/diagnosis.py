"""Problems that both built-in backends find on a host, said in one way.

A backend looks at what is written in its own language: foreign rules that act before those managed by lbctl,
rules that drop what they let through. The engine looks at what belongs to no backend.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING

from lbctl.model import Severity, decimal, takes
from lbctl.spi import Problem
from lbctl.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from lbctl.model import Address, AnalysedService, Listener, Service
    from lbctl.spi import Case, Passage

#: Where local connections meet rules.
_OWN = {"output"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rival:
    """Connections that foreign rules decide about before ours.

    `rules` are those that decide, each with its place; `deletions` the commands that take them out, as far as
    they are known. Where it is not `certain`, both act at the same point, and who was loaded last decides.
    """

    service: AnalysedService
    source: str
    rules: tuple[str, ...]
    deletions: tuple[str, ...] = ()
    certain: bool = True
    #: The owner of these rules if lbctl manages them; None for foreign ones.
    owner: str | None = None

    def __str__(self) -> str:
        """Whose rule it is."""
        return self.source if self.owner is None else f'owner "{self.owner}" in {self.source}'


def taken(case: Case, rivals: Iterable[Rival]) -> Iterator[Problem]:
    """Yield the listeners that rivals take connections of."""
    by_port: dict[int, list[tuple[Service, Listener]]] = {}
    ranges: list[tuple[Service, Listener]] = []
    for service in case.services:
        for listener in service.listeners:
            found = ranges if listener.is_range else by_port.setdefault(listener.port, [])
            found.append((service, listener))
    for rival in rivals:
        caught: dict[str, list[Listener]] = {}
        *_, written, _ = rival.service.selector
        ports = written.split(",")
        plain = [number for port in ports if (number := decimal(port, 5)) is not None]
        single = (by_port.get(port, ()) for port in (plain if len(plain) == len(ports) else by_port))
        for service, listener in chain(*single, ranges):
            if _meets(rival.service, service, listener, case.addresses):
                caught.setdefault(service.name, []).append(listener)
        for name, listeners in caught.items():
            yield Problem(
                code="listener-taken",
                severity=Severity.ERROR if rival.certain else Severity.WARNING,
                service=name,
                message=_taken(rival, listeners),
                evidence="; ".join(rival.rules),
                fix=_fix(rival),
            )


def _meets(rival: AnalysedService, service: Service, listener: Listener, own: Sequence[Address]) -> bool:
    """Return True if some connection to a listener is a rival's; to any of ours, where it has no address."""
    if rival.family not in service.families or (set(rival.hooks) <= _OWN and not service.local_clients):
        return False
    if listener.address is not None:
        return takes(rival, listener)
    return any(takes(rival, replace(listener, address=address)) for address in (None, *own))


def _taken(rival: Rival, caught: Sequence[Listener]) -> str:
    service = rival.service
    places = " and ".join([each.to for each in service.backends][:4])
    goes = f"to {places}" if places else "on without being balanced"
    who = "this host's own connections" if set(service.hooks) <= _OWN else "new connections"
    when = "".join(f", with {name} {value}" for name, value in (service.when or {}).items())
    what = f"{who} to {', '.join(map(str, caught))} ({service.family}{when})"
    if rival.certain:
        return f"{what} go {goes}: a rule of {rival} decides before lbctl"
    return (
        f"{what} may go {goes}: a rule of {rival} acts at the same point as lbctl's, and the kernel "
        "asks first what was loaded last"
    )


def _fix(rival: Rival) -> str:
    if rival.owner is not None:
        return f"take the listener out of one intent file, or run: lbctl remove --owner {rival.owner}"
    fix = "remove the listener from the intent, or that rule from the kernel"
    return f"{fix}: {'; '.join(rival.deletions)}" if rival.deletions else fix


def leftovers(case: Case, store: str, driver: str, owners: Mapping[str, str]) -> Iterator[Problem]:
    """Our rules without an intent: owners found in a driver's store, each with what shows it."""
    for owner, evidence in owners.items():
        if case.intent is not None and owner == case.intent.owner:
            if store != case.store:
                yield Problem(
                    code="leftover-rules",
                    severity=Severity.ERROR,
                    message=f'{store} still holds rules of owner "{owner}" beside those of {case.store}: the '
                    "kernel runs both",
                    evidence=evidence,
                    fix=f"lbctl remove --driver {driver}, after a look at lbctl status",
                )
            continue
        known = f'the intent file names "{case.intent.owner}"' if case.intent else "there is no intent file"
        yield Problem(
            code="leftover-owner",
            severity=Severity.WARNING,
            message=f'{store} holds rules of owner "{owner}", and {known}',
            evidence=evidence,
            fix=f"if no other intent file of this host has that owner: lbctl remove --owner {owner}",
        )


def dropped(found: Iterable[tuple[Passage, str]]) -> Iterator[Problem]:
    """Passages that a host does not let through, each with the rule or policy that drops it."""
    by_rule: dict[tuple[str, bool, str], list[Passage]] = {}
    for passage, rule in found:
        by_rule.setdefault((passage.service, passage.outgoing is None, rule), []).append(passage)
    for (service, here, rule), passages in by_rule.items():
        endpoints = ", ".join(dict.fromkeys(map(str, passages)))
        links = [f"from {p.incoming or 'elsewhere'} to {p.outgoing or 'this host'}" for p in passages]
        yield Problem(
            code="input-drop" if here else "forward-drop",
            severity=Severity.ERROR,
            service=service,
            message=f"new connections {' and '.join(dict.fromkeys(links))} are dropped on their way to "
            f"{endpoints}: no rule of lbctl can override that",
            evidence=rule,
            fix="let new connections to these endpoints pass there; connections that lbctl "
            "translated have the conntrack state DNAT",
        )
