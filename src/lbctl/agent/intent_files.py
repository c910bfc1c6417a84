"""The intent files beside the agent: applied where nothing is applied yet, then looked at for changes.

The agent follows what was applied last, and not the files. One that differs is shown, and applied on a
reload, or by itself with --follow-file. Files with a [follow] table have no services: what they say of a
published intent counts from the start or the reload on.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from lbctl import engine
from lbctl.agent.fleet.local import load_local
from lbctl.agent.journal import Priority
from lbctl.errors import Damaged, IntentError, LbctlError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from lbctl.agent.journal import Journal
    from lbctl.agent.loop import Figures, Follower
    from lbctl.engine import Session
    from lbctl.engine.change.keep import Keeper
    from lbctl.model import Intent


class IntentFiles:
    """The intent files of one owner; () for none. All methods are for the thread that works on files."""

    def __init__(
        self,
        owner: str,
        find: Callable[[], tuple[Path, ...]],
        keeper: Keeper,
        open_session: Callable[[], Session],
        *,
        journal: Journal,
        figures: Figures,
        follower: Follower,
        follows: bool,
        published: str | None = None,
    ) -> None:
        self._owner, self._find, self._keeper, self._open_session = owner, find, keeper, open_session
        self._paths: tuple[Path, ...] = ()
        self._journal, self._figures, self._follower, self._follows = journal, figures, follower, follows
        #: What the files were like at the last look, and whether they were compared since the start.
        self._seen: object = None
        #: The name of the published intent that is followed instead of the one in the files.
        self._published = published
        #: The files that name a published intent, as they are followed; None for other ones.
        self.local: Intent | None = None
        #: Called in this thread with files that name another intent to follow, or none any more.
        self.chosen: Callable[[Intent], object] = lambda _: None
        #: The number of the state that the files were compared with; -1 before the first time.
        self._compared: int | None = -1

    def __str__(self) -> str:
        return ", ".join(map(str, self._paths))

    def apply_first(self) -> None:
        """With nothing applied yet, apply the files; raises as `lbctl.engine.apply`."""
        self._seen = self._state()
        try:
            first = self._keeper.followed() is None
        except Damaged:
            return  # shown by the first step, and nothing is changed until it can be read
        if not self._paths:
            return
        try:
            intent = load_local(self._paths, self._published)
        except IntentError:
            if first:
                raise
            return  # the first look shows it
        if intent.follow is not None:
            self.local = intent
        elif first:
            self._apply(self._open_session(), intent, str(self))

    def look(self) -> object:
        """Notice files that changed, or differ from what was applied since.

        Returns what tells one state of the files from another.
        """
        state = self._state()
        changed = state != self._seen
        applied = self._keeper.latest()
        if changed or applied != self._compared:
            self._seen, self._compared = state, applied
            # What changed while no agent ran is shown: it may have been removed since.
            self.compare(apply=self._follows and changed)
        return state

    def compare(self, *, apply: bool) -> None:
        """Read the files; where they differ from what was applied last, apply them or show it."""
        self._look_for()
        if not self._paths:
            return
        try:
            differs = self._differ(apply=apply)
        except LbctlError as error:
            text = f"the intent file is not applied: {_first_mistake(error)}; lbctl check shows all"
            self._follower.trouble("file", text, Priority.ERROR)
            return
        text = f"{self} differs from what was applied last; it is not applied: lbctl plan shows how"
        self._figures.notice = text if differs else None
        self._follower.trouble("file", None)
        if differs:
            self._journal.say(text, Priority.NOTICE)

    def _differ(self, *, apply: bool) -> bool:
        """Return True if the files differ from what was applied last, and still do."""
        intent = load_local(self._paths, self._published)
        if intent.owner != self._owner:
            raise IntentError(f'the owner in the file is "{intent.owner}" now', hint="restart the agent")
        if intent.follow is not None:
            differs = intent != self.local
        else:
            followed = self._keeper.followed()
            differs = followed is None or followed.intent != intent
        if differs and apply:
            self._take(intent)
        return differs and not apply

    def _take(self, intent: Intent) -> None:
        """Go on with the files: apply them, or follow the published intent that they name."""
        if intent.follow is None:
            self._apply(self._open_session(), intent, str(self))
        if intent.follow is not None or self.local is not None:
            self.local = intent if intent.follow is not None else None
            self.chosen(intent)

    def carry_out(self, intent: Intent, what: str) -> None:
        """Apply a published intent, in the store that holds the rules; raises as `lbctl.engine.apply`."""
        followed = self._keeper.followed()
        session = None if followed is None else replace(followed.session, allow_remap=True)
        self._apply(session or self._open_session(), intent, what)

    def _apply(self, session: Session, intent: Intent, what: str) -> None:
        made = engine.plan(session, intent)
        for note in (*made.notes, *engine.apply(session, (made,), record=True)):
            self._journal.say(note)
        self._journal.say(f"Applied: {what}" if made.changed else f"In sync: {what}", Priority.NOTICE)

    def _state(self) -> object:
        """Return what changes when a file does, or when there are others."""
        self._look_for()
        found: list[tuple[Path, tuple[int, int, int] | None]] = []
        for path in self._paths:
            try:
                one = path.stat()
                found.append((path, (one.st_mtime_ns, one.st_ino, one.st_size)))
            except OSError:
                found.append((path, None))
        return tuple(found)

    def _look_for(self) -> None:
        """Find the files; where there are none any more, reading those that were there says so."""
        with suppress(IntentError):
            self._paths = self._find() or self._paths


def _first_mistake(error: LbctlError) -> str:
    problems = error.problems if isinstance(error, IntentError) else ()
    return str(problems[0]) if problems else error.message
