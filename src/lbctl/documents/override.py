"""What several documents report of the decisions of operators about endpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from typing_extensions import TypedDict

if TYPE_CHECKING:
    from lbctl.model import Effective, Override


class OverrideDocument(TypedDict):
    """What an operator decided about an endpoint by command, apart from the intent file.

    `weight` is null if only the file sets it; `since` is in UTC; `unused` is true if the intent does not have
    the endpoint.
    """

    service: str
    endpoint: str
    drained: bool
    weight: int | None
    who: str
    since: str
    why: str
    unused: bool


def overrides(effective: Effective | None) -> list[OverrideDocument]:
    """Return the documents of all overrides that were joined with an intent."""
    if effective is None:
        return []
    used = [override(each) for each in effective.overrides]
    return used + [override(each, unused=True) for each in effective.unused]


def override(of: Override, *, unused: bool = False) -> OverrideDocument:
    """Return the document of one override."""
    return OverrideDocument(
        service=of.service,
        endpoint=of.endpoint,
        drained=of.drained,
        weight=of.weight,
        who=of.who,
        since=of.time,
        why=of.why,
        unused=unused,
    )
