"""The JSON documents of `--output json`: one module and one type for each, from which its JSON Schema comes.

Within a format version, fields are only added. Shares are strings `"p/q"` in lowest terms.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

FORMAT_VERSION = 1

#: Name of a document, which is that of its command → module and type.
_TYPES: Mapping[str, tuple[str, str]] = {
    "activate": ("change", "OperationDocument"),
    "apply": ("change", "ApplyDocument"),
    "backends": ("backends", "BackendsDocument"),
    "check": ("check", "CheckDocument"),
    "compare": ("comparison", "ComparisonDocument"),
    "confirm": ("change", "ConfirmDocument"),
    "doctor": ("diagnosis", "DiagnosisDocument"),
    "drain": ("change", "OperationDocument"),
    "error": ("error", "ErrorDocument"),
    "explain": ("explanation", "ExplanationDocument"),
    "history": ("history", "HistoryDocument"),
    "hosts": ("fleet", "HostsDocument"),
    "import": ("reading", "ReadingDocument"),
    "many": ("many", "ManyHostsDocument"),
    "migrate": ("migration", "MigrateDocument"),
    "plan": ("change", "PlanDocument"),
    "publish": ("fleet", "PublishDocument"),
    "remove": ("change", "RemoveDocument"),
    "replay": ("replay", "ReplayDocument"),
    "render": ("check", "RenderDocument"),
    "rollback": ("change", "RollbackDocument"),
    "status": ("status", "StatusDocument"),
    "weight": ("change", "OperationDocument"),
}
NAMES = tuple(_TYPES)


def document_type(name: str) -> type:
    """Return the TypedDict of a document; raises `KeyError` for a name that is not in `NAMES`."""
    module, kind = _TYPES[name]
    found: type = getattr(import_module(f"{__name__}.{module}"), kind)
    return found


def schema(name: str) -> dict[str, Any]:
    """Return the JSON Schema of a document; raises `KeyError` for a name that is not in `NAMES`."""
    from pydantic import TypeAdapter

    adapter: TypeAdapter[Any] = TypeAdapter(document_type(name))
    made = adapter.json_schema()
    made["properties"] = {"format_version": {"const": FORMAT_VERSION}, **made["properties"]}
    made["required"] = ["format_version", *made.get("required", ())]
    head = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:lbctl:{name}:{FORMAT_VERSION}",
    }
    return {**head, **made}
