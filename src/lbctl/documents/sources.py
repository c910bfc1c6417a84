"""Sources of endpoints in words, as `lbctl status` and the page of the agent show them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lbctl.documents.status import SourceDocument


def source_text(source: SourceDocument) -> str:
    """Return in a line where endpoints come from, what was answered last and when, and if it fails."""
    where = f"source {source['kind']} {source['name']}"
    answer = _answer(source) or "no answer yet"
    return f"{where}: {answer}{', failing' if source['error'] is not None else ''}"


def failure_text(source: SourceDocument) -> str | None:
    """Return in a line what is wrong with a source, and what counts meanwhile; None for nothing."""
    if source["error"] is None:
        return None
    answer = _answer(source)
    kept = "there is no good answer so far" if answer is None else f"the last good answer ({answer}) is kept"
    return f"{source['service']}: source {source['kind']} {source['name']}: {source['error']}; {kept}"


def _answer(source: SourceDocument) -> str | None:
    if source["age"] is None:
        return None
    number, age = source["endpoints"], int(source["age"])
    unit, size = next(((u, n) for u, n in (("h", 3600), ("m", 60)) if age >= n), ("s", 1))
    return f"{number} endpoint{'s'[: number != 1]}, {age // size}{unit} ago"
