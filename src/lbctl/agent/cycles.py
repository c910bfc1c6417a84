"""Frees values that refer to each other: what no count of references ever frees.

The program lbctl switches Python's own search off: a command is over before it pays. An agent lives for
months, and most of its values are those of a large intent, which that search would look at time and again,
for seconds. So what an intent is made of is put aside while it is followed, and the rest is searched at
times.
"""

from __future__ import annotations

import asyncio
import gc
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lbctl.engine.change.keep import Kept
    from lbctl.model import Intent

#: Seconds between two searches.
_PAUSE = 60.0


class Cycles:
    """Frees cycles of values, in the loop's thread."""

    def __init__(self) -> None:
        self._intent: Intent | None = None

    def follow(self, kept: Kept) -> None:
        """Put aside all that there is, once per intent that is followed: it stays as long as that does."""
        intent = kept.followed.intent if kept.followed is not None else None
        if intent is not self._intent:
            self._intent = intent
            gc.freeze()

    async def run(self) -> None:
        """Search from time to time; ends only when it is cancelled."""
        while True:
            await asyncio.sleep(_PAUSE)
            gc.collect()
