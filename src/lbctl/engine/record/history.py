"""What was applied here, by whom and when: one small file a state, its intent in full.

A state knows the one before it (`parent`). Going back makes a new state that has the parent of the one it
returns to, so that going back twice goes back two applies.

The history is written ahead. `begin` writes a state down as pending before the kernel changes, while a full
disk can still stop it, and `settle` gives that very file its number once the kernel holds the state. What is
pending while no process is at work was interrupted: `lbctl.engine.undo.recovery` completes or reverts it.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from enum import StrEnum
from hashlib import sha256
from typing import TYPE_CHECKING

from lbctl.config import dump, loads
from lbctl.errors import ApplyFailed, Damaged, IntentError, PermissionDenied, Stale
from lbctl.model import Intent, KeyChange, inert, intent_changes, read_record, time_of
from lbctl.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from lbctl.host import Host
    from lbctl.model import Network, Plan, Shape, Value

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
    "trial": str | None,
}
#: What the records of lbctl 0.1 lack.
_DEFAULTS = {"trial": None}
#: States that are kept of an owner.
KEPT = 50


class TrialState(StrEnum):
    """How far a trial is."""

    RUNNING = "running"
    CONFIRMED = "confirmed"
    REVERTED = "reverted"
    #: To be reverted, but the kernel refused.
    FAILED = "failed"


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
    #: The foreign rules that were removed to reach this state, as their backend restores them.
    retired: str = ""
    #: How far its trial is, where it was applied on trial. `RUNNING` is what it was when that was written.
    trial: TrialState | None = None

    def __str__(self) -> str:
        return inert(f"{self.action} number {self.number}, of {self.time} by {self.user}")

    @property
    def state(self) -> str:
        """What it is to return to, in words."""
        return f"state {self.number}, of {self.time}" if self.number else "the state before the first apply"

    @property
    def is_start(self) -> bool:
        """True for a rollback to the host before the first apply: there is nothing before it."""
        return self.action == "rollback" and self.parent is None and not self.services

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
    newest = latest(host, owner)
    if newest is None:
        raise ApplyFailed(f'nothing to roll back to: the history of owner "{owner}" is empty')
    last = _read(host, owner, newest)
    target = before(host, last) if last is not None else None
    if target is None:
        others = [entry.number for entry in entries(host, owner) if entry.number != newest]
        raise ApplyFailed(
            f"nothing to roll back to: {_gap(last, newest)}",
            hint=f"lbctl rollback --to {others[-1]} returns to another state that lbctl history lists"
            if others
            else None,
        )
    return target


def _gap(last: HistoryEntry | None, number: int) -> str:
    """Return why nothing is known of the state before the one with the last number."""
    if last is None:
        return f"the record of number {number} is damaged, or of another lbctl"
    if last.is_start:
        return f"number {number} is the host before the first apply"
    return f"the state before number {number} is not on record"


def state(host: Host, owner: str, number: int) -> HistoryEntry:
    """Return the state with a number; 0 is the host without rules of an owner.

    Raises `IntentError` where it is not on record.
    """
    found = _read(host, owner, number)
    last = last_of(host, owner)
    if number == 0 and last is not None:
        found = nothing(last, owner)
    if found is None:
        numbers = _numbers(host, owner)
        kept = f"lbctl history lists numbers {numbers[0]} to {numbers[-1]}" if numbers else None
        raise IntentError(f'number {number} is not in the history of owner "{owner}"', hint=kept)
    return found


def preceding(host: Host, owner: str, entry: HistoryEntry) -> HistoryEntry:
    """Return the state that held until another one did, be it that one's parent or not.

    Raises `ApplyFailed` where it is not on record.
    """
    if entry.parent == 0 and entry.action != "rollback":
        return nothing(entry, owner)
    found = _read(host, owner, entry.number - 1)
    if found is None:
        raise ApplyFailed(f"the state before number {entry.number} is not on record")
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """What a state changed, by the keys of the intent file."""

    before: HistoryEntry
    after: HistoryEntry
    #: What concerns every service: the backend, the mark, the table `agent`.
    changes: tuple[KeyChange, ...]
    #: Service → its keys; only services that differ.
    services: Mapping[str, tuple[KeyChange, ...]]


def _texts(networks: Sequence[Network]) -> Value:
    return tuple(map(str, networks)) or None


def difference(host: Host, owner: str, entry: HistoryEntry) -> Difference:
    """Return what a state changed; raises as `preceding`."""
    before = preceding(host, owner, entry)
    old, new = before.intent, entry.intent
    pairs: list[tuple[str, Value, Value]] = [
        ("mark", old.mark, new.mark),
        ("agent.track-file", old.announce.track_file, new.announce.track_file),
        ("agent.exabgp", old.announce.exabgp, new.announce.exabgp),
        ("agent.exabgp-routes", _texts(old.announce.exabgp_routes), _texts(new.announce.exabgp_routes)),
        ("agent.offload", old.offload or None, new.offload or None),
        ("etcd", _text(old.etcd), _text(new.etcd)),
        ("docker", _text(old.docker), _text(new.docker)),
        ("consul", _text(old.consul), _text(new.consul)),
        ("kubernetes", _text(old.kubernetes), _text(new.kubernetes)),
    ]
    if before.number:
        pairs.append(("backend", before.backend, entry.backend))
    return Difference(
        before=before,
        after=entry,
        changes=tuple(KeyChange(key=key, before=was, after=will) for key, was, will in pairs if was != will),
        services=intent_changes(old, new),
    )


def _text(access: object) -> str | None:
    return None if access is None else str(access)


def line_of(host: Host, owner: str, entry: HistoryEntry) -> tuple[HistoryEntry, ...]:
    """Return a state and those before it, as rolling back step by step finds them and as far as on record."""
    found = [entry]
    while (parent := found[-1].parent) and parent < found[-1].number:
        above = _read(host, owner, parent)
        if above is None:
            break
        found.append(above)
    return tuple(found)


def retired_since(host: Host, owner: str, last: HistoryEntry, target: HistoryEntry) -> str:
    """Return the foreign rules that have to be restored to get from one state to another; "" for none.

    As `HistoryEntry.retired`; the same for the target of a rollback and for the state that this makes.
    Raises `ApplyFailed` where it takes more than one migration.
    """
    here, there = (
        {entry.retired: entry for entry in reversed(line_of(host, owner, state)) if entry.retired}
        for state in (last, target)
    )
    gone = [entry for retired, entry in here.items() if retired not in there]
    missing = [entry for retired, entry in there.items() if retired not in here]
    if missing:
        raise ApplyFailed(
            f"foreign rules were migrated to reach number {target.number}, and are in place again",
            hint="lbctl migrate migrates them",
        )
    if len(gone) > 1:
        raise ApplyFailed(
            f"several migrations of foreign rules lie between now and number {target.number}",
            hint="lbctl rollback without --to goes back step by step",
        )
    return gone[0].retired if gone else ""


def rolled_back(host: Host, intent: Intent) -> HistoryEntry | None:
    """Return the rollback that was the last change, if an intent says otherwise; else None."""
    last = last_of(host, intent.owner)
    if last is None or last.action != "rollback" or last.digest == digest_of(dump(intent)):
        return None
    return last


def before(host: Host, entry: HistoryEntry) -> HistoryEntry | None:
    """Return the state that was there before another one; None where it is not on record."""
    owner = entry.intent.owner
    if entry.parent == 0:
        return nothing(entry, owner)
    return None if entry.parent is None else _read(host, owner, entry.parent)


def nothing(entry: HistoryEntry, owner: str) -> HistoryEntry:
    """Return the state without rules, in the place where another one has its own."""
    text = dump(Intent(owner=owner))
    empty = replace(entry, number=0, parent=None, services=0, text=text, digest=digest_of(text))
    return replace(empty, retired="", trial=None)


def knows(host: Host, plan: Plan) -> bool:
    """Return True if the last state of the history is what a plan leads to, or where that is unknown."""
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
        time=time_of(host.now()),
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
        host.save(pending_of(owner), to_text(entry))
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
    host.rename(pending_of(owner), _name(owner, entry.number))
    for number in _numbers(host, owner):
        if number <= entry.number - KEPT:
            host.save(_name(owner, number), None)


def mark_trial(host: Host, owner: str, state: TrialState) -> None:
    """Note how far the trial of the last state is, or the one that runs; for who looks back, so best effort.

    Called by who holds the lock.
    """
    every = entries(host, owner)
    if state is not TrialState.RUNNING:
        every = tuple(entry for entry in every if entry.trial is TrialState.RUNNING)
    for entry in every[-1:]:
        with suppress(ApplyFailed):
            host.save(_name(owner, entry.number), to_text(replace(entry, trial=state)))


def drop(host: Host, owner: str) -> None:
    """Have nothing be pending, now that the kernel holds nothing of it; raises `ApplyFailed`."""
    host.save(pending_of(owner), None)


def pending(host: Host, owner: str) -> HistoryEntry | None:
    """Return what somebody is about to bring about, or was interrupted in; None for nothing."""
    return _believed(host.saved(pending_of(owner)))


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
    if entry.trial is None:
        # So that lbctl 0.1 can read it.
        del head["trial"]
    return f"{json.dumps(head)}\n{entry.text}"


def from_text(text: str, *, first: int = 1) -> HistoryEntry:
    """Return the state in a text, with a number of at least `first`; raises `Damaged`."""
    head, _, body = text.partition("\n")
    fields = read_record(head, _SHAPE, defaults=_DEFAULTS)
    if fields.pop("format_version") != VERSION:
        raise Damaged("format_version: from another version of lbctl")
    if fields["number"] < first or (fields["parent"] or 0) < 0:
        raise Damaged("number: not one that a state can have")
    if fields["digest"] != digest_of(body):
        raise Damaged("digest: not that of the intent")
    if fields["retired"]:
        read_retired(fields["retired"])
    state = fields.pop("trial")
    if state not in {None, *TrialState}:
        raise Damaged("trial: not a state of one")
    return HistoryEntry(**fields, text=body, trial=state and TrialState(state))


def read_retired(text: str) -> tuple[str, str]:
    """Return the store and the backend's record of an `HistoryEntry.retired`; raises `Damaged`."""
    found = read_record(text, {"store": str, "record": str}, "the record of removed rules")
    return found["store"], found["record"]


def damaged(host: Host, owner: str) -> tuple[str, ...]:
    """Return what is wrong with the records of states of an owner that cannot be read, one line each."""
    return _faults(host, [_name(owner, number) for number in _numbers(host, owner)])


def damaged_pending(host: Host, owner: str) -> tuple[str, ...]:
    """As `damaged`, of the change that is pending."""
    return _faults(host, [pending_of(owner)])


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


def pending_of(owner: str) -> str:
    """Return the name under which what is about to be brought about is saved."""
    return f"{owner}.pending"
