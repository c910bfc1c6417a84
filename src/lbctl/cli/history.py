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
    from lbctl.cli.status_text import width
    from lbctl.cli.work import mention_unsettled, owner_of
    from lbctl.documents.history import history as document
    from lbctl.host import LocalHost

    if export and number is not None:
        raise IntentError("--export prints every state: give it or a number")
    whose = owner_of(owner, config, announced=number is None)
    host = LocalHost()
    found = engine.entries(host, whose) if number is None else (engine.state(host, whose, number),)
    unsettled = mention_unsettled(whose, data=number is not None or export or output is Format.JSON)
    for line in engine.damaged(host, whose):
        say(f"{line}.")
    if output is Format.JSON or export:
        print_json(document(whose, found, unsettled, intents=export or number is not None))
    elif number is not None:
        say(f"{str(found[0]).capitalize()}.")
        print(found[0].text, end="")
    elif found:
        print(_table(found, width()))
    else:
        print(f'Nothing was applied here for owner "{whose}".')


#: How a trial is shown that a later command found to be over, but did not see end.
_TRIALS = {
    "running": "trial",
    "confirmed": "trial, confirmed",
    "reverted": "trial, reverted",
    "failed": "trial, not reverted",
}
#: Columns that are left out on a narrow terminal, one after the other.
_LESS = ("digest", "driver", "services", "before")


def _table(entries: Sequence[HistoryEntry], columns: int) -> str:
    from lbctl.cli.output import table

    rows = [_row(entry) for entry in entries]
    heads = dict.fromkeys(rows[0])
    for less in ("", *_LESS):
        heads.pop(less, None)
        right = frozenset(place for place, name in enumerate(heads) if name in {"number", "services"})
        text = table([list(heads), *([row[name] for name in heads] for row in rows)], right=right)
        if max(map(len, text.splitlines())) <= columns:
            break
    return text


def _row(entry: HistoryEntry) -> dict[str, str]:
    before = {None: "unknown", 0: "nothing"}.get(entry.parent, str(entry.parent))
    return {
        "number": str(entry.number),
        "time": entry.time.removesuffix("+00:00") + "Z",
        "user": entry.user,
        "action": entry.action + (f" ({_TRIALS[entry.trial]})" if entry.trial is not None else ""),
        "backend": entry.backend,
        "driver": entry.driver,
        "services": str(entry.services),
        "before": before,
        "digest": entry.digest[:12],
    }
