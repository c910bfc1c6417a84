"""`lbctl history`."""

from __future__ import annotations

from lbctl.cli.options import Config, Format, Output, Owner


def history(config: Config = None, owner: Owner = None, output: Output = Format.TEXT) -> None:
    """List what was applied: when, by whom, in which backend."""
    from lbctl import engine
    from lbctl.cli.output import print_json, say, table
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
            for e in found
        ]
        print(table([head, *rows], right=frozenset({0, 5})))
    else:
        print(f'Nothing was applied here for owner "{whose}".')
