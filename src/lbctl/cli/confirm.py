"""`lbctl confirm`, and the process that reverts an unconfirmed trial."""

from __future__ import annotations

from typing import Annotated

import typer

from lbctl.cli.options import Config, Format, Output, Owner, Wait


def confirm(
    config: Config = None, owner: Owner = None, wait: Wait = 0.0, output: Output = Format.TEXT
) -> None:
    """Keep what apply --trial or migrate --trial changed."""
    from lbctl import engine
    from lbctl.cli.context import open_host
    from lbctl.cli.intents import context_of
    from lbctl.cli.output import print_json, say
    from lbctl.cli.work import settle, write_promised

    context = context_of(open_host(), owner, config)
    host, whose = context.host, context.owner
    settle(context, patience=wait)
    tried = engine.confirm(host, whose, patience=wait)
    write_promised(host, tried)
    left = tried.left(host)
    if output is Format.JSON:
        print_json({"owner": whose, "confirmed": True, "left": round(left, 3)})
    else:
        say(f"Confirmed ({left:.0f} s left).")


def watch_trial(owner: Annotated[str, typer.Argument()], ident: Annotated[str, typer.Argument()]) -> None:
    """Revert a trial in time unless it is confirmed. lbctl apply --trial starts this."""
    from lbctl import engine
    from lbctl.cli.context import open_host

    host = open_host()
    tried = engine.read_trial(host, owner)
    if tried is not None and tried.ident == ident:
        state = tried.before
        session = engine.open_session(
            host, backend=state.backend, driver=state.driver, allow_remap=state.allow_remap
        )
        session.need_privilege()
        engine.watch(session, owner, ident)
