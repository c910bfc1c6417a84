"""The metrics as a table: a part of docs/reference.md, from what the agent gives out."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from lbctl.agent import metrics
from support.agent import status_document


def table() -> str:
    """Return the table."""
    document = status_document()
    document["agent"]["sources"] = [
        {"service": "web", "kind": "dns", "name": "x", "endpoints": 2, "age": 1.0, "error": None}
    ]
    lines = ["| metric | type | labels | meaning |", "|---|---|---|---|"]
    for family in text_string_to_metric_families(metrics.exposition(document).decode()):
        samples = [each for each in family.samples if not each.name.endswith("_created")]
        name = samples[0].name if samples else family.name
        labels = ", ".join(f"`{label}`" for label in (samples[0].labels if samples else ()))
        lines.append(f"| `{name}` | {family.type} | {labels} | {family.documentation} |")
    return "\n".join(lines)
