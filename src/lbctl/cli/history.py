"""`lbctl history`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from lbctl.cli.options import Config, Format, Output, Owner
from lbctl.errors import IntentError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lbctl.engine import Difference, HistoryEntry


def history(
    number: Annotated[
        int | None,
        typer.Argument(metavar="NUMBER", help="Print the intent of this state.", show_default=False),
    ] = None,
    diff: Annotated[
        bool,
        typer.Option("--diff", help="Print what that state changed, or without a number the last one."),
    ] = False,
    export: Annotated[
        bool, typer.Option("--export", help="Print all states with their intents as one JSON document.")
    ] = False,
    health: Annotated[
        bool,
        typer.Option("--health", help="Print how checks and operators changed shares, from the agent's log."),
    ] = False,
    config: Config = None,
    owner: Owner = None,
    output: Output = Format.TEXT,
) -> None:
    """List what was applied: when, by whom, in which backend.

    With a number, print the intent of that state as an intent file, or with --diff what it changed. With
    --health, print which checks changed the shares of which endpoints while an agent ran.
    """
    from lbctl import engine
    from lbctl.cli.context import open_host
    from lbctl.cli.intents import context_of
    from lbctl.cli.output import print_json, say
    from lbctl.cli.status_text import width
    from lbctl.cli.work import mention_unsettled
    from lbctl.documents.history import difference as difference_document, history as document

    if export and (diff or number is not None):
        raise IntentError("--export prints every state: leave out the number and --diff")
    if health and (export or diff or number is not None):
        raise IntentError("--health prints what the agent noted: leave out the number, --diff and --export")
    context = context_of(open_host(), owner, config, announced=number is None)
    host, whose = context.host, context.owner
    if health:
        from lbctl.cli.replay import print_recorded

        print_recorded(host, whose, output)
        return
    found = engine.entries(host, whose) if number is None else (engine.state(host, whose, number),)
    found = found[-1:] if diff else found
    unsettled = mention_unsettled(context, data=number is not None or export or output is Format.JSON)
    for line in engine.damaged(host, whose):
        say(f"{line}.")
    changed = engine.difference(host, whose, found[0]) if diff and found else None
    if output is Format.JSON or export:
        made = document(whose, found, unsettled, intents=export or number is not None)
        if changed is not None:
            made["diff"] = difference_document(changed)
        print_json(made)
    elif changed is not None:
        print("\n".join(_difference_lines(changed)))
    elif number is not None:
        from lbctl.cli.differences import sentence

        say(f"{sentence(str(found[0]))}.")
        print(found[0].text, end="")
    elif found:
        print(_table(found, width()))
    else:
        print(f'Nothing was applied here for owner "{whose}".')


def _difference_lines(changed: Difference) -> Iterator[str]:
    """What a state changed: services that were added or removed, and the keys of the others."""
    from lbctl.cli.changes import change_rows
    from lbctl.cli.differences import sentence, service_lines
    from lbctl.cli.output import table

    before = f"number {changed.before.number}" if changed.before.number else "the host without services"
    yield f"{sentence(str(changed.after))}, compared with {before}:"
    if not changed.changes and not changed.services:
        yield "No key of the intent changed."
    if changed.changes:
        yield table(change_rows(changed.changes), indent="  ")
    yield from service_lines(changed.services)


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
        "action": entry.action + (f": {_TRIALS[entry.trial]}" if entry.trial is not None else ""),
        "backend": entry.backend,
        "driver": entry.driver,
        "services": str(entry.services),
        "before": before,
        "digest": entry.digest[:12],
    }
