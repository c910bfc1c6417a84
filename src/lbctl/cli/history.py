"""`lbctl history`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbctl.cli.options import Config, Format, Output, Owner

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lbctl.engine import HistoryEntry


def history(config: Config = None, owner: Owner = None, output: Output = Format.TEXT) -> None:
    """List what was applied: when, by whom, in which backend."""
    from lbctl import engine
    from lbctl.cli.output import print_json, say
    from lbctl.cli.status_text import width
    from lbctl.cli.work import mention_unsettled, owner_of
    from lbctl.documents.history import history as document
    from lbctl.host import LocalHost

    whose = owner_of(owner, config)
    found = engine.entries(LocalHost(), whose)
    unsettled = mention_unsettled(whose, data=output is Format.JSON)
    for line in engine.damaged(LocalHost(), whose):
        say(f"{line}.")
    if output is Format.JSON:
        print_json(document(whose, found, unsettled))
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
        "action": entry.action + (f": {_TRIALS[entry.trial]}" if entry.trial is not None else ""),
        "backend": entry.backend,
        "driver": entry.driver,
        "services": str(entry.services),
        "before": before,
        "digest": entry.digest[:12],
    }
