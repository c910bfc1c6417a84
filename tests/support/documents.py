"""Each JSON document that a test sees is held against its schema."""

from __future__ import annotations

import json
import sys
from functools import cache
from typing import TYPE_CHECKING, Any

from jsonschema import Draft202012Validator

from lbctl import documents
from lbctl.cli import output

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pytest


#: Module of the command line → document, if it is not the name of the command.
_COMMAND = {name: name for name in documents.NAMES} | {
    "import_": "import",
    "migration": "migrate",
    "operator": "drain",  # as those of activate and weight
    "publication": "publish",
}


@cache
def validator(name: str) -> Draft202012Validator:
    """The schema of a document, without room for fields that it does not name."""
    schema = documents.schema(name)
    for part in (schema, *schema.get("$defs", {}).values()):
        if "properties" in part:
            part["additionalProperties"] = False
    return Draft202012Validator(schema)


def validate_what_is_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every command of this process validate what it prints."""
    real = output.print_json

    def validating(document: Mapping[str, Any], **options: Any) -> None:
        whole = {"format_version": documents.FORMAT_VERSION, **json.loads(json.dumps(document))}
        module = str(sys._getframe(1).f_globals["__name__"])
        name = "error" if "error" in whole else _COMMAND[module.removeprefix("lbctl.cli.")]
        faults = [error.message[:300] for error in validator(name).iter_errors(whole)]
        assert not faults, (name, faults)
        real(document, **options)

    monkeypatch.setattr(output, "print_json", validating)
