"""`lbctl history`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from lbctl.cli.options import Config, Format, Output, Owner
from lbctl.errors import IntentError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lbctl.engine import HistoryEntry


def history(
    number: Annotated[
        int | None,
        typer.Argument(metavar="NUMBER", help="Print the intent of this state.", show_default=False),
    ] = None,
    export: Annotated[
        bool, typer.Option("--export", help="Print all states with their intents as one JSON document.")
    ] = False,
    config: Config = None,
    owner: Owner = None,
    output: Output = Format.TEXT,
) -> None:
    """List what was applied: when, by whom, in which backend.

    With a number, print the intent of that state as an intent file.
    """
    from lbctl import engine
    from lbctl.cli.output import print_json, say
    from lbctl.cli.work import mention_unsettled, owner_of
    from lbctl.documents.history import history as document
    from lbctl.host import LocalHost

    if export and number is not None:
        raise IntentError("--export prints every state: give it or a number")
    whose = owner_of(owner, config, announced=number is None)
    host = LocalHost()
    found = engine.entries(host, whose) if number is None else (engine.state(host, whose, number),)
    unsettled = mention_unsettled(whose)
    for line in engine.damaged(host, whose):
        say(f"{line}.")
    if output is Format.JSON or export:
        print_json(document(whose, found, unsettled, intents=export or number is not None))
    elif number is not None:
        say(f"{str(found[0]).capitalize()}.")
        print(found[0].text, end="")
    elif found:
        print(_table(found))
    else:
        print(f'Nothing was applied here for owner "{whose}".')


def _table(entries: Sequence[HistoryEntry]) -> str:
    from lbctl.cli.output import table

    head = ("number", "time", "user", "action", "backend", "services", "before", "digest")
    rows = [
        (
            str(e.number),
            e.time,
            e.user,
            e.action,
            f"{e.backend} ({e.driver})",
            str(e.services),
            "unknown" if e.parent is None else "nothing" if e.parent == 0 else str(e.parent),
            e.digest[:12],
        )
        for e in entries
    ]
    return table([head, *rows], right=frozenset({0, 5}))
