"""What was applied here, by whom and when: one small file a state, its intent in full.

A state knows the one before it (`parent`). Going back makes a new state that has the parent of the one it
returns to, so that going back twice goes back two applies.

The history is written ahead. `begin` writes a state down as pending before the kernel changes, while a full
disk can still stop it, and `settle` gives that very file its number once the kernel holds the state. What is
pending while nobody is at work was interrupted: `lbctl.engine.undo.recovery` finishes it or takes it back.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from hashlib import sha256
from typing import TYPE_CHECKING

from lbctl.config import dump, loads
from lbctl.errors import ApplyFailed, Damaged, PermissionDenied, Stale
from lbctl.model import Intent, inert, read_record

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lbctl.host import Host
    from lbctl.model import Plan, Shape

VERSION = 1
#: The first line of a state's file.
_SHAPE: Shape = {
    "format_version": int,
    "number": int,
    "time": str,
    "user": str,
    "action": str,
    "backend": str,
    "driver": str,
    "allow_remap": bool,
    "parent": int | None,
    "services": int,
    "digest": str,
    "namespace": str | None,
    "retired": str,
}
#: States that are kept of an owner.
KEPT = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryEntry:
    """One state that lbctl brought about. Number 0 is the host without rules of its owner."""

    number: int
    #: When, as ISO 8601 in UTC; who; and by what: `apply`, `remove`, `migrate` or `rollback`.
    time: str
    user: str
    action: str
    backend: str
    driver: str
    allow_remap: bool
    #: The number of the state before; None where that came from no intent on record.
    parent: int | None
    services: int
    digest: str
    #: The intent, as `lbctl.config.dump` writes it.
    text: str
    #: The network namespace and start of the host that it was brought about in, as `Host.namespace` names it.
    namespace: str | None = None
    #: The rules of others that went to reach this state, as the backend that took them out puts them back.
    retired: str = ""

    def __str__(self) -> str:
        return inert(f"{self.action} number {self.number}, of {self.time} by {self.user}")

    @property
    def state(self) -> str:
        """What it is to return to, in words."""
        return f"state {self.number}, of {self.time}" if self.number else "the state before the first apply"

    @property
    def intent(self) -> Intent:
        """What was applied."""
        return loads(self.text, f"history {self.number}")


def digest_of(text: str) -> str:
    """What names an intent, given as `dump` writes it: equal for files that say the same in other words."""
    return sha256(text.encode()).hexdigest()


def entries(host: Host, owner: str) -> tuple[HistoryEntry, ...]:
    """Return the states of an owner in this network namespace, oldest first. What is damaged is left out."""
    numbers = _numbers(host, owner)
    return tuple([entry for number in numbers if (entry := _read(host, owner, number))])


def owners(host: Host) -> tuple[str, ...]:
    """Return the owners that states are on record of."""
    pairs = (name.partition(".") for name in host.saved_names())
    return tuple(dict.fromkeys(owner for owner, _, rest in pairs if rest.isascii() and rest.isdecimal()))


def last_of(host: Host, owner: str) -> HistoryEntry | None:
    """Return the state that was reached last; None if none is on record, or its record is damaged."""
    numbers = _numbers(host, owner)
    return _read(host, owner, numbers[-1]) if numbers else None


def latest(host: Host, owner: str) -> int | None:
    """Return the number of the state that was reached last, readable or not; None where there is none."""
    return max(_numbers(host, owner), default=None)


def restorable(host: Host, owner: str) -> HistoryEntry:
    """Return the state before the last apply; raises `ApplyFailed` where none is on record."""
    last = last_of(host, owner)
    if last is None:
        raise ApplyFailed(f'nothing to roll back to: the history of owner "{owner}" is empty')
    target = before(host, last)
    if target is None:
        raise ApplyFailed(
            f"nothing to roll back to: what was there before number {last.number} is not on record",
            hint="lbctl history lists what is",
        )
    return target


def before(host: Host, entry: HistoryEntry) -> HistoryEntry | None:
    """Return the state that was there before another one; None where it is not on record."""
    owner = entry.intent.owner
    if entry.parent == 0:
        return nothing(entry, owner)
    return None if entry.parent is None else _read(host, owner, entry.parent)


def nothing(entry: HistoryEntry, owner: str) -> HistoryEntry:
    """Return the state without rules, in the place where another one has its own."""
    text = dump(Intent(owner=owner))
    return replace(entry, number=0, parent=None, services=0, text=text, digest=digest_of(text), retired="")


def knows(host: Host, plan: Plan) -> bool:
    """Return True if the last state of the history is what a plan leads to, or where nobody can say."""
    try:
        return upcoming(host, plan) is None
    except PermissionDenied:
        return True


def upcoming(
    host: Host,
    plan: Plan,
    back_to: HistoryEntry | None = None,
    *,
    moved: str | None = None,
    allow_remap: bool = False,
) -> HistoryEntry | None:
    """Return the state that a plan leads to; None where it is the last one already.

    Applying an intent again, be it after a restart of the host, is a repair and no state of its own. What
    came in for rules of another place is one; `moved` then is the new state's `retired`.
    """
    if plan.intent is None:
        return None
    text = dump(plan.intent)
    last = last_of(host, plan.intent.owner)
    if moved is None and last is not None and (last.digest, last.backend) == (digest_of(text), plan.backend):
        return None
    if back_to is not None:
        parent = back_to.parent
    elif last is not None:
        parent = last.number
    else:
        parent = None if plan.before else 0
    action = "migrate" if moved is not None else "apply" if plan.intent.services else "remove"
    return HistoryEntry(
        # Behind all that have one, those too that cannot be read any more.
        number=max(_numbers(host, plan.intent.owner), default=0) + 1,
        time=datetime.fromtimestamp(host.now(), UTC).isoformat(timespec="seconds"),
        user=host.user(),
        action="rollback" if back_to else action,
        backend=plan.backend,
        driver=plan.driver,
        allow_remap=allow_remap,
        parent=parent,
        services=len(plan.intent.services),
        digest=digest_of(text),
        text=text,
        retired=back_to.retired if back_to else moved or "",
        namespace=host.namespace(),
    )


def repaired(host: Host, plan: Plan, *, allow_remap: bool) -> HistoryEntry | None:
    """Return the last state once more, as a plan brings it about that the kernel no longer holds it."""
    last = last_of(host, plan.after.owner) if plan.intent is not None else None
    return last and replace(
        last,
        driver=plan.driver,
        allow_remap=allow_remap,
        namespace=host.namespace(),
    )


def begin(host: Host, owner: str, entry: HistoryEntry) -> None:
    """Write down what is about to be brought about; raises `ApplyFailed` where it cannot be."""
    try:
        host.save(_pending(owner), to_text(entry))
    except ApplyFailed as error:
        raise ApplyFailed(
            f"nothing was changed, since it could not be recorded first: {error.message}",
            hint="make room there, or have LBCTL_STATE_DIR name a directory that can be written",
        ) from error


def add(host: Host, owner: str, entry: HistoryEntry) -> None:
    """Have the history know a state that the kernel holds already; raises `ApplyFailed`."""
    begin(host, owner, entry)
    settle(host, owner, entry)


def settle(host: Host, owner: str, entry: HistoryEntry) -> None:
    """Add what is pending to the history, now that the kernel holds it; raises `ApplyFailed`."""
    host.rename(_pending(owner), _name(owner, entry.number))
    for number in _numbers(host, owner):
        if number <= entry.number - KEPT:
            host.save(_name(owner, number), None)


def drop(host: Host, owner: str) -> None:
    """Have nothing be pending, now that the kernel holds nothing of it; raises `ApplyFailed`."""
    host.save(_pending(owner), None)


def pending(host: Host, owner: str) -> HistoryEntry | None:
    """Return what somebody is about to bring about, or was interrupted in; None for nothing."""
    return _believed(host.saved(_pending(owner)))


def ensure_settled(host: Host, owner: str) -> None:
    """Raise `Stale` where something is pending; called by who holds the lock, before another change."""
    found = pending(host, owner)
    if found is not None:
        raise Stale(
            f"{found.action} number {found.number} of owner {owner} was interrupted",
            hint="the next lbctl apply, rollback or remove first completes or reverts it",
        )


def to_text(entry: HistoryEntry) -> str:
    """Return a state as a text: a line of JSON, then its intent."""
    head = {"format_version": VERSION}
    head |= {field: getattr(entry, field) for field in HistoryEntry.__slots__ if field != "text"}
    return f"{json.dumps(head)}\n{entry.text}"


def from_text(text: str, *, first: int = 1) -> HistoryEntry:
    """Return the state in a text, with a number of at least `first`; raises `Damaged`."""
    head, _, body = text.partition("\n")
    fields = read_record(head, _SHAPE)
    if fields.pop("format_version") != VERSION:
        raise Damaged("format_version: of another lbctl")
    if fields["number"] < first or (fields["parent"] or 0) < 0:
        raise Damaged("number: not one that a state can have")
    if fields["digest"] != digest_of(body):
        raise Damaged("digest: not that of the intent")
    if fields["retired"]:
        read_retired(fields["retired"])
    return HistoryEntry(**fields, text=body)


def read_retired(text: str) -> tuple[str, str]:
    """Return the store and the backend's record of an `HistoryEntry.retired`; raises `Damaged`."""
    found = read_record(text, {"store": str, "record": str}, "the record of rules that were taken out")
    return found["store"], found["record"]


