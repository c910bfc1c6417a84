"""A change on trial: what is known of it, and how it ends.

All that waiting, confirming and reverting processes have in common is one small file, changed only by who
holds the owner's lock. It holds the state to return to in full: the history may be gone by then.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from lbctl.engine import history
from lbctl.errors import ApplyFailed, Reverted

if TYPE_CHECKING:
    from lbctl.engine.history import Entry
    from lbctl.host import Host

#: Seconds after its time within which a trial is reverted; later, nobody is there to do it.
GRACE = 30.0


class State(StrEnum):
    """How far a trial is."""

    RUNNING = "running"
    CONFIRMED = "confirmed"
    REVERTED = "reverted"
    #: To be reverted, but the kernel refused.
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A change that is taken back unless somebody confirms it."""

    #: Tells it from the trials before it.
    ident: str
    state: State
    #: When it is reverted, on `Host.clock`.
    deadline: float
    #: The network namespace and start of the host that the clock and the rules belong to.
    namespace: str | None
    #: The state to return to, and its owner.
    owner: str
    before: Entry
    #: The rules of others that went, as `Entry.retired`.
    retired: str = ""
    #: What the reverter did, in words.
    report: str = ""

    def left(self, host: Host) -> float:
        """The seconds until it is reverted."""
        return max(0.0, self.deadline - host.clock())


def running(host: Host, owner: str) -> Trial | None:
    """The trial of an owner that neither has ended nor was left behind."""
    found = read_trial(host, owner)
    if found is None or found.state is not State.RUNNING or found.namespace != host.namespace():
        return None
    return found if host.clock() < found.deadline + GRACE else None


def confirm(host: Host, owner: str, *, patience: float = 0.0) -> Trial:
    """Keep what is on trial. Raises `ApplyFailed` where nothing is, and `Reverted` where it is too late."""
    with host.lock(owner, patience=patience):
        found = running(host, owner)
        if found is None:
            last = read_trial(host, owner)
            if last is not None and last.state is State.REVERTED:
                raise Reverted(f"too late to confirm: {last.report or 'the trial was reverted'}")
            raise ApplyFailed(f'no trial of owner "{owner}" is running', hint="lbctl apply --trial 60s")
        if not found.left(host):
            raise Reverted("too late to confirm: the time of the trial is over")
        save(host, replace(found, state=State.CONFIRMED))
    return found


def end(host: Host, trial: Trial, state: State, report: str = "") -> None:
    """Note how a trial ended unconfirmed. On a full disk it is forgotten, which says the same."""
    try:
        save(host, replace(trial, state=state, report=report))
    except ApplyFailed:
        host.save(_name(trial.owner), None)


def save(host: Host, trial: Trial) -> None:
    """Write down a trial; raises `ApplyFailed`."""
    fields = ("ident", "state", "deadline", "namespace", "owner", "retired", "report")
    document = {field: getattr(trial, field) for field in fields}
    host.save(_name(trial.owner), json.dumps(document | {"before": history.to_text(trial.before)}) + "\n")


def read_trial(host: Host, owner: str) -> Trial | None:
    """The last trial of an owner in this network namespace; None where there was none."""
    try:
        fields: dict[str, Any] = json.loads(host.saved(_name(owner)) or "")
        state, before = State(fields.pop("state")), history.from_text(fields.pop("before"))
        found = Trial(**fields, state=state, before=before) if before else None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    return found if found is not None and found.owner == owner else None


def forget(host: Host, owner: str) -> None:
    """Have there be no trial: what was to be tried was not done."""
    host.save(_name(owner), None)


def announce(host: Host, owner: str, ident: str) -> None:
    """Say that a trial is watched from now on."""
    host.save(f"{owner}.watched", ident)


def is_watched(host: Host, trial: Trial) -> bool:
    """True once `announce` was called for a trial."""
    return host.saved(f"{trial.owner}.watched") == trial.ident


def _name(owner: str) -> str:
    return f"{owner}.trial"
