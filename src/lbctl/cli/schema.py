"""`lbctl schema`."""

from __future__ import annotations

from typing import Annotated

import typer

from lbctl.cli.complete import complete_document


def schema(
    of: Annotated[
        str | None,
        typer.Option(
            "--of",
            metavar="NAME",
            help="Document whose schema to print: a command with --output json, e.g. plan; or error.",
            autocompletion=complete_document,
            show_default=False,
        ),
    ] = None,
) -> None:
    """Print the JSON Schema of the intent file or of a document."""
    import json

    from lbctl import documents
    from lbctl.config import json_schema
    from lbctl.errors import IntentError

    if of is not None and of not in documents.NAMES:
        raise IntentError(f'there is no document "{of}"', hint=f"one of {', '.join(documents.NAMES)}")
    print(json.dumps(json_schema() if of is None else documents.schema(of), indent=2))
