"""`lbctl activate`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbctl.cli.fleet import ForFleet, Sign
from lbctl.cli.operator import Endpoints
from lbctl.cli.options import Color, Colors, Config, Format, IgnoreHealth, Output, Owner, Yes

if TYPE_CHECKING:
    from collections.abc import Iterator

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

    if fleet:
        from lbctl.cli.publication import Publishing, override

        override(endpoints, Publishing(config=config, sign=sign, yes=yes, output=output), drain=False)
        return
    context = context_of(open_host(), owner, config, announced=False)
    session = operator.session_for_owner(context, ignore_health=ignore_health)
    operation = engine.activate(session, context.owner, endpoints)
    operator.conclude(operation, _report, yes=yes, output=output, color=color)


def _report(operation: Operation) -> Iterator[str]:
    from lbctl.model import State

    for target in operation.targets:
        drained = target.before is not None and target.before.drained
        if target.endpoint is None:
            yield f"Ended the unused drain of {target}."
        elif target.endpoint.state is State.DRAIN:
            ended = "Ended the drain by command, but the" if drained else "The"
            yield f'{target}: {ended} applied intent file says state = "drain"; change it there and apply it.'
        elif drained:
            yield f"{target} is in rotation again: {target.endpoint.state} in the applied intent."
        else:
            yield f"{target} was not drained by command: {target.endpoint.state} in the applied intent."
