"""`lbctl schema`."""

from __future__ import annotations


def schema() -> None:
    """Print the JSON Schema of the intent file, for editors and validators."""
    import json

    from lbctl.config import json_schema

    print(json.dumps(json_schema(), indent=2))
