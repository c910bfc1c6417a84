"""`lbctl activate`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from lbctl.cli.fleet import ForFleet, Sign
from lbctl.cli.operator import Endpoints
from lbctl.cli.options import Color, Colors, Config, Format, IgnoreHealth, Output, Owner, Yes

if TYPE_CHECKING:
    from lbctl.engine import Operation


def activate(
    endpoints: Endpoints,
    fleet: ForFleet = False,
    sign: Sign = None,
    config: Config = None,
    owner: Owner = None,
    yes: Yes = False,
    ignore_health: IgnoreHealth = False,
    output: Output = Format.TEXT,
    color: Colors = Color.AUTO,
) -> None:
    """End lbctl drain for endpoints.

    They return to what the applied intent says. A drain in the intent file (state = "drain") stays, and so
    does a weight that was set by command.
    """
    from lbctl import engine
    from lbctl.cli import operator
    from lbctl.cli.context import open_host
    from lbctl.cli.intents import context_of
    from lbctl.cli.output import print_json, say

    if fleet:
        from lbctl.cli.publication import Publishing, override

        override(endpoints, Publishing(config=config, sign=sign, yes=yes, output=output), drain=False)
        return
    context = context_of(open_host(), owner, config, announced=False)
    session = operator.session_for_owner(context, ignore_health=ignore_health)
    operation = engine.activate(session, context.owner, endpoints)
    agreed = operator.carry_out(operation, yes=yes, data=output is Format.JSON, color=color)
    if agreed:
        _report(operation)
    else:
        say("Nothing was changed.")
    if output is Format.JSON:
        print_json(operator.document(operation, applied=agreed))
    if not agreed:
        raise typer.Exit(1)


def _report(operation: Operation) -> None:
    from lbctl.cli.output import say
    from lbctl.model import State

    for target in operation.targets:
        drained = target.before is not None and target.before.drained
        if target.endpoint is None:
            say(f"Ended the unused drain of {target}.")
        elif target.endpoint.state is State.DRAIN:
            ended = "Ended the drain by command, but the" if drained else "The"
            say(f'{target}: {ended} applied intent file says state = "drain"; change it there and apply it.')
        elif drained:
            say(f"{target} is in rotation again: {target.endpoint.state} in the applied intent.")
        else:
            say(f"{target} was not drained by command: {target.endpoint.state} in the applied intent.")
