"""The decisions of operators about endpoints, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbctl.model import inert

if TYPE_CHECKING:
    from lbctl.model import Effective


def operator_lines(effective: Effective | None) -> list[str]:
    """Return what operators decided about the endpoints of an intent, one line each."""
    if effective is None:
        return []
    lines = [f"Operator: {each.service}/{each.endpoint} {each}" for each in effective.overrides]
    lines += [
        f"Operator: {each.service}/{each.endpoint} {each}; unused: there is no such endpoint"
        for each in effective.unused
    ]
    return [inert(line) for line in lines]
