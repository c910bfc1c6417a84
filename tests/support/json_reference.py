"""The JSON documents as tables: docs/json.md, from the TypedDicts of `lbctl.documents`."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from importlib import import_module
from textwrap import fill
from typing import Any, Literal, NotRequired, Union, get_args, get_origin

from typing_extensions import is_typeddict

from lbctl.documents import NAMES, document_type

Names = Mapping[str, Any]
#: Columns of prose in a page.
LINE = 110

_HEAD = """# JSON documents

What `--output json` prints, generated from the types in `lbctl.documents`. Each document also has
`format_version`, which is 1; within a version, fields are only added. Shares are strings `"p/q"` in lowest
terms. [The reference](reference.md#json) has the rest.
"""


def page() -> str:
    """Return the page: the tables of all documents, then those of the objects in them."""
    commands: dict[type, list[str]] = {}
    for name in NAMES:
        commands.setdefault(document_type(name), []).append(name)
    inner: dict[type, None] = {}
    parts = [_HEAD]
    for each, names in commands.items():
        parts.append(_table(f"Document {_listed(names)}", each))
        for found in _objects(each):
            inner |= dict.fromkeys([found]) if found not in commands else {}
    parts += [_table(f"Object `{_name(each)}`", each) for each in sorted(inner, key=_name)]
    return "\n".join(parts)


def _table(title: str, each: type) -> str:
    doc = inspect.getdoc(each) or ""
    about = fill(doc, LINE) if not doc.startswith("dict(") and "TypedDict" not in doc else ""
    lines = [f"## {title}", "", *([about, ""] if about else []), "| field | type |", "|---|---|"]
    for field, hint in _hints(each).items():
        optional = field not in each.__required_keys__  # type: ignore[attr-defined]
        lines.append(f"| `{field}`{' (optional)' if optional else ''} | {_spelled(hint)} |")
    return "\n".join([*lines, ""])


def _hints(each: type) -> Names:
    module = import_module(each.__module__)
    return typing.get_type_hints(each, globalns=vars(module))


def _objects(each: type, seen: set[type] | None = None) -> Iterator[type]:
    """All objects in a document, outermost first."""
    seen = set() if seen is None else seen
    for hint in _hints(each).values():
        for found in _typed(hint):
            if found not in seen:
                seen.add(found)
                yield found
                yield from _objects(found, seen)


def _typed(hint: Any) -> Iterator[type]:
    if is_typeddict(hint):
        yield hint
    for inner in get_args(hint):
        yield from _typed(inner)


def _spelled(hint: Any) -> str:
    """A type in words of JSON."""
    origin, inner = get_origin(hint), get_args(hint)
    if is_typeddict(hint):
        names = [name for name in NAMES if document_type(name) is hint]
        anchor = f"document-{'-'.join(names)}" if names else f"object-{_name(hint).lower()}"
        return f"[{_listed(names) if names else _name(hint)}](#{anchor})"
    if origin is NotRequired:
        return _spelled(inner[0])
    if origin in {Union, types.UnionType}:
        return " or ".join(_spelled(each) for each in inner)
    if origin is Literal:
        return ", ".join(f"`{each}`" for each in inner)
    if origin in {list, tuple}:
        return f"list of {_spelled(inner[0])}"
    if origin is dict:
        return f"object: {_spelled(inner[0])} → {_spelled(inner[1])}"
    words = {
        str: "string",
        int: "integer",
        float: "number",
        bool: "boolean",
        types.NoneType: "null",
        Any: "any",
    }
    return words[hint]


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _name(each: type) -> str:
    """`ChangedService` of `ChangedServiceDocument`."""
    return each.__name__.removesuffix("Document")
