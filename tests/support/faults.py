"""Faults on hosts in memory: the process dies, a write fails, or another process writes first."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from typing import TYPE_CHECKING

from lbctl.host.fake import FakeHost

if TYPE_CHECKING:
    from collections.abc import Iterator


class Killed(BaseException):
    """The process is gone."""


class Effects:
    """Counts what is done to a host: files that are written or renamed, and changes of rules."""

    def __init__(self) -> None:
        self.done = 0
        self._before: dict[int | str, Callable[[], object]] = {}
        self._dead_after: int | None = None

    def spend(self, place: str = "files") -> None:
        """Count one effect, which is about to be done in a store, or to a file."""
        if self.done == self._dead_after:
            raise Killed
        self.done += 1
        for event in (self.done, place):
            self._before.pop(event, lambda: None)()

    def before(self, number: int, happen: Callable[[], object]) -> None:
        """Have something happen before the effect with that number from now on, counted from 1."""
        self._before[self.done + number] = happen

    def before_next(self, place: str, happen: Callable[[], object]) -> None:
        """Have something happen before the next effect in a store."""
        self._before[place] = happen

    def fail(self, number: int, error: Exception) -> None:
        """Have the effect with that number from now on fail."""

        def happen() -> None:
            raise error

        self.before(number, happen)

    @contextmanager
    def at_most(self, effects: int) -> Iterator[None]:
        """Have the process die once it has done so many."""
        self._dead_after = self.done + effects
        try:
            yield
        finally:
            self._dead_after = None

    def survives(self, effects: int, work: Callable[[], object]) -> bool:
        """Have some work die after a number of effects; return True if it needs no more than that."""
        try:
            with self.at_most(effects):
                work()
        except Killed:
            return False
        return True


class MortalHost(FakeHost):
    """A host on which each file that is written or renamed is an effect."""

    def __init__(self, effects: Effects) -> None:
        super().__init__()
        self.effects = effects

    def save(self, name: str, text: str | None) -> None:
        self.effects.spend()
        super().save(name, text)

    def rename(self, name: str, new: str) -> None:
        self.effects.spend()
        super().rename(name, new)
