"""What a host reports of itself, and what becomes of a canary by it. Pure."""

from __future__ import annotations

import json
from dataclasses import field, fields
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from lbctl.errors import Damaged
from lbctl.model import check_report_name, inert, read_record
from lbctl.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from lbctl.model import Shape

VERSION = 1
#: Characters of a report, problems in it, and characters of each.
MAX_TEXT = 256 << 10
_PROBLEMS, _PROBLEM = 8, 400


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceHealth:
    """Endpoints of a service that are checked, counted for each family: what the last checks found."""

    name: str
    up: int = 0
    down: int = 0
    unknown: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class HostReport:
    """Where a host stands.

    `revision` is what it carried out last, None for nothing; `newest` what etcd has for it. `follows` is
    False where something else was applied on the host since, a rollback for instance. `in_sync`: the kernel
    holds what was applied. `tables` has a digest of each table that has to be equal on all hosts, by service.
    """

    host: str
    version: str
    started: str
    revision: int | None = None
    newest: int | None = None
    canary: bool = False
    follows: bool = False
    in_sync: bool = False
    refused: str | None = None
    problems: tuple[str, ...] = ()
    tables: Mapping[str, str] = field(default_factory=dict)
    services: tuple[ServiceHealth, ...] = ()


_SHAPE: Shape = {
    "format_version": int,
    "host": str,
    "version": str,
    "started": str,
    "revision": int | None,
    "newest": int | None,
    "canary": bool,
    "follows": bool,
    "in_sync": bool,
    "refused": str | None,
    "problems": [str],
    "tables": [(str, str)],
    "services": [{"name": str, "up": int, "down": int, "unknown": int}],
}


def write(report: HostReport) -> str:
    """Return the text for etcd."""
    found: dict[str, Any] = {each.name: getattr(report, each.name) for each in fields(report)}
    found["problems"] = [_line(text) for text in report.problems[:_PROBLEMS]]
    found["refused"] = None if report.refused is None else _line(report.refused)
    found["tables"] = sorted(map(list, report.tables.items()))
    found["services"] = [
        {"name": each.name, "up": each.up, "down": each.down, "unknown": each.unknown}
        for each in report.services
    ]
    return json.dumps({"format_version": VERSION, **found}, separators=(",", ":"))


def read(text: str, host: str) -> HostReport:
    """Return the report of a host in a text of etcd; raises `Damaged`."""
    if len(text) > MAX_TEXT:
        raise Damaged(f"longer than {MAX_TEXT} characters")
    found = read_record(text, _SHAPE)
    if found.pop("format_version") != VERSION:
        raise Damaged("format_version: from another version of lbctl")
    if found["host"] != host:
        raise Damaged(f"host: it is the report of {found['host']!a}")
    check_report_name(host)
    found["services"] = tuple([ServiceHealth(**each) for each in found["services"]])
    found["problems"] = tuple(map(inert, found["problems"]))
    found["tables"] = dict(found["tables"])
    return HostReport(**found)


def _line(text: str) -> str:
    return inert(text)[:_PROBLEM]


class Stand(StrEnum):
    """How a canary goes on one host."""

    WAITING = "waiting"
    GOOD = "good"
    BAD = "bad"


def stand(revision: int, before: HostReport, now: HostReport | None) -> tuple[Stand, str]:
    """Return how a revision does on a host, and why: against what that host reported before it.

    It is bad where the host is silent or refuses it, has a problem that it did not have, is not in sync with
    it, or where more endpoints of a service fail than before, or none of a service passes.
    """
    if now is None:
        return Stand.BAD, "its agent no longer reports"
    if now.refused is not None and now.newest == revision:
        return Stand.BAD, now.refused
    if now.revision != revision:
        return Stand.WAITING, "not carried out yet"
    if problems := [text for text in now.problems if text not in before.problems]:
        return Stand.BAD, problems[0]
    if not now.follows:
        return Stand.BAD, "another intent was applied on it"
    old = {each.name: each for each in before.services}
    for each in now.services:
        was = old.get(each.name)
        if each.down and not each.up and not each.unknown and (was is None or was.up or was.unknown):
            return Stand.BAD, f"no endpoint of {each.name} passes its checks"
        if was is not None and each.down > was.down:
            return Stand.BAD, f"{each.down} endpoints of {each.name} fail their checks, {was.down} before"
    return (Stand.GOOD, "in sync") if now.in_sync else (Stand.WAITING, "not in sync yet")


def overall(stands: Mapping[str, tuple[Stand, str]]) -> tuple[Stand, str]:
    """Return how a canary does on all its hosts: as on the worst of them."""
    ranks: Sequence[Stand] = (Stand.BAD, Stand.WAITING, Stand.GOOD)
    host = min(stands, key=lambda name: ranks.index(stands[name][0]))
    found, why = stands[host]
    return found, f"{host}: {why}"


class HostStanding(StrEnum):
    """Where a host stands, in one word: the first that holds, from what is most urgent on."""

    SILENT = "silent"
    REFUSED = "refused"
    DIVERGED = "diverged"
    OUT_OF_SYNC = "out-of-sync"
    BEHIND = "behind"
    PROBLEM = "problem"
    CANARY = "canary"
    IN_SYNC = "in-sync"


def standing(report: HostReport | None, current: int | None, canary: int | None = None) -> HostStanding:
    """Return where a host stands, of which revisions are current and tried; None for none of them."""
    if report is None:
        return HostStanding.SILENT
    checks = (
        (report.refused is not None, HostStanding.REFUSED),
        (report.revision is not None and not report.follows, HostStanding.DIVERGED),
        (report.revision is not None and not report.in_sync, HostStanding.OUT_OF_SYNC),
        (report.revision != (canary if report.canary else current), HostStanding.BEHIND),
        (bool(report.problems), HostStanding.PROBLEM),
        (report.canary, HostStanding.CANARY),
    )
    return next((word for holds, word in checks if holds), HostStanding.IN_SYNC)


def uneven(reports: Iterable[HostReport | None]) -> tuple[str, ...]:
    """Return the services whose tables are not equal on all hosts of one revision, as far as they report."""
    seen: dict[tuple[int | None, str], set[str]] = {}
    for report in reports:
        for service, digest in report.tables.items() if report is not None else ():
            seen.setdefault((report.revision if report else None, service), set()).add(digest)
    return tuple(sorted({service for (_, service), digests in seen.items() if len(digests) > 1}))
