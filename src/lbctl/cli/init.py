"""`lbctl init`."""

from __future__ import annotations

from typing import Annotated

import typer


def init(
    listen: Annotated[
        list[str],
        typer.Option(
            "--listen", metavar="[ADDRESS:]PORT/PROTOCOL", help="Where clients connect, e.g. 80/tcp."
        ),
    ],
    to: Annotated[
        list[str],
        typer.Option(
            "--to", metavar="PORTS or ADDRESS:PORT", help="Endpoints, e.g. 8001-8003 or 10.0.0.1:80."
        ),
    ],
    name: Annotated[str, typer.Option("--name", metavar="NAME", help="Name of the service.")] = "web",
) -> None:
    """Print an intent file for one service; redirect it to lbctl.toml."""
    import json

    from lbctl.config import SCHEMA_ID, dump, loads
    from lbctl.errors import IntentError

    document = {
        "schema": 1,
        "service": [
            {"name": name, "listen": listen, "endpoints": [x.strip() for t in to for x in t.split(",")]}
        ],
    }
    # Read like any file, so that a mistake gets the same words.
    try:
        intent = loads(json.dumps(document), file="<command line>")
    except IntentError as error:
        # File and line are those of a text that the user never sees.
        first, *_ = error.problems
        raise IntentError(first.message, hint=first.hint) from None
    # Editors with a TOML language server then complete and check its keys.
    print(f"#:schema {SCHEMA_ID}\n{dump(intent)}", end="")
