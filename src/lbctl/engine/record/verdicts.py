"""What the agent found out about endpoints: its last verdicts, for every other command.

They hold while the agent that wrote them runs. After that they are old: shown, and young failures are still
honoured by commands that cannot ask. They end with this start of the host.

All verdicts are written where that costs nothing. Where there are many, services whose endpoints all pass
with their whole weight are left out: an endpoint of a service that is not named passes, or was never checked.
An endpoint that a named service has no verdict of is new to the agent.
"""

from __future__ import annotations

import json
import re
from fractions import Fraction
from typing import TYPE_CHECKING

from lbctl.errors import Damaged
from lbctl.model import Family, Health, Verdict, read_record, time_of
from lbctl.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from lbctl.host import Host
    from lbctl.model import Shape, Verdicts

VERSION = 1
_PART = re.compile(r"[01]|[0-9]{1,9}/[1-9][0-9]{0,8}")
#: Verdicts that are written wholly at each change.
MANY = 2000
#: A verdict as it is written.
ROW: Shape = {
    "service": str,
    "endpoint": str,
    "family": str,
    "health": str,
    "since": float,
    "result": str,
    "count": int,
    "checked": float | None,
    "seconds": float | None,
    "part": str,
    "serving": bool,
    "held": bool,
    "hold": float,
    "to": str,
    "check": str,
}
_SHAPE: Shape = {
    "format_version": int,
    "namespace": str | None,
    "time": float,
    "verdicts": [ROW],
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """The verdicts on record. `live` is True while the agent that gave them runs; `time` is when it did."""

    live: bool
    time: float
    verdicts: Mapping[str, Verdicts]


class Register:
    """Writes the verdicts of an owner time and again; a service that did not change is not spelled again."""

    def __init__(self, host: Host, owner: str) -> None:
        self._host, self._owner = host, owner
        self._count = 0
        #: The very verdicts that were spelled, and the texts of the services that have one.
        self._known: Mapping[str, Verdicts] = {}
        self._spelled: dict[str, str] = {}

    def write(self, verdicts: Mapping[str, Verdicts]) -> None:
        """Have other commands find these. Best effort, as all that ends with the host.

        The mapping is kept until the next call, and must not change.
        """
        find = self._known.get
        changed = [name for name, own in verdicts.items() if find(name) is not own]
        gone = [name for name in self._known if name not in verdicts]
        was_many = self._count > MANY
        self._count += sum(len(verdicts[name]) - len(find(name, ())) for name in changed)
        self._count -= sum(len(self._known[name]) for name in gone)
        many = self._count > MANY
        for name in gone:
            self._spelled.pop(name, None)
        for name in changed if many is was_many else verdicts:
            self._spelled[name] = _spelled(name, verdicts[name], many=many)
            if not self._spelled[name]:
                del self._spelled[name]
        self._known = verdicts
        head = {
            "format_version": VERSION,
            "namespace": self._host.namespace(),
            "time": self._host.now(),
        }
        found = ",".join(self._spelled.values())
        text = f'{json.dumps(head, separators=(",", ":"))[:-1]},"verdicts":[{found}]}}'
        self._host.remember(_name(self._owner), text)


def write(host: Host, owner: str, verdicts: Mapping[str, Verdicts]) -> None:
    """Have other commands find these, once; see `Register.write`."""
    Register(host, owner).write(verdicts)


def forget(host: Host, owner: str) -> None:
    """Have there be no verdicts of an owner."""
    host.remember(_name(owner), None)


def read(host: Host, owner: str) -> Recorded | None:
    """Return the verdicts of an owner; None where there are none of this start of the host."""
    text = host.recall(_name(owner))
    if text is None:
        return None
    try:
        record = read_record(text, _SHAPE)
        if record["format_version"] != VERSION or record["namespace"] != host.namespace():
            return None
        verdicts = of_rows(record["verdicts"])
    except (Damaged, ValueError):
        return None  # what is unknown changes nothing
    return Recorded(live=is_live(host, owner), time=record["time"], verdicts=verdicts)


def rows(verdicts: Mapping[str, Verdicts]) -> list[dict[str, object]]:
    """Return verdicts as they are written, without the plain services if there are many."""
    many = sum(map(len, verdicts.values())) > MANY
    return [row for service, own in verdicts.items() for row in _rows(service, own, many=many)]


def of_rows(rows: Iterable[dict[str, str]]) -> dict[str, dict[tuple[str, Family], Verdict]]:
    """Return the verdicts in rows of the shape `ROW`; raises `ValueError`."""
    verdicts: dict[str, dict[tuple[str, Family], Verdict]] = {}
    for fields in rows:
        service, place, verdict = _verdict(fields)
        verdicts.setdefault(service, {})[place] = verdict
    return verdicts


def is_live(host: Host, owner: str) -> bool:
    """Return True while an agent of an owner runs."""
    return host.is_locked(f"{owner}.agent")


def _spelled(service: str, own: Verdicts, *, many: bool) -> str:
    """Return the verdicts of a service as the elements of a JSON array; "" for none."""
    return json.dumps(_rows(service, own, many=many), separators=(",", ":"))[1:-1]


def _rows(service: str, own: Verdicts, *, many: bool) -> list[dict[str, object]]:
    if many and all(map(_is_plain, own.values())):
        return []
    return [_fields(service, endpoint, family, verdict) for (endpoint, family), verdict in own.items()]


def _is_plain(verdict: Verdict) -> bool:
    """Return True for an endpoint that other commands treat alike if it is not named."""
    if verdict.health is Health.UNKNOWN:
        return verdict.checked is None and verdict.serving
    return verdict.health is Health.UP and verdict.part == 1 and not verdict.held


def _fields(service: str, endpoint: str, family: Family, verdict: Verdict) -> dict[str, object]:
    return {
        "service": service,
        "endpoint": endpoint,
        "family": family,
        "health": verdict.health,
        "since": verdict.since,
        "result": verdict.result,
        "count": verdict.count,
        "checked": verdict.checked,
        "seconds": verdict.seconds,
        "part": str(verdict.part),
        "serving": verdict.serving,
        "held": verdict.held,
        "hold": verdict.hold,
        "to": verdict.to,
        "check": verdict.check,
    }


def _verdict(fields: dict[str, str]) -> tuple[str, tuple[str, Family], Verdict]:
    service, place = fields.pop("service"), (fields.pop("endpoint"), Family(fields.pop("family")))
    health, part = Health(fields.pop("health")), _part(fields.pop("part"))
    verdict = Verdict(health=health, part=part, **fields)  # type: ignore[arg-type]
    time_of(verdict.since)
    return service, place, verdict


def _part(text: str) -> Fraction:
    # Fraction itself would also take "1e999999999", and compute it.
    if _PART.fullmatch(text) is None:
        raise ValueError(f"{text[:20]!r} is not a part")
    return Fraction(text)


def _name(owner: str) -> str:
    return f"{owner}.verdicts"
