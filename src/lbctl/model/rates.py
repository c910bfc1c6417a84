"""New connections per second, from counters that are looked at time and again."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

#: What is counted: an endpoint, or a row of a table.
K = TypeVar("K")


class Rates(Generic[K]):
    """The rates of the last looks, at most `most` of them."""

    def __init__(self, most: int) -> None:
        self._clock: float | None = None
        self._counts: Mapping[K, int] = {}
        self._looks: deque[Mapping[K, float]] = deque(maxlen=most)
        #: Seconds between the last two looks; 0 before the second one.
        self.interval = 0.0

    def note(self, clock: float, counts: Mapping[K, int]) -> None:
        """Note what was counted at a time in seconds."""
        if self._clock is not None and clock > self._clock:
            self.interval, before = clock - self._clock, self._counts
            # Counters begin anew if the rules were lost.
            self._looks.append(
                {key: max(0, n - before.get(key, n)) / self.interval for key, n in counts.items()}
            )
        self._clock, self._counts = clock, counts

    def of(self, key: K) -> list[float]:
        """Return the rates of a key, oldest first, 0 where it was not there; none before the second look."""
        return [look.get(key, 0.0) for look in self._looks]

    def __iter__(self) -> Iterator[K]:
        """Yield what the last look counted."""
        return iter(self._counts)
