"""What a plan changes besides shares, in words: `allow  everyone → 10.0.0.0/8`, one row each; UDP flows."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from lbctl.model import KeyChange, StaleFlow, Value

#: What a key means that is not given; "none" for others.
_MISSING = {
    "allow": "everyone",
    "interfaces": "every interface",
    "seed": "from the name",
}
#: So many entries of a list are written out; of longer ones, those that differ.
_SHORT = 4


def change_rows(changes: Iterable[KeyChange]) -> list[tuple[str, str, str, str]]:
    """Return one row for each change, with an arrow between both values; endpoints may share one."""
    from lbctl.engine.inspect.grouping import folded

    endpoints: dict[tuple[str, Value, Value], list[str]] = {}
    for change in changes:
        whose = endpoints.setdefault((change.key, change.before, change.after), [])
        if change.endpoint is not None:
            whose.append(change.endpoint)
    rows = []
    for (key, old, new), whose in endpoints.items():
        before, after = _sides(key, old, new)
        rows.append((f"{key} of {folded(whose)}" if whose else key, before, "→", after))
    return rows


def flow_lines(flows: Iterable[StaleFlow]) -> Iterator[str]:
    """Yield sentences about UDP flows that end with a change."""
    from lbctl.engine.inspect.grouping import folded

    unbalanced: dict[str, None] = {}
    ends: dict[str, dict[str, None]] = {}
    for flow in flows:
        if flow.to is None:
            unbalanced[str(flow.listener)] = None
        else:
            ends.setdefault(str(flow.listener), {})[flow.to] = None
    for listener, endpoints in list(ends.items())[:_SHORT]:
        yield f"UDP clients of {listener} leave {folded(tuple(endpoints))}, even within a flow"
    if (more := len(ends) - _SHORT) > 0:
        yield f"UDP clients of {more} more listeners leave endpoints, even within a flow"
    if unbalanced:
        yield (
            f"UDP clients of {folded(tuple(unbalanced))} that this host itself answers now are placed anew"
        )


def _sides(key: str, before: Value, after: Value) -> tuple[str, str]:
    if isinstance(before, tuple) and isinstance(after, tuple) and max(len(before), len(after)) > _SHORT:
        gone = [each for each in before if each not in after]
        added = [each for each in after if each not in before]
        if gone or added:
            return _part(before, gone, "removed"), _part(after, added, "added")
    return _word(key, before), _word(key, after)


def _part(whole: tuple[str, ...], part: list[str], what: str) -> str:
    return f"{len(whole)} ({_few(part)} {what})" if part else str(len(whole))


def _word(key: str, value: Value) -> str:
    if value is None:
        return _MISSING.get(key, "none")
    if isinstance(value, bool):
        return str(value).lower()
    return _few(value) if isinstance(value, tuple) else str(value)


def _few(texts: Iterable[str]) -> str:
    from lbctl.engine.inspect.grouping import folded

    return folded(tuple(texts))
