"""A change of shares at a moment: what happens to a service when endpoints fail, return or are drained."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

from lbctl.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from lbctl.model.addresses import Family

_NOTHING = Fraction(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shift:
    """A change of what the endpoints of a service get in a family: `Endpoint.to` → exact share."""

    #: Seconds since 1970 (UTC).
    time: float
    service: str
    family: Family
    before: Mapping[str, Fraction]
    after: Mapping[str, Fraction]
    #: `Endpoint.to` → why it gets what it gets, of those whose share changed.
    reasons: Mapping[str, str]

    def endpoints(self) -> Iterator[tuple[str, Fraction, Fraction]]:
        """Yield each `Endpoint.to` with its share before and after."""
        for to in dict.fromkeys((*self.after, *self.before)):
            yield to, self.before.get(to, _NOTHING), self.after.get(to, _NOTHING)
