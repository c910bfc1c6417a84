"""What `agent --replay` and `history --health` print."""

from __future__ import annotations

from typing import TYPE_CHECKING

from typing_extensions import TypedDict

from lbctl.model import time_of, written

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lbctl.model import Shift


class ShiftEndpointDocument(TypedDict):
    """An endpoint's share before and after; `reason` is null if its share did not change."""

    to: str
    before: str
    after: str
    reason: str | None


class ShiftDocument(TypedDict):
    """A moment, ISO 8601 in UTC, at which the shares of a service changed in one address family."""

    time: str
    service: str
    family: str
    endpoints: list[ShiftEndpointDocument]


class ReplayDocument(TypedDict):
    """The shares that recorded events led to, oldest first."""

    shifts: list[ShiftDocument]


def replay(shifts: Iterable[Shift]) -> ReplayDocument:
    """Return the document of changes."""
    return ReplayDocument(shifts=[_shift(each) for each in shifts])


def _shift(shift: Shift) -> ShiftDocument:
    return ShiftDocument(
        time=time_of(shift.time),
        service=shift.service,
        family=str(shift.family),
        endpoints=[
            ShiftEndpointDocument(
                to=to, before=written(before), after=written(after), reason=shift.reasons.get(to)
            )
            for to, before, after in shift.endpoints()
        ],
    )
