"""The work that following the rules of one text may take; adversarial input is refused, not followed."""

from __future__ import annotations

import gc
from contextlib import contextmanager
from typing import TYPE_CHECKING

from lbctl.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Steps for each rule of a text, and at least.
_WORK, _LEAST_WORK = 200, 300_000


class BudgetExceeded(Exception):
    """Rules whose paths are too many to follow."""


@dataclass(slots=True)
class Budget:
    """Work that is left."""

    left: int = _LEAST_WORK

    @classmethod
    def of(cls, rules: int, *, work: int = _WORK, least: int = _LEAST_WORK) -> Budget:
        """Enough for any text of so many rules that is not made to take long."""
        return cls(max(least, work * rules))

    def spend(self, amount: int = 1) -> None:
        """Raise `BudgetExceeded` where nothing is left."""
        self.left -= amount
        if self.left < 0:
            raise BudgetExceeded


@contextmanager
def uncollected() -> Iterator[None]:
    """Leave Python's cyclic garbage collector out while rules are analysed.

    They make many values that live to the end and no cycles: CPython 3.11 spends up to half of the time of a
    large text on looking for some.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