def damaged(host: Host, owner: str) -> tuple[str, ...]:
    """Return what is wrong with the records of states of an owner that cannot be read, one line each."""
    return _faults(host, [_name(owner, number) for number in _numbers(host, owner)])


def damaged_pending(host: Host, owner: str) -> tuple[str, ...]:
    """As `damaged`, of the change that is pending."""
    return _faults(host, [_pending(owner)])


def _faults(host: Host, names: Iterable[str]) -> tuple[str, ...]:
    lines = []
    for name in names:
        try:
            text = host.saved(name)
            if text is not None:
                from_text(text)
        except Damaged as error:
            lines.append(f"{name} is damaged and is ignored: {error}")
    return tuple(lines)


def _read(host: Host, owner: str, number: int) -> HistoryEntry | None:
    entry = _believed(host.saved(_name(owner, number)))
    return entry if entry is not None and entry.number == number else None


def _believed(text: str | None) -> HistoryEntry | None:
    try:
        return None if text is None else from_text(text)
    except Damaged:
        return None


def _numbers(host: Host, owner: str) -> list[int]:
    found = (name.removeprefix(f"{owner}.") for name in host.saved_names() if name.startswith(f"{owner}."))
    return sorted(int(rest) for rest in found if rest.isascii() and rest.isdecimal())


def _name(owner: str, number: int) -> str:
    return f"{owner}.{number:06}"


def _pending(owner: str) -> str:
    return f"{owner}.pending"
