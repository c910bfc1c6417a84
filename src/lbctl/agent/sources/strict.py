"""JSON from outside, read strictly: what two readers could understand in two ways is no answer.

A key that is given twice, NaN and Infinity are refused, as is what costs more than a source may: the size is
bounded by the caller, the number of values here, and the depth by Python.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any, TypeVar

from lbctl.agent.sources.source import SourceFailed
from lbctl.agent.sources.text import shown

if TYPE_CHECKING:
    from collections.abc import Sequence

T = TypeVar("T")

#: Values of a document: 4096 endpoints as Consul describes them, twice.
_VALUES = 1 << 19
_KINDS = {dict: "an object", list: "a list", str: "a string", int: "a whole number", bool: "true or false"}


def document(data: bytes, what: str = "the answer") -> Any:
    """Return the value of a JSON text; raises `SourceFailed` for any other, named as `what`."""
    if sum(map(data.count, (b",", b"{", b"["))) > _VALUES:
        raise SourceFailed(f"{what} has more than {_VALUES} values")
    try:
        return json.loads(data, object_pairs_hook=_unique, parse_constant=_constant)
    except (ValueError, RecursionError) as error:
        raise SourceFailed(f"{what} is not JSON: {error}") from error


def member(outer: object, key: str, kind: type[T]) -> T:
    """Return a member of an object; raises `SourceFailed` if it is missing or of another kind."""
    found = _object(outer, key).get(key)
    if type(found) is kind:
        return found
    raise SourceFailed(f"`{key}` is {shown(found)}, not {_KINDS.get(kind, kind.__name__)}")


def optional(outer: object, key: str, default: T) -> T:
    """Return a member of an object, of the kind of `default`, which stands for null and a missing one."""
    if _object(outer, key).get(key) is None:
        return default
    return member(outer, key, type(default))


def table(outer: object, key: str) -> dict[str, Any]:
    """Return an object in an object; an empty one for null and a missing one."""
    return optional(outer, key, {})


def rows(outer: object, key: str) -> list[Any]:
    """Return a list in an object; an empty one for null and a missing one."""
    return optional(outer, key, [])


def _object(outer: object, key: str) -> dict[str, object]:
    if isinstance(outer, dict):
        return outer
    raise SourceFailed(f"{shown(outer)} is not an object with `{key}`")


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        counts = Counter(key for key, _ in pairs)
        raise ValueError(f"key {shown(counts.most_common(1)[0][0])} is given twice")
    return found


def _constant(text: str) -> None:
    raise ValueError(f"{text} is not a value of JSON")
