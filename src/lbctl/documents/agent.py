"""What the agent tells of itself: a part of `/status`, and all that its page and metrics show."""

from __future__ import annotations

from typing import NotRequired

from typing_extensions import TypedDict

from lbctl.documents.status import AgentSummaryDocument, RulesDocument


class CheckedDocument(TypedDict):
    """What is known of one endpoint in one family.

    `health` is `up`, `down` or `unknown`; `since` is when it became so, ISO 8601 in UTC; `result` is what the
    last check found, `seconds` what it took, `reason` why the endpoint gets what it gets. `expected` is false
    for a family in which no client outside can reach the service, since this host has no such address.
    """

    service: str
    endpoint: str
    family: str
    kind: str
    health: str
    since: str | None
    result: str
    seconds: float | None
    reason: str
    expected: bool


class FillDocument(TypedDict):
    """Entries of a table of the kernel, and how many it can have."""

    used: int
    limit: int


class RateDocument(TypedDict):
    """New connections per second of one endpoint, oldest first, `interval` seconds apart."""

    service: str
    endpoint: str
    interval: float
    values: list[float]


class AgentDocument(AgentSummaryDocument):
    """The agent at one moment, with all that it knows."""

    conntrack: FillDocument | None
    checks: list[CheckedDocument]
    rates: list[RateDocument]


class AgentStatusDocument(RulesDocument):
    """What the agent answers at `/status`: the document of `lbctl status`, and the agent's own part."""

    agent: NotRequired[AgentDocument]
