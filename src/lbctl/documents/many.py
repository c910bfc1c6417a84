"""The document of a command for several hosts: that of each, and how it ended."""

from __future__ import annotations

from typing import Any

from typing_extensions import TypedDict


class HostOutcomeDocument(TypedDict):
    """One host. `exit` is null if it was not begun; `document` is what the command prints for it, if any."""

    host: str
    exit: int | None
    document: dict[str, Any] | None
    messages: list[str]


class ManyHostsDocument(TypedDict):
    """The hosts in the order in which they were named."""

    hosts: list[HostOutcomeDocument]
