"""The intent files beside the agent: applied where nothing is applied yet, then looked at for changes.

The agent follows what was applied last, and not the files. One that differs is shown, and applied on a
reload, or by itself with --follow-file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbctl import engine
from lbctl.agent.journal import Priority
from lbctl.config import load_merged
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
        paths: tuple[Path, ...],
        keeper: Keeper,
        open_session: Callable[[], Session],
        *,
        journal: Journal,
        figures: Figures,
        follower: Follower,
        follows: bool,
    ) -> None:
        self._owner, self._paths, self._keeper, self._open_session = owner, paths, keeper, open_session
        self._journal, self._figures, self._follower, self._follows = journal, figures, follower, follows
        #: What the files were like at the last look, and whether they were compared since the start.
        self._seen: object = None
        self._compared = False

    def __str__(self) -> str:
        return ", ".join(map(str, self._paths))

    def apply_first(self) -> None:
        """With nothing applied yet, apply the files; raises as `lbctl.engine.apply`."""
        self._seen = self._state()
        try:
            first = self._keeper.followed() is None
        except Damaged:
            return  # shown by the first step, and nothing is changed until it can be read
        if first and self._paths:
            self._apply(load_merged(self._paths))

    def look(self) -> object:
        """Notice files that changed; return what tells one state of them from another."""
        state = self._state()
        changed = state != self._seen
        if changed or not self._compared:
            self._seen, self._compared = state, True
            # What changed while no agent ran is shown: it may have been removed since.
            self.compare(apply=self._follows and changed)
        return state

    def compare(self, *, apply: bool) -> None:
        """Read the files; where they differ from what was applied last, apply them or show it."""
        if not self._paths:
            return
        try:
            differs = self._differ(apply=apply)
        except LbctlError as error:
            self._follower.trouble("file", f"the intent file is not applied: {error.message}", Priority.ERROR)
            return
        text = f"{self} differs from what was applied last; it is not applied: lbctl plan shows how"
        self._figures.notice = text if differs else None
        self._follower.trouble("file", None)
        if differs:
            self._journal.say(text, Priority.NOTICE)

    def _differ(self, *, apply: bool) -> bool:
        """Return True if the files differ from what was applied last, and still do."""
        intent = load_merged(self._paths)
        if intent.owner != self._owner:
            raise IntentError(f'the owner in the file is "{intent.owner}" now', hint="restart the agent")
        followed = self._keeper.followed()
        differs = followed is None or followed.intent != intent
        if differs and apply:
            self._apply(intent)
        return differs and not apply

    def _apply(self, intent: Intent) -> None:
        session = self._open_session()
        made = engine.plan(session, intent)
        for note in (*made.notes, *engine.apply(session, (made,), record=True)):
            self._journal.say(note)
        self._journal.say(f"Applied: {self}" if made.changed else f"In sync: {self}", Priority.NOTICE)

    def _state(self) -> object:
        """Return what changes when a file does."""
        found: list[tuple[int, int, int] | None] = []
        for path in self._paths:
            try:
                one = path.stat()
                found.append((one.st_mtime_ns, one.st_ino, one.st_size))
            except OSError:
                found.append(None)
        return tuple(found)
