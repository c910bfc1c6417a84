"""What an agent learned, as lines of a log: JSON, one object a line, in the order of time.

Each line has `event`, `at`, a time that never jumps, and `time`, seconds since 1970, both of the same moment:

    {"event": "start", "at": 0.0, "time": 1.7e9, "intent": "schema = 1 …",
     "serving": [["web", "8001", "ipv4"]], "verdicts": [], "overrides": [], "progress": []}
    {"event": "result", "at": 1.2, "time": …, "endpoint": ["web", "8001", "ipv4"], "ending": "failed",
     "text": "connection refused", "seconds": 0.001, "final": false}
    {"event": "operator", "at": 2.0, "time": …, "overrides": […]}
    {"event": "intent", "at": 3.0, "time": …, "intent": "schema = 1 …"}
    {"event": "step", "at": 3.1, "time": …, "known": 2.95}

A `step` says that the kernel now holds what the intent, the overrides and the results up to the time `known`
lead to. Until the next one it holds nothing else, whatever is found meanwhile; in a log whose `start` has
`"steps": false`, of an older lbctl, it follows each line at once.

`start` has all that is known at a moment; each log begins with one, and there is another one wherever an
agent started: there `at` may be earlier than before. `serving` are the endpoints that took connections then,
`verdicts` and `overrides` are those of the records beside it, and `progress` is what verdicts do not say. A
result is named by one of the endpoints that share the check. Results that say nothing new are left out: see
`Monitor.is_news`.
"""

from __future__ import annotations

import json
from dataclasses import astuple, fields
from typing import TYPE_CHECKING, Any

from lbctl.agent.states import Progress
from lbctl.config import dump
from lbctl.engine.record import overrides as override_records, verdicts as verdict_records
from lbctl.model import Family, read_record

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from lbctl.agent.health import Moment, Outcome, Subject
    from lbctl.model import Intent, Override, Shape, Verdicts

_SUBJECT = (str, str, str)
_TIMES: dict[str, Shape] = {"event": str, "at": float, "time": float}
_SHAPES: Mapping[str, Shape] = {
    "start": {
        **_TIMES,
        "intent": str,
        "serving": [_SUBJECT],
        "verdicts": [verdict_records.ROW],
        "overrides": [override_records.ROW],
        "progress": [(*_SUBJECT, int, int, float | None, int, float, float, float | None)],
        "steps": bool,
    },
    "step": {**_TIMES, "known": float},
    "intent": {**_TIMES, "intent": str},
    "operator": {**_TIMES, "overrides": [override_records.ROW]},
    "result": {
        **_TIMES,
        "endpoint": _SUBJECT,
        "ending": str,
        "text": str,
        "seconds": float,
        "final": bool,
    },
}


def start_line(
    intent: Intent,
    serving: Collection[Subject],
    now: Moment,
    *,
    verdicts: Mapping[str, Verdicts] | None = None,
    overrides: Iterable[Override] = (),
    progress: Mapping[Subject, Progress] | None = None,
    steps: bool = False,
) -> str:
    """Return the line for all that is known at a moment; with `steps`, each change of the kernel follows."""
    return _line(
        "start",
        now,
        intent=dump(intent),
        serving=sorted(map(list, serving)),
        verdicts=verdict_records.rows(verdicts or {}),
        overrides=override_records.rows(overrides),
        progress=[[*subject, *astuple(found)] for subject, found in (progress or {}).items()],
        steps=steps,
    )


def intent_line(intent: Intent, now: Moment) -> str:
    """Return the line for an intent that is followed from now on."""
    return _line("intent", now, intent=dump(intent))


def operator_line(overrides: Iterable[Override], now: Moment) -> str:
    """Return the line for the overrides that are in force from now on."""
    return _line("operator", now, overrides=override_records.rows(overrides))


def step_line(known: float, now: Moment) -> str:
    """Return the line for a change of the kernel, made from what was known at a steady time."""
    return _line("step", now, known=known)


def result_line(subject: Subject, outcome: Outcome, now: Moment) -> str:
    """Return the line for the outcome of a check."""
    return _line(
        "result",
        now,
        endpoint=list(subject),
        ending=outcome.ending,
        text=outcome.text,
        seconds=outcome.seconds,
        final=outcome.final,
    )


def _line(event: str, now: Moment, **more: object) -> str:
    fields = {"event": event, "at": now.steady, "time": now.wall, **more}
    return json.dumps(fields, separators=(",", ":")) + "\n"


def read_line(line: str) -> dict[str, Any]:
    """Return the fields of a line; raises `ValueError` for one that is none, and `Damaged`."""
    try:
        shape = _SHAPES[json.loads(line)["event"]]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ValueError("not an event") from None
    # A log of lbctl 0.2 before its release lacks these.
    defaults: dict[str, object] | None = None
    if shape is _SHAPES["start"]:
        defaults = {"progress": [], "steps": False}
    event: dict[str, Any] = read_record(line, shape, defaults=defaults)
    return event


def subject_of(names: Sequence[str]) -> Subject:
    """Return the subject of a line; raises `ValueError`."""
    service, endpoint, family = names
    return service, endpoint, Family(family)


def progress_of(rows: Iterable[Sequence[Any]]) -> dict[Subject, Progress]:
    """Return the progress of endpoints in the rows of a line; raises `ValueError`."""
    names = [each.name for each in fields(Progress)]
    return {subject_of(row[:3]): Progress(**dict(zip(names, row[3:], strict=True))) for row in rows}
