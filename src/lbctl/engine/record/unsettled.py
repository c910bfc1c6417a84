"""What is left of changes whose process is gone: a pending change, a trial, damaged records. Reads only."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbctl.engine.record import history, trial
from lbctl.errors import Stale
from lbctl.values import dataclass

if TYPE_CHECKING:
    from lbctl.engine.record.history import HistoryEntry
    from lbctl.host import Host


def interrupted(host: Host, owner: str) -> HistoryEntry | None:
    """Return what an lbctl that is gone was about to bring about; None for nothing, or while it works."""
    if history.pending(host, owner) is None:
        return None
    try:
        with host.lock(owner):
            return history.pending(host, owner)
    except Stale:
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Unsettled:
    """What processes that are gone left of the changes of an owner."""

    #: The change that was interrupted.
    entry: HistoryEntry | None
    #: The trial that runs, or that was not reverted as it should have been.
    trial: trial.Outlook | None
    #: Records of the pending change or the trial that cannot be read, one line each.
    damaged: tuple[str, ...]

    @property
    def due(self) -> bool:
        """True if `recover` has something to do."""
        abandoned = self.trial is not None and self.trial.standing is trial.Standing.ABANDONED
        return self.entry is not None or abandoned or bool(self.damaged)


def unsettled(host: Host, owner: str) -> Unsettled:
    """Look for what was left behind. Changes nothing."""
    return Unsettled(
        entry=interrupted(host, owner),
        trial=trial.outlook(host, owner),
        damaged=history.damaged_pending(host, owner) + trial.damaged(host, owner),
    )
