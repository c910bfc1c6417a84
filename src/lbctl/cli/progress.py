"""A bar for work that takes long: on a terminal only, on stderr, and gone when the work is done.

Nothing is drawn within the first second, and nothing imported for it: most work is over by then.
"""

from __future__ import annotations

import os
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PATIENCE = 1.0


@contextmanager
def stages(*titles: str) -> Iterator[Callable[[], None]]:
    """Work in stages with these titles; the function that it gives leads on to the next stage."""
    if not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
        yield lambda: None
        return
    bar = _Bar(titles)
    bar.timer.start()
    try:
        yield bar.advance
    finally:
        bar.close()


class _Bar:
    def __init__(self, titles: tuple[str, ...]) -> None:
        self.timer = threading.Timer(PATIENCE, self._open)
        self.timer.daemon = True
        self._titles = titles
        self._stage = 0
        self._lock = threading.Lock()
        self._closed = False
        self._drawn: Any = None
        self._task: Any = None

    def _open(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with self._lock:
            if self._closed:
                return
            self._drawn = Progress(*columns, console=Console(stderr=True), transient=True)
            self._task = self._drawn.add_task(
                self._titles[self._stage], total=len(self._titles), completed=self._stage
            )
            self._drawn.start()

    def advance(self) -> None:
        with self._lock:
            self._stage = min(self._stage + 1, len(self._titles) - 1)
            if self._drawn is not None:
                self._drawn.update(self._task, description=self._titles[self._stage], completed=self._stage)

    def close(self) -> None:
        self.timer.cancel()
        with self._lock:
            self._closed = True
            if self._drawn is not None:
                self._drawn.stop()
