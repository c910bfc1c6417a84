"""What all tables of an intent file have in common."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

#: Defaults are not validated: a key that is left out becomes None, and null in a document is a mistake.
ABSENT: Any = None


class TableModel(BaseModel):
    """A table of the document: keys are written with hyphens, and unknown ones are mistakes."""

    model_config = ConfigDict(
        extra="forbid", strict=True, alias_generator=lambda field: field.strip("_").replace("_", "-")
    )


def whole(pattern: str) -> str:
    """Return a pattern of the JSON Schema that a whole text must match."""
    return f"^(?:{pattern})$"


def no_default(schema: dict[str, Any]) -> None:
    """Take out a default that only stands for "left out" and could not be written in a document."""
    schema.pop("default", None)
