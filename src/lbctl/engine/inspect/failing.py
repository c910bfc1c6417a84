"""Endpoints that checks found down, in few sentences: one for a family in which all of a service are.

Processes that listen for IPv4 only fail every check for IPv6, on many hosts and for good reason.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from lbctl.engine.inspect.checks import HostFacts, is_expected
from lbctl.model import Health

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from lbctl.host import Host
    from lbctl.model import Checked, Effective, Family, Service


def failing_lines(host: Host, effective: Effective, services: Iterable[Service]) -> Iterator[str]:
    """Yield a line for each endpoint that is down, or one for a family in which all are.

    Nothing for all of a family that no client can use: see `is_expected`.
    """
    facts = HostFacts(host=host)
    for service in services:
        found = _checked(effective, service)
        expected = {family for family in service.families if is_expected(facts, service, family)}
        every = {family for family in service.families if _are_all_down(found, family)}
        together = every if len(found) > 1 else every - expected
        for family in sorted(together & expected):
            yield f"{service.name} ({family}): {_summary(found, family)}"
        for endpoint in service.endpoints:
            reason = effective.reason(service.name, endpoint)
            left = tuple(each for each in reason.checked if each.family not in together)
            if any(each.verdict.health is Health.DOWN for each in left):
                yield f"{service.name}/{endpoint.name} {replace(reason, checked=left)}"


def _checked(effective: Effective, service: Service) -> dict[str, tuple[Checked, ...]]:
    found = {each.name: effective.reason(service.name, each).checked for each in service.endpoints}
    return {name: checked for name, checked in found.items() if checked}


def _of(found: dict[str, tuple[Checked, ...]], family: Family) -> list[Checked]:
    return [each for checked in found.values() for each in checked if each.family is family]


def _are_all_down(found: dict[str, tuple[Checked, ...]], family: Family) -> bool:
    own = _of(found, family)
    return bool(own) and all(each.verdict.health is Health.DOWN for each in own)


def _summary(found: dict[str, tuple[Checked, ...]], family: Family) -> str:
    own = _of(found, family)
    kept = next((f", kept by {each.kept}" for each in own if each.kept is not None), "")
    old = ", but no agent runs" if own[0].old else ""
    return f"{all_down(each.verdict.result for each in own)}{kept}{old}"


def all_down(results: Iterable[str]) -> str:
    """Return `all 3 endpoints are down: connection refused` for the results of the last checks of all."""
    every = list(results)
    return f"all {len(every)} endpoints are down: {_few(dict.fromkeys(every))}"


def _few(results: Collection[str]) -> str:
    first, *others = results
    return f"{first}, and others" if others else first
