"""What operators decided about endpoints by command: one small file of an owner beside its history.

It is changed only by who holds the owner's lock, and outlives applies, trials, rollbacks and restarts of the
host; `remove` ends it. An override of an endpoint that the applied intent no longer has is kept for a day, so
that a rollback finds it in force again.

A file that cannot be read is an error and not an empty one: forgetting a drain would send connections to an
endpoint under maintenance.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from lbctl.errors import ApplyFailed, Damaged, PermissionDenied
from lbctl.model import Override, read_record

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lbctl.host import Host
    from lbctl.model import Intent, Shape

VERSION = 1
#: Seconds that an override is kept whose endpoint is gone.
KEPT = 24 * 3600
#: Overrides of an owner, and characters of the file that they are in.
MAX_OVERRIDES = 4096
_MAX_TEXT = 4 * 1024 * 1024
#: An override as it is written.
ROW: Shape = {
    "service": str,
    "endpoint": str,
    "drained": bool,
    "weight": int | None,
    "who": str,
    "since": float,
    "why": str,
    "unused_since": float | None,
}
_SHAPE: Shape = {"format_version": int, "overrides": [ROW]}


def read(host: Host, owner: str) -> tuple[Override, ...]:
    """Return the overrides of an owner, in the order in which they were set, without those that ran out.

    Raises `Damaged` where there is a record that cannot be read.
    """
    return _in_time(_recorded(host, owner), host.now())


def _recorded(host: Host, owner: str) -> tuple[Override, ...]:
    text = host.saved(_name(owner))
    if text is None:
        with suppress(PermissionDenied):  # who cannot list the records cannot change the kernel either
            if _name(owner) in host.saved_names():
                raise _damage(owner, "it cannot be read, or other users can write it")
        return ()
    try:
        return _parse(text)
    except (Damaged, ValueError) as error:
        raise _damage(owner, str(error)) from error


def _in_time(found: Iterable[Override], now: float) -> tuple[Override, ...]:
    return tuple([each for each in found if each.unused_since is None or now - each.unused_since < KEPT])


def raw(host: Host, owner: str) -> str | None:
    """Return the record as it is, whatever it holds; None where there is none, or where it cannot be read."""
    return host.saved(_name(owner))


def write(host: Host, owner: str, overrides: Iterable[Override]) -> None:
    """Have these be the overrides of an owner; raises `ApplyFailed`, and the record is as it was."""
    every = tuple(overrides)
    if len(every) > MAX_OVERRIDES:
        raise ApplyFailed(
            f"more than {MAX_OVERRIDES} endpoints are overridden", hint="change the intent file"
        )
    text = json.dumps({"format_version": VERSION, "overrides": rows(every)}, indent=1) + "\n"
    host.save(_name(owner), text if every else None)


def rows(overrides: Iterable[Override]) -> list[dict[str, object]]:
    """Return overrides as they are written: each has the shape `ROW`, and is `Override(**row)` again."""
    return [{field: getattr(each, field) for field in Override.__slots__} for each in overrides]


def forget(host: Host, owner: str) -> None:
    """End all overrides of an owner, readable or not; raises `ApplyFailed`."""
    host.save(_name(owner), None)


def note_use(host: Host, owner: str, intent: Intent) -> None:
    """Note which overrides are of no use to an intent that was just applied, and drop those that ran out.

    Called by who holds the lock. Where it cannot be written, they are kept for longer.
    """
    with suppress(ApplyFailed, PermissionDenied):
        found = _recorded(host, owner)
        if not found:
            return
        ends = {(service.name, each.name) for service in intent.services for each in service.endpoints}
        left = _in_time(found, host.now())
        noted = tuple([_noted(each, used=each.place in ends, now=host.now()) for each in left])
        if noted != found:
            write(host, owner, noted)


def _noted(override: Override, *, used: bool, now: float) -> Override:
    if used:
        return override if override.unused_since is None else replace(override, unused_since=None)
    return override if override.unused_since is not None else replace(override, unused_since=now)


def _parse(text: str) -> tuple[Override, ...]:
    """Return the overrides in a text; raises `Damaged` and `ValueError`."""
    if len(text) > _MAX_TEXT:
        raise Damaged(f"longer than {_MAX_TEXT} characters")
    record = read_record(text, _SHAPE)
    if record["format_version"] != VERSION:
        raise Damaged("format_version: from another version of lbctl")
    found = tuple([Override(**fields) for fields in record["overrides"]])
    if len(found) > MAX_OVERRIDES or len({each.place for each in found}) < len(found):
        raise Damaged("overrides: too many, or two of one endpoint")
    return found


def _damage(owner: str, fault: str) -> Damaged:
    return Damaged(
        f"the record of drained endpoints and weights, {_name(owner)}, is damaged: {fault}",
        hint="remove that file from lbctl's state directory, then drain again what has to be drained",
    )


def _name(owner: str) -> str:
    return f"{owner}.overrides"
