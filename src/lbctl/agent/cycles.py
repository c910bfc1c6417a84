"""Frees cycles: values that refer to each other, which no reference count ever frees.

The program lbctl disables Python's collector: a command ends before it pays. An agent lives for months, and
most of its values belong to a large intent, which each full collection would traverse for seconds. So all
values are frozen once an intent is followed, and what came later is collected once a minute. The first checks
of all endpoints make values that last as long, so that these are frozen too, at the next collections.
"""

from __future__ import annotations

import asyncio
import gc
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lbctl.engine.change.keep import Kept
    from lbctl.model import Intent

#: Seconds between two collections.
_PAUSE = 60.0
#: Collections after an intent that freeze what they leave: the first checks are spread over up to a minute.
_SETTLING = 2


class Cycles:
    """Frees cycles of values, in the loop's thread."""

    def __init__(self) -> None:
        self._intent: Intent | None = None
        self._settling = _SETTLING

    def follow(self, kept: Kept) -> None:
        """Freeze all values once for each intent that is followed: nearly all last as long as it does."""
        intent = kept.followed.intent if kept.followed is not None else None
        if intent is not self._intent:
            self._intent = intent
            self._settling = _SETTLING
            gc.freeze()

    async def run(self) -> None:
        """Collect once a minute; ends only when it is cancelled."""
        while True:
            await asyncio.sleep(_PAUSE)
            gc.collect()
            if self._settling:
                self._settling -= 1
                gc.freeze()
