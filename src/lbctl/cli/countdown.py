"""The wait for the end of a trial: on a terminal, a line counts down and Enter keeps the change."""

from __future__ import annotations

import os
import select
import sys
from math import ceil
from typing import TYPE_CHECKING

from lbctl.errors import Reverted

if TYPE_CHECKING:
    from lbctl.engine import Session, Trial

#: Seconds to wait for another lbctl when Enter confirms.
_PATIENCE = 5.0
_KEEPS = frozenset({"", "y", "yes"})


def await_end(session: Session, tried: Trial, done: str, seconds: float) -> Trial:
    """Report what was `done` on trial for so many seconds, and return the trial once it is over.

    On a terminal, Enter confirms it. Ctrl-C raises `KeyboardInterrupt` with what that means: it goes on.
    """
    from lbctl import engine
    from lbctl.cli.output import say

    line = _Countdown() if _draws() else None
    keyboard = _Keyboard()

    def look(left: float) -> None:
        if line is not None:
            line.draw(left, asks=keyboard.open)
        if keyboard.keeps():
            _confirm(session, tried)

    keep = f"{'press Enter or ' if keyboard.open else ''}run `lbctl confirm`"
    try:
        say(f"{done} on trial; reverting in {seconds:g} s unless you {keep}.")
        return engine.await_end(session, tried, look)
    except KeyboardInterrupt:
        left = ceil(tried.left(session.host))
        raise KeyboardInterrupt(
            f"the trial continues for {left} s: lbctl confirm keeps the change, lbctl rollback reverts it now"
        ) from None
    finally:
        if line is not None:
            line.clear()


def _draws() -> bool:
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


def _confirm(session: Session, tried: Trial) -> None:
    from lbctl import engine
    from lbctl.cli.work import write_promised

    try:
        confirmed = engine.confirm(session.host, tried.owner, patience=_PATIENCE)
    except Reverted:
        return  # too late: how it ended is reported behind this
    write_promised(session.host, confirmed)


class _Countdown:
    """One line of stderr that is written anew every second."""

    def __init__(self) -> None:
        self._shown = ""

    def draw(self, seconds: float, *, asks: bool) -> None:
        """Show how many seconds are left, and the keys that end the wait."""
        keys = "Enter keeps the change, " if asks else ""
        text = f"Reverting in {ceil(seconds)} s; {keys}Ctrl-C leaves the trial running."
        if text != self._shown:
            self._shown = text
            print(f"\r{text}\x1b[K", end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Remove the line."""
        if self._shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


class _Keyboard:
    """Lines from the terminal that lbctl runs on, if it is in the foreground there."""

    def __init__(self) -> None:
        self._handle = _terminal()
        if self._handle is not None:
            import termios

            # What was typed before the trial began is no answer to it.
            termios.tcflush(self._handle, termios.TCIFLUSH)

    @property
    def open(self) -> bool:
        """True while lines can come."""
        return self._handle is not None

    def keeps(self) -> bool:
        """Return True if the user has pressed Enter, or typed yes. Does not wait."""
        if self._handle is None or os.tcgetpgrp(self._handle) != os.getpgrp():
            return False
        if not select.select([self._handle], [], [], 0)[0]:
            return False
        typed = os.read(self._handle, 1024)
        if not typed:
            self._handle = None  # the terminal is gone, or ended by Ctrl-D
            return False
        return typed.decode(errors="replace").strip().lower() in _KEEPS


def _terminal() -> int | None:
    """The handle of standard input if it is the terminal that controls this process."""
    try:
        handle = sys.stdin.fileno()
        os.tcgetpgrp(handle)
    except (AttributeError, OSError, ValueError):
        return None
    return handle
