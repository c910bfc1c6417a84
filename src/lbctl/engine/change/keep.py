"""What runs on for a long time does to the kernel: keep what was applied last, as the facts now have it.

There is one step, `Keeper.keep`: the last state of the history, joined with the facts on record, planned and
carried out like any other plan, under the owner's lock. It makes no state of its own in the history, since
what the user wants has not changed.
"""

from __future__ import annotations

from dataclasses import field
from typing import TYPE_CHECKING

from lbctl.engine.change.apply import perform
from lbctl.engine.change.plan import plan
from lbctl.engine.record import history, overrides
from lbctl.errors import Damaged, Stale
from lbctl.model import Facts, diff
from lbctl.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from lbctl.engine.change.session import Session
    from lbctl.engine.record.history import HistoryEntry
    from lbctl.host import Host
    from lbctl.model import Intent, Override, Place, Plan, Program

#: In place of the kernel's mark: no mark of its is equal to it.
_UNSURE = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FollowedState:
    """The state that is kept: the last one of the history, and a session that can keep it."""

    entry: HistoryEntry
    intent: Intent
    session: Session


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What one step did.

    `seconds` is what it took, `facts` what was known of endpoints beside the intent. `repaired` is True
    where the kernel had changed while nothing that we follow
    had. None for `plan`, and nothing was done, where the history has no state to keep.
    """

    followed: FollowedState | None = None
    plan: Plan | None = None
    facts: Facts = field(default_factory=Facts)
    repaired: bool = False
    notes: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def changed(self) -> bool:
        """True if the kernel was changed."""
        return self.plan is not None and self.plan.changed


class Keeper:
    """Keeps one owner's rules as they were last applied."""

    def __init__(self, host: Host, owner: str, open_session: Callable[[], Session]) -> None:
        self._host = host
        self._owner = owner
        self._open_session = open_session
        self._followed: FollowedState | None = None
        #: The number of the state and the overrides that the last step was made from, and what it led to.
        self._cause: tuple[int, Mapping[Place, Override]] | None = None
        self._left: Program | None = None
        self._generation: str | None = None

    def followed(self) -> FollowedState | None:
        """Return the last state of the history; None where there is none.

        Raises `Damaged` for one that cannot be read, and `NoBackend` where nothing reaches its store.
        """
        number = history.latest(self._host, self._owner)
        if number is None:
            self._followed = None
        elif self._followed is None or self._followed.entry.number != number:
            entry = history.last_of(self._host, self._owner)
            if entry is None:
                raise Damaged(
                    f"the record of state {number} cannot be read", hint="lbctl history shows what is wrong"
                )
            self._followed = FollowedState(
                entry=entry, intent=entry.intent, session=self._open_session().like(entry)
            )
        return self._followed

    def latest(self) -> int | None:
        """Return the number of the last state of the history; None where there is none."""
        return history.latest(self._host, self._owner)

    def records(self) -> tuple[int | None, str | None]:
        """Return what changes whenever a command changed what is to be kept; cheap."""
        return self.latest(), overrides.raw(self._host, self._owner)

    def is_untouched(self) -> bool | None:
        """Return whether the kernel's own mark says that no rule changed since the last step; cheap.

        None where the kernel has no such mark.
        """
        if self._followed is None or self._generation is None:
            return None
        session = self._followed.session
        return session.backend.generation(session.host, session.driver) == self._generation

    def keep(self, *, patience: float = 0.0) -> Kept:
        """Have the kernel hold the last state of the history, as the facts on record have it.

        Raises as `lbctl.engine.apply` and `followed` do.
        """
        with self._host.lock(self._owner, patience=patience):
            history.ensure_settled(self._host, self._owner)
            followed = self.followed()
            if followed is None:
                return Kept()
            try:
                return self._keep(followed)
            except Stale:
                # Another program changed rules meanwhile: all of them are planned for.
                return self._keep(followed)

    def _keep(self, followed: FollowedState) -> Kept:
        session, began = followed.session, self._host.clock()
        mark = session.backend.generation(session.host, session.driver)
        made = plan(session, followed.intent)
        facts = session.facts(self._owner)
        cause = (followed.entry.number, facts.overrides)
        # What checks find changes nothing in the kernel but by this step, and by commands that do as it does.
        known = self._generation is not None and made.before.generation == self._generation
        untouched = not made.changed or known or self._left is None or not diff(made.before, self._left)
        repaired = self._cause == cause and not untouched
        left, self._left = self._left, None  # should the next line fail, what it leads to is no repair
        try:
            notes = perform(session, made)
        except Stale:
            self._left = left
            raise
        self._cause, self._left = cause, made.after
        if made.changed and mark is not None:
            # Rules that were read without a mark may have been changed before they were written.
            unsure = made.before.generation is None
            mark = _UNSURE if unsure else session.backend.generation(session.host, session.driver)
        self._generation = mark
        return Kept(
            followed=followed,
            plan=made,
            facts=facts,
            repaired=repaired,
            notes=(*made.notes, *notes),
            seconds=self._host.clock() - began,
        )
