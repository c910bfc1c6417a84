"""What a plan changes besides shares, in words: `allow  everyone → 10.0.0.0/8`, one row each; flows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbctl.model import Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from lbctl.model import KeyChange, Listener, StaleFlow, Value

#: What a key means that is not given; "none" for others.
_MISSING = {
    "allow": "everyone",
    "interfaces": "every interface",
    "seed": "from the name",
}
#: What ends with a change, and what that means: TCP connections are cut (`on-down`), datagrams go elsewhere.
_FLOWS = {
    True: ("Established connections", "are cut."),
    False: ("Existing UDP flows", "end: their next packets follow the new rules."),
}
#: So many entries of a list are written out; of longer ones, those that differ.
_SHORT = 4


def change_rows(changes: Iterable[KeyChange]) -> list[tuple[str, str, str, str]]:
    """Return one row for each change, with an arrow between both values; endpoints may share one."""
    return [(key, *_arrow(_sides(name, old, new))) for key, name, old, new in _rows(changes)]


def setting_rows(settings: Iterable[KeyChange]) -> list[tuple[str, str]]:
    """Return the key and the value of each setting of a new service; endpoints may share one."""
    return [(key, _word(name, new)) for key, name, _, new in _rows(settings)]


def _rows(changes: Iterable[KeyChange]) -> Iterator[tuple[str, str, Value, Value]]:
    """Yield each key as it is shown, as it is named in the file, and its values on both sides."""
    from lbctl.engine.inspect.grouping import folded

    endpoints: dict[tuple[str, Value, Value], list[str]] = {}
    for change in changes:
        whose = endpoints.setdefault((change.key, change.before, change.after), [])
        if change.endpoint is not None:
            whose.append(change.endpoint)
    for (key, old, new), whose in endpoints.items():
        yield f"{key} of {folded(whose)}" if whose else key, key, old, new


def _arrow(sides: tuple[str, str]) -> tuple[str, str, str]:
    return sides[0], "→", sides[1]


def flow_lines(flows: Iterable[StaleFlow]) -> Iterator[str]:
    """Yield sentences about flows that the kernel forgets with a change."""
    from lbctl.engine.inspect.grouping import folded

    unbalanced: dict[str, None] = {}
    ends: dict[Listener, dict[str, None]] = {}
    for flow in flows:
        if flow.to is None:
            unbalanced[str(flow.listener)] = None
        else:
            ends.setdefault(flow.listener, {})[flow.to] = None
    for listener, endpoints in list(ends.items())[:_SHORT]:
        what, then = _FLOWS[listener.protocol is Protocol.TCP]
        yield f"{what} through {listener} to {folded(tuple(endpoints))} {then}"
    if (more := len(ends) - _SHORT) > 0:
        yield f"The same holds for flows through {more} more listeners."
    if unbalanced:
        yield (
            f"Existing UDP flows to {folded(tuple(unbalanced))}, which this host has answered itself so far, "
            "are balanced from their next packet on."
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
